#include "names.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

// Both in the order of WIT, which the numbers are.

static const char *const causes[] = {
    "invalid-request",
    "unsupported",
    "not-configured",
    "denied",
    "identity-not-found",
    "identity-ambiguous",
    "identity-mismatch",
    "audience-not-found",
    "endpoint-unreachable",
    "endpoint-intercepted",
    "credential-unreadable",
    "credential-rejected",
    "throttled",
    "platform-updating",
    "platform-failure",
    "malformed-reply",
    "token-rejected",
    "deadline-exceeded",
    "internal",
};
_Static_assert(LENGTH(causes) == CLOUD_IDENTITY_TYPES_CAUSE_INTERNAL + 1,
               "each cause has a name");

static const char *const error_codes[] = {
    "DNS-timeout",
    "DNS-error",
    "destination-not-found",
    "destination-unavailable",
    "destination-IP-prohibited",
    "destination-IP-unroutable",
    "connection-refused",
    "connection-terminated",
    "connection-timeout",
    "connection-read-timeout",
    "connection-write-timeout",
    "connection-limit-reached",
    "TLS-protocol-error",
    "TLS-certificate-error",
    "TLS-alert-received",
    "HTTP-request-denied",
    "HTTP-request-length-required",
    "HTTP-request-body-size",
    "HTTP-request-method-invalid",
    "HTTP-request-URI-invalid",
    "HTTP-request-URI-too-long",
    "HTTP-request-header-section-size",
    "HTTP-request-header-size",
    "HTTP-request-trailer-section-size",
    "HTTP-request-trailer-size",
    "HTTP-response-incomplete",
    "HTTP-response-header-section-size",
    "HTTP-response-header-size",
    "HTTP-response-body-size",
    "HTTP-response-trailer-section-size",
    "HTTP-response-trailer-size",
    "HTTP-response-transfer-coding",
    "HTTP-response-content-coding",
    "HTTP-response-timeout",
    "HTTP-upgrade-failed",
    "HTTP-protocol-error",
    "loop-detected",
    "configuration-error",
    "internal-error",
};
_Static_assert(LENGTH(error_codes) == HTTP_ERROR_CODE_INTERNAL_ERROR + 1,
               "each error code has a name");

const char *cause_name(cloud_identity_types_cause_t cause) {
  return causes[cause];
}

const char *error_code_name(const http_error_code_t *code) {
  return error_codes[code->tag];
}
