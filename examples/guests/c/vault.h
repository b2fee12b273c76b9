// A vault that answers as Azure Key Vault does ("Get Secret", REST API 7.4).

#ifndef VAULT_H
#define VAULT_H

#include "wit.h"
#include <stdbool.h>
#include <stdint.h>

struct vault {
  http_scheme_t scheme;
  wit_string_t authority; // part of the URL
};

// What a vault answers, or why it does not. All zero, it is neither.
struct answer {
  uint16_t status;
  char *claims;        // what it wants a token to prove, if it says so
  char *body;          // of status 200 only
  const char *failure; // without an answer: the name of what went wrong
};

// Takes a URL apart. False when there is more in it than a scheme and an
// authority, or less.
bool vault_parse(const char *url, struct vault *vault);

// Asks for a secret. False when there is no answer, or only a part of one.
// The answer is to be freed in any case.
bool vault_get(const struct vault *vault, const char *name,
               const cloud_identity_types_access_token_t *token,
               struct answer *answer);

void answer_free(struct answer *answer);

#endif
