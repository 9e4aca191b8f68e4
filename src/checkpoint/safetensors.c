/* safetensors: u64 little-endian header length n, n bytes of JSON, then data (facts §2.2).
 *
 * A file is valid if and only if: 8 + n does not pass its end and n <= 100,000,000; the JSON is one object that begins at
 * once; every entry has a known dtype, a shape of rank <= 8 and [begin, end) with end - begin = elements * size of dtype
 * (checked products); names are unique; and the intervals, ordered, follow each other without gap or overlap from 0 to
 * exactly the end of the file. This is the rule of the reference implementation; in addition names with control characters are
 * refused, since they end up in terminals.
 *
 * The header is read with SAX callbacks: memory is bounded by the number of tensors, whatever else the JSON contains. */
#include "checkpoint/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

static const struct {
    const char *name;
    uint8_t bytes;
} dtypes[] = {
    [DTYPE_F32] = {"F32", 4}, [DTYPE_F16] = {"F16", 2},   [DTYPE_BF16] = {"BF16", 2}, [DTYPE_F8_E4M3] = {"F8_E4M3", 1},
    [DTYPE_U8] = {"U8", 1},   [DTYPE_I8] = {"I8", 1},     [DTYPE_I32] = {"I32", 4},   [DTYPE_I64] = {"I64", 8},
    [DTYPE_F64] = {"F64", 8}, [DTYPE_BOOL] = {"BOOL", 1},
};
enum { DTYPE_COUNT = sizeof dtypes / sizeof *dtypes };

const char *dtype_name(enum dtype dtype) { return dtypes[dtype].name; }
size_t dtype_bytes(enum dtype dtype) { return dtypes[dtype].bytes; }

const char *tensor_shape_text(const struct tensor *t, char *text, size_t size) {
    size_t n = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < t->rank && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%" PRId64, i ? ", " : "", t->shape[i]);
    if (n < size) snprintf(text + n, size - n, "]");
    return text;
}

enum place { PLACE_START, PLACE_ROOT, PLACE_ENTRY, PLACE_SHAPE, PLACE_OFFSETS, PLACE_METADATA, PLACE_END };
enum field { FIELD_NONE, FIELD_DTYPE, FIELD_SHAPE, FIELD_OFFSETS, FIELD_UNKNOWN };

struct entry {
    struct tensor tensor;
    uint64_t begin, end;
};

struct reader {
    enum place place;
    enum field field;
    int skip; /* depth inside the value of an unknown field */
    unsigned seen;
    bool metadata_next, metadata_seen;
    int offsets;
    struct entry now;
    struct entry *entries;
    size_t count, cap;
    struct arena *arena;
    const char *path;
    struct err *err;
    bool failed;
};

static int refuse(struct reader *r, const char *field, const char *expected, const char *found) {
    r->failed = true;
    const char *name = r->now.tensor.name;
    err_set(r->err, ERR_FORMAT, "%s: header%s%.200s%s%s: expected %s, found %s", r->path, name ? ": tensor " : "",
            name ? name : "", *field ? ": " : "", field, expected, found);
    return 0;
}

static int out_of_memory(struct reader *r) {
    r->failed = true;
    err_set(r->err, ERR_MEMORY, "%s: out of memory after %zu tensors", r->path, r->count);
    return 0;
}

static int finish_entry(struct reader *r) {
    if (r->seen != (1u << FIELD_DTYPE | 1u << FIELD_SHAPE | 1u << FIELD_OFFSETS))
        return refuse(r, "", "dtype, shape and data_offsets", "an incomplete entry");
    if (r->count == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 1024;
        struct entry *grown = realloc(r->entries, cap * sizeof *grown);
        if (!grown) return out_of_memory(r);
        r->entries = grown;
        r->cap = cap;
    }
    r->entries[r->count++] = r->now;
    r->now.tensor.name = NULL;
    r->place = PLACE_ROOT;
    return 1;
}

