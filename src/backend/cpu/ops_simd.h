/* Operations on vectors of W floats, written once with gcc's vector types and compiled for AVX2 (W = 8) and AVX-512 (W = 16): the
 * including file sets the target, W, and the few macros that have no portable form: V_FMA, V_MAX, V_MIN, V_RINT,
 * V_LDEXP (p * 2^n for whole n).
 *
 * Sums run in W lanes in a fixed order over the row and the lanes are added by halving, so a row's result depends on nothing but
 * the row. Everything here is static: one copy per instruction set. */

typedef float vf __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef float vf_any __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(2 * W), aligned(2), may_alias));

static inline vf v_all(float f) { return f - (vf){0}; }
static inline vf v_load(const float *p) { return *(const vf_any *)p; }
static inline void v_store(float *p, vf v) { *(vf_any *)p = v; }
static inline vf v_load_part(const float *p, int64_t n) {
    vf v = {0};
    memcpy(&v, p, (size_t)n * 4);
    return v;
}
static inline void v_store_part(float *p, vf v, int64_t n) { memcpy(p, &v, (size_t)n * 4); }
static inline vf v_from_bf16(const uint16_t *p) { return (vf)(__builtin_convertvector(*(const vh_any *)p, vu) << 16); }

/* Bits of v rounded to bf16 (upper half), NaN kept. */
static inline vu v_round_bits(vf v) {
    vu u = (vu)v, nan = (vu)(v != v), rounded = u + 0x7fff + (u >> 16 & 1);
    return ((rounded & ~nan) | ((u | 0x400000) & nan)) & 0xffff0000u;
}
static inline vf v_round(vf v) { return (vf)v_round_bits(v); }

/* Lanes added by halving: l + (l + W/2), and so on. */
static inline float v_sum(vf v) {
    float f[W];
    memcpy(f, &v, sizeof f);
    for (int n = W / 2; n; n /= 2)
        for (int i = 0; i < n; i++) f[i] += f[i + n];
    return f[0];
}
static inline float v_most(vf v) {
    float f[W], most;
    memcpy(f, &v, sizeof f);
    most = f[0];
    for (int i = 1; i < W; i++)
        if (!(f[i] <= most)) most = f[i]; /* a NaN wins */
    return most;
}

/* exp(x): x = n ln2 + r with |r| <= ln2 / 2, a polynomial of degree 7 in r (Taylor; remainder below 2^-27), times
 * 2^n. Relative error below 1.2e-7 (the functions built on it are tested); 0 below -104, infinity above 88.7, NaN kept. */
static inline vf v_exp(vf x) {
    x = V_MAX(v_all(-104.0f), x);
    x = V_MIN(v_all(89.0f), x);
    vf n = V_RINT(x * 1.44269504088896341f);
    vf r = V_FMA(n, v_all(-0.693145751953125f), x);
    r = V_FMA(n, v_all(-1.42860682030941723e-6f), r);
    vf p = V_FMA(r, v_all(1.0f / 5040), v_all(1.0f / 720));
    p = V_FMA(p, r, v_all(1.0f / 120));
    p = V_FMA(p, r, v_all(1.0f / 24));
    p = V_FMA(p, r, v_all(1.0f / 6));
    p = V_FMA(p, r, v_all(0.5f));
    p = V_FMA(p, r, v_all(1.0f));
    p = V_FMA(p, r, v_all(1.0f));
    return V_LDEXP(p, n);
}

/* ---- element by element -------------------------------------------------------------------------------------------------- */

static void simd_round_bf16(uint16_t *dst, const float *src, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) *(vh_any *)(dst + i) = __builtin_convertvector(v_round_bits(v_load(src + i)) >> 16, vh);
    for (; i < n; i++) dst[i] = f32_to_bf16(src[i]);
}

