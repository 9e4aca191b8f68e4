/* Products of few rows, weights read as they are stored: what decoding is made of.
 *
 * The time to beat is bytes of weights over memory bandwidth. All products run on the tensor cores (mma m16n8k16, outputs as M, rows as N),
 * weights unpacked in registers. Which of its values a lane calls k does not matter as long as the activations are read in the same
 * order, so a lane takes 16 consecutive bytes of a row and nothing is shuffled. FP8's block factor and NF4's absmax multiply the fp32
 * sums of their block, not each weight (the weights' own rounding to bf16 is then only that of the 16 NF4 levels).
 *
 * Up to 8 rows here: a block makes 16 MT outputs of all rows; its 8 warps share the width. Each lane keeps its next bytes under way to
 * shared memory (cp.async) and starts before the kernel in front has ended: at wait_for_input the weights are there already. More rows:
 * wide.cu, wide_tiled.cu. */
#include "backend/cuda/few.h"

static __device__ inline void wait_stage(int stages) {
    if (stages == 1) copy_async_wait<0>();
    else if (stages == 2) copy_async_wait<1>();
    else copy_async_wait<3>();
}

template <int KIND, int MT, bool SILU, int W>
__global__ void __launch_bounds__(W * 32, W == 16 ? 1 : KIND == STORAGE_NF4 ? 2 : 3) few_product(const struct few_args a) {
    enum { WARPS = W, VALUES = kind<KIND>::values, STEP = VALUES * 8, OUTS = SILU ? 16 : MT * 16 };
    DYNAMIC_SHARED(shared);
    __shared__ float factor[FEW];
    let_next_start();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 *ring = (uint4 *)shared;
    uint32_t *lut = (uint32_t *)(ring + WARPS * a.stages * MT * 128);
    float *side = (float *)(lut + (KIND == STORAGE_NF4 ? LUT_WORDS : 0)); /* NF4: absmax (MT * 16, in / 64 + 1); FP8: factors (MT, steps) */
    struct dlinear w = a.w[0];
    int tile = blockIdx.x * (SILU ? 1 : MT), at = 0;
    for (int s = 0; s + 1 < a.count && tile * 16 >= w.out; s++) tile -= w.out / 16, at += w.out, w = a.w[s + 1];
    int steps = w.in / STEP, blocks = w.in / NF4_BLOCK, side_count = KIND == STORAGE_NF4 ? MT * 16 * (blocks + 1) : KIND == STORAGE_FP8_BLOCK ? MT * steps : 0;
    bf16 *xs = (bf16 *)((char *)side + (side_count * 4 + 15) / 16 * 16);
    size_t row_bytes = (size_t)w.in * 16 / VALUES;
    ring += warp * a.stages * MT * 128;

    auto first_row = [&](int i) { return (SILU ? tile : tile + i) * 16; };
    auto place = [&](int row, int chunk) { return row * 8 + (chunk ^ (row & 3) * 2); }; /* NF4: no two rows of a quarter warp in one bank */
    auto fetch = [&](int stage, int step) {
#pragma unroll
        for (int i = 0; i < MT; i++) {
            const char *from = (const char *)(SILU && i == 1 ? a.up.data : w.data) + first_row(i) * row_bytes + (size_t)step * 128;
            uint4 *to = ring + (stage * MT + i) * 128;
#pragma unroll
            for (int u = 0; u < 4; u++) {
                if (KIND == STORAGE_NF4) {
                    int row = lane / 8 + u * 4, chunk = lane % 8;
                    copy_async_16(to + place(row, chunk), from + row * row_bytes + chunk * 16);
                } else {
                    copy_async_16(to + u * 32 + lane, from + (g + u / 2 * 8) * row_bytes + (u % 2 * 4 + t) * 16);
                }
            }
        }
    };
    for (int i = 0; i < a.stages; i++) {
        if (warp + i * WARPS < steps) fetch(i, warp + i * WARPS);
        copy_async_commit();
    }
    for (int s = warp + a.stages * WARPS; s < steps; s += WARPS)
        if (lane < 16)
#pragma unroll
            for (int i = 0; i < MT; i++) prefetch_l2((const char *)(SILU && i == 1 ? a.up.data : w.data) + (first_row(i) + lane) * row_bytes + (size_t)s * 128);
    if (KIND == STORAGE_NF4) {
        fill_lut(lut, w.quant_map);
        for (int e = threadIdx.x; e < MT * 4 * blocks; e += blockDim.x) {
            int row = e / (blocks / 4), b = e % (blocks / 4) * 4;
            nf4_absmax4(SILU && row >= 16 ? a.up : w, (int64_t)(SILU ? first_row(0) + row % 16 : first_row(0) + row) * blocks + b, &side[row * (blocks + 1) + b]);
        }
    }
    if (KIND == STORAGE_FP8_BLOCK)
        for (int e = threadIdx.x; e < MT * steps; e += blockDim.x) {
            const struct dlinear &from = SILU && e >= steps ? a.up : w;
            side[e] = from.scale[(int64_t)(first_row(e / steps) / 128) * from.scale_columns + e % steps];
        }

    wait_for_input();
    const bf16 *x = a.x;
    int64_t ldx = a.ldx;
    if (a.staged) {
        int wide = w.in + (KIND == STORAGE_BF16 ? 32 : 8), chunks = w.in / 8; /* rows end in other banks */
        for (int e = threadIdx.x; e < a.rows * chunks; e += blockDim.x)
            *(uint4 *)(xs + e / chunks * wide + e % chunks * 8) = *(const uint4 *)(a.x + e / chunks * a.ldx + e % chunks * 8);
        x = xs, ldx = wide;
    }
    if (a.squares) row_factors<32>(a, factor);
    __syncthreads();

    float acc[MT][4] = {};
    for (int s = warp, i = 0; s < steps; s += WARPS, i++) {
        const uint4 *now = ring + i % a.stages * MT * 128;
        wait_stage(a.stages);
        if (KIND == STORAGE_NF4) __syncwarp();
        float part[MT][4] = {};
        if (KIND == STORAGE_NF4) {
#pragma unroll
            for (int b = 0; b < 4; b++) {
                uint2 raw[MT][2];
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int r = 0; r < 2; r++) raw[m][r] = ((const uint2 *)(now + m * 128 + place(g + r * 8, b * 2 + t / 2)))[t % 2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    uint4 v = g < a.rows ? *(const uint4 *)(x + g * ldx + s * STEP + b * 64 + t * 16 + j * 8) : make_uint4(0, 0, 0, 0);
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        uint32_t p[4], q[4], words[2] = {j ? raw[m][0].y : raw[m][0].x, j ? raw[m][1].y : raw[m][1].x};
                        unpack8<KIND>(p, &words[0], lut + lane);
                        unpack8<KIND>(q, &words[1], lut + lane);
                        const uint32_t a0[4] = {p[0], q[0], p[1], q[1]}, a1[4] = {p[2], q[2], p[3], q[3]};
                        mma_bf16(part[m], a0, v.x, v.y);
                        mma_bf16(part[m], a1, v.z, v.w);
                    }
                }
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    float lo = side[(m * 16 + g) * (blocks + 1) + s * 4 + b], hi = side[(m * 16 + g + 8) * (blocks + 1) + s * 4 + b];
#pragma unroll
                    for (int c = 0; c < 4; c++) acc[m][c] += part[m][c] * (c < 2 ? lo : hi), part[m][c] = 0;
                }
            }
        } else {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t raw[MT][2][4];
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        uint4 v = now[m * 128 + (r * 2 + h) * 32 + lane];
                        raw[m][r][0] = v.x, raw[m][r][1] = v.y, raw[m][r][2] = v.z, raw[m][r][3] = v.w;
                    }
