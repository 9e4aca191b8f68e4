/* The vision tower through the CUDA backend's door: wall clock from bytes (or patches) in host memory to features in host memory, by number and
 * size of pictures, with the kernels of sm_80 and Hopper's. usage: bench_picture CHECKPOINT */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cuda/room.h"

static double seconds() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static struct err err;
static void check(int r) {
    if (!r) return;
    fprintf(stderr, "bench_picture: %s\n", err.message);
    exit(1);
}
static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b; }

static struct backend_model *m;
enum { MOST = 16, RUNS = 25 };
static const size_t FEATURES = (size_t)4 * 256 * 4096; /* floats: more than one picture of these sizes has */

static void report(const char *what, int count, double *took) {
    qsort(took, RUNS, sizeof *took, by_value);
    printf("%-52s %2d pictures: %6.2f ms, %5.2f a picture (least %.2f, most %.2f)\n", what, count, took[RUNS / 2] * 1e3, took[RUNS / 2] * 1e3 / count, took[0] * 1e3, took[RUNS - 1] * 1e3);
    fflush(stdout);
}

/* sizes: pixels, `kinds` of them in turn; pinned: the caller's memory, as the engine brings it, else that of the backend. */
static void encode(const char *what, const int (*sizes)[2], int kinds, int count, bool patches, bool pinned) {
    struct image im[MOST];
    double took[RUNS], ready = 0, device = 0, busy = 0;
    cudaEvent_t from, to;
    cudaEventCreate(&from), cudaEventCreate(&to);
    unsigned state = 1;
    float *memory = pinned ? (float *)cuda_host_alloc(m, MOST * FEATURES * sizeof *memory) : NULL;
    for (int i = 0; i < count; i++) {
        im[i].width = sizes[i % kinds][0], im[i].height = sizes[i % kinds][1];
        size_t bytes = (size_t)im[i].width * (size_t)im[i].height * 3;
        im[i].rgb = (uint8_t *)malloc(bytes);
        for (size_t k = 0; k < bytes; k++) im[i].rgb[k] = (uint8_t)((state = state * 1664525 + 1013904223) >> 24);
    }
    for (int t = -4; t < RUNS; t++) {
        struct vision_features f[MOST] = {};
        double start = seconds(), middle = 0;
        if (patches) {
            struct patches p;
            for (int i = 0; i < count; i++) {
                check(image_patches(&im[i], &m->w.config, RESAMPLE_TORCHVISION, &p, &err));
                middle = seconds();
                check(cuda_encode_image(m, &p, &f[i], &err));
                patches_free(&p);
            }
        } else {
            struct prepared_picture p[MOST];
            for (int i = 0; i < count; i++) check(image_picture(&im[i], &m->w.config, RESAMPLE_TORCHVISION, &p[i], &err));
            for (int i = 0; i < count && pinned; i++) f[i].values = memory + (size_t)i * FEATURES, f[i].pinned = true;
            middle = seconds();
            cudaEventRecord(from, m->stream);
            check(cuda_encode_pictures(m, p, count, f, &err));
            cudaEventRecord(to, m->stream);
            cudaEventSynchronize(to);
            float ms;
            cudaEventElapsedTime(&ms, from, to);
            if (t >= 0) busy += ms * 1e-3 / RUNS;
            for (int i = 0; i < count; i++) picture_free(&p[i]);
        }
        double end = seconds();
        if (t >= 0) took[t] = end - start, ready += (middle - start) / RUNS, device += (end - middle) / RUNS;
        for (int i = 0; i < count && !pinned; i++) vision_features_free(&f[i]);
    }
    cuda_host_free(m, memory);
    report(what, count, took);
    if (!patches || count == 1) printf("    of these made ready on the host %.2f ms, the backend %.2f ms, its stream busy %.2f ms\n", ready * 1e3, device * 1e3, busy * 1e3);
    cudaEventDestroy(from), cudaEventDestroy(to);
    for (int i = 0; i < count; i++) free(im[i].rgb);
}

