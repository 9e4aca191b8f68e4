/* Searching. The arithmetic, 100,000 vectors of 2,048: the bytes of 948 centroids (2 MiB) and of the vectors of 12 lists (about 3 MiB) are
 * read instead of 800 MiB; the best of each silo are then compared exactly. */
#include "memory/vector_index.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "memory/faiss_shim.h"
#include "memory/vector_file.h"
#include "memory/vector_math.h"

enum { CHUNK = 512 /* vectors of the tail */ };

struct vector_index {
    struct vector_index_options o;
    char *path;
    /* the tail: vectors that are not in the file, in chunks that never move */
    float **chunks;
    int64_t *ids;
    size_t tail, ids_cap, chunk_count;
    int64_t newest; /* keyframe */
    /* the file */
    const struct faiss_shim *shim;
    struct faiss_index *file;
    struct faiss_view view;
    struct file_map map;
    const float *low, *step;                       /* (dims) of the codes */
    const uint8_t *centroid_codes, *vector_codes;  /* (lists, dims), (vectors, dims) */
    int64_t *first;        /* (lists): of a list's vectors among the codes */
    float *scores;         /* (lists): similarity of each centroid to the query */
    float *weights;        /* (dims) */
    int probes;
    int64_t upto;
    size_t file_bytes;
};

int vector_index_new(const struct vector_index_options *o, struct vector_index **out, struct err *err) {
    *out = NULL;
    if (o->dims < 1 || o->dims > 1 << 16) return err_set(err, ERR_ARGUMENT, "vectors of %d dimensions: expected 1 to 65536", o->dims);
    struct vector_index *x = calloc(1, sizeof *x);
    if (!x || (o->path && !(x->path = strdup(o->path)))) {
        free(x);
        return err_set(err, ERR_MEMORY, "out of memory for a vector index");
    }
    x->o = *o;
    if (!x->o.exact_bytes) x->o.exact_bytes = VECTOR_EXACT_BYTES;
    *out = x;
    return 0;
}

static void drop_file(struct vector_index *x) {
    if (x->file) x->shim->close(x->file);
    file_map_close(&x->map);
    free(x->scores);
    free(x->weights);
    free(x->first);
    x->file = NULL;
    x->map = (struct file_map){0};
    x->scores = x->weights = NULL;
    x->first = NULL;
    x->probes = 0;
    x->upto = 0;
    x->file_bytes = 0;
}

static void drop_tail(struct vector_index *x) {
    for (size_t i = 0; i < x->chunk_count; i++) free(x->chunks[i]);
    free(x->chunks);
    free(x->ids);
    x->chunks = NULL;
    x->ids = NULL;
    x->tail = x->ids_cap = x->chunk_count = 0;
}

void vector_index_free(struct vector_index *x) {
    if (!x) return;
    drop_file(x);
    drop_tail(x);
    free(x->path);
    free(x);
}

int vector_index_add(struct vector_index *x, int64_t id, const float *v, struct err *err) {
    size_t dims = (size_t)x->o.dims;
    if (x->tail == x->ids_cap) {
        size_t cap = x->ids_cap ? x->ids_cap * 2 : CHUNK;
        int64_t *ids = realloc(x->ids, cap * sizeof *ids);
        if (!ids) return err_set(err, ERR_MEMORY, "out of memory for vector %zu", x->tail + 1);
        x->ids = ids;
        float **chunks = realloc(x->chunks, cap / CHUNK * sizeof *chunks);
        if (!chunks) return err_set(err, ERR_MEMORY, "out of memory for vector %zu", x->tail + 1);
        x->chunks = chunks;
        x->ids_cap = cap;
    }
    if (x->tail == x->chunk_count * CHUNK) {
        float *chunk = aligned_alloc(64, (CHUNK * dims * sizeof *chunk + 63) / 64 * 64);
        if (!chunk) return err_set(err, ERR_MEMORY, "out of memory for vector %zu", x->tail + 1);
        x->chunks[x->chunk_count++] = chunk;
    }
    memcpy(x->chunks[x->tail / CHUNK] + x->tail % CHUNK * dims, v, dims * sizeof *v);
    x->ids[x->tail++] = id;
    if (vector_id_keyframe(id) > x->newest) x->newest = vector_id_keyframe(id);
    return 0;
}

/* ---- the file ------------------------------------------------------------------------------------------------------------------ */

