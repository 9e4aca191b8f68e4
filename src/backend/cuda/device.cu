/* The device, the model on it, its working memory: the CUDA backend's door. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cuda/room.h"

enum { OLDEST = 80 }; /* compute capability 8.0: bf16 on the tensor cores, cp.async */

int cuda_failed(cudaError_t e, const char *what, struct err *err) {
    if (e == cudaSuccess) return 0;
    cudaGetLastError(); /* one request's failure is not the next one's */
    if (e == cudaErrorMemoryAllocation) {
        size_t total, left = cuda_memory_free(&total);
        return err_set(err, ERR_MEMORY, "CUDA: out of memory: %s (%.1f of %.1f GiB are free)", what, (double)left / (1 << 30), (double)total / (1 << 30));
    }
    return err_set(err, ERR_IO, "CUDA: %s: %s", what, cudaGetErrorString(e));
}

bool cuda_available(struct err *err) {
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e || count == 0) {
        cudaGetLastError();
        err_set(err, ERR_MISSING, "no usable CUDA device: %s", e ? cudaGetErrorString(e) : "the driver lists none");
        return false;
    }
    struct cudaDeviceProp p;
    int device = 0;
    if ((e = cudaGetDevice(&device)) || (e = cudaGetDeviceProperties(&p, device))) {
        cudaGetLastError();
        err_set(err, ERR_MISSING, "no usable CUDA device: %s", cudaGetErrorString(e));
        return false;
    }
    if (p.major * 10 + p.minor < OLDEST) {
        err_set(err, ERR_MISSING, "no usable CUDA device: %s has compute capability %d.%d, at least 8.0 is needed", p.name, p.major, p.minor);
        return false;
    }
    return true;
}

size_t cuda_memory_free(size_t *total) {
    size_t left = 0, all = 0;
    if (cudaMemGetInfo(&left, &all)) cudaGetLastError();
    if (total) *total = all;
    return left;
}

int cuda_cards(void) {
    int count = 0;
    if (cudaGetDeviceCount(&count)) cudaGetLastError(), count = 0;
    return count;
}

size_t cuda_card_memory_free(int card, size_t *total) {
    int own = 0;
    if (total) *total = 0;
    if (cudaGetDevice(&own) || cudaSetDevice(card)) return cudaGetLastError(), 0;
    size_t left = cuda_memory_free(total);
    cudaSetDevice(own);
    return left;
}

size_t cuda_work_bytes(const struct model_config *c, int rows) {
    const struct text_config *t = &c->text;
    const struct vision_config *v = &c->vision;
    size_t r = (size_t)(rows > FEW_ROWS ? rows : FEW_ROWS), q = (size_t)(t->heads * t->head_dim), k = (size_t)(t->kv_heads * t->head_dim), d = (size_t)t->hidden;
    size_t i = (size_t)t->intermediate, widest = i > q ? i : q, patches = 16384, n = (size_t)v->hidden;
    size_t padded = (size_t)padded_rows((int)r), product = q + 2 * k > d ? q + 2 * k : d;
    size_t text = padded * (d * 4 + widest * 2 + product * 2 + q * 4 + i * 4 + widest + widest / 32) / 8 * 9; /* as buffer_get takes it */
    size_t picture = patches * (n * 44 + (size_t)v->out_hidden * 3 + (size_t)v->intermediate * 6);
    size_t logits = (r < LOGITS_ROWS ? r : (size_t)LOGITS_ROWS) * (size_t)t->vocab * 4, step = (size_t)MOST_PARTS * 64 * 64 * 4 + (size_t)MOST_ITEMS * (size_t)t->heads * (size_t)(t->head_dim + 2) * 4;
    size_t unpacked = i * d * 4, library = (size_t)128 << 20;
    size_t pairs = strcmp(c->quant_method, "bitsandbytes") ? 0 : (size_t)t->layers * d * (2 * q + 2 * k + 3 * i) / 32; /* tiled_absmax */
    return (text > picture ? text : picture) + logits + step + unpacked + library + pairs + persist_work_bytes(t);
}

