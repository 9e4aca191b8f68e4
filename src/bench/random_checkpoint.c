#include "bench/random_checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "bench/random_config.h"
#include "bench/random_numbers.h"
#include "checkpoint/number.h"

static const int64_t shard_bytes = 5000000000; /* as transformers saves */
enum { FILE_ORDER_F32, FILE_ORDER_BF16, FILE_ORDER_F8, FILE_ORDER_U8 }; /* the reference writer sorts by alignment, then name */

/* Where the bytes of a stored tensor come from. */
enum source {
    FROM_DENSE, FROM_NORM, FROM_FP8, FROM_FP8_FACTORS, FROM_NF4_CODES, FROM_NF4_ABSMAX, FROM_NF4_NESTED, FROM_NESTED_MAP,
    FROM_QUANT_MAP, FROM_STATE
};

struct stored {
    char name[200];
    int type;              /* FILE_ORDER_... */
    int64_t dims[5];
    int rank;
    enum source source;
    float deviation;
    int64_t count;         /* elements */
    uint64_t start;        /* NF4: the block of the pool at which codes and absmax begin */
    char *state;           /* FROM_STATE */
    int shard;
};

struct writer {
    const struct shape *shape;
    enum shape_format format;
    struct random_pools pools;
    bool hollow;
    struct stored *list;
    size_t count, capacity;
    int shards;
    int64_t shard_size;    /* of the last shard */
};

static const char *const type_names[] = {"F32", "BF16", "F8_E4M3", "U8"};
static const int type_bytes[] = {4, 2, 1, 1};

static int64_t bytes_of(const struct stored *t) { return t->count * type_bytes[t->type]; }

/* ---- the list ---- */

static struct stored *add_stored(struct writer *w, const char *name, const char *suffix, int type, const int64_t *dims, int rank,
                                 enum source source, float deviation, struct err *err) {
    if (w->count == w->capacity) {
        size_t want = w->capacity ? 2 * w->capacity : 1024;
        struct stored *more = realloc(w->list, want * sizeof *more);
        if (!more) {
            err_set(err, ERR_MEMORY, "out of memory for a list of %zu tensors", want);
            return NULL;
        }
        w->list = more;
        w->capacity = want;
    }
    struct stored *t = &w->list[w->count++];
    *t = (struct stored){.type = type, .rank = rank, .source = source, .deviation = deviation, .count = 1};
    snprintf(t->name, sizeof t->name, "%s%s", name, suffix);
    for (int i = 0; i < rank; i++) t->dims[i] = dims[i], t->count *= dims[i];
    if (w->shards == 0 || (w->shard_size > 0 && w->shard_size + bytes_of(t) > shard_bytes)) {
        w->shards++;
        w->shard_size = 0;
    }
    w->shard_size += bytes_of(t);
    t->shard = w->shards - 1;
    return t;
}

static int add_fp8(struct writer *w, const char *name, const int64_t *dims, float deviation, struct err *err) {
    const int64_t blocks[] = {(dims[0] + 127) / 128, (dims[1] + 127) / 128};
    if (!add_stored(w, name, "", FILE_ORDER_F8, dims, 2, FROM_FP8, deviation, err) ||
        !add_stored(w, name, "_scale_inv", FILE_ORDER_F32, blocks, 2, FROM_FP8_FACTORS, deviation, err))
        return ERR_MEMORY;
    return 0;
}

