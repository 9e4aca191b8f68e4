/* The bf16 and half types, as far as the kernels use them. */
#ifndef CUDA_EMULATION_BF16_H
#define CUDA_EMULATION_BF16_H
#include "checkpoint/number.h"
#include "cuda_runtime.h"

struct __nv_bfloat16 { uint16_t bits; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
struct __half { uint16_t bits; };

static inline float __bfloat162float(__nv_bfloat16 v) { return bf16_to_f32(v.bits); }
static inline __nv_bfloat16 __float2bfloat16_rn(float f) { return {f32_to_bf16(f)}; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16_rn(a), __float2bfloat16_rn(b)}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }
static inline float __low2float(__nv_bfloat162 v) { return __bfloat162float(v.x); }
static inline float __high2float(__nv_bfloat162 v) { return __bfloat162float(v.y); }
static inline float __half2float(__half v) { return f16_to_f32(v.bits); }
#endif