size_t cuda_unpacked_bytes(const struct model_config *c, int64_t tokens) {
    if (tokens < RUN_SCRATCH_TOKENS) tokens = RUN_SCRATCH_TOKENS;
    return (size_t)tokens * 2 * (size_t)c->text.kv_heads * kv_slot_bytes(c->text.head_dim, false) / 8 * 9; /* as buffer_get takes it */
}

void *buffer_get(struct backend_model *m, int which, size_t bytes, struct err *err) {
    struct device_buffer *b = &m->buffer[which];
    if (b->bytes >= bytes) return b->data;
    size_t want = bytes + bytes / 8;
    if (b->data) {
        graphs_drop(m);
        cudaStreamSynchronize(m->stream); /* a kernel under way may use it */
        cudaFree(b->data);
        m->buffer_bytes -= b->bytes;
    }
    b->data = NULL, b->bytes = 0;
    if (cuda_failed(cudaMalloc(&b->data, want), "working memory", err)) return b->data = NULL;
    m->buffer_bytes += want;
    b->bytes = want;
    return b->data;
}

void *pinned_get(struct backend_model *m, int which, size_t bytes, struct err *err) {
    struct device_buffer *b = &m->pinned[which];
    if (b->bytes >= bytes) return b->data;
    size_t want = bytes + bytes / 4;
    if (b->data) cudaFreeHost(b->data);
    b->data = NULL, b->bytes = 0;
    if (cuda_failed(cudaHostAlloc(&b->data, want, cudaHostAllocDefault), "pinned memory", err)) return b->data = NULL;
    b->bytes = want;
    return b->data;
}

void cuda_unload(struct backend_model *m) {
    if (!m) return;
    cudaSetDevice(m->device);
    cudaDeviceSynchronize();
    graphs_drop(m);
    tower_close(m);
    persist_close(m);
    for (int i = 0; i < BUFFER_COUNT; i++) cudaFree(m->buffer[i].data);
    cudaFree(m->kv);
    cudaFree(m->weights);
    for (int i = 0; i < PINNED_COUNT; i++)
        if (m->pinned[i].data) cudaFreeHost(m->pinned[i].data);
    lt_close(m->lt);
    if (m->copied) cudaEventDestroy(m->copied);
    if (m->copy_stream) cudaStreamDestroy(m->copy_stream);
    if (m->stream) cudaStreamDestroy(m->stream);
    model_weights_close(&m->w);
    free(m->free_pages);
    free(m->layers);
    free(m->blocks);
    free(m);
}

/* Working memory of decode steps, made once so that captured graphs stay valid. */
static int step_open(struct backend_model *m, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    size_t parts = (size_t)MOST_PARTS * 64 * 64 * 4, partial = (size_t)MOST_ITEMS * t->heads * (t->head_dim + 2) * 4;
    size_t counters = (size_t)(MOST_PARTS + 2 * FEW_ROWS * t->kv_heads) * 4;
    char *p = (char *)buffer_get(m, BUFFER_STEP_WORK, parts + partial + counters, err);
    if (!p) return ERR_MEMORY;
    m->split_parts = (float *)p, m->attend_partial = (float *)(p + parts);
    m->split_counters = (unsigned *)(p + parts + partial), m->attend_counters = m->split_counters + MOST_PARTS;
    return cuda_failed(cudaMemsetAsync(m->split_counters, 0, counters, m->stream), "clearing counters", err);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int open_model(struct backend_model *m, const struct backend_options *o, struct err *err) {
    struct cudaDeviceProp p;
    double start = seconds();
    int r = cuda_failed(cudaGetDevice(&m->device), "choosing a device", err);
    if (!r) r = cuda_failed(cudaGetDeviceProperties(&p, m->device), "asking for the device's properties", err);
    if (r) return r;
    m->sm_count = p.multiProcessorCount, m->arch = p.major * 10 + p.minor;
    snprintf(m->kernels, sizeof m->kernels, "cuda sm_%d%s", m->arch, strcmp(p.name, "emulated") ? "" : " emulated");
    if (!r) r = cuda_failed(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking), "a stream", err);
    if (!r) r = cuda_failed(cudaStreamCreateWithFlags(&m->copy_stream, cudaStreamNonBlocking), "a stream", err);
    if (!r) r = cuda_failed(cudaEventCreateWithFlags(&m->copied, cudaEventDisableTiming), "an event", err);
    if (!r) r = weights_upload(m, err);
    m->load_seconds = seconds() - start;
    if (m->kv8) strncat(m->kernels, ", FP8 KV pages", sizeof m->kernels - strlen(m->kernels) - 1);
    if (!r) r = kv_open(m, o->kv_bytes, err);
    if (!r) r = step_open(m, err);
    if (!r) m->lt = lt_open();
    if (!r && !m->part) m->few_fit = step_products_fit(m, TILED_NO);
    for (int how = TILED_STRAIGHT; !r && m->few_fit && how <= TILED_CROSSED && !m->tiled; how++)
        if (step_products_fit(m, how)) m->tiled = how;
    if (!r && m->few_fit && !m->kv8) r = persist_open(m, err); /* its loads of keys and values are of bf16 */
    if (!r && m->persist) strncat(m->kernels, ", one kernel a step", sizeof m->kernels - strlen(m->kernels) - 1); /* figures say which way they went */
    return r ? r : cuda_failed(cudaStreamSynchronize(m->stream), "loading", err);
}

