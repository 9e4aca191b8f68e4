/* Linear layers: which kernel serves a product.
 *
 * Up to FEW_ROWS rows: few.cu reads the weights as they are stored. More rows: the weights are unpacked to bf16 first, then a library's
 * product (cublasLt, when it can be loaded), else few.cu slice by slice. Shapes that neither takes (small test models): any_product. */
#include "backend/cuda/unpack.h"

/* ---- any shape ---- */

struct any_args {
    struct dlinear w, up;
    int rows, out;
    const bf16 *x;
    const float *factors;
    int64_t ldx, ldy;
    void *y;
};

/* A thread makes one output of one row. */
__global__ void any_product(const struct any_args a) {
    wait_for_input();
    int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = item / a.w.out, o = item % a.w.out;
    if (row >= a.rows) return;
    const bf16 *x = a.x + row * a.ldx;
    float sum = 0, up = 0;
    for (int k = 0; k < a.w.in; k++) {
        float v = __bfloat162float(x[k]);
        if (a.factors) { /* e4m3 values times e4m3 weights, both with their factors */
            v *= a.factors[row * ((a.w.in + 127) / 128) + k / 128];
            sum += v * weight_at(a.w, o, k);
            if (a.out == OUT_SILU) up += v * weight_at(a.up, o, k);
        } else {
            sum += v * __bfloat162float(__float2bfloat16_rn(weight_at(a.w, o, k)));
            if (a.out == OUT_SILU) up += v * __bfloat162float(__float2bfloat16_rn(weight_at(a.up, o, k)));
        }
    }
    put_sum(a.y, row * a.ldy + o, sum + (a.w.bias ? a.w.bias[o] : 0.0f), a.out, up);
}

static size_t element_bytes(int out) { return out == OUT_F32 || out == OUT_ADD ? 4 : 2; }

/* At most FEW_ROWS rows. */
static void run_slice(struct backend_model *m, const struct product *p) {
    if (few_rows_fit(p)) {
        few_rows_run(m, p);
        return;
    }
    struct product one = *p;
    one.count = 1;
    for (int i = 0; i < p->count; i++, one.y = (char *)one.y + one.w[0]->out * element_bytes(p->out)) { /* perhaps one by one: mixed layers */
        one.w[0] = p->w[i];
        if (p->count > 1 && few_rows_fit(&one)) {
            few_rows_run(m, &one);
            continue;
        }
        struct any_args a = {};
        a.w = *p->w[i], a.rows = p->rows, a.out = p->out, a.x = p->x, a.ldx = p->ldx, a.y = one.y, a.ldy = p->ldy, a.factors = p->factors;
        if (p->up) a.up = *p->up;
        launch(m, any_product, dim3((unsigned)(((int64_t)p->w[i]->out * p->rows + 127) / 128)), dim3(128), 0, a);
    }
}

/* ---- many rows ---- */

__global__ void unpack_any(struct dlinear w, bf16 *out) {
    wait_for_input();
    int64_t count = (int64_t)w.out * w.in;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x)
        out[i] = __float2bfloat16_rn(weight_at(w, i / w.in, i % w.in));
}

/* 16 stored bytes a thread; the weights as linear_weight_rows_f32 makes them, rounded to bf16. */
template <int KIND>
__global__ void unpack_fast(struct dlinear w, bf16 *out) {
    enum { VALUES = kind<KIND>::values };
    __shared__ float map[16 * 32]; /* each lane its own bank */
    if (KIND == STORAGE_NF4) {
        for (int i = threadIdx.x; i < 16 * 32; i += blockDim.x) map[i] = w.quant_map[i / 32];
        __syncthreads();
    }
    wait_for_input();
    int64_t count = (int64_t)w.out * w.in / VALUES;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
        int64_t at = i * VALUES, row = at / w.in, k = at % w.in;
        uint4 raw = load_streamed((const char *)w.data + i * 16);
        const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
        uint32_t to[VALUES / 2];
        if (KIND == STORAGE_NF4) {
            float absmax = nf4_absmax(w, at / NF4_BLOCK);
            const float *mine = map + threadIdx.x % 32;
#pragma unroll
            for (int b = 0; b < 16; b++) {
                uint32_t byte = word[b / 4] >> b % 4 * 8;
                to[b % (VALUES / 2)] = pack_bf16(mine[(byte >> 4 & 15) * 32] * absmax, mine[(byte & 15) * 32] * absmax);
            }
        } else {
            float f = w.scale[row / 128 * w.scale_columns + k / 128];
#pragma unroll
            for (int b = 0; b < 8; b++) {
                float2 v = e4m3_pair(word[b / 2] >> b % 2 * 16 & 0xFFFF);
                to[b % (VALUES / 2)] = pack_bf16(v.x * f, v.y * f);
            }
        }
#pragma unroll
        for (int j = 0; j < VALUES / 8; j++) ((uint4 *)(out + at))[j] = make_uint4(to[j * 4], to[j * 4 + 1], to[j * 4 + 2], to[j * 4 + 3]);
    }
}

