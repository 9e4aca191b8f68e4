/* What this device can do at best, measured now: reading its memory once (16-byte loads), and the library's bf16 product of the shape
 * that prefill has. Events around each pass, the best of a few. */
#include <stdlib.h>

#include "backend/cuda/room.h"

enum { READ_PASSES = 6, PRODUCT_PASSES = 20, ROWS = 4096, OUT = 12288, IN = 2048 }; /* the 2B model's gate and up over a long prompt */
static const size_t most_read = (size_t)2 << 30, least_read = (size_t)64 << 20;

__global__ static void read_once_kernel(const uint4 *p, int64_t n, unsigned *out) {
    unsigned sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        uint4 v = p[i];
        sum += v.x ^ v.y ^ v.z ^ v.w;
    }
    if (sum == 12345) *out = sum; /* so that the reads are not left out */
}

struct timer {
    cudaEvent_t from, to;
};

static double seconds_between(struct timer *t) {
    float ms = 0;
    if (cudaEventSynchronize(t->to) || cudaEventElapsedTime(&ms, t->from, t->to)) return 0;
    return (double)ms * 1e-3;
}

/* Half of what is free, up to 2 GiB. */
static int measure_reading(struct backend_model *m, struct timer *t, double *out, struct err *err) {
    size_t bytes = cuda_memory_free(NULL) / 2 / 4096 * 4096;
    char *p;
    if (bytes > most_read) bytes = most_read;
    if (bytes < least_read) return err_set(err, ERR_LIMIT, "too little device memory is free to measure how fast it is read");
    int r = cuda_failed(cudaMalloc((void **)&p, bytes + 64), "memory to read", err);
    if (r) return r;
    cudaMemset(p, 0x5A, bytes);
    for (int i = 0; i < READ_PASSES; i++) {
        cudaEventRecord(t->from, m->stream);
        launch(m, read_once_kernel, dim3((unsigned)m->sm_count * 16), dim3(512), 0, (const uint4 *)p, (int64_t)(bytes / 16), (unsigned *)(p + bytes));
        cudaEventRecord(t->to, m->stream);
        double s = seconds_between(t), rate = s > 0 ? (double)bytes / s : 0;
        if (rate > *out) *out = rate;
    }
    r = cuda_failed(cudaGetLastError(), "measuring how fast memory is read", err);
    cudaFree(p);
    return r;
}

/* Leaves *out at 0 when the library is not there: then nothing is said about products. */
static int measure_products(struct backend_model *m, struct timer *t, double *out, struct err *err) {
    struct lt *lt = lt_open();
    if (!lt) return 0;
    size_t w = (size_t)OUT * IN * sizeof(bf16), x = (size_t)ROWS * IN * sizeof(bf16), y = (size_t)ROWS * OUT * sizeof(bf16);
    char *p;
    int r = cuda_failed(cudaMalloc((void **)&p, w + x + y), "memory to multiply", err);
    if (!r) {
        cudaMemset(p, 0x3C, w + x + y); /* bf16 0x3C3C: 0.0115 */
        for (int i = 0; i < PRODUCT_PASSES; i++) {
            cudaEventRecord(t->from, m->stream);
            if (lt_product(lt, m->stream, (const bf16 *)p, OUT, IN, (const bf16 *)(p + w), IN, ROWS, p + w + x, OUT, true, false)) break;
            cudaEventRecord(t->to, m->stream);
            double s = seconds_between(t), rate = s > 0 ? 2.0 * ROWS * OUT * IN / s : 0;
            if (rate > *out) *out = rate;
        }
        r = cuda_failed(cudaGetLastError(), "measuring products", err);
        cudaFree(p);
    }
    lt_close(lt);
    return r;
}

int cuda_ceilings(const struct backend_options *o, struct backend_ceilings *out, struct err *err) {
    struct cudaDeviceProp properties;
    struct timer t = {};
    *out = {};
    if (!cuda_available(err)) return ERR_MISSING;
    struct backend_model *m = (struct backend_model *)calloc(1, sizeof *m); /* a stream and the size of the device are all it needs */
    if (!m) return err_set(err, ERR_MEMORY, "out of memory");
    int r = cuda_failed(cudaSetDevice(o->card), "choosing a device", err);
    m->device = o->card;
    if (!r) r = cuda_failed(cudaGetDeviceProperties(&properties, m->device), "asking for the device's properties", err);
    if (!r) m->sm_count = properties.multiProcessorCount;
    if (!r) r = cuda_failed(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking), "a stream", err);
    if (!r) r = cuda_failed(cudaEventCreate(&t.from), "an event", err);
    if (!r) r = cuda_failed(cudaEventCreate(&t.to), "an event", err);
    if (!r) r = measure_reading(m, &t, &out->read_bytes, err);
    if (!r) r = measure_products(m, &t, &out->product_flops, err);
    if (t.from) cudaEventDestroy(t.from);
    if (t.to) cudaEventDestroy(t.to);
    if (m->stream) cudaStreamDestroy(m->stream);
    free(m);
    return r;
}
