/* The operations for AVX-512 without bf16 instructions (F, BW, DQ, VL, VBMI: Ice Lake and later): a bf16 product is two fp32 multiply-adds. */
#define AVX512_NAME avx512
#define AVX512_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx2,fma,f16c"
#include "backend/cpu/ops_avx512.h"
