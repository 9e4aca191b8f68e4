/* Choosing tokens where the logits are (backend/pick.h is the definition).
 *
 * A row is cut into 256 pieces. A warp a piece reads the row once for each piece's largest, whose it is, and its sum of exponentials. The block
 * that is the last of a row's to have done so knows by them how large the k-th of the row is at least: the k-th largest of the pieces' largest. Only
 * pieces that reach this bound are read again (about k of 256), what reaches it is put in order, and one number is drawn. Rows of 151,936 logits
 * lie in the second-level cache: 64 of them are 39 MB, 10 us to read.
 *
 * Biases and penalties are written into the logits, which nobody reads afterwards; between them the log-probabilities are taken, since
 * penalties are not for them. What is asked travels as the kernels' parameters, and the answer is written into pinned host memory: no copy
 * stands in between, but for masks and adjustments. Where an answer is a token and its log-probability the host watches the 64-bit word that will
 * hold them, which tells it some microseconds before the stream does. Without top-k the choice is made by pick_whole.cu, from the pieces'
 * largest. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cuda/pick_job.h"

/* Biases, or penalties, into the logits. */
template <int MOST> __global__ void adjust_kernel(const struct pick_args a, const struct job_list<MOST> jobs) {
    wait_for_input();
    struct job j = jobs.job[blockIdx.x];
    for (int i = threadIdx.x; i < j.adjust_count; i += blockDim.x) {
        struct pick_adjust d = a.adjusts[j.adjust_at + i];
        float *v = &a.logits[(int64_t)j.row * a.vocab + d.id];
        if (!a.choose) {
            a.raw[j.adjust_at + i] = *v;
            *v += d.bias;
            continue;
        }
        a.saved[j.adjust_at + i] = *v;
        if (d.minus != 0 || d.factor != 1 || d.then_minus != 0) {
            float x = *v - d.minus;
            *v = (x < 0 ? x * d.factor : x / d.factor) - d.then_minus;
        }
    }
}

/* Code that runs once is read from memory while it runs, so that a kernel of a few microseconds has to be short: loops stay loops where the values in
 * registers allow it, single-precision instructions where 1e-6 is enough. */
enum { FOURS = 5, LANE_CHUNK = 32 * 4 * FOURS }; /* a warp reads so many values at once; a piece of 151,936 / 256 is one */
static const float log2_e = 1.4426950408889634f;

/* The lane's part of a chunk; -infinity where nothing can be chosen. ROW_OF_FOURS: rows and pieces begin and end at multiples of 16 bytes. */
template <bool ROW_OF_FOURS> __device__ static inline void read_chunk(const struct pick_args &a, const struct job &j, const float *row, int from, int end, float v[FOURS][4]) {
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
        int id = from + i * 128;
        if (ROW_OF_FOURS) {
            float4 four = id < end ? *(const float4 *)(row + id) : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
            v[i][0] = four.x, v[i][1] = four.y, v[i][2] = four.z, v[i][3] = four.w;
        } else
            for (int k = 0; k < 4; k++) v[i][k] = id + k < end ? row[id + k] : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < FOURS; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) v[i][k] = fmaxf(v[i][k], -INFINITY); /* no NaN */
    if (j.mask_at < 0) return;
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
        int id = from + i * 128;
        uint32_t bits = id < end ? a.masks[j.mask_at + id / 32] >> id % 32 : 0;
#pragma unroll
        for (int k = 0; k < 4; k++) v[i][k] = bits >> k & 1 ? v[i][k] : -INFINITY;
    }
}