/* Takes a checked and mapped file into use; NULL or what is wrong with it. */
static const char *use_file(struct vector_index *x, const struct vector_file_head *h, char message[FAISS_MESSAGE]) {
    FILE *f = fopen(x->path, "rbe");
    if (!f) return strerror(errno);
    int code = fseek(f, h->start, SEEK_SET) ? (snprintf(message, FAISS_MESSAGE, "%s", strerror(errno)), -1) : x->shim->open(f, &x->file, &x->view, message);
    fclose(f);
    if (code) return message;
    size_t dims = (size_t)x->o.dims, lists = h->lists;
    if (x->view.dims != x->o.dims || x->view.lists != (int)h->lists || x->view.vectors != h->vectors) return "its content does not fit its head";
    x->scores = malloc(lists * sizeof *x->scores);
    x->weights = malloc(dims * sizeof *x->weights);
    x->first = malloc(lists * sizeof *x->first);
    if (!x->scores || !x->weights || !x->first) return "out of memory";
    int64_t listed = 0;
    for (size_t i = 0; i < lists; i++) {
        const float *vectors;
        const int64_t *ids;
        x->first[i] = listed;
        listed += x->shim->list(x->file, (int)i, &vectors, &ids);
    }
    if (listed != h->vectors) return "its content does not fit its head";
    x->low = (const float *)((const char *)x->map.data + h->codes);
    x->step = x->low + dims;
    x->centroid_codes = (const uint8_t *)(x->step + dims);
    x->vector_codes = x->centroid_codes + lists * dims;
    x->probes = x->o.probes ? x->o.probes : (int)h->probes;
    if (x->probes > x->view.lists) x->probes = x->view.lists;
    if (x->probes > MAX_PROBES) x->probes = MAX_PROBES;
    x->upto = h->upto;
    x->file_bytes = (size_t)h->size;
    if (h->upto > x->newest) x->newest = h->upto;
    return NULL;
}

int vector_index_open_file(struct vector_index *x, int64_t *upto, char note[600]) {
    struct vector_file_head h;
    struct err err = {0};
    char message[FAISS_MESSAGE];
    *upto = 0;
    *note = 0;
    drop_file(x);
    if (!x->path || !file_exists(x->path)) return 0;
    if (!(x->shim = faiss_library(&err))) return snprintf(note, 600, "%s is not used: %s", x->path, err.message), 0;
    if (file_map_open(x->path, &x->map, &err)) return snprintf(note, 600, "%s", err.message), 0;
    const char *wrong = vector_file_check(x->map.data, x->map.bytes, x->o.dims, x->o.space, &h);
    if (!wrong) wrong = use_file(x, &h, message);
    if (wrong) {
        drop_file(x);
        snprintf(note, 600, "%s: not a valid index: %s; deleted, it is made again from the store", x->path, wrong);
        unlink(x->path);
        return 0;
    }
    *upto = x->upto;
    return 1;
}

void vector_index_forget_file(struct vector_index *x) {
    if (x->file) unlink(x->path);
    drop_file(x);
}

/* All vectors, those of the file first, for training. */
static int collect(const struct vector_index *x, float **vectors, int64_t **ids, int64_t *count, struct err *err) {
    size_t dims = (size_t)x->o.dims, n = x->tail + (x->file ? (size_t)x->view.vectors : 0), at = 0;
    *vectors = malloc(n * dims * sizeof **vectors);
    *ids = malloc(n * sizeof **ids);
    if (!*vectors || !*ids) return err_set(err, ERR_MEMORY, "out of memory for an index of %zu vectors", n);
    for (int i = 0; x->file && i < x->view.lists; i++) {
        const float *v;
        const int64_t *list;
        size_t k = (size_t)x->shim->list(x->file, i, &v, &list);
        memcpy(*vectors + at * dims, v, k * dims * sizeof *v);
        memcpy(*ids + at, list, k * sizeof *list);
        at += k;
    }
    for (size_t i = 0; i < x->tail; i++, at++) {
        memcpy(*vectors + at * dims, x->chunks[i / CHUNK] + i % CHUNK * dims, dims * sizeof **vectors);
        (*ids)[at] = x->ids[i];
    }
    *count = (int64_t)n;
    return 0;
}

int vector_index_rebuild(struct vector_index *x, int threads, struct err *err) {
    struct err local;
    if (!err) err = &local;
    if (!x->path) return err_set(err, ERR_STATE, "this index has no file");
    if (!(x->shim = faiss_library(err))) return err->code;
    float *vectors = NULL;
    int64_t *ids = NULL, n = 0, upto;
    char note[600];
    int code = collect(x, &vectors, &ids, &n, err);
    if (!code && n == 0) code = err_set(err, ERR_STATE, "%s: no vectors to make an index of", x->path);
    struct vector_file_content c = {vectors, ids, n, x->newest, x->o.dims, {x->o.space[0], x->o.space[1]}};
    if (!code) code = vector_file_write(x->path, x->shim, &c, threads, err);
    free(vectors);
    free(ids);
    if (code) return code;
    if (vector_index_open_file(x, &upto, note) != 1) return err_set(err, ERR_IO, "the index just made cannot be used: %s", note);
    drop_tail(x);
    return 0;
}

bool vector_index_wants_file(const struct vector_index *x) {
    return x->path && x->tail * (size_t)x->o.dims * sizeof(float) > x->o.exact_bytes;
}

/* ---- search ---------------------------------------------------------------------------------------------------------------------- */

