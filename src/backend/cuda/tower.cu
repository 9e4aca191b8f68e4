/* The vision tower (facts §4): patch embedding as a matrix product, learned positions interpolated corner-aligned, blocks with full
 * attention inside each temporal group, DeepStack taps, mergers. Rows are patches in merge-block order, so merge^2 consecutive rows are
 * one token. Several pictures of any sizes go through it as one batch.
 *
 * 600 patches are a millisecond of work in some two hundred kernels, which takes a slow host longer to start than the device to do: from the
 * second time on that pictures of the same sizes come, CUDA graphs hold them. A graph ends at each DeepStack tap, so that features
 * travel to the host and into the caller's memory while the blocks behind still run. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/unpack.h"

/* Which picture has the row, or the first of none. */
__device__ static inline int picture_of(const struct pictures &p, int row) {
    int i = p.count - 1;
    while (i > 0 && p.at[i].row > row) i--;
    return i;
}

/* Row of the batch -> row and column of its picture's grid of patches (facts §4.3). */
__device__ static inline void patch_place(const struct pictures &p, int picture, int index, int *row, int *col) {
    int w = p.at[picture].w, n = p.at[picture].h * w, at = (index - p.at[picture].row) % n;
    int unit = p.merge * p.merge, blocks = w / p.merge, block = at / unit, inside = at % unit;
    *row = block / blocks * p.merge + inside / p.merge;
    *col = block % blocks * p.merge + inside % p.merge;
}

/* index * (side - 1) / (size - 1) in fp32, as vision_utils.py (transformers 5.x) does. */
__device__ static inline void interpolate(int index, int size, int side, int *at0, int *at1, float *fraction) {
    float source = (float)(index * (side - 1)) / (float)(size > 1 ? size - 1 : 1);
    int floor0 = (int)floorf(source);
    *fraction = source - (float)floor0;
    *at0 = floor0 > side - 1 ? side - 1 : floor0;
    *at1 = floor0 + 1 > side - 1 ? side - 1 : floor0 + 1;
}

/* Each row: h (rows, n) = its interpolated position, rotary (rows, head_dim) = cosines then sines; the first half of the angles by the row, the
 * second by the column. */
__global__ void place_kernel(const struct pictures p, const float *table, int n, float *h, const float *frequency, int head_dim, float *rotary) {
    let_next_start();
    wait_for_input();
    int row, col, y0, y1, x0, x1, own = picture_of(p, blockIdx.x), half = head_dim / 2, quarter = head_dim / 4;
    float fy, fx;
    patch_place(p, own, blockIdx.x, &row, &col);
    interpolate(row, p.at[own].h, p.side, &y0, &y1, &fy);
    interpolate(col, p.at[own].w, p.side, &x0, &x1, &fx);
    const float *a = table + ((int64_t)y0 * p.side + x0) * n, *b = table + ((int64_t)y0 * p.side + x1) * n;
    const float *c = table + ((int64_t)y1 * p.side + x0) * n, *d = table + ((int64_t)y1 * p.side + x1) * n;
    float wa = (1 - fy) * (1 - fx), wb = (1 - fy) * fx, wc = fy * (1 - fx), wd = fy * fx;
    for (int k = threadIdx.x; k < n; k += blockDim.x) h[(int64_t)blockIdx.x * n + k] = wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k];
    for (int j = threadIdx.x; j < half; j += blockDim.x) {
        float cosine, sine;
        sincosf((float)(j < quarter ? row : col) * frequency[j % quarter], &sine, &cosine);
        rotary[(int64_t)blockIdx.x * head_dim + j] = cosine, rotary[(int64_t)blockIdx.x * head_dim + half + j] = sine;
    }
}

/* ---- what goes in ---- */

/* Frames as bytes, and what a byte becomes; the patches of one picture from row `first` on. */
struct frames {
    const uint8_t *rgb;    /* (count, height, width, 3) */
    const float *values;   /* (3, 256) */
    int first, count, patch, temporal;
};

/* One axis of a resize (vision/image.h) on the device. */
struct axis {
    const int *first, *count, *weight;
    int bits, most;
};