static int on_start_map(void *ctx) {
    struct reader *r = ctx;
    if (r->skip) return r->skip < JSON_MAX_DEPTH ? (r->skip++, 1) : refuse(r, "", "at most 128 levels", "deeper nesting");
    switch (r->place) {
    case PLACE_START: r->place = PLACE_ROOT; return 1;
    case PLACE_ROOT:
        r->place = r->metadata_next ? PLACE_METADATA : PLACE_ENTRY;
        r->seen = 0;
        return 1;
    case PLACE_ENTRY:
        if (r->field == FIELD_UNKNOWN) return r->skip = 1;
        return refuse(r, "", "a string or list", "an object");
    case PLACE_METADATA: return refuse(r, "__metadata__", "string values", "an object");
    default: return refuse(r, "shape or data_offsets", "an integer", "an object");
    }
}

static int on_end_map(void *ctx) {
    struct reader *r = ctx;
    if (r->skip) return r->skip--, 1;
    if (r->place == PLACE_ENTRY) return finish_entry(r);
    if (r->place == PLACE_METADATA) return r->place = PLACE_ROOT, r->metadata_next = false, 1;
    return r->place = PLACE_END, 1;
}

static int on_start_array(void *ctx) {
    struct reader *r = ctx;
    if (r->skip) return r->skip < JSON_MAX_DEPTH ? (r->skip++, 1) : refuse(r, "", "at most 128 levels", "deeper nesting");
    if (r->place == PLACE_ENTRY && r->field == FIELD_UNKNOWN) return r->skip = 1;
    if (r->place == PLACE_ENTRY && r->field == FIELD_SHAPE) return r->place = PLACE_SHAPE, r->now.tensor.rank = 0, 1;
    if (r->place == PLACE_ENTRY && r->field == FIELD_OFFSETS) return r->place = PLACE_OFFSETS, r->offsets = 0, 1;
    return refuse(r, "", "an object", "a list");
}

static int on_end_array(void *ctx) {
    struct reader *r = ctx;
    if (r->skip) return r->skip--, 1;
    if (r->place == PLACE_OFFSETS && r->offsets != 2) return refuse(r, "data_offsets", "2 integers", r->offsets ? "1" : "none");
    r->place = PLACE_ENTRY;
    return 1;
}

static int on_number(void *ctx, const char *text, size_t len) {
    struct reader *r = ctx;
    if (r->skip || (r->place == PLACE_ENTRY && r->field == FIELD_UNKNOWN)) return 1;
    char found[32];
    snprintf(found, sizeof found, "%.*s", (int)(len < 24 ? len : 24), text);
    const char *field = r->place == PLACE_SHAPE ? "shape" : r->place == PLACE_OFFSETS ? "data_offsets" : "";
    if (!*field) return refuse(r, "", "an object", found);
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++)
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value) || value > INT64_MAX)
            return refuse(r, field, "an integer from 0 to 2^63 - 1", found);
    if (r->place == PLACE_SHAPE) {
        if (r->now.tensor.rank == TENSOR_MAX_RANK) return refuse(r, "shape", "a rank of at most 8", "more dimensions");
        r->now.tensor.shape[r->now.tensor.rank++] = (int64_t)value;
        return 1;
    }
    if (r->offsets == 2) return refuse(r, "data_offsets", "2 integers", "more");
    *(r->offsets++ ? &r->now.end : &r->now.begin) = value;
    return 1;
}

static int on_string(void *ctx, const unsigned char *text, size_t len) {
    struct reader *r = ctx;
    if (r->skip || r->place == PLACE_METADATA || (r->place == PLACE_ENTRY && r->field == FIELD_UNKNOWN)) return 1;
    if (r->place != PLACE_ENTRY || r->field != FIELD_DTYPE) return refuse(r, "", "another type", "a string");
    for (int d = 0; d < DTYPE_COUNT; d++)
        if (strlen(dtypes[d].name) == len && memcmp(dtypes[d].name, text, len) == 0)
            return r->now.tensor.dtype = (enum dtype)d, 1;
    char found[32];
    snprintf(found, sizeof found, "\"%.*s\"", (int)(len < 24 ? len : 24), (const char *)text);
    return refuse(r, "dtype", "one of F32 F16 BF16 F8_E4M3 U8 I8 I32 I64 F64 BOOL", found);
}

