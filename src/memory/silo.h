/* Silos: the keyframes of a run at seven time scales. Silo s holds every 2^s-th keyframe, so the same number of memories reaches
 * 64 times as far back in silo 6 as in silo 0. A search fills one list of nearest memories per silo; the lists, and the list of
 * what was just seen, are fused by reciprocal rank (Cormack, Clarke, Buettcher 2009): score = sum of 1 / (60 + rank). Of each silo
 * the first FUSE_TOP count, and a silo above 0 only when it had more to choose from: else a memory would be good for being the only one. */
#ifndef MEMORY_SILO_H
#define MEMORY_SILO_H

#include <stdbool.h>
#include <stdint.h>

enum { SILO_COUNT = 7, SILO_TOP = 24, FUSE_TOP = 8, FUSE_RANK = 60 };

/* The highest silo that holds the keyframe with this ordinal (from 1) of its run; it is in all below too. */
int silo_level(uint32_t ordinal);

/* The best of a list by similarity, best first; equal ones by id, the newer first. */
struct silo_hit {
    int64_t id;
    float similarity; /* cosine */
};
struct silo_top {
    int count;
    struct silo_hit hit[SILO_TOP];
};
void silo_top_add(struct silo_top *t, int64_t id, float similarity);

/* One list per silo, and the keyframes of the present episode that are nearest in time, newest first. */
struct silo_lists {
    struct silo_top silo[SILO_COUNT];
    struct silo_top near;
};
/* A found vector goes into the silos that hold it. */
static inline void silo_lists_add(struct silo_lists *l, int64_t id, int level, float similarity) {
    for (int s = 0; s <= level; s++) {
        struct silo_top *t = &l->silo[s];
        if (t->count == SILO_TOP && similarity < t->hit[SILO_TOP - 1].similarity) continue;
        silo_top_add(t, id, similarity);
    }
}

struct fused {
    int64_t id;
    float score, similarity; /* similarity: 0 when it came from the near list only */
    uint8_t silos;           /* bit s: it stood in the list of silo s; bit 7: in the near list */
};
enum { FUSED_MAX = SILO_TOP * (SILO_COUNT + 1) };
/* Best first, equal scores by id, the newer first; returns how many. */
int silo_fuse(const struct silo_lists *l, struct fused out[FUSED_MAX]);

#endif
