/* Prefill of the CUDA backend: passes of several lengths, what their time goes into, and a sustained loop of the library's products of
 * the same shapes in the same run, which is what a pass is measured against. Every figure is measured here.
 * usage: bench_prefill CHECKPOINT [tokens[/chunk]|mixed|decode:rows ...] (default: 1024 8192 8192/1024 8192/512 mixed decode:128 decode:256)
 * mixed: 512 rows of a prompt beside 16 decode rows. decode: a step of so many sequences (above 64: a pass like prefill's) at 1,024 tokens, each
 * with pages of its own. BENCH_KV8: KV pages of e4m3. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cuda/room.h"

static struct backend_model *m;
static struct err err;
static uint32_t random_state = 1;
static uint32_t random_bits() { return random_state = random_state * 1664525 + 1013904223, random_state >> 8; }

static double seconds() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static void check(int r) {
    if (!r) return;
    fprintf(stderr, "bench_prefill: %s\n", err.message);
    exit(1);
}

/* Values of about the spread of activations: zeros would cost less power, and so less time. */
__global__ void fill_kernel(uint32_t *p, int64_t words, bool bytes) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += (int64_t)gridDim.x * blockDim.x) {
        uint32_t v = (uint32_t)i * 2654435761u;
        v ^= v >> 15, v *= 2246822519u, v ^= v >> 13;
        if (bytes) { /* e4m3: any sign and mantissa, exponents 4 to 11 */
            p[i] = (v & 0xBFBFBFBFu) | 0u;
            p[i] = (p[i] & 0x87878787u) | (((v >> 3 & 0x07070707u) + 0x04040404u) << 3);
        } else {
            float a = (float)(v & 0xFFFF) / 32768 - 1, b = (float)(v >> 16) / 32768 - 1;
            p[i] = pack_bf16(a, b);
        }
    }
}

/* TFLOP/s of the decoder's four products of `rows` rows, one after the other for about a second. */
static double product_loop(int rows, bool fp8) {
    const struct text_config *t = &m->w.config.text;
    int d = t->hidden, q = t->heads * t->head_dim, k = t->kv_heads * t->head_dim, i = t->intermediate;
    const int shape[4][2] = {{q + 2 * k, d}, {d, q}, {2 * i, d}, {d, i}};
    size_t widest = (size_t)(2 * i > q + 2 * k ? 2 * i : q + 2 * k), w = widest * (size_t)d * 2, x = (size_t)rows * widest * 2, factors = ((size_t)rows + widest) * 1024;
    char *p;
    if (!m->lt || cudaMalloc((void **)&p, w + 2 * x + factors)) return cudaGetLastError(), 0;
    launch(m, fill_kernel, dim3(1024), dim3(256), 0, (uint32_t *)p, (int64_t)((w + x) / 4), fp8);
    float *scale = (float *)(p + w + 2 * x);
    cudaMemsetAsync(scale, 0x3C, factors, m->stream); /* 0.0115 */
    double flops = 0, start = 0, took = 0;
    for (int turn = -1; took < 1.0; turn++) {
        if (turn == 0) start = seconds();
        for (int s = 0; s < 4; s++) {
            int r = fp8 ? lt_product_fp8(m->lt, m->stream, p, scale, shape[s][0], shape[s][1], p + w, scale, rows, p + w + x, shape[s][0], true, false)
                        : lt_product(m->lt, m->stream, (const bf16 *)p, shape[s][0], shape[s][1], (const bf16 *)(p + w), shape[s][1], rows, p + w + x, shape[s][0], true, false);
            if (r) return cudaFree(p), 0;
            if (turn >= 0) flops += 2.0 * rows * shape[s][0] * shape[s][1];
        }
        if (turn % 16 == 0 || turn < 0) cudaStreamSynchronize(m->stream);
        if (turn >= 0) took = seconds() - start;
    }
    cudaStreamSynchronize(m->stream);
    took = seconds() - start;
    cudaFree(p);
    return flops / took / 1e12;
}

/* Operations of the decoder's matrices and of the causal half of attention. */
static double useful_flops(int tokens) {
    const struct text_config *t = &m->w.config.text;
    double d = t->hidden, q = (double)t->heads * t->head_dim, k = (double)t->kv_heads * t->head_dim, i = t->intermediate;
    return t->layers * (2.0 * tokens * (d * (q + 2 * k) + q * d + 3 * d * i) + 2.0 * tokens * (double)tokens * q);
}

