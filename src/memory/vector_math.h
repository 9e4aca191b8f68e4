/* Arithmetic on float vectors, the fastest variant that the processor has (AVX-512, AVX2 with FMA, plain C), chosen at the first
 * use. The variants add in different orders: results agree to about 1e-6 of the vectors' lengths, not to the bit. */
#ifndef MEMORY_VECTOR_MATH_H
#define MEMORY_VECTOR_MATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

float vector_dot(const float *a, const float *b, size_t n);
/* out[i] = rows[i] . q for rows of n floats one after the other: what a scan does, four rows at a time. */
void vector_dots(const float *q, const float *rows, size_t row_count, size_t n, float *out);
/* out[i] = sum over k of weights[k] * codes[i * n + k]: a scan of vectors kept as bytes, a quarter of the memory traffic. */
void vector_code_dots(const float *weights, const uint8_t *codes, size_t row_count, size_t n, float *out);
/* Scales to length 1. False (and unchanged) for a vector that is zero or holds a NaN or infinity. */
bool vector_normalise(float *v, size_t n);

/* "avx512", "avx2" or "c"; vector_limit chooses at most this one (tests, benchmarks), false when the processor lacks it. */
const char *vector_kernels(void);
bool vector_limit(const char *name);

#endif
