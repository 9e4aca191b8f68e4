/* The vision tower's products and norms on Hopper: what is between two products costs as much as the products when a picture has few rows,
 * so it is done in their epilogues.
 *
 * A block makes 128 rows x N outputs (N of 64, 128, 176: as fills the device best) of a product, perhaps of a part of its inputs; a warp brings
 * tiles of 64 inputs, two warpgroups multiply (warpgroup.h). The weights' first tiles are asked for before the kernel in front has ended. Up to
 * four blocks of the same rows are a cluster: each brings a part of the rows' tile for all. Products into the residual stream leave fp32 parts,
 * one for each split of the inputs; add_norm adds them up in a fixed order and makes the norm that follows.
 *
 * The arithmetic, 600 patches, one block of the 2B tower: 15.1 GFLOP are 16 us at the chip's 950 TFLOP/s; tiles of 128 x N leave 18 to 20.
 * Its 25 MB of weights take 8 us. Tiles of 128 x 128 without clusters would ask for 64 bytes a cycle and multiprocessor of the second-level
 * cache, which gives about 25 to 35; clusters of four ask for 40. */
#include "backend/cuda/unpack.h"

#ifdef CUDA_EMULATION

bool tower_warpgroup_fit(struct backend_model *) { return false; }
int tower_product(struct backend_model *, const struct dlinear *, const bf16 *, int, int, void *, const float *, const struct dlinear *) { return 0; }
void tower_add_norm(struct backend_model *, float *, const float *, int, const float *, const float *, const float *, bf16 *, int, int, bool) {}
void tower_gelu_parts(struct backend_model *, const float *, int, const float *, bf16 *, int, int) {}

#else

#include "backend/cuda/warpgroup.h"

enum { ROWS = 128, STEP = 64, THREADS = 288, MOST_SPLITS_K = 3, SLICE = 32 /* rows that are brought at once */ };
template <int N> struct tiles {
    enum { STAGES = N == 64 ? 4 : N == 128 ? 6 : 5, BLOCKS = N == 64 ? 2 : 1 /* of a multiprocessor */ };
    bf16 x[STAGES][ROWS][STEP], w[STAGES][N][STEP];
    uint64_t full[STAGES], empty[STAGES];
};

struct product_args {
    const float *bias, *rotary; /* rotary (rows, 64): for OUT_HEADS */
    void *y;                    /* (rows, out); fp32 parts (splits, rows, out) for OUT_PARTS */
    const char *ahead;          /* weights of a later product, on their way into the second-level cache */
    int64_t ahead_bytes;        /* a multiple of 16 */
    int rows, out, steps, how, cluster;
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* One thread. */
template <int N>
__device__ static void bring(const struct product_args &a, struct tiles<N> *s, const CUtensorMap *x, const CUtensorMap *w, int begin, int end) {
    enum { STAGES = tiles<N>::STAGES, BYTES = sizeof s->x[0] + sizeof s->w[0] };
    int row = blockIdx.y * ROWS, out = blockIdx.x * N, ahead = end - begin < STAGES ? end - begin : STAGES, rank = a.cluster > 1 ? cluster_rank() : 0;
    auto bring_w = [&](int i) {
        barrier_expect(&s->full[i % STAGES], BYTES);
        tile_load_2d(s->w[i % STAGES], w, &s->full[i % STAGES], (begin + i) * STEP, out);
    };
    auto bring_x = [&](int i) {
        for (int slice = rank; slice < ROWS / SLICE; slice += a.cluster) {
            bf16 *to = s->x[i % STAGES][slice * SLICE];
            if (a.cluster > 1) tile_load_2d_many(to, x, &s->full[i % STAGES], (begin + i) * STEP, row + slice * SLICE, (1 << a.cluster) - 1);
            else tile_load_2d(to, x, &s->full[i % STAGES], (begin + i) * STEP, row + slice * SLICE);
        }
    };
    for (int i = 0; i < ahead; i++) bring_w(i);
    wait_for_input();
    for (int i = 0; i < ahead; i++) bring_x(i);
    for (int i = ahead; i < end - begin; i++) {
        barrier_wait(&s->empty[i % STAGES], i / STAGES % 2 ^ 1);
        bring_w(i);
        bring_x(i);
    }
}

template <int N>
__device__ static inline void multiply(float (&d)[N / 2], struct tiles<N> *s, int group, int count, int cluster) {
    enum { STAGES = tiles<N>::STAGES };
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < N / 2; i++) d[i] = 0;
    auto leave = [&](int i) { /* to every block that brings something into this place */
        if (i + STAGES >= count || lane >= cluster) return;
        if (cluster > 1) cluster_arrive(&s->empty[i % STAGES], lane);
        else barrier_arrive(&s->empty[i % STAGES]);
    };
    for (int i = 0; i < count; i++) {
        int stage = i % STAGES;
        barrier_wait(&s->full[stage], i / STAGES % 2);
        uint64_t x = tile_descriptor(s->x[stage][group * 64], 16, 1024), w = tile_descriptor(s->w[stage], 16, 1024);
        warpgroup_hold(d);
        warpgroup_begin();
#pragma unroll
        for (int c = 0; c < STEP / 16; c++) warpgroup_product_k<true>(d, tile_behind(x, c * 32), tile_behind(w, c * 32));
        warpgroup_commit();
        warpgroup_wait<1>();
        if (i > 0) leave(i - 1);
    }
    warpgroup_wait<0>();
    warpgroup_hold(d);
}

