/* Which table of operations this machine gets. */
#include "backend/cpu/ops.h"

#include <string.h>

#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>

extern const struct cpu_ops cpu_ops_avx2, cpu_ops_avx512, cpu_ops_avx512bf16, cpu_ops_amx;

/* Linux gives tiles to processes that ask (arch_prctl, ARCH_REQ_XCOMP_PERM of component 18, tile data); asked again it says yes again. */
static bool tiles_permitted(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* How many of the tables below run here, slowest first. */
static int supported(void) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512vbmi"))
        return 2;
    if (!__builtin_cpu_supports("avx512bf16")) return 3;
    return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && tiles_permitted() ? 5 : 4;
}
static const struct cpu_ops *const tables[] = {&cpu_ops_c, &cpu_ops_avx2, &cpu_ops_avx512, &cpu_ops_avx512bf16, &cpu_ops_amx};
#else
static int supported(void) { return 1; }
static const struct cpu_ops *const tables[] = {&cpu_ops_c};
#endif

const struct cpu_ops *cpu_ops_select(const char *limit, struct err *err) {
    static const char *const names[] = {"c", "avx2", "avx512", "avx512bf16", "amx"};
    int most = 4;
    if (limit)
        for (; most >= 0 && strcmp(limit, names[most]); most--) {
        }
    if (most < 0) {
        err_set(err, ERR_ARGUMENT, "CPU operations: expected one of c, avx2, avx512, avx512bf16, amx, found \"%s\"", limit);
        return NULL;
    }
    int best = supported() - 1;
    return tables[most < best ? most : best];
}

size_t cpu_ops_scratch_bytes(int64_t max_in, int head_dim, int64_t max_patches) {
    /* linear: tables, 6 packed rows and 128 outputs as bf16 (linear_avx512.h: 2 + 4 + 12 + 256 bytes a column), or 3 rows and at most
     * 512 KiB of outputs as fp32 (ops_simd.h), or what linear_amx.h says. Attention: K and V of one head, packed, and queries in progress. */
    size_t linear = (size_t)(max_in + 128) * 288 + (2u << 20);
    size_t attention = (size_t)(max_patches + 64) * (size_t)(head_dim + 64) * 16 + (1u << 18);
    return linear > attention ? linear : attention;
}
