/* See fields.h. */
#include "checkpoint/fields.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *field_describe(const struct json *v, char *text, size_t size) {
    if (!v) return "nothing";
    switch (v->type) {
    case JSON_NULL: return "null";
    case JSON_BOOL: return v->boolean ? "true" : "false";
    case JSON_NUMBER:
        if (v->is_integer) snprintf(text, size, "%lld", (long long)v->integer);
        else snprintf(text, size, "%g", v->number);
        return text;
    case JSON_STRING: snprintf(text, size, "\"%.40s\"%s", v->string, v->count > 40 ? "..." : ""); return text;
    case JSON_ARRAY: snprintf(text, size, "a list of %u", v->count); return text;
    case JSON_OBJECT: return "an object";
    }
    return "?";
}

static const struct json *member(const struct fields *f, const char *key) {
    const struct json *v = json_get(f->object, key);
    return v && v->type == JSON_NULL ? NULL : v;
}

static int refuse(const struct fields *f, const char *key, const char *expected, const struct json *found, struct err *err) {
    char text[64];
    return err_set(err, found ? ERR_FORMAT : ERR_MISSING, "%s: %s%s: expected %s, found %s", f->file, f->prefix, key, expected,
                   field_describe(found, text, sizeof text));
}

int field_int64(const struct fields *f, const char *key, bool required, int64_t low, int64_t high, int64_t *out,
                struct err *err) {
    const struct json *v = member(f, key);
    if (!v && !required) return 0;
    int64_t value = json_as_integer(v, INT64_MIN);
    if (!v || v->type != JSON_NUMBER || value == INT64_MIN || value < low || value > high) {
        char expected[96];
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)low, (long long)high);
        return refuse(f, key, expected, v, err);
    }
    *out = value;
    return 0;
}

int field_int(const struct fields *f, const char *key, bool required, int64_t low, int64_t high, int *out, struct err *err) {
    int64_t value = *out;
    int code = field_int64(f, key, required, low, high, &value, err);
    if (code == 0) *out = (int)value;
    return code;
}

int field_number(const struct fields *f, const char *key, bool required, double low, double high, double *out, struct err *err) {
    const struct json *v = member(f, key);
    if (!v && !required) return 0;
    double value = json_as_number(v, NAN);
    if (!(value >= low && value <= high)) {
        char expected[96];
        snprintf(expected, sizeof expected, "a number from %g to %g", low, high);
        return refuse(f, key, expected, v, err);
    }
    *out = value;
    return 0;
}

int field_float(const struct fields *f, const char *key, bool required, double low, double high, float *out, struct err *err) {
    double value = (double)*out;
    int code = field_number(f, key, required, low, high, &value, err);
    if (code == 0) *out = (float)value;
    return code;
}

int field_bool(const struct fields *f, const char *key, bool *out, struct err *err) {
    const struct json *v = member(f, key);
    if (!v) return 0;
    if (v->type != JSON_BOOL) return refuse(f, key, "true or false", v, err);
    *out = v->boolean;
    return 0;
}

int field_must_be(const struct fields *f, const char *key, const char *expected, struct err *err) {
    const struct json *v = member(f, key);
    if (!v || (v->type == JSON_STRING && strcmp(v->string, expected) == 0)) return 0;
    char text[96];
    snprintf(text, sizeof text, "\"%s\"", expected);
    return refuse(f, key, text, v, err);
}

int field_object(const struct fields *f, const char *key, const char *prefix, bool required, struct fields *out,
                 struct err *err) {
    const struct json *v = member(f, key);
    *out = (struct fields){f->file, prefix, v};
    if ((!v && required) || (v && v->type != JSON_OBJECT)) return refuse(f, key, "an object", v, err);
    return 0;
}
