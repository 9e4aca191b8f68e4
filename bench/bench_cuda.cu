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

static double read_rate; /* bytes a second of reading device memory once, as measured here; 0: not measured */

__global__ void read_kernel(const uint4 *p, int64_t n, unsigned *out) {
    unsigned sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        uint4 v = p[i];
        sum += v.x ^ v.y ^ v.z ^ v.w;
    }
    if (sum == 12345) *out = sum;
}
static void ceilings() {
    char *p;
    size_t bytes = (size_t)2 << 30;
    cudaEvent_t from, to;
    float ms, best = 1e9f;
    if (cudaMalloc((void **)&p, bytes + 64)) {
        cudaGetLastError();
        return;
    }
    cudaMemset(p, 0x5A, bytes);
    cudaEventCreate(&from), cudaEventCreate(&to);
    for (int i = 0; i < 6; i++) {
        cudaEventRecord(from, m->stream);
        launch(m, read_kernel, dim3((unsigned)m->sm_count * 16), dim3(512), 0, (const uint4 *)p, (int64_t)(bytes / 16), (unsigned *)(p + bytes));
        cudaEventRecord(to, m->stream);
        cudaEventSynchronize(to);
        cudaEventElapsedTime(&ms, from, to);
        if (ms < best) best = ms;
    }
    read_rate = (double)bytes / best * 1e3;
    printf("ceiling: reading 2 GiB %.0f GB/s\n", read_rate / 1e9);
    cudaFree(p);
}

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

static double middle(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2] * 1e6;
}

