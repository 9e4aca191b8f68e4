/* Nearest vectors by cosine, for one vector space (one model, one kind of embedding, one game).
 *
 * Few vectors are scanned exactly. Above exact_bytes there is an inverted file (IVF, made by FAISS, mapped from disk): a search reads
 * the lists of the nearest centroids only. Vectors added since it was made are scanned exactly beside it, so nothing is ever
 * missing; when they have become too many the file is made anew (vector_index_rebuild). The file is derived: it can be deleted
 * at any time. Its format: head of vector_index.c. One user at a time (memory.h locks). */
#ifndef MEMORY_VECTOR_INDEX_H
#define MEMORY_VECTOR_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "memory/silo.h"

/* An id holds the silo level of its keyframe in the low three bits, so that a scan can sort by silo. */
static inline int64_t vector_id(int64_t keyframe, int level) { return keyframe << 3 | level; }
static inline int64_t vector_id_keyframe(int64_t id) { return id >> 3; }
static inline int vector_id_level(int64_t id) { return (int)(id & 7) < SILO_COUNT ? (int)(id & 7) : SILO_COUNT - 1; }

/* Measured (bench/results/memory.md): up to here an exact scan takes about a millisecond. */
enum { VECTOR_EXACT_BYTES = 16 << 20 };

struct vector_index_options {
    const char *path;        /* of the file; NULL: never one */
    int dims;
    uint64_t space[2];       /* identity of the vector space and its store: another one's file is dropped */
    size_t exact_bytes;      /* 0 = VECTOR_EXACT_BYTES */
    int probes;              /* lists read by a search; 0 = chosen when the file is made */
};

struct vector_index;
int vector_index_new(const struct vector_index_options *o, struct vector_index **out, struct err *err);
void vector_index_free(struct vector_index *x);

/* Maps and checks the file; reading all of it for the checksum warms it. Call before adding. 1: in use, it holds all vectors with
 * keyframes up to *upto; 0: there is none, or it was damaged or foreign and has been deleted (then *why is a sentence in note), or
 * FAISS is not there (also a sentence; the file stays). */
int vector_index_open_file(struct vector_index *x, int64_t *upto, char note[600]);
/* Deletes the file in use; its vectors must be added again. */
void vector_index_forget_file(struct vector_index *x);
/* v: unit length. An id that is in already must not be added. */
int vector_index_add(struct vector_index *x, int64_t id, const float *v, struct err *err);
/* Does enough lie outside the file to make it anew? */
bool vector_index_wants_file(const struct vector_index *x);
/* Makes the file of all vectors (those in the present file and those added) and uses it. FAISS missing: ERR_MISSING, the sentence
 * says which library; the index goes on exactly. */
int vector_index_rebuild(struct vector_index *x, int threads, struct err *err);

/* Fills lists->silo with the nearest per silo among keyframes before `before` (0: all). */
void vector_index_search(const struct vector_index *x, const float *query, int64_t before, struct silo_lists *lists);

struct vector_index_stats {
    int64_t vectors, in_file;
    int lists, probes;       /* 0: no file in use */
    size_t file_bytes, ram_bytes;
};
void vector_index_stats(const struct vector_index *x, struct vector_index_stats *out);

/* The shim library, loaded on the first call; NULL and a sentence naming what is missing. PMD_FAISS_LIBRARY names another file. */
struct faiss_shim;
const struct faiss_shim *faiss_library(struct err *err);

#endif
