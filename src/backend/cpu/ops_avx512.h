/* One table of AVX-512 operations; the including file names it and says whether the machine multiplies bf16 (AVX512_BF16). */
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "backend/cpu/number.h"
#include "backend/cpu/ops.h"

#if defined(__x86_64__)
#define AVX512_STRING(s) #s
#define AVX512_PRAGMA(s) _Pragma(AVX512_STRING(s))
AVX512_PRAGMA(GCC target(AVX512_TARGET))

#define W 16
#define V_FMA(a, b, c) ((vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define V_MAX(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define V_MIN(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define V_RINT(a) ((vf)_mm512_roundscale_ps((__m512)(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define V_LDEXP(p, n) ((vf)_mm512_scalef_ps((__m512)(p), (__m512)(n)))
#include "backend/cpu/ops_simd.h"

/* DOT: c + the 32 products of bf16 a and b, in 16 fp32 lanes. ROUND2: 32 floats to bf16, a first. */
#ifdef AVX512_BF16
#define DOT(c, a, b) _mm512_dpbf16_ps(c, (__m512bh)(a), (__m512bh)(b))
#define ROUND2(a, b) ((__m512i)_mm512_cvtne2ps_pbh(b, a))
#else
static inline __m512 avx512_dot(__m512 c, __m512i a, __m512i b) {
    const __m512i odd = _mm512_set1_epi32((int)0xffff0000);
    c = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), c);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, odd)), _mm512_castsi512_ps(_mm512_and_si512(b, odd)), c);
}
static inline __m512i avx512_round2(__m512 a, __m512 b) {
    __m256i lo = _mm512_cvtepi32_epi16((__m512i)(v_round_bits((vf)a) >> 16)), hi = _mm512_cvtepi32_epi16((__m512i)(v_round_bits((vf)b) >> 16));
    return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}
#define DOT(c, a, b) avx512_dot(c, (__m512i)(a), (__m512i)(b))
#define ROUND2(a, b) avx512_round2(a, b)
#endif
#include "backend/cpu/linear_avx512.h"
#ifdef AVX512_AMX
#include "backend/cpu/linear_amx.h"
#endif
#define EACH16(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#include "backend/cpu/attention_avx512.h"

static void linear(float *y, int64_t ldy, const float *x, const uint16_t *xb, int64_t ldx, int rows, const struct linear_weight *w,
                   int64_t o0, int64_t o1, enum precision precision, void *scratch) {
    if (precision == PRECISION_FP8_E4M3) linear_e4m3(y, ldy, x, xb, ldx, rows, w, o0, o1, scratch);
#ifdef AVX512_AMX
    else if (precision == PRECISION_BF16) linear_amx(y, ldy, xb, ldx, rows, w, o0, o1, scratch);
#else
    else if (precision == PRECISION_BF16) linear_bf16(y, ldy, xb, ldx, rows, w, o0, o1, scratch);
#endif
    else simd_linear_f32(y, ldy, x, xb, ldx, rows, w, o0, o1, false, scratch);
}

#define AVX512_JOIN2(a, b) a##b
#define AVX512_JOIN(a, b) AVX512_JOIN2(a, b)
#define AVX512_TEXT2(s) #s
#define AVX512_TEXT(s) AVX512_TEXT2(s)
const struct cpu_ops AVX512_JOIN(cpu_ops_, AVX512_NAME) = {
    .name = AVX512_TEXT(AVX512_NAME),
#ifdef AVX512_AMX
    .decode_outputs = BLOCK,
#endif
    .linear = linear,
    .round_bf16 = simd_round_bf16,
    .quantise_e4m3 = simd_quantise_e4m3,
    .rms_norm = simd_rms_norm,
    .layer_norm = simd_layer_norm,
    .silu_mul = simd_silu_mul,
    .gelu_tanh = simd_gelu_tanh,
    .gelu_erf = simd_gelu_erf,
    .rotate = simd_rotate,
    .attend = attend,
    .attend_rows = attend_rows,
    .attend_full = attend_full,
};
#endif
