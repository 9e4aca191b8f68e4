/* A scanner over JSON text for the two huge members of tokenizer.json (vocab, merges): no tree, no copies. Everything else
 * in that file goes through base/json.h. Private to this room. */
#ifndef TEXT_JSON_SCAN_H
#define TEXT_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_scan {
    const char *at, *end;
};

/* Skips white space, then the character c; false (at unchanged but for the space) when something else comes. */
bool scan_char(struct json_scan *s, char c);
/* The next character after white space without taking it; 0 at the end. */
char scan_peek(struct json_scan *s);
/* A non-negative integer without fraction or exponent, at most 2^31 - 1. */
bool scan_integer(struct json_scan *s, int32_t *out);
/* A string, decoded: escapes resolved, UTF-8 checked. The whole text goes to out (room for out_cap bytes); false when it is
 * malformed or too long. If it consists of characters of the byte-level alphabet, their bytes are written instead and
 * *byte_level is set. split: a single space is allowed and its position in out goes to *space (SIZE_MAX when there is none), so
 * that "a b" of a merge list can be read; out then holds the bytes of both sides with nothing between. */
bool scan_piece(struct json_scan *s, char *out, size_t out_cap, size_t *length, bool *byte_level, bool split, size_t *space);
/* Skips any value without judging it beyond its brackets and strings; false when it does not end. */
bool scan_skip(struct json_scan *s);

#endif
