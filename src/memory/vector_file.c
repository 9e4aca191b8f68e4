/* The index file, format 1 (little endian), written to a temporary file, brought to the disk and renamed:
 *
 *     0  8   "PMDIVF1\n"
 *     8  4   dims           the space's
 *    12  4   lists          of the IVF
 *    16  4   probes         lists that a search reads: chosen when the file was made
 *    20  4   zero
 *    24  8   vectors
 *    32  8   upto           every vector of the store with a keyframe number up to this is in the file
 *    40  16  space          identity of store, model, kind and game
 *    56  8   start          where FAISS's index begins (its first list is aligned to 64 bytes)
 *    64  8   codes          where the codes begin (multiple of 64)
 *    72  8   size           of the file
 *    80  16  XXH3-128 of bytes [128, size)
 *    96  16  XXH3-128 of bytes [0, 96)
 *   112  16  zero
 *   128      zeros up to start, then FAISS's serialised IndexIVFFlat, zeros up to codes, then
 *   codes    float low[dims], float step[dims], then one byte a number, (lists, dims) of the centroids and (vectors, dims) of the
 *            vectors in the order of the lists: number = low + step * byte
 *
 * Valid if and only if both hashes fit, size is the file's, and dims and space are the asked ones. All is checked before FAISS sees
 * a byte; reading it all for the hash is also what warms the file cache. What is not valid is deleted and made again.
 */
#include "memory/vector_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/file.h"

enum { HEAD_HASHED = 96 };
static const char magic[8] = "PMDIVF1\n";

static void hash_head(const struct vector_file_head *h, uint64_t out[2]) {
    XXH128_hash_t hash = XXH3_128bits(h, HEAD_HASHED);
    out[0] = hash.low64, out[1] = hash.high64;
}

const char *vector_file_check(const void *data, size_t bytes, int dims, const uint64_t space[2], struct vector_file_head *h) {
    uint64_t hash[2];
    if (bytes < VECTOR_FILE_HEAD) return "it is too short";
    memcpy(h, data, sizeof *h);
    if (memcmp(h->magic, magic, sizeof magic)) return "it does not begin like one";
    hash_head(h, hash);
    if (memcmp(hash, h->head_hash, sizeof hash)) return "the checksum of its head does not fit";
    if (h->size != (int64_t)bytes) return "it was cut short or made longer";
    if (h->dims != (uint32_t)dims || memcmp(h->space, space, sizeof h->space)) return "it belongs to another store, model or game";
    if (h->lists < 1 || h->lists > MAX_LISTS || h->probes < 1 || h->probes > MAX_PROBES || h->start < VECTOR_FILE_HEAD || h->start >= h->codes || h->vectors < 1 ||
        h->codes % 64 || h->codes >= h->size || (h->size - h->codes) / h->dims != 8 + (int64_t)h->lists + h->vectors || (h->size - h->codes) % h->dims) {
        return "its head makes no sense";
    }
    XXH128_hash_t body = XXH3_128bits((const char *)data + VECTOR_FILE_HEAD, bytes - VECTOR_FILE_HEAD);
    if (body.low64 != h->body_hash[0] || body.high64 != h->body_hash[1]) return "its checksum does not fit";
    return NULL;
}

/* Lists: three times the square root, but at least 30 vectors each; probes: one in 80, at least 8 (recall and time of other choices:
 * bench/results/memory.md). */
static int lists_for(int64_t n) {
    int64_t lists = (int64_t)(3 * sqrt((double)n));
    if (lists > n / 30) lists = n / 30;
    return lists < 1 ? 1 : lists > MAX_LISTS ? MAX_LISTS : (int)lists;
}
static int probes_for(int lists) {
    int probes = (lists + 79) / 80;
    return probes < 8 ? 8 : probes > MAX_PROBES ? MAX_PROBES : probes;
}

/* The range of each dimension, over all vectors. */
static void measure_range(const float *vectors, int64_t n, size_t dims, float *low, float *step) {
    memcpy(low, vectors, dims * sizeof *low);
    memcpy(step, vectors, dims * sizeof *step);
    for (int64_t i = 1; i < n; i++) {
        const float *v = vectors + (size_t)i * dims;
        for (size_t k = 0; k < dims; k++) low[k] = v[k] < low[k] ? v[k] : low[k], step[k] = v[k] > step[k] ? v[k] : step[k];
    }
    for (size_t k = 0; k < dims; k++) step[k] = (step[k] - low[k]) / 255;
}

static int write_coded(FILE *f, const float *rows, int64_t n, size_t dims, const float *low, const float *step, uint8_t *line) {
    for (int64_t i = 0; i < n; i++) {
        const float *v = rows + (size_t)i * dims;
        for (size_t k = 0; k < dims; k++) {
            float code = step[k] > 0 ? (v[k] - low[k]) / step[k] + 0.5f : 0;
            line[k] = (uint8_t)(code < 0 ? 0 : code > 255 ? 255 : code);
        }
        if (fwrite(line, 1, dims, f) != dims) return -1;
    }
    return 0;
}

