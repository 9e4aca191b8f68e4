/* What happens to rows between the products: norms, heads, additions, conversions. One block a row, or one warp a head. */
#include "backend/cuda/unpack.h"

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
    const void *qkv; /* fp32 or bf16 */
    const float *q_norm, *k_norm, *frequency;
    bf16 *q_out;
    char *kv;
    size_t page_bytes;
    int64_t layer_at, half; /* in units of two bytes */
    int heads, kv_heads, n;
    float eps;
};

/* Where a row's key or value of a kv head goes, as bf16; as e4m3, with the place of its factor. */
__device__ static inline bf16 *page_layer(const struct heads_args &a, const struct drow &r, bool value) {
    return (bf16 *)(a.kv + (size_t)a.pages[r.pages + r.slot / PAGE] * a.page_bytes) + a.layer_at + (value ? a.half : 0);
}
__device__ static inline uint8_t *e4m3_place(const struct heads_args &a, const struct drow &r, bool value, int head, float **factor) {
    uint8_t *block = (uint8_t *)page_layer(a, r, value) + (int64_t)head * head_block_bytes(a.n, true);
    *factor = (float *)(block + PAGE * a.n) + r.slot % PAGE;
    return block + r.slot % PAGE * a.n;
}
/* At most 255, so that attend_few.cu may take 256 times it as f16: what is larger than 114,240 becomes that. */
__device__ static inline float e4m3_factor(float most) { return fminf(fmaxf(most, 1e-10f) / 448, 255.0f); }

__device__ static inline float value_of(float v) { return v; }
__device__ static inline float value_of(bf16 v) { return __bfloat162float(v); }

/* A warp makes one head of one row: interleaved M-RoPE, halves rotated against each other (facts §3.2). */
template <typename T, bool KV8>
__global__ void heads_kernel(const struct heads_args a) {
    enum { PAIRS = MOST_HEAD / 64 };
    let_next_start();
    int all = a.heads + 2 * a.kv_heads, head = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, n = a.n;
    if (head >= all) return;
    /* What the kernels in front do not write, before they have ended. */
    struct drow r = a.rows[blockIdx.x];
    const T *x = (const T *)a.qkv + ((int64_t)blockIdx.x * all + head) * n;
    bool query = head < a.heads, value = head >= a.heads + a.kv_heads;
    int k = head - a.heads - (value ? a.kv_heads : 0);
    bf16 *to = query ? a.q_out + ((int64_t)blockIdx.x * a.heads + head) * n : page_layer(a, r, value);
    const float *norm = query ? a.q_norm : a.k_norm;
    float weight[PAIRS][2] = {}, c[PAIRS] = {}, s[PAIRS] = {}, made[PAIRS][2] = {}, most = 0, f = 1, sum = 0;
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        int i = lane + j * 32;
        if (i >= n / 2 || value) break;
        weight[j][0] = norm[i], weight[j][1] = norm[i + n / 2];
        sincosf((float)r.position[a.axis[i]] * a.frequency[i], &s[j], &c[j]);
    }
    wait_for_input();
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        int i = lane + j * 32;
        if (i < n / 2) made[j][0] = value_of(x[i]), made[j][1] = value_of(x[i + n / 2]);
    }
    if (!value) {
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int j = 0; j < PAIRS; j++) sum += made[j][h] * made[j][h];
        for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
        f = rsqrtf(sum / n + a.eps);
    }
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        float lo = made[j][0], hi = made[j][1];
        if (!value) {
            lo = weight[j][0] * (lo * f), hi = weight[j][1] * (hi * f);
            made[j][0] = lo * c[j] - hi * s[j], made[j][1] = hi * c[j] + lo * s[j];
        }
        most = fmaxf(most, fmaxf(fabsf(made[j][0]), fabsf(made[j][1])));
    }
    if (KV8 && !query) {
        for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
        float *factor, f8 = e4m3_factor(most);
        uint8_t *out = e4m3_place(a, r, value, k, &factor);
        if (lane == 0) *factor = f8;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            int i = lane + j * 32;
            if (i < n / 2) out[i] = e4m3_of(made[j][0] / f8), out[i + n / 2] = e4m3_of(made[j][1] / f8);
        }
        return;
    }
    bf16 *out = query ? to : to + ((int64_t)k * PAGE + r.slot % PAGE) * n;
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        int i = lane + j * 32;
        if (i < n / 2) out[i] = __float2bfloat16_rn(made[j][0]), out[i + n / 2] = __float2bfloat16_rn(made[j][1]);
    }
}

