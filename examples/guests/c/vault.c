// wasi:http from below: own handles are dropped by hand, and in the order that
// it wants, children before what they came from.

#include "vault.h"
#include "names.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// Much more than the largest secret.
static const size_t MAX_BODY = 1 << 20;

// As the generated code does, gives up where there is no memory.
static void *allocate(void *old, size_t size) {
  void *new = realloc(old, size);
  if (new == NULL) {
    abort();
  }
  return new;
}

static char *copy(const void *text, size_t length) {
  char *copy = memcpy(allocate(NULL, length + 1), text, length);
  copy[length] = '\0';
  return copy;
}

// Takes the code, and returns false.
static bool no_answer(struct answer *answer, http_error_code_t *code) {
  answer->failure = error_code_name(code);
  http_error_code_free(code);
  return false;
}

bool vault_parse(const char *url, struct vault *vault) {
  static const char https[] = "https://", http[] = "http://";
  if (strncmp(url, https, strlen(https)) == 0) {
    vault->scheme.tag = HTTP_SCHEME_HTTPS;
    url += strlen(https);
  } else if (strncmp(url, http, strlen(http)) == 0) {
    vault->scheme.tag = HTTP_SCHEME_HTTP;
    url += strlen(http);
  } else {
    return false;
  }
  wit_string_set(&vault->authority, url);
  wit_string_t *authority = &vault->authority;
  if (authority->len > 0 && authority->ptr[authority->len - 1] == '/') {
    authority->len--;
  }

  // A host and a port; a user in front would make it look like another one. The
  // rest of what an authority is, those know who will send the requests.
  static const char expected[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "abcdefghijklmnopqrstuvwxyz0123456789._-:[]";
  http_own_outgoing_request_t request =
      http_constructor_outgoing_request(http_constructor_fields());
  bool ok = strspn(url, expected) >= authority->len &&
            http_method_outgoing_request_set_authority(
                http_borrow_outgoing_request(request), authority);
  http_outgoing_request_drop_own(request);
  return ok;
}

static char *path_of(const char *name) {
  static const char before[] = "/secrets/", behind[] = "?api-version=7.4";
  // A character takes three when it is escaped.
  char *path = allocate(NULL, sizeof before + 3 * strlen(name) + sizeof behind);
  char *end = stpcpy(path, before);
  for (; *name != '\0'; name++) {
    bool as_it_is =
        isalnum((unsigned char)*name) || strchr("-._~", *name) != NULL;
    end += sprintf(end, as_it_is ? "%c" : "%%%02X", (unsigned char)*name);
  }
  stpcpy(end, behind);
  return path;
}

static bool add_header(http_own_fields_t headers, const char *name,
                       const char *value) {
  wit_string_t field;
  wit_string_set(&field, name);
  http_field_value_t content = {(uint8_t *)value, strlen(value)};
  http_header_error_t error;
  return http_method_fields_append(http_borrow_fields(headers), &field,
                                   &content, &error);
}

static bool make_request(const struct vault *vault, const char *name,
                         const cloud_identity_types_access_token_t *token,
                         http_own_outgoing_request_t *request) {
  size_t size = token->token_type.len + 1 + token->token.len + 1;
  char *authorization = allocate(NULL, size);
  snprintf(authorization, size, "%.*s %.*s", (int)token->token_type.len,
           (const char *)token->token_type.ptr, (int)token->token.len,
           (const char *)token->token.ptr);
  http_own_fields_t headers = http_constructor_fields();
  bool ok = add_header(headers, "authorization", authorization) &&
            add_header(headers, "accept", "application/json");
  free(authorization);

  *request = http_constructor_outgoing_request(headers);
  http_borrow_outgoing_request_t borrowed =
      http_borrow_outgoing_request(*request);
  http_scheme_t scheme = vault->scheme;
  wit_string_t authority = vault->authority;
  char *path_text = path_of(name);
  wit_string_t path;
  wit_string_set(&path, path_text);
  ok = ok && http_method_outgoing_request_set_scheme(borrowed, &scheme) &&
       http_method_outgoing_request_set_authority(borrowed, &authority) &&
       http_method_outgoing_request_set_path_with_query(borrowed, &path);
  free(path_text);
  if (!ok) {
    http_outgoing_request_drop_own(*request);
  }
  return ok;
}

static bool send_request(http_own_outgoing_request_t request,
                         http_own_incoming_response_t *response,
                         struct answer *answer) {
  wasi_http_outgoing_handler_own_future_incoming_response_t pending;
  http_error_code_t error;
  if (!wasi_http_outgoing_handler_handle(request, NULL, &pending, &error)) {
    return no_answer(answer, &error);
  }
  http_borrow_future_incoming_response_t borrowed =
      http_borrow_future_incoming_response(pending);
  http_own_pollable_t ready =
      http_method_future_incoming_response_subscribe(borrowed);
  wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(ready));
  wasi_io_poll_pollable_drop_own(ready);
  // It is ready, and nobody else has taken it: the outer results are good.
  http_result_result_own_incoming_response_error_code_void_t result;
  http_method_future_incoming_response_get(borrowed, &result);
  http_future_incoming_response_drop_own(pending);
  if (result.val.ok.is_err) {
    return no_answer(answer, &result.val.ok.val.err);
  }
  *response = result.val.ok.val.ok;
  return true;
}

