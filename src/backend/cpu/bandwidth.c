#include "backend/cpu/bandwidth.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/pool.h"
#include "base/clock.h"

/* Passes take turns: in order, and in streams far apart that are asked for ahead, as decoding reads. Which of them is faster depends on the processor. */
enum { PASSES = 8, STREAMS = 8, AHEAD = 16 /* lines */ };
static const size_t total_bytes = (size_t)512 << 20, piece_bytes = (size_t)1 << 20;

typedef uint64_t lane8 __attribute__((vector_size(64)));

struct sweep {
    const char *data;
    bool streams;
    volatile uint64_t sink; /* so that the reads are not left out */
};

/* Xor of a piece, independent chains; the same body compiled for several instruction sets. */
#define READ_PIECE                                                                                              \
    const lane8 *p = (const lane8 *)piece;                                                                      \
    size_t lines = piece_bytes / sizeof *p, each = lines / STREAMS;                                             \
    lane8 x[4] = {{0}};                                                                                         \
    if (!streams)                                                                                               \
        for (size_t i = 0; i < lines; i += 4) x[0] ^= p[i], x[1] ^= p[i + 1], x[2] ^= p[i + 2], x[3] ^= p[i + 3]; \
    else                                                                                                        \
        for (size_t i = 0; i < each; i++)                                                                       \
            for (size_t k = 0; k < STREAMS; k++) {                                                              \
                const lane8 *at = p + k * each + i;                                                             \
                __builtin_prefetch(at + AHEAD);                                                                 \
                x[k % 4] ^= *at;                                                                                \
            }                                                                                                   \
    lane8 a = x[0] ^ x[1] ^ x[2] ^ x[3];                                                                        \
    return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7]

#if defined(__x86_64__)
__attribute__((target("avx512f"), optimize("unroll-loops"))) static uint64_t read_avx512(const char *piece, bool streams) { READ_PIECE; }
__attribute__((target("avx2"), optimize("unroll-loops"))) static uint64_t read_avx2(const char *piece, bool streams) { READ_PIECE; }
#endif
static uint64_t read_plain(const char *piece, bool streams) { READ_PIECE; }

static void item_read(void *context, int64_t i, int thread) {
    (void)thread;
    struct sweep *s = context;
    const char *piece = s->data + (size_t)i * piece_bytes;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) s->sink ^= read_avx512(piece, s->streams);
    else if (__builtin_cpu_supports("avx2")) s->sink ^= read_avx2(piece, s->streams);
    else
#endif
        s->sink ^= read_plain(piece, s->streams);
}

int cpu_read_bandwidth(int threads, double *out, struct err *err) {
    struct pool *pool;
    int r = pool_new(threads, &pool, err);
    if (r) return r;
    void *data = mmap(NULL, total_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
        pool_free(pool);
        return err_set(err, ERR_MEMORY, "bandwidth: no %zu bytes to read", total_bytes);
    }
    madvise(data, total_bytes, MADV_HUGEPAGE); /* as weight files are mapped; a hint */
    memset(data, 1, total_bytes);
    struct sweep s = {.data = data};
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        s.streams = i % 2;
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
