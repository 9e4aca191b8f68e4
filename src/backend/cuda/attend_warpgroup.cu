/* Attention of prompts on Hopper: runs of rows of one sequence, heads of 128, an even number of query heads for each kv head. The way of
 * FlashAttention-3 (Shah et al. 2024): a warp brings keys and values, two warpgroups multiply.
 *
 * A block takes 64 consecutive queries of two heads that share a kv head: a warpgroup (64 query rows) for each head, so both see the same
 * keys, need the same mask and use each tile of keys and values that is brought. Tiles are of 128 tokens (4 pages), in two stages, from the
 * diagonal down to token 0. For a tile a warpgroup multiplies S = Q K^T while it also adds the tile before, O += P V, then makes P of S in
 * registers; the two take turns in starting products, so that one's exponentials go on under the other's products.
 *
 * The arithmetic: 4 * 64 * 2 * 128 * 128 operations a tile, 2,048 cycles at the chip's 4,096 a cycle and multiprocessor; the exponentials
 * (16 a cycle) take 1,024, the rest of the softmax about as many; 64 KiB of keys and values a tile are 32 bytes a cycle out of the second-
 * level cache. Where a run has too few blocks to fill the device, the keys are cut into splits whose results are merged by a second kernel.
 *
 * Pages are one tensor of rows of 128 values (room.h: all heads, layers and pages one behind the other), so a page's 32 keys of a head are
 * two boxes of 32 x 64. */
#include "backend/cuda/room.h"

#ifdef CUDA_EMULATION

bool attend_warpgroup_fit(struct backend_model *) { return false; }
bool attend_warpgroup(struct backend_model *, const struct run_pages *, const struct drow *, const struct attend_run *, int, const bf16 *, bf16 *) { return false; }

#else

#include "backend/cuda/warpgroup_softmax.h"

enum { HEAD = 128, HALF = HEAD / 2, QUERIES = 64, KEYS = 128, STAGES = 2, TILE_PAGES = KEYS / PAGE, CONSUMERS = 2, THREADS = 128 * (1 + CONSUMERS) };
enum { MIN_SPLIT_TILES = 6, MOST_RUN_SPLITS = 8 };

struct run_tiles {
    bf16 q[CONSUMERS][2][QUERIES][HALF], k[STAGES][2][KEYS][HALF], v[STAGES][2][KEYS][HALF]; /* halves of the dimensions */
    uint64_t q_full, k_full[STAGES], v_full[STAGES], k_empty[STAGES], v_empty[STAGES];
};
enum { SHARED = sizeof(struct run_tiles) + 1024 };

struct run_args {
    const struct drow *rows;
    const int32_t *pages;
    bf16 *out;
    float *partial; /* of one run: (splits, count, heads, HEAD) weighted values, then (splits, count, heads, 2): sum, maximum */
    int64_t page_rows, layer_row, half_rows; /* of the tensor of pages */
    int heads, group, splits, runs;
    float scale; /* with log2 e */
    struct {
        int first, count, before; /* blocks of the runs in front */
    } run[MOST_RUNS];
};

