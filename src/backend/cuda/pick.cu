/* Choosing tokens where the logits are (backend/pick.h is the definition). Every row is cut into as many pieces as there are warps; a warp
 * finds its piece's sum of exponentials and its first candidates in order, by taking the best as often as asked; then one block puts the
 * pieces together and draws. Biases and penalties are written into the logits, which nobody reads afterwards; between them the
 * log-probabilities are taken, since penalties are not for them. */
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "backend/pick.h"
}
#include "backend/cuda/room.h"

enum { PIECES = 256, BLOCK_WARPS = 8, MOST_FIRST = 64, TIES = 4 };

/* One pick on the device. */
struct job {
    int row, first;         /* candidates wanted */
    int top, top_k;
    int adjust_at, adjust_count, mask_at; /* mask_at: words, -1 none */
    bool sampled, penalties;
    float temperature, top_p, min_p;
    double draw;
};

struct candidate {
    float score;
    int32_t id;
};

struct pick_args {
    const struct job *jobs;
    const struct pick_adjust *adjusts;
    const uint32_t *masks;
    float *logits;
    int vocab, choose, again; /* choose: the pass behind the penalties; again: only for who had too many equals */
    struct candidate *found; /* (jobs, PIECES, MOST_FIRST) */
    float2 *sums;            /* (jobs, PIECES): largest, sum of exponentials */
    double *norms;           /* (jobs) log of the sum of exponentials */
    float *raw, *saved;      /* (adjusts) logits before biases, and before penalties */
    struct picked *out;
};

__device__ static inline bool before(struct candidate a, struct candidate b) { return a.score > b.score || (a.score == b.score && a.id < b.id); }

/* The first in order among the lanes' candidates, in every lane. */
__device__ static inline struct candidate warp_first(struct candidate c) {
    for (int d = 16; d; d /= 2) {
        struct candidate o = {__shfl_xor_sync(~0u, c.score, d), __shfl_xor_sync(~0u, c.id, d)};
        if (before(o, c)) c = o;
    }
    return c;
}