static int add_nf4(struct writer *w, const char *name, const int64_t *dims, float deviation, struct err *err) {
    int64_t n = dims[0] * dims[1], codes[] = {n / 2, 1}, blocks = n / 64, groups = (blocks + 255) / 256, m16 = 16, m256 = 256;
    uint64_t start = random_bits64(&w->pools) % POOL_NF4_GROUPS * 256;
    size_t first = w->count;
    struct buf state = {0};
    buf_printf(&state, "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [%" PRId64 ", %" PRId64
               "], \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": ", dims[0], dims[1]);
    buf_json_number(&state, (double)(w->pools.offset * deviation));
    buf_str(&state, "}");
    int64_t length = (int64_t)state.len;
    bool ok = !state.failed && add_stored(w, name, "", FILE_ORDER_U8, codes, 2, FROM_NF4_CODES, deviation, err) &&
              add_stored(w, name, ".absmax", FILE_ORDER_U8, &blocks, 1, FROM_NF4_ABSMAX, deviation, err) &&
              add_stored(w, name, ".nested_absmax", FILE_ORDER_F32, &groups, 1, FROM_NF4_NESTED, deviation, err) &&
              add_stored(w, name, ".nested_quant_map", FILE_ORDER_F32, &m256, 1, FROM_NESTED_MAP, deviation, err) &&
              add_stored(w, name, ".quant_map", FILE_ORDER_F32, &m16, 1, FROM_QUANT_MAP, deviation, err);
    struct stored *last =
        ok ? add_stored(w, name, ".quant_state.bitsandbytes__nf4", FILE_ORDER_U8, &length, 1, FROM_STATE, deviation, err) : NULL;
    if (!last) {
        buf_free(&state);
        return err_set(err, ERR_MEMORY, "out of memory for a list of tensors");
    }
    last->state = state.data;
    for (size_t i = first; i < w->count; i++) w->list[i].start = start;
    return 0;
}

static int add_tensor(void *user, const char *name, const int64_t *dims, int rank, enum tensor_role role, float deviation,
                      struct err *err) {
    struct writer *w = user;
    if (role == ROLE_LINEAR && w->format == SHAPE_FP8) return add_fp8(w, name, dims, deviation, err);
    /* Unsloth's dynamic files keep some layers dense: these were seen in the 4B one. */
    bool dense = strstr(name, ".layers.0.mlp.") || strstr(name, ".layers.11.self_attn.");
    if (role == ROLE_LINEAR && w->format == SHAPE_NF4 && !dense) return add_nf4(w, name, dims, deviation, err);
    enum source source = role == ROLE_NORM ? FROM_NORM : FROM_DENSE;
    return add_stored(w, name, "", FILE_ORDER_BF16, dims, rank, source, deviation, err) ? 0 : ERR_MEMORY;
}

static int by_shard_type_name(const void *a, const void *b) {
    const struct stored *x = a, *y = b;
    if (x->shard != y->shard) return x->shard - y->shard;
    return x->type != y->type ? x->type - y->type : strcmp(x->name, y->name);
}

static int make_list(struct writer *w, struct err *err) {
    int r = shape_tensors(w->shape, add_tensor, w, err);
    if (!r && w->format == SHAPE_FP8 && w->shape->tied) { /* stored all the same, as Qwen/Qwen3-VL-2B-Thinking-FP8 does */
        const int64_t dims[] = {w->shape->vocab, w->shape->hidden};
        r = add_tensor(w, "lm_head.weight", dims, 2, ROLE_DENSE, 0.02f, err);
    }
    if (!r) qsort(w->list, w->count, sizeof *w->list, by_shard_type_name);
    return r;
}

static void free_list(struct writer *w) {
    for (size_t i = 0; i < w->count; i++) free(w->list[i].state);
    free(w->list);
}

/* ---- files ---- */

static int write_all(int fd, const void *data, size_t n) {
    const char *p = data;
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return -1;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

/* `bytes` bytes of a pool from `at` on, around its end. */
static int write_cyclic(int fd, const void *pool, size_t pool_bytes, size_t at, int64_t bytes) {
    while (bytes > 0) {
        size_t n = pool_bytes - at;
        if ((int64_t)n > bytes) n = (size_t)bytes;
        if (write_all(fd, (const char *)pool + at, n)) return -1;
        bytes -= (int64_t)n;
        at = 0;
    }
    return 0;
}

/* The small ones, computed. */
static int write_made(int fd, const struct stored *t, struct random_pools *p) {
    size_t bytes = (size_t)bytes_of(t);
    void *data = malloc(bytes);
    float *f = data;
    uint16_t *h = data;
    if (!data) return -1;
    for (int64_t i = 0; i < t->count; i++) {
        if (t->source == FROM_NORM) h[i] = f32_to_bf16(1 + t->deviation * p->normal[random_bits64(p) % POOL_COUNT]);
        else if (t->source == FROM_FP8_FACTORS) f[i] = t->deviation * 4.2f / 448 * (0.9f + 0.2f * (float)random_uniform(p));
        else f[i] = p->nested[(t->start / 256 + (uint64_t)i) % POOL_NF4_GROUPS] * t->deviation;
    }
    int r = write_all(fd, data, bytes);
    free(data);
    return r;
}

/* Hollow: only what a reader checks when it opens the file. */
static int write_tensor(int fd, const struct stored *t, struct random_pools *p, bool hollow) {
    int64_t bytes = bytes_of(t);
    bool large = t->source == FROM_DENSE || t->source == FROM_FP8 || t->source == FROM_NF4_CODES || t->source == FROM_NF4_ABSMAX;
    if (hollow && large) return lseek(fd, bytes, SEEK_CUR) < 0 ? -1 : 0;
    switch (t->source) {
    case FROM_STATE: return write_all(fd, t->state, (size_t)bytes);
    case FROM_DENSE: {
        const uint16_t *pool = random_dense(p, t->deviation);
        return pool ? write_cyclic(fd, pool, POOL_PRIME * 2, random_bits64(p) % POOL_PRIME * 2, bytes) : -1;
    }
    case FROM_FP8: return write_cyclic(fd, p->fp8, POOL_PRIME, random_bits64(p) % POOL_PRIME, bytes);
    case FROM_NF4_CODES: return write_cyclic(fd, p->nf4, POOL_COUNT / 2, t->start * 32, bytes);
    case FROM_NF4_ABSMAX: return write_cyclic(fd, p->absmax_code, POOL_NF4_BLOCKS, t->start, bytes);
    case FROM_QUANT_MAP: return write_all(fd, p->quant_map, sizeof p->quant_map);
    case FROM_NESTED_MAP: return write_all(fd, p->nested_map, sizeof p->nested_map);
    default: return write_made(fd, t, p);
    }
}

static void header_of(const struct stored *t, size_t count, struct buf *out) {
    int64_t at = 0;
    buf_str(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < count; i++) {
        buf_printf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t[i].name, type_names[t[i].type]);
        for (int k = 0; k < t[i].rank; k++) buf_printf(out, "%s%" PRId64, k ? "," : "", t[i].dims[k]);
        buf_printf(out, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", at, at + bytes_of(&t[i]));
        at += bytes_of(&t[i]);
    }
    buf_char(out, '}');
    while (out->len % 8) buf_char(out, ' ');
}

static int write_shard(const char *path, const struct stored *t, size_t count, struct random_pools *p, bool hollow,
                       struct err *err) {
    struct buf header = {0};
    header_of(t, count, &header);
    if (header.failed) {
        buf_free(&header);
        return err_set(err, ERR_MEMORY, "out of memory for %s", path);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    uint64_t length = header.len; /* little-endian, as every machine we run on */
    bool ok = fd >= 0 && !write_all(fd, &length, sizeof length) && !write_all(fd, header.data, header.len);
    for (size_t i = 0; ok && i < count; i++) ok = write_tensor(fd, &t[i], p, hollow) == 0;
    if (ok && hollow) ok = ftruncate(fd, lseek(fd, 0, SEEK_CUR)) == 0;
    int r = ok ? 0 : err_set(err, ERR_IO, "%s: cannot write random weights: %s", path, strerror(errno));
    if (fd >= 0 && close(fd) && !r) r = err_set(err, ERR_IO, "%s: cannot write random weights: %s", path, strerror(errno));
    buf_free(&header);
    return r;
}

static int write_index(const char *folder, const struct writer *w, struct err *err) {
    struct buf b = {0};
    char path[PATH_MAX];
    int64_t total = 0;
    for (size_t i = 0; i < w->count; i++) total += bytes_of(&w->list[i]);
    if (w->format == SHAPE_FP8) buf_str(&b, "{\"metadata\": {}, \"weight_map\": {");
    else buf_printf(&b, "{\"metadata\": {\"total_size\": %" PRId64 "}, \"weight_map\": {", total);
    for (size_t i = 0; i < w->count; i++)
        buf_printf(&b, "%s\"%s\": \"model-%05d-of-%05d.safetensors\"", i ? ", " : "", w->list[i].name, w->list[i].shard + 1,
                   w->shards);
    buf_str(&b, "}}\n");
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    int r = b.failed ? err_set(err, ERR_MEMORY, "out of memory for %s", path) : file_replace(path, b.data, b.len, err);
    buf_free(&b);
    return r;
}

static int write_weights(const char *folder, struct writer *w, struct err *err) {
    bool single = w->shards == 1 && w->format != SHAPE_FP8;
    int r = single ? 0 : write_index(folder, w, err);
    for (size_t at = 0; !r && at < w->count;) {
        size_t end = at;
        while (end < w->count && w->list[end].shard == w->list[at].shard) end++;
        char path[PATH_MAX];
        if (single) snprintf(path, sizeof path, "%s/model.safetensors", folder);
        else snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", folder, w->list[at].shard + 1, w->shards);
        r = write_shard(path, w->list + at, end - at, &w->pools, w->hollow, err);
        at = end;
    }
    return r;
}

int random_checkpoint_write(const char *folder, const struct shape *s, enum shape_format format, bool hollow, struct err *err) {
    struct writer w = {.shape = s, .format = format, .hollow = hollow};
    int r = random_config_write(folder, s, format, err);
    if (!r) r = random_pools_new(&w.pools, 1, err);
    if (r) return r;
    r = make_list(&w, err);
    if (!r) r = write_weights(folder, &w, err);
    free_list(&w);
    random_pools_free(&w.pools);
    return r;
}

void random_checkpoint_remove(const char *folder) {
    char path[PATH_MAX];
    for (int of = 1; of <= 9; of++)
        for (int i = 1; i <= of; i++) {
            snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", folder, i, of);
            unlink(path);
        }
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    random_config_remove(folder);
    rmdir(folder);
}
