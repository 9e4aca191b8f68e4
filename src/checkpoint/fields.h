/* Typed reading of JSON members from untrusted files: every value is range-checked, and a refusal names the file, the
 * path of the field, what was expected and what was found. Private to this room. */
#ifndef CHECKPOINT_FIELDS_H
#define CHECKPOINT_FIELDS_H

#include "base/err.h"
#include "base/json.h"

/* One object inside a file: prefix is its path ("text_config."), empty at the top. */
struct fields {
    const char *file;
    const char *prefix;
    const struct json *object;
};

/* A short spelling of v for error messages, cut to size bytes; "nothing" for NULL. */
const char *field_describe(const struct json *v, char *text, size_t size);

/* Each reads member `key` within [low, high]. A member that is absent or null leaves *out as it is and succeeds, unless
 * required. */
int field_int(const struct fields *f, const char *key, bool required, int64_t low, int64_t high, int *out, struct err *err);
int field_int64(const struct fields *f, const char *key, bool required, int64_t low, int64_t high, int64_t *out, struct err *err);
int field_number(const struct fields *f, const char *key, bool required, double low, double high, double *out, struct err *err);
int field_float(const struct fields *f, const char *key, bool required, double low, double high, float *out, struct err *err);
int field_bool(const struct fields *f, const char *key, bool *out, struct err *err);
/* The member must be absent or equal to the given string. */
int field_must_be(const struct fields *f, const char *key, const char *expected, struct err *err);
/* A member that is an object, or absent (object NULL). */
int field_object(const struct fields *f, const char *key, const char *prefix, bool required, struct fields *out, struct err *err);

#endif