/* A thread makes a byte: rows of `in` pixels, or columns where `down`, of frames one below the other. out (frames, rows, width, 3). */
__global__ void resize_kernel(const uint8_t *from, const struct axis a, int frames, int source_rows, int source_width, int rows, int width, int down, uint8_t *out) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, all = (int64_t)frames * rows * width * 3;
    wait_for_input();
    if (i >= all) return;
    int channel = i % 3, x = i / 3 % width, y = i / 3 / width % rows, frame = (int)(i / 3 / width / rows), at = down ? y : x, sum = 1 << (a.bits - 1);
    const uint8_t *p = from + ((int64_t)frame * source_rows + (down ? a.first[at] : y)) * source_width * 3 + (down ? x : a.first[at]) * 3 + channel;
    for (int j = 0; j < a.count[at]; j++, p += down ? source_width * 3 : 3) sum += a.weight[at * a.most + j] * *p;
    sum >>= a.bits;
    out[i] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* A block makes a patch: (3, temporal, patch, patch) values (facts §5.3). */
__global__ void patch_kernel(const struct pictures p, int picture, const struct frames f, bf16 *out) {
    int index = f.first + blockIdx.x, row, col, group = blockIdx.x / (p.at[picture].h * p.at[picture].w);
    patch_place(p, picture, index, &row, &col);
    int height = p.at[picture].h * f.patch, width = p.at[picture].w * f.patch, plane = f.patch * f.patch, n = 3 * f.temporal * plane;
    wait_for_input();
    for (int e = threadIdx.x; e < n; e += blockDim.x) {
        int x = e % f.patch, y = e / f.patch % f.patch, t = e / plane % f.temporal, channel = e / (plane * f.temporal), frame = group * f.temporal + t;
        if (frame >= f.count) frame = f.count - 1; /* the last one repeated; a still is in every place */
        uint8_t v = f.rgb[(((int64_t)frame * height + row * f.patch + y) * width + col * f.patch + x) * 3 + channel];
        out[(int64_t)index * n + e] = __float2bfloat16_rn(f.values[channel * 256 + v]);
    }
}

/* ---- the tower ---- */

struct tower {
    struct backend_model *m;
    struct pictures p;
    bool fast; /* Hopper's kernels */
    int hidden, heads, tokens;
    float *h, *qkv, *rotary, *features; /* (rows, V), (rows, 3V) or parts, (rows, head_dim), (levels, tokens, D) */
    bf16 *pixels, *x, *wide;            /* (rows, width), (rows, V), (rows, J) */
    bf16 *merged[2], *merged_wide;      /* (tokens, M): a merger's input, in turn, and what is between its products */
    float *merged_parts;                /* (3, tokens, M or D) */
    void *turned;                       /* attention's work; or q, k, v in bf16 (rows, 3V) */
    size_t level;                       /* values of one level of the features */
    char *host;                         /* pinned: what goes up, then what comes down */
    size_t upload, width;
    bool given[MOST_PICTURES];          /* the caller brought memory for the features */
    bool straight;                      /* which is pinned: they go there without a stop on the way */
};

static int run_product(struct tower *w, const struct dlinear *l, const bf16 *x, int rows, int out, void *y, struct err *err) {
    struct product p = {{l}, 1};
    p.x = x, p.ldx = l->in, p.rows = rows, p.out = out, p.y = y, p.ldy = l->out;
    return product_run(w->m, &p, err);
}

static int run_block(struct tower *w, const struct dblock *b, struct err *err) {
    struct backend_model *m = w->m;
    int n = w->hidden, rows = w->p.rows, r;
    layer_norm_rows(m, w->h, b->norm1_w, b->norm1_b, w->x, rows, n);
    if ((r = run_product(w, &b->qkv, w->x, rows, OUT_F32, w->qkv, err))) return r;
    attend_groups(m, &w->p, w->qkv, w->rotary, w->heads, n / w->heads, w->turned, w->x);
    if ((r = run_product(w, &b->proj, w->x, rows, OUT_ADD, w->h, err))) return r;
    layer_norm_rows(m, w->h, b->norm2_w, b->norm2_b, w->x, rows, n);
    if ((r = run_product(w, &b->fc1, w->x, rows, OUT_GELU_TANH, w->wide, err))) return r;
    return run_product(w, &b->fc2, w->wide, rows, OUT_ADD, w->h, err);
}

static void merger_norm(struct tower *w, const struct dmerger *g, bf16 *to) {
    int unit = w->p.merge * w->p.merge, n = g->after ? w->hidden * unit : w->hidden, rows = g->after ? w->tokens : w->p.rows;
    if (w->fast && n <= 4096) tower_add_norm(w->m, w->h, NULL, 0, NULL, g->norm_w, g->norm_b, to, rows, n, false);
    else layer_norm_rows(w->m, w->h, g->norm_w, g->norm_b, to, rows, n);
}