/* A piece, by a warp: its largest, whose that is (the lowest id), its sum of exponentials. */
template <bool ROW_OF_FOURS> __device__ static inline void read_piece(const struct pick_args &a, const struct job &j, int number, int at) {
    int lane = threadIdx.x % 32, size = piece_size(a.vocab), begin = at * size, end = begin + size < a.vocab ? begin + size : a.vocab, id = begin;
    const float *row = a.logits + (int64_t)j.row * a.vocab;
    float most = -INFINITY, sum = 0;
    for (int from = begin + lane * 4; from - lane * 4 < end; from += LANE_CHUNK) {
        float v[FOURS][4], top = -INFINITY;
        int best = 0;
        read_chunk<ROW_OF_FOURS>(a, j, row, from, end, v);
#pragma unroll
        for (int i = 0; i < FOURS; i++) top = fmaxf(top, fmaxf(fmaxf(v[i][0], v[i][1]), fmaxf(v[i][2], v[i][3])));
        if (!(top > -INFINITY)) continue;
#pragma unroll
        for (int i = FOURS - 1; i >= 0; i--)
#pragma unroll
            for (int k = 3; k >= 0; k--) best = v[i][k] == top ? i * 128 + k : best;
        if (top > most) sum *= exp2_near((most - top) * log2_e), most = top, id = from + best;
#pragma unroll
        for (int i = 0; i < FOURS; i++)
#pragma unroll
            for (int k = 0; k < 4; k++) sum += exp2_near((v[i][k] - most) * log2_e);
    }
    float own = most;
#pragma unroll 1
    for (int d = 16; d; d /= 2) {
        float other = __shfl_xor_sync(~0u, most, d);
        int whose = __shfl_xor_sync(~0u, id, d);
        if (other > most || (other == most && whose < id)) most = other, id = whose;
    }
    sum = own > -INFINITY ? sum * exp2_near((own - most) * log2_e) : 0;
#pragma unroll 1
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0) store_relaxed_16(&a.pieces[(int64_t)number * PIECES + at], make_uint4(__float_as_uint(most), __float_as_uint(sum), (unsigned)id, 0));
}

/* Is this the last block of the row's to come here? Then it sees what the others have written. */
__device__ static inline bool is_last(unsigned *arrived) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(arrived, 1u) == gridDim.x - 1;
        if (last) {
            *arrived = 0;
            __threadfence();
        }
    }
    __syncthreads();
    return last;
}

/* ---- what the first of a row are ---- */

struct chooser {
    float most[PIECES], sum[PIECES];
    struct candidate best[BLOCK_WARPS];
    union {
        struct candidate found[MOST_FOUND];
        double upto[MOST_FOUND]; /* when they are in order: sums of the weights up to here */
    };
    struct candidate sorted[MOST_FOUND];
    float weight[MOST_FOUND];
    double norm;
    int32_t choice;
    int histogram[256];
    int16_t reach[PIECES]; /* pieces that reach the bound */
    int reach_count;
    int count; /* found, more than MOST_FOUND: not all are there */
    float least;
    unsigned prefix;
    int below; /* places still to be given */
};

__device__ static inline unsigned order_of(float x) {
    unsigned u = __float_as_uint(x);
    return u >> 31 ? ~u : u | 0x80000000u;
}
__device__ static inline float value_of(unsigned key) { return __uint_as_float(key >> 31 ? key & 0x7FFFFFFFu : ~key); }

/* Scores that differ may become equal by the division: those that are nearly the bound are looked at, too. */
__device__ static inline float near_below(float x) { return x - fabsf(x) * 1e-6f; }

/* The k-th largest of the pieces' largest: those of other warps' pieces are counted without a look at who comes first among equals. */
__device__ static void bound_by_pieces(struct chooser &c, int count) {
    int t = threadIdx.x, first = t / 32 * 32, rank = 0;
    float own = c.most[t];
    const float4 *most = (const float4 *)c.most;
#pragma unroll 2
    for (int u = 0; u < first / 4; u++) rank += (most[u].x >= own) + (most[u].y >= own) + (most[u].z >= own) + (most[u].w >= own);
#pragma unroll 4
    for (int u = first; u < first + 32; u++) rank += c.most[u] > own || (c.most[u] == own && u < t);
#pragma unroll 2
    for (int u = first / 4 + 8; u < PIECES / 4; u++) rank += (most[u].x > own) + (most[u].y > own) + (most[u].z > own) + (most[u].w > own);
    if (rank == count - 1) c.least = own;
    __syncthreads();
}