/* A part of the decoder is a smaller decoder: it neither begins with the vocabulary nor ends with it unless it is the first or the last. */
static void take_layers(struct backend_model *m, const struct backend_options *o) {
    struct text_config *t = &m->w.config.text;
    m->first = o->layer_to == 0 || o->layer_from == 0, m->last = o->layer_to == 0 || o->layer_to == t->layers;
    m->part = !m->first || !m->last;
    if (!m->part) return;
    m->layer_from = o->layer_from;
    memmove(m->w.layers, m->w.layers + o->layer_from, (size_t)(o->layer_to - o->layer_from) * sizeof *m->w.layers);
    t->layers = o->layer_to - o->layer_from;
}

int cuda_load(struct checkpoint *c, const struct backend_options *o, struct backend_model **out, struct err *err) {
    *out = NULL;
    if (o->f32) return err_set(err, ERR_ARGUMENT, "device \"cuda\": exact fp32 products (f32) are the CPU's; use device \"cpu\" for them");
    if (!cuda_available(err)) return ERR_MISSING;
    struct backend_model *m = (struct backend_model *)calloc(1, sizeof *m);
    if (!m) return err_set(err, ERR_MEMORY, "out of memory");
    m->e4m3 = o->fp8_e4m3_activations, m->kv8 = o->kv_fp8, m->shared_worth = SHARED_WORTH;
    int r = cuda_failed(cudaSetDevice(o->card), "choosing a device", err);
    if (!r) r = model_weights_open(c, &m->w, err);
    if (!r) take_layers(m, o);
    const struct text_config *t = &m->w.config.text;
    int group = t->kv_heads ? t->heads / t->kv_heads : 0;
    if (!r && (t->head_dim > 256 || t->heads % t->kv_heads || group > (t->head_dim > 128 ? 8 : 16)))
        r = err_set(err, ERR_ARGUMENT, "device \"cuda\": %d heads of %d over %d kv heads: heads of at most 256, at most 16 (above 128: 8) for a kv head", t->heads, t->head_dim,
                    t->kv_heads);
    if (!r && m->w.config.vision.hidden / m->w.config.vision.heads > 128)
        r = err_set(err, ERR_ARGUMENT, "device \"cuda\": vision heads of %d: at most 128", m->w.config.vision.hidden / m->w.config.vision.heads);
    if (!r) r = open_model(m, o, err);
    if (r) {
        cuda_unload(m);
        return r;
    }
    *out = m;
    return 0;
}

size_t cuda_memory_bytes(const struct backend_model *m) { return m->weight_bytes + m->buffer_bytes + (size_t)m->capacity * m->page_bytes; }

void cuda_describe(const struct backend_model *m, struct backend_info *out) {
    memset(out, 0, sizeof *out);
    out->kernels = m->kernels;
    out->threads = 1;
    out->pages = m->capacity;
    out->own_memory = true;
    model_weights_describe(&m->w, out);
}
