/* Weights as they are stored, made into bf16 in registers. Device code. */
#ifndef BACKEND_CUDA_UNPACK_H
#define BACKEND_CUDA_UNPACK_H

#include "backend/cuda/room.h"

template <int KIND> struct kind;
template <> struct kind<STORAGE_BF16> { enum { values = 8 }; };  /* in 16 bytes */
template <> struct kind<STORAGE_FP8_BLOCK> { enum { values = 16 }; };
template <> struct kind<STORAGE_NF4> { enum { values = 32 }; };

enum { NF4_BLOCK = 64 }; /* the fast kernels take no other block size */

/* absmax of NF4 block b. */
__device__ static inline float nf4_absmax(const struct dlinear &w, int64_t b) {
    if (w.absmax_f32) return w.absmax_f32[b];
    return __fadd_rn(__fmul_rn(w.nested_map[w.absmax_u8[b]], w.nested_absmax[b / w.nested_block]), w.nested_offset);
}

__device__ static inline float half_value(uint16_t bits) {
#ifdef CUDA_EMULATION
    return f16_to_f32(bits);
#else
    return __half2float(__ushort_as_half(bits));
#endif
}

/* Any weight of any matrix, as linear_weight_rows_f32 makes it: the reference on the device. */
__device__ static inline float weight_at(const struct dlinear &w, int64_t o, int64_t k) {
    int64_t i = o * w.in + k;
    switch (w.storage) {
    case STORAGE_F32: return ((const float *)w.data)[i];
    case STORAGE_F16: return half_value(((const uint16_t *)w.data)[i]);
    case STORAGE_BF16: return __bfloat162float(((const bf16 *)w.data)[i]);
    case STORAGE_FP8_BLOCK: return e4m3_pair(((const uint8_t *)w.data)[i]).x * w.scale[o / 128 * w.scale_columns + k / 128];
    default: {
        uint8_t byte = ((const uint8_t *)w.data)[i / 2];
        float v = w.quant_map[i % 2 ? byte & 15 : byte >> 4] * nf4_absmax(w, i / w.block);
        if (w.rounding == DTYPE_BF16) return __bfloat162float(__float2bfloat16_rn(v));
#ifdef CUDA_EMULATION
        if (w.rounding == DTYPE_F16) return f16_to_f32(f32_to_f16(v));
#else
        if (w.rounding == DTYPE_F16) return __half2float(__float2half_rn(v));
#endif
        return v;
    }
    }
}

/* NF4: each byte's two values, before absmax, as a pair of bf16; 32 copies, one for each lane's bank. */
enum { LUT_WORDS = 256 * 32 };
__device__ static inline void fill_lut(uint32_t *lut, const float *quant_map) {
    for (int i = threadIdx.x; i < LUT_WORDS / 4; i += blockDim.x) {
        uint32_t v = pack_bf16(quant_map[i / 8 >> 4], quant_map[i / 8 & 15]);
        ((uint4 *)lut)[i] = make_uint4(v, v, v, v);
    }
}

/* absmax of four NF4 blocks from b on (a multiple of four, within a row of a matrix that the fast kernels take). */
__device__ static inline void nf4_absmax4(const struct dlinear &w, int64_t b, float *to) {
    if (w.absmax_f32) {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = w.absmax_f32[b + i];
        return;
    }
    uint32_t codes = *(const uint32_t *)(w.absmax_u8 + b);
    float nested = w.nested_absmax[b / w.nested_block]; /* a power of two from 16 on */
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = __fadd_rn(__fmul_rn(w.nested_map[codes >> i * 8 & 0xFF], nested), w.nested_offset);
}

/* Eight values from 16, 8 or 4 bytes, as pairs. FP8's factor and NF4's absmax are left to the sums. lut: the lane's own column. */
template <int KIND>
__device__ static inline void unpack8(uint32_t to[4], const uint32_t *from, const uint32_t *lut) {
    if (KIND == STORAGE_BF16) {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = from[i];
    } else if (KIND == STORAGE_FP8_BLOCK) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 f = e4m3_pair(from[i / 2] >> i % 2 * 16 & 0xFFFF);
            to[i] = pack_bf16(f.x, f.y);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = lut[(from[0] >> i * 8 & 0xFF) * 32];
    }
}

/* ---- what happens to a sum ---- */

__device__ static inline float gelu_tanh(float x) { return 0.5f * x * (1 + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x))); }
__device__ static inline float gelu_erf(float x) { return 0.5f * x * (1 + erff(x * 0.7071067811865476f)); }
__device__ static inline float silu(float x) { return x / (1 + __expf(-x)); }

__device__ static inline float as_float(float v) { return v; }
__device__ static inline float as_float(bf16 v) { return __bfloat162float(v); }

/* up: the other sum of OUT_SILU. */
__device__ static inline void put_sum(void *y, int64_t at, float v, int how, float up) {
    if (how == OUT_F32) ((float *)y)[at] = v;
    else if (how == OUT_ADD) ((float *)y)[at] += v;
    else {
        if (how == OUT_SILU) v = silu(v) * up;
        else if (how == OUT_GELU_TANH) v = gelu_tanh(v);
        else if (how == OUT_GELU_ERF) v = gelu_erf(v);
        ((bf16 *)y)[at] = __float2bfloat16_rn(v);
    }
}

#endif
