/* The vision tower's attention: full, inside each temporal group, on the tensor cores (online softmax, blocks of 64 queries, 32 keys at a
 * time). First the rows are rotated, rounded to bf16 and padded to a head size that the kernel is made for. On Hopper heads of 64 come
 * rotated from the product before, and go to a kernel of their own (FlashAttention-3's parts, attend_warpgroup.cu). */
#include "backend/cuda/room.h"

enum { QUERIES = 64, KEYS = 32, PAD = 8 };

/* qkv (rows, 3, heads, d) fp32 -> (3, rows, heads, padded) bf16, q and k rotated (facts §4.4). A block takes a row. */
__global__ void turn_kernel(const float *qkv, const float *rotary, int64_t rows, int heads, int d, int padded, bf16 *out) {
    let_next_start();
    wait_for_input();
    int64_t row = blockIdx.x;
    const float *c = rotary + row * d, *s = c + d / 2, *from = qkv + row * 3 * heads * d;
    for (int e = threadIdx.x; e < 3 * heads * padded; e += blockDim.x) {
        int i = e % padded, head = e / padded % heads, which = e / padded / heads;
        const float *x = from + (which * heads + head) * d;
        float v = 0;
        if (i < d) v = which == 2 ? x[i] : i < d / 2 ? x[i] * c[i] - x[i + d / 2] * s[i] : x[i] * c[i - d / 2] + x[i - d / 2] * s[i - d / 2];
        out[((which * rows + row) * heads + head) * padded + i] = __float2bfloat16_rn(v);
    }
}

template <int D> struct tower_tile {
    bf16 k[KEYS][D + PAD], v[KEYS][D + PAD];
};

/* Where queries, keys and values lie: strides in values of a row and a head, how far keys and values lie behind the queries. */
struct layout {
    int64_t row, keys, values;
    int head;
};