/* A warp: this block's share of what a later product reads, in pieces that the accelerator asks for by itself. */
__device__ static inline void bring_ahead(const struct product_args &a) {
    enum { PIECE = 4096 };
    int64_t blocks = (int64_t)gridDim.x * gridDim.y * gridDim.z, block = ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    for (int64_t at = (block * 31 + threadIdx.x % 32 - 1) * PIECE; at < a.ahead_bytes; at += blocks * 31 * PIECE)
        prefetch_piece(a.ahead + at, (int)(a.ahead_bytes - at < PIECE ? a.ahead_bytes - at : PIECE));
}

/* x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): gelu_tanh without tanhf. */
__device__ static inline float gelu_tanh_fast(float x) { return __fdividef(x, 1 + exp2_fast(-2.302208198f * (x + 0.044715f * x * x * x))); }

template <int N>
__device__ static inline void put(const struct product_args &a, struct tiles<N> *s, float (&d)[N / 2], int row, int out0) {
    int t = threadIdx.x % 4;
    if (a.how == OUT_PARTS) {
        float *y = (float *)a.y + (int64_t)blockIdx.z * a.rows * a.out;
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int j = 0; j < N / 8; j++) {
                int o = out0 + 8 * j + 2 * t;
                if (row + 8 * r < a.rows && o < a.out) *(float2 *)(y + (int64_t)(row + 8 * r) * a.out + o) = make_float2(d[4 * j + 2 * r], d[4 * j + 2 * r + 1]);
            }
        return;
    }
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        int o = out0 + 8 * j + 2 * t;
        float2 b = o < a.out ? *(const float2 *)(a.bias + o) : make_float2(0, 0);
        d[4 * j] += b.x, d[4 * j + 1] += b.y, d[4 * j + 2] += b.x, d[4 * j + 3] += b.y;
    }
    if (a.how == OUT_HEADS && N % 64 == 0) { /* heads of 64: value i and i + 32 are the same thread's */
#pragma unroll
        for (int head = 0; head < N / 64; head++) {
            if (out0 + head * 64 >= a.out / 3 * 2) continue; /* values are not rotated */
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int own = row + 8 * r < a.rows ? row + 8 * r : 0;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float *at = a.rotary + own * 64 + 8 * j + 2 * t;
                    float2 c = *(const float2 *)at, s = *(const float2 *)(at + 32);
                    float *lo = &d[head * 32 + 4 * j + 2 * r], *hi = &d[head * 32 + 4 * (j + 4) + 2 * r], l0 = lo[0], l1 = lo[1];
                    lo[0] = l0 * c.x - hi[0] * s.x, hi[0] = hi[0] * c.x + l0 * s.x;
                    lo[1] = l1 * c.y - hi[1] * s.y, hi[1] = hi[1] * c.y + l1 * s.y;
                }
            }
        }
    } else if (a.how == OUT_GELU_TANH) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) d[i] = gelu_tanh_fast(d[i]);
    } else if (a.how == OUT_GELU_ERF) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) d[i] = gelu_erf(d[i]);
    }
    if (a.how == OUT_F32) {
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int j = 0; j < N / 8; j++) {
                int o = out0 + 8 * j + 2 * t;
                if (row + 8 * r < a.rows && o < a.out) *(float2 *)((float *)a.y + (int64_t)(row + 8 * r) * a.out + o) = make_float2(d[4 * j + 2 * r], d[4 * j + 2 * r + 1]);
            }
        return;
    }
    /* bf16: a warp's 16 rows by way of shared memory, so that whole sectors are written. The tiles there have been read by now. */
    enum { PITCH = N + 8 };
    bf16 *mine = (bf16 *)s + (int64_t)(threadIdx.x / 32) * 16 * PITCH;
    int lane = threadIdx.x % 32, first = row - lane / 4;
    turn_wait(1, 256);
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int j = 0; j < N / 8; j++) *(uint32_t *)&mine[(lane / 4 + 8 * r) * PITCH + 8 * j + 2 * t] = pack_bf16(d[4 * j + 2 * r], d[4 * j + 2 * r + 1]);
    __syncwarp();