/* The k-th largest of the row, digit by digit: where the bound leaves more than there is room for (few pieces hold all, or many equals). */
__device__ static void bound_exactly(const struct pick_args &a, const struct job &j, const float *row, struct chooser &c, int count) {
    if (threadIdx.x == 0) c.prefix = 0, c.below = count;
    for (int shift = 24; shift >= 0; shift -= 8) {
        c.histogram[threadIdx.x] = 0;
        __syncthreads();
        unsigned prefix = c.prefix;
        for (int id = threadIdx.x; id < a.vocab; id += blockDim.x) {
            float x = allowed(a, j, row, id);
            unsigned key = order_of(x);
            if (x > -INFINITY && (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8))) atomicAdd(&c.histogram[key >> shift & 255], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = 255, below = c.below;
            for (; digit > 0 && c.histogram[digit] < below; digit--) below -= c.histogram[digit];
            c.below = below, c.prefix = prefix | (unsigned)digit << shift;
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) c.least = value_of(c.prefix);
    __syncthreads();
}

/* Everything that reaches the bound, from the pieces that do; returns how much that is. */
template <bool ROW_OF_FOURS> __device__ static inline int collect(const struct pick_args &a, const struct job &j, const float *row, struct chooser &c) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, size = piece_size(a.vocab);
    float least = near_below(c.least);
    if (threadIdx.x == 0) c.count = c.reach_count = 0;
    __syncthreads();
    if (c.most[threadIdx.x] >= least && c.most[threadIdx.x] > -INFINITY) c.reach[atomicAdd(&c.reach_count, 1)] = (int16_t)threadIdx.x;
    __syncthreads();
    for (int i = warp; i < c.reach_count; i += BLOCK_WARPS) {
        int begin = c.reach[i] * size, end = begin + size < a.vocab ? begin + size : a.vocab;
        for (int from = begin + lane * 4; from - lane * 4 < end; from += LANE_CHUNK) {
            float v[FOURS][4];
            unsigned reach = 0;
            read_chunk<ROW_OF_FOURS>(a, j, row, from, end, v);
#pragma unroll
            for (int k = 0; k < FOURS * 4; k++) reach |= (unsigned)(v[k / 4][k % 4] >= least && v[k / 4][k % 4] > -INFINITY) << k;
            for (; reach; reach &= reach - 1) { /* few: asked for again, from the nearest cache */
                int k = __ffs((int)reach) - 1, id = from + k / 4 * 128 + k % 4, at = atomicAdd(&c.count, 1);
                if (at < MOST_FOUND) c.found[at] = {row[id], id};
            }
        }
    }
    __syncthreads();
    int count = c.count;
    __syncthreads();
    return count;
}

/* What is above the exact bound, which is less than was wanted, and of its equals those with the lowest ids, as many as there is room for. */
__device__ static void collect_equals(const struct pick_args &a, const struct job &j, const float *row, struct chooser &c) {
    float least = c.least;
    if (threadIdx.x == 0) c.count = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < a.vocab; id += blockDim.x) {
        float x = allowed(a, j, row, id);
        if (!(x > least)) continue;
        c.found[atomicAdd(&c.count, 1)] = {x, id};
    }
    __syncthreads();
    int n = c.count;
    __syncthreads();
    for (int at = 0; threadIdx.x < 32 && at < a.vocab && n < MOST_FOUND; at += 32) {
        int id = at + threadIdx.x;
        bool equal = id < a.vocab && allowed(a, j, row, id) == least;
        unsigned all = __ballot_sync(~0u, equal);
        int place = n + __popc(all & ((1u << threadIdx.x) - 1));
        if (equal && place < MOST_FOUND) c.found[place] = {least, id};
        n += __popc(all);
    }
    if (threadIdx.x == 0) c.count = MOST_FOUND + 1; /* not all are there */
    __syncthreads();
}

__device__ static inline void sort_found(struct chooser &c, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        struct candidate own = c.found[i];
        int rank = 0;
#pragma unroll 4
        for (int k = 0; k < n; k++) rank += before(c.found[k], own);
        c.sorted[rank] = own;
    }
    __syncthreads();
}

/* The first `count` of the row, and perhaps more, in order; returns how many. */
template <bool ROW_OF_FOURS> __device__ static inline int find_first(const struct pick_args &a, const struct job &j, const float *row, struct chooser &c, int count, bool divide) {
    if (count == 0) return 0;
    bound_by_pieces(c, count);
    for (int exactly = 0; collect<ROW_OF_FOURS>(a, j, row, c) > MOST_FOUND; exactly++) {
        if (exactly) {
            collect_equals(a, j, row, c);
            break;
        }
        bound_exactly(a, j, row, c, count);
    }
    int n = c.count < MOST_FOUND ? c.count : MOST_FOUND;
    if (divide) {
        for (int i = threadIdx.x; i < n; i += blockDim.x) c.found[i].score /= j.temperature;
        __syncthreads();
    }
    sort_found(c, n);
    return n;
}

