/* The CUDA backend alone, through its door: decode steps at several batch sizes, their kernels one kind at a time, prefill, a picture,
 * pages. Prints a table; every figure is measured here. usage: bench_cuda CHECKPOINT [context [batch ...]] (negative batch: prompts x
 * best-of-8, prefix shared). BENCH_SAMPLED=1: tokens are drawn with temperature 0.7, top-k 20, top-p 0.8 (else the likeliest). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

extern "C" {
#include "backend/pick.h"
}
#include "backend/cuda/persist.h"

static double seconds() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static void check(int r, const struct err *err) {
    if (!r) return;
    fprintf(stderr, "bench_cuda: %s\n", err->message);
    exit(1);
}
static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b; }
static uint32_t random_state = 1;
static uint32_t random_bits() { return random_state = random_state * 1664525 + 1013904223, random_state >> 8; }

static struct backend_model *m;
static struct err err;
static int vocab;

struct sequence {
    int32_t *pages;
    int count;
};

static struct sequence sequence_new(int tokens) {
    struct sequence s = {(int32_t *)malloc(sizeof(int32_t) * (size_t)(tokens / PAGE + 4)), tokens / PAGE + 4};
    for (int i = 0; i < s.count; i++)
        if ((s.pages[i] = cuda_page_alloc(m)) < 0) return free(s.pages), sequence{NULL, 0};
    return s;
}
static void sequence_free(struct sequence *s, int keep) {
    for (int i = keep; i < s->count && s->pages; i++) cuda_page_free(m, s->pages[i]);
    free(s->pages);
}

/* Prefills `tokens` random tokens in chunks; returns seconds. */
static double prefill(const struct sequence *s, int tokens, int chunk) {
    int32_t *ids = (int32_t *)malloc((size_t)tokens * 4), *positions = (int32_t *)malloc((size_t)tokens * 12);
    for (int i = 0; i < tokens; i++) ids[i] = (int32_t)(random_bits() % (uint32_t)(vocab - 1000)), positions[i * 3] = positions[i * 3 + 1] = positions[i * 3 + 2] = i;
    double start = seconds();
    struct picked picked;
    struct pick pick = {};
    for (int at = 0; at < tokens; at += chunk) {
        struct span p = {};
        p.ids = ids + at, p.count = tokens - at < chunk ? tokens - at : chunk, p.first = at, p.positions = positions + at * 3, p.pages = s->pages, p.page_count = s->count;
        if (at + p.count == tokens) pick.row = p.count - 1, p.picks = &pick, p.picked = &picked, p.pick_count = 1;
        check(cuda_forward(m, &p, 1, &err), &err);
    }
    double took = seconds() - start;
    free(ids), free(positions);
    return took;
}


static int by_clock(const void *a, const void *b) { return *(const float *)a < *(const float *)b ? -1 : *(const float *)a > *(const float *)b; }

/* The way through attention: clocks after the input of the product of q, k, v was there, which is about the same moment in all blocks; least, median
 * and most of the blocks, mean of the layers. */
static void attention_trace(const long long *trace, int layers) {
    static const char *const names[] = {"words there", "heads made", "first page", "scores done", "merge begins", "shares stored", "shares joined", "first page asked", "last page asked", "q, k, v stored",
                                        "q, k, v multiplied", "o input", "o multiplied"};
    enum { ROWS = sizeof names / sizeof *names };
    int blocks = m->sm_count, phases = layers * 4 + 1;
    const long long *marks = trace + (size_t)blocks * (size_t)phases * 4;
    float *at = (float *)malloc((size_t)blocks * sizeof *at);
    printf("   attention, clocks after the input of q, k, v:");
    for (int row = 0; row < ROWS; row++) {
        double sum[3] = {};
        int counted = 0;
        for (int layer = 0; layer < layers; layer++) {
            int n = 0;
            for (int b = 0; b < blocks; b++) {
                const long long *mark = marks + ((size_t)b * (size_t)layers + (size_t)layer) * ATTEND_MARKS, *phase = trace + ((size_t)b * (size_t)phases + (size_t)layer * 4) * 4;
                long long v = row < ATTEND_MARKS ? mark[row] : phase[row == ATTEND_MARKS ? 3 : row - ATTEND_MARKS + 5];
                if (v && phase[2]) at[n++] = (float)(v - phase[2]);
            }
            if (!n) continue;
            qsort(at, (size_t)n, sizeof *at, by_clock);
            sum[0] += at[0], sum[1] += at[n / 2], sum[2] += at[n - 1], counted++;
        }
        if (counted) printf("%s %s %.0f/%.0f/%.0f", row ? "," : "", names[row], sum[0] / counted, sum[1] / counted, sum[2] / counted);
    }
    printf("\n");
    free(at);
}

