/* Attention of decode rows alone: Hopper's kernel beside the older one, and how far their results lie apart. Random keys and values, pages in no
 * order; a graph of 28 layers as a step has them (fewer different ones: they would not fit), each read from memory. Prints milliseconds of
 * 28 layers (median of replays timed by events) and the rate at which keys and values that are needed once come. No model.
 * usage: bench_decode_attend [rows context group [heads [own]]]: rows of a group have all full pages of their context in common but the last `own` tokens */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device_values.h"

static struct backend_model *m;
static void ok(cudaError_t e, int line) {
    if (!e) return;
    printf("bench_decode_attend: line %d: %s\n", line, cudaGetErrorString(e));
    exit(1);
}
#define OK(call) ok(call, __LINE__)
static int by_value(const void *a, const void *b) { return *(const float *)a < *(const float *)b ? -1 : *(const float *)a > *(const float *)b; }
static double seconds() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* spread: contexts lie between a half and three halves of `context`. */
static void run(int heads, int kv_heads, int rows, int context, int group, bool spread, int own = 0) {
    enum { LAUNCHES = 28 };
    struct text_config *t = &m->w.config.text;
    t->heads = heads, t->kv_heads = kv_heads, t->head_dim = 128;
    struct drow row[FEW_ROWS] = {};
    int32_t *number = (int32_t *)malloc(sizeof(int32_t) * (size_t)rows * (size_t)(context * 3 / 64 + 8));
    int pages = 0, used = 0;
    int64_t needed = 0;
    for (int r = 0; r < rows; r++) {
        int slot = spread ? context / 2 + (int)((int64_t)(r * 37 % rows) * context / rows) : context, shared = r % group ? (slot - own) / PAGE : 0;
        row[r].slot = slot, row[r].pages = pages, row[r].block = -1;
        for (int i = 0; i <= slot / PAGE; i++, pages++) number[pages] = i < shared ? number[row[r - 1].pages + i] : used++;
        needed += slot + 1 - shared * PAGE;
    }
    for (int i = 0; i < pages; i++) number[i] = (int32_t)((int64_t)number[i] * 7919 % used); /* a permutation unless 7919 divides the count */
    size_t layer = (size_t)2 * (size_t)kv_heads * PAGE * 128, n = (size_t)FEW_ROWS * (size_t)heads * 128;
    int layers = (int)(((size_t)4 << 30) / (layer * 2 * (size_t)used)) + 1;
    if (layers > LAUNCHES) layers = LAUNCHES;
    m->layer_stride = (int64_t)layer, m->page_bytes = layer * 2 * (size_t)layers, m->capacity = used;
    OK(cudaMalloc((void **)&m->kv, m->page_bytes * (size_t)used));
    bf16 *q, *out[3];
    double *sums, got[2];
    OK(cudaMalloc((void **)&q, n * 2));
    OK(cudaMalloc((void **)&sums, 16));
    OK(cudaMemset(sums, 0, 16));
    for (auto &o : out) {
        OK(cudaMalloc((void **)&o, n * 2));
        OK(cudaMemset(o, 0xFF, n * 2));
    }
    fill_kernel<<<1024, 256>>>((bf16 *)m->kv, (int64_t)layer * layers * used, 1);
    fill_kernel<<<1024, 256>>>(q, (int64_t)n, 2);
    OK(cudaDeviceSynchronize());
    struct batch b = {NULL, 0, rows, pages, 0, row, number};
    double bytes = (double)needed * kv_heads * 512;
    printf("%2d/%d heads, %2d rows, %s%d tokens, groups of %d, %d layers:", heads, kv_heads, rows, spread ? "about " : "", context, group, layers);
    for (int way = 0; way < 2; way++) {
        m->arch = way ? 90 : 80;
        m->step_shared = attend_shared(m, &b);
        char *host = (char *)calloc(1, step_bytes(&b)), *step;
        double start = seconds();
        size_t filled = 0;
        for (int i = 0; i < 100; i++) filled = step_fill(m, &b, host);
        double plan = (seconds() - start) / 100;
        OK(cudaMalloc((void **)&step, step_bytes(&b)));
        OK(cudaMemcpy(step, host, filled, cudaMemcpyHostToDevice));
        OK(cudaDeviceSynchronize()); /* the graph's stream does not wait for this one */
        enum { RUNS = 15 };
        float ms[RUNS];
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        cudaEvent_t from, to;
        OK(cudaEventCreate(&from));
        OK(cudaEventCreate(&to));
        m->arch = 90; /* launches overlap for both */
        OK(cudaStreamBeginCapture(m->stream, cudaStreamCaptureModeThreadLocal));
        for (int i = 0; i < LAUNCHES; i++) {
            m->arch = way ? 90 : 80;
            attend_items(m, i % layers, (const struct step_head *)step, q, out[way], TILED_NO);
        }
        OK(cudaStreamEndCapture(m->stream, &graph));
        OK(cudaGetLastError());
        OK(cudaGraphInstantiate(&exec, graph, 0));
        for (int i = -2; i < RUNS; i++) {
            OK(cudaEventRecord(from, m->stream));
            OK(cudaGraphLaunch(exec, m->stream));
            OK(cudaEventRecord(to, m->stream));
            OK(cudaEventSynchronize(to));
            if (i >= 0) OK(cudaEventElapsedTime(&ms[i], from, to));
        }
        qsort(ms, RUNS, sizeof *ms, by_value);
        printf("  %s %.3f ms %4.0f GB/s (plan %.0f us)", way ? "sm_90" : "sm_80", ms[RUNS / 2], bytes * LAUNCHES / ms[RUNS / 2] / 1e6, plan * 1e6);
        if (way) { /* once more: the same bits? */
            attend_items(m, (LAUNCHES - 1) % layers, (const struct step_head *)step, q, out[2], TILED_NO);
            OK(cudaStreamSynchronize(m->stream));
        }
        cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaEventDestroy(from), cudaEventDestroy(to), cudaFree(step), free(host);
    }
    int64_t values = (int64_t)rows * heads * 128;
    distance_kernel<<<256, 256>>>(out[1], out[0], values, sums);
    OK(cudaMemcpy(got, sums, 16, cudaMemcpyDeviceToHost));
    char *x = (char *)malloc((size_t)values * 2), *y = (char *)malloc((size_t)values * 2);
    OK(cudaMemcpy(x, out[1], (size_t)values * 2, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(y, out[2], (size_t)values * 2, cudaMemcpyDeviceToHost));
    printf("  apart %.1e, %s\n", sqrt(got[0] / got[1]), memcmp(x, y, (size_t)values * 2) ? "NOT REPEATABLE" : "repeatable");
    fflush(stdout);
    cudaFree(m->kv), cudaFree(q), cudaFree(sums);
    for (auto o : out) cudaFree(o);
    free(number), free(x), free(y);
}

int main(int argc, char **argv) {
    cudaDeviceProp p;
    m = (struct backend_model *)calloc(1, sizeof *m);
    OK(cudaGetDeviceProperties(&p, 0));
    m->sm_count = p.multiProcessorCount;
    OK(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking));
    size_t partial = (size_t)MOST_ITEMS * 32 * 130 * 4;
    OK(cudaMalloc((void **)&m->attend_partial, partial));
    OK(cudaMemset(m->attend_partial, 0xFF, partial));
    OK(cudaMalloc((void **)&m->attend_counters, 2 * FEW_ROWS * 32 * 4));
    OK(cudaMemset(m->attend_counters, 0, 2 * FEW_ROWS * 32 * 4));
    if (argc > 3) return run(argc > 4 ? atoi(argv[4]) : 16, 8, atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), false, argc > 5 ? atoi(argv[5]) : 0), 0;
    static const struct { int heads, rows, context, group; bool spread; } shapes[] = {
        {16, 64, 1024, 1}, {16, 32, 1024, 1}, {16, 16, 1024, 1}, {16, 9, 1024, 1}, {16, 16, 600, 1}, {16, 64, 1024, 1, true}, {16, 64, 1024, 8}, {16, 64, 600, 8}, {16, 64, 1024, 64},
        {16, 16, 8192, 1}, {16, 16, 32768, 1}, {16, 64, 4096, 8}, {32, 64, 1024, 1}, {32, 16, 1024, 1}, {32, 64, 1024, 8}, {32, 64, 4096, 4}};
    for (const auto &s : shapes) run(s.heads, 8, s.rows, s.context, s.group, s.spread);
    return 0;
}
