/* The operations for AVX-512 with bf16 instructions (Zen 4, Cooper Lake, Sapphire Rapids and later). vdpbf16ps adds two products to
 * an fp32 lane; it takes operands below 2^-126 as zero. */
#define AVX512_NAME avx512bf16
#define AVX512_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma,f16c"
#define AVX512_BF16 1
#include "backend/cpu/ops_avx512.h"