struct run_place {
    int first, count;                             /* the run's rows */
    int head, block, slot0, last_page, begin, end; /* first of the two heads; first query; its slot; tiles of keys [begin, end) */
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* Longest first: run after run, all pairs of heads of the last queries, then of those before. */
__device__ static inline struct run_place place(const struct run_args &a) {
    struct run_place p;
    int r = 0, pairs = a.heads / 2;
    while (r + 1 < a.runs && a.run[r + 1].before <= (int)blockIdx.x) r++;
    p.first = a.run[r].first, p.count = a.run[r].count;
    int blocks = (p.count + QUERIES - 1) / QUERIES, i = blockIdx.x - a.run[r].before;
    p.head = i % pairs * 2, p.block = (blocks - 1 - i / pairs) * QUERIES;
    int slot = a.rows[p.first].slot, last = slot + (p.block + QUERIES < p.count ? p.block + QUERIES : p.count) - 1, tiles = last / KEYS + 1;
    p.slot0 = slot + p.block, p.last_page = last / PAGE;
    p.begin = (int)((int64_t)tiles * blockIdx.y / a.splits), p.end = (int)((int64_t)tiles * (blockIdx.y + 1) / a.splits);
    return p;
}

/* One warp: asks for tiles in the order in which they are used. Lane l < 8 brings half l % 2 of page l / 2 of a tile. */
__device__ static void bring_tiles(const struct run_args &a, const struct run_place &p, struct run_tiles *s, const CUtensorMap *kv, const CUtensorMap *q) {
    int lane = threadIdx.x % 32, half = lane % 2, in_tile = lane / 2 % TILE_PAGES;
    if (lane == 0) {
        barrier_expect(&s->q_full, sizeof s->q);
        for (int h = 0; h < CONSUMERS; h++)
            for (int e = 0; e < 2; e++) tile_load_3d(s->q[h][e], q, &s->q_full, e * HALF, p.head + h, p.first + p.block);
    }
    const int32_t *pages = a.pages + a.rows[p.first].pages;
    int64_t head_row = a.layer_row + (int64_t)(p.head / a.group) * PAGE;
    auto page_of = [&](int tile) { /* behind the end: one that is not there, which arrives as zeros */
        int n = tile * TILE_PAGES + in_tile;
        return n <= p.last_page && tile >= 0 ? pages[n] : -1;
    };
    int next = page_of(p.end - 1);
    for (int it = 0, tile = p.end - 1; tile >= p.begin; it++, tile--) {
        int stage = it % STAGES, parity = it / STAGES % 2 ^ 1, page = next;
        next = page_of(tile - 1);
        int row = page < 0 ? -PAGE : (int)(page * a.page_rows + head_row);
        barrier_wait(&s->k_empty[stage], parity);
        if (lane == 0) barrier_expect(&s->k_full[stage], sizeof s->k[0]);
        __syncwarp();
        if (lane < 2 * TILE_PAGES) tile_load_2d(s->k[stage][half][in_tile * PAGE], kv, &s->k_full[stage], half * HALF, row);
        barrier_wait(&s->v_empty[stage], parity);
        if (lane == 0) barrier_expect(&s->v_full[stage], sizeof s->v[0]);
        __syncwarp();
        if (lane < 2 * TILE_PAGES) tile_load_2d(s->v[stage][half][in_tile * PAGE], kv, &s->v_full[stage], half * HALF, page < 0 ? -PAGE : row + (int)a.half_rows);
    }
}

__device__ static inline void start_scores(float (&s)[64], uint64_t q, uint64_t k) {
    warpgroup_begin();
    warpgroup_product_k<false>(s, q, k);
#pragma unroll
    for (int c = 1; c < HEAD / 16; c++)
        warpgroup_product_k<true>(s, tile_behind(q, c / 4 * QUERIES * HALF * 2 + c % 4 * 32), tile_behind(k, c / 4 * KEYS * HALF * 2 + c % 4 * 32));
    warpgroup_commit();
}
__device__ static inline void start_values(float (&o)[64], const uint32_t (&p)[32], uint64_t v) {
    warpgroup_begin();
#pragma unroll
    for (int c = 0; c < KEYS / 16; c++) warpgroup_product_mn(o, p + 4 * c, tile_behind(v, c * 16 * HALF * 2));
    warpgroup_commit();
}

__device__ static void put_rows(const struct run_args &a, const struct run_place &p, int head, const float (&o)[64], struct running *run) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32 % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        run->total[r] += __shfl_xor_sync(~0u, run->total[r], 1);
        run->total[r] += __shfl_xor_sync(~0u, run->total[r], 2);
        int row = p.block + warp * 16 + g + r * 8;
        if (row >= p.count) continue;
        if (a.splits > 1) {
            int64_t at = ((int64_t)blockIdx.y * p.count + row) * a.heads + head;
            float *to = a.partial + at * HEAD + t * 2;
#pragma unroll
            for (int j = 0; j < 16; j++) *(float2 *)(to + j * 8) = make_float2(o[4 * j + 2 * r], o[4 * j + 2 * r + 1]);
            if (t == 0) *(float2 *)(a.partial + (int64_t)a.splits * p.count * a.heads * HEAD + at * 2) = make_float2(run->total[r], run->most[r] * a.scale);
            continue;
        }
        float f = 1 / run->total[r];
        bf16 *to = a.out + ((int64_t)(p.first + row) * a.heads + head) * HEAD + t * 2;
#pragma unroll
        for (int j = 0; j < 16; j++) *(uint32_t *)(to + j * 8) = pack_bf16(o[4 * j + 2 * r] * f, o[4 * j + 2 * r + 1] * f);
    }
}

