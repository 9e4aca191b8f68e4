/* Products of 9 to 64 rows on Hopper (sm_90a): weights from registers, activations from shared memory through the warpgroup's tensor core
 * instruction, sums of split widths over distributed shared memory.
 *
 * A block makes 128 outputs (64 of each of two matrices for OUT_SILU; 64 outputs of deep matrices) over a part of the width. A warp asks for its own
 * 16 rows of the weights (cp.async, several stages ahead, from before the kernel in front has ended); a lane makes 16 columns at a time bf16
 * in registers and hands them to wgmma as A. The activations are B: 64 rows x 64 columns a tile, in memory already as shared memory wants them (tiled_place), so
 * that one bulk copy of 8 KiB brings a tile; whoever is last to let go of a stage asks for its next filling. The blocks that share an
 * output tile are one cluster: each adds a share of the outputs over all of them, in the order of the width.
 *
 * FP8: the bits of e4m3 shifted into a bf16 are the value times 2^-120; the 128 x 128 factor multiplies the fp32 sums. NF4: the 16 levels
 * and absmax are rounded to bf16 and so is their product, as the values of the dequantised matrix would be.
 *
 * Not emulated: tiled_twin takes its place there, wide.cu below sm_90; tests/test_cuda_ops runs this on the GPU. */
#include "backend/cuda/few.h"

/* How a product is cut; by its shape alone, since sums must come in the same order on each device. */
struct tiled_plan {
    int wide, pairs, splits, tiles; /* warpgroups side by side, and in turn; blocks of a tile of 64 outputs for each side by side; tiles */
};

static struct tiled_plan tiled_plan_of(const struct product *p) { /* as measured on one H100 (bench/LOG.md) */
    int64_t all = 0;
    for (int i = 0; i < p->count; i++) all += p->w[i]->out;
    if (p->out == OUT_SILU) all *= 2;
    int steps = p->w[0]->in / 128;
    struct tiled_plan t = {2, 2, 1, (int)(all / 128)};
    if (t.tiles > 264) t.pairs = 1; /* many blocks, two a multiprocessor: one works while the other begins or ends */
    else if (t.tiles > 60) t.pairs = 1, t.splits = 2;
    else if (t.tiles > 30 && t.tiles <= 33 && steps >= 32 && p->out != OUT_SILU) t.wide = 1, t.pairs = 4, t.splits = 2, t.tiles *= 2;
    else t.splits = t.tiles > 27 ? 2 : 4;
    while (t.splits > 1 && steps / t.splits < t.pairs) t.splits /= 2; /* a step at least for each warpgroup */
    return t;
}

#ifndef CUDA_EMULATION
#include "backend/cuda/warpgroup.h"

