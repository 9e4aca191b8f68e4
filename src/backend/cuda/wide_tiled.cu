/* Products of 9 to 64 rows on Hopper (sm_90a): weights from registers, activations from shared memory through the warpgroup's tensor core
 * instruction, sums of split widths over distributed shared memory.
 *
 * A block makes `wide` tiles of 64 outputs (32 of each of two matrices for OUT_SILU) over a part of the width, a warpgroup each. A warp brings
 * weights through a ring in shared memory, as boxes of whole tiles (tensor memory accelerator), from before the kernel in front has ended; another
 * one activations, in memory already as shared memory wants them (tiled_place), by a bulk copy of 128 columns x 64 rows. A lane makes 32 columns
 * of a row bf16 in registers and hands them to wgmma as A; the activations are B. The blocks that share an output tile are one cluster:
 * each sends the others their shares of the outputs' sums and adds up its own, in the order of the width.
 *
 * A kernel lasts 10 to 30 us, so what runs once counts: little code (it comes from memory), nothing divided, everything asked for at once.
 *
 * FP8: the bits of e4m3 shifted into a bf16 are the value times 2^-120; sums are kept in units of the newest 128 x 128 factor. NF4: the 16 levels
 * and absmax are rounded to bf16 and so is their product, as the values of the dequantised matrix would be; absmax comes as tiled_absmax laid it out
 * when the model was loaded, for all of a block's part at once.
 *
 * Not emulated: tiled_twin takes its place there, wide.cu below sm_90; tests/test_cuda_ops runs this on the GPU. */
#include "backend/cuda/few.h"

/* How a product is cut; by its shape alone, since sums must come in the same order on each device. */
struct tiled_plan {
    int wide, splits, tiles; /* tiles of 64 outputs of a block, blocks that share the width, blocks beside each other */
};

static struct tiled_plan tiled_plan_of(const struct product *p) { /* as measured on one H100 (bench/LOG.md) */
    int64_t all = 0;
    for (int i = 0; i < p->count; i++) all += p->w[i]->out;
    if (p->out == OUT_SILU) all *= 2;
    int steps = p->w[0]->in / 128, tiles = (int)(all / 64);
    /* Clusters of four with a block a multiprocessor: 120 blocks fit at once, of two: 132; a second wave costs as much as the first. */
    struct tiled_plan t = {2, 1, 0};
    if (p->out == OUT_SILU && tiles > 128) t.wide = 3, t.splits = tiles > 192 ? 1 : 2;
    else if (tiles <= 40) t.splits = 4;
    else if (tiles <= 64 && p->out == OUT_ADD) t.wide = 3, t.splits = 4;
    else if (tiles <= 96) t.splits = 2;
    while (t.splits > 1 && steps < t.splits) t.splits /= 2; /* a step at least */
    t.tiles = (tiles + t.wide - 1) / t.wide;
    return t;
}

#ifndef CUDA_EMULATION
#include "backend/cuda/warpgroup.h"