/* A warpgroup: 64 queries of one head. */
__device__ static void attend_tiles(const struct run_args &a, const struct run_place &p, struct run_tiles *s, int mine) {
    enum { TURN = 1, BOTH = 128 * CONSUMERS };
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    uint64_t q = tile_descriptor(s->q[mine], 16, 1024);
    float scores[64], o[64];
    uint32_t weights[32];
    float keep[2];
    struct running run = {{-INFINITY, -INFINITY}, {0, 0}};
#pragma unroll
    for (int i = 0; i < 64; i++) o[i] = 0;
    int reach = p.slot0 + warp * 16 + lane / 4, tile = p.end - 1;
    barrier_wait(&s->q_full, 0);
    if (tile >= p.begin) {
        barrier_wait(&s->k_full[0], 0);
        start_scores(scores, q, tile_descriptor(s->k[0], 16, 1024));
        warpgroup_wait<0>();
        warpgroup_hold(scores);
        if (lane == 0) barrier_arrive(&s->k_empty[0]);
        if (mine == 1 && tile > p.begin) turn_pass(TURN, BOTH); /* the first warpgroup begins */
        if ((tile + 1) * KEYS - 1 > p.slot0) weigh<true>(scores, &run, keep, a.scale, reach - tile * KEYS, reach - tile * KEYS + 8);
        else weigh<false>(scores, &run, keep, a.scale, 0, 0);
        pack_weights(scores, weights);
        int it = 1;
        for (tile--; tile >= p.begin; tile--, it++) {
            int stage = it % STAGES, before = (it - 1) % STAGES;
            barrier_wait(&s->k_full[stage], it / STAGES % 2);
            turn_wait(TURN + mine, BOTH);
            start_scores(scores, q, tile_descriptor(s->k[stage], 16, 1024));
            barrier_wait(&s->v_full[before], (it - 1) / STAGES % 2);
            start_values(o, weights, tile_descriptor(s->v[before], KEYS * HALF * 2, 1024));
            if (mine == 0 || tile > p.begin) turn_pass(TURN + 1 - mine, BOTH);
            warpgroup_wait<1>();
            warpgroup_hold(scores);
            if (lane == 0) barrier_arrive(&s->k_empty[stage]);
            if ((tile + 1) * KEYS - 1 > p.slot0) weigh<true>(scores, &run, keep, a.scale, reach - tile * KEYS, reach - tile * KEYS + 8);
            else weigh<false>(scores, &run, keep, a.scale, 0, 0);
            warpgroup_wait<0>();
            warpgroup_hold(o);
            if (lane == 0) barrier_arrive(&s->v_empty[before]);
#pragma unroll
            for (int i = 0; i < 64; i++) o[i] *= keep[i / 2 % 2];
            pack_weights(scores, weights);
        }
        int last = (it - 1) % STAGES;
        barrier_wait(&s->v_full[last], (it - 1) / STAGES % 2);
        start_values(o, weights, tile_descriptor(s->v[last], KEYS * HALF * 2, 1024));
        warpgroup_wait<0>();
        warpgroup_hold(o);
    }
    put_rows(a, p, p.head + mine, o, &run);
}

#endif

__global__ void __launch_bounds__(THREADS, 1) warpgroup_kernel(const struct run_args a, const __grid_constant__ CUtensorMap kv, const __grid_constant__ CUtensorMap q) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    DYNAMIC_SHARED(memory);
    struct run_tiles *s = (struct run_tiles *)(memory + (-shared_address(memory) & 1023));
    int role = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        tile_prefetch_map(&kv);
        tile_prefetch_map(&q);
        barrier_init(&s->q_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&s->k_full[i], 1), barrier_init(&s->v_full[i], 1);
            barrier_init(&s->k_empty[i], 4 * CONSUMERS), barrier_init(&s->v_empty[i], 4 * CONSUMERS); /* a lane of each warp */
        }
        barrier_init_done();
    }
    __syncthreads();
    wait_for_input();
    struct run_place p = place(a);
    if (role == 0) {
        warpgroup_give_registers<24>();
        if (threadIdx.x < 32) bring_tiles(a, p, s, &kv, &q);
    } else {
        warpgroup_take_registers<240>();
        attend_tiles(a, p, s, role - 1);
    }
#endif
}