/* Hopper's kernels: x holds the norm in front of block b when it begins, that of the next one when it ends. */

static int refused(struct err *err) { return err_set(err, ERR_IO, "CUDA: a product of the vision tower could not be started"); }

/* h += what `l` makes of x; its norm with (weight, bias) to `to`, unless NULL. */
static int add_product(struct tower *w, const struct dlinear *l, const bf16 *x, const float *weight, const float *bias, bf16 *to, const struct dlinear *ahead, struct err *err) {
    int parts = tower_product(w->m, l, x, w->p.rows, OUT_PARTS, w->qkv, NULL, ahead);
    if (!parts) return refused(err);
    tower_add_norm(w->m, w->h, w->qkv, parts, l->bias, weight, bias, to, w->p.rows, w->hidden, false);
    return 0;
}

/* Each product asks for the weights of the next but one. */
static int run_block_fast(struct tower *w, int number, struct err *err) {
    struct backend_model *m = w->m;
    const struct dblock *b = &m->blocks[number], *next = number + 1 < m->w.config.vision.depth ? b + 1 : NULL;
    int rows = w->p.rows, d = w->hidden / w->heads, r;
    bool turned = d == 64; /* rotated by the product's own epilogue */
    if (!tower_product(m, &b->qkv, w->x, rows, turned ? OUT_HEADS : OUT_F32, turned ? w->turned : w->qkv, w->rotary, &b->fc1)) return refused(err);
    attend_groups(m, &w->p, turned ? w->turned : w->qkv, w->rotary, w->heads, d, turned ? NULL : w->turned, w->x);
    if ((r = add_product(w, &b->proj, w->x, b->norm2_w, b->norm2_b, w->x, &b->fc2, err))) return r;
    if (!tower_product(m, &b->fc1, w->x, rows, OUT_GELU_TANH, w->wide, NULL, next ? &next->qkv : &m->merger.fc1)) return refused(err);
    if (next) return add_product(w, &b->fc2, w->wide, next->norm1_w, next->norm1_b, w->x, &next->proj, err);
    const struct dmerger *g = &m->merger; /* what the last merger reads, when it has its norm in front */
    return add_product(w, &b->fc2, w->wide, g->norm_w, g->norm_b, g->after ? NULL : w->merged[m->w.config.vision.deepstack_count % 2], &g->fc2, err);
}

/* Positions, while the host still copies pixels. */
static void place(struct tower *w) {
    launch(w->m, place_kernel, dim3((unsigned)w->p.rows), dim3(256), 0, w->p, w->m->pos_embed, w->hidden, w->h, w->m->vision_frequency, w->hidden / w->heads, w->rotary);
}

static int embed(struct tower *w, struct err *err) {
    struct backend_model *m = w->m;
    if (w->fast) return add_product(w, &m->patch_embed, w->pixels, m->blocks[0].norm1_w, m->blocks[0].norm1_b, w->x, &m->blocks[0].qkv, err);
    return run_product(w, &m->patch_embed, w->pixels, w->p.rows, OUT_ADD, w->h, err);
}

static bool is_last(const struct tower *w, int segment) { return segment == w->m->w.config.vision.deepstack_count; }
static const struct dmerger *merger_of(const struct tower *w, int segment) { return is_last(w, segment) ? &w->m->merger : &w->m->deepstack[segment]; }

/* The blocks up to tap `segment`, or those behind the last tap, and the norm of the merger there; *block: the next one. */
static int run_blocks(struct tower *w, int segment, int *block, struct err *err) {
    struct backend_model *m = w->m;
    const struct vision_config *v = &m->w.config.vision;
    int end = is_last(w, segment) ? v->depth : v->deepstack[segment] + 1, r = segment ? 0 : embed(w, err);
    for (; *block < end && !r; ++*block) r = w->fast ? run_block_fast(w, *block, err) : run_block(w, &m->blocks[*block], err);
    if (!r && (!w->fast || !is_last(w, segment) || m->merger.after)) merger_norm(w, merger_of(w, segment), w->merged[segment % 2]);
    return r ? r : cuda_failed(cudaGetLastError(), "a block of the vision tower", err);
}

