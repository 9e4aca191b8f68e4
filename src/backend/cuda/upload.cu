/* Weights to the device: a plan of pieces, one allocation, then several threads, each with two pinned buffers: while one is on its way,
 * the next is read (from the page cache or the disk behind the mapping). */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cuda/room.h"

enum { THREADS = 8, BUFFER_SIZE = 8 << 20, ALIGN = 256 };

struct piece {
    const char *from;
    char *to;
    size_t bytes;
};

struct loader {
    struct backend_model *m;
    char *base; /* NULL while counting */
    size_t at;
    struct piece *pieces;
    size_t count, capacity, next; /* next: to be taken by a thread */
    bool failed;                  /* out of host memory */
    float *padded[4096];          /* scales with rows of a multiple of four, as the library wants them */
    int padded_count;
    cudaError_t error;
};

static void *put(struct loader *l, const void *from, size_t bytes) {
    if (!from) return NULL;
    char *to = l->base + l->at;
    l->at += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (!l->base) return NULL;
    for (size_t done = 0; done < bytes; done += BUFFER_SIZE) {
        if (l->count == l->capacity) {
            size_t more = l->capacity ? l->capacity * 2 : 1024;
            struct piece *p = (struct piece *)realloc(l->pieces, more * sizeof *p);
            if (!p) {
                l->failed = true;
                return to;
            }
            l->pieces = p, l->capacity = more;
        }
        size_t left = bytes - done, n = left < (size_t)BUFFER_SIZE ? left : (size_t)BUFFER_SIZE;
        l->pieces[l->count++] = (struct piece){(const char *)from + done, to + done, n};
    }
    return to;
}

static const float *put_scale(struct loader *l, const struct linear_weight *w, struct dlinear *d) {
    int64_t rows = (w->out + 127) / 128, columns = (w->in + 127) / 128;
    d->scale_columns = (int)((columns + 3) / 4 * 4);
    size_t bytes = (size_t)(rows * d->scale_columns) * 4;
    if (d->scale_columns == columns || !l->base) return (const float *)put(l, w->scale, bytes);
    float *padded = l->padded_count < 4096 ? (float *)calloc(1, bytes) : NULL;
    if (!padded) {
        l->failed = true;
        return NULL;
    }
    l->padded[l->padded_count++] = padded;
    for (int64_t r = 0; r < rows; r++) memcpy(padded + r * d->scale_columns, w->scale + r * columns, (size_t)columns * 4);
    return (const float *)put(l, padded, bytes);
}

static bool is_fast(const struct linear_weight *w) {
    if (w->out % 16) return false;
    if (w->storage == STORAGE_BF16) return w->in % 64 == 0;
    if (w->storage == STORAGE_FP8_BLOCK) return w->in % 128 == 0;
    return w->storage == STORAGE_NF4 && w->in % 256 == 0 && w->block_size == 64;
}

/* Matrices of one input, one below the other, their scales likewise: what prefill can then multiply at once. */
static void put_group(struct loader *l, const struct linear_weight *const *from, struct dlinear *const *to, int count) {
    for (int i = 0; i < count; i++) {
        const struct linear_weight *w = from[i];
        struct dlinear *d = to[i];
        size_t n = (size_t)w->out * (size_t)w->in, element = w->storage == STORAGE_FP8_BLOCK ? 1 : 2;
        if (w->storage == STORAGE_F32) element = 4;
        *d = (struct dlinear){};
        d->storage = (int)w->storage, d->out = (int)w->out, d->in = (int)w->in, d->rounding = (int)w->rounding, d->fast = is_fast(w);
        d->data = put(l, w->data, w->storage == STORAGE_NF4 ? (n + 1) / 2 : n * element);
    }
    for (int i = 0; i < count; i++)
        if (from[i]->scale) to[i]->scale = put_scale(l, from[i], to[i]);
    for (int i = 0; i < count; i++) {
        const struct linear_weight *w = from[i];
        struct dlinear *d = to[i];
        if (w->storage == STORAGE_NF4) {
            size_t n = (size_t)w->out * (size_t)w->in, blocks = (n + (size_t)w->block_size - 1) / (size_t)w->block_size;
            d->block = w->block_size, d->nested_block = w->nested_block, d->nested_offset = w->nested_offset;
            d->quant_map = (const float *)put(l, w->quant_map, 16 * 4);
            d->absmax_f32 = (const float *)put(l, w->absmax_f32, blocks * 4);
            d->absmax_u8 = (const uint8_t *)put(l, w->absmax_u8, blocks);
            d->nested_map = (const float *)put(l, w->nested_map, 256 * 4);
            if (w->nested_absmax) d->nested_absmax = (const float *)put(l, w->nested_absmax, (blocks + (size_t)w->nested_block - 1) / (size_t)w->nested_block * 4);
        }
        d->bias = (const float *)put(l, w->bias, (size_t)w->out * 4);
    }
}