namespace {

enum { STEP = 128 };

/* Stages of a warp's weights (columns, bytes, how many) and of the activations. A block of two warpgroups leaves half of the shared memory to
 * another one. x_depth is a multiple of PAIRS, so that a stage always has the same readers. */
template <int KIND, int WIDE, int PAIRS> struct ring {
    enum { columns = KIND == STORAGE_BF16 ? 64 : 128, bytes = KIND == STORAGE_NF4 ? 1024 : 2048 };
    enum { depth = WIDE * PAIRS == 4 || KIND == STORAGE_BF16 ? 4 : 3, x_depth = PAIRS == 4 ? 4 : PAIRS == 2 ? 6 : KIND == STORAGE_FP8_BLOCK ? 4 : 3 };
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* d (64 x 8 NT) = [add: d +] a (64 x 64, registers: four fragments) b (64 x 8 NT, K-major tile). */
template <int NT> __device__ inline void product_64(float *d, const uint32_t *a, uint64_t b, int add);
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define A4(i) "r"(a[i]), "r"(a[i + 1]), "r"(a[i + 2]), "r"(a[i + 3])
#define D_16 "{%0,%1,%2,%3,%4,%5,%6,%7}"
template <> __device__ inline void product_64<2>(float *d, const uint32_t *a, uint64_t b, int add) {
    asm volatile("{.reg .pred p; .reg .b64 b; setp.ne.b32 p, %25, 0; mov.b64 b, %24;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 " D_16 ", {%8,%9,%10,%11}, b, p, 1, 1, 0; add.s64 b, b, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 " D_16 ", {%12,%13,%14,%15}, b, 1, 1, 1, 0; add.s64 b, b, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 " D_16 ", {%16,%17,%18,%19}, b, 1, 1, 1, 0; add.s64 b, b, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 " D_16 ", {%20,%21,%22,%23}, b, 1, 1, 1, 0;}"
                 : D4(0), D4(4)
                 : A4(0), A4(4), A4(8), A4(12), "l"(b), "r"(add));
}
#define D_32 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}"
template <> __device__ inline void product_64<4>(float *d, const uint32_t *a, uint64_t b, int add) {
    asm volatile("{.reg .pred p; .reg .b64 b; setp.ne.b32 p, %33, 0; mov.b64 b, %32;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " D_32 ", {%16,%17,%18,%19}, b, p, 1, 1, 0; add.s64 b, b, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " D_32 ", {%20,%21,%22,%23}, b, 1, 1, 1, 0; add.s64 b, b, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " D_32 ", {%24,%25,%26,%27}, b, 1, 1, 1, 0; add.s64 b, b, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " D_32 ", {%28,%29,%30,%31}, b, 1, 1, 1, 0;}"
                 : D4(0), D4(4), D4(8), D4(12)
                 : A4(0), A4(4), A4(8), A4(12), "l"(b), "r"(add));
}
#define D_64 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26," "%27,%28,%29,%30,%31}"
template <> __device__ inline void product_64<8>(float *d, const uint32_t *a, uint64_t b, int add) {
    asm volatile("{.reg .pred p; .reg .b64 b; setp.ne.b32 p, %49, 0; mov.b64 b, %48;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D_64 ", {%32,%33,%34,%35}, b, p, 1, 1, 0; add.s64 b, b, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D_64 ", {%36,%37,%38,%39}, b, 1, 1, 1, 0; add.s64 b, b, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D_64 ", {%40,%41,%42,%43}, b, 1, 1, 1, 0; add.s64 b, b, 2;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D_64 ", {%44,%45,%46,%47}, b, 1, 1, 1, 0;}"
                 : D4(0), D4(4), D4(8), D4(12), D4(16), D4(20), D4(24), D4(28)
                 : A4(0), A4(4), A4(8), A4(12), "l"(b), "r"(add));
}
template <int N> __device__ inline void hold(float *d) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

__device__ inline void bulk_copy(void *to, const void *from, int bytes, uint64_t *barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from), "r"(bytes),
                 "r"(shared_address(barrier))
                 : "memory");
}
__device__ inline void sums_shared() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ inline void sums_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
/* What lies at p in the shared memory of block `rank` of the cluster. */
__device__ inline float4 load_of_block(const float *p, int rank) {
    uint32_t at;
    float4 v;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared_address(p)), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(at) : "memory");
    return v;
}