static void simd_quantise_e4m3(uint16_t *q, float *factors, const uint16_t *xb, int64_t n) {
    for (int64_t g = 0; g * 128 < n; g++) {
        int64_t end = g * 128 + 128 < n ? g * 128 + 128 : n, i = g * 128;
        vf top = v_all(1e-10f);
        float most = 1e-10f;
        for (; i + W <= end; i += W) {
            vf v = (vf)((vu)v_from_bf16(xb + i) & 0x7fffffffu);
            top = V_MAX(v, top); /* a NaN in v is passed over, as fmaxf does */
        }
        for (; i < end; i++) most = fmaxf(most, fabsf(bf16_to_f32(xb[i])));
        most = fmaxf(most, v_most(top));
        float factor = most / 448.0f;
        for (i = g * 128; i + W <= end; i += W) {
            vf v = v_from_bf16(xb + i) / factor, bounded = V_MIN(v_all(448.0f), V_MAX(v_all(-448.0f), v));
            vu u = (vu)bounded, small = (vu)((vf)(u & 0x7fffffffu) < 0x1p-6f), nan = (vu)(v != v);
            vu sub = (vu)(V_RINT(bounded * 512.0f) * 0x1p-9f), whole = (u + 0x7ffff + (u >> 20 & 1)) & 0xfff00000u;
            vu r = (sub & small) | (whole & ~small);
            r = (r & ~nan) | (((vu)v | 0x400000) & nan);
            *(vh_any *)(q + i) = __builtin_convertvector(r >> 16, vh);
        }
        for (; i < end; i++) q[i] = f32_to_bf16(e4m3_round(bf16_to_f32(xb[i]) / factor));
        factors[g] = factor;
    }
}

static void simd_rms_norm(float *y, const float *x, const float *w, int n, float eps) {
    vf a = {0}, b = {0};
    int i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        vf u = v_load(x + i), v = v_load(x + i + W);
        a = V_FMA(u, u, a);
        b = V_FMA(v, v, b);
    }
    for (; i < n; i += W) {
        vf u = n - i >= W ? v_load(x + i) : v_load_part(x + i, n - i);
        a = V_FMA(u, u, a);
    }
    float factor = (float)(1.0 / sqrt((double)v_sum(a + b) / n + eps));
    for (i = 0; i + W <= n; i += W) v_store(y + i, v_load(x + i) * factor * v_load(w + i));
    for (; i < n; i++) y[i] = x[i] * factor * w[i];
}

static void simd_layer_norm(float *y, const float *x, const float *w, const float *b, int n, float eps) {
    vf s = {0}, q = {0};
    int i = 0;
    for (; i + W <= n; i += W) s += v_load(x + i);
    if (i < n) s += v_load_part(x + i, n - i);
    float mean = v_sum(s) / (float)n;
    for (i = 0; i + W <= n; i += W) {
        vf d = v_load(x + i) - mean;
        q = V_FMA(d, d, q);
    }
    double squares = v_sum(q);
    for (; i < n; i++) squares += (double)(x[i] - mean) * (x[i] - mean);
    float factor = (float)(1.0 / sqrt(squares / n + eps));
    for (i = 0; i + W <= n; i += W) v_store(y + i, (v_load(x + i) - mean) * factor * v_load(w + i) + v_load(b + i));
    for (; i < n; i++) y[i] = (x[i] - mean) * factor * w[i] + b[i];
}

static inline vf v_silu(vf g) { return g / (v_exp(-g) + 1.0f); }

static void simd_silu_mul(float *y, const float *gate, const float *up, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) v_store(y + i, v_silu(v_load(gate + i)) * v_load(up + i));
    if (i < n) v_store_part(y + i, v_silu(v_load_part(gate + i, n - i)) * v_load_part(up + i, n - i), n - i);
}

/* 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)) */
static inline vf v_gelu_tanh(vf x) {
    vf u = x * 0.79788456080286535588f * V_FMA(x * x, v_all(0.044715f), v_all(1.0f));
    return x / (v_exp(u * -2.0f) + 1.0f);
}
static void simd_gelu_tanh(float *x, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) v_store(x + i, v_gelu_tanh(v_load(x + i)));
    if (i < n) v_store_part(x + i, v_gelu_tanh(v_load_part(x + i, n - i)), n - i);
}

