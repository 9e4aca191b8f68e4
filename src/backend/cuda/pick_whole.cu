/* Choices among the whole vocabulary: temperature, top-p, min-p and the draw without top-k (backend/pick.h is the definition).
 *
 * Candidates are never put in order. A score's distance from the largest of the row, in steps of 2^-26 below 32 (what is further has a weight below
 * 1.3e-14 and is left out), tells its bin: 1,024 bins of 1/32. Each bin counts its scores and sums what their weights lack to that of the
 * bin's beginning, as integers, so that sums do not depend on chance. Sums of weights from the first bin on (double) tell in which bin a
 * given sum is reached: top-p of all for the end of what is kept, draw of the kept for the choice. Only that bin is put in order. One that
 * holds more than FEW_FOUND is cut into 1,024 again, twice at most; more than MOST_FOUND (nearly) equals are left to the host.
 *
 * What min-p keeps ends at a known score; its bin counts twice, once for those that stay. What is lacking is kept to 2^-20 of a weight, so
 * sums are right to about 1e-6 of themselves. A row of 151,936 is read by 32 blocks for the bins, then by one block once or twice for each of the
 * two bins, which skips pieces whose largest is too small. */
#include "backend/cuda/pick_job.h"

enum { THREADS = WHOLE_BINS, DIGIT = 10, FIRST_SHIFT = 21, LAST_LEVEL = 2, STEP_BITS = 26, LACK_BITS = 19, FEW_FOUND = 256 };
enum { AT_COUNT = 0, AT_LACK = WHOLE_BINS, AT_STAYS = 2 * WHOLE_BINS }; /* within a job's words */
static_assert((int)MOST_FOUND == (int)THREADS, "a thread for each candidate");
#define FURTHER 0xFFFFFFFFu

/* Steps below the largest; FURTHER for what does not count. */
__device__ static inline unsigned steps_below(float score, float top) {
    float d = top - score;
    return d < 32 ? (unsigned)(d * (1 << STEP_BITS)) : FURTHER;
}
/* 1 - exp(-x) of a score that lies `steps` behind the beginning of a bin of that level (0 to 2), in units of 2^-(LACK_BITS + 10 level). */
__device__ static inline unsigned lack_of(unsigned steps, int level) {
    float x = (float)steps * (1.0f / (1 << STEP_BITS)); /* below 1/32 */
    float y = x - x * x * (0.5f - x * (1.0f / 6 - x * (1.0f / 24)));
    return (unsigned)(y * (float)((int64_t)1 << (LACK_BITS + DIGIT * level)) + 0.5f);
}

/* The bin where what min-p keeps ends. */
__device__ static inline int stays_bin(float min_p) {
    double bin = min_p > 0 ? -log((double)min_p) * 32 : (double)WHOLE_BINS;
    return bin < 0 ? 0 : bin < WHOLE_BINS - 1 ? (int)bin : WHOLE_BINS - 1;
}