__device__ inline uint32_t times(uint32_t a, uint32_t b) { /* pairs of bf16 */
    uint32_t r;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
/* The four e4m3 values of a word as bf16: of bytes 0 and 2, of bytes 1 and 3. */
__device__ inline void widen(uint32_t to[2], uint32_t v) {
    uint32_t even = (v << 8 & 0x80008000u) | (v << 4 & 0x07F007F0u), odd = (v & 0x80008000u) | (v >> 4 & 0x07F007F0u);
    to[0] = times(even, 0x7B807B80u), to[1] = times(odd, 0x7B807B80u);
}

__device__ inline uint32_t look_up(uint32_t at) {
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

__device__ inline float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

/* Columns [column, column + 4) of a row of tiled activations. */
__device__ inline void put_four(bf16 *x, int row, int column, float4 v, int tiled) {
    bool crossed = tiled == TILED_CROSSED;
    *(uint32_t *)(x + tiled_place(row, column, tiled)) = pack_bf16(v.x, crossed ? v.z : v.y);
    *(uint32_t *)(x + tiled_place(row, column + (crossed ? 1 : 2), tiled)) = pack_bf16(crossed ? v.y : v.z, v.w);
}

/* 1 / rms of each row: four threads a row. */
__device__ inline void factors_of_rows(const struct few_args &a, float *factor) {
    int row = threadIdx.x / 4, lane = threadIdx.x % 4;
    float sum = 0;
    if (row < a.rows)
#pragma unroll 8
        for (int i = lane * 4; i < a.squares_count; i += 16) {
            float4 v = *(const float4 *)(a.squares + row * MOST_SQUARES + i);
            sum += v.x + (i + 1 < a.squares_count ? v.y : 0) + (i + 2 < a.squares_count ? v.z : 0) + (i + 3 < a.squares_count ? v.w : 0);
        }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (row < a.rows && lane == 0) factor[row] = rsqrtf(sum / a.norm_n + a.eps);
}

#endif

/* Where things lie in shared memory: weights; in the gap up to the next multiple of 32 KiB what is small; there the look-up table, so that a
 * place in it is made by an OR; activations. */
enum { SMALL_BYTES = 8 * 8 + 8 * 4 + FEW_ROWS * 4 };
struct tiled_room {
    int small, gap, lut, x, end;
};
template <int KIND, int NT, int WIDE, int PAIRS> __host__ __device__ inline struct tiled_room room_of(unsigned base) {
    typedef ring<KIND, WIDE, PAIRS> R;
    struct tiled_room o = {};
    o.small = WIDE * PAIRS * 4 * R::depth * R::bytes, o.lut = o.x = (o.small + SMALL_BYTES + 1023) / 1024 * 1024;
    if (KIND == STORAGE_NF4) o.lut = (int)((base + (unsigned)(o.small + SMALL_BYTES) + LUT_WORDS * 4 - 1) / (LUT_WORDS * 4) * (LUT_WORDS * 4) - base), o.x = o.lut + LUT_WORDS * 4;
    o.gap = o.lut - o.small, o.end = o.x + R::x_depth * NT * 8 * 256;
    return o;
}

/* Two or four warpgroups: WIDE of them beside each other for 64 outputs each, PAIRS of those take the steps of the width in turn. */
template <int KIND, int NT, int WIDE, int PAIRS>
__global__ void __launch_bounds__(WIDE *PAIRS * 128, 4 / (WIDE * PAIRS)) tiled_product(const __grid_constant__ struct few_args a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef ring<KIND, WIDE, PAIRS> R;
    enum { ROWS = NT * 8, TILE_BYTES = ROWS * 128, STAGE_BYTES = 2 * TILE_BYTES, N = NT * 4, OUT = WIDE * 64, LDS = OUT + 4, ACROSS = WIDE * 4, WARPS = ACROSS * PAIRS, ALL = WARPS * 32 };
    extern __shared__ __align__(1024) char shared[];
    struct tiled_room o = room_of<KIND, NT, WIDE, PAIRS>(shared_address(shared));
    char *weights = shared, *xs = shared + o.x;                   /* (warps, depth, bytes); (x_depth, 2 tiles) */
    uint32_t *lut = (uint32_t *)(shared + o.lut);
    uint64_t *full = (uint64_t *)(shared + o.small);
    unsigned *let_go = (unsigned *)(full + 8);                    /* (x_depth) by how many warps */
    float *factor = (float *)(let_go + 8);
    let_next_start();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, across = warp % ACROSS, pair = warp / ACROSS;
    bool gated = a.out == OUT_SILU;
    int split = blockIdx.x, tile = blockIdx.y, at = 0, which = 0, outs = gated ? OUT / 2 : OUT;
    if (!gated)
        for (; which + 1 < a.count && tile * OUT >= a.w[which].out; which++) tile -= a.w[which].out / OUT, at += a.w[which].out;
    const struct dlinear &w = a.w[which], &mine = gated && across >= ACROSS / 2 ? a.up : w;
    int first = tile * outs + (gated ? across % (ACROSS / 2) : across) * 16;
    int steps = w.in / STEP, k0 = split * steps / a.splits, n = (split + 1) * steps / a.splits - k0, own_steps = (n - pair + PAIRS - 1) / PAIRS;
    size_t row_bytes = (size_t)w.in * 16 / kind<KIND>::values;
    enum { STEP_BYTES = STEP * 16 / kind<KIND>::values, STAGES_A_STEP = STEP / R::columns };
    const char *from = (const char *)mine.data + first * row_bytes + (size_t)k0 * STEP_BYTES;
    char *own_ring = weights + warp * R::depth * R::bytes;
    auto place = [&](int row, int chunk) { /* so that lanes which read together read from different banks */
        return KIND == STORAGE_NF4 ? row * 4 + (chunk ^ (row >> 1 & 1) * 2) : row * 8 + (chunk ^ (row & 1) * (KIND == STORAGE_BF16 ? 1 : 4));
    };
    auto fetch = [&](int slot, int stage) { /* of this warp's own */
        uint4 *to = (uint4 *)(own_ring + slot * R::bytes);
        const char *of = from + (stage / STAGES_A_STEP * PAIRS + pair) * STEP_BYTES + stage % STAGES_A_STEP * 128;
        if (KIND == STORAGE_NF4) {
#pragma unroll
            for (int u = 0; u < 2; u++) copy_async_16(to + place(g + u * 8, t), of + (g + u * 8) * row_bytes + t * 16);
        } else {
#pragma unroll
            for (int u = 0; u < 4; u++) /* eight lanes bring the 128 bytes of a row */
                copy_async_16(to + place(u * 4 + lane / 8, lane % 8), of + (u * 4 + lane / 8) * row_bytes + lane % 8 * 16);
        }
    };
    int stages = own_steps * STAGES_A_STEP;
#pragma unroll
    for (int s = 0; s < R::depth; s++) {
        if (s < stages) fetch(s, s);
        copy_async_commit();
    }
    int own = n * 2 + 2, in_gap = (o.gap - SMALL_BYTES) / (own * 2);
    auto absmax_of = [&](int row) { /* NF4: as bf16, (OUT, own): in the gap in front of the look-up table, the rest behind all */
        return (uint16_t *)(row < in_gap ? shared + o.small + SMALL_BYTES + row * own * 2 : shared + o.end + (row - in_gap) * own * 2);
    };
    if (KIND == STORAGE_NF4) {
        fill_lut(lut, w.quant_map);
        int blocks = w.in / NF4_BLOCK;
#pragma unroll 4
        for (int e = threadIdx.x; e < OUT * n; e += ALL) { /* two at a time */
            int row = e / n, b = e % n * 2;
            const struct dlinear &m = gated && row >= OUT / 2 ? a.up : w;
            int64_t block = (int64_t)(tile * outs + (gated ? row % (OUT / 2) : row)) * blocks + k0 * 2 + b;
            float lo, hi;
            if (m.absmax_f32) {
                lo = m.absmax_f32[block], hi = m.absmax_f32[block + 1];
            } else {
                uint16_t codes = *(const uint16_t *)(m.absmax_u8 + block);
                float nested = m.nested_absmax[block / m.nested_block];
                lo = __fadd_rn(__fmul_rn(m.nested_map[codes & 0xFF], nested), m.nested_offset), hi = __fadd_rn(__fmul_rn(m.nested_map[codes >> 8], nested), m.nested_offset);
            }
            *(uint32_t *)(absmax_of(row) + b) = pack_bf16(lo, hi);
        }
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < R::x_depth; i++) barrier_init(&full[i], 1), let_go[i] = 0;
        barrier_init_done();
    }
    __syncthreads();

    auto ask_x = [&](int slot, int step) { /* one thread */
        barrier_expect(&full[slot], STAGE_BYTES);
        const char *x = (const char *)a.x + (size_t)(k0 + step) * 2 * FEW_ROWS * 128;
        if (NT == 8) {
            bulk_copy(xs + slot * STAGE_BYTES, x, STAGE_BYTES, &full[slot]);
        } else {
            bulk_copy(xs + slot * STAGE_BYTES, x, TILE_BYTES, &full[slot]);
            bulk_copy(xs + slot * STAGE_BYTES + TILE_BYTES, x + FEW_ROWS * 128, TILE_BYTES, &full[slot]);
        }
    };
    wait_for_input();
    if (threadIdx.x == 0)
        for (int i = 0; i < R::x_depth && i < n; i++) ask_x(i, i);

    float acc[N], part[KIND == STORAGE_FP8_BLOCK ? N : 1];
    if (KIND == STORAGE_FP8_BLOCK)
#pragma unroll
        for (int i = 0; i < N; i++) acc[i] = 0;
    float scale = 0;
    const float *scales = KIND == STORAGE_FP8_BLOCK ? mine.scale + (int64_t)(first / 128) * mine.scale_columns + k0 : NULL;
    uint64_t x0 = tile_descriptor(xs, 16, 1024);
    auto release = [&](int slot, int step) { /* this warp has read stage `step` */
        if (lane == 0 && step + R::x_depth < n && atomicAdd(&let_go[slot], 1u) % ACROSS == ACROSS - 1) ask_x(slot, step + R::x_depth);
    };
    int x_slot = pair, x_phase = 0, w_slot = 0, last_slot = 0;
    uint32_t frag[2][16], levels = shared_address(lut) + lane * 4;
    const uint16_t *own_absmax[2] = {absmax_of(across * 16 + g), absmax_of(across * 16 + g + 8)};
    int j = 0;
    do { /* a step at least: tiled_plan_of */
        int i = j * PAIRS + pair;
        auto next_stage = [&](int stage) {
            if (stage + R::depth < stages) fetch(w_slot, stage + R::depth);
            copy_async_commit();
            w_slot = w_slot + 1 == R::depth ? 0 : w_slot + 1;
        };
        if (KIND == STORAGE_BF16) { /* nothing to unpack: what is loaded goes to the tensor cores */
            warpgroup_wait<0>();
#pragma unroll
            for (int q = 0; q < 2; q++) {
                copy_async_wait<R::depth - 1>();
                __syncwarp();
                const uint4 *now = (const uint4 *)(own_ring + w_slot * R::bytes);
#pragma unroll
                for (int u = 0; u < 4; u++) { /* row g + u / 2 * 8, columns 8 (u % 2).. of the lane's 16 */
                    uint4 v = now[place(g + u / 2 * 8, t * 2 + u % 2)];
                    uint32_t *to = frag[q] + u % 2 * 8 + u / 2;
                    if (a.tiled == TILED_CROSSED) {
                        to[0] = __byte_perm(v.x, v.y, 0x5410), to[2] = __byte_perm(v.x, v.y, 0x7632), to[4] = __byte_perm(v.z, v.w, 0x5410), to[6] = __byte_perm(v.z, v.w, 0x7632);
                    } else {
                        to[0] = v.x, to[2] = v.y, to[4] = v.z, to[6] = v.w;
                    }
                }
                __syncwarp();
                next_stage(j * 2 + q);
            }
        } else {
            copy_async_wait<R::depth - 1>();
            __syncwarp();
        }
#pragma unroll
        for (int q = 0; q < 2; q++) {
            uint32_t *f = frag[q];
            const uint4 *now = (const uint4 *)(own_ring + w_slot * R::bytes);
            if (KIND != STORAGE_BF16 && q == 0) warpgroup_wait<1>(); /* of the step before, its first half: these registers are free */
            if (KIND == STORAGE_FP8_BLOCK) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    uint4 v = now[place(g + r * 8, q * 4 + t)];
                    const uint32_t raw[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                    for (int s = 0; s < 4; s++) {
                        uint32_t two[2];
                        widen(two, raw[s]);
                        f[s * 4 + r] = two[0], f[s * 4 + 2 + r] = two[1];
                    }
                }
            } else if (KIND == STORAGE_NF4) {
                #pragma unroll
                for (int r = 0; r < 2; r++) {
                    uint2 raw = ((const uint2 *)(now + place(g + r * 8, q * 2 + t / 2)))[t % 2];
                    uint32_t factor2 = own_absmax[r][i * 2 + q] * 0x10001u;
#pragma unroll
                    for (int s = 0; s < 4; s++) {
                        uint32_t v = s / 2 ? raw.y : raw.x;
                        f[s * 4 + r] = times(look_up((s % 2 ? v >> 9 : v << 7) & 0x7F80 | levels), factor2);
                        f[s * 4 + 2 + r] = times(look_up((s % 2 ? v >> 17 : v >> 1) & 0x7F80 | levels), factor2);
                    }
                }
            }
            if (q == 0) {
                warpgroup_wait<0>();
                if (j > 0) {
                    if (KIND == STORAGE_FP8_BLOCK) {
                        hold<N>(part);
#pragma unroll
                        for (int e = 0; e < N; e++) acc[e] += part[e] * scale;
                    }
                    release(last_slot, i - PAIRS);
                }
                if (KIND == STORAGE_FP8_BLOCK) scale = scales[i];
                barrier_wait(&full[x_slot], x_phase);
            }
#pragma unroll
            for (int e = 0; e < 16; e++) asm volatile("" : "+r"(f[e])::"memory"); /* made before the products begin, or ptxas lets none overlap */
            warpgroup_begin();
            product_64<NT>(KIND == STORAGE_FP8_BLOCK ? part : acc, f, tile_behind(x0, x_slot * STAGE_BYTES + q * TILE_BYTES), KIND == STORAGE_FP8_BLOCK ? q : j + q);
            warpgroup_commit();
        }
        if (KIND != STORAGE_BF16) {
            __syncwarp();
            next_stage(j);
        }
        last_slot = x_slot;
        x_slot += PAIRS;
        if (x_slot >= R::x_depth) x_slot -= R::x_depth, x_phase ^= 1;
    } while (++j < own_steps);
    warpgroup_wait<0>();
    if (KIND == STORAGE_FP8_BLOCK) {
        hold<N>(part);
#pragma unroll
        for (int e = 0; e < N; e++) acc[e] += part[e] * scale;
    } else {
        hold<N>(acc);
    }
    copy_async_wait<0>();
    __syncthreads();

    /* Sums (ROWS, LDS) where the activations were; then a block adds its share of the outputs over the blocks of its cluster. */
    float *sums = (float *)xs, *squares = (float *)weights;
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
        if (p == pair)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    float *to = &sums[(j * 8 + t * 2 + c % 2) * LDS + across * 16 + g + c / 2 * 8];
                    *to = p ? *to + acc[j * 4 + c] : acc[j * 4 + c];
                }
        if (p + 1 < PAIRS) __syncthreads();
    }
    if (a.splits > 1) sums_shared();
    else __syncthreads();
    int quads = outs / 4, share = quads / a.splits, q0 = split * share, items = share * a.rows;
    enum { AT_ONCE = 2, MOST = 4 };
    float4 h[AT_ONCE], weight[AT_ONCE], sum[AT_ONCE], up[AT_ONCE];
    auto begin_items = [&](int e0) { /* what does not come from the other blocks */
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int e = e0 + u * ALL, row = e / share, column = tile * outs + (q0 + e % share) * 4;
            if (a.next_weight && e < items) h[u] = *(const float4 *)((const float *)a.y + row * a.ldy + column), weight[u] = *(const float4 *)(a.next_weight + column);
        }
    };
    auto add_items = [&](int e0) {
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int e = e0 + u * ALL;
            const float *my = sums + e / share * LDS + (q0 + e % share) * 4;
            float4 v[MOST], v2[MOST];
#pragma unroll
            for (int r = 0; r < MOST; r++)
                if (r < a.splits && e < items) {
                    v[r] = load_of_block(my, r);
                    if (gated) v2[r] = load_of_block(my + OUT / 2, r);
                }
            sum[u] = v[0], up[u] = v2[0];
#pragma unroll
            for (int r = 1; r < MOST; r++)
                if (r < a.splits && e < items) {
                    sum[u] = plus(sum[u], v[r]);
                    if (gated) up[u] = plus(up[u], v2[r]);
                }
        }
    };
    auto finish_items = [&](int e0) {
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int e = e0 + u * ALL, row = e / share, column = tile * outs + (q0 + e % share) * 4;
            if (e >= items) continue;
            float f = a.squares ? factor[row] : 1.0f;
            float4 s = sum[u], p = up[u];
            s.x *= f, s.y *= f, s.z *= f, s.w *= f;
            if (w.bias) s = plus(s, *(const float4 *)(w.bias + column));
            if (gated) {
                put_four((bf16 *)a.y, row, column, make_float4(silu(s.x) * (p.x * f), silu(s.y) * (p.y * f), silu(s.z) * (p.z * f), silu(s.w) * (p.w * f)), a.tiled);
            } else if (a.next_weight) {
                float4 r = plus(h[u], s);
                *(float4 *)((float *)a.y + row * a.ldy + column) = r;
                put_four(a.next_x, row, column, make_float4(r.x * weight[u].x, r.y * weight[u].y, r.z * weight[u].z, r.w * weight[u].w), a.tiled);
                squares[row * (OUT / 4 + 1) + e % share] = r.x * r.x + r.y * r.y + r.z * r.z + r.w * r.w;
            } else {
                *(float4 *)((float *)a.y + row * a.ldy + at + column) = s;
            }
        }
    };
    begin_items(threadIdx.x);
    if (a.squares) factors_of_rows(a, factor);
    if (a.splits > 1) sums_wait();
    if (a.squares) __syncthreads();
    add_items(threadIdx.x);
    if (a.splits > 1 && items <= AT_ONCE * ALL) sums_shared(); /* who has been read from may go when all have arrived */
    finish_items(threadIdx.x);
    for (int e = threadIdx.x + AT_ONCE * ALL; e < items; e += AT_ONCE * ALL) {
        begin_items(e);
        add_items(e);
        finish_items(e);
    }
    if (a.splits > 1 && items > AT_ONCE * ALL) sums_shared();
    if (a.next_weight) {
        __syncthreads();
        if ((int)threadIdx.x < a.rows) {
            float all = 0;
            for (int i = 0; i < share; i++) all += squares[threadIdx.x * (OUT / 4 + 1) + i];
            a.next_squares[threadIdx.x * MOST_SQUARES + blockIdx.y * a.splits + split] = all;
        }
    }
    if (a.splits > 1) sums_wait();