/* 0.5 x erfc(-x / sqrt 2), with erfc(z) = t exp(-z^2 + P(t)), t = 1 / (1 + z / 2) for z >= 0: the Chebyshev fit of Numerical Recipes
 * (§6.2, erfcc), relative error below 1.2e-7, so that the negative tail keeps its relative accuracy. */
static inline vf v_gelu_erf(vf x) {
    static const float c[] = {0.17087277f, -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f, 0.09678418f, 0.37409196f, 1.00002368f};
    vf z = (vf)((vu)x & 0x7fffffffu) * 0.70710678118654752440f, t = 1.0f / V_FMA(z, v_all(0.5f), v_all(1.0f)), p = v_all(c[0]);
    for (int i = 1; i < 9; i++) p = V_FMA(p, t, v_all(c[i]));
    vf erfc = t * v_exp(V_FMA(p, t, v_all(-1.26551223f)) - z * z);
    vu negative = (vu)(x < 0.0f);
    return 0.5f * x * (vf)(((vu)erfc & negative) | ((vu)(2.0f - erfc) & ~negative));
}
static void simd_gelu_erf(float *x, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) v_store(x + i, v_gelu_erf(v_load(x + i)));
    if (i < n) v_store_part(x + i, v_gelu_erf(v_load_part(x + i, n - i)), n - i);
}

static void simd_rotate(float *x, const float *c, const float *s, int head_dim) {
    int half = head_dim / 2, j = 0;
    for (; j + W <= half; j += W) {
        vf a = v_load(x + j), b = v_load(x + j + half), cj = v_load(c + j), sj = v_load(s + j);
        v_store(x + j, a * cj - b * sj);
        v_store(x + j + half, b * cj + a * sj);
    }
    for (; j < half; j++) {
        float a = x[j], b = x[j + half];
        x[j] = a * c[j] - b * s[j];
        x[j + half] = b * c[j] + a * s[j];
    }
}

/* ---- matrix products in fp32 ----------------------------------------------------------------------------------------------- */

enum { SIMD_ROWS = 3, SIMD_OUTS = 4, SIMD_BLOCK_BYTES = 512 << 10 };

/* 8 e4m3 values: the bits moved into place are the value times 2^-120, subnormals included; code 0x7f is NaN. */
static inline __m256 simd_e4m3(const uint8_t *p) {
    __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)), low = _mm256_and_si256(b, _mm256_set1_epi32(0x7f));
    __m256 v = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(low, 20)), _mm256_set1_ps(0x1p120f));
    __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi32(low, _mm256_set1_epi32(0x7f)), _mm256_set1_epi32(0x7fc00000));
    __m256i sign = _mm256_slli_epi32(_mm256_andnot_si256(_mm256_set1_epi32(0x7f), b), 24);
    return _mm256_or_ps(v, _mm256_castsi256_ps(_mm256_or_si256(nan, sign)));
}

