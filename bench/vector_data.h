/* The generator of test vectors, stated here because recall means nothing without it. Deterministic: splitmix64 and Box-Muller.
 *
 * `clusters` centres, each coordinate N(0, 1). A vector: a centre (cluster c has weight 1 / (c + 10): some places are
 * seen often, most seldom) + spread * a sum of `rank` directions (coordinates N(0, 1), one of 64 sets of them for each cluster: how
 * things look as one walks about in one place) with weights N(0, 1 / rank) + noise * N(0, 1) in each coordinate
 * (what is different in every picture). Then scaled to length 1. Queries are fresh draws. */
#ifndef BENCH_VECTOR_DATA_H
#define BENCH_VECTOR_DATA_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "memory/vector_math.h"

struct vector_data {
    int dims, clusters, rank;
    float spread, noise;
    uint64_t random;
    float *centres;  /* (clusters, dims) */
    float *bases;    /* (64, rank, dims) */
    double *weights; /* (clusters), cumulated */
};

static inline uint64_t data_next(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static inline double data_uniform(uint64_t *state) { return ((double)(data_next(state) >> 11) + 0.5) * 0x1p-53; }
static inline void data_normals(uint64_t *state, float *out, size_t n, float scale) {
    for (size_t i = 0; i < n; i += 2) {
        double r = sqrt(-2 * log(data_uniform(state))), a = 6.283185307179586 * data_uniform(state);
        out[i] = scale * (float)(r * cos(a));
        if (i + 1 < n) out[i + 1] = scale * (float)(r * sin(a));
    }
}

enum { DATA_BASES = 64, DATA_RANK_MAX = 256 };

static inline int data_open(struct vector_data *d, int dims, int clusters, int rank, float spread, float noise, uint64_t seed) {
    *d = (struct vector_data){dims, clusters, rank, spread, noise, seed, NULL, NULL, NULL};
    size_t n = (size_t)dims;
    d->centres = malloc((size_t)clusters * n * sizeof(float));
    d->bases = malloc((size_t)DATA_BASES * (size_t)rank * n * sizeof(float));
    d->weights = malloc((size_t)clusters * sizeof(double));
    if (!d->centres || !d->bases || !d->weights || rank > DATA_RANK_MAX) return -1;
    data_normals(&d->random, d->centres, (size_t)clusters * n, 1);
    data_normals(&d->random, d->bases, (size_t)DATA_BASES * (size_t)rank * n, 1);
    double sum = 0;
    for (int c = 0; c < clusters; c++) d->weights[c] = sum += 1.0 / (c + 10);
    return 0;
}
static inline void data_close(struct vector_data *d) {
    free(d->centres);
    free(d->bases);
    free(d->weights);
}

static inline void data_vector(struct vector_data *d, float *out) {
    size_t n = (size_t)d->dims;
    double pick = data_uniform(&d->random) * d->weights[d->clusters - 1];
    int c = 0;
    while (d->weights[c] < pick) c++;
    float z[DATA_RANK_MAX];
    data_normals(&d->random, z, (size_t)d->rank, d->spread / sqrtf((float)d->rank));
    data_normals(&d->random, out, n, d->noise);
    for (size_t i = 0; i < n; i++) out[i] += d->centres[(size_t)c * n + i];
    for (int r = 0; r < d->rank; r++) {
        const float *b = d->bases + ((size_t)(c % DATA_BASES) * (size_t)d->rank + (size_t)r) * n;
        for (size_t i = 0; i < n; i++) out[i] += z[r] * b[i];
    }
    vector_normalise(out, n);
}

#endif
