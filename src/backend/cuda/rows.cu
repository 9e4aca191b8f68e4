/* What happens to rows between the products: norms, heads, additions, conversions. One block a row, or one warp a head. */
#include "backend/cuda/room.h"

__device__ static float block_sum(float v, float *shared) {
    for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++) v += shared[i];
    __syncthreads();
    return v;
}

__device__ static inline void put_value(bf16 *to, float v) { *to = __float2bfloat16_rn(v); }
__device__ static inline void put_value(float *to, float v) { *to = v; }

/* RMSNorm (modeling_qwen3_vl.py, Qwen3VLTextRMSNorm): w * x / sqrt(mean(x^2) + eps). */
template <typename T>
__global__ void norm_kernel(const float *h, const float *weight, T *out, int n, float eps) {
    __shared__ float shared[32];
    let_next_start();
    wait_for_input();
    const float *x = h + (int64_t)blockIdx.x * n;
    float sum = 0;
    for (int k = threadIdx.x; k < n; k += blockDim.x) sum += x[k] * x[k];
    float f = rsqrtf(block_sum(sum, shared) / n + eps);
    for (int k = threadIdx.x; k < n; k += blockDim.x) put_value(&out[(int64_t)blockIdx.x * n + k], weight[k] * (x[k] * f));
}

void norm_rows(struct backend_model *m, const float *h, const float *weight, bf16 *out, int rows, int n) {
    if (rows) launch(m, norm_kernel<bf16>, dim3((unsigned)rows), dim3(rows < 64 ? 512 : 256), 0, h, weight, out, n, m->w.config.text.rms_eps);
}
void norm_rows_f32(struct backend_model *m, const float *h, const float *weight, float *out, int rows, int n) {
    if (rows) launch(m, norm_kernel<float>, dim3((unsigned)rows), dim3(256), 0, h, weight, out, n, m->w.config.text.rms_eps);
}

__global__ void layer_norm_kernel(const float *h, const float *weight, const float *bias, bf16 *out, int n) {
    __shared__ float shared[32];
    let_next_start();
    wait_for_input();
    const float *x = h + (int64_t)blockIdx.x * n;
    float sum = 0, square = 0;
    for (int k = threadIdx.x; k < n; k += blockDim.x) sum += x[k];
    float mean = block_sum(sum, shared) / n;
    for (int k = threadIdx.x; k < n; k += blockDim.x) square += (x[k] - mean) * (x[k] - mean);
    float f = rsqrtf(block_sum(square, shared) / n + 1e-6f);
    for (int k = threadIdx.x; k < n; k += blockDim.x) out[(int64_t)blockIdx.x * n + k] = __float2bfloat16_rn((x[k] - mean) * f * weight[k] + bias[k]);
}

void layer_norm_rows(struct backend_model *m, const float *h, const float *weight, const float *bias, bf16 *out, int rows, int n) {
    if (rows) launch(m, layer_norm_kernel, dim3((unsigned)rows), dim3(256), 0, h, weight, bias, out, n);
}

struct heads_args {
    const struct drow *rows;
    const int32_t *pages, *axis;
    const float *qkv, *q_norm, *k_norm, *frequency;
    bf16 *q_out;
    char *kv;
    size_t page_bytes;
    int64_t layer_at, half;
    int heads, kv_heads, n;
    float eps;
};

/* A warp makes one head of one row: interleaved M-RoPE, halves rotated against each other (facts §3.2). */
__global__ void heads_kernel(const struct heads_args a) {
    let_next_start();
    wait_for_input();
    int all = a.heads + 2 * a.kv_heads, head = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, n = a.n;
    if (head >= all) return;
    struct drow r = a.rows[blockIdx.x];
    const float *x = a.qkv + ((int64_t)blockIdx.x * all + head) * n;
    bool query = head < a.heads, value = head >= a.heads + a.kv_heads;
    float f = 1;
    const float *weight = query ? a.q_norm : a.k_norm;
    if (!value) {
        float sum = 0;
        for (int i = lane; i < n; i += 32) sum += x[i] * x[i];
        for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
        f = rsqrtf(sum / n + a.eps);
    }
    bf16 *out;
    if (query) {
        out = a.q_out + ((int64_t)blockIdx.x * a.heads + head) * n;
    } else {
        int k = head - a.heads - (value ? a.kv_heads : 0);
        bf16 *page = (bf16 *)(a.kv + (size_t)a.pages[r.pages + r.slot / PAGE] * a.page_bytes);
        out = page + a.layer_at + (value ? a.half : 0) + ((int64_t)k * PAGE + r.slot % PAGE) * n;
    }
    for (int i = lane; i < n / 2; i += 32) {
        float lo = x[i], hi = x[i + n / 2];
        if (!value) {
            float c, s;
            sincosf((float)r.position[a.axis[i]] * a.frequency[i], &s, &c);
            lo = weight[i] * (lo * f), hi = weight[i + n / 2] * (hi * f);
            float turned = lo * c - hi * s;
            hi = hi * c + lo * s, lo = turned;
        }
        out[i] = __float2bfloat16_rn(lo), out[i + n / 2] = __float2bfloat16_rn(hi);
    }
}

