/* Choosing tokens where the logits are (backend/pick.h is the definition).
 *
 * A row is cut into 256 pieces. One kernel, a warp a piece, reads the row once for each piece's largest and its sum of exponentials. A
 * second, a block a row, knows by them how large the k-th of the row is at least: the k-th largest of the pieces' largest. Only pieces that
 * reach this bound are read again (about k of 256), what reaches it is put in order, and one number is drawn. Rows of 151,936 logits lie in
 * the second-level cache: 64 of them are 39 MB, 10 us to read.
 *
 * Biases and penalties are written into the logits, which nobody reads afterwards; between them the log-probabilities are taken, since
 * penalties are not for them. What is asked travels as the kernels' parameters, and the answer is written into pinned host memory: no copy
 * stands in between, but for masks and adjustments. Without top-k the choice is made by pick_whole.cu, from the pieces' largest. */
#include <stdlib.h>
#include <string.h>

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

template <int MOST> __global__ void __launch_bounds__(BLOCK_WARPS * 32) pieces_kernel(const struct pick_args a, const struct job_list<MOST> jobs) {
    wait_for_input();
    struct job j = jobs.job[blockIdx.y];
    if (a.choose && !j.penalties) return;
    int piece = blockIdx.x * BLOCK_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, size = piece_size(a.vocab);
    for (int i = piece * 32 + lane; j.whole && i < WHOLE_WORDS; i += PIECES * 32) a.bins[(int64_t)blockIdx.y * WHOLE_WORDS + i] = 0;
    int begin = piece * size, end = begin + size < a.vocab ? begin + size : a.vocab;
    const float *row = a.logits + (int64_t)j.row * a.vocab;
    float v[LANE_VALUES], most = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < LANE_VALUES; i++) {
        int id = begin + lane + i * 32;
        v[i] = id < end ? allowed(a, j, row, id) : -INFINITY;
        most = fmaxf(most, v[i]);
    }
    for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    if (!a.choose) {
#pragma unroll
        for (int i = 0; i < LANE_VALUES; i++)
            if (v[i] > -INFINITY) sum += expf(v[i] - most);
        for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    }
    if (lane == 0) a.sums[(int64_t)blockIdx.y * PIECES + piece] = make_float2(most, sum);
}

/* ---- what the first of a row are ---- */

struct chooser {
    float most[PIECES], sum[PIECES];
    struct candidate found[MOST_FOUND], sorted[MOST_FOUND];
    double weight[MOST_FOUND];
    int histogram[256];
    int count, kept; /* found, more than MOST_FOUND: not all are there; of sorted, how many top-k leaves */
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

/* The k-th largest of the pieces' largest. */
__device__ static void bound_by_pieces(struct chooser &c, int count) {
    int t = threadIdx.x, rank = 0;
    float own = c.most[t];
    for (int u = 0; u < PIECES; u++) rank += c.most[u] > own || (c.most[u] == own && u < t);
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
__device__ static int collect(const struct pick_args &a, const struct job &j, const float *row, struct chooser &c, bool divide) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, size = piece_size(a.vocab);
    float least = near_below(c.least);
    if (threadIdx.x == 0) c.count = 0;
    __syncthreads();
    for (int piece = warp; piece < PIECES; piece += BLOCK_WARPS) {
        if (!(c.most[piece] >= least) || c.most[piece] == -INFINITY) continue;
        int begin = piece * size, end = begin + size < a.vocab ? begin + size : a.vocab;
        for (int id = begin + lane; id < end; id += 32) {
            float x = allowed(a, j, row, id);
            if (!(x >= least) || x == -INFINITY) continue;
            int at = atomicAdd(&c.count, 1);
            if (at < MOST_FOUND) c.found[at] = {divide ? x / j.temperature : x, id};
        }
    }
    __syncthreads();
    int count = c.count;
    __syncthreads();
    return count;
}

/* What is above the exact bound, which is less than was wanted, and of its equals those with the lowest ids, as many as there is room for. */
__device__ static void collect_equals(const struct pick_args &a, const struct job &j, const float *row, struct chooser &c, bool divide) {
    float least = c.least;
    if (threadIdx.x == 0) c.count = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < a.vocab; id += blockDim.x) {
        float x = allowed(a, j, row, id);
        if (!(x > least)) continue;
        c.found[atomicAdd(&c.count, 1)] = {divide ? x / j.temperature : x, id};
    }
    __syncthreads();
    int n = c.count;
    __syncthreads();
    for (int at = 0; threadIdx.x < 32 && at < a.vocab && n < MOST_FOUND; at += 32) {
        int id = at + threadIdx.x;
        bool equal = id < a.vocab && allowed(a, j, row, id) == least;
        unsigned all = __ballot_sync(~0u, equal);
        int place = n + __popc(all & ((1u << threadIdx.x) - 1));
        if (equal && place < MOST_FOUND) c.found[place] = {divide ? least / j.temperature : least, id};
        n += __popc(all);
    }
    if (threadIdx.x == 0) c.count = MOST_FOUND + 1; /* not all are there */
    __syncthreads();
}