static int on_other(void *ctx) {
    struct reader *r = ctx;
    if (r->skip || (r->place == PLACE_ENTRY && r->field == FIELD_UNKNOWN)) return 1;
    return refuse(r, r->place == PLACE_METADATA ? "__metadata__" : "", "another type", "null, true or false");
}
static int on_bool(void *ctx, int value) { return (void)value, on_other(ctx); }

static int on_key(void *ctx, const unsigned char *text, size_t len) {
    struct reader *r = ctx;
    if (r->skip || r->place == PLACE_METADATA) return 1;
    if (r->place == PLACE_ENTRY) {
        static const char *const names[] = {[FIELD_DTYPE] = "dtype", [FIELD_SHAPE] = "shape", [FIELD_OFFSETS] = "data_offsets"};
        r->field = FIELD_UNKNOWN;
        for (int f = FIELD_DTYPE; f <= FIELD_OFFSETS; f++)
            if (strlen(names[f]) == len && memcmp(names[f], text, len) == 0) r->field = (enum field)f;
        if (r->field == FIELD_UNKNOWN) return 1;
        if (r->seen & 1u << r->field) return refuse(r, names[r->field], "one value", "the key twice");
        r->seen |= 1u << r->field;
        return 1;
    }
    if (len == 12 && memcmp(text, "__metadata__", 12) == 0) {
        if (r->metadata_seen) return refuse(r, "__metadata__", "one value", "the key twice");
        return r->metadata_seen = r->metadata_next = true, 1;
    }
    for (size_t i = 0; i < len; i++)
        if (text[i] < 0x20 || text[i] == 0x7F)
            return refuse(r, "", "tensor names without control characters", "one that has them");
    r->now = (struct entry){.tensor.file = r->path};
    r->now.tensor.name = arena_string(r->arena, (const char *)text, len);
    return r->now.tensor.name ? 1 : out_of_memory(r);
}

static int read_header(struct reader *r, const unsigned char *text, size_t len) {
    static const yajl_callbacks callbacks = {
        .yajl_null = on_other,
        .yajl_boolean = on_bool,
        .yajl_number = on_number,
        .yajl_string = on_string,
        .yajl_start_map = on_start_map,
        .yajl_map_key = on_key,
        .yajl_end_map = on_end_map,
        .yajl_start_array = on_start_array,
        .yajl_end_array = on_end_array,
    };
    yajl_handle handle = yajl_alloc(&callbacks, NULL, r);
    if (!handle) return err_set(r->err, ERR_MEMORY, "%s: out of memory", r->path);
    yajl_status status = yajl_parse(handle, text, len);
    if (status == yajl_status_ok) status = yajl_complete_parse(handle);
    int code = 0;
    if (status != yajl_status_ok && !r->failed) {
        unsigned char *why = yajl_get_error(handle, 0, text, len);
        code = err_set(r->err, ERR_FORMAT, "%s: header: expected one JSON object in UTF-8, found near byte %zu: %.100s", r->path,
                       8 + yajl_get_bytes_consumed(handle), why ? (const char *)why : "an error");
        if (r->err) r->err->message[strcspn(r->err->message, "\n")] = 0;
        if (why) yajl_free_error(handle, why);
    } else if (r->failed) {
        code = r->err ? r->err->code : ERR_FORMAT;
    } else if (r->place != PLACE_END) {
        code = err_set(r->err, ERR_FORMAT, "%s: header: expected a JSON object, found an incomplete one", r->path);
    }
    yajl_free(handle);
    return code;
}