#pragma unroll
    for (int i = lane; i < 16 * (N / 8); i += 32) {
        int r = i / (N / 8), o = i % (N / 8) * 8;
        if (first + r < a.rows && out0 + o < a.out) *(uint4 *)((bf16 *)a.y + (int64_t)(first + r) * a.out + out0 + o) = *(const uint4 *)&mine[r * PITCH + o];
    }
}

#endif

template <int N>
__global__ void __launch_bounds__(THREADS, tiles<N>::BLOCKS) tower_product_kernel(const struct product_args a, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    DYNAMIC_SHARED(memory);
    struct tiles<N> *s = (struct tiles<N> *)(memory + (-shared_address(memory) & 1023));
    int warp = threadIdx.x / 32, begin = a.steps * blockIdx.z / gridDim.z, end = a.steps * (blockIdx.z + 1) / gridDim.z;
    let_next_start();
    if (threadIdx.x == 0) {
        tile_prefetch_map(&x);
        tile_prefetch_map(&w);
        for (int i = 0; i < tiles<N>::STAGES; i++) barrier_init(&s->full[i], 1), barrier_init(&s->empty[i], 8 * a.cluster);
        barrier_init_done();
    }
    __syncthreads();
    if (a.cluster > 1) cluster_meet();
    if (warp == 8) {
        if (threadIdx.x % 32 == 0) bring(a, s, &x, &w, begin, end);
        else bring_ahead(a);
        __syncwarp();
    } else {
        float d[N / 2];
        multiply<N>(d, s, warp / 4, end - begin, a.cluster);
        wait_for_input();
        put<N>(a, s, d, blockIdx.y * ROWS + warp * 16 + threadIdx.x % 32 / 4, blockIdx.x * N);
    }
    if (a.cluster > 1) cluster_meet(); /* nobody leaves while tiles of its are under way to others */
#endif
}

/* A block of 128 threads makes a row of n <= 4,096 values, a multiple of 4: h [+]= bias + the parts' sum, unless there is no bias; then the norm of
 * it, if wanted. */
__global__ void __launch_bounds__(128) add_norm_kernel(float *h, const float *parts, int count, const float *bias, const float *weight, const float *norm_bias, bf16 *x, int rows, int n,
                                                       int fresh) {
    __shared__ float shared[2][4];
    let_next_start();
    wait_for_input();
    int64_t row = blockIdx.x;
    float4 v[8];
    float sum = 0, square = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int at = (threadIdx.x + i * 128) * 4;
        v[i] = make_float4(0, 0, 0, 0);
        if (at >= n) continue;
        float4 b = bias ? *(const float4 *)(bias + at) : make_float4(0, 0, 0, 0);
        if (!fresh) v[i] = *(const float4 *)(h + row * n + at);
        float4 p[MOST_SPLITS_K];
#pragma unroll
        for (int s = 0; s < MOST_SPLITS_K; s++) p[s] = s < count ? *(const float4 *)(parts + (s * (int64_t)rows + row) * n + at) : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int s = 0; s < MOST_SPLITS_K; s++) b.x += p[s].x, b.y += p[s].y, b.z += p[s].z, b.w += p[s].w;
        v[i].x += b.x, v[i].y += b.y, v[i].z += b.z, v[i].w += b.w;
        if (bias) *(float4 *)(h + row * n + at) = v[i];
        sum += v[i].x + v[i].y + v[i].z + v[i].w;
    }
    if (!x) return;
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) shared[0][threadIdx.x / 32] = sum;
    __syncthreads();
    float mean = (shared[0][0] + shared[0][1] + shared[0][2] + shared[0][3]) / (float)n;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if ((threadIdx.x + i * 128) * 4 >= n) continue;
        v[i].x -= mean, v[i].y -= mean, v[i].z -= mean, v[i].w -= mean;
        square += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
    }
    for (int d = 16; d; d /= 2) square += __shfl_xor_sync(~0u, square, d);
    if (threadIdx.x % 32 == 0) shared[1][threadIdx.x / 32] = square;
    __syncthreads();
    float f = rsqrtf((shared[1][0] + shared[1][1] + shared[1][2] + shared[1][3]) / (float)n + 1e-6f);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int at = (threadIdx.x + i * 128) * 4;
        if (at >= n) continue;
        float4 w = *(const float4 *)(weight + at), b = *(const float4 *)(norm_bias + at);
        *(uint2 *)(x + row * n + at) = make_uint2(pack_bf16(v[i].x * f * w.x + b.x, v[i].y * f * w.y + b.y), pack_bf16(v[i].z * f * w.z + b.z, v[i].w * f * w.w + b.w));
    }
}

