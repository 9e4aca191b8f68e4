/* A scan reads each row once: 2 operations for 4 bytes, so memory bandwidth is the limit (2,048 floats: 8 KiB, about 0.5 us at
 * 16 GB/s). Four rows at a time keep four streams of cache lines in flight. */
#include "memory/vector_math.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

typedef float dot_function(const float *a, const float *b, size_t n);
typedef void dot4_function(const float *q, const float *rows, size_t n, float out[4]);
typedef float code_function(const float *weights, const uint8_t *codes, size_t n);

static float dot_c(const float *a, const float *b, size_t n) {
    float sum[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (int k = 0; k < 4; k++) sum[k] += a[i + k] * b[i + k];
    }
    for (; i < n; i++) sum[0] += a[i] * b[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static void dot4_c(const float *q, const float *rows, size_t n, float out[4]) {
    for (int r = 0; r < 4; r++) out[r] = dot_c(q, rows + (size_t)r * n, n);
}

static float code_c(const float *weights, const uint8_t *codes, size_t n) {
    float sum[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (int k = 0; k < 4; k++) sum[k] += weights[i + k] * (float)codes[i + k];
    }
    for (; i < n; i++) sum[0] += weights[i] * (float)codes[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

__attribute__((target("avx2,fma"))) static float sum_256(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

__attribute__((target("avx2,fma"))) static float dot_avx2(const float *a, const float *b, size_t n) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s1);
        s2 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16), s2);
        s3 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24), s3);
    }
    float sum = sum_256(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)));
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

__attribute__((target("avx2,fma"))) static void dot4_avx2(const float *q, const float *rows, size_t n, float out[4]) {
    const float *r0 = rows, *r1 = rows + n, *r2 = rows + 2 * n, *r3 = rows + 3 * n;
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 x = _mm256_loadu_ps(q + i);
        s0 = _mm256_fmadd_ps(x, _mm256_loadu_ps(r0 + i), s0);
        s1 = _mm256_fmadd_ps(x, _mm256_loadu_ps(r1 + i), s1);
        s2 = _mm256_fmadd_ps(x, _mm256_loadu_ps(r2 + i), s2);
        s3 = _mm256_fmadd_ps(x, _mm256_loadu_ps(r3 + i), s3);
    }
    out[0] = sum_256(s0), out[1] = sum_256(s1), out[2] = sum_256(s2), out[3] = sum_256(s3);
    for (; i < n; i++) out[0] += q[i] * r0[i], out[1] += q[i] * r1[i], out[2] += q[i] * r2[i], out[3] += q[i] * r3[i];
}

__attribute__((target("avx2,fma"))) static inline __m256 floats_avx2(const uint8_t *codes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)codes)));
}

__attribute__((target("avx2,fma"))) static float code_avx2(const float *weights, const uint8_t *codes, size_t n) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(weights + i), floats_avx2(codes + i), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(weights + i + 8), floats_avx2(codes + i + 8), s1);
    }
    float sum = sum_256(_mm256_add_ps(s0, s1));
    for (; i < n; i++) sum += weights[i] * (float)codes[i];
    return sum;
}

__attribute__((target("avx512f"))) static float dot_avx512(const float *a, const float *b, size_t n) {
    __m512 s0 = _mm512_setzero_ps(), s1 = s0;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        s0 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), s0);
        s1 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16), s1);
    }
    for (; i < n; i += 16) {
        __mmask16 rest = n - i >= 16 ? 0xFFFF : (__mmask16)((1u << (n - i)) - 1);
        s0 = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(rest, a + i), _mm512_maskz_loadu_ps(rest, b + i), s0);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(s0, s1));
}

__attribute__((target("avx512f"))) static void dot4_avx512(const float *q, const float *rows, size_t n, float out[4]) {
    const float *r0 = rows, *r1 = rows + n, *r2 = rows + 2 * n, *r3 = rows + 3 * n;
    __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = n - i >= 16 ? 0xFFFF : (__mmask16)((1u << (n - i)) - 1);
        __m512 x = _mm512_maskz_loadu_ps(m, q + i);
        s0 = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(m, r0 + i), s0);
        s1 = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(m, r1 + i), s1);
        s2 = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(m, r2 + i), s2);
        s3 = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(m, r3 + i), s3);
    }
    out[0] = _mm512_reduce_add_ps(s0), out[1] = _mm512_reduce_add_ps(s1);
    out[2] = _mm512_reduce_add_ps(s2), out[3] = _mm512_reduce_add_ps(s3);
}

__attribute__((target("avx512f"))) static inline __m512 floats_avx512(const uint8_t *codes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes)));
}

__attribute__((target("avx512f"))) static float code_avx512(const float *weights, const uint8_t *codes, size_t n) {
    __m512 s0 = _mm512_setzero_ps(), s1 = s0;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        s0 = _mm512_fmadd_ps(_mm512_loadu_ps(weights + i), floats_avx512(codes + i), s0);
        s1 = _mm512_fmadd_ps(_mm512_loadu_ps(weights + i + 16), floats_avx512(codes + i + 16), s1);
    }
    float sum = _mm512_reduce_add_ps(_mm512_add_ps(s0, s1));
    for (; i < n; i++) sum += weights[i] * (float)codes[i];
    return sum;
}

struct kernels {
    const char *name;
    dot_function *dot;
    dot4_function *dot4;
    code_function *code;
};
static const struct kernels variants[] = {{"c", dot_c, dot4_c, code_c}, {"avx2", dot_avx2, dot4_avx2, code_avx2},
                                          {"avx512", dot_avx512, dot4_avx512, code_avx512}};
static const struct kernels *chosen; /* every thread that finds NULL stores the same pointer */

static int best_variant(void) {
    if (__builtin_cpu_supports("avx512f")) return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static const struct kernels *kernels(void) {
    const struct kernels *k = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (!k) __atomic_store_n(&chosen, k = &variants[best_variant()], __ATOMIC_RELAXED);
    return k;
}

const char *vector_kernels(void) { return kernels()->name; }

bool vector_limit(const char *name) {
    for (int i = 0; i <= best_variant(); i++) {
        if (!strcmp(variants[i].name, name)) return __atomic_store_n(&chosen, &variants[i], __ATOMIC_RELAXED), true;
    }
    return false;
}

float vector_dot(const float *a, const float *b, size_t n) { return kernels()->dot(a, b, n); }

void vector_dots(const float *q, const float *rows, size_t row_count, size_t n, float *out) {
    const struct kernels *k = kernels();
    size_t i = 0;
    for (; i + 4 <= row_count; i += 4) k->dot4(q, rows + i * n, n, out + i);
    for (; i < row_count; i++) out[i] = k->dot(q, rows + i * n, n);
}

void vector_code_dots(const float *weights, const uint8_t *codes, size_t row_count, size_t n, float *out) {
    const struct kernels *k = kernels();
    for (size_t i = 0; i < row_count; i++) out[i] = k->code(weights, codes + i * n, n);
}

bool vector_normalise(float *v, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)v[i] * v[i];
    if (!(sum > 0) || !isfinite(sum)) return false;
    float scale = (float)(1 / sqrt(sum));
    for (size_t i = 0; i < n; i++) v[i] *= scale;
    return true;
}