#endif
}

template <int KIND, int NT, int WIDE, int PAIRS>
void run(struct backend_model *m, const struct few_args *a, int tiles) {
    enum { RESERVED = 1024 }; /* shared memory begins there */
    struct tiled_room o = room_of<KIND, NT, WIDE, PAIRS>(RESERVED);
    int steps = a->w[0].in / STEP, n = (steps + a->splits - 1) / a->splits, own = n * 2 + 2, in_gap = (o.gap - SMALL_BYTES) / (own * 2);
    size_t shared = (size_t)o.end + (KIND == STORAGE_NF4 && in_gap < WIDE * 64 ? (size_t)(WIDE * 64 - in_gap) * (size_t)own * 2 : 0);
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute attribute[2];
    c.gridDim = dim3((unsigned)a->splits, (unsigned)tiles), c.blockDim = dim3(WIDE * PAIRS * 128), c.dynamicSmemBytes = shared, c.stream = m->stream;
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    attribute[1].id = cudaLaunchAttributeClusterDimension;
    attribute[1].val.clusterDim.x = (unsigned)a->splits, attribute[1].val.clusterDim.y = attribute[1].val.clusterDim.z = 1;
    c.attrs = attribute, c.numAttrs = a->splits > 1 ? 2 : 1;
    cudaFuncSetAttribute(tiled_product<KIND, NT, WIDE, PAIRS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    cudaLaunchKernelEx(&c, tiled_product<KIND, NT, WIDE, PAIRS>, *a);
}

template <int KIND, int NT>
void run_rows(struct backend_model *m, const struct few_args *a, const struct tiled_plan *p) {
    if (p->wide == 1) run<KIND, NT, 1, 4>(m, a, p->tiles);
    else if (p->pairs == 2) run<KIND, NT, 2, 2>(m, a, p->tiles);
    else run<KIND, NT, 2, 1>(m, a, p->tiles);
}

template <int KIND>
void run_kind(struct backend_model *m, const struct few_args *a, const struct tiled_plan *p) {
    if (a->rows <= 16) run_rows<KIND, 2>(m, a, p);
    else if (a->rows <= 32) run_rows<KIND, 4>(m, a, p);
    else run_rows<KIND, 8>(m, a, p);
}

} // namespace
#endif

