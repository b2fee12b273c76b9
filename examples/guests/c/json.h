// As much of JSON (RFC 8259) as it takes to read one string of an object.

#ifndef JSON_H
#define JSON_H

// The string member of that name, of the object that the text is; of several
// with that name, the last. NULL where the text is anything else. Strings are
// decoded where they are, so that the text is worthless afterwards.
char *json_string_member(char *text, const char *name);

#endif