/* A warp puts the splits of one row of one head together. */
__global__ void merge_kernel(const struct run_args a) {
    wait_for_input();
    int64_t all = (int64_t)a.run[0].count * a.heads, item = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (item >= all) return;
    const float2 *about = (const float2 *)(a.partial + a.splits * all * HEAD);
    float top = -INFINITY, total = 0;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int s = 0; s < a.splits; s++) top = fmaxf(top, about[s * all + item].y);
    for (int s = 0; s < a.splits; s++) {
        float2 one = about[s * all + item];
        float f = exp2f(one.y - top); /* 0 for a split with no keys; top is a number: every row sees itself */
        float4 v = *(const float4 *)(a.partial + (s * all + item) * HEAD + lane * 4);
        total += one.x * f, sum.x += v.x * f, sum.y += v.y * f, sum.z += v.z * f, sum.w += v.w * f;
    }
    *(uint2 *)(a.out + ((int64_t)a.run[0].first * a.heads + item) * HEAD + lane * 4) = make_uint2(pack_bf16(sum.x / total, sum.y / total), pack_bf16(sum.z / total, sum.w / total));
}

/* ---- host ---- */

bool attend_warpgroup_fit(struct backend_model *m) {
    const struct text_config *t = &m->w.config.text;
    if (m->arch != 90 || t->head_dim != HEAD || t->heads / t->kv_heads % 2 || (int64_t)m->capacity * (int64_t)(m->page_bytes / (HEAD * 2)) > INT32_MAX) return false;
    return tile_encoder(&m->encode_map) != NULL;
}

/* How many pieces each row's keys are cut into: enough to give every multiprocessor a block, none shorter than what a merge is worth. */
static int splits_of(const struct backend_model *m, int blocks, int64_t tiles) {
    int splits = blocks ? m->sm_count / blocks : 1;
    if (splits > MOST_RUN_SPLITS) splits = MOST_RUN_SPLITS;
    if (splits > tiles / MIN_SPLIT_TILES) splits = (int)(tiles / MIN_SPLIT_TILES);
    return splits < 1 ? 1 : splits;
}

bool attend_warpgroup(struct backend_model *m, const struct run_pages *v, const struct drow *rows, const struct attend_run *runs, int count, const bf16 *q, bf16 *out) {
    const struct text_config *t = &m->w.config.text;
    struct run_args a = {};
    int64_t page_rows = (int64_t)(v->page_bytes / (HEAD * 2)), all = 0;
    a.rows = rows, a.pages = v->pages, a.out = out, a.page_rows = page_rows, a.layer_row = v->layer_at / HEAD, a.half_rows = v->layer_stride / HEAD / 2;
    a.heads = t->heads, a.group = t->heads / t->kv_heads, a.runs = count, a.splits = 1, a.scale = (float)(1.4426950408889634 / sqrt((double)HEAD));
    int order[MOST_RUNS], blocks = 0;
    for (int i = 0; i < count; i++) {
        int at = i;
        for (; at > 0 && runs[order[at - 1]].length < runs[i].length; at--) order[at] = order[at - 1];
        order[at] = i;
        if (runs[i].first + runs[i].count > all) all = runs[i].first + runs[i].count;
    }
    for (int i = 0; i < count; i++) {
        const struct attend_run *r = &runs[order[i]];
        a.run[i].first = r->first, a.run[i].count = r->count, a.run[i].before = blocks;
        blocks += (r->count + QUERIES - 1) / QUERIES * (a.heads / 2);
    }
    if (count == 1) a.splits = splits_of(m, blocks, (runs[0].length + KEYS - 1) / KEYS);
    if (a.splits > 1) {
        struct err err;
        a.partial = (float *)buffer_get(m, BUFFER_PARTIAL, (size_t)a.splits * (size_t)runs[0].count * (size_t)a.heads * (HEAD + 2) * 4, &err);
        if (!a.partial) a.splits = 1; /* slower, and right */
    }
    CUtensorMap kv_map, q_map;
    const cuuint64_t kv_size[2] = {HEAD, (cuuint64_t)(v->capacity * page_rows)}, kv_stride[1] = {HEAD * 2};
    const cuuint64_t q_size[3] = {HEAD, (cuuint64_t)a.heads, (cuuint64_t)all}, q_stride[2] = {HEAD * 2, (cuuint64_t)a.heads * HEAD * 2};
    const cuuint32_t kv_box[2] = {HALF, PAGE}, q_box[3] = {HALF, 1, QUERIES};
    if (!tile_map(m->encode_map, &kv_map, v->kv, 2, kv_size, kv_stride, kv_box) || !tile_map(m->encode_map, &q_map, q, 3, q_size, q_stride, q_box)) return false;
    launch(m, warpgroup_kernel, dim3((unsigned)blocks, (unsigned)a.splits), dim3(THREADS), SHARED, a, kv_map, q_map);
    if (a.splits > 1) launch(m, merge_kernel, dim3((unsigned)(((int64_t)runs[0].count * a.heads * 32 + 255) / 256)), dim3(256), 0, a);
    return true;
}

#endif
