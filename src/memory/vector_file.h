/* The file of a vector index: its head, and writing it. Format: head of vector_file.c. Private to vector_index.c. */
#ifndef MEMORY_VECTOR_FILE_H
#define MEMORY_VECTOR_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "memory/faiss_shim.h"

enum { VECTOR_FILE_HEAD = 128, MAX_LISTS = 65536, MAX_PROBES = 256 };

struct vector_file_head {
    char magic[8];
    uint32_t dims, lists, probes, zero;
    int64_t vectors, upto;
    uint64_t space[2];
    int64_t start, codes, size;
    uint64_t body_hash[2], head_hash[2], rest[2];
};
_Static_assert(sizeof(struct vector_file_head) == VECTOR_FILE_HEAD, "the head is written as it lies in memory");

/* Is this a whole file with a head that makes sense, of these dimensions and this space? NULL, or what is wrong; *h is the head. */
const char *vector_file_check(const void *data, size_t bytes, int dims, const uint64_t space[2], struct vector_file_head *h);

struct vector_file_content {
    const float *vectors;   /* (count, dims) */
    const int64_t *ids;
    int64_t count, upto;
    int dims;
    uint64_t space[2];
};
/* Makes the index and puts it at path in one piece: a temporary file beside it, fsync, rename, fsync of the folder. */
int vector_file_write(const char *path, const struct faiss_shim *shim, const struct vector_file_content *c, int threads, struct err *err);

#endif