#pragma unroll
                for (int j = 0; j < VALUES / 8; j++) {
                    uint4 v = g < a.rows ? *(const uint4 *)(x + g * ldx + s * STEP + h * (STEP / 2) + t * VALUES + j * 8) : make_uint4(0, 0, 0, 0);
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        uint32_t p[4], q[4];
                        unpack8<KIND>(p, raw[m][0] + j * 2, lut);
                        unpack8<KIND>(q, raw[m][1] + j * 2, lut);
                        const uint32_t a0[4] = {p[0], q[0], p[1], q[1]}, a1[4] = {p[2], q[2], p[3], q[3]};
                        mma_bf16(KIND == STORAGE_BF16 ? acc[m] : part[m], a0, v.x, v.y);
                        mma_bf16(KIND == STORAGE_BF16 ? acc[m] : part[m], a1, v.z, v.w);
                    }
                }
            }
            if (KIND == STORAGE_FP8_BLOCK) {
                float fx[2] = {1, 1};
                if (a.factors)
#pragma unroll
                    for (int c = 0; c < 2; c++)
                        if (t * 2 + c < a.rows) fx[c] = a.factors[(int64_t)(t * 2 + c) * steps + s];
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int c = 0; c < 4; c++) acc[m][c] += part[m][c] * (side[m * steps + s] * fx[c % 2]);
            }
        }
        if (KIND == STORAGE_NF4) __syncwarp();
        if (s + a.stages * WARPS < steps) fetch(i % a.stages, s + a.stages * WARPS);
        copy_async_commit();
    }
    copy_async_wait<0>();
    __syncthreads();

    /* The warps' sums come together where the ring was; element c of a lane: output g + c / 2 * 8, row 2 t + c % 2. */
    float *sums = (float *)shared, *square = sums + WARPS * MT * 128;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int c = 0; c < 4; c++) sums[((warp * MT + m) * 4 + c) * 32 + lane] = acc[m][c];
    __syncthreads();
    for (int e = threadIdx.x; e < OUTS * a.rows; e += blockDim.x) {
        int o = e % OUTS, row = e / OUTS, from = o / 16 * 128 + (o / 8 % 2 * 2 + row % 2) * 32 + o % 8 * 4 + row / 2;
        float sum = 0, up = 0, f = a.squares ? factor[row] : 1.0f;
#pragma unroll
        for (int v = 0; v < WARPS; v++) {
            sum += sums[v * MT * 128 + from];
            if (SILU) up += sums[v * MT * 128 + 128 + from];
        }
        int column = first_row(0) + o;
        sum *= f, up *= f;
        if (w.bias) sum += w.bias[column];
        float s2 = finish_one(a, row, at + column, sum, up);
        if (a.next_weight) square[row * OUTS + o] = s2;
    }
    if (!a.next_weight) return;
    __syncthreads();
    if ((int)threadIdx.x < a.rows) {
        float sum = 0;
        for (int o = 0; o < OUTS; o++) sum += square[threadIdx.x * OUTS + o];
        a.next_squares[threadIdx.x * MOST_SQUARES + blockIdx.x] = sum;
    }
}