/* A level of features from the merger's input. */
static int run_level(struct tower *w, int segment, struct err *err) {
    const struct dmerger *g = merger_of(w, segment);
    const bf16 *merged = w->merged[segment % 2];
    float *out = w->features + (is_last(w, segment) ? 0 : (size_t)(1 + segment) * w->level);
    if (!w->fast) {
        int r = run_product(w, &g->fc1, merged, w->tokens, OUT_GELU_ERF, w->merged_wide, err);
        return r ? r : run_product(w, &g->fc2, w->merged_wide, w->tokens, OUT_F32, out, err);
    }
    int parts = tower_product(w->m, &g->fc1, merged, w->tokens, OUT_PARTS, w->merged_parts, NULL, &g->fc2);
    if (!parts) return refused(err);
    tower_gelu_parts(w->m, w->merged_parts, parts, g->fc1.bias, w->merged_wide, w->tokens, g->fc1.out);
    parts = tower_product(w->m, &g->fc2, w->merged_wide, w->tokens, OUT_PARTS, w->merged_parts, NULL, NULL);
    if (!parts) return refused(err);
    tower_add_norm(w->m, out, w->merged_parts, parts, g->fc2.bias, NULL, NULL, NULL, w->tokens, g->fc2.out, true);
    return cuda_failed(cudaGetLastError(), "a merger of the vision tower", err);
}

/* ---- graphs ---- */

static void drop(struct tower_graph *g) {
    for (int i = 0; i < 1 + CONFIG_MAX_DEEPSTACK; i++) {
        if (g->blocks[i]) cudaGraphExecDestroy(g->blocks[i]);
        if (g->level[i]) cudaGraphExecDestroy(g->level[i]);
    }
    memset(g, 0, sizeof *g);
}

void tower_graphs_drop(struct backend_model *m) {
    for (int i = 0; i < MOST_TOWER_GRAPHS; i++) drop(&m->towers[i]);
}

void tower_close(struct backend_model *m) {
    tower_graphs_drop(m);
    for (int i = 0; i < 2 * (1 + CONFIG_MAX_DEEPSTACK); i++)
        if (m->tower_event[i]) cudaEventDestroy(m->tower_event[i]);
}

/* The graphs for these pictures: those there are, or the place of the ones not used for longest. */
static struct tower_graph *graph_of(struct backend_model *m, const struct pictures *p) {
    struct tower_graph *oldest = &m->towers[0];
    for (int i = 0; i < MOST_TOWER_GRAPHS; i++) {
        struct tower_graph *g = &m->towers[i];
        if (g->uses && !memcmp(&g->pictures, p, sizeof *p)) return g;
        if (g->last < oldest->last) oldest = g;
    }
    drop(oldest);
    oldest->pictures = *p;
    return oldest;
}