static void unpack(struct backend_model *m, const struct dlinear *w, bf16 *to) {
    dim3 grid((unsigned)m->sm_count * 8), block(256);
    if (w->fast && w->storage == STORAGE_NF4 && w->rounding == DTYPE_BF16) launch(m, unpack_fast<STORAGE_NF4>, grid, block, 0, *w, to);
    else if (w->fast && w->storage == STORAGE_FP8_BLOCK) launch(m, unpack_fast<STORAGE_FP8_BLOCK>, grid, block, 0, *w, to);
    else launch(m, unpack_any, grid, block, 0, *w, to);
}

/* Sums of a large product become results. product (rows, out). */
template <typename T>
__global__ void finish_kernel(const T *product, int out, const float *bias, int how, void *y, int64_t ldy) {
    wait_for_input();
    int64_t row = blockIdx.y;
    for (int o = blockIdx.x * blockDim.x + threadIdx.x; o < out; o += gridDim.x * blockDim.x) {
        int64_t at = row * out + o;
        put_sum(y, row * ldy + o, as_float(product[at]) + (bias ? bias[o] : 0.0f), how, 0);
    }
}

/* What the library multiplies at once: `count` matrices that lie one below the other, as they are stored or in working memory. */
struct joined {
    const struct dlinear *first;
    int count, out;
    bool eight; /* e4m3 weights and activations */
};

static bool follows(const struct dlinear *a, const struct dlinear *b, bool eight) {
    size_t bytes = (size_t)a->out * a->in * (eight ? 1 : 2);
    if (a->storage != b->storage || (const char *)a->data + bytes != (const char *)b->data) return false;
    return !eight || (a->out % 128 == 0 && a->scale + (size_t)a->out / 128 * a->scale_columns == b->scale);
}

/* As many of the product's matrices from i on as can be had at once. */
static struct joined join(const struct product *p, int i) {
    const struct dlinear *w = p->w[i];
    struct joined j = {w, 1, w->out, p->x8 && w->storage == STORAGE_FP8_BLOCK};
    bool stored = j.eight || w->storage == STORAGE_BF16;
    for (int k = i + 1; k < p->count && !w->bias && !p->w[k]->bias; k++, j.count++) {
        const struct dlinear *next = p->w[k];
        if (stored ? !follows(p->w[k - 1], next, j.eight) : next->storage == STORAGE_BF16 || (p->x8 && next->storage == STORAGE_FP8_BLOCK)) break;
        j.out += next->out;
    }
    return j;
}

static int by_library(struct backend_model *m, const struct product *p, int i, const struct joined *j, int rows, void *y, int64_t ldy, bool y_bf16, bool add, struct err *err) {
    const struct dlinear *w = j->first;
    int r;
    if (j->eight) {
        r = lt_product_fp8(m->lt, m->stream, w->data, w->scale, j->out, w->in, p->x8, p->factors8, rows, y, ldy, y_bf16, add);
    } else {
        const bf16 *weights = (const bf16 *)w->data;
        if (w->storage != STORAGE_BF16) {
            bf16 *to = (bf16 *)buffer_get(m, BUFFER_UNPACKED, (size_t)j->out * w->in * 2, err);
            if (!to) return ERR_MEMORY;
            weights = to;
            for (int k = i; k < i + j->count; to += (size_t)p->w[k]->out * w->in, k++) unpack(m, p->w[k], to);
        }
        r = lt_product(m->lt, m->stream, weights, j->out, w->in, p->x, p->ldx, rows, y, ldy, y_bf16, add);
    }
    return r ? err_set(err, ERR_IO, "cublasLt refused a product of %d x %d x %d", rows, j->out, w->in) : 0;
}