/* What a step takes beside its kernels: laying it out on the host, choosing, everything but choosing. */
static void around(struct span *spans, int batch, const struct batch *made) {
    enum { TIMES = 40 };
    double lay[TIMES], choose[TIMES], bare[TIMES];
    char *host = (char *)malloc(step_bytes(made));
    struct pick_place *list = (struct pick_place *)calloc((size_t)batch, sizeof *list);
    bool few = batch <= FEW_ROWS && step_fit(m, made);
    for (int i = 0; i < batch; i++) list[i] = {&spans[i].picks[0], &spans[i].picked[0], i};
    for (int t = 0; t < TIMES; t++) {
        struct batch b;
        double start = seconds();
        check(batch_make(m, spans, batch, &b, &err), &err);
        if (few) m->step_shared = attend_shared(m, &b), step_fill(m, &b, host);
        lay[t] = seconds() - start;
        free(b.row);
        if (m->buffer[BUFFER_LOGITS].bytes < (size_t)batch * vocab * 4) return;
        start = seconds();
        check(picks_run(m, list, batch, (float *)m->buffer[BUFFER_LOGITS].data, &err), &err);
        choose[t] = seconds() - start;
    }
    if (getenv("BENCH_SAMPLED")) { /* what it takes to read the rows and to choose here */
        const int times = batch > 8 ? 2 : 6;
        size_t bytes = (size_t)batch * (size_t)vocab * 4;
        char *rows = (char *)cuda_host_alloc(m, bytes), *work = (char *)malloc(pick_work_bytes(vocab));
        struct picked picked;
        double start = seconds();
        for (int t = 0; t < times && rows; t++) {
            check(cuda_failed(cudaMemcpyAsync(rows, m->buffer[BUFFER_LOGITS].data, bytes, cudaMemcpyDeviceToHost, m->stream), "reading logits", &err), &err);
            check(cuda_failed(cudaStreamSynchronize(m->stream), "reading logits", &err), &err);
            for (int i = 0; i < batch; i++) pick_from_logits((const float *)rows + (size_t)i * (size_t)vocab, vocab, &spans[i].picks[0], work, &picked);
        }
        printf("   choosing here, us: %.0f\n", (seconds() - start) / times * 1e6);
        cuda_host_free(m, rows), free(work);
    }
    for (int i = 0; i < batch; i++) spans[i].pick_count = 0;
    for (int t = 0; t < TIMES; t++) {
        double start = seconds();
        check(cuda_forward(m, spans, batch, &err), &err);
        bare[t] = seconds() - start;
    }
    printf("   on the host's clock, us: laying out %.1f, choosing alone %.1f, a step without choosing %.1f\n", middle(lay, TIMES), middle(choose, TIMES), middle(bare, TIMES));
    free(host), free(list);
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
static void one_kernel(const struct batch *b) {
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
    printf("   one kernel: %.3f ms\n", ms / (float)repeats);
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

/* One step for every sequence, all at `context`. */
static void decode(struct sequence *s, int batch, int context, const char *what, size_t weight_bytes, size_t kv_bytes) {
    struct span *spans = (struct span *)calloc((size_t)batch, sizeof *spans);
    struct pick *picks = (struct pick *)calloc((size_t)batch, sizeof *picks);
    struct picked *picked = (struct picked *)calloc((size_t)batch, sizeof *picked);
    int32_t *ids = (int32_t *)malloc((size_t)batch * 4), *positions = (int32_t *)malloc((size_t)batch * 12);
    for (int i = 0; i < batch; i++) {
        ids[i] = (int32_t)(random_bits() % 100000 % (uint32_t)vocab);
        positions[i * 3] = positions[i * 3 + 1] = positions[i * 3 + 2] = context;
        spans[i].ids = &ids[i], spans[i].count = 1, spans[i].first = context, spans[i].positions = &positions[i * 3], spans[i].pages = s[i].pages, spans[i].page_count = s[i].count;
        const char *sampled = getenv("BENCH_SAMPLED"); /* "whole": without top-k */
        if (sampled) picks[i].sampled = true, picks[i].temperature = 0.7f, picks[i].top_k = strcmp(sampled, "whole") ? 20 : 0, picks[i].top_p = 0.8f, picks[i].draw = (double)(random_bits() & 0xffff) / 65536;
        spans[i].picks = &picks[i], spans[i].picked = &picked[i], spans[i].pick_count = 1;
    }
    enum { STEPS = 60 };
    double took[STEPS];
    for (int t = -4; t < STEPS; t++) {
        double start = seconds();
        check(cuda_forward(m, spans, batch, &err), &err);
        if (t >= 0) took[t] = seconds() - start;
        for (int i = 0; i < batch; i++) ids[i] = picked[i].id < 0 ? 1 : picked[i].id;
    }
    qsort(took, STEPS, sizeof *took, by_value);
    double median = took[STEPS / 2], read_bytes = (double)weight_bytes + (double)kv_bytes;
    printf("decode %-22s context %d: %.3f ms (p5 %.3f, p95 %.3f) = %.0f tok/s, %.1f %% of the byte floor at 3.14 TB/s", what, context, median * 1e3, took[STEPS / 20] * 1e3,
           took[STEPS * 19 / 20] * 1e3, batch / median, read_bytes / 3.14e12 / median * 100);
    if (read_rate > 0) printf(", %.1f %% of that at what was read here", read_bytes / read_rate / median * 100);
    printf("\n");
    struct batch b;
    check(batch_make(m, spans, batch, &b, &err), &err);
    static const struct { const char *name; unsigned parts; } kinds[] = {{"all", STEP_ALL}, {"qkv", STEP_QKV}, {"heads", STEP_HEADS}, {"attend", STEP_ATTEND}, {"o", STEP_O}, {"up", STEP_UP}, {"down", STEP_DOWN}, {"head", STEP_HEAD}};
    printf("   on the device, ms:");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        float ms = 0;
        check(step_time(m, &b, kinds[i].parts, 20, &ms, &err), &err);
        printf(" %s %.3f", kinds[i].name, ms);
    }
    printf("\n");
    around(spans, batch, &b);
    one_kernel(&b);
    fflush(stdout);
    free(b.row), free(spans), free(picks), free(picked), free(ids), free(positions);
}

static void run_decode(int batch, int context, const struct backend_info *info) {
    int count = abs(batch), group = batch < 0 ? 8 : 1;
    struct sequence *s = (struct sequence *)calloc((size_t)count, sizeof *s);
    struct sequence base = sequence_new(context);
    size_t kv_token = m->page_bytes / PAGE, kv = 0;
    bool fits = base.pages != NULL;
    if (fits) prefill(&base, context, 1024);
    int shared = context / PAGE;
    for (int i = 0; i < count && fits; i++) {
        s[i] = sequence_new(context);
        if (!(fits = s[i].pages != NULL)) break;
        bool first = i % group == 0;
        for (int k = 0; k < shared; k++) {
            if (!first) cuda_page_free(m, s[i].pages[k]), s[i].pages[k] = s[i - i % group].pages[k];
            else check(cuda_page_copy(m, s[i].pages[k], base.pages[k], PAGE, &err), &err);
        }
        kv += first ? kv_token * (size_t)context : 0;
    }
    char what[64];
    snprintf(what, sizeof what, batch < 0 ? "%d prompts x best-of-8" : "batch %d", batch < 0 ? count / 8 : count);
    if (fits) decode(s, count, context, what, info->decode_bytes, kv);
    else printf("decode %s: does not fit into %d pages\n", what, m->capacity);
    for (int i = 0; i < count; i++) sequence_free(&s[i], i % group ? shared : 0);
    sequence_free(&base, 0);
    free(s);
}

static void picture() {
    const struct vision_config *v = &m->w.config.vision;
    struct patches p = {};
    p.grid_t = 1, p.grid_h = 20, p.grid_w = 30, p.count = 600, p.width = m->patch_embed.in;
    p.values = (float *)malloc((size_t)(p.count * p.width) * 4);
    for (int64_t i = 0; i < p.count * p.width; i++) p.values[i] = (float)(random_bits() % 2000) / 1000 - 1;
    double took[12];
    for (int t = -2; t < 12; t++) {
        struct vision_features f;
        double start = seconds();
        check(cuda_encode_image(m, &p, &f, &err), &err);
        if (t >= 0) took[t] = seconds() - start;
        vision_features_free(&f);
    }
    qsort(took, 12, sizeof *took, by_value);
    printf("picture of 600 patches (%d blocks): %.2f ms\n", v->depth, took[6] * 1e3);
    free(p.values);
}

static void pages() {
    enum { COUNT = 200 };
    int32_t page[COUNT];
    int n = 0;
    char *host = (char *)cuda_host_alloc(m, m->page_bytes * COUNT);
    while (host && n < COUNT && (page[n] = cuda_page_alloc(m)) >= 0) n++;
    for (int way = 0; way < 2 && host; way++) {
        double start = seconds();
        for (int i = 0; i < n; i++)
            check(way ? cuda_page_import(m, page[i], host + (size_t)i * m->page_bytes, &err) : cuda_page_export(m, page[i], host + (size_t)i * m->page_bytes, &err), &err);
        double took = seconds() - start;
        printf("pages %s: %.1f GB/s (%zu bytes each, one by one)\n", way ? "in" : "out", (double)n * (double)m->page_bytes / took / 1e9, m->page_bytes);
    }
    for (int i = 0; i < n; i++) cuda_page_free(m, page[i]);
    if (host) cuda_host_free(m, host);
}

int main(int argc, char **argv) {
    struct checkpoint *c;
    struct backend_info info;
    struct backend_options o = {};
    if (argc < 2 || !cuda_available(&err)) return fprintf(stderr, "usage: bench_cuda CHECKPOINT [context [batch ...]]; %s\n", err.message), 2;
    int context = argc > 2 ? atoi(argv[2]) : 1024;
    check(checkpoint_open(argv[1], &c, &err), &err);
    size_t left = cuda_memory_free(NULL), most = (size_t)20 << 30;
    o.kv_bytes = left / 2 < most ? left / 2 : most;
    o.fp8_e4m3_activations = getenv("BENCH_E4M3") != NULL, o.kv_fp8 = getenv("BENCH_KV8") != NULL;
    check(cuda_load(c, &o, &m, &err), &err);
    if (getenv("BENCH_NO_PDL")) m->arch = 80; /* kernels start when the one in front has ended */
    vocab = m->w.config.text.vocab;
    cuda_describe(m, &info);
    struct cudaDeviceProp p;
    cudaGetDeviceProperties(&p, m->device);
    printf("== %s: %s on %s, %.2f GB of weights uploaded in %.2f s = %.1f GB/s, %.3f GB read a token, cublasLt %s, few-row kernels %s%s\n", argv[1], info.storage, p.name,
           (double)m->weight_bytes / 1e9, m->load_seconds, (double)m->weight_bytes / 1e9 / m->load_seconds, (double)info.decode_bytes / 1e9, m->lt ? "loaded" : "missing",
           m->few_fit ? "fit" : "do not fit", m->kv8 ? ", FP8 KV pages" : "");
    ceilings();
    fflush(stdout);
    for (int i = 3; i < argc; i++) run_decode(atoi(argv[i]), context, &info);
    static const struct { int tokens, chunk; } cuts[] = {{1024, 1024}, {8192, 1024}, {8192, 8192}};
    for (int i = 0; i < (getenv("BENCH_DECODE_ONLY") ? 0 : 3); i++) {
        struct sequence s = sequence_new(cuts[i].tokens);
        if (!s.pages) continue;
        prefill(&s, cuts[i].tokens, cuts[i].chunk);
        double a = prefill(&s, cuts[i].tokens, cuts[i].chunk), b = prefill(&s, cuts[i].tokens, cuts[i].chunk);
        printf("prefill %d in chunks of %d: %.1f ms = %.0f tok/s\n", cuts[i].tokens, cuts[i].chunk, (a < b ? a : b) * 1e3, cuts[i].tokens / (a < b ? a : b));
        fflush(stdout);
        sequence_free(&s, 0);
    }
    if (!getenv("BENCH_DECODE_ONLY")) picture(), pages();
    printf("memory: %.2f GB held\n", (double)cuda_memory_bytes(m) / 1e9);
    cuda_unload(m);
    checkpoint_close(c);
    return 0;
}