static void scan(const struct vector_index *x, const float *query, const float *rows, const int64_t *ids, size_t n, int64_t before,
                 struct silo_lists *lists) {
    enum { BLOCK = 64 };
    float dots[BLOCK];
    size_t dims = (size_t)x->o.dims;
    for (size_t from = 0; from < n; from += BLOCK) {
        size_t count = n - from < BLOCK ? n - from : BLOCK;
        vector_dots(query, rows + from * dims, count, dims, dots);
        for (size_t i = 0; i < count; i++) {
            int64_t keyframe = vector_id_keyframe(ids[from + i]);
            if (!before || keyframe < before) silo_lists_add(lists, keyframe, vector_id_level(ids[from + i]), dots[i]);
        }
    }
}

/* The query as weights of the codes: q . v = (q . low) + sum of (q * step) * code. Returns q . low. */
static float weigh(const struct vector_index *x, const float *query) {
    float base = 0;
    for (int k = 0; k < x->o.dims; k++) {
        base += query[k] * x->low[k];
        x->weights[k] = query[k] * x->step[k];
    }
    return base;
}

/* The lists whose centroids are nearest; fewer when there are fewer. */
static int nearest_lists(const struct vector_index *x, int out[MAX_PROBES]) {
    int count = 0;
    vector_code_dots(x->weights, x->centroid_codes, (size_t)x->view.lists, (size_t)x->o.dims, x->scores);
    for (int i = 0; i < x->view.lists; i++) {
        if (count == x->probes && x->scores[i] <= x->scores[out[count - 1]]) continue;
        int at = count < x->probes ? count++ : count - 1;
        for (; at > 0 && x->scores[out[at - 1]] < x->scores[i]; at--) out[at] = out[at - 1];
        out[at] = i;
    }
    return count;
}

/* A place in the file as an id: list and position in it. */
static int64_t place_id(int list, size_t at) { return (int64_t)list << 32 | (int64_t)at; }

/* By codes; the ids of *found are places. */
static void scan_list(const struct vector_index *x, int list, float base, int64_t before, struct silo_lists *found) {
    enum { BLOCK = 64 };
    float dots[BLOCK];
    size_t dims = (size_t)x->o.dims;
    const float *rows;
    const int64_t *ids;
    size_t n = (size_t)x->shim->list(x->file, list, &rows, &ids);
    for (size_t from = 0; from < n; from += BLOCK) {
        size_t count = n - from < BLOCK ? n - from : BLOCK;
        vector_code_dots(x->weights, x->vector_codes + ((size_t)x->first[list] + from) * dims, count, dims, dots);
        for (size_t i = 0; i < count; i++) {
            int64_t id;
            memcpy(&id, ids + from + i, sizeof id); /* may lie unaligned in the file */
            if (!before || vector_id_keyframe(id) < before) silo_lists_add(found, place_id(list, from + i), vector_id_level(id), base + dots[i]);
        }
    }
}

/* What the codes have found, compared exactly. */
static void compare_exactly(const struct vector_index *x, const float *query, const struct silo_lists *found, struct silo_lists *lists) {
    for (int s = 0; s < SILO_COUNT; s++) {
        for (int i = 0; i < found->silo[s].count; i++) {
            int64_t place = found->silo[s].hit[i].id, id;
            const float *rows;
            const int64_t *ids;
            x->shim->list(x->file, (int)(place >> 32), &rows, &ids);
            size_t at = (size_t)(place & 0xFFFFFFFF);
            memcpy(&id, ids + at, sizeof id);
            silo_top_add(&lists->silo[s], vector_id_keyframe(id), vector_dot(query, rows + at * (size_t)x->o.dims, (size_t)x->o.dims));
        }
    }
}

static void search_file(const struct vector_index *x, const float *query, int64_t before, struct silo_lists *lists) {
    struct silo_lists found = {0};
    int probe[MAX_PROBES];
    float base = weigh(x, query);
    int n = nearest_lists(x, probe);
    for (int i = 0; i < n; i++) scan_list(x, probe[i], base, before, &found);
    compare_exactly(x, query, &found, lists);
}

void vector_index_search(const struct vector_index *x, const float *query, int64_t before, struct silo_lists *lists) {
    memset(lists->silo, 0, sizeof lists->silo);
    if (x->file) search_file(x, query, before, lists);
    for (size_t from = 0; from < x->tail; from += CHUNK) {
        size_t count = x->tail - from < CHUNK ? x->tail - from : CHUNK;
        scan(x, query, x->chunks[from / CHUNK], x->ids + from, count, before, lists);
    }
}

void vector_index_stats(const struct vector_index *x, struct vector_index_stats *out) {
    *out = (struct vector_index_stats){.vectors = (int64_t)x->tail, .ram_bytes = x->chunk_count * CHUNK * (size_t)x->o.dims * sizeof(float)};
    if (!x->file) return;
    out->in_file = x->view.vectors;
    out->vectors += x->view.vectors;
    out->lists = x->view.lists;
    out->probes = x->probes;
    out->file_bytes = x->file_bytes;
}