/* Block: 64 queries of one head of one group; a warp 16 of them. */
template <int D>
__global__ void __launch_bounds__(128) tower_kernel(const bf16 *turned, const struct layout at, const struct pictures p, int heads, int d, float scale, bf16 *out) {
    __shared__ __align__(128) struct tower_tile<D> tile[2]; /* one is filled while the other is read */
    let_next_start();
    int head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, first = blockIdx.x * QUERIES + warp * 16, own = p.count - 1;
    while (own > 0 && p.at[own].group > (int)blockIdx.z) own--;
    int n = p.at[own].h * p.at[own].w;
    if ((int)blockIdx.x * QUERIES >= n) return;
    int64_t base = p.at[own].row + ((int64_t)blockIdx.z - p.at[own].group) * n, stride = at.row;
    const bf16 *queries = turned + base * stride + head * at.head, *keys = queries + at.keys, *values = queries + at.values;
    wait_for_input();
    auto fill = [&](struct tower_tile<D> *to, int key) {
        for (int i = threadIdx.x; i < KEYS * D / 8; i += blockDim.x) {
            int row = i / (D / 8), column = i % (D / 8) * 8;
            int64_t from = (key + row < n ? key + row : n - 1) * stride + column; /* behind the end: anything finite */
            copy_async_16(&to->k[row][column], keys + from);
            copy_async_16(&to->v[row][column], values + from);
        }
        copy_async_commit();
    };
    fill(&tile[0], 0);
    uint32_t q[D / 16][4];
#pragma unroll
    for (int c = 0; c < D / 16; c++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = first + g + e % 2 * 8;
            q[c][e] = row < n ? *(const uint32_t *)(queries + row * stride + c * 16 + t * 2 + e / 2 * 8) : 0;
        }
    float o[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
    int tiles = (n + KEYS - 1) / KEYS;
    for (int i = 0; i < tiles; i++) {
        if (i + 1 < tiles) {
            fill(&tile[(i + 1) % 2], (i + 1) * KEYS);
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        const struct tower_tile<D> *now = &tile[i % 2];
        float s[KEYS / 8][4] = {};
#pragma unroll
        for (int c = 0; c < D / 16; c++)
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                uint32_t b[4];
                load_matrices(b, &now->k[j * 16 + lane % 8 + lane / 16 * 8][c * 16 + lane / 8 % 2 * 8]);
                mma_bf16(s[2 * j], q[c], b[0], b[1]);
                mma_bf16(s[2 * j + 1], q[c], b[2], b[3]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = most[r], sum = 0;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float *x = &s[j][r * 2 + e];
                    *x = i * KEYS + j * 8 + t * 2 + e < n ? *x * scale : -INFINITY;
                    top = fmaxf(top, *x);
                }
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            float keep = exp2f(most[r] - top);
            most[r] = top;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) sum += s[j][r * 2 + e] = exp2f(s[j][r * 2 + e] - top);
            total[r] = total[r] * keep + sum;
#pragma unroll
            for (int c = 0; c < D / 8; c++) o[c][r * 2] *= keep, o[c][r * 2 + 1] *= keep;
        }
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            const uint32_t p[4] = {pack_bf16(s[2 * j][0], s[2 * j][1]), pack_bf16(s[2 * j][2], s[2 * j][3]), pack_bf16(s[2 * j + 1][0], s[2 * j + 1][1]),
                                   pack_bf16(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                uint32_t b[4];
                load_matrices_turned(b, &now->v[j * 16 + lane % 16][c * 16 + lane / 16 * 8]);
                mma_bf16(o[2 * c], p, b[0], b[1]);
                mma_bf16(o[2 * c + 1], p, b[2], b[3]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] += __shfl_xor_sync(~0u, total[r], 1);
        total[r] += __shfl_xor_sync(~0u, total[r], 2);
        int row = first + g + r * 8;
        if (row >= n) continue;
        float f = 1 / total[r];
#pragma unroll
        for (int c = 0; c < D / 8; c++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (c * 8 + t * 2 + e < d) out[((base + row) * heads + head) * d + c * 8 + t * 2 + e] = __float2bfloat16_rn(o[c][r * 2 + e] * f);
    }
}

/* Of one group. */
static int most_rows(const struct pictures *p) {
    int most = 0;
    for (int i = 0; i < p->count; i++) most = p->at[i].h * p->at[i].w > most ? p->at[i].h * p->at[i].w : most;
    return most;
}

/* ---- Hopper: heads of 64 ---- */

#ifdef CUDA_EMULATION
static bool run_warpgroup(struct backend_model *, const bf16 *, const struct pictures *, int, bf16 *) { return false; }
#else
#include "backend/cuda/warpgroup_softmax.h"

enum { HEAD = 64, TILE = 128, HALVES = 2 };
struct head_tiles {
    bf16 q[QUERIES][HEAD];
    struct {
        bf16 k[TILE][HEAD], v[TILE][HEAD];
    } tile[HALVES];
    uint64_t q_full, k_full[HALVES], v_full[HALVES];
};

/* Block: 64 queries of one head of one group; two warpgroups, each every other tile of 128 keys, so that one multiplies while the other weighs; the
 * next tile is on its way as soon as its place has been read. What they have is added up at the end. qkv (rows, 3, heads, 64) is read by the
 * tensor memory accelerator in boxes of 64 rows. */
__global__ void __launch_bounds__(256, 2) tower_warpgroup_kernel(const __grid_constant__ CUtensorMap qkv, const struct pictures p, int heads, float scale, bf16 *out) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    DYNAMIC_SHARED(memory);
    struct head_tiles *s = (struct head_tiles *)(memory + (-shared_address(memory) & 1023));
    let_next_start();
    int head = blockIdx.y, own = p.count - 1, half = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, first = blockIdx.x * QUERIES;
    while (own > 0 && p.at[own].group > (int)blockIdx.z) own--;
    int n = p.at[own].h * p.at[own].w, base = p.at[own].row + ((int)blockIdx.z - p.at[own].group) * n, tiles = (n + TILE - 1) / TILE;
    if (first >= n) return;
    auto bring = [&](bf16 (*to)[HEAD], uint64_t *full, int which, int tile) { /* behind the group's end: whatever follows, and is not looked at */
        barrier_expect(full, TILE * HEAD * 2);
        for (int row = 0; row < TILE; row += 64) tile_load_2d(to[row], &qkv, full, (which * heads + head) * HEAD, base + tile * TILE + row);
    };
    if (threadIdx.x == 0) {
        tile_prefetch_map(&qkv);
        barrier_init(&s->q_full, 1);
        for (int i = 0; i < HALVES; i++) barrier_init(&s->k_full[i], 1), barrier_init(&s->v_full[i], 1);
        barrier_init_done();
        wait_for_input();
        barrier_expect(&s->q_full, sizeof s->q);
        tile_load_2d(s->q, &qkv, &s->q_full, head * HEAD, base + first);
        for (int i = 0; i < HALVES && i < tiles; i++) bring(s->tile[i].k, &s->k_full[i], 1, i), bring(s->tile[i].v, &s->v_full[i], 2, i);
    }
    __syncthreads();
    wait_for_input();
    float scores[64], o[32], keep[2];
    uint32_t weights[32];
    struct running run = {{-INFINITY, -INFINITY}, {0, 0}};
#pragma unroll
    for (int i = 0; i < 32; i++) o[i] = 0;
    uint64_t q = tile_descriptor(s->q, 16, 1024), k = tile_descriptor(s->tile[half].k, 16, 1024), v = tile_descriptor(s->tile[half].v, 16, 1024);
    auto meet = [&]() { turn_wait(1 + half, 128); }; /* the warpgroup */
    bool brings = threadIdx.x % 128 == 0;
    barrier_wait(&s->q_full, 0);
    for (int i = half; i < tiles; i += HALVES) {
        barrier_wait(&s->k_full[half], i / HALVES % 2);
        warpgroup_begin();
        warpgroup_product_k<false>(scores, q, k);
#pragma unroll
        for (int c = 1; c < HEAD / 16; c++) warpgroup_product_k<true>(scores, tile_behind(q, c * 32), tile_behind(k, c * 32));
        warpgroup_commit();
        warpgroup_wait<0>();
        warpgroup_hold(scores);
        meet();
        if (brings && i + HALVES < tiles) bring(s->tile[half].k, &s->k_full[half], 1, i + HALVES);
        int reach = n - 1 - i * TILE;
        if (reach < TILE - 1) weigh<true>(scores, &run, keep, scale, reach, reach);
        else weigh<false>(scores, &run, keep, scale, 0, 0);
        pack_weights(scores, weights);
#pragma unroll
        for (int e = 0; e < 32; e++) o[e] *= keep[e / 2 % 2];
        barrier_wait(&s->v_full[half], i / HALVES % 2);
        if (reach < TILE - 1) { /* rows behind the end may hold anything, and nothing times infinity is not nothing */
            for (int row = reach + 1 + warp; row < TILE; row += 4) *(uint32_t *)&s->tile[half].v[row][lane * 2] = 0;
            fence_for_products();
            meet();
        }
        warpgroup_hold(o);
        warpgroup_begin();
#pragma unroll
        for (int c = 0; c < TILE / 16; c++) warpgroup_product_mn(o, weights + 4 * c, tile_behind(v, c * 16 * HEAD * 2));
        warpgroup_commit();
        warpgroup_wait<0>();
        warpgroup_hold(o);
        meet();
        if (brings && i + HALVES < tiles) bring(s->tile[half].v, &s->v_full[half], 2, i + HALVES);
    }
    float *other = (float *)&s->tile[1] + threadIdx.x % 128; /* what the second warpgroup has, a column for each thread: read by nobody else any more */
    if (half == 1) {
#pragma unroll
        for (int e = 0; e < 32; e++) other[e * 128] = o[e];
#pragma unroll
        for (int r = 0; r < 2; r++) other[(32 + r) * 128] = run.most[r], other[(34 + r) * 128] = run.total[r];
    }
    __syncthreads();
    if (half == 1) return;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most = other[(32 + r) * 128], top = fmaxf(run.most[r], most), mine = exp2_fast((run.most[r] - top) * scale), its = exp2_fast((most - top) * scale);
        run.total[r] = run.total[r] * mine + other[(34 + r) * 128] * its;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) o[4 * j + 2 * r + e] = o[4 * j + 2 * r + e] * mine + other[(4 * j + 2 * r + e) * 128] * its;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        run.total[r] += __shfl_xor_sync(~0u, run.total[r], 1);
        run.total[r] += __shfl_xor_sync(~0u, run.total[r], 2);
        int row = first + warp * 16 + lane / 4 + r * 8;
        if (row >= n) continue;
        float f = 1 / run.total[r];
        bf16 *to = out + ((int64_t)(base + row) * heads + head) * HEAD + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < 8; j++) *(uint32_t *)(to + j * 8) = pack_bf16(o[4 * j + 2 * r] * f, o[4 * j + 2 * r + 1] * f);
    }
