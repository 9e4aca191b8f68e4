/* A growing byte buffer for building text: append, then use data (always NUL-terminated once non-empty).
 * After an allocation failure `failed` stays set and appends do nothing, so callers check once at the end. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *data;
    size_t len, cap;
    bool failed;
};

bool buf_reserve(struct buf *b, size_t more);
void buf_append(struct buf *b, const void *data, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_char(struct buf *b, char c);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Appends s as a JSON string with quotes; invalid UTF-8 bytes become U+FFFD, so the result is always valid JSON. */
void buf_json_string(struct buf *b, const char *s, size_t n);
/* Appends a JSON number that reads back to the same double; NaN and infinities become null. */
void buf_json_number(struct buf *b, double v);
void buf_clear(struct buf *b); /* keeps the memory */
void buf_free(struct buf *b);

#endif