/* The draw, by a warp, which knows it as a whole. */
__device__ static inline int32_t draw(const struct job &j, struct chooser &c, int n) {
    int lane = threadIdx.x % 32;
    if (j.top_k < n) { /* ties with the k-th stay */
        float last = c.sorted[j.top_k - 1].score;
        int end = j.top_k;
        for (unsigned same = ~0u; same == ~0u && end < n;) {
            same = __ballot_sync(~0u, end + lane < n && c.sorted[end + lane].score == last);
            end += same == ~0u ? 32 : __ffs((int)~same) - 1;
        }
        if (end >= n && c.count > MOST_FOUND) return TOO_MANY_TIES;
        n = end < n ? end : n;
    }
    double total = 0;
#pragma unroll 1
    for (int from = 0; from < n; from += 32) {
        int i = from + lane;
        float w = i < n ? expf(c.sorted[i].score - c.sorted[0].score) : 0, sum = w;
#pragma unroll 1
        for (int d = 1; d < 32; d *= 2) {
            float before = __shfl_up_sync(~0u, sum, d);
            if (lane >= d) sum += before;
        }
        if (i < n) c.weight[i] = w, c.upto[i] = total + (double)sum;
        total += (double)__shfl_sync(~0u, sum, 31);
    }
    __syncwarp();
    int chosen = 0;
#pragma unroll 1
    for (int turn = 0; turn < 3; turn++) { /* where top-p, then min-p end what is kept; then where the draw falls */
        if (turn == 0 ? !(j.top_p < 1) : turn == 1 && !(j.min_p > 0)) continue;
        double at = (turn == 2 ? j.draw : (double)j.top_p) * total;
        unsigned ends = 0;
        int from = 0;
        for (;; from += 32) {
            int i = from + lane;
            ends = __ballot_sync(~0u, i < n && (turn == 0 ? i > 0 && c.upto[i - 1] >= at : turn == 1 ? i > 0 && c.weight[i] < j.min_p : c.upto[i] > at));
            if (ends || from + 32 >= n) break;
        }
        int end = ends ? from + __ffs((int)ends) - 1 : n;
        if (turn == 2) chosen = end < n ? end : n - 1;
        else if (end < n) n = end, total = c.upto[n - 1];
    }
    return c.sorted[chosen].id;
}

/* The log of the sum of exponentials, by a warp. */
__device__ static inline void find_norm(struct chooser &c) {
    int lane = threadIdx.x % 32;
    float most = -INFINITY, sum = 0;
#pragma unroll 2
    for (int i = lane; i < PIECES; i += 32) most = fmaxf(most, c.most[i]);
#pragma unroll 1
    for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
#pragma unroll 2
    for (int i = lane; i < PIECES; i += 32)
        if (c.most[i] > -INFINITY) sum += c.sum[i] * exp2_near((c.most[i] - most) * log2_e);
#pragma unroll 1
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0) c.norm = (double)most + (double)logf(sum);
}

/* The likeliest, whom its piece names, by a warp. */
__device__ static inline int32_t likeliest(const struct chooser &c, const struct piece *pieces) {
    struct candidate best = {-INFINITY, 0};
#pragma unroll 2
    for (int i = threadIdx.x % 32; i < PIECES; i += 32)
        if (c.most[i] > best.score) best = {c.most[i], i};
#pragma unroll 1
    for (int d = 16; d; d /= 2) {
        struct candidate other = {__shfl_xor_sync(~0u, best.score, d), __shfl_xor_sync(~0u, best.id, d)};
        if (before(other, best)) best = other;
    }
    return best.score > -INFINITY ? (int32_t)load_relaxed_4(&pieces[best.id].id) : -1;
}