/* The same for heads of 128 of many rows: a block makes a row, 8 threads a head. The angles are reckoned once for all heads. */
template <bool KV8>
__global__ void heads_of_128(const struct heads_args a) {
    __shared__ float turn[2][64];
    let_next_start();
    int all = a.heads + 2 * a.kv_heads, head = threadIdx.x / 8, part = threadIdx.x % 8;
    int64_t row = blockIdx.x;
    struct drow r = a.rows[row];
    bool query = head < a.heads, value = head >= a.heads + a.kv_heads;
    uint4 raw[2] = {};
    for (int i = threadIdx.x; i < 64; i += blockDim.x) sincosf((float)r.position[a.axis[i]] * a.frequency[i], &turn[1][i], &turn[0][i]);
    wait_for_input();
    if (head < all) {
        const bf16 *x = (const bf16 *)a.qkv + (row * all + head) * 128 + part * 8;
        raw[0] = *(const uint4 *)x, raw[1] = *(const uint4 *)(x + 64);
    }
    __syncthreads();
    const uint32_t word[8] = {raw[0].x, raw[0].y, raw[0].z, raw[0].w, raw[1].x, raw[1].y, raw[1].z, raw[1].w};
    float v[2][8], sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i / 4][i % 4 * 2] = low_bf16(word[i]), v[i / 4][i % 4 * 2 + 1] = high_bf16(word[i]);
        sum += low_bf16(word[i]) * low_bf16(word[i]) + high_bf16(word[i]) * high_bf16(word[i]);
    }
    for (int d = 4; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (!value && head < all) {
        float f = rsqrtf(sum / 128 + a.eps);
        const float *weight = (query ? a.q_norm : a.k_norm) + part * 8;
        const float *c = turn[0] + part * 8, *s = turn[1] + part * 8;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float lo = weight[i] * (v[0][i] * f), hi = weight[64 + i] * (v[1][i] * f);
            v[0][i] = lo * c[i] - hi * s[i], v[1][i] = hi * c[i] + lo * s[i];
        }
    }
    int k = head - a.heads - (value ? a.kv_heads : 0);
    if (KV8) {
        float most = 0;
#pragma unroll
        for (int i = 0; i < 16; i++) most = fmaxf(most, fabsf(v[i / 8][i % 8]));
        for (int d = 4; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
        if (!query && head < all) {
            float *factor, f8 = e4m3_factor(most);
            uint8_t *out = e4m3_place(a, r, value, k, &factor);
            if (part == 0) *factor = f8;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t word[2] = {};
#pragma unroll
                for (int e = 0; e < 8; e++) word[e / 4] |= (uint32_t)e4m3_of(v[i][e] / f8) << e % 4 * 8;
                *(uint2 *)(out + i * 64 + part * 8) = make_uint2(word[0], word[1]);
            }
            return;
        }
    }
    if (head >= all) return;
    bf16 *out = query ? a.q_out + (row * a.heads + head) * 128 : page_layer(a, r, value) + ((int64_t)k * PAGE + r.slot % PAGE) * 128;
#pragma unroll
    for (int i = 0; i < 2; i++)
        *(uint4 *)(out + i * 64 + part * 8) = make_uint4(pack_bf16(v[i][0], v[i][1]), pack_bf16(v[i][2], v[i][3]), pack_bf16(v[i][4], v[i][5]), pack_bf16(v[i][6], v[i][7]));
}

static struct heads_args heads_args_of(struct backend_model *m, const struct dlayer *l, int layer, const struct drow *rows, const int32_t *pages, const void *qkv, bf16 *q_out) {
    const struct text_config *t = &m->w.config.text;
    struct heads_args a = {};
    a.rows = rows, a.pages = pages, a.axis = m->axis, a.qkv = qkv, a.q_norm = l->q_norm, a.k_norm = l->k_norm, a.frequency = m->inverse_frequency;
    a.q_out = q_out, a.kv = m->kv, a.page_bytes = m->page_bytes, a.layer_at = layer * m->layer_stride, a.half = m->layer_stride / 2;
    a.heads = t->heads, a.kv_heads = t->kv_heads, a.n = t->head_dim, a.eps = t->rms_eps;
    return a;
}

