/* A decode step of a whole model beside two yardsticks, all by the same threads and in turn:
 *   read      what the program prints: memory of its own in pages of 2 MiB (backend/cpu/bandwidth.h)
 *   weights   the very bytes of the matrices that a variant's step reads, where it has them, as eight streams a piece that are asked for
 *             ahead. On a virtual machine the two differ: memory that the host keeps elsewhere or in small pages is slower, and a file's pages lie
 *             where they came to lie. With +memory this is fresh memory again, as much of it as a step reads.
 * Steps: medians; yardsticks: the best pass. Random tokens at a context of 64 to 64 + STEPS.
 * Usage: bench_step DIR [rounds] [variant ...]: instruction sets, each with +memory for weights read into memory (held_weights.h); several take turns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/cpu/bandwidth.h"
#include "backend/cpu/held_weights.h"
#include "backend/cpu/model.h"
#include "base/clock.h"

extern const struct backend backend_cpu;

enum { STEPS = 12, CONTEXT = 64, PAGES = 4, MOST_VARIANTS = 8, MOST_ROUNDS = 64, STREAMS = 8, AHEAD = 1024, PIECE = 1 << 20 };

typedef uint64_t lane8 __attribute__((vector_size(64), aligned(1)));

struct piece {
    const char *data;
    size_t bytes;
};
struct pieces {
    struct piece *piece;
    int64_t count, capacity;
    size_t bytes;
};

static void pieces_add(struct pieces *p, const struct linear_weight *w) {
    size_t n = (size_t)w->out * (size_t)w->in, bytes = w->storage == STORAGE_NF4 ? n / 2 : w->storage == STORAGE_FP8_BLOCK ? n : w->storage == STORAGE_F32 ? n * 4 : n * 2;
    for (size_t at = 0; at < bytes; at += PIECE) {
        if (p->count == p->capacity) {
            p->capacity = p->capacity ? 2 * p->capacity : 4096;
            p->piece = realloc(p->piece, (size_t)p->capacity * sizeof *p->piece);
            if (!p->piece) exit(1);
        }
        p->piece[p->count++] = (struct piece){(const char *)w->data + at, bytes - at < PIECE ? bytes - at : PIECE};
    }
    p->bytes += bytes;
}

static volatile uint64_t sink;

#if defined(__x86_64__)
__attribute__((target("avx512f")))
#endif
static void read_piece(void *context, int64_t i, int thread) {
    (void)thread;
    const struct piece *p = &((const struct pieces *)context)->piece[i];
    size_t each = p->bytes / STREAMS / sizeof(lane8) * sizeof(lane8);
    lane8 x[4] = {{0}};
    for (size_t at = 0; at < each; at += sizeof(lane8))
        for (size_t k = 0; k < STREAMS; k++) {
            const char *from = p->data + k * each + at;
            __builtin_prefetch(from + AHEAD);
            x[k % 4] ^= *(const lane8 *)from;
        }
    lane8 all = x[0] ^ x[1] ^ x[2] ^ x[3];
    sink ^= all[0] ^ all[3] ^ all[7];
}

static int up(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    struct err err = {0};
    struct checkpoint *c;
    static struct backend_model *m[MOST_VARIANTS];
    static struct pieces pieces[MOST_VARIANTS];
    static double own[MOST_ROUNDS], weights[MOST_VARIANTS], step[MOST_VARIANTS][MOST_ROUNDS * STEPS];
    char limits[MOST_VARIANTS][32] = {""};
    int rounds = argc > 2 ? atoi(argv[2]) : 8, variants = argc > 3 ? argc - 3 : 1;
    if (argc < 2 || rounds < 1 || rounds > MOST_ROUNDS || variants > MOST_VARIANTS) {
        fprintf(stderr, "usage: bench_step DIR [rounds, up to %d] [up to %d of avx2 avx512 avx512bf16 amx amx+memory ...]\n", MOST_ROUNDS, MOST_VARIANTS);
        return 1;
    }
    for (int k = 0; k < variants && argc > 3; k++) snprintf(limits[k], sizeof limits[k], "%s", argv[3 + k]);
    int r = checkpoint_open(argv[1], &c, &err);
    for (int k = 0; k < variants && !r; k++) {
        char *memory = strstr(limits[k], "+memory");
        if (memory) *memory = 0;
        r = backend_cpu.load(c, &(struct backend_options){.kv_bytes = (size_t)64 << 20, .cpu_limit = *limits[k] ? limits[k] : NULL}, &m[k], &err);
        double start = clock_seconds();
        if (!r && memory && !(r = hold_weights(m[k], &err))) fprintf(stderr, "%.2f GB read into memory in %.2f s\n", (double)m[k]->held_bytes * 1e-9, clock_seconds() - start);
    }
    if (r) {
        fprintf(stderr, "bench_step: %s\n", err.message);
        return 1;
    }
    const struct text_config *t = &m[0]->w.config.text;
    for (int k = 0; k < variants; k++) {
        for (int n = 0; n < t->layers; n++) {
            const struct decoder_layer *l = &m[k]->w.layers[n];
            const struct linear_weight *const all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
            for (size_t i = 0; i < sizeof all / sizeof *all; i++) pieces_add(&pieces[k], all[i]);
        }
        pieces_add(&pieces[k], &m[k]->w.head);
        pool_run(m[k]->pool, pieces[k].count, read_piece, &pieces[k]); /* maps the pages */
    }
    struct backend_info info;
    backend_cpu.describe(m[0], &info);
    float *logits = malloc((size_t)t->vocab * sizeof *logits);
    int32_t pages[MOST_VARIANTS][PAGES];
    for (int k = 0; k < variants; k++)
        for (int i = 0; i < PAGES; i++)
            if ((pages[k][i] = backend_cpu.page_alloc(m[k])) < 0) return 1;
    for (int round = 0; round < rounds; round++) {
        if (cpu_read_bandwidth(info.threads, &own[round], &err)) return 1;
        for (int k = 0; k < variants; k++) {
            double start;
            for (int pass = 0; pass < 3; pass++) { /* on a busy machine the second thread may be late for one */
                start = clock_seconds();
                pool_run(m[k]->pool, pieces[k].count, read_piece, &pieces[k]);
                double rate = (double)pieces[k].bytes / (clock_seconds() - start);
                if (rate > weights[k]) weights[k] = rate;
            }
            for (int s = 0; s < STEPS; s++) {
                int32_t id = (round * 131 + s * 17) % t->vocab, at = CONTEXT + s, position[3] = {at, at, at};
                int row = 0;
                struct span span = {.ids = &id, .count = 1, .first = at, .positions = position, .pages = pages[k], .page_count = PAGES,
                                    .logits_rows = &row, .logits_count = 1, .logits = logits};
                start = clock_seconds();
                if (backend_cpu.forward(m[k], &span, 1, &err)) {
                    fprintf(stderr, "bench_step: %s\n", err.message);
                    return 1;
                }
                step[k][round * STEPS + s] = clock_seconds() - start;
            }
        }
    }
    qsort(own, (size_t)rounds, sizeof *own, up);
    double read = own[rounds - 1];
    printf("%s, %s, %d threads, %.2f GB a step: read %.1f GB/s (best of %d; median %.1f)\n", argv[1], info.storage, info.threads, (double)info.decode_bytes * 1e-9,
           read * 1e-9, rounds, own[rounds / 2] * 1e-9);
    for (int k = 0; k < variants; k++) {
        int count = rounds * STEPS;
        qsort(step[k], (size_t)count, sizeof *step[k], up);
        double middle = step[k][count / 2], rate = (double)info.decode_bytes / middle;
        printf("  %s%s: step %.1f ms (fastest quarter %.1f), %.1f steps/s, %.1f GB/s = %.0f %% of read, %.0f %% of the weights' %.1f GB/s\n", m[k]->ops->name,
               m[k]->held ? "+memory" : "", middle * 1e3, step[k][count / 4] * 1e3, 1 / middle, rate * 1e-9, 100 * rate / read, 100 * rate / weights[k], weights[k] * 1e-9);
    }
    return 0;
}