/* The step as one kernel: alone on the device, and where its blocks' time goes (thousands of clocks a step: waiting for attention, for the
 * input of a product, multiplying; the median of the blocks and the longest). */
static void one_kernel(const struct batch *b, bool traced, float *out) {
    if (!persist_fit(m, b)) return;
    int layers = m->w.config.text.layers, phases = layers * 4 + 1, repeats = 20;
    size_t bytes = (size_t)m->sm_count * ((size_t)phases * 4 + (size_t)layers * ATTEND_MARKS) * sizeof(long long);
    float *logits = (float *)buffer_get(m, BUFFER_LOGITS, (size_t)FEW_ROWS * (size_t)vocab * 4, &err), ms = 0;
    long long *trace = NULL, *host = (long long *)malloc(bytes);
    cudaEvent_t from, to;
    cudaEventCreate(&from), cudaEventCreate(&to);
    for (int i = -2; i < repeats; i++) {
        if (i == 0) cudaEventRecord(from, m->stream);
        check(persist_start(m, b, logits, &err), &err);
    }
    cudaEventRecord(to, m->stream);
    check(cuda_failed(cudaEventSynchronize(to), "timing", &err), &err);
    cudaEventElapsedTime(&ms, from, to);
    *out = ms / (float)repeats;
    if (!traced) return;
    if (cudaMalloc((void **)&trace, bytes)) return;
    cudaMemset(trace, 0, bytes);
    persist_trace(m, trace);
    check(persist_start(m, b, logits, &err), &err);
    persist_trace(m, NULL);
    check(cuda_failed(cudaStreamSynchronize(m->stream), "tracing", &err), &err);
    cudaMemcpy(host, trace, bytes, cudaMemcpyDeviceToHost);
    cudaFree(trace);
    static const char *const names[] = {"qkv", "o", "up", "down", "head"};
    float *block = (float *)malloc((size_t)m->sm_count * sizeof *block);
    printf("   clocks a layer (median block, longest):");
    for (int kind = 0; kind < 5; kind++)
        for (int what = 0; what < 4; what++) { /* 3: the whole phase, up to the next one's beginning */
            if (what == 0 && kind != 1) continue;
            for (int sm = 0; sm < m->sm_count; sm++) {
                double sum = 0;
                int n = 0;
                for (int p = 0; p < phases; p++) {
                    if ((p == phases - 1 ? 4 : p % 4) != kind) continue;
                    const long long *c = host + ((size_t)sm * (size_t)phases + (size_t)p) * 4;
                    if (what == 3 && p + 1 < phases) sum += (double)(c[4] - c[0]), n++;
                    else if (what < 3 && c[what] && c[what + 1] > c[what]) sum += (double)(c[what + 1] - c[what]), n++;
                }
                block[sm] = n ? (float)(sum / n) : 0;
            }
            qsort(block, (size_t)m->sm_count, sizeof *block, by_clock);
            static const char *const whats[] = {"attend", "wait", "multiply", "all"};
            printf(" %s %s %.0f/%.0f", names[kind], whats[what], block[m->sm_count / 2], block[m->sm_count - 1]);
        }
    printf("\n");
    attention_trace(host, layers);
    free(block), free(host);
    cudaEventDestroy(from), cudaEventDestroy(to);
}