static int by_offset(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int check_size(const struct entry *e, const char *path, struct err *err) {
    const struct tensor *t = &e->tensor;
    uint64_t bytes = dtype_bytes(t->dtype);
    bool overflow = false;
    for (int i = 0; i < t->rank; i++) overflow |= __builtin_mul_overflow(bytes, (uint64_t)t->shape[i], &bytes);
    /* A zero dimension after an overflowing product would hide it; such shapes are refused all the same. */
    char shape[200];
    if (overflow)
        return err_set(err, ERR_FORMAT, "%s: tensor %.200s: shape: expected at most 2^64 bytes, found %s of %s", path, t->name,
                       tensor_shape_text(t, shape, sizeof shape), dtype_name(t->dtype));
    if (e->end < e->begin || e->end - e->begin != bytes)
        return err_set(err, ERR_FORMAT,
                       "%s: tensor %.200s: data_offsets: expected %" PRIu64 " bytes (%s %s), found [%" PRIu64 ", %" PRIu64 ")",
                       path, t->name, bytes, dtype_name(t->dtype), tensor_shape_text(t, shape, sizeof shape), e->begin, e->end);
    return 0;
}

/* The offsets, ordered, must tile the data section exactly. */
static int check_layout(struct reader *r, uint64_t data_bytes) {
    if (r->count) qsort(r->entries, r->count, sizeof *r->entries, by_offset);
    uint64_t at = 0;
    for (size_t i = 0; i < r->count; i++) {
        struct entry *e = &r->entries[i];
        int code = check_size(e, r->path, r->err);
        if (code) return code;
        if (e->begin != at)
            return err_set(r->err, ERR_FORMAT,
                           "%s: tensor %.200s: data_offsets: expected begin %" PRIu64 " (no gap, no overlap), found %" PRIu64,
                           r->path, e->tensor.name, at, e->begin);
        if (e->end > data_bytes)
            return err_set(r->err, ERR_FORMAT,
                           "%s: tensor %.200s: data_offsets: expected an end within the %" PRIu64
                           " data bytes of the file, found %" PRIu64 " (is the file cut short?)",
                           r->path, e->tensor.name, data_bytes, e->end);
        at = e->end;
    }
    if (at != data_bytes)
        return err_set(r->err, ERR_FORMAT, "%s: data: expected %" PRIu64 " bytes after the header, found %" PRIu64, r->path, at,
                       data_bytes);
    return 0;
}

static int parse(struct reader *r, const uint8_t *data, size_t bytes, struct safetensors *s) {
    if (bytes < 8) return err_set(r->err, ERR_FORMAT, "%s: expected at least 8 bytes, found %zu", r->path, bytes);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | data[i];
    if (n < 2 || n > SAFETENSORS_HEADER_LIMIT)
        return err_set(r->err, ERR_FORMAT, "%s: header length: expected 2 to 100000000, found %" PRIu64, r->path, n);
    if (n > bytes - 8)
        return err_set(r->err, ERR_FORMAT, "%s: header length: expected at most the %zu bytes that follow, found %" PRIu64,
                       r->path, bytes - 8, n);
    if (data[8] != '{')
        return err_set(r->err, ERR_FORMAT, "%s: header: expected '{' at byte 8, found byte 0x%02x", r->path, data[8]);
    int code = read_header(r, data + 8, n);
    if (!code) code = check_layout(r, bytes - 8 - n);
    if (code) return code;
    s->tensors = arena_array(&s->arena, r->count + 1, sizeof *s->tensors);
    if (!s->tensors) return err_set(r->err, ERR_MEMORY, "%s: out of memory for %zu tensors", r->path, r->count);
    for (size_t i = 0; i < r->count; i++) {
        s->tensors[i] = r->entries[i].tensor;
        s->tensors[i].data = data + 8 + n + r->entries[i].begin;
        s->tensors[i].bytes = (size_t)(r->entries[i].end - r->entries[i].begin);
    }
    s->count = r->count;
    qsort(s->tensors, s->count, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < s->count; i++)
        if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            return err_set(r->err, ERR_FORMAT, "%s: header: expected unique names, found tensor %.200s twice", r->path,
                           s->tensors[i].name);
    return 0;
}

int safetensors_parse(const void *data, size_t bytes, const char *path, struct safetensors *s, struct err *err) {
    struct err local = {0}; /* callbacks report through err, so there must be one */
    struct reader r = {.arena = &s->arena, .path = path, .err = err ? err : &local};
    int code = parse(&r, data, bytes, s);
    free(r.entries);
    return code;
}

int safetensors_open(const char *path, struct safetensors *s, struct err *err) {
    *s = (struct safetensors){0};
    int code = file_map_open(path, &s->map, err);
    if (!code) code = safetensors_parse(s->map.data, s->map.bytes, path, s, err);
    if (code) safetensors_close(s);
    return code;
}

void safetensors_close(struct safetensors *s) {
    arena_free(&s->arena);
    file_map_close(&s->map);
    *s = (struct safetensors){0};
}
