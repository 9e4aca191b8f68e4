/* NF4 products of many rows on Hopper, weights unpacked in registers on their way into the tensor cores: nothing is written to memory and
 * read again, which is what a pass of a thousand rows otherwise spends a quarter of its time on.
 *
 * A block makes 128 outputs of N rows (N of 64, 128, 256: as fills the device best). One thread brings tiles of 64 inputs: rows as bf16,
 * weights as they are stored. Two warpgroups hold the weights as the left operand (64 outputs each, in registers) and multiply with the
 * rows' tile; while one step is multiplied, the next one is unpacked. The sums are of outputs by rows and are turned on their way out.
 *
 * The arithmetic, 64 inputs of a tile of 128 x 256: 1,024 cycles of the tensor cores; unpacking 8,192 weights takes about 380 instructions of
 * each scheduler, most of them at half rate; 36 KiB of tiles are 36 bytes a cycle out of the second-level cache. Measured: about 1,350 cycles,
 * for a warpgroup's products do not overlap with its own unpacking, only with the other's. So above some thousand rows, where unpacking to
 * memory is paid for by many products, the library is faster, and where blocks are few too: library_time, own_time.
 *
 * Unpacking: a thread holds two rows of weights. For each block of 64 the 16 levels times absmax are rounded to bf16 once, the four threads of
 * a row make four each and exchange them; high and low bytes are kept apart, four registers each, and looked up by byte permutations, four
 * weights at a time. The values are those of the unpacked matrix to the last bit. */
#include "backend/cuda/unpack.h"

#ifdef CUDA_EMULATION

bool many_rows_fit(struct backend_model *, const struct product *, int, int) { return false; }
bool many_rows_run(struct backend_model *, const struct product *, int, int, void *) { return false; }

#else

#include "backend/cuda/warpgroup.h"

enum { OUTS = 128, STEP = 64, THREADS = 384, GROUP = 8 /* row tiles that blocks take in turn */ };

template <int N> struct tiles {
    enum { STAGES = N == 256 ? 6 : 8, PITCH = OUTS + 8 };
    bf16 x[STAGES][N][STEP];
    uint8_t w[STAGES][OUTS][STEP / 2];
    float map[256];
    uint64_t full[STAGES], empty[STAGES];
    uint32_t unused; /* results lie where x was: (N, PITCH) */
};

struct many_args {
    struct dlinear w[3];
    int count, rows, out_tiles, row_tiles, nested_shift;
    bf16 *y;
    int64_t ldy;
};
struct many_maps {
    CUtensorMap x, w[3];
};

#define NAMES_128 WARPGROUP_NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"           \
                                    "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,"     \
                                    "%125,%126,%127"