template <int MOST> __global__ void __launch_bounds__(BLOCK_WARPS * 32) bins_kernel(const struct pick_args a, const struct job_list<MOST> jobs) {
    __shared__ unsigned bins[WHOLE_WORDS];
    __shared__ float most[BLOCK_WARPS];
    wait_for_input();
    struct job j = jobs.job[blockIdx.y];
    if (!j.whole) return;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, size = piece_size(a.vocab), piece = blockIdx.x * BLOCK_WARPS + warp, stays = stays_bin(j.min_p);
    for (int i = threadIdx.x; i < WHOLE_WORDS; i += blockDim.x) bins[i] = 0;
    float top = a.pieces[(int64_t)blockIdx.y * PIECES + threadIdx.x].most;
    for (int d = 16; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    if (lane == 0) most[warp] = top;
    __syncthreads();
    for (int w = 0; w < BLOCK_WARPS; w++) top = fmaxf(top, most[w]);
    top /= j.temperature;
    int begin = piece * size, end = begin + size < a.vocab ? begin + size : a.vocab;
    const float *row = a.logits + (int64_t)j.row * a.vocab;
    for (int id = begin + lane; id < end; id += 32) {
        float score = allowed(a, j, row, id) / j.temperature;
        unsigned steps = steps_below(score, top);
        if (steps == FURTHER) continue;
        int bin = steps >> FIRST_SHIFT;
        unsigned lack = lack_of(steps & ((1u << FIRST_SHIFT) - 1), 0);
        atomicAdd(&bins[AT_COUNT + bin], 1u), atomicAdd(&bins[AT_LACK + bin], lack);
        if (bin == stays && exp((double)score - (double)top) >= (double)j.min_p) atomicAdd(&bins[AT_STAYS], 1u), atomicAdd(&bins[AT_STAYS + 1], lack);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < WHOLE_WORDS; i += blockDim.x)
        if (bins[i]) atomicAdd(&a.bins[(int64_t)blockIdx.y * WHOLE_WORDS + i], bins[i]);
}

struct whole {
    float most[PIECES];
    unsigned count[WHOLE_BINS], lack[WHOLE_BINS];
    double upto[WHOLE_BINS];  /* sums of bins, or of candidates, with those in front */
    struct candidate found[MOST_FOUND], sorted[MOST_FOUND];
    int first, last, number;
};

/* v[t] += all in front of it; the same order of additions always. */
__device__ static void add_up(double *v) {
    for (int d = 1; d < THREADS; d *= 2) {
        double before = (int)threadIdx.x >= d ? v[threadIdx.x - d] : 0;
        __syncthreads();
        v[threadIdx.x] += before;
        __syncthreads();
    }
}

/* What some bins of a level hold: begins at `begin` steps, behind a sum of weights `before`. */
struct level {
    int number;
    unsigned begin;
    double before;
};
__device__ static inline int shift_of(int level) { return FIRST_SHIFT - DIGIT * level; }

__device__ static inline double bin_weight(const struct level &l, unsigned bin, unsigned count, unsigned lack) {
    if (!count) return 0;
    double start = exp(-(double)(l.begin + (bin << shift_of(l.number))) / (1 << STEP_BITS));
    return start * ((double)count - (double)lack / (double)((int64_t)1 << (LACK_BITS + DIGIT * l.number)));
}

/* Runs f(steps, candidate) for all that lie in [from, from + span) steps. One block reads the whole row, so most logits have to be done with at once: by
 * bounds that are a little too wide, before masks and division; a number of them are asked for together. */
template <typename F> __device__ static void each_within(const struct pick_args &a, const struct job &j, const float *row, const struct whole &c, float top, unsigned from, unsigned span, F f) {
    enum { AT_ONCE = 10 };
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, size = piece_size(a.vocab);
    const double unit = (double)j.temperature / (1 << STEP_BITS), most = (double)j.temperature * (double)top, slack = 4e-6 * (fabs(most) + 32 * (double)j.temperature);
    float high = (float)(most - unit * from + slack), low = (float)(most - unit * ((double)from + span) - slack);
    for (int piece = warp; piece < PIECES; piece += THREADS / 32) {
        unsigned least = steps_below(c.most[piece] / j.temperature, top);
        if (least == FURTHER || (least >= from && least - from >= span)) continue;
        int begin = piece * size, end = begin + size < a.vocab ? begin + size : a.vocab;
        for (int at = begin + lane; at < end; at += 32 * AT_ONCE) {
            float x[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) x[i] = at + i * 32 < end ? row[at + i * 32] : -INFINITY;
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                if (!(x[i] >= low && x[i] <= high)) continue;
                int id = at + i * 32;
                float score = allowed(a, j, row, id) / j.temperature;
                unsigned steps = steps_below(score, top);
                if (steps != FURTHER && steps >= from && steps - from < span) f(steps, {score, id});
            }
        }
    }
    __syncthreads();
}

/* Where a sum of weights is reached: among the candidates of one bin, which lie in order in c.sorted, the number-th. */
struct reached {
    bool known;              /* false: too many equals */
    unsigned begin;          /* of the bin */
    int number, count;
    double before;           /* the sum in front of the bin; c.upto has those within it */
};

/* strictly: more than the sum, else at least it. Past all: the last. The first level's bins lie in device memory. */
__device__ static struct reached reach(const struct pick_args &a, const struct job &j, const float *row, struct whole &c, float top, double sum, bool strictly) {
    struct level l = {0, 0, 0};
    int t = threadIdx.x, bin;
    c.count[t] = a.bins[(int64_t)blockIdx.x * WHOLE_WORDS + AT_COUNT + t], c.lack[t] = a.bins[(int64_t)blockIdx.x * WHOLE_WORDS + AT_LACK + t];
    for (;; l.number++) {
        c.upto[t] = bin_weight(l, (unsigned)t, c.count[t], c.lack[t]);
        if (t == 0) c.first = WHOLE_BINS, c.last = 0;
        __syncthreads();
        add_up(c.upto);
        double upto = l.before + c.upto[t];
        if (c.count[t]) atomicMax(&c.last, t);
        if (c.count[t] && (strictly ? upto > sum : upto >= sum)) atomicMin(&c.first, t);
        __syncthreads();
        bin = c.first < WHOLE_BINS ? c.first : c.last;
        double before = bin ? c.upto[bin - 1] : 0;
        int count = (int)c.count[bin];
        __syncthreads();
        l.before += before, l.begin += (unsigned)bin << shift_of(l.number);
        if (count <= (l.number < LAST_LEVEL ? (int)FEW_FOUND : (int)MOST_FOUND)) break;
        if (l.number == LAST_LEVEL) return {};
        c.count[t] = c.lack[t] = 0;
        __syncthreads();
        int below = shift_of(l.number + 1);
        each_within(a, j, row, c, top, l.begin, 1u << shift_of(l.number), [&](unsigned steps, struct candidate) {
            unsigned in = steps - l.begin;
            atomicAdd(&c.count[in >> below], 1u), atomicAdd(&c.lack[in >> below], lack_of(in & ((1u << below) - 1), l.number + 1));
        });
    }
    if (t == 0) c.number = 0, c.first = MOST_FOUND;
    __syncthreads();
    each_within(a, j, row, c, top, l.begin, 1u << shift_of(l.number), [&](unsigned, struct candidate one) { c.found[atomicAdd(&c.number, 1)] = one; });
    int n = c.number;
    struct candidate own = c.found[t < n ? t : 0];
    int rank = 0;
    for (int k = 0; t < n && k < n; k++) rank += before(c.found[k], own);
    if (t < n) c.sorted[rank] = own;
    __syncthreads();
    c.upto[t] = t < n ? exp((double)c.sorted[t].score - (double)top) : 0;
    __syncthreads();
    add_up(c.upto);
    if (t < n && (strictly ? l.before + c.upto[t] > sum : l.before + c.upto[t] >= sum)) atomicMin(&c.first, t);
    __syncthreads();
    int number = c.first < n ? c.first : n - 1;
    __syncthreads();
    return {true, l.begin, number, n, l.before};
}

