#include "backend/cpu/bandwidth.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/pool.h"
#include "base/clock.h"

enum { PASSES = 6 };
static const size_t total_bytes = (size_t)512 << 20, piece_bytes = (size_t)1 << 20;

typedef uint64_t lane8 __attribute__((vector_size(64)));

struct sweep {
    const char *data;
    volatile uint64_t sink; /* so that the reads are not left out */
};

/* Xor of a piece, four independent chains; the same body compiled for several instruction sets. */
#define READ_PIECE                                                                                             \
    const lane8 *p = (const lane8 *)piece, *end = (const lane8 *)(piece + piece_bytes);                       \
    lane8 a = {0}, b = {0}, c = {0}, d = {0};                                                                  \
    for (; p < end; p += 4) a ^= p[0], b ^= p[1], c ^= p[2], d ^= p[3];                                         \
    a ^= b ^ c ^ d;                                                                                            \
    return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7]

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static uint64_t read_avx512(const char *piece) { READ_PIECE; }
__attribute__((target("avx2"))) static uint64_t read_avx2(const char *piece) { READ_PIECE; }
#endif
static uint64_t read_plain(const char *piece) { READ_PIECE; }

static void item_read(void *context, int64_t i, int thread) {
    (void)thread;
    struct sweep *s = context;
    const char *piece = s->data + (size_t)i * piece_bytes;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) s->sink ^= read_avx512(piece);
    else if (__builtin_cpu_supports("avx2")) s->sink ^= read_avx2(piece);
    else
#endif
        s->sink ^= read_plain(piece);
}

int cpu_read_bandwidth(int threads, double *out, struct err *err) {
    struct pool *pool;
    int r = pool_new(threads, &pool, err);
    if (r) return r;
    void *data = mmap(NULL, total_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (data == MAP_FAILED) {
        pool_free(pool);
        return err_set(err, ERR_MEMORY, "bandwidth: no %zu bytes to read", total_bytes);
    }
    memset(data, 1, total_bytes);
    struct sweep s = {.data = data};
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        double start = clock_seconds();
        pool_run(pool, (int64_t)(total_bytes / piece_bytes), item_read, &s);
        double rate = (double)total_bytes / (clock_seconds() - start);
        if (rate > best) best = rate;
    }
    munmap(data, total_bytes);
    pool_free(pool);
    *out = best;
    return 0;
}