void heads_rows(struct backend_model *m, const struct dlayer *l, int layer, const struct drow *rows, int count, const int32_t *pages, const float *qkv,
                bf16 *q_out) {
    const struct text_config *t = &m->w.config.text;
    struct heads_args a = {};
    a.rows = rows, a.pages = pages, a.axis = m->axis, a.qkv = qkv, a.q_norm = l->q_norm, a.k_norm = l->k_norm, a.frequency = m->inverse_frequency;
    a.q_out = q_out, a.kv = m->kv, a.page_bytes = m->page_bytes, a.layer_at = layer * m->layer_stride, a.half = m->layer_stride / 2;
    a.heads = t->heads, a.kv_heads = t->kv_heads, a.n = t->head_dim, a.eps = t->rms_eps;
    launch(m, heads_kernel, dim3((unsigned)count, (unsigned)(t->heads + 2 * t->kv_heads + 3) / 4), dim3(128), 0, a);
}

__global__ void add_visual_kernel(const struct drow *rows, const float *level, float *h, int n) {
    wait_for_input();
    int v = rows[blockIdx.x].visual;
    if (v < 0) return;
    for (int k = threadIdx.x; k < n; k += blockDim.x) h[(int64_t)blockIdx.x * n + k] += level[(int64_t)v * n + k];
}
void add_visual(struct backend_model *m, const struct drow *rows, int count, const float *level, float *h) {
    launch(m, add_visual_kernel, dim3((unsigned)count), dim3(256), 0, rows, level, h, m->w.config.text.hidden);
}

__global__ void gather_kernel(const float *h, const int32_t *which, int n, float *out) {
    wait_for_input();
    for (int k = threadIdx.x; k < n; k += blockDim.x) out[(int64_t)blockIdx.x * n + k] = h[(int64_t)which[blockIdx.x] * n + k];
}
void gather_rows(struct backend_model *m, const float *h, const int32_t *which, int count, int n, float *out) {
    if (count) launch(m, gather_kernel, dim3((unsigned)count), dim3(256), 0, h, which, n, out);
}

__global__ void to_bf16_kernel(const float *x, bf16 *out, int64_t count) {
    wait_for_input();
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) out[i] = __float2bfloat16_rn(x[i]);
}
void to_bf16(struct backend_model *m, const float *x, bf16 *out, int64_t count) { launch(m, to_bf16_kernel, dim3((unsigned)((count + 4095) / 4096)), dim3(256), 0, x, out, count); }

/* A warp takes a group of 128: x ~ value * factor, factor = max(max |x|, 1e-10) / 448, as ops.h says. */
__global__ void quantise_kernel(const bf16 *x, int rows, int n, bf16 *values, float *factors, uint8_t *bytes, float *factors8) {
    wait_for_input();
    int groups = (n + 127) / 128, lane = threadIdx.x % 32;
    int64_t item = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32, row = item / groups;
    int group = (int)(item % groups);
    if (row >= rows) return;
    int k = group * 128 + lane * 4, own = n - k < 4 ? n - k : 4;
    float v[4], most = 1e-10f;
    for (int i = 0; i < own; i++) v[i] = __bfloat162float(x[row * n + k + i]), most = fmaxf(most, fabsf(v[i]));
    for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    float factor = most / 448.0f;
    for (int i = 0; i < own; i++) {
        uint8_t code = e4m3_of(v[i] / factor);
        int64_t at = row * n + k + i;
        if (values) values[at] = __float2bfloat16_rn(e4m3_pair(code).x);
        if (bytes) bytes[at] = code;
    }
    if (lane) return;
    if (factors) factors[row * groups + group] = factor;
    if (factors8) factors8[(int64_t)group * ((rows + 15) / 16 * 16) + row] = factor;
}
void quantise_rows(struct backend_model *m, const bf16 *x, int rows, int n, bf16 *values, float *factors, uint8_t *bytes, float *factors8) {
    launch(m, quantise_kernel, dim3((unsigned)(((int64_t)rows * ((n + 127) / 128) * 32 + 255) / 256)), dim3(256), 0, x, rows, n, values, factors, bytes, factors8);
}