/* All threads return the same. */
__device__ static int32_t draw_whole(const struct pick_args &a, const struct job &j, const float *row, struct whole &c, float top) {
    const unsigned *words = a.bins + (int64_t)blockIdx.x * WHOLE_WORDS;
    int t = threadIdx.x, stays = stays_bin(j.min_p);
    struct level first = {0, 0, 0};
    c.upto[t] = bin_weight(first, (unsigned)t, words[AT_COUNT + t], words[AT_LACK + t]);
    __syncthreads();
    add_up(c.upto);
    double all = c.upto[WHOLE_BINS - 1], kept = all;
    if (j.min_p > 0) {
        double stay = (stays ? c.upto[stays - 1] : 0) + bin_weight(first, (unsigned)stays, words[AT_STAYS], words[AT_STAYS + 1]);
        if (stay < kept) kept = stay;
    }
    __syncthreads();
    if (!(all > 0)) return TOO_MANY_TIES; /* not numbers that can be reckoned with */
    struct reached end = {};
    int32_t last = -1;
    if (j.top_p < 1) {
        end = reach(a, j, row, c, top, (double)j.top_p * all, false);
        if (!end.known) return TOO_MANY_TIES;
        double sum = end.before + c.upto[end.number];
        last = c.sorted[end.number].id;
        if (sum < kept) kept = sum;
        __syncthreads();
    }
    struct reached at = reach(a, j, row, c, top, j.draw * kept, true);
    if (!at.known) return TOO_MANY_TIES;
    /* A sum that was rounded may lead behind the end of what is kept. */
    if (last >= 0 && (at.begin > end.begin || (at.begin == end.begin && at.number >= end.number))) return last;
    while (j.min_p > 0 && at.number > 0 && exp((double)c.sorted[at.number].score - (double)top) < (double)j.min_p) at.number--;
    if (j.min_p > 0 && exp((double)c.sorted[at.number].score - (double)top) < (double)j.min_p) return TOO_MANY_TIES;
    return c.sorted[at.number].id;
}

template <int MOST> __global__ void __launch_bounds__(THREADS) whole_kernel(const struct pick_args a, const struct job_list<MOST> jobs) {
    __shared__ struct whole c;
    wait_for_input();
    struct job j = jobs.job[blockIdx.x];
    if (!j.whole) return;
    const float *row = a.logits + (int64_t)j.row * a.vocab;
    if (threadIdx.x < PIECES) c.most[threadIdx.x] = a.pieces[(int64_t)blockIdx.x * PIECES + threadIdx.x].most;
    __syncthreads();
    float top = -INFINITY;
    for (int i = threadIdx.x % 32; i < PIECES; i += 32) top = fmaxf(top, c.most[i]);
    for (int d = 16; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    int32_t id = top == -INFINITY ? -1 : draw_whole(a, j, row, c, top / j.temperature);
    if (threadIdx.x == 0) put_choice(a, j, blockIdx.x, row, id, j.penalties, a.norms[blockIdx.x]);
}

template <int MOST> void launch_whole(struct backend_model *m, const struct pick_args &a, const struct job_list<MOST> &list, int count) {
    launch(m, bins_kernel<MOST>, dim3(PIECES / BLOCK_WARPS, (unsigned)count), dim3(BLOCK_WARPS * 32), 0, a, list);
    launch(m, whole_kernel<MOST>, dim3((unsigned)count), dim3(THREADS), 0, a, list);
}
template void launch_whole<FEW_JOBS>(struct backend_model *, const struct pick_args &, const struct job_list<FEW_JOBS> &, int);
template void launch_whole<MOST_JOBS>(struct backend_model *, const struct pick_args &, const struct job_list<MOST_JOBS> &, int);
