/* Prefill attention alone: the sm_80 kernel beside Hopper's, and how far their results lie apart. Prints TFLOP/s (4 x head size operations
 * for each pair of a query and a key that it sees), median of runs timed by events. No model. usage: bench_attend */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_values.h"

static struct backend_model *m;
static void ok(cudaError_t e, int line) {
    if (!e) return;
    fprintf(stderr, "bench_attend: line %d: %s\n", line, cudaGetErrorString(e));
    exit(1);
}
#define OK(call) ok(call, __LINE__)
static int by_value(const void *a, const void *b) { return *(const float *)a < *(const float *)b ? -1 : *(const float *)a > *(const float *)b; }

static void run(int heads, int kv_heads, int first, int count) {
    struct text_config *t = &m->w.config.text;
    t->heads = heads, t->kv_heads = kv_heads, t->head_dim = 128;
    int length = first + count, pages = (length + PAGE - 1) / PAGE;
    size_t layer = (size_t)2 * (size_t)kv_heads * PAGE * 128, n = (size_t)count * (size_t)heads * 128;
    m->layer_stride = (int64_t)layer, m->page_bytes = layer * 2, m->capacity = pages;
    OK(cudaMalloc((void **)&m->kv, layer * 2 * (size_t)pages));
    bf16 *q, *out[2];
    struct drow *rows, *row = (struct drow *)calloc((size_t)count, sizeof *row);
    int32_t *numbers, *number = (int32_t *)malloc((size_t)pages * 4);
    double *sums, got[2];
    OK(cudaMalloc((void **)&q, n * 2));
    OK(cudaMalloc((void **)&rows, (size_t)count * sizeof *row));
    OK(cudaMalloc((void **)&numbers, (size_t)pages * 4));
    OK(cudaMalloc((void **)&sums, 16));
    OK(cudaMemset(sums, 0, 16));
    for (int i = 0; i < 2; i++) {
        OK(cudaMalloc((void **)&out[i], n * 2));
        OK(cudaMemset(out[i], 0xFF, n * 2));
    }
    for (int i = 0; i < count; i++) row[i].slot = first + i;
    for (int i = 0; i < pages; i++) number[i] = (int32_t)((int64_t)i * 7919 % pages); /* a permutation unless 7919 divides the count */
    OK(cudaMemcpy(rows, row, (size_t)count * sizeof *row, cudaMemcpyHostToDevice));
    OK(cudaMemcpy(numbers, number, (size_t)pages * 4, cudaMemcpyHostToDevice));
    fill_kernel<<<1024, 256>>>((bf16 *)m->kv, (int64_t)layer * pages, 1);
    fill_kernel<<<1024, 256>>>(q, (int64_t)n, 2);
    OK(cudaDeviceSynchronize());
    struct attend_run one = {0, count, length};
    double work = 4.0 * 128 * heads * ((double)count * first + (double)count * (count + 1) / 2);
    cudaEvent_t from, to;
    OK(cudaEventCreate(&from));
    OK(cudaEventCreate(&to));
    printf("%2d/%d heads, %6d rows after %6d:", heads, kv_heads, count, first);
    for (int way = 0; way < 2; way++) {
        enum { RUNS = 9 };
        float ms[RUNS];
        m->arch = way ? 90 : 80;
        int repeats = work > 2e12 ? 1 : 8, runs = work > 2e12 ? 3 : RUNS;
        for (int i = -1; i < runs; i++) {
            OK(cudaEventRecord(from, m->stream));
            for (int k = 0; k < repeats; k++) attend_runs(m, 0, rows, &one, 1, numbers, q, out[way]);
            OK(cudaEventRecord(to, m->stream));
            OK(cudaEventSynchronize(to));
            if (i >= 0) OK(cudaEventElapsedTime(&ms[i], from, to));
            if (i >= 0) ms[i] /= (float)repeats;
        }
        OK(cudaGetLastError());
        qsort(ms, (size_t)runs, sizeof *ms, by_value);
        printf("  %s %8.3f ms %4.0f TFLOP/s", way ? "sm_90a" : "sm_80", ms[runs / 2], work / ms[runs / 2] / 1e9);
    }
    distance_kernel<<<256, 256>>>(out[1], out[0], (int64_t)n, sums);
    OK(cudaMemcpy(got, sums, 16, cudaMemcpyDeviceToHost));
    printf("  apart %.1e\n", sqrt(got[0] / got[1]));
    fflush(stdout);
    cudaFree(m->kv), cudaFree(q), cudaFree(out[0]), cudaFree(out[1]), cudaFree(rows), cudaFree(numbers), cudaFree(sums);
    free(row), free(number);
}

int main(void) {
    cudaDeviceProp p;
    m = (struct backend_model *)calloc(1, sizeof *m);
    OK(cudaGetDeviceProperties(&p, 0));
    m->sm_count = p.multiProcessorCount;
    OK(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking));
    static const int shapes[][4] = {{16, 8, 0, 1024}, {16, 8, 0, 8192}, {16, 8, 7680, 512}, {16, 8, 7168, 1024}, {16, 8, 0, 32768}, {32, 8, 0, 1024}, {32, 8, 0, 8192},
                                    {32, 8, 7680, 512}, {32, 8, 0, 32768}, {32, 8, 122880, 8192}};
    for (const auto &s : shapes) run(s[0], s[1], s[2], s[3]);
    return 0;
}