#endif
}

static bool run_warpgroup(struct backend_model *m, const bf16 *qkv, const struct pictures *p, int heads, bf16 *out) {
    CUtensorMap map;
    const cuuint64_t size[2] = {(cuuint64_t)(3 * heads * HEAD), (cuuint64_t)p->rows}, stride[1] = {(cuuint64_t)(3 * heads * HEAD * 2)};
    const cuuint32_t box[2] = {HEAD, 64};
    if (m->arch != 90 || !tile_encoder(&m->encode_map) || !tile_map(m->encode_map, &map, qkv, 2, size, stride, box)) return false;
    launch(m, tower_warpgroup_kernel, dim3((unsigned)(most_rows(p) + QUERIES - 1) / QUERIES, (unsigned)heads, (unsigned)p->groups), dim3(256), sizeof(struct head_tiles) + 1024, map, *p,
           heads, (float)(1.4426950408889634 / 8), out);
    return true;
}
#endif

template <int D>
static void run(struct backend_model *m, const bf16 *turned, const struct layout &at, const struct pictures *p, int heads, int d, bf16 *out) {
    float scale = (float)(1.4426950408889634 / sqrt((double)d)); /* exp2 from here on */
    launch(m, tower_kernel<D>, dim3((unsigned)(most_rows(p) + QUERIES - 1) / QUERIES, (unsigned)heads, (unsigned)p->groups), dim3(128), 0, turned, at, *p, heads, d, scale, out);
}