void tower_add_norm(struct backend_model *m, float *h, const float *parts, int count, const float *bias, const float *weight, const float *norm_bias, bf16 *x, int rows, int n, bool fresh) {
    launch(m, add_norm_kernel, dim3((unsigned)rows), dim3(128), 0, h, parts, count, bias, weight, norm_bias, x, rows, n, (int)fresh);
}

/* y (rows, n) bf16 = gelu_erf(bias + the parts' sum); four values a thread. */
__global__ void gelu_parts_kernel(const float *parts, int count, const float *bias, bf16 *y, int64_t all, int n) {
    let_next_start();
    wait_for_input();
    int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at >= all) return;
    float4 v = *(const float4 *)(bias + at % n), p[MOST_SPLITS_K];
#pragma unroll
    for (int s = 0; s < MOST_SPLITS_K; s++) p[s] = s < count ? *(const float4 *)(parts + s * all + at) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int s = 0; s < MOST_SPLITS_K; s++) v.x += p[s].x, v.y += p[s].y, v.z += p[s].z, v.w += p[s].w;
    *(uint2 *)(y + at) = make_uint2(pack_bf16(gelu_erf(v.x), gelu_erf(v.y)), pack_bf16(gelu_erf(v.z), gelu_erf(v.w)));
}

void tower_gelu_parts(struct backend_model *m, const float *parts, int count, const float *bias, bf16 *y, int rows, int n) {
    int64_t all = (int64_t)rows * n;
    launch(m, gelu_parts_kernel, dim3((unsigned)((all / 4 + 255) / 256)), dim3(256), 0, parts, count, bias, y, all, n);
}

/* ---- host ---- */

static bool fits(const struct dlinear *w) { return w->storage == STORAGE_BF16 && w->bias && w->in % 8 == 0 && w->out % 8 == 0 && (uintptr_t)w->data % 16 == 0; }
static bool merger_fits(const struct dmerger *g) { return fits(&g->fc1) && fits(&g->fc2); }

bool tower_warpgroup_fit(struct backend_model *m) {
    const struct vision_config *v = &m->w.config.vision;
    if (m->arch != 90 || v->hidden > 4096 || v->out_hidden > 4096 || !fits(&m->patch_embed) || !merger_fits(&m->merger) || !tile_encoder(&m->encode_map)) return false;
    for (int i = 0; i < v->deepstack_count; i++)
        if (!merger_fits(&m->deepstack[i])) return false;
    for (int i = 0; i < v->depth; i++) {
        const struct dblock *b = &m->blocks[i];
        if (!fits(&b->qkv) || !fits(&b->proj) || !fits(&b->fc1) || !fits(&b->fc2)) return false;
    }
    return true;
}

static int blocks_across(const struct dlinear *w, const struct product_cut *c) { return ((w->out + c->n - 1) / c->n + c->cluster - 1) / c->cluster * c->cluster; }

/* Cycles, fitted to what was measured (bench/LOG.md): a step takes what its products take, or the latency of a tile over those under way; blocks
 * beyond the first wave share or follow; parts are written and read. */