/* The last block of a job's, when all pieces are there. */
template <bool ROW_OF_FOURS> __device__ static inline void choose(const struct pick_args &a, const struct job &j, int number, struct chooser &c) {
    const float *row = a.logits + (int64_t)j.row * a.vocab;
    const struct piece *pieces = a.pieces + (int64_t)number * PIECES;
    uint2 words = load_relaxed_8(&pieces[threadIdx.x]);
    int warp = threadIdx.x / 32;
    c.most[threadIdx.x] = __uint_as_float(words.x), c.sum[threadIdx.x] = __uint_as_float(words.y);
    __syncthreads();
    bool choosing = (a.choose || !j.penalties) && !j.whole, greedy = choosing && !j.sampled && !j.top;
    int n = greedy ? 0 : find_first<ROW_OF_FOURS>(a, j, row, c, choosing ? j.first : j.top, j.sampled && choosing);
    if (warp == 0) {
        int32_t id = greedy ? likeliest(c, pieces) : !choosing || n == 0 ? -1 : j.sampled ? draw(j, c, n) : c.sorted[0].id;
        if (threadIdx.x == 0) c.choice = id;
    } else if (warp == 1) {
        if (!a.choose) find_norm(c);
        else if (threadIdx.x == 32) c.norm = a.norms[number];
    }
    __syncthreads();
    double norm = c.norm;
    struct picked *out = &a.out[number];
    if (!a.choose) {
        int top = n < j.top ? n : j.top;
        if (threadIdx.x == 0) a.norms[number] = norm, out->top_count = top;
        for (int i = threadIdx.x; i < top; i += blockDim.x) out->top_id[i] = c.sorted[i].id, out->top_logprob[i] = (float)((double)row[c.sorted[i].id] - norm);
    }
    if (threadIdx.x == 0) put_choice(a, j, number, row, c.choice, a.choose, norm);
}

template <int MOST, bool ROW_OF_FOURS> __global__ void __launch_bounds__(BLOCK_WARPS * 32) pick_kernel(const struct pick_args a, const struct job_list<MOST> jobs) {
    __shared__ struct chooser c;
    static_assert(PIECES == BLOCK_WARPS * 32, "a thread for each piece");
    int number = blockIdx.y, warp = blockIdx.x * BLOCK_WARPS + threadIdx.x / 32;
    struct job j = jobs.job[number];
    wait_for_input();
    if (a.choose && (!j.penalties || j.whole)) return;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; j.whole && i < WHOLE_WORDS; i += gridDim.x * blockDim.x) a.bins[(int64_t)number * WHOLE_WORDS + i] = 0;
#pragma unroll 1
    for (int at = warp; at < PIECES; at += gridDim.x * BLOCK_WARPS) read_piece<ROW_OF_FOURS>(a, j, number, at);
    if (is_last(&a.arrived[number])) choose<ROW_OF_FOURS>(a, j, number, c);
}

/* ---- the host's side ---- */

/* Sampling looks at MOST_FIRST candidates at most, or at all. */
static bool is_whole(const struct pick *p, int vocab) { return p->sampled && (p->top_k < 1 || p->top_k >= vocab) && p->temperature > 0; }

bool cuda_can_pick(const struct backend_model *m, const struct pick *p) {
    return m->w.config.text.vocab <= PIECES * 32 * LANE_VALUES && (!p->sampled || (p->top_k >= 1 && p->top_k <= MOST_FIRST) || is_whole(p, m->w.config.text.vocab));
}

static bool has_penalties(const struct pick *p) {
    for (int i = 0; i < p->adjust_count; i++)
        if (p->adjust[i].minus != 0 || p->adjust[i].factor != 1 || p->adjust[i].then_minus != 0) return true;
    return false;
}

/* The row as it was, to the host, and chosen there: for a row with more equals than a job collects. */
static int pick_here(struct backend_model *m, const struct pick_place *l, const float *logits, const float *raw, struct err *err) {
    size_t vocab = (size_t)m->w.config.text.vocab, count = (size_t)l->pick->adjust_count;
    float *row = (float *)malloc((vocab + count) * 4);
    void *work = malloc(pick_work_bytes((int)vocab));
    int r = row && work ? 0 : err_set(err, ERR_MEMORY, "out of memory for a row of logits");
    if (!r) r = cuda_failed(cudaMemcpyAsync(row, logits + (size_t)l->row * vocab, vocab * 4, cudaMemcpyDeviceToHost, m->stream), "reading logits", err);
    if (!r && count) r = cuda_failed(cudaMemcpyAsync(row + vocab, raw, count * 4, cudaMemcpyDeviceToHost, m->stream), "reading logits", err);
    if (!r) r = cuda_failed(cudaStreamSynchronize(m->stream), "reading logits", err);
    for (size_t i = 0; i < count && !r; i++) row[l->pick->adjust[i].id] = row[vocab + i];
    if (!r) pick_from_logits(row, (int)vocab, l->pick, work, l->out);
    free(row);
    free(work);
    return r;
}

