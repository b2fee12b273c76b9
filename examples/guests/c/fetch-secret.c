// fetch-secret VAULT-URL SECRET reads a secret of a vault, and tells as whom.
//
// It holds no credential and cannot reach the endpoint that gives tokens: it
// imports cloud:identity, and whoever runs it decides what it gets.

#include "json.h"
#include "names.h"
#include "vault.h"
#include "wit.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A string of WIT has a length and no 0 behind it. These two are for "%.*s".
#define TEXT(string) (int)(string).len, (const char *)(string).ptr

// A token, and what it says of itself. All zero, it is none.
struct credential {
  cloud_identity_types_access_token_t token;
  cloud_identity_token_claims_claims_t claims;
};

static void credential_free(struct credential *credential) {
  cloud_identity_types_access_token_free(&credential->token);
  cloud_identity_token_claims_claims_free(&credential->claims);
  *credential = (struct credential){0};
}

// Says what went wrong, and returns false.
__attribute__((format(printf, 1, 2))) static bool fail(const char *format,
                                                       ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("error: ", stderr);
  vfprintf(stderr, format, arguments);
  fputs("\n", stderr);
  va_end(arguments);
  return false;
}

// Gets a token for vaults. A refusal is what a vault answered to the one that
// is there, which this one replaces; the first time, there is none.
static bool get_credential(struct credential *credential,
                           const struct answer *refusal) {
  cloud_identity_types_token_request_t request = {
      .identity.tag = CLOUD_IDENTITY_TYPES_IDENTITY_PLATFORM_DEFAULT,
      .timeout_ms = {.is_some = true, .val = 30000},
  };
  wit_string_set(&request.audience, "https://vault.azure.net");
  if (refusal != NULL) {
    request.rejected_token.is_some = true;
    request.rejected_token.val = credential->token.token;
    if (refusal->claims != NULL) {
      request.claims.is_some = true;
      wit_string_set(&request.claims.val, refusal->claims);
    }
  }

  cloud_identity_types_access_token_t token;
  cloud_identity_types_error_t error;
  bool ok = cloud_identity_managed_identity_get_token(&request, &token, &error);
  // The request had the old one on loan.
  credential_free(credential);
  if (!ok) {
    if (error.retry_after_ms.is_some) {
      fail("%s: %.*s (again in %" PRIu32 " ms)", cause_name(error.cause),
           TEXT(error.message), error.retry_after_ms.val);
    } else {
      fail("%s: %.*s", cause_name(error.cause), TEXT(error.message));
    }
    cloud_identity_types_error_free(&error);
    return false;
  }
  credential->token = token;

  cloud_identity_token_claims_claims_t claims;
  if (!cloud_identity_token_claims_decode(&token.token, &claims, &error)) {
    fail("claims: %s: %.*s", cause_name(error.cause), TEXT(error.message));
    cloud_identity_types_error_free(&error);
    return false;
  }
  credential->claims = claims;
  return true;
}

// Asks the vault for a secret. What it answers, is for the caller to judge.
static bool get_secret(const struct vault *vault, const char *name,
                       const struct credential *credential,
                       struct answer *answer) {
  answer_free(answer);
  return vault_get(vault, name, &credential->token, answer) ||
         fail("vault: no answer: %s", answer->failure);
}

static void print_claim(const char *label, const wit_option_string_t *claim) {
  if (claim->is_some && claim->val.len > 0) {
    printf("%s: %.*s\n", label, TEXT(claim->val));
  } else {
    printf("%s: -\n", label);
  }
}

static void print(const char *name, const struct credential *credential) {
  const cloud_identity_token_claims_claims_t *claims = &credential->claims;
  printf("secret: %.*s\n", (int)strcspn(name, "/"), name);
  printf("from: %.*s\n", TEXT(credential->token.source));
  printf("audience: %s", claims->audiences.len == 0 ? "-" : "");
  for (size_t i = 0; i < claims->audiences.len; i++) {
    printf("%s%.*s", i == 0 ? "" : ", ", TEXT(claims->audiences.ptr[i]));
  }
  printf("\n");
  print_claim("tenant", &claims->tenant_id);
  print_claim("object", &claims->object_id);
  print_claim("application", &claims->application_id);
  printf("expires: %" PRIu64 "\n", credential->token.expires_on);
}

int main(int argc, char **argv) {
  struct vault vault;
  struct credential credential = {0};
  struct answer answer = {0};
  int status = EXIT_FAILURE;

  if (argc != 3) {
    fail("usage: fetch-secret VAULT-URL SECRET");
    goto done;
  }
  const char *url = argv[1], *name = argv[2];
  if (!vault_parse(url, &vault)) {
    fail("not the URL of a vault: %s", url);
    goto done;
  }

  if (!get_credential(&credential, NULL) ||
      !get_secret(&vault, name, &credential, &answer)) {
    goto done;
  }
  // A vault may refuse a token before it expires, for instance after a change
  // of policy. Another one may do.
  if (answer.status == 401 &&
      (!get_credential(&credential, &answer) ||
       !get_secret(&vault, name, &credential, &answer))) {
    goto done;
  }
  if (answer.status != 200) {
    fail("vault: status %d", answer.status);
    goto done;
  }

  const char *id = json_string_member(answer.body, "id");
  const char *secret = id == NULL ? NULL : strstr(id, "/secrets/");
  if (secret == NULL) {
    fail("vault: not a secret");
    goto done;
  }
  print(secret + strlen("/secrets/"), &credential);
  status = EXIT_SUCCESS;

done:
  answer_free(&answer);
  credential_free(&credential);
  return status;
}
