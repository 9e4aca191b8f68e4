/* What the kernels that choose tokens share: pick.cu, pick_whole.cu. */
#ifndef BACKEND_CUDA_PICK_JOB_H
#define BACKEND_CUDA_PICK_JOB_H

extern "C" {
#include "backend/pick.h"
}
#include "backend/cuda/room.h"

enum { PIECES = 256, BLOCK_WARPS = 8, MOST_FIRST = 200, MOST_FOUND = 1024, MOST_JOBS = 64, FEW_JOBS = 8, TOO_MANY_TIES = -2 };

/* One pick on the device. */
struct job {
    int row, first;         /* candidates wanted */
    int top, top_k;
    int adjust_at, adjust_count, mask_at; /* mask_at: words, -1 none */
    bool sampled, penalties;
    bool whole;             /* no top-k */
    float temperature, top_p, min_p;
    double draw;
};
template <int MOST> struct job_list {
    struct job job[MOST];
};

struct candidate {
    float score;
    int32_t id;
};

/* Of one piece of a row: its largest, whose that is, and the sum of exponentials of what lies below the largest. */
struct __align__(16) piece {
    float most, sum;
    int32_t id;
};

struct pick_args {
    const struct pick_adjust *adjusts;
    const uint32_t *masks;
    float *logits;
    int vocab, choose;       /* choose: the pass behind the penalties */
    struct piece *pieces;    /* (jobs, PIECES) */
    unsigned *arrived;       /* (jobs) blocks that have read their pieces, zero between kernels */
    double *norms;           /* (jobs) log of the sum of exponentials */
    float *raw, *saved;      /* (adjusts) logits before biases, and before penalties */
    struct picked *out;      /* pinned host memory, written only */
    unsigned long long *answer; /* (jobs) the same: id and, above it, the log-probability in one word, for the host to watch; or NULL */
    bool for_all;            /* the answer tells the host that what other kernels wrote to its memory is there, too */
    unsigned *bins;          /* (jobs, WHOLE_WORDS), or NULL: no job is for pick_whole.cu */
};

__device__ static inline bool before(struct candidate a, struct candidate b) { return a.score > b.score || (a.score == b.score && a.id < b.id); }

enum { LANE_VALUES = 32 }; /* of a piece, in registers: vocabularies up to PIECES * 32 * LANE_VALUES */

/* A logit, or -infinity where nothing can be chosen. */
__device__ static inline float allowed(const struct pick_args &a, const struct job &j, const float *row, int id) {
    if (j.mask_at >= 0 && !(a.masks[j.mask_at + id / 32] >> id % 32 & 1)) return -INFINITY;
    float x = row[id];
    return x > -INFINITY ? x : -INFINITY;
}

__device__ static inline int piece_size(int vocab) { return (vocab + PIECES * 4 - 1) / (PIECES * 4) * 4; } /* the last pieces may be short, or empty */

/* What is told of the token chosen, by one thread: its log-probability is of its logit with biases, before penalties. */
__device__ static inline void put_choice(const struct pick_args &a, const struct job &j, int number, const float *row, int32_t id, bool penalised, double norm) {
    float v = 0;
    if (id >= 0) {
        v = row[id];
        for (int i = 0; penalised && i < j.adjust_count; i++)
            if (a.adjusts[j.adjust_at + i].id == id) v = a.saved[j.adjust_at + i];
        v = (float)((double)v - norm);
    }
    if (!a.answer) {
        a.out[number].id = id, a.out[number].logprob = v;
        return;
    }
    if (a.for_all) __threadfence_system();
    *(volatile unsigned long long *)&a.answer[number] = (unsigned long long)__float_as_uint(v) << 32 | (unsigned)id;
}

/* picks_run; host_written: kernels in front of it wrote to host memory, which the caller reads next. */
int picks_run_behind(struct backend_model *m, const struct pick_place *list, int count, float *logits, bool host_written, struct err *err);

/* pick_whole.cu: choices among the whole vocabulary, behind the kernels of pick.cu. */
enum { WHOLE_BINS = 1024, WHOLE_WORDS = 2 * WHOLE_BINS + 4 }; /* of a job's histogram: counts, what the weights lack, and both again of what min-p leaves of a bin */
template <int MOST> void launch_whole(struct backend_model *m, const struct pick_args &a, const struct job_list<MOST> &list, int count);

#endif