namespace {

enum { STEP = 128, LUT_SHIFT = 7, LUT_BYTES = 256 << LUT_SHIFT }; /* columns; bytes from one entry of the table to the next: one for each lane */

/* Stages of weights: bytes of a row, how many stages; a step of the width takes one, of bf16 two; steps of activations. NF4: rows of 128 bytes (two
 * steps) in half as many stages were slower. */
template <int KIND, int NT, int WIDE> struct ring {
    enum { row = KIND == STORAGE_NF4 ? 64 : 128, bytes = WIDE * 64 * row, step_stages = KIND == STORAGE_BF16 ? 2 : 1, x_depth = 4 };
    enum { depth = KIND != STORAGE_NF4 ? WIDE == 2 ? 6 : 4 : WIDE == 2 ? 8 : 6 };
    enum { weights = KIND == STORAGE_NF4 ? LUT_BYTES : 0, x = weights + (int)depth * (int)bytes }; /* where they begin */
};

/* Where things lie in shared memory. When the rings are no longer needed: sums for each block of the cluster, squares. */
struct tiled_room {
    int squares, parts, barriers, absmax, part; /* part: bytes of what one block sends another */
};
/* No second block on a multiprocessor: those of the next kernel would come to where this one's are, while others stand idle. */
enum { ALONE = 120 << 10 };
enum { MOST_STAGES = 8, MOST_BARRIERS = 4 * MOST_STAGES + 2 };
template <int NT, int WIDE> __host__ __device__ constexpr int part_bytes(int splits) { return NT * 8 * (WIDE * 64 / splits + 4) * 4; }
template <int KIND, int NT, int WIDE> __host__ __device__ constexpr struct tiled_room room_of(int splits) {
    typedef ring<KIND, NT, WIDE> R;
    struct tiled_room o = {};
    int rings = R::x + R::x_depth * NT * 8 * 256;
    o.part = part_bytes<NT, WIDE>(splits);
    o.squares = splits * part_bytes<NT, WIDE>(splits);
    o.parts = o.squares + NT * 8 * (WIDE * 16 + 1) * 4;
    o.barriers = o.parts + (splits - 1) * part_bytes<NT, WIDE>(splits); /* what other blocks send */
    if (o.barriers < rings) o.barriers = rings;
    o.absmax = o.barriers + MOST_BARRIERS * 8 + FEW_ROWS * 4; /* NF4: (outputs / 32, steps, 32) */
    return o;
}

struct tiled_args {
    CUtensorMap map[3]; /* of the matrices, gate and up: (out, bytes of a row) */
    struct few_args a;
    int biased, start[3], k[MOST_SPLIT + 1]; /* has one of the matrices a bias; first tile of each; first step of each split */
    int tiles, splits_shift, inverse, row_step; /* of 64 outputs; 65,536 / quads of outputs that a block adds up, rounded up; rows that it adds up at once: a multiple of 8 */
    struct tiled_room room;
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
/* Arrives at the cluster's barrier, and waits there, without publishing anything. */
__device__ inline void cluster_come() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ inline void cluster_go() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }
/* From this block's shared memory to `to` of block `rank`; the barrier there counts the bytes. */
__device__ inline void send(const void *to, int rank, const void *from, int bytes, uint64_t *barrier) {
    asm volatile("{.reg .b32 to, bar;\nmapa.shared::cluster.u32 to, %0, %4;\nmapa.shared::cluster.u32 bar, %3, %4;\n"
                 "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [to], [%1], %2, [bar];}" ::"r"(shared_address(to)),
                 "r"(shared_address(from)), "r"(bytes), "r"(shared_address(barrier)), "r"(rank)
                 : "memory");
}

__device__ inline uint32_t times(uint32_t a, uint32_t b) { /* pairs of bf16 */
    uint32_t r;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
/* What the table at `lut` has for byte i of a word: entries are 1 << LUT_SHIFT bytes apart. */
__device__ inline uint32_t looked_up(uint32_t lut, uint32_t word, int i) {
    uint32_t r, at = __byte_perm(word, 0, 0x4440 + i) * (1 << LUT_SHIFT) + lut;
    asm("ld.shared.u32 %0, [%1];" : "=r"(r) : "r"(at));
    return r;
}
/* The four e4m3 values of a word as bf16: of bytes 0 and 2, of bytes 1 and 3. */
__device__ inline void widen(uint32_t to[2], uint32_t v) {
    uint32_t even = (v << 8 & 0x80008000u) | (v << 4 & 0x07F007F0u), odd = (v & 0x80008000u) | (v >> 4 & 0x07F007F0u);
    to[0] = times(even, 0x7B807B80u), to[1] = times(odd, 0x7B807B80u);
}

__device__ inline float gate(float x, float up) { return __fdividef(x, 1 + __expf(-x)) * up; }
__device__ inline float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

#endif

/* WIDE warpgroups that multiply, and three warps more: one brings, one makes NF4's absmax, one the rows' factors. */
template <int KIND, int NT, int WIDE>
__global__ void __launch_bounds__(WIDE * 128 + 96, 1) tiled_product(const __grid_constant__ struct tiled_args p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef ring<KIND, NT, WIDE> R;
    enum { ROWS = NT * 8, TILE_BYTES = ROWS * 128, N = NT * 4, OUT = WIDE * 64, MULTIPLY = WIDE * 128, THREADS = MULTIPLY + 96, X_DEPTH = R::x_depth };
    extern __shared__ __align__(1024) char shared[];
    const struct few_args &a = p.a;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, group = warp / 4;
    bool gated = a.out == OUT_SILU;
    let_next_start();
    int split = blockIdx.x, k0 = p.k[split], n = p.k[split + 1] - k0, stages = n * R::step_stages;
    const struct tiled_room &o = p.room;
    char *weights = shared + R::weights, *xs = shared + R::x;
    uint64_t *w_full = (uint64_t *)(shared + o.barriers), *w_empty = w_full + MOST_STAGES, *x_full = w_empty + MOST_STAGES, *x_empty = x_full + MOST_STAGES;
    uint64_t *received = x_empty + MOST_STAGES;
    float *factor = (float *)(shared + o.barriers + MOST_BARRIERS * 8);
    int part = o.part, share = OUT >> p.splits_shift, pitch = share + 4; /* outputs that this block adds up; floats from row to row of sums */
    /* Tile i of the block: its matrix and first row there (gated: of gate, and the same of up). What lies behind the last tile repeats it. */
    auto tile_of = [&](int i, int *which) {
        int tile = blockIdx.y * WIDE + i;
        if (tile >= p.tiles) tile = p.tiles - 1;
        *which = (tile >= p.start[1]) + (tile >= p.start[2]);
        return (tile - p.start[*which]) * (gated ? 32 : 64);
    };

    if (warp == WIDE * 4) { /* brings weights */
        if (lane == 0) {
            for (int i = 0; i < R::depth; i++) barrier_init(&w_full[i], 1), barrier_init(&w_empty[i], WIDE * 4);
            for (int i = 0; i < X_DEPTH; i++) barrier_init(&x_full[i], 1), barrier_init(&x_empty[i], WIDE * 4);
            barrier_init(received, 1);
            barrier_init_done();
            if (a.splits > 1) barrier_expect(received, (a.splits - 1) * part);
        }
        __syncwarp();
        turn_pass(2, THREADS);
        if (a.splits > 1) cluster_come();
        if (lane == 0) {
            int row[WIDE], which[WIDE];
#pragma unroll
            for (int i = 0; i < WIDE; i++) row[i] = tile_of(i, &which[i]);
#pragma unroll 1
            for (int stage = 0; stage < stages; stage++) {
                int slot = stage % R::depth, x = (k0 * R::step_stages + stage) * R::row;
                char *to = weights + slot * R::bytes;
                uint64_t *full = &w_full[slot];
                if (stage >= R::depth) barrier_wait(&w_empty[slot], stage / R::depth - 1 & 1);
                barrier_expect(full, R::bytes + (KIND == STORAGE_NF4 && stage == 0 ? OUT * n * 4 : 0));
#pragma unroll
                for (int i = 0; i < WIDE; i++) {
                    if (gated) {
                        tile_load_2d(to + i * 64 * R::row, &p.map[0], full, x, row[i]);
                        tile_load_2d(to + (i * 64 + 32) * R::row, &p.map[1], full, x, row[i]);
                    } else {
                        tile_load_2d(to + i * 64 * R::row, &p.map[which[i]], full, x, row[i]);
                    }
                }
                if (KIND == STORAGE_NF4 && stage == 0)
#pragma unroll 1
                    for (int i = 0; i < WIDE * 2; i++) {
                        int matrix, at = tile_of(i / 2, &matrix) / 32 + (gated ? 0 : i % 2);
                        const uint32_t *from = (gated && i % 2 ? a.up : a.w[matrix]).absmax_pairs;
                        bulk_copy(shared + o.absmax + i * n * 128, from + ((int64_t)at * (a.w[0].in / STEP) + k0) * 32, n * 128, full);
                    }
            }
        }
        __syncwarp();
        if (a.splits > 1) cluster_go(), cluster_come(), cluster_go();
    } else if (warp == WIDE * 4 + 1) { /* brings activations */
        turn_wait(2, THREADS);
        if (a.splits > 1) cluster_come();
        wait_for_input();
        if (lane == 0) {
#pragma unroll 1
            for (int stage = 0; stage < n; stage++) {
                int slot = stage % X_DEPTH;
                uint64_t *full = &x_full[slot];
                char *to = xs + slot * 2 * TILE_BYTES;
                const char *from = (const char *)a.x + (size_t)(k0 + stage) * FEW_ROWS * 256;
                if (stage >= X_DEPTH) barrier_wait(&x_empty[slot], stage / X_DEPTH - 1 & 1);
                barrier_expect(full, 2 * TILE_BYTES);
                if (ROWS == FEW_ROWS) bulk_copy(to, from, 2 * TILE_BYTES, full);
                else bulk_copy(to, from, TILE_BYTES, full), bulk_copy(to + TILE_BYTES, from + FEW_ROWS * 128, TILE_BYTES, full);
            }
        }
        __syncwarp();
        if (a.splits > 1) cluster_go(), cluster_come(), cluster_go();
    } else if (warp == WIDE * 4 + 2) { /* 1 / rms of each row: two rows a lane */
        turn_wait(2, THREADS);
        if (a.splits > 1) cluster_come();
        wait_for_input();
        float sum[2] = {};
        if (a.squares)
#pragma unroll 4
            for (int i = 0; i < a.squares_count; i += 4)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    int row = lane + r * 32 < a.rows ? lane + r * 32 : 0;
                    float4 v = *(const float4 *)(a.squares + row * MOST_SQUARES + i);
                    sum[r] += v.x + (i + 1 < a.squares_count ? v.y : 0) + (i + 2 < a.squares_count ? v.z : 0) + (i + 3 < a.squares_count ? v.w : 0);
                }
#pragma unroll
        for (int r = 0; r < 2; r++) factor[lane + r * 32] = a.squares ? rsqrtf(sum[r] / a.norm_n + a.eps) : 1;
        if (a.splits > 1) cluster_go(), cluster_come(), cluster_go();
    } else {
        float level = 0;
        if (KIND == STORAGE_NF4) level = a.w[0].quant_map[lane & 15];
        const float *scales = NULL;
        float next_scale = 1;
        if (KIND == STORAGE_FP8_BLOCK) {
            int which, row = tile_of(group, &which);
            const struct dlinear &m = gated && warp % 4 >= 2 ? a.up : a.w[which];
            scales = m.scale + (int64_t)(row / 128) * m.scale_columns + k0;
            next_scale = scales[0];
        }
        turn_wait(2, THREADS); /* barriers are there */
        if (a.splits > 1) cluster_come();
        if (KIND == STORAGE_NF4) {
#pragma unroll 2
            for (int i = threadIdx.x; i < LUT_BYTES / 16; i += MULTIPLY) { /* eight neighbours make the same entry */
                int entry = i >> LUT_SHIFT - 4;
                float hi = __shfl_sync(~0u, level, entry >> 4 & 15), lo = __shfl_sync(~0u, level, entry & 15);
                uint32_t v = pack_bf16(hi, lo);
                ((uint4 *)shared)[i] = make_uint4(v, v, v, v);
            }
            turn_wait(1, MULTIPLY);
        }

        float acc[N], scale = 0;
        uint32_t frag[2][16], raw[KIND == STORAGE_NF4 ? 8 : KIND == STORAGE_FP8_BLOCK ? 16 : 1], factor2[2], lut = shared_address(shared) + lane % (1 << LUT_SHIFT - 2) * 4, pair = t / 2 ? 0x3232 : 0x1010, leader = lane == 0;
        asm volatile("" : "+r"(lut), "+r"(pair), "+r"(leader)); /* kept, not made again in each step */
        uint64_t x0 = tile_descriptor(xs, 16, 1024);
        const char *mine = weights + (warp * 16 + g) * R::row;
        const uint32_t *my_factors = (const uint32_t *)(shared + o.absmax) + warp / 2 * n * 32 + warp % 2 * 16 + g;
        int w_slot = 0, w_phase = 0, x_slot = 0, x_phase = 0, last_slot = 0;
        auto let_go = [&](uint64_t *of) {
            __syncwarp();
            if (leader) barrier_arrive(of);
        };
        auto load_raw = [&](int slot) { /* what is to be unpacked in a step: rows g and g + 8, 32 columns each */
            const char *now = mine + slot * R::bytes;
#pragma unroll
            for (int r = 0; r < 2; r++) {
                if (KIND == STORAGE_NF4) factor2[r] = __byte_perm(my_factors[r * 8], 0, pair);
#pragma unroll
                for (int u = 0; u < (KIND == STORAGE_NF4 ? 1 : 2); u++) {
                    uint4 v = *(const uint4 *)(now + r * 8 * R::row + (KIND == STORAGE_NF4 ? t : (t * 2 + u) ^ g) * 16);
                    uint32_t *to = raw + (u * 2 + r) * 4;
                    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
                }
            }
            my_factors += 32;
        };
        if (KIND != STORAGE_BF16) barrier_wait(&w_full[0], 0), load_raw(0);
        if (KIND == STORAGE_FP8_BLOCK)
#pragma unroll
            for (int e = 0; e < N; e++) acc[e] = 0;
        int i = 0;
        do { /* a step at least */
            int next_slot = w_slot + R::step_stages == R::depth ? 0 : w_slot + R::step_stages, next_phase = next_slot ? w_phase : w_phase ^ 1;
            float this_scale = fmaxf(next_scale, 1e-30f); /* a divisor; what is multiplied by it then is nothing beside other sums */
            if (KIND == STORAGE_FP8_BLOCK) next_scale = scales[i + 1 < n ? i + 1 : i];
            if (KIND == STORAGE_BF16) { /* nothing to unpack: what is loaded goes to the tensor cores */
                warpgroup_wait<0>();
                if (i) let_go(&x_empty[last_slot]);
                barrier_wait(&w_full[w_slot], w_phase);
                barrier_wait(&w_full[w_slot + 1], w_phase);
                const char *now = mine + (w_slot + t / 2) * R::bytes;
#pragma unroll
                for (int r = 0; r < 2; r++)
#pragma unroll
                    for (int u = 0; u < 4; u++) {
                        uint4 v = *(const uint4 *)(now + r * 1024 + ((t % 2 * 4 + u) ^ g) * 16);
                        uint32_t *to = frag[u / 2] + u % 2 * 8 + r;
                        if (a.tiled == TILED_CROSSED) {
                            to[0] = __byte_perm(v.x, v.y, 0x5410), to[2] = __byte_perm(v.x, v.y, 0x7632), to[4] = __byte_perm(v.z, v.w, 0x5410), to[6] = __byte_perm(v.z, v.w, 0x7632);
                        } else {
                            to[0] = v.x, to[2] = v.y, to[4] = v.z, to[6] = v.w;
                        }
                    }
            }
#pragma unroll
            for (int q = 0; q < 2; q++) {
                uint32_t *f = frag[q];
                if (KIND != STORAGE_BF16 && q == 0) warpgroup_wait<1>(); /* of the step before, its first half: these registers are free */
                if (KIND == STORAGE_FP8_BLOCK) {
#pragma unroll
                    for (int r = 0; r < 2; r++)
#pragma unroll
                        for (int s = 0; s < 4; s++) {
                            uint32_t two[2];
                            widen(two, raw[(q * 2 + r) * 4 + s]);
                            f[s * 4 + r] = two[0], f[s * 4 + 2 + r] = two[1];
                        }
                } else if (KIND == STORAGE_NF4) {
#pragma unroll
                    for (int r = 0; r < 2; r++)
#pragma unroll
                        for (int s = 0; s < 4; s++) {
                            uint32_t v = raw[r * 4 + q * 2 + s / 2];
                            f[s * 4 + r] = times(looked_up(lut, v, s % 2 * 2), factor2[r]);
                            f[s * 4 + 2 + r] = times(looked_up(lut, v, s % 2 * 2 + 1), factor2[r]);
                        }
                }
                if (KIND != STORAGE_BF16 && q == 0) {
                    warpgroup_wait<0>();
                    if (i) let_go(&x_empty[last_slot]);
                    if (KIND == STORAGE_FP8_BLOCK) {
                        hold<N>(acc);
                        float ratio = __fdividef(scale, this_scale);
#pragma unroll
                        for (int e = 0; e < N; e++) acc[e] *= ratio;
                        scale = this_scale;
                    }
                }
                if (q == 0) { /* a branch between products would end their overlap */
                    barrier_wait(&x_full[x_slot], x_phase);
                    if (KIND != STORAGE_BF16 && i + 1 < n) barrier_wait(&w_full[next_slot], next_phase);
                }
#pragma unroll
                for (int e = 0; e < 16; e++) asm volatile("" : "+r"(f[e])::"memory"); /* made before the products begin, or ptxas lets none overlap */
                if (KIND != STORAGE_BF16 && q == 1) load_raw(next_slot); /* behind the last step: of nobody */
                warpgroup_begin();
                product_64<NT>(acc, f, tile_behind(x0, (x_slot * 2 + q) * TILE_BYTES), i + q);
                warpgroup_commit();
            }
            last_slot = x_slot;
            if (++x_slot == X_DEPTH) x_slot = 0, x_phase ^= 1;
            let_go(&w_empty[w_slot]); /* only now: what was read has arrived in registers when the tensor cores have been given it */
            if (KIND == STORAGE_BF16) let_go(&w_empty[w_slot + 1]);
            w_slot = next_slot, w_phase = next_phase;
        } while (++i < n);
        warpgroup_wait<0>();
        hold<N>(acc);
        if (a.splits > 1) cluster_go(), cluster_come(); /* the other blocks' barriers are there; nobody here reads the rings any more */
        turn_wait(1, MULTIPLY);
        /* Sums (blocks, ROWS, PITCH) where the rings were: for each block of the cluster the share of the outputs that it adds up. */
        float *to[2];
#pragma unroll
        for (int c = 0; c < 2; c++) {
            int column = gated ? group * 32 + warp % 2 * 16 + c * 8 : warp * 16 + c * 8, each = gated ? share / 2 : share, rank = 0;
            for (; column >= each; rank++) column -= each;
            to[c] = (float *)(shared + rank * part) + column + (gated && warp % 4 >= 2 ? each : 0) + g + t * 2 * pitch;
        }
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) to[c / 2][(j * 8 + c % 2) * pitch] = KIND == STORAGE_FP8_BLOCK ? acc[j * 4 + c] * scale : acc[j * 4 + c];
        if (a.splits > 1) {
            fence_for_products();
            turn_wait(1, MULTIPLY);
            cluster_go(); /* nor elsewhere */
        }
        if (a.splits > 1 && threadIdx.x == 0)
            for (int r = 1; r < a.splits; r++) { /* the next block first */
                int to_rank = (split + r) % a.splits;
                send(shared + o.parts + (split < to_rank ? split : split - 1) * part, to_rank, shared + to_rank * part, part, received);
            }
        wait_for_input();
    }
    /* A thread has four outputs of every row_step-th row: what depends on the outputs alone is made once. */
    int quads = (gated ? share / 2 : share) / 4, row = threadIdx.x * p.inverse >> 16, quad = threadIdx.x - row * quads, rows = threadIdx.x < MULTIPLY ? a.rows : 0;
    int column = blockIdx.y * (gated ? OUT / 2 : OUT) + (split * quads + quad) * 4, row_step = p.row_step;
    bool inside = column < p.tiles * (gated ? 32 : 64), residual = a.next_weight && inside;
    float *squares = (float *)(shared + o.squares), *y = (float *)a.y + row * a.ldy + column;
    bf16 *tiled = gated ? (bf16 *)a.y : a.next_x;
    bool crossed = a.tiled == TILED_CROSSED;
    int64_t place = tiled_place(row, column, a.tiled);
    int other = (int)(tiled_place(row, column + (crossed ? 1 : 2), a.tiled) - place);
    float4 h[2] = {}, weight = {}, bias = {};
    if (residual) {
        weight = *(const float4 *)(a.next_weight + column);
        if (row < rows) h[0] = *(const float4 *)y;
        if (row + row_step < rows) h[1] = *(const float4 *)(y + row_step * a.ldy);
    }
    if (inside && p.biased) {
        int which = 0, in_matrix = column;
        for (; which + 1 < a.count && in_matrix >= a.w[which].out; which++) in_matrix -= a.w[which].out;
        if (a.w[which].bias) bias = *(const float4 *)(a.w[which].bias + in_matrix);
    }
    __syncthreads(); /* this block's sums, the rows' factors */
    if (a.splits > 1) {
        barrier_wait(received, 0);
        __syncwarp();
        cluster_come(); /* who has sent may go when all have received */
    }
#pragma unroll 1
    for (int at = row * pitch + quad * 4; row < rows; row += row_step, at += row_step * pitch, place += row_step * 64, y += row_step * a.ldy) { /* small code: it is read from memory once a kernel, which takes longer than running it */
        float4 s = make_float4(0, 0, 0, 0), s2 = s;
#pragma unroll 1
        for (int r = 0; r < a.splits; r++) { /* in the order of the width */
            const float *of = (const float *)(r == split ? shared + split * part : shared + o.parts + (r < split ? r : r - 1) * part) + at;
            s = plus(s, *(const float4 *)of);
            if (gated) s2 = plus(s2, *(const float4 *)(of + quads * 4));
        }
        float f = factor[row];
        s = make_float4(s.x * f + bias.x, s.y * f + bias.y, s.z * f + bias.z, s.w * f + bias.w);
        if (gated) {
            s = make_float4(gate(s.x, s2.x * f), gate(s.y, s2.y * f), gate(s.z, s2.z * f), gate(s.w, s2.w * f));
        } else {
            s = plus(h[0], s);
            if (inside) *(float4 *)y = s;
            if (a.next_weight) squares[row * (OUT / 4 + 1) + quad] = inside ? s.x * s.x + s.y * s.y + s.z * s.z + s.w * s.w : 0;
            s = make_float4(s.x * weight.x, s.y * weight.y, s.z * weight.z, s.w * weight.w);
            h[0] = h[1];
            if (residual && row + 2 * row_step < rows) h[1] = *(const float4 *)(y + 2 * row_step * a.ldy);
        }
        if (tiled && inside) {
            *(uint32_t *)(tiled + place) = pack_bf16(s.x, crossed ? s.z : s.y);
            *(uint32_t *)(tiled + place + other) = pack_bf16(crossed ? s.y : s.z, s.w);
        }
    }
    if (a.next_weight) {
        __syncthreads();
        if ((int)threadIdx.x < a.rows) {
            float all = 0;
#pragma unroll 4
            for (int i = 0; i < quads; i++) all += squares[threadIdx.x * (OUT / 4 + 1) + i];
            a.next_squares[threadIdx.x * MOST_SQUARES + blockIdx.y * a.splits + split] = all;
        }
    }
    if (a.splits > 1) cluster_go();
#endif
}

