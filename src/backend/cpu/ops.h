/* The operations of the CPU backend as a table of pointers: plain C first (the reference), then each instruction set
 * replaces what it does better (ops_init). Activations are fp32 everywhere; the precision setting says what a product
 * sees: F32 keeps activations and weights exact (proof), BF16 rounds the activations once at the entrance of each linear
 * layer and accumulates in fp32 (default).
 *
 * Row independence: the result of a row is the same bit for bit whatever the number of rows, the chunk it came in, or the number
 * of threads. Therefore every variant reduces over `in` in one fixed order (its own), and attention runs over positions in
 * fixed blocks of one KV page. Prompt reuse and continuous batching rest on this. */
#ifndef BACKEND_CPU_OPS_H
#define BACKEND_CPU_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpoint/checkpoint.h"

/* FP8_E4M3 is what an FP8 checkpoint declares (facts §2.3): activations quantised per row and group of 128 channels by
 * quantise_e4m3, only for FP8_BLOCK weights; every other storage kind is multiplied with PRECISION_BF16 beside it. */
enum precision { PRECISION_F32, PRECISION_BF16, PRECISION_FP8_E4M3 };

enum { KV_PAGE_TOKENS = 32 };

/* One sequence's KV pages for one layer, as attention sees them. pages[p] is the base of page p; within it this layer's keys
 * start at k_offset and values at v_offset (in elements), each laid out (kv_heads, KV_PAGE_TOKENS, head_dim).
 * Elements are fp32 (PRECISION_F32) or bf16 (then q is rounded to bf16 too, and the fastest variant rounds the
 * probabilities to bf16, as the reference does). Positions at and beyond `length` of the last page are never read into a
 * result, whatever they hold. */
struct kv_view {
    void *const *pages;
    int64_t k_offset, v_offset;
    int kv_heads, head_dim;
    enum precision precision;
};

struct cpu_ops {
    const char *name; /* "c", "avx2", "avx512", "avx512bf16", "amx" */
    int decode_outputs; /* with a few rows, ask `linear` for this many outputs a call, from a multiple of it on; 0: any number */

    /* y[r * ldy + o] = dot(x[r], W[o]) + bias[o] for o in [o0, o1), r in [0, rows). y and x are fp32.
     * precision F32: exact products, fp32 (or better) accumulation. BF16: x has been rounded by round_bf16 already and is
     * given as bf16 in xb (rows, ldx); x is then unused; weights that are not bf16 are rounded once to bf16. Any storage kind.
     * FP8_E4M3 (FP8_BLOCK weights only): xb (rows, ldx) holds the e4m3 values (exact in bf16) and x the group factors
     * (rows, ceil(in / 128)), contiguous, both from quantise_e4m3; per group an fp32 dot times x factor times weight factor.
     * Rows are packed once a call, so with many rows ask for many outputs a call (128 or more).
     * scratch: cpu_ops_scratch_bytes() bytes per thread, 64-byte aligned. */
    void (*linear)(float *y, int64_t ldy, const float *x, const uint16_t *xb, int64_t ldx, int rows,
                   const struct linear_weight *w, int64_t o0, int64_t o1, enum precision precision, void *scratch);
    /* dst[i] = bf16(src[i]), round to nearest even, NaN kept. */
    void (*round_bf16)(uint16_t *dst, const float *src, int64_t n);
    /* One row of n bf16 values -> e4m3 values held as bf16 in q (n), factors (ceil(n / 128)): x ~ q * factor,
     * factor = max(max|x|, 1e-10) / 448 (vLLM's guard; equal to transformers wherever a group is not all zero). */
    void (*quantise_e4m3)(uint16_t *q, float *factors, const uint16_t *xb, int64_t n);

    /* y = x * rsqrt(mean(x^2) + eps) * w, one row of n. */
    void (*rms_norm)(float *y, const float *x, const float *w, int n, float eps);
    /* LayerNorm with weight and bias, one row of n. */
    void (*layer_norm)(float *y, const float *x, const float *w, const float *b, int n, float eps);
    /* y[i] = silu(gate[i]) * up[i] */
    void (*silu_mul)(float *y, const float *gate, const float *up, int64_t n);
    void (*gelu_tanh)(float *x, int64_t n);
    void (*gelu_erf)(float *x, int64_t n);
    /* Half-split rotation in place: x (head_dim), c and s (head_dim / 2). */
    void (*rotate)(float *x, const float *c, const float *s, int head_dim);

    /* Causal attention of one query row over positions [0, length): q (q_heads, head_dim) -> out (q_heads, head_dim), scale
     * head_dim^-0.5, for kv heads [kv0, kv1) and their q_heads / kv_heads query heads. Page-wise online softmax. */
    void (*attend)(float *out, const float *q, int q_heads, const struct kv_view *kv, int64_t length, int kv0, int kv1,
                   void *scratch);
    /* The same for `rows` consecutive query rows of one sequence (prefill): row i sees positions [0, length + i); rows of q and
     * out are ldq and ldo floats apart. Bit-equal to attend row by row, much faster. */
    void (*attend_rows)(float *out, int64_t ldo, const float *q, int64_t ldq, int rows, int q_heads, const struct kv_view *kv,
                        int64_t length, int kv0, int kv1, void *scratch);
    /* Full attention of the vision tower inside one group: q, k, v (n, heads, head_dim) with row stride ld; rows [r0, r1) of
     * head h -> out (n, heads * head_dim) with row stride ldo. BF16: q, k, v and the probabilities are rounded to bf16. Every
     * call packs the whole K and V of the head, so ask for many rows a call (all n, or n / 2). */
    void (*attend_full)(float *out, int64_t ldo, const float *q, const float *k, const float *v, int64_t ld, int n, int head_dim,
                        int h, int r0, int r1, enum precision precision, void *scratch);
};

/* The best table for this machine; limit ("c", "avx2", "avx512", "avx512bf16", "amx" or NULL) caps it for tests and comparison. */
const struct cpu_ops *cpu_ops_select(const char *limit, struct err *err);
extern const struct cpu_ops cpu_ops_c;

/* Bytes of per-thread scratch that every operation above may need for matrices up to max_in columns and heads up to head_dim,
 * with vision groups of up to max_patches. */
size_t cpu_ops_scratch_bytes(int64_t max_in, int head_dim, int64_t max_patches);

#endif