/* Blocks, or the level made of them (block NULL), on the model's stream: captured and started, started again, or as they are. */
static int start_part(struct tower *w, int segment, int *block, bool record, cudaGraphExec_t *exec, struct err *err) {
    cudaStream_t stream = w->m->stream;
    cudaGraph_t graph = NULL;
    int r = 0;
    if (record && !*exec) {
        if ((r = cuda_failed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing the vision tower", err))) return r;
        r = block ? run_blocks(w, segment, block, err) : run_level(w, segment, err);
        int end = cuda_failed(cudaStreamEndCapture(stream, &graph), "capturing the vision tower", r ? NULL : err);
        if (!r) r = end;
        if (!r) r = cuda_failed(cudaGraphInstantiate(exec, graph, 0), "the vision tower's graph", err);
        if (graph) cudaGraphDestroy(graph);
    }
    if (r) return r;
    if (record) return cuda_failed(cudaGraphLaunch(*exec, stream), "the vision tower", err);
    return block ? run_blocks(w, segment, block, err) : run_level(w, segment, err);
}

/* ---- the door ---- */

/* Working memory for w->p, with `input` bytes for whatever the patches are made of, and w->upload (input, rounded up) behind *device `more`. */
static int reserve(struct tower *w, size_t input, size_t more, char **device, struct err *err) {
    struct backend_model *m = w->m;
    const struct vision_config *v = &m->w.config.vision;
    size_t rows = (size_t)w->p.rows, n = (size_t)v->hidden, unit = (size_t)(v->merge * v->merge), tokens = rows / unit, levels = (size_t)(1 + v->deepstack_count);
    w->level = tokens * (size_t)v->out_hidden, w->width = (size_t)m->patch_embed.in, w->upload = (input + 255) / 256 * 256;
    w->h = (float *)buffer_get(m, BUFFER_HIDDEN, rows * n * 4, err);
    w->qkv = (float *)buffer_get(m, BUFFER_QKV, rows * 3 * n * 4, err); /* parts: at most three */
    w->x = (bf16 *)buffer_get(m, BUFFER_NORMED, rows * n * 8, err); /* x, merged twice, merged_wide */
    w->wide = (bf16 *)buffer_get(m, BUFFER_WIDE, rows * (size_t)v->intermediate * 2, err);
    w->merged_parts = (float *)buffer_get(m, BUFFER_PARTIAL, 3 * tokens * (n * unit > (size_t)v->out_hidden ? n * unit : (size_t)v->out_hidden) * 4, err);
    w->rotary = (float *)buffer_get(m, BUFFER_COMPACT, rows * n / (size_t)v->heads * 4, err);
    w->features = (float *)buffer_get(m, BUFFER_VISUAL, levels * w->level * 4, err);
    w->turned = buffer_get(m, BUFFER_TURNED, attend_groups_bytes(w->p.rows, v->heads, v->hidden / v->heads), err);
    w->pixels = (bf16 *)buffer_get(m, BUFFER_PIXELS, rows * w->width * 2 + 256 + w->upload + more, err);
    w->host = (char *)pinned_get(m, PINNED_BATCH, w->upload + levels * w->level * 4, err);
    for (int i = 0; i < 2 * (1 + v->deepstack_count); i++)
        if (!m->tower_event[i] && cuda_failed(cudaEventCreateWithFlags(&m->tower_event[i], cudaEventDisableTiming), "an event", err)) return ERR_MEMORY;
    if (!w->h || !w->qkv || !w->x || !w->wide || !w->merged_parts || !w->rotary || !w->features || !w->turned || !w->pixels || !w->host) return ERR_MEMORY;
    w->merged[0] = w->x + rows * n, w->merged[1] = w->merged[0] + rows * n, w->merged_wide = w->merged[1] + rows * n;
    *device = (char *)w->pixels + (rows * w->width * 2 + 255) / 256 * 256;
    return 0;
}

/* A level, made on the device, to host memory; on the stream for copies. */
static int copy_level(struct tower *w, size_t level, const struct vision_features *out, struct err *err) {
    const char *from = (const char *)w->features + level * w->level * 4;
    if (!w->straight) return cuda_failed(cudaMemcpyAsync(w->host + w->upload + level * w->level * 4, from, w->level * 4, cudaMemcpyDeviceToHost, w->m->copy_stream), "reading image features", err);
    int r = 0;
    for (int i = 0; i < w->p.count && !r; i++) {
        size_t bytes = (size_t)out[i].tokens * (size_t)w->m->w.config.vision.out_hidden * 4;
        r = cuda_failed(cudaMemcpyAsync((char *)out[i].values + level * bytes, from, bytes, cudaMemcpyDeviceToHost, w->m->copy_stream), "reading image features", err);
        from += bytes;
    }
    return r;
}

/* Launches all. Hopper's own products have working memory for a merger beside the blocks: it goes to the other stream. */
static int launch_all(struct tower *w, const struct vision_features *out, struct err *err) {
    struct backend_model *m = w->m;
    cudaStream_t stream = m->stream;
    int taps = m->w.config.vision.deepstack_count, block = 0, r = 0;
    struct tower_graph *g = graph_of(m, &w->p);
    g->last = ++m->tower_clock;
    bool record = g->uses > 0;
    for (int s = 0; s <= taps && !r; s++) {
        cudaEvent_t made = m->tower_event[2 * s], there = m->tower_event[2 * s + 1];
        bool beside = w->fast && s < taps;
        if (s > 1) r = cuda_failed(cudaStreamWaitEvent(stream, m->tower_event[2 * s - 3], 0), "an event", err); /* its input is free again */
        if (!r) r = start_part(w, s, &block, record, &g->blocks[s], err);
        if (!r && s > 0 && !beside) r = cuda_failed(cudaStreamWaitEvent(stream, m->tower_event[2 * s - 1], 0), "an event", err); /* and its working memory */
        if (!r && !beside) r = start_part(w, s, NULL, record, &g->level[s], err);
        if (!r) r = cuda_failed(cudaEventRecord(made, stream), "an event", err);
        if (!r) r = cuda_failed(cudaStreamWaitEvent(m->copy_stream, made, 0), "an event", err);
        if (!r && beside) {
            m->stream = m->copy_stream;
            r = start_part(w, s, NULL, record, &g->level[s], err);
            m->stream = stream;
        }
        if (!r) r = copy_level(w, (size_t)(s == taps ? 0 : 1 + s), out, err);
        if (!r) r = cuda_failed(cudaEventRecord(there, m->copy_stream), "an event", err);
    }
    if (r) drop(g);
    else g->pictures = w->p, g->uses++; /* growing memory may have dropped it */
    return r;
}

/* Features from pinned memory into that of each picture, level by level as they come. Meanwhile: the system gives that memory its pages when
 * they are first touched, which takes as long as a third of the tower. */
static int hand_out(struct tower *w, struct vision_features *out, struct err *err) {
    const struct vision_config *v = &w->m->w.config.vision;
    int levels = 1 + v->deepstack_count, taps = v->deepstack_count, r = 0;
    if (w->straight) return cuda_failed(cudaEventSynchronize(w->m->tower_event[2 * taps + 1]), "encoding an image", err); /* its stream has the levels in order */
    for (int i = 0; i < w->p.count; i++)
        for (size_t b = 0, n = (size_t)levels * (size_t)out[i].tokens * (size_t)v->out_hidden * 4; b < n; b += 4096) ((volatile char *)out[i].values)[b] = 0;
    for (int s = 0; s <= taps && !r; s++) {
        r = cuda_failed(cudaEventSynchronize(w->m->tower_event[2 * s + 1]), "encoding an image", err);
        size_t level = (size_t)(s == taps ? 0 : 1 + s);
        const float *from = (const float *)(w->host + w->upload) + level * w->level;
        for (int i = 0; i < w->p.count && !r; i++) {
            size_t size = (size_t)out[i].tokens * (size_t)v->out_hidden;
            memcpy(out[i].values + level * size, from, size * 4);
            from += size;
        }
    }
    return r;
}

/* A picture more. The grid must be one of this model's. */
static int add_picture(struct tower *w, int t, int h, int wide, struct vision_features *out, struct err *err) {
    const struct vision_config *v = &w->m->w.config.vision;
    int64_t rows = (int64_t)t * h * wide, all = w->p.rows + rows;
    if (t < 1 || h < v->merge || wide < v->merge || h % v->merge || wide % v->merge || all > INT32_MAX / 4 || w->p.groups + t > 65535)
        return err_set(err, ERR_ARGUMENT, "image patches: grid %d x %d x %d does not fit this model (merge %d) or what one batch holds", t, h, wide, v->merge);
    int n = w->p.count++;
    w->p.at[n].row = w->p.rows, w->p.at[n].group = w->p.groups, w->p.at[n].t = t, w->p.at[n].h = h, w->p.at[n].w = wide;
    w->p.rows = (int)all, w->p.groups += t;
    int64_t tokens = rows / (v->merge * v->merge);
    w->tokens += (int)tokens;
    float *values = out->values;
    w->given[n] = values != NULL;
    w->straight = values && out->pinned;
    if (!values) values = (float *)malloc((size_t)(1 + v->deepstack_count) * (size_t)tokens * (size_t)v->out_hidden * 4);
    if (!values) return err_set(err, ERR_MEMORY, "out of memory for the features of %lld image tokens", (long long)tokens);
    *out = (struct vision_features){t, h, wide, tokens, 1 + v->deepstack_count, values, w->straight};
    return 0;
}

static void start(struct tower *w, struct backend_model *m) {
    const struct vision_config *v = &m->w.config.vision;
    memset(w, 0, sizeof *w);
    cudaSetDevice(m->device);
    w->m = m, w->hidden = v->hidden, w->heads = v->heads, w->fast = tower_warpgroup_fit(m);
    w->p.merge = v->merge, w->p.side = (int)lround(sqrt((double)v->positions));
}

/* What was launched ends in any case; on failure the features are given up. */
static int finish(struct tower *w, struct vision_features *out, int r, struct err *err) {
    if (!r) r = launch_all(w, out, err);
    if (!r) r = hand_out(w, out, err);
    int late = cuda_failed(cudaStreamSynchronize(w->m->stream), "encoding an image", r ? NULL : err);
    if (r) cudaStreamSynchronize(w->m->copy_stream);
    if (!r) r = late;
    for (int i = 0; i < w->p.count && r; i++) {
        float *values = w->given[i] ? out[i].values : NULL;
        if (!values) vision_features_free(&out[i]);
        out[i] = (struct vision_features){};
        out[i].values = values, out[i].pinned = values && w->straight;
    }
    return r;
}

int cuda_encode_image(struct backend_model *m, const struct patches *p, struct vision_features *out, struct err *err) {
    struct tower w;
    char *device;
    start(&w, m);
    *out = (struct vision_features){};
    if (p->count != (int64_t)p->grid_t * p->grid_h * p->grid_w || p->width != m->w.patch_embed.in)
        return err_set(err, ERR_ARGUMENT, "image patches: grid %d x %d x %d with %lld patches of %lld values does not fit this model (merge %d, %lld values a patch)", p->grid_t,
                       p->grid_h, p->grid_w, (long long)p->count, (long long)p->width, w.p.merge, (long long)m->w.patch_embed.in);
    int r = add_picture(&w, p->grid_t, p->grid_h, p->grid_w, out, err);
    size_t bytes = (size_t)p->count * (size_t)p->width * 4;
    if (!r) r = reserve(&w, bytes, 0, &device, err);
    if (!r) {
        place(&w);
        memcpy(w.host, p->values, bytes);
        r = cuda_failed(cudaMemcpyAsync(device, w.host, bytes, cudaMemcpyHostToDevice, m->stream), "uploading an image", err);
    }
    if (!r) to_bf16(m, (const float *)device, w.pixels, (int64_t)(p->count * p->width));
    return finish(&w, out, r, err);
}

static size_t in_sixteens(size_t bytes) { return (bytes + 15) / 16 * 16; }
static size_t frames_bytes(const struct prepared_picture *p, int height, int width) { return in_sixteens((size_t)p->frames * (size_t)height * (size_t)width * 3); }

static size_t taps_bytes(const struct resize_taps *t, int out) { return t->most ? in_sixteens((size_t)out * (size_t)(2 + t->most) * 4) : 0; }
static struct axis put_taps(const struct resize_taps *t, int out, char *host, const char *device) {
    struct axis a = {(const int *)device, (const int *)device + out, (const int *)device + 2 * out, t->bits, t->most};
    memcpy(host, t->first, (size_t)out * 4);
    memcpy(host + (size_t)out * 4, t->count, (size_t)out * 4);
    memcpy(host + (size_t)out * 8, t->weight, (size_t)out * (size_t)t->most * 4);
    return a;
}

/* What of a picture goes up, and what is made of it there. */
struct raw {
    struct resize_taps across, down;
    size_t up, made; /* bytes */
    struct frames frames;
    const uint8_t *source;
    struct axis x, y;
};

static int raw_new(struct raw *r, const struct prepared_picture *p, struct err *err) {
    memset(r, 0, sizeof *r);
    int code = 0;
    if (p->source_width != p->width) code = resize_taps_new(&r->across, p->source_width, p->width, p->kind, err);
    if (!code && p->source_height != p->height) code = resize_taps_new(&r->down, p->source_height, p->height, p->kind, err);
    r->up = sizeof p->values + frames_bytes(p, p->source_height, p->source_width) + taps_bytes(&r->across, p->width) + taps_bytes(&r->down, p->height);
    r->made = (r->across.most ? frames_bytes(p, p->source_height, p->width) : 0) + (r->down.most ? frames_bytes(p, p->height, p->width) : 0);
    return code;
}

/* Starts a picture's way to `device` through the pinned memory at `host`: piece by piece, so that the first are under way while the host still
 * copies the others. */
static int raw_upload(struct raw *r, const struct prepared_picture *p, char *host, char *device, cudaStream_t stream, struct err *err) {
    size_t pixels = (size_t)p->frames * (size_t)p->source_height * (size_t)p->source_width * 3, tail = sizeof p->values + in_sixteens(pixels);
    int code = 0;
    r->frames.values = (const float *)device, r->source = (const uint8_t *)device + sizeof p->values;
    if (r->across.most) r->x = put_taps(&r->across, p->width, host + tail, device + tail);
    tail += taps_bytes(&r->across, p->width);
    if (r->down.most) r->y = put_taps(&r->down, p->height, host + tail, device + tail);
    memcpy(host, p->values, sizeof p->values);
    size_t sent = 0, there = sizeof p->values, piece = (size_t)192 << 10;
    for (size_t from = 0, n; from < pixels && !code; from += n, sent = there) {
        n = pixels - from < piece ? pixels - from : piece;
        memcpy(host + there, p->rgb + from, n);
        there = from + n < pixels ? there + n : r->up;
        code = cuda_failed(cudaMemcpyAsync(device + sent, host + sent, there - sent, cudaMemcpyHostToDevice, stream), "uploading a picture", err);
    }
    return code;
}

static void launch_resize(struct backend_model *m, const uint8_t *from, const struct axis *a, const struct prepared_picture *p, int rows, int width, bool down, uint8_t *out) {
    int64_t all = (int64_t)p->frames * rows * width * 3;
    launch(m, resize_kernel, dim3((unsigned)((all + 255) / 256)), dim3(256), 0, from, *a, p->frames, p->source_height, down ? p->width : p->source_width, rows, width, (int)down, out);
}

/* Resizes where that is left to the device, then the patches; made: memory for r->made bytes. */
static void raw_launch(struct tower *w, struct raw *r, const struct prepared_picture *p, int picture, char *made) {
    const struct vision_config *v = &w->m->w.config.vision;
    const uint8_t *now = r->source;
    if (r->across.most) {
        launch_resize(w->m, now, &r->x, p, p->source_height, p->width, false, (uint8_t *)made);
        now = (const uint8_t *)made, made += frames_bytes(p, p->source_height, p->width);
    }
    if (r->down.most) {
        launch_resize(w->m, now, &r->y, p, p->height, p->width, true, (uint8_t *)made);
        now = (const uint8_t *)made;
    }
    r->frames.rgb = now, r->frames.first = w->p.at[picture].row, r->frames.count = p->frames, r->frames.patch = v->patch, r->frames.temporal = v->temporal_patch;
    launch(w->m, patch_kernel, dim3((unsigned)(p->grid_t * p->grid_h * p->grid_w)), dim3(256), 0, w->p, picture, r->frames, w->pixels);
}

/* At most MOST_PICTURES. */
static int encode_some(struct backend_model *m, const struct prepared_picture *pictures, int count, struct vision_features *out, struct err *err) {
    struct tower w;
    struct raw raw[MOST_PICTURES] = {};
    const struct vision_config *v = &m->w.config.vision;
    char *device;
    size_t up = 0, made = 0;
    int r = 0;
    start(&w, m);
    for (int i = 0; i < count && !r; i++) {
        const struct prepared_picture *p = &pictures[i];
        if (p->height != p->grid_h * v->patch || p->width != p->grid_w * v->patch || p->frames < 1 || 3 * v->temporal_patch * v->patch * v->patch != m->w.patch_embed.in)
            r = err_set(err, ERR_ARGUMENT, "picture: %d frames of %d x %d pixels are no grid of %d x %d x %d", p->frames, p->width, p->height, p->grid_t, p->grid_h, p->grid_w);
        if (!r) r = raw_new(&raw[i], p, err);
        if (!r) r = add_picture(&w, p->grid_t, p->grid_h, p->grid_w, &out[i], err);
        up += raw[i].up, made += raw[i].made;
    }
    if (!r) r = reserve(&w, up, made, &device, err);
    if (!r) place(&w);
    for (size_t i = 0, at = 0; i < (size_t)count && !r; at += raw[i++].up) r = raw_upload(&raw[i], &pictures[i], w.host + at, device + at, m->stream, err);
    for (size_t i = 0, at = w.upload; i < (size_t)count && !r; at += raw[i++].made) raw_launch(&w, &raw[i], &pictures[i], (int)i, device + at);
    for (int i = 0; i < count; i++) {
        resize_taps_free(&raw[i].across);
        resize_taps_free(&raw[i].down);
    }
    return finish(&w, out, r, err);
}

int cuda_encode_pictures(struct backend_model *m, const struct prepared_picture *pictures, int count, struct vision_features *out, struct err *err) {
    int r = 0;
    for (int i = 0; i < count; i++) {
        float *values = out[i].values;
        bool pinned = out[i].pinned;
        out[i] = (struct vision_features){};
        out[i].values = values, out[i].pinned = values && pinned;
    }
    bool given = count > 0 && out[0].values;
    for (int at = 0; at < count && !r; at += MOST_PICTURES) r = encode_some(m, pictures + at, count - at < MOST_PICTURES ? count - at : MOST_PICTURES, out + at, err);
    for (int i = 0; i < count && r && !given; i++) vision_features_free(&out[i]);
    return r;
}