static size_t round_up(size_t n) { return (n + 255) / 256 * 256; }

template <int MOST> static void launch_picks(struct backend_model *m, struct pick_args a, const struct job *jobs, int count, bool adjusts, bool penalties) {
    struct job_list<MOST> list;
    memcpy(list.job, jobs, (size_t)count * sizeof *jobs);
    for (a.choose = 0; a.choose <= (penalties ? 1 : 0); a.choose++) {
        if (adjusts) launch(m, adjust_kernel<MOST>, dim3((unsigned)count), dim3(64), 0, a, list);
        dim3 grid(count <= FEW_JOBS ? PIECES / BLOCK_WARPS : PIECES / BLOCK_WARPS / 2, (unsigned)count), block(BLOCK_WARPS * 32);
        if (a.vocab % 4) launch(m, pick_kernel<MOST, false>, grid, block, 0, a, list);
        else launch(m, pick_kernel<MOST, true>, grid, block, 0, a, list);
    }
    if (a.bins) launch_whole<MOST>(m, a, list, count);
}

/* What the host watches: no answer has these bits (id -1 has log-probability 0). */
#define NO_ANSWER (~0ull)

/* Waits for all answers; the stream is asked now and then whether it still works on them. Kernels whose blocks wait for one another could do so for
 * ever: a caller is told in the end. */