// What is in claims="..." of a challenge, or NULL. The name has no case (RFC
// 9110, section 11.2), and may be the end of another one.
static char *claims_of(const http_field_value_t *challenge) {
  static const char name[] = "claims=\"";
  char *text = copy(challenge->ptr, challenge->len), *claims = NULL;
  char before = ' ';
  for (const char *at = text; *at != '\0' && claims == NULL; before = *at++) {
    bool goes_on = isalnum((unsigned char)before) || before == '_';
    if (!goes_on && strncasecmp(at, name, strlen(name)) == 0) {
      const char *start = at + strlen(name);
      size_t length = strcspn(start, "\"");
      if (start[length] == '"') {
        claims = copy(start, length);
      }
    }
  }
  free(text);
  return claims;
}

static void receive_claims(http_borrow_incoming_response_t response,
                           struct answer *answer) {
  http_own_headers_t headers = http_method_incoming_response_headers(response);
  wit_string_t name;
  wit_string_set(&name, "www-authenticate");
  http_list_field_value_t challenges;
  http_method_fields_get(http_borrow_fields(headers), &name, &challenges);
  for (size_t i = 0; i < challenges.len && answer->claims == NULL; i++) {
    answer->claims = claims_of(&challenges.ptr[i]);
  }
  http_list_field_value_free(&challenges);
  http_fields_drop_own(headers);
}

static bool read_body(wasi_io_streams_borrow_input_stream_t stream,
                      struct answer *answer) {
  size_t length = 0;
  answer->body = copy("", 0);
  // What is longer is cut off, and no JSON any more.
  while (length < MAX_BODY) {
    wit_list_u8_t chunk;
    wasi_io_streams_stream_error_t end;
    if (wasi_io_streams_method_input_stream_blocking_read(
            stream, MAX_BODY - length, &chunk, &end)) {
      answer->body = allocate(answer->body, length + chunk.len + 1);
      memcpy(answer->body + length, chunk.ptr, chunk.len);
      length += chunk.len;
      answer->body[length] = '\0';
      wit_list_u8_free(&chunk);
      continue;
    }
    if (end.tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED) {
      break;
    }
    http_error_code_t code;
    if (!http_http_error_code(
            wasi_io_error_borrow_error(end.val.last_operation_failed), &code)) {
      code.tag = HTTP_ERROR_CODE_HTTP_RESPONSE_INCOMPLETE;
    }
    wasi_io_streams_stream_error_free(&end);
    return no_answer(answer, &code);
  }
  return true;
}

static bool receive_body(http_borrow_incoming_response_t response,
                         struct answer *answer) {
  // Nobody else has taken these two.
  http_own_incoming_body_t body;
  http_method_incoming_response_consume(response, &body);
  http_own_input_stream_t stream;
  http_method_incoming_body_stream(http_borrow_incoming_body(body), &stream);
  bool ok = read_body(wasi_io_streams_borrow_input_stream(stream), answer);
  wasi_io_streams_input_stream_drop_own(stream);
  http_incoming_body_drop_own(body);
  return ok;
}

bool vault_get(const struct vault *vault, const char *name,
               const cloud_identity_types_access_token_t *token,
               struct answer *answer) {
  http_own_outgoing_request_t request;
  if (!make_request(vault, name, token, &request)) {
    answer->failure = "the request cannot be sent";
    return false;
  }
  http_own_incoming_response_t response;
  if (!send_request(request, &response, answer)) {
    return false;
  }
  http_borrow_incoming_response_t borrowed =
      http_borrow_incoming_response(response);
  answer->status = http_method_incoming_response_status(borrowed);
  receive_claims(borrowed, answer);
  bool ok = answer->status != 200 || receive_body(borrowed, answer);
  http_incoming_response_drop_own(response);
  return ok;
}

void answer_free(struct answer *answer) {
  free(answer->claims);
  free(answer->body);
  *answer = (struct answer){0};
}
