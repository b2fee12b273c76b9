#include "json.h"
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

// How deeply arrays and objects may be nested: the stack is not without end.
static const int MAX_DEPTH = 64;

// Each of these takes something off the text and returns true, or false where
// the text is something else.

static bool take(char **text, char wanted) {
  if (**text != wanted) {
    return false;
  }
  ++*text;
  return true;
}

static bool take_word(char **text, const char *word) {
  size_t length = strlen(word);
  if (strncmp(*text, word, length) != 0) {
    return false;
  }
  *text += length;
  return true;
}

static bool take_digits(char **text) {
  size_t length = strspn(*text, "0123456789");
  *text += length;
  return length > 0;
}

static void skip_space(char **text) { *text += strspn(*text, " \t\n\r"); }

static bool take_number(char **text) {
  take(text, '-');
  // Nothing follows a zero at the front: whoever comes next refuses it.
  if (!take(text, '0') && !take_digits(text)) {
    return false;
  }
  if (take(text, '.') && !take_digits(text)) {
    return false;
  }
  if (take(text, 'e') || take(text, 'E')) {
    if (!take(text, '+')) {
      take(text, '-');
    }
    return take_digits(text);
  }
  return true;
}

static bool take_hex(char **text, unsigned *value) {
  static const char digits[] = "0123456789abcdef0123456789ABCDEF";
  *value = 0;
  for (int i = 0; i < 4; i++) {
    const char *digit = **text == '\0' ? NULL : strchr(digits, **text);
    if (digit == NULL) {
      return false;
    }
    *value = *value << 4 | ((unsigned)(digit - digits) & 15);
    ++*text;
  }
  return true;
}

// What follows \u. In UTF-8 it is never longer than its escape.
static bool take_code_point(char **text, char **end) {
  unsigned code;
  if (!take_hex(text, &code)) {
    return false;
  }
  if (code >= 0xD800 && code < 0xDC00) {
    char *next = *text;
    unsigned low;
    if (take_word(&next, "\\u") && take_hex(&next, &low) && low >= 0xDC00 &&
        low < 0xE000) {
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      *text = next;
    }
  }
  // What UTF-8 has no bytes for, or a string of C no place.
  if ((code >= 0xD800 && code < 0xE000) || code == 0) {
    code = 0xFFFD;
  }
  int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  // The first byte tells how many follow, by as many ones at its front.
  static const unsigned char first[] = {0x00, 0xC0, 0xE0, 0xF0};
  *(*end)++ = (char)(first[more] | code >> 6 * more);
  while (more-- > 0) {
    *(*end)++ = (char)(0x80 | (code >> 6 * more & 0x3F));
  }
  return true;
}

static bool take_string(char **text) {
  static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
  if (!take(text, '"')) {
    return false;
  }
  char *end = *text;
  while (!take(text, '"')) {
    if (take(text, '\\')) {
      const char *escape = **text == '\0' ? NULL : strchr(escapes, **text);
      if (escape != NULL) {
        *end++ = meanings[escape - escapes];
        ++*text;
      } else if (!take(text, 'u') || !take_code_point(text, &end)) {
        return false;
      }
    } else if ((unsigned char)**text < ' ') {
      return false; // the end of the text is one of these
    } else {
      *end++ = *(*text)++;
    }
  }
  *end = '\0';
  return true;
}

static bool take_value(char **text, int depth);

// An array, or an object. Of an object, the string of that name is found, if
// there is a name.
static bool take_values(char **text, int depth, const char *name,
                        char **found) {
  bool is_object = take(text, '{');
  char closing = is_object ? '}' : ']';
  if (!is_object && !take(text, '[')) {
    return false;
  }
  skip_space(text);
  if (take(text, closing)) {
    return true;
  }
  do {
    skip_space(text);
    if (is_object) {
      const char *member = *text + 1;
      if (!take_string(text)) {
        return false;
      }
      bool wanted = name != NULL && strcmp(member, name) == 0;
      skip_space(text);
      if (!take(text, ':')) {
        return false;
      }
      skip_space(text);
      if (wanted) {
        *found = **text == '"' ? *text + 1 : NULL;
      }
    }
    if (!take_value(text, depth)) {
      return false;
    }
    skip_space(text);
  } while (take(text, ','));
  return take(text, closing);
}

static bool take_value(char **text, int depth) {
  switch (**text) {
  case '{':
  case '[':
    return depth < MAX_DEPTH && take_values(text, depth + 1, NULL, NULL);
  case '"':
    return take_string(text);
  case 't':
    return take_word(text, "true");
  case 'f':
    return take_word(text, "false");
  case 'n':
    return take_word(text, "null");
  default:
    return take_number(text);
  }
}

char *json_string_member(char *text, const char *name) {
  char *found = NULL;
  skip_space(&text);
  if (*text != '{' || !take_values(&text, 1, name, &found)) {
    return NULL;
  }
  skip_space(&text);
  return *text == '\0' ? found : NULL;
}