struct sequence {
    int32_t *pages, *ids, *positions;
    int count;
};
static struct sequence sequence_new(int tokens) {
    struct sequence s = {};
    s.count = tokens / PAGE + 2;
    s.pages = (int32_t *)malloc((size_t)s.count * 4), s.ids = (int32_t *)malloc((size_t)(tokens + 1) * 4), s.positions = (int32_t *)malloc((size_t)(tokens + 1) * 12);
    for (int i = 0; i < s.count; i++)
        if ((s.pages[i] = cuda_page_alloc(m)) < 0) fprintf(stderr, "bench_prefill: too few KV pages\n"), exit(1);
    for (int i = 0; i <= tokens; i++) {
        s.ids[i] = (int32_t)(random_bits() % (uint32_t)(m->w.config.text.vocab - 1000));
        s.positions[3 * i] = s.positions[3 * i + 1] = s.positions[3 * i + 2] = i;
    }
    return s;
}
static void sequence_free(struct sequence *s) {
    for (int i = 0; i < s->count; i++) cuda_page_free(m, s->pages[i]);
    free(s->pages), free(s->ids), free(s->positions);
}
static struct span span_of(const struct sequence *s, int first, int count) {
    struct span p = {};
    p.ids = s->ids + first, p.count = count, p.first = first, p.positions = s->positions + 3 * first, p.pages = s->pages, p.page_count = s->count;
    return p;
}

static double pass(const struct sequence *s, int tokens, int chunk) {
    struct picked picked;
    struct pick pick = {};
    double start = seconds();
    for (int at = 0; at < tokens; at += chunk) {
        struct span p = span_of(s, at, tokens - at < chunk ? tokens - at : chunk);
        if (at + p.count == tokens) pick.row = p.count - 1, p.picks = &pick, p.picked = &picked, p.pick_count = 1;
        check(cuda_forward(m, &p, 1, &err));
    }
    return seconds() - start;
}

static void print_parts(struct pass_times *times) {
    static const char *const name[PASS_PARTS] = {"products", "heads", "attention", "rows", "rest"};
    float sum[PASS_PARTS] = {}, ms;
    for (int i = 0; i + 1 < times->count; i++)
        if (!cudaEventElapsedTime(&ms, times->event[i], times->event[i + 1])) sum[times->part[i]] += ms;
    printf("   on the device, ms:");
    for (int i = 0; i < PASS_PARTS; i++) printf(" %s %.2f", name[i], sum[i]);
    printf("\n");
}

static void run(int tokens, int chunk, double limit) {
    struct sequence s = sequence_new(tokens);
    static struct pass_times times;
    double best = 1e9, sum = 0;
    int turns = 0;
    pass(&s, tokens, chunk), pass(&s, tokens, chunk);
    for (; turns < 3 || (sum < 0.4 && turns < 20); turns++) {
        double t = pass(&s, tokens, chunk);
        sum += t;
        if (t < best) best = t;
    }
    double rate = useful_flops(tokens) / (sum / turns) / 1e12;
    printf("prefill %d in passes of %d%s: best %.2f, mean %.2f ms of %d = %.0f tok/s; %.0f useful TFLOP/s", tokens, chunk, m->e4m3 ? ", e4m3" : "", best * 1e3, sum / turns * 1e3, turns,
           tokens / (sum / turns), rate);
    if (limit > 0) printf(", %.0f %% of the product loop", rate / limit * 100);
    printf("\n");
    m->times = &times;
    times.count = 0;
    pass(&s, chunk, chunk); /* the first pass alone: marks are for one */
    m->times = NULL;
    print_parts(&times);
    fflush(stdout);
    sequence_free(&s);
}

/* A prompt's chunk of 512 rows after 1,024 others, beside a step of 16 sequences at 1,024 tokens; each alone too. */
static void mixed() {
    enum { SEQUENCES = 16, BEFORE = 1024, CHUNK = 512 };
    struct sequence prompt = sequence_new(BEFORE + CHUNK), step[SEQUENCES];
    struct span span[SEQUENCES + 1];
    struct pick pick[SEQUENCES + 1] = {};
    struct picked picked[SEQUENCES + 1];
    pass(&prompt, BEFORE, BEFORE);
    for (int i = 0; i < SEQUENCES; i++) step[i] = sequence_new(BEFORE), pass(&step[i], BEFORE, BEFORE), span[i] = span_of(&step[i], BEFORE, 1);
    span[SEQUENCES] = span_of(&prompt, BEFORE, CHUNK);
    for (int i = 0; i <= SEQUENCES; i++) span[i].picks = &pick[i], span[i].picked = &picked[i], span[i].pick_count = 1;
    pick[SEQUENCES].row = CHUNK - 1;
    static struct pass_times times;
    for (int what = 0; what < 3; what++) {
        static const char *const name[] = {"16 decode rows alone", "a chunk of 512 alone", "both in one pass"};
        double best = 1e9;
        for (int i = 0; i < 12; i++) {
            if (i == 11 && what) m->times = &times, times.count = 0;
            double start = seconds();
            check(cuda_forward(m, what == 1 ? span + SEQUENCES : span, what == 0 ? SEQUENCES : what == 1 ? 1 : SEQUENCES + 1, &err));
            double t = seconds() - start;
            if (t < best) best = t;
        }
        m->times = NULL;
        printf("mixed%s: %s %.2f ms\n", m->e4m3 ? ", e4m3" : "", name[what], best * 1e3);
        if (what) print_parts(&times);
    }
    for (int i = 0; i < SEQUENCES; i++) sequence_free(&step[i]);
    sequence_free(&prompt);
}