/* One kind of product, all blocks of the tower one after the other in a graph: microseconds each, by how it is cut. */
static void cuts(const char *what, int rows, int how, const struct dlinear *(*which)(int)) {
    const struct dlinear *w = which(0);
    int depth = m->w.config.vision.depth, n[] = {64, 128, 176}, cluster[] = {1, 2, 4};
    bf16 *x = (bf16 *)buffer_get(m, BUFFER_WIDE, (size_t)rows * (size_t)w->in * 2, &err);
    float *rotary = (float *)buffer_get(m, BUFFER_COMPACT, (size_t)rows * 64 * 4, &err);
    void *y = buffer_get(m, BUFFER_QKV, (size_t)rows * (size_t)w->out * 12, &err);
    if (!x || !y || !rotary) exit(1);
    cudaMemsetAsync(x, 0x3C, (size_t)rows * (size_t)w->in * 2, m->stream);
    cudaMemsetAsync(rotary, 0, (size_t)rows * 64 * 4, m->stream);
    struct product_cut chosen = tower_product_cut(m, w, rows, how);
    printf("%-12s %4d x %4d, %d rows, %.1f GFLOP; chosen %d/%d/%d:", what, w->out, w->in, rows, 2e-9 * rows * w->out * w->in, chosen.n, chosen.splits, chosen.cluster);
    for (int i : n)
        for (int splits = 1; splits <= (how == OUT_PARTS ? 3 : 1); splits++)
            for (int c : cluster) {
                struct product_cut cut = {i, splits, c};
                if (how == OUT_HEADS && i % 64) continue;
                cudaGraph_t graph;
                cudaGraphExec_t exec;
                cudaEvent_t from, to;
                float ms = 0;
                cudaEventCreate(&from), cudaEventCreate(&to);
                cudaStreamBeginCapture(m->stream, cudaStreamCaptureModeThreadLocal);
                bool right = true;
                for (int b = 0; b < depth; b++) right = tower_product_run(m, which(b), x, rows, how, y, rotary, which((b + 1) % depth), &cut) && right;
                cudaStreamEndCapture(m->stream, &graph);
                if (!right || cudaGraphInstantiate(&exec, graph, 0)) {
                    printf(" failed: %s", cudaGetErrorString(cudaGetLastError()));
                    continue;
                }
                cudaGraphLaunch(exec, m->stream);
                cudaEventRecord(from, m->stream);
                for (int k = 0; k < 4; k++) cudaGraphLaunch(exec, m->stream);
                cudaEventRecord(to, m->stream);
                cudaEventSynchronize(to);
                cudaEventElapsedTime(&ms, from, to);
                printf(" %d/%d/%d %.1f", i, splits, c, ms * 1e3 / 4 / depth);
                cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaEventDestroy(from), cudaEventDestroy(to);
            }
    printf(" us\n");
    fflush(stdout);
}

/* Microseconds of what `body` launches, `count` times one after the other in a graph. */
template <typename T> static double in_graph(int count, T body) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    float ms = 0;
    cudaEventCreate(&from), cudaEventCreate(&to);
    cudaStreamBeginCapture(m->stream, cudaStreamCaptureModeThreadLocal);
    for (int i = 0; i < count; i++) body(i);
    cudaStreamEndCapture(m->stream, &graph);
    if (cudaGraphInstantiate(&exec, graph, 0)) return -1;
    cudaGraphLaunch(exec, m->stream);
    cudaEventRecord(from, m->stream);
    for (int k = 0; k < 4; k++) cudaGraphLaunch(exec, m->stream);
    cudaEventRecord(to, m->stream);
    cudaEventSynchronize(to);
    cudaEventElapsedTime(&ms, from, to);
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaEventDestroy(from), cudaEventDestroy(to);
    return ms * 1e3 / 4 / count;
}

/* What is between the products, and all blocks without what goes up and down. After pictures of 480x320 were encoded. */
static void others() {
    const struct vision_config *v = &m->w.config.vision;
    struct pictures p = {};
    p.count = 1, p.rows = 600, p.groups = 1, p.merge = v->merge, p.at[0].t = 1, p.at[0].h = 20, p.at[0].w = 30;
    bf16 *qkv = (bf16 *)m->buffer[BUFFER_TURNED].data, *x = (bf16 *)m->buffer[BUFFER_NORMED].data;
    float *h = (float *)m->buffer[BUFFER_HIDDEN].data, *parts = (float *)m->buffer[BUFFER_QKV].data;
    const struct dblock *b = m->blocks;
    if (v->hidden / v->heads == 64) printf("attention %.1f us", in_graph(24, [&](int) { attend_groups(m, &p, qkv, NULL, v->heads, 64, NULL, x); }));
    for (int n = 1; n <= 3; n++) printf(", norm of %d parts %.1f us", n, in_graph(24, [&](int) { tower_add_norm(m, h, parts, n, b->proj.bias, b->norm1_w, b->norm1_b, x, 600, v->hidden, false); }));
    for (int i = 0; i < MOST_TOWER_GRAPHS; i++) {
        struct tower_graph *g = &m->towers[i];
        if (g->uses < 2 || g->pictures.rows != 600) continue;
        cudaEvent_t from, to;
        float ms;
        cudaEventCreate(&from), cudaEventCreate(&to);
        cudaEventRecord(from, m->stream);
        for (int k = 0; k < 8; k++)
            for (int s = 0; s <= v->deepstack_count; s++) cudaGraphLaunch(g->blocks[s], m->stream);
        cudaEventRecord(to, m->stream);
        cudaEventSynchronize(to);
        cudaEventElapsedTime(&ms, from, to);
        printf(", all blocks %.3f ms", ms / 8);
    }
    printf("\n");
}

