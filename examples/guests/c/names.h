// What WIT calls things that are numbers in C.

#ifndef NAMES_H
#define NAMES_H

#include "wit.h"

const char *cause_name(cloud_identity_types_cause_t cause);
const char *error_code_name(const http_error_code_t *code);

#endif
