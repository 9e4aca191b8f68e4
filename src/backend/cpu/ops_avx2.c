/* The operations for AVX2 with FMA: everything through ops_simd.h, weights expanded to fp32 block by block. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/number.h"
#include "backend/cpu/ops.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")

#define W 8
#define V_FMA(a, b, c) ((vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define V_MAX(a, b) ((vf)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define V_MIN(a, b) ((vf)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define V_RINT(a) ((vf)_mm256_round_ps((__m256)(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
/* In two steps, so that results below 2^-126 come out right. */
#define V_LDEXP(p, n)                                                              \
    __extension__({                                                                \
        vi k = __builtin_convertvector(n, vi), half = k >> 1;                      \
        (p) * (vf)((half + 127) << 23) * (vf)((k - half + 127) << 23);             \
    })
#include "backend/cpu/ops_simd.h"


static void linear(float *y, int64_t ldy, const float *x, const uint16_t *xb, int64_t ldx, int rows, const struct linear_weight *w,
                   int64_t o0, int64_t o1, enum precision precision, void *scratch) {
    if (precision == PRECISION_FP8_E4M3) simd_linear_e4m3(y, ldy, x, xb, ldx, rows, w, o0, o1, scratch);
    else simd_linear_f32(y, ldy, x, xb, ldx, rows, w, o0, o1, precision == PRECISION_BF16, scratch);
}

const struct cpu_ops cpu_ops_avx2 = {
    .name = "avx2",
    .linear = linear,
    .round_bf16 = simd_round_bf16,
    .quantise_e4m3 = simd_quantise_e4m3,
    .rms_norm = simd_rms_norm,
    .layer_norm = simd_layer_norm,
    .silu_mul = simd_silu_mul,
    .gelu_tanh = simd_gelu_tanh,
    .gelu_erf = simd_gelu_erf,
    .rotate = simd_rotate,
    .attend = simd_attend,
    .attend_rows = simd_attend_rows,
    .attend_full = simd_attend_full,
};
#endif