/* The two ways' features of one picture, || a - b || / || b || of each level. */
static void compare(int newest) {
    struct image im = {480, 320, (uint8_t *)malloc(480 * 320 * 3)};
    struct prepared_picture p;
    struct vision_features f[2] = {};
    for (int i = 0; i < 480 * 320 * 3; i++) im.rgb[i] = (uint8_t)(i * 7 % 255 + i / 1440 % 3);
    check(image_picture(&im, &m->w.config, RESAMPLE_TORCHVISION, &p, &err));
    for (int way = 0; way < 2; way++) {
        m->arch = way ? newest : 80;
        tower_graphs_drop(m);
        check(cuda_encode_pictures(m, &p, 1, &f[way], &err));
    }
    printf("features of the two ways apart:");
    size_t n = (size_t)f[0].tokens * (size_t)m->w.config.vision.out_hidden;
    for (int l = 0; l < f[0].levels; l++) {
        double d = 0, w = 0;
        for (size_t i = 0; i < n; i++) {
            double a = f[1].values[l * n + i], b = f[0].values[l * n + i];
            d += (a - b) * (a - b), w += b * b;
        }
        printf(" %.1e", sqrt(d / w));
    }
    printf("\n");
    for (int way = 0; way < 2; way++) vision_features_free(&f[way]);
    picture_free(&p);
    free(im.rgb);
}

int main(int argc, char **argv) {
    struct checkpoint *c;
    struct backend_options o = {};
    if (argc < 2 || !cuda_available(&err)) return fprintf(stderr, "usage: bench_picture CHECKPOINT; %s\n", err.message), 2;
    check(checkpoint_open(argv[1], &c, &err));
    o.kv_bytes = (size_t)1 << 30;
    check(cuda_load(c, &o, &m, &err));
    bool once = argc > 2; /* for a profiler: one picture */
    static const int large[][2] = {{480, 320}}, frame[][2] = {{240, 160}}, mixed[][2] = {{480, 320}, {320, 224}, {640, 352}, {256, 256}};
    int newest = m->arch;
    if (!once) compare(newest);
    for (int arch : {80, newest}) {
        if (once && arch != newest) continue;
        m->arch = arch;
        tower_graphs_drop(m);
        printf("== %s, kernels of sm_%d (%s)\n", argv[1], arch, tower_warpgroup_fit(m) ? "products of their own" : "cublasLt");
        if (once) {
            struct image im = {480, 320, (uint8_t *)calloc(480 * 320, 3)};
            struct prepared_picture p;
            struct vision_features f = {};
            check(image_picture(&im, &m->w.config, RESAMPLE_TORCHVISION, &p, &err));
            check(cuda_encode_pictures(m, &p, 1, &f, &err));
            return 0;
        }
        if (tower_warpgroup_fit(m)) {
            cuts("qkv", 600, OUT_HEADS, [](int b) -> const struct dlinear * { return &m->blocks[b].qkv; });
            cuts("proj", 600, OUT_PARTS, [](int b) -> const struct dlinear * { return &m->blocks[b].proj; });
            cuts("fc1", 600, OUT_GELU_TANH, [](int b) -> const struct dlinear * { return &m->blocks[b].fc1; });
            cuts("fc2", 600, OUT_PARTS, [](int b) -> const struct dlinear * { return &m->blocks[b].fc2; });
            cuts("merger fc1", 150, OUT_PARTS, [](int b) -> const struct dlinear * { return &m->deepstack[b % 3].fc1; });
            cuts("merger fc2", 150, OUT_PARTS, [](int b) -> const struct dlinear * { return &m->deepstack[b % 3].fc2; });
        }
        encode("480x320 from patches made on the host", large, 1, 1, true, false);
        for (int n : {1, 4, 16}) {
            encode("480x320 from bytes", large, 1, n, false, false), encode("480x320 from bytes, to pinned memory", large, 1, n, false, true);
            if (n == 1 && tower_warpgroup_fit(m)) others();
        }
        encode("240x160 enlarged, from bytes", frame, 1, 1, false, true);
        encode("four sizes in turn, from bytes", mixed, 4, 4, false, true);
        encode("four sizes in turn, from bytes", mixed, 4, 16, false, true);
    }
    cuda_unload(m);
    checkpoint_close(c);
    return 0;
}
