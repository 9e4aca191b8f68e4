/* Small pools of random numbers that are quantised once and of which the weights of a random checkpoint are slices: writing then goes
 * at the speed of the disk. */
#ifndef BENCH_RANDOM_NUMBERS_H
#define BENCH_RANDOM_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* POOL_PRIME: dense and FP8 values go round after so many, so that no two rows of a matrix are alike. Rows of the vocabulary that are
 * give equal logits, of which a sampler must look at all: no checkpoint of the Hub makes it. */
enum { POOL_COUNT = 1 << 20, POOL_PRIME = POOL_COUNT - 3, POOL_NF4_BLOCKS = POOL_COUNT / 64, POOL_NF4_GROUPS = POOL_NF4_BLOCKS / 256, POOL_DENSE_KEPT = 16 };

struct random_pools {
    uint64_t state;
    float *normal;          /* (POOL_COUNT) */
    uint8_t *fp8;           /* (POOL_COUNT) e4m3 of normal / 4.2 * 448 */
    uint8_t *nf4;           /* (POOL_COUNT / 2) codes, two a byte */
    uint8_t *absmax_code;   /* (POOL_NF4_BLOCKS) of the absmax less its mean, over nested */
    float nested[POOL_NF4_GROUPS], offset;
    float quant_map[16], nested_map[256];
    struct {
        float deviation;
        uint16_t *values;   /* (POOL_COUNT) bf16 of normal * deviation */
    } dense[POOL_DENSE_KEPT];
    int dense_next;
};

int random_pools_new(struct random_pools *p, uint64_t seed, struct err *err);
void random_pools_free(struct random_pools *p);
uint64_t random_bits64(struct random_pools *p);
/* [0, 1) */
double random_uniform(struct random_pools *p);
/* bf16 of normal numbers of this deviation; NULL when out of memory. Valid until POOL_DENSE_KEPT others were asked for. */
const uint16_t *random_dense(struct random_pools *p, float deviation);

#endif