bool map_weights(void *encode, CUtensorMap *map, const struct dlinear *w, int rows) {
    cuuint64_t row = (cuuint64_t)w->in * 16 / (w->storage == STORAGE_BF16 ? 8 : w->storage == STORAGE_FP8_BLOCK ? 16 : 32);
    const cuuint64_t size[2] = {row, (cuuint64_t)w->out}, stride[1] = {row};
    const cuuint32_t box[2] = {w->storage == STORAGE_NF4 ? 64u : 128u, (cuuint32_t)rows}, one[2] = {1, 1};
    return ((tile_encode_function)encode)(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, (void *)w->data, size, stride, box, one, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                          w->storage == STORAGE_NF4 ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int KIND, int NT, int WIDE>
void run(struct backend_model *m, struct tiled_args *p, int tiles) {
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute attribute[2];
    int most = (p->a.w[0].in / STEP + p->a.splits - 1) / p->a.splits, quads = WIDE * 64 / p->a.splits / (p->a.out == OUT_SILU ? 2 : 1) / 4;
    p->room = room_of<KIND, NT, WIDE>(p->a.splits), p->inverse = (65536 + quads - 1) / quads, p->row_step = WIDE * 128 / quads;
    c.gridDim = dim3((unsigned)p->a.splits, (unsigned)tiles), c.blockDim = dim3(WIDE * 128 + 96), c.stream = m->stream;
    int bytes = p->room.absmax + (KIND == STORAGE_NF4 ? (most * WIDE * 64 + 32) * 4 : 0);
    c.dynamicSmemBytes = (size_t)(bytes > ALONE ? bytes : ALONE);
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    attribute[1].id = cudaLaunchAttributeClusterDimension;
    attribute[1].val.clusterDim.x = (unsigned)p->a.splits, attribute[1].val.clusterDim.y = attribute[1].val.clusterDim.z = 1;
    c.attrs = attribute, c.numAttrs = p->a.splits > 1 ? 2 : 1;
    cudaFuncSetAttribute(tiled_product<KIND, NT, WIDE>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c.dynamicSmemBytes);
    cudaLaunchKernelEx(&c, tiled_product<KIND, NT, WIDE>, *p);
}

template <int KIND, int NT>
void run_rows(struct backend_model *m, struct tiled_args *a, const struct tiled_plan *p) {
    if (p->wide == 3) run<KIND, NT, 3>(m, a, p->tiles);
    else run<KIND, NT, 2>(m, a, p->tiles);
}

template <int KIND>
void run_kind(struct backend_model *m, struct tiled_args *a, const struct tiled_plan *p) {
    if (a->a.rows <= 16) run_rows<KIND, 2>(m, a, p);
    else if (a->a.rows <= 32) run_rows<KIND, 4>(m, a, p);
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

size_t tiled_absmax_bytes(const struct dlinear *w) {
    return w->storage == STORAGE_NF4 && w->fast && w->in % 128 == 0 && w->out % 128 == 0 ? (size_t)w->out * w->in / NF4_BLOCK * 2 : 0;
}

/* A thread a word: output i % 32 of a step of 32 outputs. */
__global__ void absmax_pairs(const struct dlinear w, uint32_t *to, int words) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, steps = w.in / 128;
    if (i >= words) return;
    int64_t first = ((int64_t)(i / 32 / steps * 32 + i % 32) * steps + i / 32 % steps) * 2;
    to[i] = pack_bf16(nf4_absmax(w, first), nf4_absmax(w, first + 1));
}

void tiled_absmax(struct backend_model *m, struct dlinear *w, void *to) {
    int words = (int)(tiled_absmax_bytes(w) / 4);
    if (words) launch(m, absmax_pairs, dim3((unsigned)(words + 255) / 256), dim3(256), 0, *w, (uint32_t *)to, words);
    w->absmax_pairs = words ? (const uint32_t *)to : NULL;
}

static bool has_absmax(const struct dlinear *w) { return w->storage != STORAGE_NF4 || w->absmax_pairs; }

bool tiled_fit(const struct product *p) {
    if (p->factors || (p->out != OUT_F32 && p->out != OUT_SILU && !(p->out == OUT_ADD && p->next_weight))) return false;
    for (int i = 0; i < p->count; i++)
        if (!p->w[i]->fast || p->w[i]->storage != p->w[0]->storage || p->w[i]->in != p->w[0]->in || p->w[i]->in % 128 || p->w[i]->out % 128 || !has_absmax(p->w[i])) return false;
    if (p->w[0]->storage == (p->tiled == TILED_CROSSED ? STORAGE_NF4 : STORAGE_FP8_BLOCK)) return false;
    if (p->w[0]->in < 256) return false;
    if (p->out == OUT_SILU && (!p->up->fast || p->up->storage != p->w[0]->storage || p->count > 1 || !has_absmax(p->up))) return false;
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
    struct tiled_args args = {};
    a->splits = t.splits;
    args.a = *a;
    for (int i = 0; i < p->count; i++) args.tiles += p->w[i]->out / 64 * (p->up ? 2 : 1), args.biased |= p->w[i]->bias != NULL;
    for (int i = 0; i <= t.splits; i++) args.k[i] = i * (p->w[0]->in / 128) / t.splits;
    for (int i = 1; i < 3; i++) args.start[i] = i < p->count ? args.start[i - 1] + p->w[i - 1]->out / 64 : 1 << 30;
    while (1 << args.splits_shift < t.splits) args.splits_shift++;
    bool mapped = tile_encoder(&m->encode_map) != NULL;
    for (int i = 0; i < p->count && mapped; i++) mapped = map_weights(m->encode_map, &args.map[i], p->w[i], p->up ? 32 : 64);
    if (p->up && mapped) mapped = map_weights(m->encode_map, &args.map[1], p->up, 32);
    if (!mapped) launch(m, tiled_twin, dim3((unsigned)a->rows), dim3(128), 0, *a, tiled_squares(p));
    else if (p->w[0]->storage == STORAGE_BF16) run_kind<STORAGE_BF16>(m, &args, &t);
    else if (p->w[0]->storage == STORAGE_FP8_BLOCK) run_kind<STORAGE_FP8_BLOCK>(m, &args, &t);
    else run_kind<STORAGE_NF4>(m, &args, &t);
#endif
}