/* Biases, or penalties, into the logits. */
__global__ void adjust_kernel(const struct pick_args a, int penalties) {
    wait_for_input();
    struct job j = a.jobs[blockIdx.x];
    for (int i = threadIdx.x; i < j.adjust_count; i += blockDim.x) {
        struct pick_adjust d = a.adjusts[j.adjust_at + i];
        float *v = &a.logits[(int64_t)j.row * a.vocab + d.id];
        if (!penalties) {
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

enum { LANE_VALUES = 32 }; /* of a piece, in registers: vocabularies up to PIECES * 32 * LANE_VALUES */

/* What this pass wants of the job: alternatives (before the penalties) or the choice. */
__device__ static inline int wanted(const struct pick_args &a, const struct job &j) { return a.again ? MOST_FIRST : a.choose || !j.penalties ? j.first : j.top; }

enum { TOO_MANY_TIES = -2 };
__device__ static inline bool passed_over(const struct pick_args &a, const struct job &j, int number) {
    if (a.again && (a.out[number].id != TOO_MANY_TIES || j.penalties != (a.choose != 0))) return true;
    return a.choose && !j.penalties;
}

__global__ void __launch_bounds__(BLOCK_WARPS * 32) pieces_kernel(const struct pick_args a) {
    wait_for_input();
    struct job j = a.jobs[blockIdx.y];
    if (passed_over(a, j, blockIdx.y)) return;
    int piece = blockIdx.x * BLOCK_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, size = (a.vocab + PIECES - 1) / PIECES;
    int begin = piece * size, end = begin + size < a.vocab ? begin + size : a.vocab;
    const float *row = a.logits + (int64_t)j.row * a.vocab;
    float v[LANE_VALUES], most = -INFINITY, sum = 0;
    bool divide = j.sampled && (a.choose || !j.penalties);
#pragma unroll
    for (int i = 0; i < LANE_VALUES; i++) {
        int id = begin + lane + i * 32;
        v[i] = -INFINITY;
        if (id >= end || (j.mask_at >= 0 && !(a.masks[j.mask_at + id / 32] >> id % 32 & 1))) continue;
        float x = row[id];
        if (x > -INFINITY) v[i] = x, most = fmaxf(most, x);
    }
    for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
#pragma unroll
    for (int i = 0; i < LANE_VALUES; i++) {
        if (v[i] > -INFINITY) sum += expf(v[i] - most);
        if (divide) v[i] /= j.temperature;
    }
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    int64_t at = (int64_t)blockIdx.y * PIECES + piece;
    if (lane == 0 && !a.choose) a.sums[at] = make_float2(most, sum);
    int count = wanted(a, j);
    for (int k = 0; k < count; k++) {
        struct candidate best = {-INFINITY, INT32_MAX};
#pragma unroll
        for (int i = 0; i < LANE_VALUES; i++)
            if (v[i] > best.score) best.score = v[i], best.id = begin + lane + i * 32; /* ascending ids: the lowest among equals */
        best = warp_first(best);
#pragma unroll
        for (int i = 0; i < LANE_VALUES; i++)
            if (begin + lane + i * 32 == best.id) v[i] = -INFINITY;
        if (lane == 0) a.found[at * MOST_FIRST + k] = best;
        if (best.score == -INFINITY) break; /* an end mark */
    }
}

/* The first `count` of 32 lists in order; lane l owns list l. Returns how many there are. */
__device__ static int merge_lists(const struct candidate *list, int count, struct candidate *to) {
    int at = 0, n = 0, lane = threadIdx.x % 32;
    for (; n < count; n++) {
        struct candidate own = {-INFINITY, INT32_MAX};
        if (list && at < count) own = list[at];
        struct candidate best = warp_first(own);
        if (best.score == -INFINITY) break;
        if (own.id == best.id && own.score == best.score) at++;
        if (lane == 0) to[n] = best;
    }
    if (lane == 0 && n < count) to[n] = {-INFINITY, INT32_MAX};
    return n;
}

__device__ static int32_t draw(const struct job &j, const struct candidate *c, int n, int collected) {
    double total = 0, top = c[0].score;
    if (j.top_k < n) {
        int k = j.top_k;
        while (k < n && c[k].score == c[j.top_k - 1].score) k++; /* ties with the k-th stay */
        if (k == collected) return TOO_MANY_TIES; /* there may be more than were collected */
        n = k;
    }
    for (int i = 0; i < n; i++) total += exp((double)c[i].score - top);
    for (int turn = 0; turn < 2; turn++) { /* top-p, then min-p */
        if (turn ? !(j.min_p > 0) : !(j.top_p < 1)) continue;
        double sum = 0;
        int kept = 0;
        for (; kept < n; kept++) {
            double w = exp((double)c[kept].score - top);
            if (kept > 0 && (turn ? w < (double)j.min_p : sum >= (double)j.top_p * total)) break;
            sum += w;
        }
        n = kept, total = sum;
    }
    double at = j.draw * total;
    for (int i = 0; i < n; i++)
        if ((at -= exp((double)c[i].score - top)) < 0) return c[i].id;
    return c[n - 1].id;
}

/* One block a job. */
__global__ void __launch_bounds__(BLOCK_WARPS * 32) choose_kernel(const struct pick_args a) {
    __shared__ struct candidate lists[BLOCK_WARPS][MOST_FIRST], first[MOST_FIRST];
    wait_for_input();
    struct job j = a.jobs[blockIdx.x];
    if (passed_over(a, j, blockIdx.x)) return;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, count = wanted(a, j);
    struct picked *out = &a.out[blockIdx.x];
    merge_lists(a.found + ((int64_t)blockIdx.x * PIECES + threadIdx.x) * MOST_FIRST, count, lists[warp]);
    __syncthreads();
    if (warp) return;
    int n = merge_lists(lane < BLOCK_WARPS ? lists[lane] : NULL, count, first);
    __syncwarp();
    if (!a.choose) { /* the log of the sum of exponentials, for the log-probabilities */
        const float2 *sums = a.sums + (int64_t)blockIdx.x * PIECES;
        float most = -INFINITY, sum = 0;
        for (int i = lane; i < PIECES; i += 32) most = fmaxf(most, sums[i].x);
        for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
        for (int i = lane; i < PIECES; i += 32)
            if (sums[i].x > -INFINITY) sum += sums[i].y * expf(sums[i].x - most);
        for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
        if (lane) return;
        double norm = (double)most + log((double)sum);
        a.norms[blockIdx.x] = norm;
        out->id = -1, out->logprob = 0;
        out->top_count = n < j.top ? n : j.top;
        for (int i = 0; i < out->top_count; i++) {
            out->top_id[i] = first[i].id;
            out->top_logprob[i] = (float)((double)a.logits[(int64_t)j.row * a.vocab + first[i].id] - norm);
        }
        if (j.penalties || n == 0) return;
        out->id = j.sampled ? draw(j, first, n, count) : first[0].id;
        if (out->id < 0) return;
        out->logprob = (float)((double)a.logits[(int64_t)j.row * a.vocab + out->id] - norm);
        return;
    }
    if (lane || n == 0) return;
    int32_t id = out->id = j.sampled ? draw(j, first, n, count) : first[0].id;
    if (id < 0) return;
    float v = a.logits[(int64_t)j.row * a.vocab + id];
    for (int i = 0; i < j.adjust_count; i++)
        if (a.adjusts[j.adjust_at + i].id == id) v = a.saved[j.adjust_at + i];
    out->logprob = (float)((double)v - a.norms[blockIdx.x]);
}

/* ---- the host's side ---- */

/* Sampling looks at MOST_FIRST candidates at most: top-k must say so. */
bool cuda_can_pick(const struct backend_model *m, const struct pick *p) {
    return m->w.config.text.vocab <= PIECES * 32 * LANE_VALUES && (!p->sampled || (p->top_k >= 1 && p->top_k + TIES <= MOST_FIRST));
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

int picks_run(struct backend_model *m, const struct pick_place *list, int count, float *logits, struct err *err) {
    int vocab = m->w.config.text.vocab, adjusts = 0, masks = 0, words = (vocab + 31) / 32;
    bool penalties = false;
    for (int i = 0; i < count; i++) adjusts += list[i].pick->adjust_count, masks += list[i].pick->mask != NULL;
    size_t jobs_bytes = round_up((size_t)count * sizeof(struct job)), adjust_bytes = round_up((size_t)adjusts * sizeof(struct pick_adjust)), mask_bytes = round_up((size_t)masks * words * 4);
    size_t upload = jobs_bytes + adjust_bytes + mask_bytes, out_bytes = round_up((size_t)count * sizeof(struct picked));
    size_t found_bytes = (size_t)count * PIECES * MOST_FIRST * sizeof(struct candidate), sums_bytes = (size_t)count * PIECES * sizeof(float2);
    char *host = (char *)pinned_get(m, PINNED_PICKS, upload + out_bytes, err);
    char *device = (char *)buffer_get(m, BUFFER_PICKS, upload + out_bytes + found_bytes + sums_bytes + round_up((size_t)count * 8) + (size_t)adjusts * 8, err);
    if (!host || !device) return ERR_MEMORY;
    struct job *jobs = (struct job *)host;
    struct pick_adjust *adjust = (struct pick_adjust *)(host + jobs_bytes);
    uint32_t *mask = (uint32_t *)(host + jobs_bytes + adjust_bytes);
    for (int i = 0, at = 0, mask_at = 0; i < count; i++) {
        const struct pick *p = list[i].pick;
        struct job j = {};
        j.row = list[i].row, j.top = p->top < 0 ? 0 : p->top > PICK_TOP_MOST ? PICK_TOP_MOST : p->top, j.top_k = p->top_k;
        j.adjust_at = at, j.adjust_count = p->adjust_count, j.mask_at = p->mask ? mask_at : -1;
        j.sampled = p->sampled, j.penalties = has_penalties(p), j.temperature = p->temperature, j.top_p = p->top_p, j.min_p = p->min_p, j.draw = p->draw;
        j.first = p->sampled ? p->top_k + TIES : 1;
        if (!j.penalties && j.first < j.top) j.first = j.top;
        if (p->adjust_count) memcpy(adjust + at, p->adjust, (size_t)p->adjust_count * sizeof *adjust);
        if (p->mask) memcpy(mask + mask_at, p->mask, (size_t)words * 4), mask_at += words;
        at += p->adjust_count;
        penalties = penalties || j.penalties;
        jobs[i] = j;
    }
    struct pick_args a = {};
    a.jobs = (const struct job *)device, a.adjusts = (const struct pick_adjust *)(device + jobs_bytes), a.masks = (const uint32_t *)(device + jobs_bytes + adjust_bytes);
    a.out = (struct picked *)(device + upload), a.found = (struct candidate *)(device + upload + out_bytes), a.sums = (float2 *)(device + upload + out_bytes + found_bytes);
    a.norms = (double *)(device + upload + out_bytes + found_bytes + sums_bytes), a.saved = (float *)((char *)a.norms + round_up((size_t)count * 8));
    a.raw = a.saved + adjusts, a.logits = logits, a.vocab = vocab;
    int r = cuda_failed(cudaMemcpyAsync(device, host, upload, cudaMemcpyHostToDevice, m->stream), "uploading picks", err);
    if (r) return r;
    for (a.choose = 0; a.choose <= (penalties ? 1 : 0); a.choose++) {
        if (adjusts) launch(m, adjust_kernel, dim3((unsigned)count), dim3(64), 0, a, a.choose);
        launch(m, pieces_kernel, dim3(PIECES / BLOCK_WARPS, (unsigned)count), dim3(BLOCK_WARPS * 32), 0, a);
        launch(m, choose_kernel, dim3((unsigned)count), dim3(BLOCK_WARPS * 32), 0, a);
    }
    const struct picked *got = (const struct picked *)(host + upload);
    for (a.again = 0; a.again < 2; a.again++) {
        for (a.choose = 0; a.again && a.choose <= (penalties ? 1 : 0); a.choose++) { /* as many candidates as there is room for */
            launch(m, pieces_kernel, dim3(PIECES / BLOCK_WARPS, (unsigned)count), dim3(BLOCK_WARPS * 32), 0, a);
            launch(m, choose_kernel, dim3((unsigned)count), dim3(BLOCK_WARPS * 32), 0, a);
        }
        r = cuda_failed(cudaGetLastError(), "picking tokens", err);
        if (!r) r = cuda_failed(cudaMemcpyAsync(host + upload, a.out, (size_t)count * sizeof(struct picked), cudaMemcpyDeviceToHost, m->stream), "reading picks", err);
        if (!r) r = cuda_failed(cudaStreamSynchronize(m->stream), "picking tokens", err);
        bool ties = false;
        for (int i = 0; i < count && !r; i++) ties = ties || got[i].id == TOO_MANY_TIES;
        if (!ties) break;
    }
    for (int i = 0; i < count && !r; i++) {
        *list[i].out = got[i];
        if (list[i].out->id == TOO_MANY_TIES) r = pick_here(m, &list[i], logits, a.raw + jobs[i].adjust_at, err);
    }
    return r;
}
