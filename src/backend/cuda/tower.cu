/* The vision tower (facts §4): patch embedding as a matrix product, learned positions interpolated corner-aligned, blocks with full
 * attention inside each temporal group, DeepStack taps, mergers. Rows are patches in merge-block order, so merge^2 consecutive rows are
 * one token. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/room.h"

struct grid {
    int h, w, merge, side; /* of patches; side: of the table of learned positions */
};

/* Patch index inside a temporal group -> row and column of the patch grid (facts §4.3). */
__device__ static inline void patch_place(const struct grid &g, int p, int *row, int *col) {
    int unit = g.merge * g.merge, blocks = g.w / g.merge, block = p / unit, inside = p % unit;
    *row = block / blocks * g.merge + inside / g.merge;
    *col = block % blocks * g.merge + inside % g.merge;
}

/* index * (side - 1) / (size - 1) in fp32, as vision_utils.py (transformers 5.x) does. */
__device__ static inline void interpolate(int index, int size, int side, int *at0, int *at1, float *fraction) {
    float source = (float)(index * (side - 1)) / (float)(size > 1 ? size - 1 : 1);
    int floor0 = (int)floorf(source);
    *fraction = source - (float)floor0;
    *at0 = floor0 > side - 1 ? side - 1 : floor0;
    *at1 = floor0 + 1 > side - 1 ? side - 1 : floor0 + 1;
}

__global__ void position_kernel(const struct grid g, const float *table, int n, float *h) {
    wait_for_input();
    int row, col, y0, y1, x0, x1;
    float fy, fx;
    patch_place(g, blockIdx.x % (g.h * g.w), &row, &col);
    interpolate(row, g.h, g.side, &y0, &y1, &fy);
    interpolate(col, g.w, g.side, &x0, &x1, &fx);
    const float *a = table + ((int64_t)y0 * g.side + x0) * n, *b = table + ((int64_t)y0 * g.side + x1) * n;
    const float *c = table + ((int64_t)y1 * g.side + x0) * n, *d = table + ((int64_t)y1 * g.side + x1) * n;
    float wa = (1 - fy) * (1 - fx), wb = (1 - fy) * fx, wc = fy * (1 - fx), wd = fy * fx;
    for (int k = threadIdx.x; k < n; k += blockDim.x) h[(int64_t)blockIdx.x * n + k] += wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k];
}

/* (patches of a group, 2, head_dim / 2): cosines then sines; the first half of the angles by the row, the second by the column. */
__global__ void rotary_kernel(const struct grid g, const float *frequency, int head_dim, float *rotary) {
    wait_for_input();
    int row, col, half = head_dim / 2, quarter = head_dim / 4;
    patch_place(g, blockIdx.x, &row, &col);
    for (int j = threadIdx.x; j < half; j += blockDim.x) {
        float c, s;
        sincosf((float)(j < quarter ? row : col) * frequency[j % quarter], &s, &c);
        rotary[(int64_t)blockIdx.x * head_dim + j] = c, rotary[(int64_t)blockIdx.x * head_dim + half + j] = s;
    }
}

struct tower {
    struct backend_model *m;
    struct grid grid;
    int groups, patches, hidden, heads;
    float *h, *qkv, *rotary, *features; /* (patches, V), (patches, 3V), (patches of a group, head_dim), (levels, tokens, D) */
    bf16 *x, *wide;                     /* (patches, V), (patches, J) or (tokens, M) */
    void *turned;
};

static int run_product(struct tower *w, const struct dlinear *l, const bf16 *x, int rows, int out, void *y, struct err *err) {
    struct product p = {{l}, 1};
    p.x = x, p.ldx = l->in, p.rows = rows, p.out = out, p.y = y, p.ldy = l->out;
    return product_run(w->m, &p, err);
}

static int run_block(struct tower *w, const struct dblock *b, struct err *err) {
    struct backend_model *m = w->m;
    int n = w->hidden, r;
    layer_norm_rows(m, w->h, b->norm1_w, b->norm1_b, w->x, w->patches, n);
    if ((r = run_product(w, &b->qkv, w->x, w->patches, OUT_F32, w->qkv, err))) return r;
    attend_groups(m, w->qkv, w->rotary, w->groups, w->grid.h * w->grid.w, w->heads, n / w->heads, w->turned, w->x);
    if ((r = run_product(w, &b->proj, w->x, w->patches, OUT_ADD, w->h, err))) return r;
    layer_norm_rows(m, w->h, b->norm2_w, b->norm2_b, w->x, w->patches, n);
    if ((r = run_product(w, &b->fc1, w->x, w->patches, OUT_GELU_TANH, w->wide, err))) return r;
    return run_product(w, &b->fc2, w->wide, w->patches, OUT_ADD, w->h, err);
}

static int run_merger(struct tower *w, const struct dmerger *g, float *out, struct err *err) {
    int unit = w->grid.merge * w->grid.merge, tokens = w->patches / unit;
    if (g->after) layer_norm_rows(w->m, w->h, g->norm_w, g->norm_b, w->x, tokens, w->hidden * unit);
    else layer_norm_rows(w->m, w->h, g->norm_w, g->norm_b, w->x, w->patches, w->hidden);
    int r = run_product(w, &g->fc1, w->x, tokens, OUT_GELU_ERF, w->wide, err);
    return r ? r : run_product(w, &g->fc2, w->wide, tokens, OUT_F32, out, err);
}