/* ---- choice ---- */

static bool two_tiles(const struct product *p) { /* so many outputs that blocks of 32 still fill the device */
    for (int i = 0; i < p->count; i++)
        if (p->w[i]->out % 32) return false;
    int64_t all = 0;
    for (int i = 0; i < p->count; i++) all += p->w[i]->out;
    return p->out == OUT_F32 && all >= (p->w[0]->storage == STORAGE_NF4 ? 4096 : 16384);
}

int product_squares(const struct product *p) {
    return p->tiled ? tiled_squares(p) : p->w[0]->out / (p->rows > FEW && wide_fit(p) ? WIDE_OUT : 16);
}

bool few_rows_fit(const struct product *p) {
    if (p->tiled) return tiled_fit(p);
    for (int i = 0; i < p->count; i++)
        if (!p->w[i]->fast || p->w[i]->storage != p->w[0]->storage || p->w[i]->in != p->w[0]->in) return false;
    if (p->factors && p->w[0]->storage != STORAGE_FP8_BLOCK) return false;
    if (p->rows > FEW_ROWS || p->ldx % 8 || (p->out == OUT_SILU && (!p->up->fast || p->up->storage != p->w[0]->storage || p->count > 1))) return false;
    return !p->next_weight || (p->count == 1 && (p->rows <= FEW || wide_fit(p)) && product_squares(p) <= MOST_SQUARES);
}