void heads_rows(struct backend_model *m, const struct dlayer *l, int layer, const struct drow *rows, int count, const int32_t *pages, const float *qkv,
                bf16 *q_out) {
    struct heads_args a = heads_args_of(m, l, layer, rows, pages, qkv, q_out);
    dim3 grid((unsigned)count, (unsigned)(a.heads + 2 * a.kv_heads + 3) / 4);
    if (m->kv8) launch(m, heads_kernel<float, true>, grid, dim3(128), 0, a);
    else launch(m, heads_kernel<float, false>, grid, dim3(128), 0, a);
}
void heads_rows_bf16(struct backend_model *m, const struct dlayer *l, int layer, const struct drow *rows, int count, const int32_t *pages, const bf16 *qkv,
                     bf16 *q_out) {
    struct heads_args a = heads_args_of(m, l, layer, rows, pages, qkv, q_out);
    int all = a.heads + 2 * a.kv_heads, threads = (all * 8 + 31) / 32 * 32;
    dim3 grid((unsigned)count, (unsigned)(all + 3) / 4), block((unsigned)threads);
    if (a.n == 128 && threads <= 1024) {
        if (m->kv8) launch(m, heads_of_128<true>, dim3((unsigned)count), block, 0, a);
        else launch(m, heads_of_128<false>, dim3((unsigned)count), block, 0, a);
    } else if (m->kv8) launch(m, heads_kernel<bf16, true>, grid, dim3(128), 0, a);
    else launch(m, heads_kernel<bf16, false>, grid, dim3(128), 0, a);
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

/* ---- what the products of many rows are given ----
 */

/* Eight values of a row, k a multiple of eight: as bf16, and as e4m3 in groups of 128 of which 16 neighbouring lanes hold one (facts §2.3:
 * x ~ value * factor, factor = max(max |x|, 1e-10) / 448 of the values rounded to bf16). All lanes of the warp come here together. */
__device__ static inline void put_eight(const struct row_input &to, int64_t row, int n, int k, bool there, const float v[8]) {
    uint32_t pair[4];
#pragma unroll
    for (int i = 0; i < 4; i++) pair[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
    if (to.x && there) *(uint4 *)(to.x + row * n + k) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
    if (!to.x8) return;
    float most = 1e-10f;
#pragma unroll
    for (int i = 0; i < 4; i++) most = fmaxf(most, fmaxf(fabsf(low_bf16(pair[i])), fabsf(high_bf16(pair[i]))));
    for (int d = 8; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    if (!there) return;
    float factor = most / 448.0f;
    uint32_t code[2] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) code[i / 4] |= (uint32_t)e4m3_of((i % 2 ? high_bf16(pair[i / 2]) : low_bf16(pair[i / 2])) / factor) << i % 4 * 8;
    *(uint2 *)(to.x8 + row * n + k) = make_uint2(code[0], code[1]);
    if (k % 128 == 0) to.factors8[(int64_t)(k / 128) * to.padded + row] = factor;
}

__device__ static inline void add_pair(float *h, uint32_t pair) { h[0] += low_bf16(pair), h[1] += high_bf16(pair); }

/* One block a row, eight neighbouring values a thread. */
__global__ void __launch_bounds__(1024) add_norm_kernel(float *h, const bf16 *delta, const float *level, const struct drow *rows, const float *weight, struct row_input to, int n,
                                                        float eps) {
    __shared__ float shared[32];
    let_next_start();
    int k = threadIdx.x * 8;
    bool there = k < n;
    __align__(16) float w[8] = {};
    if (there) *(float4 *)w = *(const float4 *)(weight + k), *(float4 *)(w + 4) = *(const float4 *)(weight + k + 4);
    wait_for_input();
    int64_t row = blockIdx.x, at = row * n + k;
    int visual = level ? rows[row].visual : -1;
    __align__(16) float v[8] = {};
    float sum = 0;
    if (there) {
        *(float4 *)v = *(const float4 *)(h + at), *(float4 *)(v + 4) = *(const float4 *)(h + at + 4);
        if (delta) {
            uint4 d = *(const uint4 *)(delta + at);
            add_pair(v, d.x), add_pair(v + 2, d.y), add_pair(v + 4, d.z), add_pair(v + 6, d.w);
            for (int i = 0; i < 8 && visual >= 0; i++) v[i] += level[(int64_t)visual * n + k + i];
            *(float4 *)(h + at) = *(float4 *)v, *(float4 *)(h + at + 4) = *(float4 *)(v + 4);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) sum += v[i] * v[i];
    }
    float f = rsqrtf(block_sum(sum, shared) / n + eps);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = w[i] * (v[i] * f);
    put_eight(to, row, n, k, there, v);
}

/* The same for any n, without quantisation. */
__global__ void add_norm_any(float *h, const bf16 *delta, const float *level, const struct drow *rows, const float *weight, bf16 *x, int n, float eps) {
    __shared__ float shared[32];
    wait_for_input();
    int64_t row = blockIdx.x, at = row * n;
    int visual = level ? rows[row].visual : -1;
    float sum = 0;
    for (int k = threadIdx.x; k < n; k += blockDim.x) {
        float v = h[at + k];
        if (delta) v += __bfloat162float(delta[at + k]) + (visual >= 0 ? level[(int64_t)visual * n + k] : 0), h[at + k] = v;
        sum += v * v;
    }
    float f = rsqrtf(block_sum(sum, shared) / n + eps);
    for (int k = threadIdx.x; k < n; k += blockDim.x) x[at + k] = __float2bfloat16_rn(weight[k] * (h[at + k] * f));
}

void add_norm_rows(struct backend_model *m, float *h, const bf16 *delta, const float *level, const struct drow *which, const float *weight, const struct row_input *to, int rows,
                   int n) {
    if (!rows) return;
    float eps = m->w.config.text.rms_eps;
    if (n % 8 == 0 && n <= 8192) launch(m, add_norm_kernel, dim3((unsigned)rows), dim3((unsigned)(n / 8 + 31) / 32 * 32), 0, h, delta, level, which, weight, *to, n, eps);
    else launch(m, add_norm_any, dim3((unsigned)rows), dim3(256), 0, h, delta, level, which, weight, to->x, n, eps);
}

/* gate_up (rows, 2n): silu of the first half times the second. A thread makes eight values. */
__global__ void __launch_bounds__(256) silu_kernel(const bf16 *gate_up, struct row_input to, int rows, int n) {
    let_next_start();
    wait_for_input();
    int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = item / (n / 8);
    int k = (int)(item % (n / 8)) * 8;
    bool there = row < rows;
    float v[8] = {};
    if (there) {
        const bf16 *from = gate_up + row * 2 * n + k;
        uint4 g = *(const uint4 *)from, u = *(const uint4 *)(from + n);
        const uint32_t gate[4] = {g.x, g.y, g.z, g.w}, up[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
        for (int i = 0; i < 4; i++) v[2 * i] = silu(low_bf16(gate[i])) * low_bf16(up[i]), v[2 * i + 1] = silu(high_bf16(gate[i])) * high_bf16(up[i]);
    }
    put_eight(to, row, n, k, there, v);
}
__global__ void silu_any(const bf16 *gate_up, bf16 *x, int rows, int n) {
    wait_for_input();
    int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = item / n, k = item % n;
    if (row < rows) x[item] = __float2bfloat16_rn(silu(__bfloat162float(gate_up[row * 2 * n + k])) * __bfloat162float(gate_up[row * 2 * n + n + k]));
}
void silu_rows(struct backend_model *m, const bf16 *gate_up, const struct row_input *to, int rows, int n) {
    int64_t count = (int64_t)rows * n;
    if (n % 8 == 0) launch(m, silu_kernel, dim3((unsigned)((count / 8 + 255) / 256)), dim3(256), 0, gate_up, *to, rows, n);
    else launch(m, silu_any, dim3((unsigned)((count + 255) / 256)), dim3(256), 0, gate_up, to->x, rows, n);
}

__global__ void __launch_bounds__(256) quantise_eights(const bf16 *x, struct row_input to, int rows, int n) {
    let_next_start();
    wait_for_input();
    int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = item / (n / 8);
    int k = (int)(item % (n / 8)) * 8;
    bool there = row < rows;
    float v[8] = {};
    if (there) {
        uint4 d = *(const uint4 *)(x + item * 8);
        add_pair(v, d.x), add_pair(v + 2, d.y), add_pair(v + 4, d.z), add_pair(v + 6, d.w);
    }
    put_eight(to, row, n, k, there, v);
}
void quantise_eight_rows(struct backend_model *m, const bf16 *x, const struct row_input *to, int rows, int n) {
    launch(m, quantise_eights, dim3((unsigned)(((int64_t)rows * n / 8 + 255) / 256)), dim3(256), 0, x, *to, rows, n);
}

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