/* The plain twin, and what runs under tests/cuda_emulation: a block makes a row, every sum in the order of the width. */
__global__ void tiled_twin(const struct few_args a, int parts) {
    enum { THREADS = 128 };
    __shared__ float squares[THREADS];
    let_next_start();
    wait_for_input();
    int row = blockIdx.x;
    float f = 1, square = 0;
    if (a.squares) {
        float sum = 0;
        for (int i = 0; i < a.squares_count; i++) sum += a.squares[row * MOST_SQUARES + i];
        f = rsqrtf(sum / a.norm_n + a.eps);
    }
    for (int i = 0, at = 0; i < a.count; at += a.w[i++].out)
        for (int o = threadIdx.x; o < a.w[i].out; o += THREADS) {
            float sum = 0, up = 0;
            for (int k = 0; k < a.w[i].in; k++) {
                float x = __bfloat162float(a.x[tiled_place(row, k, a.tiled)]);
                sum += weight_at(a.w[i], o, k) * x;
                if (a.out == OUT_SILU) up += weight_at(a.up, o, k) * x;
            }
            sum = sum * f + (a.w[i].bias ? a.w[i].bias[o] : 0);
            if (a.out == OUT_SILU) {
                ((bf16 *)a.y)[tiled_place(row, o, a.tiled)] = __float2bfloat16_rn(silu(sum) * (up * f));
            } else if (a.next_weight) {
                float h = ((float *)a.y)[row * a.ldy + o] += sum;
                a.next_x[tiled_place(row, o, a.tiled)] = __float2bfloat16_rn(h * a.next_weight[o]);
                square += h * h;
            } else {
                ((float *)a.y)[row * a.ldy + at + o] = sum;
            }
        }
    if (!a.next_weight) return;
    squares[threadIdx.x] = square;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < THREADS; i++) square += squares[i];
    for (int i = 0; i < parts; i++) a.next_squares[row * MOST_SQUARES + i] = i ? 0 : square;
}