/* One NF4 block: its 16 rounded values, then look-ups of 8 codes at a time (4 bytes, even elements in the high nibbles). */
static void simd_nf4_block(float *to, const uint8_t *codes, const struct linear_weight *w, int64_t b) {
    float absmax, value[16];
    if (w->absmax_f32) {
        absmax = w->absmax_f32[b];
    } else {
        float product = w->nested_map[w->absmax_u8[b]] * w->nested_absmax[b / w->nested_block];
        absmax = product + w->nested_offset;
    }
    for (int c = 0; c < 16; c += W) v_store(value + c, v_round(v_load(w->quant_map + c) * absmax));
    __m256 low = _mm256_loadu_ps(value), high = _mm256_loadu_ps(value + 8);
    const __m256i shift = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    for (int k = 0; k < w->block_size; k += 8) {
        int32_t four;
        memcpy(&four, codes + k / 2, 4);
        __m256i index = _mm256_srlv_epi32(_mm256_set1_epi32(four), shift); /* the look-up uses 3 bits, bit 3 selects */
        __m256 l = _mm256_permutevar8x32_ps(low, index), h = _mm256_permutevar8x32_ps(high, index);
        _mm256_storeu_ps(to + k, _mm256_blendv_ps(l, h, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
    }
}

/* Row `o` of w as fp32, rounded to bf16 if asked, zero-padded to a multiple of W. */
static void simd_expand(float *to, const struct linear_weight *w, int64_t o, bool bf16) {
    int64_t n = w->in, i = 0;
    const uint16_t *half = (const uint16_t *)w->data + o * n;
    if (w->storage == STORAGE_BF16) {
        for (; i + W <= n; i += W) v_store(to + i, v_from_bf16(half + i));
        for (; i < n; i++) to[i] = bf16_to_f32(half[i]);
    } else if (w->storage == STORAGE_NF4 && w->rounding == DTYPE_BF16 && w->block_size % 8 == 0 && n % w->block_size == 0) {
        const uint8_t *codes = (const uint8_t *)w->data + o * n / 2;
        for (; i < n; i += w->block_size) simd_nf4_block(to + i, codes + i / 2, w, (o * n + i) / w->block_size);
        bf16 = false;
    } else if (w->storage == STORAGE_FP8_BLOCK) {
        const uint8_t *codes = (const uint8_t *)w->data + o * n;
        const float *factor = w->scale + o / 128 * ((n + 127) / 128);
        for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_mul_ps(simd_e4m3(codes + i), _mm256_set1_ps(factor[i / 128])));
        for (; i < n; i++) to[i] = e4m3_to_f32(codes[i]) * factor[i / 128];
    } else {
        linear_weight_rows_f32(w, o, o + 1, to);
    }
    for (i = n; i % W; i++) to[i] = 0;
    if (bf16 && w->storage != STORAGE_BF16)
        for (i = 0; i < n; i += W) v_store(to + i, v_round(v_load(to + i)));
}

#define UNROLL _Pragma("GCC unroll 8")

/* Up to 3 rows times 4 outputs: 12 accumulators, 3 rows, one vector of weights in 16 registers. */
static inline __attribute__((always_inline)) void simd_tile(float *y, int64_t ldy, const float *x, const float *w, int64_t padded, const int rows,
                                                            const float *bias, int count) {
    vf s[SIMD_ROWS][SIMD_OUTS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < SIMD_OUTS; i++) s[r][i] = v_all(0);
    for (int64_t k = 0; k < padded; k += W) {
        vf a[SIMD_ROWS];
        UNROLL for (int r = 0; r < rows; r++) a[r] = v_load(x + r * padded + k);
        UNROLL for (int i = 0; i < SIMD_OUTS; i++) {
            vf m = v_load(w + i * padded + k);
            UNROLL for (int r = 0; r < rows; r++) s[r][i] = V_FMA(a[r], m, s[r][i]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < count; i++) y[r * ldy + i] = v_sum(s[r][i]) + (bias ? bias[i] : 0.0f);
}

/* One row times outputs [o0, o1) of a bf16 matrix as it is stored: what simd_tile would give, without the detour through memory. */
static void simd_stream_bf16(float *y, const float *x, const struct linear_weight *w, int64_t o0, int64_t o1) {
    int64_t whole = w->in / W * W, rest = w->in - whole;
    for (int64_t o = o0; o < o1; o += SIMD_OUTS) {
        int count = o1 - o < SIMD_OUTS ? (int)(o1 - o) : SIMD_OUTS;
        const uint16_t *m[SIMD_OUTS];
        vf s[SIMD_OUTS];
        UNROLL for (int i = 0; i < SIMD_OUTS; i++) {
            s[i] = v_all(0);
            m[i] = (const uint16_t *)w->data + (o + (i < count ? i : 0)) * w->in;
        }
        for (int64_t k = 0; k < whole; k += W) {
            vf a = v_load(x + k);
            UNROLL for (int i = 0; i < SIMD_OUTS; i++) s[i] = V_FMA(a, v_from_bf16(m[i] + k), s[i]);
        }
        for (int i = 0; i < count; i++) {
            if (rest) {
                uint16_t last[W] = {0};
                memcpy(last, m[i] + whole, (size_t)rest * 2);
                s[i] = V_FMA(v_load(x + whole), v_from_bf16(last), s[i]);
            }
            y[o + i] = v_sum(s[i]) + (w->bias ? w->bias[o + i] : 0.0f);
        }
    }
}

/* One row as fp32, zero-padded. */
static void simd_row(float *to, const float *x, const uint16_t *xb, int64_t n, int64_t padded, bool bf16) {
    int64_t i = 0;
    if (bf16) {
        for (; i + W <= n; i += W) v_store(to + i, v_from_bf16(xb + i));
        for (; i < n; i++) to[i] = bf16_to_f32(xb[i]);
    } else {
        memcpy(to, x, (size_t)n * 4);
    }
    for (i = n; i < padded; i++) to[i] = 0;
}

static void simd_linear_f32(float *y, int64_t ldy, const float *x, const uint16_t *xb, int64_t ldx, int rows, const struct linear_weight *w,
                            int64_t o0, int64_t o1, bool bf16, void *scratch) {
    int64_t padded = (w->in + W - 1) / W * W, block = SIMD_BLOCK_BYTES / (padded * 4) / SIMD_OUTS * SIMD_OUTS;
    if (block < SIMD_OUTS) block = SIMD_OUTS;
    if (block > 64) block = 64;
    float *xs = scratch, *ws = xs + SIMD_ROWS * padded;
    if (w->storage == STORAGE_BF16 && rows <= 2) {
        for (int r = 0; r < rows; r++) {
            simd_row(xs, bf16 ? NULL : x + r * ldx, bf16 ? xb + r * ldx : NULL, w->in, padded, bf16);
            simd_stream_bf16(y + r * ldy, xs, w, o0, o1);
        }
        return;
    }
    for (int64_t b = o0; b < o1; b += block) {
        int64_t end = b + block < o1 ? b + block : o1, whole = (end - b + SIMD_OUTS - 1) / SIMD_OUTS * SIMD_OUTS;
        for (int64_t o = b; o < end; o++) simd_expand(ws + (o - b) * padded, w, o, bf16);
        for (int64_t o = end - b; o < whole; o++) memset(ws + o * padded, 0, (size_t)padded * 4);
        for (int r = 0; r < rows; r += SIMD_ROWS) {
            int n = rows - r < SIMD_ROWS ? rows - r : SIMD_ROWS;
            for (int k = 0; k < n; k++) simd_row(xs + k * padded, bf16 ? NULL : x + (r + k) * ldx, bf16 ? xb + (r + k) * ldx : NULL, w->in, padded, bf16);
            for (int64_t o = b; o < end; o += SIMD_OUTS) {
                int count = end - o < SIMD_OUTS ? (int)(end - o) : SIMD_OUTS;
                const float *bias = w->bias ? w->bias + o : NULL, *ww = ws + (o - b) * padded;
                float *to = y + r * ldy + o;
                if (n == 3) simd_tile(to, ldy, xs, ww, padded, 3, bias, count);
                else if (n == 2) simd_tile(to, ldy, xs, ww, padded, 2, bias, count);
                else simd_tile(to, ldy, xs, ww, padded, 1, bias, count);
            }
        }
    }
}

#if W == 8
/* FP8_BLOCK weights with quantised activations: per 128 columns an fp32 dot, times the row's factor, times the weights' factor. */
static void simd_linear_e4m3(float *y, int64_t ldy, const float *factors, const uint16_t *q, int64_t ldx, int rows, const struct linear_weight *w,
                             int64_t o0, int64_t o1, void *scratch) {
    int64_t groups = (w->in + 127) / 128, padded = groups * 128;
    float *xs = scratch, *ws = xs + SIMD_ROWS * padded;
    enum { OUTS = 16 };
    for (int64_t b = o0; b < o1; b += OUTS) {
        int64_t end = b + OUTS < o1 ? b + OUTS : o1;
        for (int64_t o = b; o < end; o++) {
            const uint8_t *codes = (const uint8_t *)w->data + o * w->in;
            float *to = ws + (o - b) * padded;
            int64_t i = 0;
            for (; i + 8 <= w->in; i += 8) _mm256_storeu_ps(to + i, simd_e4m3(codes + i));
            for (; i < w->in; i++) to[i] = e4m3_to_f32(codes[i]);
            for (; i < padded; i++) to[i] = 0;
        }
        for (int r = 0; r < rows; r++) {
            simd_row(xs, NULL, q + r * ldx, w->in, padded, true);
            for (int64_t o = b; o < end; o++) {
                const float *ww = ws + (o - b) * padded, *scale = w->scale + o / 128 * groups, *factor = factors + r * groups;
                vf sum = v_all(0);
                for (int64_t g = 0; g < groups; g++) {
                    vf dot = v_all(0);
                    for (int64_t k = g * 128; k < g * 128 + 128; k += W) dot = V_FMA(v_load(xs + k), v_load(ww + k), dot);
                    sum += dot * factor[g] * scale[g];
                }
                y[r * ldy + o] = v_sum(sum) + (w->bias ? w->bias[o] : 0.0f);
            }
        }
    }
}
#endif

/* ---- attention in fp32: blocks of KV_PAGE_TOKENS positions, running maximum and sum ------------------------------------------ */

struct simd_query { /* one query row in progress */
    float most, total;
    float *sum; /* (head_dim padded to W) */
};

/* `count` positions of a block: keys and values are rows of head_dim elements, fp32 or bf16. */
static void simd_block(struct simd_query *s, const float *q, int head_dim, float scale, const void *keys, const void *values, int64_t stride,
                       bool bf16, int count) {
    float p[KV_PAGE_TOKENS];
    int whole = head_dim / W * W, rest = head_dim - whole;
    float most = s->most;
    for (int j = 0; j < count; j++) {
        vf a = v_all(0);
        const float *kf = (const float *)keys + j * stride;
        const uint16_t *kh = (const uint16_t *)keys + j * stride;
        for (int d = 0; d < whole; d += W) a = V_FMA(v_load(q + d), bf16 ? v_from_bf16(kh + d) : v_load(kf + d), a);
        if (rest) {
            float t[W] = {0};
            for (int d = 0; d < rest; d++) t[d] = bf16 ? bf16_to_f32(kh[whole + d]) : kf[whole + d];
            a = V_FMA(v_load(q + whole), v_load(t), a);
        }
        p[j] = v_sum(a) * scale;
        if (!(p[j] <= most)) most = p[j];
    }
    for (int j = count; j < KV_PAGE_TOKENS; j++) p[j] = -INFINITY;
    vf shift = v_all(s->most - most), total = v_all(0);
    float keep = s->most == most ? 1.0f : v_exp(shift)[0];
    for (int j = 0; j < KV_PAGE_TOKENS; j += W) {
        vf e = v_exp(v_load(p + j) - most);
        e = (vf)((vu)e & ~(vu)(v_load(p + j) == -INFINITY)); /* exp of -infinity is exactly 0 */
        v_store(p + j, e);
        total += e;
    }
    s->most = most;
    s->total = s->total * keep + v_sum(total);
    for (int d = 0; d < head_dim; d += W) {
        vf a = v_load(s->sum + d) * keep;
        if (d < whole) {
            for (int j = 0; j < count; j++)
                a = V_FMA(v_all(p[j]), bf16 ? v_from_bf16((const uint16_t *)values + j * stride + d) : v_load((const float *)values + j * stride + d), a);
        } else {
            for (int j = 0; j < count; j++) {
                float t[W] = {0};
                for (int i = 0; i < rest; i++)
                    t[i] = bf16 ? bf16_to_f32(((const uint16_t *)values)[j * stride + d + i]) : ((const float *)values)[j * stride + d + i];
                a = V_FMA(v_all(p[j]), v_load(t), a);
            }
        }
        v_store(s->sum + d, a);
    }
}

static float *simd_query_new(struct simd_query *s, float *scratch, const float *q, int head_dim, bool bf16) {
    int padded = (head_dim + W - 1) / W * W;
    *s = (struct simd_query){-INFINITY, 0, scratch + padded};
    for (int d = 0; d < padded; d++) {
        scratch[d] = d >= head_dim ? 0 : bf16 ? bf16_to_f32(f32_to_bf16(q[d])) : q[d];
        s->sum[d] = 0;
    }
    return scratch;
}

static void simd_attend(float *out, const float *q, int q_heads, const struct kv_view *kv, int64_t length, int kv0, int kv1, void *scratch) {
    int group = q_heads / kv->kv_heads, n = kv->head_dim;
    bool bf16 = kv->precision != PRECISION_F32;
    float scale = (float)(1.0 / sqrt(n));
    for (int h = kv0 * group; h < kv1 * group; h++) {
        struct simd_query s;
        const float *qs = simd_query_new(&s, scratch, q + (int64_t)h * n, n, bf16);
        int64_t head = (int64_t)(h / group) * KV_PAGE_TOKENS * n;
        for (int64_t at = 0; at < length; at += KV_PAGE_TOKENS) {
            const char *page = kv->pages[at / KV_PAGE_TOKENS];
            size_t size = bf16 ? 2 : 4;
            int count = length - at < KV_PAGE_TOKENS ? (int)(length - at) : KV_PAGE_TOKENS;
            simd_block(&s, qs, n, scale, page + (size_t)(kv->k_offset + head) * size, page + (size_t)(kv->v_offset + head) * size, n, bf16, count);
        }
        for (int d = 0; d < n; d++) out[(int64_t)h * n + d] = s.sum[d] / s.total;
    }
}

static void simd_attend_rows(float *out, int64_t ldo, const float *q, int64_t ldq, int rows, int q_heads, const struct kv_view *kv,
                             int64_t length, int kv0, int kv1, void *scratch) {
    for (int r = 0; r < rows; r++) simd_attend(out + r * ldo, q + r * ldq, q_heads, kv, length + r, kv0, kv1, scratch);
}

static void simd_attend_full(float *out, int64_t ldo, const float *q, const float *k, const float *v, int64_t ld, int n, int head_dim, int h,
                             int r0, int r1, enum precision precision, void *scratch) {
    bool bf16 = precision != PRECISION_F32;
    int64_t at = (int64_t)h * head_dim, size = (int64_t)n * head_dim;
    float *keys = scratch, *values = keys + size, *row = values + size, scale = (float)(1.0 / sqrt(head_dim));
    for (int p = 0; p < n; p++)
        for (int d = 0; d < head_dim; d++) {
            float a = k[p * ld + at + d], b = v[p * ld + at + d];
            keys[(int64_t)p * head_dim + d] = bf16 ? bf16_to_f32(f32_to_bf16(a)) : a;
            values[(int64_t)p * head_dim + d] = bf16 ? bf16_to_f32(f32_to_bf16(b)) : b;
        }
    for (int r = r0; r < r1; r++) {
        struct simd_query s;
        const float *qs = simd_query_new(&s, row, q + r * ld + at, head_dim, bf16);
        for (int p = 0; p < n; p += KV_PAGE_TOKENS)
            simd_block(&s, qs, head_dim, scale, keys + (int64_t)p * head_dim, values + (int64_t)p * head_dim, head_dim, false,
                       n - p < KV_PAGE_TOKENS ? n - p : KV_PAGE_TOKENS);
        for (int d = 0; d < head_dim; d++) out[r * ldo + at + d] = s.sum[d] / s.total;
    }
}