#define OUT_128(d) WARPGROUP_OUT_64(d), WARPGROUP_OUT_16(d, 64), WARPGROUP_OUT_16(d, 80), WARPGROUP_OUT_16(d, 96), WARPGROUP_OUT_16(d, 112)
/* d (64 x N) += a (64 x 16, in registers) b (N x 16, K-major tile)^T. */
[[maybe_unused]] __device__ static inline void multiply(float (&d)[32], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WARPGROUP_NAMES_32 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 0;"
                 : WARPGROUP_OUT_32(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
[[maybe_unused]] __device__ static inline void multiply(float (&d)[64], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WARPGROUP_NAMES_64 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 0;"
                 : WARPGROUP_OUT_64(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
[[maybe_unused]] __device__ static inline void multiply(float (&d)[128], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" NAMES_128 "}, {%128,%129,%130,%131}, %132, 1, 1, 1, 0;"
                 : OUT_128(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
[[maybe_unused]] __device__ static inline void hold(float (&d)[32]) { asm volatile("" : WARPGROUP_OUT_32(d)::"memory"); }
[[maybe_unused]] __device__ static inline void hold(float (&d)[64]) { asm volatile("" : WARPGROUP_OUT_64(d)::"memory"); }
[[maybe_unused]] __device__ static inline void hold(float (&d)[128]) { asm volatile("" : OUT_128(d)::"memory"); }

/* Byte k of the result: the level that nibble k names, by its lower three bits (select) and its upper one (half); bytes of 16 levels in table[4]. */
[[maybe_unused]] __device__ static inline uint32_t look_up(const uint32_t *table, uint32_t select, uint32_t half) {
    return __byte_perm(__byte_perm(table[0], table[1], select), __byte_perm(table[2], table[3], select), half);
}

/* A row's levels times absmax: high and low bytes. */
struct levels {
    uint32_t high[4], low[4];
};
[[maybe_unused]] __device__ static inline void make_levels(struct levels *to, const float *level, float absmax) {
    uint32_t a = pack_bf16(level[0] * absmax, level[1] * absmax), b = pack_bf16(level[2] * absmax, level[3] * absmax);
    uint32_t high = __byte_perm(a, b, 0x7531), low = __byte_perm(a, b, 0x6420);
#pragma unroll
    for (int i = 0; i < 4; i++) to->high[i] = __shfl_sync(~0u, high, i, 4), to->low[i] = __shfl_sync(~0u, low, i, 4);
}

/* The thread's weights of 16 inputs of one row: columns 2t, 2t + 1 and 2t + 8, 2t + 9. words: the row's 8 bytes. */
[[maybe_unused]] __device__ static inline void unpack4(uint32_t *to, uint32_t *to_8, uint32_t word, uint32_t next_word, int t, const struct levels &l) {
    uint32_t four = __byte_perm(word, next_word, t | (4 + t) << 4), select = four & 0x7777, half = (four >> 1 & 0x4444) | 0x3210;
    uint32_t high = look_up(l.high, select, half), low = look_up(l.low, select, half);
    *to = __byte_perm(low, high, 0x4051); /* the first of a byte's two weights is its high nibble */
    *to_8 = __byte_perm(low, high, 0x6273);
}

/* absmax of four blocks of a row, on their way. */
struct scales {
    uint32_t codes;
    float nested;
    float4 plain;
};
[[maybe_unused]] __device__ static inline void ask_scales(struct scales *to, const struct dlinear &w, int shift, int64_t block) {
    if (w.absmax_f32) to->plain = *(const float4 *)(w.absmax_f32 + block);
    else to->codes = *(const uint32_t *)(w.absmax_u8 + block), to->nested = w.nested_absmax[block >> shift];
}
[[maybe_unused]] __device__ static inline float scale_of(const struct scales &s, const struct dlinear &w, const float *map, int i) {
    if (w.absmax_f32) return i == 0 ? s.plain.x : i == 1 ? s.plain.y : i == 2 ? s.plain.z : s.plain.w;
    return __fadd_rn(__fmul_rn(map[s.codes >> i * 8 & 0xFF], s.nested), w.nested_offset);
}

[[maybe_unused]] __device__ static inline void ask(struct scales *to, const struct dlinear &w, int shift, const int64_t *block, int step, int steps) {
    if (step >= steps) return;
    ask_scales(&to[0], w, shift, block[0] + step);
    ask_scales(&to[1], w, shift, block[1] + step);
}

/* The stored bytes of 64 inputs of the thread's two rows, and their levels. */
struct raw_step {
    uint4 bytes[2][2];
    struct levels levels[2];
};
/* The left operand of 16 of the inputs. */
[[maybe_unused]] __device__ static inline void unpack_step(uint32_t *to, const struct raw_step &raw, int c, int t) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint4 &b = raw.bytes[r][c / 2];
        unpack4(&to[r], &to[2 + r], c % 2 ? b.z : b.x, c % 2 ? b.w : b.y, t, raw.levels[r]);
    }
}

template <int N>
__global__ void __launch_bounds__(THREADS, 1) many_kernel(const struct many_args a, const __grid_constant__ struct many_maps maps) {
#if __CUDA_ARCH__ >= 900
    enum { STAGES = tiles<N>::STAGES, BYTES = N * STEP * 2 + OUTS * STEP / 2 };
    extern __shared__ __align__(1024) char shared_many[];
    struct tiles<N> *s = (struct tiles<N> *)shared_many;
    int per = GROUP * a.out_tiles, first = (int)blockIdx.x / per * GROUP, size = a.row_tiles - first < GROUP ? a.row_tiles - first : GROUP, local = (int)blockIdx.x % per;
    int row0 = (first + local % size) * N, tile = local / size, column = tile * OUTS, own = 0;
    while (own + 1 < a.count && tile >= a.w[own].out / OUTS) tile -= a.w[own++].out / OUTS;
    const struct dlinear w = a.w[own];
    int out0 = tile * OUTS, steps = w.in / STEP, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) barrier_init(&s->full[i], 1), barrier_init(&s->empty[i], 8);
        barrier_init_done();
    }
    if (!w.absmax_f32)
        for (int i = threadIdx.x; i < 256; i += THREADS) s->map[i] = w.nested_map[i];
    __syncthreads();
    if (warp < 4) {
        warpgroup_give_registers<24>();
        if (threadIdx.x == 0) {
            const CUtensorMap *map = own == 0 ? &maps.w[0] : own == 1 ? &maps.w[1] : &maps.w[2];
            auto bring_w = [&](int i, int stage) {
                barrier_expect(&s->full[stage], BYTES);
                tile_load_2d(s->w[stage], map, &s->full[stage], i * STEP / 2, out0);
            };
            auto bring_x = [&](int i, int stage) { tile_load_2d(s->x[stage], &maps.x, &s->full[stage], i * STEP, row0); };
            int ahead = steps < STAGES ? steps : STAGES;
            for (int i = 0; i < ahead; i++) bring_w(i, i);
            wait_for_input();
            for (int i = 0; i < ahead; i++) bring_x(i, i);
            for (int i = ahead, stage = 0, parity = 0; i < steps; i++) {
                barrier_wait(&s->empty[stage], parity);
                bring_w(i, stage);
                bring_x(i, stage);
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
        }
    } else {
        warpgroup_take_registers<240>();
        int g = lane / 4, t = lane % 4, own_row = (warp - 4) * 16 + g;
        int64_t block[2] = {(int64_t)(out0 + own_row) * steps, (int64_t)(out0 + own_row + 8) * steps};
        float level[4], d[N / 2];
#pragma unroll
        for (int i = 0; i < 4; i++) level[i] = w.quant_map[4 * t + i];
#pragma unroll
        for (int i = 0; i < N / 2; i++) d[i] = 0;
        struct scales next[2];
        ask(next, w, a.nested_shift, block, 0, steps);
        int stage = 0, parity = 0, before = 0;
        uint32_t weights[2][4][4];
        for (int i = 0; i < steps; i += 4) { /* steps: a multiple of four */
            float scale[2][4];
#pragma unroll
            for (int k = 0; k < 4; k++) scale[0][k] = scale_of(next[0], w, s->map, k), scale[1][k] = scale_of(next[1], w, s->map, k);
            ask(next, w, a.nested_shift, block, i + 4, steps);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                struct raw_step raw;
                barrier_wait(&s->full[stage], parity);
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const uint4 *at = (const uint4 *)s->w[stage][own_row + 8 * r];
                    raw.bytes[r][0] = at[0], raw.bytes[r][1] = at[1];
                }
                make_levels(&raw.levels[0], level, scale[0][k]);
                make_levels(&raw.levels[1], level, scale[1][k]);
#pragma unroll
                for (int c = 0; c < 4; c++) unpack_step(weights[k % 2][c], raw, c, t);
                uint64_t x = tile_descriptor(s->x[stage], 16, 1024);
                warpgroup_begin();
#pragma unroll
                for (int c = 0; c < 4; c++) multiply(d, weights[k % 2][c], tile_behind(x, c * 32));
                warpgroup_commit();
                warpgroup_wait<1>(); /* the step before has been multiplied: its place may be filled again */
                if (lane == 0 && i + k > 0) barrier_arrive(&s->empty[before]);
                before = stage;
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
        }
        warpgroup_wait<0>();
        hold(d);
        turn_wait(1, 256); /* nobody reads the tiles any more */
        bf16 *result = (bf16 *)s->x;
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                *(uint32_t *)(result + (8 * j + g) * tiles<N>::PITCH + (warp - 4) * 16 + 8 * r + 2 * t) = turn_matrix(pack_bf16(d[4 * j + 2 * r], d[4 * j + 2 * r + 1]));
        turn_wait(1, 256);
        for (int item = threadIdx.x - 128; item < N * (OUTS / 8); item += 256) {
            int row = item / (OUTS / 8), o = item % (OUTS / 8) * 8;
            if (row0 + row < a.rows) *(uint4 *)(a.y + (int64_t)(row0 + row) * a.ldy + column + o) = *(const uint4 *)(result + row * tiles<N>::PITCH + o);
        }
    }
#endif
}

template <int N>
static bool run(struct backend_model *m, const struct product *p, struct many_args *a) {
    struct many_maps maps;
    const cuuint64_t x_size[2] = {(cuuint64_t)a->w[0].in, (cuuint64_t)p->rows}, x_stride[1] = {(cuuint64_t)p->ldx * 2};
    const cuuint32_t x_box[2] = {STEP, N}, w_box[2] = {STEP / 2, OUTS}, one[2] = {1, 1};
    if (!tile_map(m->encode_map, &maps.x, p->x, 2, x_size, x_stride, x_box)) return false;
    for (int i = 0; i < a->count; i++) {
        const cuuint64_t size[2] = {(cuuint64_t)a->w[i].in / 2, (cuuint64_t)a->w[i].out}, stride[1] = {(cuuint64_t)a->w[i].in / 2};
        if (((tile_encode_function)m->encode_map)(&maps.w[i], CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, (void *)a->w[i].data, size, stride, w_box, one, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                                  CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
            return false;
    }
    a->row_tiles = (p->rows + N - 1) / N;
    launch(m, many_kernel<N>, dim3((unsigned)(a->row_tiles * a->out_tiles)), dim3(THREADS), sizeof(struct tiles<N>), *a, maps);
    return true;
}

/* Microseconds, reckoned with what was measured on an H100 (bench/LOG.md): of 64 inputs of a tile of N rows. */
static const struct { int n; double us; } shape[3] = {{256, 0.78}, {128, 0.56}, {64, 0.50}};

static double own_time(const struct backend_model *m, int rows, int out, int in, int *n) {
    double least = 1e30;
    for (int i = 0; i < 3; i++) {
        int64_t blocks = (int64_t)(out / OUTS) * ((rows + shape[i].n - 1) / shape[i].n);
        double us = (double)((blocks + m->sm_count - 1) / m->sm_count) * (in / STEP) * shape[i].us + 4;
        if (us < least) least = us, *n = shape[i].n;
    }
    return least;
}
/* Unpacking (2.5 bytes a weight) and the library's product, which is bound by its operations or by reading what was unpacked. */
static double library_time(int rows, int out, int in) {
    double weights = (double)out * in, operations = 2 * weights * rows / 780e6, bytes = weights * 2 / 2.5e6;
    return weights * 2.5 / 2.1e6 + (operations > bytes ? operations : bytes) + 12;
}

bool many_rows_fit(struct backend_model *m, const struct product *p, int first, int count) {
    if (m->arch < 90 || p->out != OUT_BF16 || !p->x || p->ldx % 8 || p->ldy % 8 || count > 3) return false;
    for (int i = first; i < first + count; i++) {
        const struct dlinear *w = p->w[i];
        if (w->storage != STORAGE_NF4 || !w->fast || w->rounding != DTYPE_BF16 || w->out % OUTS || w->bias) return false;
        if (!w->absmax_f32 && (w->nested_block < 4 || (w->nested_block & (w->nested_block - 1)) || w->nested_block != p->w[first]->nested_block)) return false;
    }
    int out = 0, n;
    for (int i = first; i < first + count; i++) out += p->w[i]->out;
    if (own_time(m, p->rows, out, p->w[first]->in, &n) > library_time(p->rows, out, p->w[first]->in)) return false;
    return tile_encoder(&m->encode_map) != NULL;
}

bool many_rows_run(struct backend_model *m, const struct product *p, int first, int count, void *y) {
    struct many_args a = {};
    a.count = count, a.rows = p->rows, a.y = (bf16 *)y, a.ldy = p->ldy;
    for (int i = 0; i < count; i++) a.w[i] = *p->w[first + i], a.out_tiles += a.w[i].out / OUTS;
    while (1 << a.nested_shift < a.w[0].nested_block) a.nested_shift++;
    int n = 256, out = a.out_tiles * OUTS;
    own_time(m, p->rows, out, a.w[0].in, &n);
    return n == 256 ? run<256>(m, p, &a) : n == 128 ? run<128>(m, p, &a) : run<64>(m, p, &a);
}

#endif
