/* Linear layers and vectors out of the table of tensors, in the form in which they are stored.
 *
 * What the file holds decides: W.quant_state.bitsandbytes__nf4 makes W an NF4 matrix, dtype F8_E4M3 an FP8 one (then
 * W_scale_inv must be there), anything else is dense. The skip lists of config.json are not consulted: they are known to
 * differ from the tensors. All quantisation metadata is checked before a pointer leaves this room. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/fields.h"
#include "checkpoint/number.h"
#include "checkpoint/room.h"

enum { FP8_BLOCK = 128, NF4_STATE_LIMIT = 65536 };

struct name {
    char text[512];
};

static const struct tensor *find_part(const struct checkpoint *c, const char *weight, const char *suffix) {
    struct name name;
    int n = snprintf(name.text, sizeof name.text, "%s%s", weight, suffix);
    return n > 0 && (size_t)n < sizeof name.text ? checkpoint_find(c, name.text) : NULL;
}

static int need_part(const struct checkpoint *c, const struct tensor *w, const char *suffix, const struct tensor **out,
                     struct err *err) {
    *out = find_part(c, w->name, suffix);
    if (*out) return 0;
    return err_set(err, ERR_MISSING, "%s: tensor %s: expected beside it %s%s, found none", w->file, w->name, w->name, suffix);
}

/* A pointer to t's data with its natural alignment: the mapped file itself, or a copy that lives with c. */
static const void *aligned_data(struct checkpoint *c, const struct tensor *t) {
    if ((uintptr_t)t->data % dtype_bytes(t->dtype) == 0) return t->data;
    void *copy = checkpoint_memory(c, t->bytes);
    return copy ? memcpy(copy, t->data, t->bytes) : NULL;
}

static int memory_error(const struct tensor *t, struct err *err) {
    return err_set(err, ERR_MEMORY, "%s: tensor %s: out of memory for a copy of %zu bytes", t->file, t->name, t->bytes);
}

static int64_t element_count(const struct tensor *t) { return (int64_t)(t->bytes / dtype_bytes(t->dtype)); }

static bool is_float(enum dtype d) { return d == DTYPE_F32 || d == DTYPE_F16 || d == DTYPE_BF16; }