/* Appends the codes of the index that was written at `start`. vectors: all of them, in any order. */
static int write_codes(const struct faiss_shim *shim, FILE *f, const char *path, const float *vectors, struct vector_file_head *h, struct err *err) {
    size_t dims = h->dims;
    char message[FAISS_MESSAGE];
    struct faiss_index *index = NULL;
    struct faiss_view view;
    if (fflush(f) || fseek(f, h->start, SEEK_SET)) return err_set(err, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    FILE *again = fopen(path, "rbe"); /* FAISS reads from a stream of its own */
    int code = again && !fseek(again, h->start, SEEK_SET) ? 0 : err_set(err, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    if (!code && shim->open(again, &index, &view, message)) code = err_set(err, ERR_IO, "%s: FAISS cannot read what it wrote: %s", path, message);
    if (again) fclose(again);
    float *range = malloc(2 * dims * sizeof *range);
    uint8_t *line = malloc(dims);
    if (!code && (!range || !line)) code = err_set(err, ERR_MEMORY, "out of memory for an index");
    if (!code) {
        bool ok = fseek(f, 0, SEEK_END) == 0;
        measure_range(vectors, h->vectors, dims, range, range + dims);
        for (h->codes = ftell(f); ok && h->codes % 64; h->codes++) ok = fputc(0, f) != EOF;
        ok = ok && fwrite(range, sizeof *range, 2 * dims, f) == 2 * dims && !write_coded(f, view.centroids, view.lists, dims, range, range + dims, line);
        for (int i = 0; ok && i < view.lists; i++) {
            const float *rows;
            const int64_t *ids;
            int64_t count = shim->list(index, i, &rows, &ids);
            ok = !write_coded(f, rows, count, dims, range, range + dims, line);
        }
        if (!ok) code = err_set(err, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    }
    if (index) shim->close(index);
    free(range);
    free(line);
    return code;
}

/* Hashes what was written, puts the head before it and brings both to the disk. */
static int finish_file(FILE *f, const char *path, struct vector_file_head *h, struct err *err) {
    if (fflush(f) || (h->size = ftell(f)) < 0) return err_set(err, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    struct file_map map;
    if (file_map_open(path, &map, err)) return err->code;
    XXH128_hash_t body = XXH3_128bits((const char *)map.data + VECTOR_FILE_HEAD, map.bytes - VECTOR_FILE_HEAD);
    file_map_close(&map);
    h->body_hash[0] = body.low64, h->body_hash[1] = body.high64;
    hash_head(h, h->head_hash);
    if (fseek(f, 0, SEEK_SET) || fwrite(h, sizeof *h, 1, f) != 1 || fflush(f) || fsync(fileno(f))) {
        return err_set(err, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    }
    return 0;
}

static int rename_file(const char *from, const char *to, struct err *err) {
    if (rename(from, to)) return err_set(err, ERR_IO, "%s: cannot rename to %s: %s", from, to, strerror(errno));
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", to);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int code = fd < 0 || fsync(fd) ? err_set(err, ERR_IO, "%s: cannot bring to the disk: %s", folder, strerror(errno)) : 0;
    if (fd >= 0) close(fd);
    return code;
}

static int write_part(const char *path, const struct faiss_shim *shim, const struct vector_file_content *c, int threads, struct err *err) {
    FILE *f = fopen(path, "w+be");
    if (!f) return err_set(err, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    int lists = lists_for(c->count);
    struct vector_file_head h = {.dims = (uint32_t)c->dims, .lists = (uint32_t)lists, .probes = (uint32_t)probes_for(lists), .vectors = c->count,
                                 .upto = c->upto, .space = {c->space[0], c->space[1]}}, empty = {0};
    memcpy(h.magic, magic, sizeof magic);
    char message[FAISS_MESSAGE];
    int code = fwrite(&empty, sizeof empty, 1, f) == 1 ? 0 : err_set(err, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    if (!code && shim->build(c->vectors, c->ids, c->count, c->dims, lists, threads, f, &h.start, message)) {
        code = err_set(err, ERR_IO, "%s: FAISS could not make the index: %s", path, message);
    }
    if (!code) code = write_codes(shim, f, path, c->vectors, &h, err);
    if (!code) code = finish_file(f, path, &h, err);
    if (fclose(f) && !code) code = err_set(err, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    return code;
}

int vector_file_write(const char *path, const struct faiss_shim *shim, const struct vector_file_content *c, int threads, struct err *err) {
    char part[PATH_MAX];
    if (snprintf(part, sizeof part, "%s.%ld.part", path, (long)getpid()) >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "%s: path too long", path);
    int code = write_part(part, shim, c, threads, err);
    if (!code) code = rename_file(part, path, err);
    if (code) unlink(part);
    return code;
}