template <int KIND, int MT, bool SILU, int W>
static void run_few(struct backend_model *m, struct few_args *a, int blocks) {
    enum { WARPS = W, STEP = kind<KIND>::values * 8 };
    int in = a->w[0].in, steps = in / STEP, turns = (steps + WARPS - 1) / WARPS, most = MT == 1 && KIND != STORAGE_NF4 && W == 8 ? 4 : 2;
    a->stages = turns >= 3 && most == 4 ? 4 : turns >= 2 ? 2 : 1;
    size_t ring = (size_t)WARPS * a->stages * MT * 2048, sums = (size_t)(WARPS * MT * 128 + FEW * MT * 16) * 4;
    size_t side = KIND == STORAGE_NF4 ? (size_t)LUT_WORDS * 4 + (size_t)MT * 16 * (in / NF4_BLOCK + 1) * 4 : KIND == STORAGE_FP8_BLOCK ? (size_t)MT * steps * 4 : 0;
    size_t x = (size_t)a->rows * (in + 32) * 2, limit = blocks <= m->sm_count ? 200 << 10 : 104 << 10;
    a->staged = ring + side + 16 + x <= limit;
    size_t shared = ring + side + 16 + (a->staged ? x : 0);
    launch(m, few_product<KIND, MT, SILU, W>, dim3((unsigned)blocks), dim3(WARPS * 32), shared > sums ? shared : sums, *a);
}

template <int KIND>
static void run_kind(struct backend_model *m, const struct product *p, struct few_args *a) {
    int64_t all = 0;
    for (int i = 0; i < p->count; i++) all += p->w[i]->out;
    if (p->out == OUT_SILU) run_few<KIND, 2, true, 8>(m, a, (int)all / 16);
    else if (two_tiles(p)) run_few<KIND, 2, false, 8>(m, a, (int)all / 32);
    else if (all / 16 <= m->sm_count) run_few<KIND, 1, false, 16>(m, a, (int)all / 16); /* one block a multiprocessor: more warps */
    else run_few<KIND, 1, false, 8>(m, a, (int)all / 16);
}

void few_rows_run(struct backend_model *m, const struct product *p) {
    if (p->rows > FEW && !p->tiled && !wide_fit(p)) { /* odd shapes: slices */
        size_t element = p->out == OUT_F32 || p->out == OUT_ADD ? 4 : 2;
        for (int r = 0; r < p->rows; r += FEW) {
            struct product slice = *p;
            slice.x += r * p->ldx, slice.y = (char *)p->y + (size_t)r * p->ldy * element;
            slice.rows = p->rows - r < FEW ? p->rows - r : FEW;
            if (p->squares) slice.squares += (int64_t)r * MOST_SQUARES;
            if (p->factors) slice.factors += (int64_t)r * (p->w[0]->in / 128);
            few_rows_run(m, &slice);
        }
        return;
    }
    struct few_args a = {};
    for (int i = 0; i < p->count; i++) a.w[i] = *p->w[i];
    if (p->up) a.up = *p->up;
    a.count = p->count, a.rows = p->rows, a.out = p->out, a.x = p->x, a.ldx = p->ldx, a.y = p->y, a.ldy = p->ldy;
    a.squares = p->squares, a.squares_count = p->squares_count, a.norm_n = (float)p->norm_n, a.eps = m->w.config.text.rms_eps;
    a.factors = p->factors, a.next_weight = p->next_weight, a.next_x = p->next_x, a.next_squares = p->next_squares;
    if (p->tiled) tiled_run(m, p, &a);
    else if (p->rows > FEW) wide_run(m, p, &a);
    else if (a.w[0].storage == STORAGE_BF16) run_kind<STORAGE_BF16>(m, p, &a);
    else if (a.w[0].storage == STORAGE_FP8_BLOCK) run_kind<STORAGE_FP8_BLOCK>(m, p, &a);
    else run_kind<STORAGE_NF4>(m, p, &a);
}