static int run_large(struct backend_model *m, const struct product *p, struct err *err) {
    char *y = (char *)p->y;
    int rows = p->padded ? p->padded : p->rows, r = 0;
    for (int i = 0; i < p->count && !r;) {
        struct joined j = join(p, i);
        if (!j.eight && many_rows_fit(m, p, i, j.count) && many_rows_run(m, p, i, j.count, y)) {
            i += j.count, y += j.out * element_bytes(p->out);
            continue;
        }
        bool straight = !j.first->bias && (p->out == OUT_F32 || p->out == OUT_ADD || p->out == OUT_BF16);
        if (straight) {
            r = by_library(m, p, i, &j, rows, y, p->ldy, p->out == OUT_BF16, p->out == OUT_ADD, err);
        } else {
            float *to = (float *)buffer_get(m, BUFFER_PRODUCT, (size_t)rows * j.out * 4, err);
            if (!to) return ERR_MEMORY;
            r = by_library(m, p, i, &j, rows, to, j.out, false, false, err);
            if (!r)
                launch(m, finish_kernel<float>, dim3((unsigned)(j.out + 255) / 256, (unsigned)p->rows), dim3(256), 0, to, j.out, j.first->bias, p->out, y, p->ldy);
        }
        i += j.count, y += j.out * element_bytes(p->out);
    }
    return r;
}

bool library_fit(const struct backend_model *m, const struct product *p) {
    bool fit = m->lt && p->rows > FEW_ROWS && p->rows <= 65535 && p->ldx % 8 == 0 && p->out != OUT_SILU;
    for (int i = 0; i < p->count; i++) fit = fit && p->w[i]->in % 8 == 0 && p->w[i]->out % 8 == 0;
    return fit;
}

int product_run(struct backend_model *m, const struct product *p, struct err *err) {
    if (library_fit(m, p)) {
        int r = run_large(m, p, err);
        return r ? r : cuda_failed(cudaGetLastError(), "a matrix product", err);
    }
    for (int r = 0; r < p->rows; r += FEW_ROWS) {
        struct product slice = *p;
        slice.x += r * p->ldx, slice.y = (char *)p->y + (size_t)r * p->ldy * element_bytes(p->out);
        if (p->factors) slice.factors += (int64_t)r * ((p->w[0]->in + 127) / 128);
        slice.rows = p->rows - r < FEW_ROWS ? p->rows - r : FEW_ROWS;
        run_slice(m, &slice);
    }
    return cuda_failed(cudaGetLastError(), "a matrix product", err);
}

/* ---- embedding ---- */

/* weight: that of the first norm, left to the product (room.h), or NULL. */
__global__ void embed_kernel(struct dlinear w, const struct drow *rows, const float *visual, float *h, const float *weight, bf16 *x, float *squares, int tiled) {
    __shared__ float sums[8];
    let_next_start();
    wait_for_input();
    struct drow r = rows[blockIdx.x];
    float sum = 0;
    for (int k = threadIdx.x; k < w.in; k += blockDim.x) {
        int64_t at = (int64_t)blockIdx.x * w.in + k;
        float v = r.visual >= 0 ? visual[(int64_t)r.visual * w.in + k] : weight_at(w, r.id, k);
        h[at] = v;
        if (weight) x[tiled ? tiled_place((int)blockIdx.x, k, tiled) : at] = __float2bfloat16_rn(v * weight[k]), sum += v * v;
    }
    if (!weight) return;
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < 8; i++) sum += sums[i];
    squares[(int64_t)blockIdx.x * MOST_SQUARES] = sum;
}

void embed_rows(struct backend_model *m, const struct drow *rows, int count, const float *visual, float *h, const float *weight, bf16 *x, float *squares, int tiled) {
    launch(m, embed_kernel, dim3((unsigned)count), dim3(256), 0, m->embed, rows, visual, h, weight, x, squares, tiled);
}