static double cycles(const struct backend_model *m, int rows, const struct dlinear *w, const struct product_cut *c) {
    double steps = ((w->in + STEP - 1) / STEP + c->splits - 1) / c->splits, stages = c->n == 64 ? 4 : c->n == 128 ? 6 : 5;
    int blocks = (rows + ROWS - 1) / ROWS * blocks_across(w, c) * c->splits, at_once = m->sm_count - m->sm_count % (c->cluster * c->cluster);
    int waves = (blocks + at_once - 1) / at_once, together = c->n == 64 && waves > 1 ? 2 : 1;
    double product = 4.0 * c->n * together, latency = 2400 / (stages - 1), step = product > latency ? product : latency;
    double tiles = blocks * steps * (16384.0 / c->cluster + c->n * 128) / (m->sm_count * 28.0), all = (double)((waves + together - 1) / together) * steps * step;
    return (all > tiles ? all : tiles) + c->splits * 4.0 * rows * w->out / (m->sm_count * 28.0);
}

template <int N>
static bool start(struct backend_model *m, const struct product_args *a, const struct dlinear *w, const bf16 *x, const struct product_cut *c) {
    CUtensorMap x_map, w_map;
    const cuuint64_t x_size[2] = {(cuuint64_t)w->in, (cuuint64_t)a->rows}, w_size[2] = {(cuuint64_t)w->in, (cuuint64_t)w->out}, stride[1] = {(cuuint64_t)w->in * 2};
    const cuuint32_t x_box[2] = {STEP, SLICE}, w_box[2] = {STEP, N};
    if (!tile_map(m->encode_map, &x_map, x, 2, x_size, stride, x_box) || !tile_map(m->encode_map, &w_map, w->data, 2, w_size, stride, w_box)) return false;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute how[2];
    config.gridDim = dim3((unsigned)blocks_across(w, c), (unsigned)(a->rows + ROWS - 1) / ROWS, (unsigned)c->splits), config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = sizeof(struct tiles<N>) + 1024, config.stream = m->stream, config.attrs = how, config.numAttrs = 2;
    how[0].id = cudaLaunchAttributeProgrammaticStreamSerialization, how[0].val.programmaticStreamSerializationAllowed = 1;
    how[1].id = cudaLaunchAttributeClusterDimension, how[1].val.clusterDim.x = (unsigned)c->cluster, how[1].val.clusterDim.y = how[1].val.clusterDim.z = 1;
    cudaFuncSetAttribute(tower_product_kernel<N>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)config.dynamicSmemBytes);
    return cudaLaunchKernelEx(&config, tower_product_kernel<N>, *a, x_map, w_map) == cudaSuccess;
}

struct product_cut tower_product_cut(const struct backend_model *m, const struct dlinear *w, int rows, int how) {
    struct product_cut best = {64, 1, 1};
    for (int n : {64, 128, 176})
        for (int splits = 1; splits <= (how == OUT_PARTS ? MOST_SPLITS_K : 1) && splits <= (w->in + STEP - 1) / STEP; splits++)
            for (int cluster : {4, 2, 1}) { /* of equals the largest */
                struct product_cut c = {n, splits, cluster};
                if (!(how == OUT_HEADS && n % 64) && cycles(m, rows, w, &c) < cycles(m, rows, w, &best)) best = c;
            }
    return best;
}

bool tower_product_run(struct backend_model *m, const struct dlinear *w, const bf16 *x, int rows, int how, void *y, const float *rotary, const struct dlinear *ahead,
                       const struct product_cut *c) {
    struct product_args a = {w->bias, rotary, y, NULL, 0, rows, w->out, (w->in + STEP - 1) / STEP, how, c->cluster};
    if (ahead) a.ahead = (const char *)ahead->data, a.ahead_bytes = (int64_t)ahead->out * ahead->in * 2;
    return c->n == 64 ? start<64>(m, &a, w, x, c) : c->n == 128 ? start<128>(m, &a, w, x, c) : start<176>(m, &a, w, x, c);
}

int tower_product(struct backend_model *m, const struct dlinear *w, const bf16 *x, int rows, int how, void *y, const float *rotary, const struct dlinear *ahead) {
    struct product_cut c = tower_product_cut(m, w, rows, how);
    return tower_product_run(m, w, x, rows, how, y, rotary, ahead, &c) ? c.splits : 0;
}

#endif