__device__ static void sort_found(struct chooser &c, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        struct candidate own = c.found[i];
        int rank = 0;
        for (int k = 0; k < n; k++) rank += before(c.found[k], own);
        c.sorted[rank] = own;
    }
    __syncthreads();
}

/* The first `count` of the row, and perhaps more, in order; returns how many. */
__device__ static int find_first(const struct pick_args &a, const struct job &j, const float *row, struct chooser &c, int count, bool divide) {
    if (count == 0) return 0;
    bound_by_pieces(c, count);
    if (collect(a, j, row, c, divide) > MOST_FOUND) {
        bound_exactly(a, j, row, c, count);
        if (collect(a, j, row, c, divide) > MOST_FOUND) collect_equals(a, j, row, c, divide);
    }
    int n = c.count < MOST_FOUND ? c.count : MOST_FOUND;
    sort_found(c, n);
    return n;
}

/* The draw, by the block; thread 0 knows it. */
__device__ static int32_t draw(const struct job &j, struct chooser &c, int n) {
    int t = threadIdx.x;
    if (t == 0) c.kept = n;
    __syncthreads();
    if (j.top_k < n) { /* ties with the k-th stay */
        float last = c.sorted[j.top_k - 1].score;
        for (int i = j.top_k - 1 + t; i < n; i += blockDim.x)
            if (c.sorted[i].score == last && (i + 1 == n || c.sorted[i + 1].score != last)) c.kept = i + 1;
        __syncthreads();
        if (c.kept == n && c.count > MOST_FOUND) return TOO_MANY_TIES;
    }
    n = c.kept;
    for (int i = t; i < n; i += blockDim.x) c.weight[i] = exp((double)c.sorted[i].score - (double)c.sorted[0].score);
    __syncthreads();
    if (t) return 0;
    double total = 0;
    for (int i = 0; i < n; i++) total += c.weight[i];
    for (int turn = 0; turn < 2; turn++) { /* top-p, then min-p */
        if (turn ? !(j.min_p > 0) : !(j.top_p < 1)) continue;
        double sum = 0;
        int kept = 0;
        for (; kept < n; kept++) {
            double w = c.weight[kept];
            if (kept > 0 && (turn ? w < (double)j.min_p : sum >= (double)j.top_p * total)) break;
            sum += w;
        }
        n = kept, total = sum;
    }
    double at = j.draw * total;
    for (int i = 0; i < n; i++)
        if ((at -= c.weight[i]) < 0) return c.sorted[i].id;
    return c.sorted[n - 1].id;
}

/* The log of the sum of exponentials, in thread 0. */
__device__ static double norm_of(const struct chooser &c) {
    int lane = threadIdx.x;
    float most = -INFINITY, sum = 0;
    if (lane >= 32) return 0;
    for (int i = lane; i < PIECES; i += 32) most = fmaxf(most, c.most[i]);
    for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    for (int i = lane; i < PIECES; i += 32)
        if (c.most[i] > -INFINITY) sum += c.sum[i] * expf(c.most[i] - most);
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    return (double)most + log((double)sum);
}

/* One block a job. */
template <int MOST> __global__ void __launch_bounds__(PIECES) choose_kernel(const struct pick_args a, const struct job_list<MOST> jobs) {
    __shared__ struct chooser c;
    wait_for_input();
    struct job j = jobs.job[blockIdx.x];
    if (a.choose && (!j.penalties || j.whole)) return;
    const float *row = a.logits + (int64_t)j.row * a.vocab;
    float2 piece = a.sums[(int64_t)blockIdx.x * PIECES + threadIdx.x];
    c.most[threadIdx.x] = piece.x, c.sum[threadIdx.x] = piece.y;
    __syncthreads();
    bool choosing = (a.choose || !j.penalties) && !j.whole;
    int count = choosing ? j.first : j.top;
    int n = find_first(a, j, row, c, count, j.sampled && choosing);
    double norm = a.choose ? a.norms[blockIdx.x] : norm_of(c);
    struct picked *out = &a.out[blockIdx.x];
    if (!a.choose) {
        int top = n < j.top ? n : j.top;
        if (threadIdx.x == 0) a.norms[blockIdx.x] = c.weight[0] = norm, out->top_count = top;
        __syncthreads();
        norm = c.weight[0];
        __syncthreads();
        for (int i = threadIdx.x; i < top; i += blockDim.x) out->top_id[i] = c.sorted[i].id, out->top_logprob[i] = (float)((double)row[c.sorted[i].id] - norm);
    }
    int32_t id = !choosing || n == 0 ? -1 : j.sampled ? draw(j, c, n) : c.sorted[0].id;
    if (threadIdx.x == 0) put_choice(a, j, blockIdx.x, row, id, a.choose, norm);
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
        launch(m, pieces_kernel<MOST>, dim3(PIECES / BLOCK_WARPS, (unsigned)count), dim3(BLOCK_WARPS * 32), 0, a, list);
        launch(m, choose_kernel<MOST>, dim3((unsigned)count), dim3(PIECES), 0, a, list);
    }
    if (a.bins) launch_whole<MOST>(m, a, list, count);
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