static int await_answers(struct backend_model *m, const volatile unsigned long long *answer, int count, struct err *err) {
    enum { LOOKS = 2000, MOST_SECONDS = 60 }; /* looks: about 100 us. The longest pass takes some seconds */
    struct timespec began = {}, now;
    for (int i = 0; i < count; i++)
        for (int looks = 1; answer[i] == NO_ANSWER; looks++) {
            if (looks % LOOKS == 0) {
                cudaError_t e = cudaStreamQuery(m->stream);
                clock_gettime(CLOCK_MONOTONIC, &now);
                if (!began.tv_sec) began = now;
                if (e == cudaErrorNotReady && now.tv_sec - began.tv_sec > MOST_SECONDS) return err_set(err, ERR_IO, "CUDA: no answer for %d seconds: the device hangs", (int)MOST_SECONDS);
                if (e == cudaErrorNotReady) continue;
                if (e) return cuda_failed(e, "picking tokens", err);
                if (answer[i] == NO_ANSWER) return err_set(err, ERR_IO, "CUDA: picking tokens: no answer came");
            }
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
    return 0;
}

static struct job job_of(const struct pick_place *l, int adjust_at, int mask_at, int vocab) {
    const struct pick *p = l->pick;
    struct job j = {};
    j.row = l->row, j.top = p->top < 0 ? 0 : p->top > PICK_TOP_MOST ? PICK_TOP_MOST : p->top, j.top_k = p->top_k;
    j.adjust_at = adjust_at, j.adjust_count = p->adjust_count, j.mask_at = p->mask ? mask_at : -1;
    j.sampled = p->sampled, j.penalties = has_penalties(p), j.temperature = p->temperature, j.top_p = p->top_p, j.min_p = p->min_p, j.draw = p->draw;
    j.whole = is_whole(p, vocab) && !(p->top_k >= 1 && p->top_k <= MOST_FIRST);
    j.first = j.whole ? 0 : p->sampled ? p->top_k : 1;
    if (!j.penalties && j.first < j.top) j.first = j.top;
    return j;
}

/* Fixed places in front of what is uploaded, on the device and in pinned memory. */
struct pick_work {
    unsigned arrived[MOST_JOBS], unused[MOST_JOBS];
    struct piece pieces[MOST_JOBS * PIECES];
    double norms[MOST_JOBS];
    unsigned bins[MOST_JOBS * WHOLE_WORDS];
};
struct pick_answers {
    unsigned long long answer[MOST_JOBS];
    struct picked out[MOST_JOBS];
};

/* At most MOST_JOBS of them. */
static int run_some(struct backend_model *m, const struct pick_place *list, int count, float *logits, bool host_written, struct err *err) {
    int vocab = m->w.config.text.vocab, adjusts = 0, masks = 0, words = (vocab + 31) / 32;
    bool penalties = false, whole = false, tops = false;
    for (int i = 0; i < count; i++) adjusts += list[i].pick->adjust_count, masks += list[i].pick->mask != NULL;
    size_t adjust_bytes = round_up((size_t)adjusts * sizeof(struct pick_adjust)), mask_bytes = round_up((size_t)masks * words * 4), upload = adjust_bytes + mask_bytes;
    const size_t behind = round_up(sizeof(struct pick_work)), host_at = round_up(sizeof(struct pick_answers)), had = m->buffer[BUFFER_PICKS].bytes;
    char *host = (char *)pinned_get(m, PINNED_PICKS, host_at + upload, err), *device = (char *)buffer_get(m, BUFFER_PICKS, behind + upload + (size_t)adjusts * 8, err);
    if (!host || !device) return ERR_MEMORY;
    struct pick_work *work = (struct pick_work *)device;
    struct pick_answers *answers = (struct pick_answers *)host;
    int r = m->buffer[BUFFER_PICKS].bytes == had ? 0 : cuda_failed(cudaMemsetAsync(work->arrived, 0, sizeof work->arrived, m->stream), "clearing counters", err);
    struct pick_adjust *adjust = (struct pick_adjust *)(host + host_at);
    uint32_t *mask = (uint32_t *)(host + host_at + adjust_bytes);
    struct job jobs[MOST_JOBS];
    for (int i = 0, at = 0, mask_at = 0; i < count; i++) {
        const struct pick *p = list[i].pick;
        jobs[i] = job_of(&list[i], at, mask_at, vocab);
        whole = whole || jobs[i].whole, tops = tops || jobs[i].top;
        if (p->adjust_count) memcpy(adjust + at, p->adjust, (size_t)p->adjust_count * sizeof *adjust);
        if (p->mask) memcpy(mask + mask_at, p->mask, (size_t)words * 4), mask_at += words;
        at += p->adjust_count;
        penalties = penalties || jobs[i].penalties;
        answers->answer[i] = NO_ANSWER;
    }
    struct pick_args a = {};
    a.adjusts = (const struct pick_adjust *)(device + behind), a.masks = (const uint32_t *)(device + behind + adjust_bytes), a.saved = (float *)(device + behind + upload), a.raw = a.saved + adjusts;
    a.pieces = work->pieces, a.arrived = work->arrived, a.norms = work->norms, a.bins = whole ? work->bins : NULL;
    a.out = answers->out, a.logits = logits, a.vocab = vocab;
    a.answer = whole || tops || penalties ? NULL : answers->answer, a.for_all = host_written;
    if (!r && upload) r = cuda_failed(cudaMemcpyAsync(device + behind, host + host_at, upload, cudaMemcpyHostToDevice, m->stream), "uploading picks", err);
    if (r) return r;
    if (count <= FEW_JOBS) launch_picks<FEW_JOBS>(m, a, jobs, count, adjusts > 0, penalties);
    else launch_picks<MOST_JOBS>(m, a, jobs, count, adjusts > 0, penalties);
    r = cuda_failed(cudaGetLastError(), "picking tokens", err);
    if (!r) r = a.answer ? await_answers(m, answers->answer, count, err) : cuda_failed(cudaStreamSynchronize(m->stream), "picking tokens", err);
    for (int i = 0; i < count && !r; i++) {
        if (a.answer) {
            unsigned long long v = answers->answer[i];
            unsigned bits = (unsigned)(v >> 32);
            list[i].out->id = (int32_t)v, list[i].out->top_count = 0;
            memcpy(&list[i].out->logprob, &bits, 4);
        } else *list[i].out = answers->out[i];
        if (list[i].out->id == TOO_MANY_TIES) r = pick_here(m, &list[i], logits, a.raw + jobs[i].adjust_at, err);
    }
    return r;
}

int picks_run_behind(struct backend_model *m, const struct pick_place *list, int count, float *logits, bool host_written, struct err *err) {
    int r = 0;
    for (int at = 0; at < count && !r; at += MOST_JOBS) r = run_some(m, list + at, count - at < MOST_JOBS ? count - at : MOST_JOBS, logits, host_written, err);
    return r;
}

int picks_run(struct backend_model *m, const struct pick_place *list, int count, float *logits, struct err *err) {
    return picks_run_behind(m, list, count, logits, false, err);
}