static int padded_head(int d) { return d <= 64 ? 64 : d <= 80 ? 80 : 128; }

size_t attend_groups_bytes(int64_t rows, int heads, int d) { return (size_t)(3 * rows * heads * padded_head(d)) * 2; }

void attend_groups(struct backend_model *m, const struct pictures *p, const void *qkv, const float *rotary, int heads, int d, void *work, bf16 *out) {
    if (!work) {
        if (run_warpgroup(m, (const bf16 *)qkv, p, heads, out)) return;
        run<64>(m, (const bf16 *)qkv, {3LL * heads * d, (int64_t)heads * d, 2LL * heads * d, d}, p, heads, d, out);
        return;
    }
    bf16 *turned = (bf16 *)work;
    int padded = padded_head(d);
    int64_t all = (int64_t)p->rows * heads * padded;
    struct layout at = {(int64_t)heads * padded, all, 2 * all, padded};
    launch(m, turn_kernel, dim3((unsigned)p->rows), dim3(256), 0, (const float *)qkv, rotary, (int64_t)p->rows, heads, d, padded, turned);
    if (padded == 64) run<64>(m, turned, at, p, heads, d, out);
    else if (padded == 80) run<80>(m, turned, at, p, heads, d, out);
    else run<128>(m, turned, at, p, heads, d, out);
}
