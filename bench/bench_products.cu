/* The products of a layer of decode steps of 9 to 64 rows (wide_tiled.cu), alone: q, k, v; o; gate and up; down, chained in one graph as a step has
 * them, random weights of so many layers that no cache holds them. Prints microseconds a layer: each of the four alone, all four in turn, and the
 * bytes of the four at 3.14 TB/s. usage: bench_products [SIZE-KIND ...] [rows ...]; SIZE 2b 4b 8b, KIND fp8 nf4 bf16 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/room.h"

static struct backend_model *m;
static void ok(cudaError_t e, int line) {
    if (!e) return;
    fprintf(stderr, "bench_products: line %d: %s\n", line, cudaGetErrorString(e));
    exit(1);
}
#define OK(call) ok(call, __LINE__)

enum { LAYERS = 8, MOST_HELD = 512 };
static void *held[MOST_HELD];
static int held_count;
/* mask: of each word (FP8: 0xFF and 0x7F are no numbers). */
__global__ void random_kernel(uint32_t *p, int64_t words, unsigned seed, uint32_t mask) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += (int64_t)gridDim.x * blockDim.x) {
        uint64_t x = (uint64_t)i * 0x9E3779B97F4A7C15u + seed;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u, x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        p[i] = (uint32_t)(x >> 32) & mask;
    }
}
static void *random_bytes(size_t bytes, uint32_t mask) {
    static unsigned seed;
    void *p;
    OK(cudaMalloc(&p, bytes + 64));
    random_kernel<<<1024, 256, 0, m->stream>>>((uint32_t *)p, (int64_t)(bytes + 63) / 4, ++seed, mask);
    return held[held_count++ % MOST_HELD] = p;
}
static float *floats(const float *from, size_t n, float each) {
    float *host = (float *)malloc(n * 4), *p;
    for (size_t i = 0; i < n; i++) host[i] = from ? from[i] : each;
    OK(cudaMalloc(&p, n * 4 + 64));
    OK(cudaMemcpy(p, host, n * 4, cudaMemcpyHostToDevice));
    free(host);
    return (float *)(held[held_count++ % MOST_HELD] = p);
}

static size_t weight_bytes;
static struct dlinear matrix(int storage, int out, int in) {
    struct dlinear d = {};
    size_t n = (size_t)out * in;
    float levels[16], map[256];
    for (int i = 0; i < 16; i++) levels[i] = (float)(i - 7) / 8;
    for (int i = 0; i < 256; i++) map[i] = (float)i / 256;
    d.storage = storage, d.out = out, d.in = in, d.rounding = DTYPE_BF16, d.block = 64, d.fast = 1, d.scale_columns = in / 128, d.nested_block = 256;
    size_t bytes = storage == STORAGE_NF4 ? n / 2 + n / 64 : storage == STORAGE_FP8_BLOCK ? n : n * 2;
    d.data = random_bytes(storage == STORAGE_NF4 ? n / 2 : bytes, storage == STORAGE_BF16 ? 0x3FFF3FFFu : storage == STORAGE_FP8_BLOCK ? 0xBFBFBFBFu : 0xFFFFFFFFu);
    if (storage == STORAGE_FP8_BLOCK) d.scale = floats(NULL, (size_t)(out + 127) / 128 * (in / 128), 1e-3f);
    if (storage == STORAGE_NF4) {
        d.quant_map = floats(levels, 16, 0), d.nested_map = floats(map, 256, 0), d.nested_absmax = floats(NULL, n / 64 / 256 + 1, 0.01f);
        d.absmax_u8 = (const uint8_t *)random_bytes(n / 64, 0xFFFFFFFFu);
        tiled_absmax(m, &d, random_bytes(tiled_absmax_bytes(&d), 0));
    }
    weight_bytes += bytes;
    return d;
}

struct layer {
    struct dlinear w[7];
};
enum { QKV = 1, O = 2, UP = 4, DOWN = 8, ALL = 15 };

