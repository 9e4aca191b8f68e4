/* The best time of a bf16 product by oneDNN, 0 when it is not built in. */
#ifndef BENCH_ONEDNN_H
#define BENCH_ONEDNN_H

#include <stdint.h>

double bench_seconds(void); /* the clock, in bench_ops.c */
double onednn_seconds(int64_t m, int64_t n, int64_t k, int repeats);

#endif