/* At most MOST_JOBS of them. */
static int run_some(struct backend_model *m, const struct pick_place *list, int count, float *logits, struct err *err) {
    int vocab = m->w.config.text.vocab, adjusts = 0, masks = 0, words = (vocab + 31) / 32;
    bool penalties = false, whole = false;
    for (int i = 0; i < count; i++) adjusts += list[i].pick->adjust_count, masks += list[i].pick->mask != NULL;
    size_t adjust_bytes = round_up((size_t)adjusts * sizeof(struct pick_adjust)), mask_bytes = round_up((size_t)masks * words * 4), upload = adjust_bytes + mask_bytes;
    size_t sums_bytes = (size_t)MOST_JOBS * PIECES * sizeof(float2), bins_bytes = (size_t)MOST_JOBS * WHOLE_WORDS * 4;
    char *host = (char *)pinned_get(m, PINNED_PICKS, upload + MOST_JOBS * sizeof(struct picked), err);
    char *device = (char *)buffer_get(m, BUFFER_PICKS, upload + sums_bytes + MOST_JOBS * 8 + bins_bytes + (size_t)adjusts * 8, err);
    if (!host || !device) return ERR_MEMORY;
    struct pick_adjust *adjust = (struct pick_adjust *)host;
    uint32_t *mask = (uint32_t *)(host + adjust_bytes);
    struct job jobs[MOST_JOBS];
    for (int i = 0, at = 0, mask_at = 0; i < count; i++) {
        const struct pick *p = list[i].pick;
        jobs[i] = job_of(&list[i], at, mask_at, vocab);
        whole = whole || jobs[i].whole;
        if (p->adjust_count) memcpy(adjust + at, p->adjust, (size_t)p->adjust_count * sizeof *adjust);
        if (p->mask) memcpy(mask + mask_at, p->mask, (size_t)words * 4), mask_at += words;
        at += p->adjust_count;
        penalties = penalties || jobs[i].penalties;
    }
    struct pick_args a = {};
    a.adjusts = (const struct pick_adjust *)device, a.masks = (const uint32_t *)(device + adjust_bytes);
    a.sums = (float2 *)(device + upload), a.norms = (double *)(device + upload + sums_bytes), a.bins = (unsigned *)(a.norms + MOST_JOBS), a.saved = (float *)(a.bins + MOST_JOBS * WHOLE_WORDS), a.raw = a.saved + adjusts;
    a.out = (struct picked *)(host + upload), a.logits = logits, a.vocab = vocab;
    if (!whole) a.bins = NULL;
    int r = upload ? cuda_failed(cudaMemcpyAsync(device, host, upload, cudaMemcpyHostToDevice, m->stream), "uploading picks", err) : 0;
    if (r) return r;
    if (count <= FEW_JOBS) launch_picks<FEW_JOBS>(m, a, jobs, count, adjusts > 0, penalties);
    else launch_picks<MOST_JOBS>(m, a, jobs, count, adjusts > 0, penalties);
    r = cuda_failed(cudaGetLastError(), "picking tokens", err);
    if (!r) r = cuda_failed(cudaStreamSynchronize(m->stream), "picking tokens", err);
    for (int i = 0; i < count && !r; i++) {
        *list[i].out = a.out[i];
        if (list[i].out->id == TOO_MANY_TIES) r = pick_here(m, &list[i], logits, a.raw + jobs[i].adjust_at, err);
    }
    return r;
}

int picks_run(struct backend_model *m, const struct pick_place *list, int count, float *logits, struct err *err) {
    int r = 0;
    for (int at = 0; at < count && !r; at += MOST_JOBS) r = run_some(m, list + at, count - at < MOST_JOBS ? count - at : MOST_JOBS, logits, err);
    return r;
}
