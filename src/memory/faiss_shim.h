/* What the program needs of FAISS, as C: train and write an inverted file, and open one mapped. Built as its own library
 * (libpmd-faiss.so, with FAISS inside and OpenBLAS beside it) that vector_index.c loads when an index is needed; the program
 * itself starts without either. The scan of the lists is not here: Debian builds FAISS for SSE2, so vector_math.h scans them.
 * No exception leaves the shim: a call that fails returns -1 and says why in message. */
#ifndef MEMORY_FAISS_SHIM_H
#define MEMORY_FAISS_SHIM_H

#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FAISS_SHIM_ABI = 1, FAISS_MESSAGE = 300 };

struct faiss_index;

/* A view of an opened index; pointers live until it is closed. */
struct faiss_view {
    int dims, lists;
    int64_t vectors;
    const float *centroids; /* (lists, dims) */
};

struct faiss_shim {
    int abi;
    /* Trains `lists` centroids on the vectors (of unit length; spherical k-means) and writes an IVFFlat index of all of them at f's position,
     * after zeros that make the first list begin at a multiple of 64 bytes of the file; *start is where the index begins. */
    int (*build)(const float *vectors, const int64_t *ids, int64_t n, int dims, int lists, int threads, FILE *f, int64_t *start, char *message);
    /* Opens the index at f's position with its lists mapped from the file; f may be closed afterwards. */
    int (*open)(FILE *f, struct faiss_index **out, struct faiss_view *view, char *message);
    /* One inverted list: *vectors (count, dims) and *ids. Returns count. */
    int64_t (*list)(const struct faiss_index *index, int number, const float **vectors, const int64_t **ids);
    /* FAISS's own search by inner product, the yardstick of tests and benchmarks. ids[k] is -1 where there are fewer. */
    int (*search)(const struct faiss_index *index, const float *query, int k, int probes, float *products, int64_t *ids, char *message);
    void (*close)(struct faiss_index *index);
};
/* The only symbol of the library. */
const struct faiss_shim *pmd_faiss_shim(void);

#ifdef __cplusplus
}
#endif
#endif
