/* Which table of operations this machine gets. */
#include "backend/cpu/ops.h"

#include <string.h>

const struct cpu_ops *cpu_ops_select(const char *limit, struct err *err) {
    static const struct cpu_ops *const tables[] = {&cpu_ops_c}; /* slowest first */
    enum { COUNT = sizeof tables / sizeof *tables };
    static const char *const names[] = {"c", "avx2", "avx512", "avx512bf16"};
    enum { NAMES = sizeof names / sizeof *names };
    int most = NAMES - 1;
    if (limit) {
        for (most = 0; most < NAMES && strcmp(limit, names[most]); most++) {
        }
        if (most == NAMES) {
            err_set(err, ERR_ARGUMENT, "CPU operations: expected one of c, avx2, avx512, avx512bf16, found \"%s\"", limit);
            return NULL;
        }
    }
    return tables[most < COUNT ? most : COUNT - 1];
}

size_t cpu_ops_scratch_bytes(int64_t max_in, int head_dim, int64_t max_patches) {
    /* linear: a row in fp32, or packed weights and rows (ops_linear.h); attention: scores, packed K and V of one head. */
    size_t linear = (size_t)(max_in + 64) * 256 + (1u << 20);
    size_t attention = (size_t)(max_patches + 64) * (size_t)(head_dim + 64) * 16 + (1u << 18);
    return linear > attention ? linear : attention;
}