static float *copy_logits(const float *from, int rows) {
    float *p = (float *)malloc((size_t)rows * vocab * 4);
    cudaStreamSynchronize(m->stream);
    cudaMemcpy(p, from, (size_t)rows * vocab * 4, cudaMemcpyDeviceToHost);
    return p;
}
int main(int argc, char **argv) {
    struct checkpoint *c;
    struct backend_options o = {};
    check(checkpoint_open(argv[1], &c, &err), &err);
    o.kv_bytes = (size_t)12 << 30;
    check(cuda_load(c, &o, &m, &err), &err);
    vocab = m->w.config.text.vocab;
    int contexts[8], nc = 0, batches[8], nb = 0;
    for (char *p = strtok(argv[2], ","); p; p = strtok(NULL, ",")) contexts[nc++] = atoi(p);
    for (char *p = strtok(argv[3], ","); p; p = strtok(NULL, ",")) batches[nb++] = atoi(p);
    bool spread = getenv("SPREAD"), traced = getenv("TRACED");
    const char *name = strrchr(argv[1], '/') + 1;
    for (int ci = 0; ci < nc; ci++) {
        int context = contexts[ci];
        struct sequence s[8], base = sequence_new(context + 8);
        prefill(&base, context, 1024);
        for (int i = 0; i < 8; i++) {
            s[i] = sequence_new(context + 8);
            for (int k = 0; k <= context / PAGE; k++) check(cuda_page_copy(m, s[i].pages[k], base.pages[k], PAGE, &err), &err);
        }
        for (int bi = 0; bi < nb; bi++) {
            int batch = batches[bi];
            struct span spans[8] = {};
            struct pick picks[8] = {};
            struct picked picked[8] = {};
            int32_t ids[8], positions[24];
            for (int i = 0; i < batch; i++) {
                int at = spread ? context - context * i / 9 : context;
                if (at < 1) at = 1;
                ids[i] = (int32_t)(random_bits() % 100000 % (uint32_t)vocab);
                positions[i * 3] = positions[i * 3 + 1] = positions[i * 3 + 2] = at;
                spans[i].ids = &ids[i], spans[i].count = 1, spans[i].first = at, spans[i].positions = &positions[i * 3], spans[i].pages = s[i].pages, spans[i].page_count = s[i].count;
                spans[i].picks = &picks[i], spans[i].picked = &picked[i], spans[i].pick_count = 1;
            }
            struct persist *keep = m->persist;
            m->persist = NULL;
            check(cuda_forward(m, spans, batch, &err), &err);
            m->persist = keep;
            float *want = copy_logits((float *)m->buffer[BUFFER_LOGITS].data, batch);
            struct batch b;
            check(batch_make(m, spans, batch, &b, &err), &err);
            printf("%s %d b%d:", name, context, batch);
            for (int w = 4; w < argc; w++) {
                float ms = 0;
                setenv("PMD_CUDA_STEP", argv[w], 1);
                if (!persist_fit(m, &b)) { printf(" does not fit"); break; }
                one_kernel(&b, traced, &ms);
                float *got = copy_logits((float *)m->buffer[BUFFER_LOGITS].data, batch);
                double worst = 0;
                for (int r = 0; r < batch; r++) {
                    double d = 0, n = 0;
                    for (int v = 0; v < vocab; v++) {
                        double x = got[(size_t)r * vocab + v], y = want[(size_t)r * vocab + v];
                        d += (x - y) * (x - y), n += y * y;
                    }
                    d = sqrt(d / n);
                    if (!(d <= worst)) worst = d;
                }
                free(got);
                if (argc > 5 && bi == 0 && ci == 0) printf(" [%s]", argv[w]);
                printf(" %.3f%s", ms, worst < 0.03 ? "" : " BAD");
                if (!(worst < 0.03)) printf("(%.2g)", worst);
                fflush(stdout);
            }
            printf("\n");
            fflush(stdout);
            free(want);
            free(b.row);
        }
        for (int i = 0; i < 8; i++) sequence_free(&s[i], 0);
        sequence_free(&base, 0);
    }
    return 0;
}