static float time_of(const struct layer *layers, int d, int q, int kv, int wide, int rows, int parts, int tiled, bf16 *x, float *y, float *h, float *squares, const float *weight) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    bf16 *attended = x + 64 * d, *up = attended + 64 * q;
    int repeats = 12;
    OK(cudaStreamBeginCapture(m->stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < LAYERS; i++) {
        const struct layer *l = &layers[i];
        struct product p = {{&l->w[0], &l->w[1], &l->w[2]}, 3}, o = {{&l->w[3]}, 1}, u = {{&l->w[4]}, 1, &l->w[5]}, down = {{&l->w[6]}, 1};
        p.rows = o.rows = u.rows = down.rows = rows, p.tiled = o.tiled = u.tiled = down.tiled = tiled;
        p.x = x, p.ldx = d, p.out = OUT_F32, p.y = y, p.ldy = q + 2 * kv, p.squares = squares, p.squares_count = product_squares(&down), p.norm_n = d;
        o.x = attended, o.ldx = q, o.out = OUT_ADD, o.y = h, o.ldy = d, o.next_weight = weight, o.next_x = x, o.next_squares = squares;
        u.x = x, u.ldx = d, u.out = OUT_SILU, u.y = up, u.ldy = wide, u.squares = squares, u.squares_count = product_squares(&o), u.norm_n = d;
        down.x = up, down.ldx = wide, down.out = OUT_ADD, down.y = h, down.ldy = d, down.next_weight = weight, down.next_x = x, down.next_squares = squares;
        if (parts & QKV) few_rows_run(m, &p);
        if (parts & O) few_rows_run(m, &o);
        if (parts & UP) few_rows_run(m, &u);
        if (parts & DOWN) few_rows_run(m, &down);
    }
    OK(cudaStreamEndCapture(m->stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEventCreate(&from), cudaEventCreate(&to);
    float ms = 0;
    for (int i = -2; i < repeats; i++) {
        if (i == 0) cudaEventRecord(from, m->stream);
        OK(cudaGraphLaunch(exec, m->stream));
    }
    cudaEventRecord(to, m->stream);
    OK(cudaStreamSynchronize(m->stream));
    cudaEventElapsedTime(&ms, from, to);
    cudaEventDestroy(from), cudaEventDestroy(to), cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
    return ms * 1e3f / (float)(repeats * LAYERS);
}

static void run(const char *what, const int *rows, int count) {
    static const struct { const char *name; int d, q, kv, wide; } sizes[] = {{"2b", 2048, 2048, 1024, 6144}, {"4b", 2560, 4096, 1024, 9728}, {"8b", 4096, 4096, 1024, 12288}};
    int size = 0, storage = strstr(what, "fp8") ? STORAGE_FP8_BLOCK : strstr(what, "nf4") ? STORAGE_NF4 : STORAGE_BF16;
    while (size < 2 && strncmp(what, sizes[size].name, 2)) size++;
    int d = sizes[size].d, q = sizes[size].q, kv = sizes[size].kv, wide = sizes[size].wide;
    struct layer layers[LAYERS];
    weight_bytes = 0;
    for (int i = 0; i < LAYERS; i++)
        layers[i] = {{matrix(storage, q, d), matrix(storage, kv, d), matrix(storage, kv, d), matrix(storage, d, q), matrix(storage, wide, d), matrix(storage, wide, d), matrix(storage, d, wide)}};
    bf16 *x = (bf16 *)random_bytes((size_t)64 * (d + q + wide) * 2, 0xBF7FBF7Fu);
    float *y = floats(NULL, (size_t)64 * (q + 2 * kv), 0), *h = floats(NULL, (size_t)64 * d, 0.5f), *squares = floats(NULL, (size_t)64 * MOST_SQUARES, 1), *weight = floats(NULL, (size_t)d, 1);
    int tiled = storage == STORAGE_FP8_BLOCK ? TILED_CROSSED : TILED_STRAIGHT;
    for (int i = 0; i < count; i++) {
        printf("%-8s %2d rows:", what, rows[i]);
        static const struct { const char *name; int parts; } kinds[] = {{"qkv", QKV}, {"o", O}, {"up", UP}, {"down", DOWN}, {"chain", ALL}};
        for (const auto &k : kinds) printf(" %s %.1f", k.name, time_of(layers, d, q, kv, wide, rows[i], k.parts, tiled, x, y, h, squares, weight));
        printf(" us; bytes %.1f us\n", (double)weight_bytes / LAYERS / 3.14e6);
        fflush(stdout);
    }
    for (; held_count; held_count--) cudaFree(held[held_count - 1]);
}

int main(int argc, char **argv) {
    cudaDeviceProp p;
    m = (struct backend_model *)calloc(1, sizeof *m);
    OK(cudaGetDeviceProperties(&p, 0));
    m->sm_count = p.multiProcessorCount, m->arch = p.major * 10 + p.minor, m->w.config.text.rms_eps = 1e-6f;
    OK(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking));
    int rows[16], count = 0, kinds = 0;
    for (int i = 1; i < argc; i++)
        if (strchr(argv[i], '-')) kinds++;
        else if (count < 16) rows[count++] = atoi(argv[i]);
    if (!count) rows[count++] = 64;
    static const char *const all[] = {"2b-fp8", "2b-nf4", "4b-nf4", "8b-nf4", "2b-bf16"};
    if (!kinds)
        for (const char *what : all) run(what, rows, count);
    for (int i = 1; i < argc; i++)
        if (strchr(argv[i], '-')) run(argv[i], rows, count);
    return 0;
}