enum { BEFORE = 1024 }; /* tokens of a sequence that decodes */
/* Every sequence has pages of its own, copies of those of a few prompts: pages of a few would come out of the second-level cache. */
static void decode(int rows) {
    enum { PROMPTS = 16 };
    if ((int64_t)rows * (BEFORE / PAGE + 2) > m->capacity - m->used_high + m->free_count) {
        printf("decode: %d rows at %d tokens: does not fit into %d pages\n", rows, BEFORE, m->capacity);
        return;
    }
    struct sequence *s = (struct sequence *)calloc((size_t)rows, sizeof *s);
    struct span *span = (struct span *)calloc((size_t)rows, sizeof *span);
    struct pick *pick = (struct pick *)calloc((size_t)rows, sizeof *pick);
    struct picked *picked = (struct picked *)calloc((size_t)rows, sizeof *picked);
    for (int i = 0; i < rows; i++) {
        s[i] = sequence_new(BEFORE);
        if (i < PROMPTS) pass(&s[i], BEFORE, BEFORE);
        for (int k = 0; k < BEFORE / PAGE && i >= PROMPTS; k++) check(cuda_page_copy(m, s[i].pages[k], s[i % PROMPTS].pages[k], PAGE, &err));
    }
    for (int i = 0; i < rows; i++) span[i] = span_of(&s[i], BEFORE, 1), span[i].picks = &pick[i], span[i].picked = &picked[i], span[i].pick_count = 1;
    static struct pass_times times;
    double best = 1e9, sum = 0;
    for (int i = -3; i < 20; i++) {
        m->times = i == -1 ? &times : NULL, times.count = i == -1 ? 0 : times.count;
        double start = seconds();
        check(cuda_forward(m, span, rows, &err));
        double t = seconds() - start;
        if (i >= 0) sum += t;
        if (i >= 0 && t < best) best = t;
    }
    printf("decode%s: %d rows at %d tokens: best %.2f, mean %.2f ms = %.0f tok/s\n", m->e4m3 ? ", e4m3" : "", rows, BEFORE, best * 1e3, sum / 20 * 1e3, rows / (sum / 20));
    if (times.count) print_parts(&times);
    fflush(stdout);
    for (int i = 0; i < rows; i++) sequence_free(&s[i]);
    free(s), free(span), free(pick), free(picked);
}

int main(int argc, char **argv) {
    struct checkpoint *c;
    struct backend_options o = {};
    if (argc < 2 || !cuda_available(&err)) return fprintf(stderr, "usage: bench_prefill CHECKPOINT [tokens[/chunk] ...]; %s\n", err.message), 2;
    check(checkpoint_open(argv[1], &c, &err));
    size_t left = cuda_memory_free(NULL), most = (size_t)8 << 30;
    o.kv_bytes = left / 2 < most ? left / 2 : most;
    o.kv_fp8 = getenv("BENCH_KV8") != NULL;
    const struct text_config *t = &checkpoint_config(c)->text;
    bool only_decode = argc > 2;
    for (int i = 2; i < argc; i++) { /* as many pages as the sequences want, where they leave room for the weights and 4 GiB more */
        bool here = !strncmp(argv[i], "decode:", 7);
        size_t weights = 0, want = here ? (size_t)atoi(argv[i] + 7) * (BEFORE + 2 * PAGE) * 2 * (size_t)t->layers * (size_t)t->kv_heads * kv_slot_bytes(t->head_dim, o.kv_fp8) : 0;
        for (size_t k = 0; k < checkpoint_tensor_count(c); k++) weights += checkpoint_tensor_at(c, k)->bytes;
        if (want > o.kv_bytes && want + weights + ((size_t)4 << 30) < left) o.kv_bytes = want;
        only_decode &= here;
    }
    check(cuda_load(c, &o, &m, &err));
    struct backend_info info;
    struct cudaDeviceProp p;
    cuda_describe(m, &info);
    cudaGetDeviceProperties(&p, m->device);
    bool fp8 = m->layers[0].q.storage == STORAGE_FP8_BLOCK;
    printf("== %s: %s on %s (%s), cublasLt %s\n", argv[1], info.storage, p.name, info.kernels, m->lt ? "loaded" : "missing");
    static char *const all[] = {(char *)"1024", (char *)"8192", (char *)"8192/1024", (char *)"8192/512", (char *)"mixed", (char *)"decode:128", (char *)"decode:256"};
    int count = argc > 2 ? argc - 2 : 7;
    char *const *what = argc > 2 ? argv + 2 : all;
    for (int quantised = 0; quantised <= fp8; quantised++) {
        m->e4m3 = quantised;
        double limit = only_decode ? 0 : product_loop(8192, quantised);
        if (limit > 0) printf("product loop of 8192 rows, %s, sustained for a second: %.0f TFLOP/s\n", quantised ? "e4m3 with block factors" : "bf16", limit);
        for (int i = 0; i < count; i++) {
            int tokens = atoi(what[i]);
            const char *cut = strchr(what[i], '/');
            if (!strcmp(what[i], "mixed")) mixed();
            else if (!strncmp(what[i], "decode:", 7)) decode(atoi(what[i] + 7));
            else run(tokens, cut ? atoi(cut + 1) : tokens, limit);
        }
    }
    cuda_unload(m);
    checkpoint_close(c);
    return 0;
}