/* Working memory; the patches go to the device and through the embedding. */
static int begin(struct tower *w, const struct patches *p, struct err *err) {
    struct backend_model *m = w->m;
    const struct vision_config *v = &m->w.config.vision;
    size_t rows = (size_t)p->count, n = (size_t)v->hidden, unit = (size_t)(v->merge * v->merge), tokens = rows / unit, width = (size_t)p->width;
    size_t wide = rows * (size_t)v->intermediate > tokens * unit * n ? rows * (size_t)v->intermediate : tokens * unit * n;
    size_t group = (size_t)(p->grid_h * p->grid_w), features = (size_t)(1 + v->deepstack_count) * tokens * (size_t)v->out_hidden * 4;
    w->h = (float *)buffer_get(m, BUFFER_HIDDEN, rows * n * 4, err);
    w->qkv = (float *)buffer_get(m, BUFFER_QKV, rows * 3 * n * 4, err);
    w->x = (bf16 *)buffer_get(m, BUFFER_NORMED, rows * n * 2, err);
    w->wide = (bf16 *)buffer_get(m, BUFFER_WIDE, wide * 2, err);
    w->rotary = (float *)buffer_get(m, BUFFER_COMPACT, group * n / (size_t)v->heads * 4, err);
    w->features = (float *)buffer_get(m, BUFFER_VISUAL, features, err);
    w->turned = buffer_get(m, BUFFER_TURNED, attend_groups_bytes(p->count, v->heads, v->hidden / v->heads), err);
    float *pixels = (float *)buffer_get(m, BUFFER_PIXELS, rows * width * 6, err);
    float *host = (float *)pinned_get(m, PINNED_BATCH, rows * width * 4 > features ? rows * width * 4 : features, err);
    if (!w->h || !w->qkv || !w->x || !w->wide || !w->rotary || !w->features || !w->turned || !pixels || !host) return ERR_MEMORY;
    bf16 *rounded = (bf16 *)(pixels + rows * width);
    memcpy(host, p->values, rows * width * 4);
    int r = cuda_failed(cudaMemcpyAsync(pixels, host, rows * width * 4, cudaMemcpyHostToDevice, m->stream), "uploading an image", err);
    if (r) return r;
    to_bf16(m, pixels, rounded, (int64_t)(rows * width));
    if ((r = run_product(w, &m->patch_embed, rounded, w->patches, OUT_F32, w->h, err))) return r;
    launch(m, position_kernel, dim3((unsigned)rows), dim3(256), 0, w->grid, m->pos_embed, w->hidden, w->h);
    launch(m, rotary_kernel, dim3((unsigned)group), dim3(64), 0, w->grid, m->vision_frequency, w->hidden / w->heads, w->rotary);
    return 0;
}

static int run_tower(struct tower *w, const struct patches *p, float *values, size_t level_bytes, struct err *err) {
    struct backend_model *m = w->m;
    const struct vision_config *v = &m->w.config.vision;
    int r = begin(w, p, err), level = 0;
    size_t level_size = level_bytes / 4;
    for (int b = 0; b < v->depth && !r; b++) {
        r = run_block(w, &m->blocks[b], err);
        if (!r && level < v->deepstack_count && v->deepstack[level] == b) {
            r = run_merger(w, &m->deepstack[level], w->features + (size_t)(1 + level) * level_size, err);
            level++;
        }
    }
    if (!r) r = run_merger(w, &m->merger, w->features, err);
    size_t bytes = (size_t)(1 + v->deepstack_count) * level_bytes;
    if (!r) r = cuda_failed(cudaMemcpyAsync(m->pinned[PINNED_BATCH].data, w->features, bytes, cudaMemcpyDeviceToHost, m->stream), "reading image features", err);
    int late = cuda_failed(cudaStreamSynchronize(m->stream), "encoding an image", r ? NULL : err);
    if (!r && !late) memcpy(values, m->pinned[PINNED_BATCH].data, bytes);
    return r ? r : late;
}

int cuda_encode_image(struct backend_model *m, const struct patches *p, struct vision_features *out, struct err *err) {
    const struct vision_config *v = &m->w.config.vision;
    memset(out, 0, sizeof *out);
    cudaSetDevice(m->device);
    if (p->grid_t < 1 || p->grid_h < v->merge || p->grid_w < v->merge || p->grid_h % v->merge || p->grid_w % v->merge ||
        p->count != (int64_t)p->grid_t * p->grid_h * p->grid_w || p->width != m->w.patch_embed.in || p->count > INT32_MAX / 4 || p->grid_t > 65535)
        return err_set(err, ERR_ARGUMENT, "image patches: grid %d x %d x %d with %lld patches of %lld values does not fit this model (merge %d, %lld values a patch)", p->grid_t,
                       p->grid_h, p->grid_w, (long long)p->count, (long long)p->width, v->merge, (long long)m->w.patch_embed.in);
    struct tower w = {m, {p->grid_h, p->grid_w, v->merge, (int)lround(sqrt((double)v->positions))}, p->grid_t, (int)p->count, v->hidden, v->heads};
    int64_t tokens = p->count / (v->merge * v->merge);
    size_t level_bytes = (size_t)tokens * (size_t)v->out_hidden * 4;
    float *values = (float *)malloc((size_t)(1 + v->deepstack_count) * level_bytes);
    if (!values) return err_set(err, ERR_MEMORY, "out of memory for the features of %lld image tokens", (long long)tokens);
    int r = run_tower(&w, p, values, level_bytes, err);
    if (r) {
        free(values);
        return r;
    }
    *out = (struct vision_features){p->grid_t, p->grid_h, p->grid_w, tokens, 1 + v->deepstack_count, values};
    return 0;
}