bool tiled_fit(const struct product *p) {
    if (p->factors || (p->out != OUT_F32 && p->out != OUT_SILU && !(p->out == OUT_ADD && p->next_weight))) return false;
    for (int i = 0; i < p->count; i++)
        if (!p->w[i]->fast || p->w[i]->storage != p->w[0]->storage || p->w[i]->in != p->w[0]->in || p->w[i]->in % 128 || p->w[i]->out % (p->out == OUT_SILU ? 64 : 128)) return false;
    if (p->w[0]->storage == (p->tiled == TILED_CROSSED ? STORAGE_NF4 : STORAGE_FP8_BLOCK)) return false;
    if (p->w[0]->in < 256) return false;
    if (p->out == OUT_SILU && (!p->up->fast || p->up->storage != p->w[0]->storage || p->count > 1)) return false;
    struct tiled_plan t = tiled_plan_of(p);
    if (p->w[0]->storage == STORAGE_NF4 && (p->w[0]->in / 128 + t.splits - 1) / t.splits > 64) return false; /* absmax in shared memory */
    return tiled_squares(p) <= MOST_SQUARES || !p->next_weight;
}

int tiled_squares(const struct product *p) {
    struct tiled_plan t = tiled_plan_of(p);
    return t.tiles * t.splits;
}

void tiled_run(struct backend_model *m, const struct product *p, struct few_args *a) {
    a->tiled = p->tiled;
#ifdef CUDA_EMULATION
    launch(m, tiled_twin, dim3((unsigned)a->rows), dim3(128), 0, *a, tiled_squares(p));
#else
    struct tiled_plan t = tiled_plan_of(p);
    a->splits = t.splits;
    if (p->w[0]->storage == STORAGE_BF16) run_kind<STORAGE_BF16>(m, a, &t);
    else if (p->w[0]->storage == STORAGE_FP8_BLOCK) run_kind<STORAGE_FP8_BLOCK>(m, a, &t);
    else run_kind<STORAGE_NF4>(m, a, &t);
#endif
}
