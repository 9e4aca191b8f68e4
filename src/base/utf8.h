/* UTF-8 (Unicode 15, table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF). */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the valid sequence at s (1 to 4), 0 if it is cut short by n, -1 if it is invalid. */
int utf8_length(const char *s, size_t n);
/* Decodes the sequence at s, which utf8_length accepted. */
uint32_t utf8_decode(const char *s, int length);
/* Writes the 1 to 4 bytes of code point c to out; returns how many. */
int utf8_encode(uint32_t c, char out[4]);
/* Offset of the first invalid byte in s[0..n), or n when all is valid. */
size_t utf8_valid_prefix(const char *s, size_t n);

#endif
