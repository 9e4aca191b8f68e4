/* JSON documents as a tree in an arena, parsed by yajl (strict RFC 8259, UTF-8 checked) with a depth limit and
 * duplicate keys refused: input comes from files and networks. Writing: buf_json_string / buf_json_number. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_type type;
    bool boolean;
    bool is_integer; /* the number was written without fraction or exponent and fits an int64 */
    uint32_t count;  /* elements of an array, members of an object, bytes of a string */
    union {
        double number;
        int64_t integer;      /* valid when is_integer */
        const char *string;   /* NUL-terminated; count bytes (may hold NULs) */
        struct json **items;  /* array */
        struct json_member *members;
    };
};

struct json_member {
    const char *key;
    uint32_t key_len;
    struct json *value;
};

enum { JSON_MAX_DEPTH = 128 };

/* Parses text of len bytes; the tree lives in a. what names the document in errors (a file name, "request body"). */
const struct json *json_parse(const char *text, size_t len, const char *what, struct arena *a, struct err *err);
/* Reads and parses a file of at most limit bytes. */
const struct json *json_parse_file(const char *path, size_t limit, struct arena *a, struct err *err);

/* Member of an object, NULL when absent or when obj is NULL or no object. */
const struct json *json_get(const struct json *obj, const char *key);
double json_as_number(const struct json *v, double otherwise);
int64_t json_as_integer(const struct json *v, int64_t otherwise); /* otherwise too for fractions and overflow */
bool json_as_bool(const struct json *v, bool otherwise);
const char *json_as_string(const struct json *v, const char *otherwise);

#endif