static float element(const struct tensor *t, int64_t i) {
    uint16_t half;
    float f;
    const char *at = (const char *)t->data + (size_t)i * dtype_bytes(t->dtype);
    if (t->dtype == DTYPE_F32) return memcpy(&f, at, 4), f;
    memcpy(&half, at, 2);
    return t->dtype == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

/* All elements of a float tensor as fp32, each finite and, if asked, above zero. */
static int floats(struct checkpoint *c, const struct tensor *t, bool positive, const float **out, struct err *err) {
    if (!is_float(t->dtype))
        return err_set(err, ERR_FORMAT, "%s: tensor %s: dtype: expected F32, F16 or BF16, found %s", t->file, t->name,
                       dtype_name(t->dtype));
    int64_t count = element_count(t);
    for (int64_t i = 0; i < count; i++) {
        float f = element(t, i);
        if (!isfinite(f) || (positive && f <= 0))
            return err_set(err, ERR_FORMAT, "%s: tensor %s: element %" PRId64 ": expected a finite value%s, found %g", t->file,
                           t->name, i, positive ? " above 0" : "", (double)f);
    }
    if (t->dtype == DTYPE_F32) {
        *out = aligned_data(c, t);
    } else {
        float *copy = checkpoint_memory(c, (size_t)count * sizeof *copy);
        for (int64_t i = 0; copy && i < count; i++) copy[i] = element(t, i);
        *out = copy;
    }
    return *out ? 0 : memory_error(t, err);
}

/* The tensor must have exactly this dtype and number of elements. */
static int check_part(const struct tensor *t, enum dtype dtype, int64_t count, struct err *err) {
    char shape[200];
    if (t->dtype == dtype && element_count(t) == count) return 0;
    return err_set(err, ERR_FORMAT, "%s: tensor %s: expected %" PRId64 " elements of %s, found %s of %s", t->file, t->name, count,
                   dtype_name(dtype), tensor_shape_text(t, shape, sizeof shape), dtype_name(t->dtype));
}

static int read_fp8(struct checkpoint *c, const struct tensor *t, struct linear_weight *w, struct err *err) {
    const struct tensor *scale;
    int code = need_part(c, t, "_scale_inv", &scale, err);
    if (code) return code;
    int64_t rows = (w->out + FP8_BLOCK - 1) / FP8_BLOCK, columns = (w->in + FP8_BLOCK - 1) / FP8_BLOCK;
    char shape[200];
    if (scale->rank != 2 || scale->shape[0] != rows || scale->shape[1] != columns)
        return err_set(err, ERR_FORMAT,
                       "%s: tensor %s: shape: expected [%" PRId64 ", %" PRId64 "] (one factor for 128 x 128 weights), found %s",
                       scale->file, scale->name, rows, columns, tensor_shape_text(scale, shape, sizeof shape));
    w->storage = STORAGE_FP8_BLOCK;
    w->rounding = DTYPE_F32;
    w->data = t->data;
    return floats(c, scale, true, &w->scale, err);
}

static int state_error(const struct tensor *state, const char *field, const char *expected, const struct json *found,
                       struct err *err) {
    char text[64];
    return err_set(err, ERR_FORMAT, "%s: tensor %s: %s: expected %s, found %s", state->file, state->name, field, expected,
                   field_describe(found, text, sizeof text));
}

static bool block_size_ok(int64_t n) { return n >= 16 && n <= 65536 && (n & (n - 1)) == 0; }

/* The JSON that bitsandbytes stores beside the codes: block sizes, target dtype and logical shape. */
static int read_nf4_state(const struct tensor *state, bool nested, struct linear_weight *w, struct err *err) {
    if (state->dtype != DTYPE_U8 || state->bytes > NF4_STATE_LIMIT)
        return err_set(err, ERR_FORMAT, "%s: tensor %s: expected at most %d bytes of U8, found %zu bytes of %s", state->file,
                       state->name, NF4_STATE_LIMIT, state->bytes, dtype_name(state->dtype));
    struct arena arena = {0};
    const struct json *s = json_parse(state->data, state->bytes, state->name, &arena, err);
    int code = s ? 0 : err_context(err, "%s", state->file);
    const struct json *type = json_get(s, "quant_type"), *size = json_get(s, "blocksize"), *dtype = json_get(s, "dtype"),
                      *shape = json_get(s, "shape"), *inner = json_get(s, "nested_blocksize"),
                      *offset = json_get(s, "nested_offset");
    if (!code && strcmp(json_as_string(type, ""), "nf4") != 0) code = state_error(state, "quant_type", "\"nf4\"", type, err);
    if (!code && !block_size_ok(json_as_integer(size, 0)))
        code = state_error(state, "blocksize", "a power of two from 16 to 65536", size, err);
    if (!code) {
        const char *d = json_as_string(dtype, "");
        if (strcmp(d, "bfloat16") == 0) w->rounding = DTYPE_BF16;
        else if (strcmp(d, "float16") == 0) w->rounding = DTYPE_F16;
        else if (strcmp(d, "float32") == 0) w->rounding = DTYPE_F32;
        else code = state_error(state, "dtype", "bfloat16, float16 or float32", dtype, err);
    }
    if (!code && (!shape || shape->type != JSON_ARRAY || shape->count != 2 || json_as_integer(shape->items[0], -1) != w->out ||
                  json_as_integer(shape->items[1], -1) != w->in)) {
        char expected[64], found[64];
        snprintf(expected, sizeof expected, "[%" PRId64 ", %" PRId64 "]", w->out, w->in);
        if (shape && shape->type == JSON_ARRAY && shape->count == 2)
            snprintf(found, sizeof found, "[%" PRId64 ", %" PRId64 "]", json_as_integer(shape->items[0], -1),
                     json_as_integer(shape->items[1], -1));
        else snprintf(found, sizeof found, "%s", "another rank");
        code = err_set(err, ERR_FORMAT, "%s: tensor %s: shape: expected %s, found %s", state->file, state->name, expected, found);
    }
    if (!code && nested && !block_size_ok(json_as_integer(inner, 0)))
        code = state_error(state, "nested_blocksize", "a power of two from 16 to 65536", inner, err);
    if (!code && nested && !isfinite(json_as_number(offset, NAN)))
        code = state_error(state, "nested_offset", "a finite number", offset, err);
    if (!code) {
        w->block_size = (int)json_as_integer(size, 0);
        w->nested_block = nested ? (int)json_as_integer(inner, 0) : 0;
        w->nested_offset = nested ? (float)json_as_number(offset, 0) : 0;
        if (!isfinite(w->nested_offset)) code = state_error(state, "nested_offset", "a number within fp32", offset, err);
    }
    arena_free(&arena);
    return code;
}

static int read_nf4(struct checkpoint *c, const struct tensor *t, const struct tensor *state, struct linear_weight *w,
                    struct err *err) {
    const struct tensor *absmax, *map, *inner = NULL, *inner_map = NULL;
    int code = need_part(c, t, ".absmax", &absmax, err);
    if (!code) code = need_part(c, t, ".quant_map", &map, err);
    bool nested = !code && absmax->dtype == DTYPE_U8;
    if (!code && nested) code = need_part(c, t, ".nested_absmax", &inner, err);
    if (!code && nested) code = need_part(c, t, ".nested_quant_map", &inner_map, err);
    if (!code) code = read_nf4_state(state, nested, w, err);
    if (code) return code;

    w->storage = STORAGE_NF4;
    w->data = t->data;
    int64_t n = w->out * w->in, blocks = (n + w->block_size - 1) / w->block_size;
    if ((code = check_part(t, DTYPE_U8, (n + 1) / 2, err)) || (code = check_part(map, DTYPE_F32, 16, err)) ||
        (code = check_part(absmax, nested ? DTYPE_U8 : DTYPE_F32, blocks, err)) ||
        (code = floats(c, map, false, &w->quant_map, err)))
        return code;
    if (!nested) return floats(c, absmax, false, &w->absmax_f32, err);
    w->absmax_u8 = absmax->data;
    if ((code = check_part(inner_map, DTYPE_F32, 256, err)) ||
        (code = check_part(inner, DTYPE_F32, (blocks + w->nested_block - 1) / w->nested_block, err)) ||
        (code = floats(c, inner_map, false, &w->nested_map, err)))
        return code;
    return floats(c, inner, false, &w->nested_absmax, err);
}

/* Dense [out, in], or a convolution kernel [out, ...] whose other dimensions multiply to in. */
static int read_dense(struct checkpoint *c, const struct tensor *t, struct linear_weight *w, struct err *err) {
    w->storage = t->dtype == DTYPE_F32 ? STORAGE_F32 : t->dtype == DTYPE_F16 ? STORAGE_F16 : STORAGE_BF16;
    w->rounding = t->dtype;
    w->data = aligned_data(c, t);
    return w->data ? 0 : memory_error(t, err);
}

static int check_shape(const struct tensor *t, int64_t out, int64_t in, struct err *err) {
    char shape[200];
    /* Rank 2 and up only, so that a vector of out * in elements does not pass as a matrix; the product cannot
     * overflow, since the file holds that many elements. */
    if (t->rank >= 2 && t->shape[0] == out && element_count(t) == out * in) return 0;
    return err_set(err, ERR_FORMAT, "%s: tensor %s: shape: expected [%" PRId64 ", %" PRId64 "], found %s", t->file, t->name, out,
                   in, tensor_shape_text(t, shape, sizeof shape));
}

int checkpoint_linear(struct checkpoint *c, const char *name, int64_t out, int64_t in, bool bias, struct linear_weight *w,
                      struct err *err) {
    struct err local = {0};
    err = err ? err : &local;
    *w = (struct linear_weight){.out = out, .in = in};
    int64_t product;
    if (out <= 0 || in <= 0 || __builtin_mul_overflow(out, in, &product) || product > INT64_MAX / 8)
        return err_set(err, ERR_ARGUMENT, "%s: a matrix of %" PRId64 " x %" PRId64 " was asked for", name, out, in);
    const struct tensor *t = find_part(c, name, ".weight");
    if (!t) return err_set(err, ERR_MISSING, "%s: tensor %s.weight: expected, found none", c->folder, name);
    w->name = arena_string(&c->arena, name, strlen(name));
    if (!w->name) return memory_error(t, err);

    const struct tensor *state = find_part(c, t->name, ".quant_state.bitsandbytes__nf4");
    int code;
    if (state) {
        code = read_nf4(c, t, state, w, err);
    } else if ((code = check_shape(t, out, in, err)) != 0) {
        if (find_part(c, t->name, ".quant_state.bitsandbytes__fp4"))
            code = err_set(err, ERR_FORMAT, "%s: tensor %s: expected NF4, found bitsandbytes FP4, which is not supported",
                           t->file, t->name);
    } else if (t->dtype == DTYPE_F8_E4M3) {
        code = read_fp8(c, t, w, err);
    } else if (is_float(t->dtype)) {
        code = read_dense(c, t, w, err);
    } else {
        code = err_set(err, ERR_FORMAT,
                       "%s: tensor %s: dtype: expected BF16, F16, F32, F8_E4M3 or NF4 with its quant_state, found %s", t->file,
                       t->name, dtype_name(t->dtype));
    }
    if (!code && bias) {
        struct name bias_name;
        snprintf(bias_name.text, sizeof bias_name.text, "%s.bias", name);
        code = checkpoint_vector(c, bias_name.text, out, &w->bias, err);
    }
    return code;
}

int checkpoint_vector(struct checkpoint *c, const char *name, int64_t count, const float **out, struct err *err) {
    const struct tensor *t = checkpoint_find(c, name);
    char shape[200];
    if (!t) return err_set(err, ERR_MISSING, "%s: tensor %s: expected, found none", c->folder, name);
    if (!is_float(t->dtype) || element_count(t) != count)
        return err_set(err, ERR_FORMAT, "%s: tensor %s: expected %" PRId64 " elements of BF16, F16 or F32, found %s of %s",
                       t->file, name, count, tensor_shape_text(t, shape, sizeof shape), dtype_name(t->dtype));
    return floats(c, t, false, out, err);
}

/* ---- exact dequantisation: the reference for every kernel -------------------------------------------------------------- */

static float round_to(enum dtype dtype, float f) {
    if (dtype == DTYPE_BF16) return bf16_to_f32(f32_to_bf16(f));
    if (dtype == DTYPE_F16) return f16_to_f32(f32_to_f16(f));
    return f;
}

static float nf4_absmax(const struct linear_weight *w, int64_t block) {
    if (w->absmax_f32) return w->absmax_f32[block];
    float product = w->nested_map[w->absmax_u8[block]] * w->nested_absmax[block / w->nested_block];
    return product + w->nested_offset;
}

static void nf4_rows(const struct linear_weight *w, int64_t row0, int64_t row1, float *out) {
    const uint8_t *codes = w->data;
    for (int64_t e = row0 * w->in, last = row1 * w->in; e < last;) {
        float absmax = nf4_absmax(w, e / w->block_size);
        int64_t end = (e / w->block_size + 1) * w->block_size;
        for (end = end < last ? end : last; e < end; e++) {
            int code = e & 1 ? codes[e >> 1] & 15 : codes[e >> 1] >> 4;
            *out++ = round_to(w->rounding, w->quant_map[code] * absmax);
        }
    }
}

void linear_weight_rows_f32(const struct linear_weight *w, int64_t row0, int64_t row1, float *out) {
    int64_t columns = (w->in + FP8_BLOCK - 1) / FP8_BLOCK, first = row0 * w->in, n = (row1 - row0) * w->in;
    switch (w->storage) {
    case STORAGE_F32: memcpy(out, (const float *)w->data + first, (size_t)n * sizeof *out); break;
    case STORAGE_F16:
        for (int64_t i = 0; i < n; i++) out[i] = f16_to_f32(((const uint16_t *)w->data)[first + i]);
        break;
    case STORAGE_BF16:
        for (int64_t i = 0; i < n; i++) out[i] = bf16_to_f32(((const uint16_t *)w->data)[first + i]);
        break;
    case STORAGE_FP8_BLOCK:
        for (int64_t r = row0; r < row1; r++)
            for (int64_t k = 0; k < w->in; k++)
                *out++ =
                    e4m3_to_f32(((const uint8_t *)w->data)[r * w->in + k]) * w->scale[r / FP8_BLOCK * columns + k / FP8_BLOCK];
        break;
    case STORAGE_NF4: nf4_rows(w, row0, row1, out); break;
    }
}

size_t linear_weight_bytes(const struct linear_weight *w) {
    size_t n = (size_t)w->out * (size_t)w->in, bias = w->bias ? (size_t)w->out * 4 : 0;
    size_t rows = (size_t)(w->out + FP8_BLOCK - 1) / FP8_BLOCK, columns = (size_t)(w->in + FP8_BLOCK - 1) / FP8_BLOCK;
    switch (w->storage) {
    case STORAGE_F32: return n * 4 + bias;
    case STORAGE_F16:
    case STORAGE_BF16: return n * 2 + bias;
    case STORAGE_FP8_BLOCK: return n + rows * columns * 4 + bias;
    case STORAGE_NF4: break;
    }
    size_t blocks = (n + (size_t)w->block_size - 1) / (size_t)w->block_size;
    size_t scales =
        w->absmax_f32 ? blocks * 4 : blocks + (blocks + (size_t)w->nested_block - 1) / (size_t)w->nested_block * 4 + 1024;
    return (n + 1) / 2 + scales + 64 + bias;
}