static void put_linear(struct loader *l, const struct linear_weight *w, struct dlinear *d) { put_group(l, &w, &d, 1); }

/* Room for what tiled_absmax makes when the file's own is there. */
static void put_pairs(struct loader *l, struct dlinear *d) {
    size_t bytes = l->m->arch == 90 ? tiled_absmax_bytes(d) : 0;
    d->absmax_pairs = bytes && l->base ? (const uint32_t *)(l->base + l->at) : NULL;
    l->at += (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static const float *put_floats(struct loader *l, const float *v, int64_t n) { return (const float *)put(l, v, (size_t)n * 4); }

static void put_merger(struct loader *l, const struct vision_merger *g, struct dmerger *d) {
    const struct vision_config *v = &l->m->w.config.vision;
    int64_t n = g->after ? (int64_t)v->hidden * v->merge * v->merge : v->hidden;
    d->after = g->after;
    d->norm_w = put_floats(l, g->norm_w, n), d->norm_b = put_floats(l, g->norm_b, n);
    put_linear(l, &g->fc1, &d->fc1);
    put_linear(l, &g->fc2, &d->fc2);
}

static void put_tower(struct loader *l) {
    struct backend_model *m = l->m;
    const struct model_weights *w = &m->w;
    const struct vision_config *v = &w->config.vision;
    put_linear(l, &w->patch_embed, &m->patch_embed);
    m->pos_embed = put_floats(l, w->pos_embed, (int64_t)v->positions * v->hidden);
    for (int b = 0; b < v->depth; b++) {
        const struct vision_block *from = &w->blocks[b];
        struct dblock *to = &m->blocks[b];
        to->norm1_w = put_floats(l, from->norm1_w, v->hidden), to->norm1_b = put_floats(l, from->norm1_b, v->hidden);
        to->norm2_w = put_floats(l, from->norm2_w, v->hidden), to->norm2_b = put_floats(l, from->norm2_b, v->hidden);
        put_linear(l, &from->qkv, &to->qkv), put_linear(l, &from->proj, &to->proj);
        put_linear(l, &from->fc1, &to->fc1), put_linear(l, &from->fc2, &to->fc2);
    }
    put_merger(l, &w->merger, &m->merger);
    for (int i = 0; i < v->deepstack_count; i++) put_merger(l, &w->deepstack[i], &m->deepstack[i]);
    m->vision_frequency = put_floats(l, w->vision_frequency, v->hidden / v->heads / 4);
}

enum { LAYER_MATRICES = 7 };
static struct dlinear *layer_matrix(struct dlayer *l, int i) {
    struct dlinear *const all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    return all[i];
}

static void put_all(struct loader *l) {
    struct backend_model *m = l->m;
    const struct model_weights *w = &m->w;
    const struct text_config *t = &w->config.text;
    if (m->first) put_linear(l, &w->embed, &m->embed);
    else m->embed.in = t->hidden; /* rows come from the card before, as features do */
    if (m->last && m->first && w->head.data == w->embed.data) m->head = m->embed;
    else if (m->last) put_linear(l, &w->head, &m->head);
    m->norm = put_floats(l, w->norm, t->hidden);
    for (int n = 0; n < t->layers; n++) {
        const struct decoder_layer *from = &w->layers[n];
        struct dlayer *to = &m->layers[n];
        to->input_norm = put_floats(l, from->input_norm, t->hidden), to->post_norm = put_floats(l, from->post_norm, t->hidden);
        to->q_norm = put_floats(l, from->q_norm, t->head_dim), to->k_norm = put_floats(l, from->k_norm, t->head_dim);
        const struct linear_weight *qkv[] = {&from->q, &from->k, &from->v}, *gate_up[] = {&from->gate, &from->up};
        struct dlinear *to_qkv[] = {&to->q, &to->k, &to->v}, *to_gate_up[] = {&to->gate, &to->up};
        put_group(l, qkv, to_qkv, 3);
        put_linear(l, &from->o, &to->o);
        put_group(l, gate_up, to_gate_up, 2);
        put_linear(l, &from->down, &to->down);
        for (int i = 0; i < LAYER_MATRICES; i++) put_pairs(l, layer_matrix(to, i));
    }
    m->inverse_frequency = put_floats(l, w->inverse_frequency, t->head_dim / 2);
    m->axis = (const int *)put(l, w->axis, (size_t)(t->head_dim / 2) * sizeof *w->axis);
    if (m->first) put_tower(l);
}

static cudaError_t carry(struct loader *l) {
    cudaStream_t stream = NULL;
    cudaEvent_t sent[2] = {};
    void *buffer[2] = {};
    cudaError_t e = cudaSetDevice(l->m->device);
    if (!e) e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    for (int i = 0; i < 2 && !e; i++)
        if (!(e = cudaHostAlloc(&buffer[i], BUFFER_SIZE, cudaHostAllocDefault))) e = cudaEventCreateWithFlags(&sent[i], cudaEventDisableTiming);
    for (int turn = 0; !e; turn ^= 1) {
        size_t i = __atomic_fetch_add(&l->next, 1, __ATOMIC_RELAXED);
        if (i >= l->count) break;
        const struct piece *p = &l->pieces[i];
        if ((e = cudaEventSynchronize(sent[turn]))) break;
#ifdef MADV_POPULATE_READ
        uintptr_t from = (uintptr_t)p->from & ~(uintptr_t)4095; /* faults in bulk; memory that is not mapped from a file does not mind */
        if (p->bytes >= 65536) madvise((void *)from, (uintptr_t)p->from + p->bytes - from, MADV_POPULATE_READ);
#endif
        memcpy(buffer[turn], p->from, p->bytes);
        e = cudaMemcpyAsync(p->to, buffer[turn], p->bytes, cudaMemcpyHostToDevice, stream);
        if (!e) e = cudaEventRecord(sent[turn], stream);
    }
    if (stream) {
        cudaError_t last = cudaStreamSynchronize(stream);
        if (!e) e = last;
        cudaStreamDestroy(stream);
    }
    for (int i = 0; i < 2; i++) {
        if (sent[i]) cudaEventDestroy(sent[i]);
        if (buffer[i]) cudaFreeHost(buffer[i]);
    }
    return e;
}

static void *carry_thread(void *context) {
    struct loader *l = (struct loader *)context;
    cudaError_t e = carry(l);
    if (e) __atomic_store_n(&l->error, e, __ATOMIC_RELAXED);
    return NULL;
}

int weights_upload(struct backend_model *m, struct err *err) {
    struct loader *l = (struct loader *)calloc(1, sizeof *l);
    m->layers = (struct dlayer *)calloc((size_t)m->w.config.text.layers, sizeof *m->layers);
    m->blocks = (struct dblock *)calloc((size_t)m->w.config.vision.depth, sizeof *m->blocks);
    if (!l || !m->layers || !m->blocks) {
        free(l);
        return err_set(err, ERR_MEMORY, "out of memory");
    }
    l->m = m;
    put_all(l);
    m->weight_bytes = l->at;
    int r = cuda_failed(cudaMalloc(&m->weights, l->at), "memory for the weights", err);
    if (!r) {
        l->base = (char *)m->weights, l->at = 0;
        put_all(l);
        if (l->failed) r = err_set(err, ERR_MEMORY, "out of memory for the upload of the weights");
    }
    if (!r) {
        pthread_t thread[THREADS];
        int started = 0;
        while (started < THREADS && pthread_create(&thread[started], NULL, carry_thread, l) == 0) started++;
        if (!started) carry_thread(l);
        for (int i = 0; i < started; i++) pthread_join(thread[i], NULL);
        r = cuda_failed(l->error, "uploading the weights", err);
    }
    for (int i = 0; i < m->w.config.text.layers * LAYER_MATRICES && !r; i++) {
        struct dlinear *d = layer_matrix(&m->layers[i / LAYER_MATRICES], i % LAYER_MATRICES);
        if (d->absmax_pairs) tiled_absmax(m, d, (void *)d->absmax_pairs);
    }
    if (!r) r = cuda_failed(cudaStreamSynchronize(m->stream), "preparing the weights", err);
    for (int i = 0; i < l->padded_count; i++) free(l->padded[i]);
    free(l->pieces);
    free(l);
    return r;
}
