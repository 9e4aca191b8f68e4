/* The operations for AVX-512 with bf16 instructions and AMX tiles (Sapphire Rapids and later): products go to the tiles, the rest is
 * ops_avx512bf16.c's. */
#define AVX512_NAME amx
#define AVX512_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,amx-tile,amx-bf16,avx2,fma,f16c"
#define AVX512_BF16 1
#define AVX512_AMX 1
#include "backend/cpu/ops_avx512.h"
