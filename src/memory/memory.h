/* Memory over runs: the store and, for one vector space, the index, behind one lock; shared by all games of a process. What it needs of
 * a run is handed in as plain data; it reads no run and asks no model. Folder: memory.sqlite (the truth here) and index-*.ivf
 * (derived from it). err must not be NULL. */
#ifndef MEMORY_MEMORY_H
#define MEMORY_MEMORY_H

#include "memory/keyframe.h"
#include "memory/silo.h"
#include "memory/store.h"
#include "memory/vector_index.h"

struct memory;

struct memory_options {
    const char *folder;              /* made if need be */
    bool read_only;                  /* nothing is written: no step, no index */
    const struct store_space *space; /* what vectors will be handed in; NULL: none */
    int threads;                     /* for making an index; 0 = 1 */
    size_t exact_bytes;              /* 0 = VECTOR_EXACT_BYTES */
    void (*notice)(void *user, const char *text); /* an index was dropped, is made, FAISS is missing; may be NULL */
    void *notice_user;
};
int memory_open(const struct memory_options *o, struct memory **out, struct err *err);
void memory_close(struct memory *m);
/* For questions; not while games play. */
struct store *memory_store(struct memory *m);
void memory_index_stats(struct memory *m, struct vector_index_stats *out); /* zeros without a space */
/* Makes the index file anew (also a small set's). */
int memory_index_rebuild(struct memory *m, struct err *err);

/* What is told at a step: the best memories, fused. */
enum { MEMORY_TOLD = 8 };
struct memory_told {
    struct store_memory memory;
    float score, similarity; /* similarity 0: only near in time */
    unsigned silos;          /* struct fused */
};
/* vector (unit length; NULL: near-time memories only) is what is seen now at step `number`. The newest NEAR_LEFT_OUT keyframes of the
 * episode are no news and left out. At most max are told. */
enum { NEAR_LEFT_OUT = 2, NEAR_SHOWN = 4 };
int memory_recall(struct memory *m, const float *vector, int64_t run, int episode, struct memory_told *out, int max, int *count, struct err *err);

/* What was told at a step that is in the store: for a resumed run. */
int memory_told_at(struct memory *m, int64_t run, int episode, uint32_t number, struct memory_told *out, int max, int *count, struct err *err);

int memory_run_add(struct memory *m, const struct store_run *run, int64_t *id, struct err *err);
/* A step with what belongs to it, together or not at all (nothing when it is there already): its keyframe, the keyframe's vector (NULL: none), what was told. Judges the
 * memories whose time has come. */
int memory_step(struct memory *m, const struct store_step *step, const float *vector, const struct memory_told *told, int told_count, struct err *err);
/* An episode that was only stopped may go on: nothing is judged yet. */
int memory_episode_end(struct memory *m, int64_t run, int episode, uint32_t steps, const char *outcome, struct err *err);
/* The embedding of a keyframe that is in the store already (a rebuild). */
int memory_embed(struct memory *m, int64_t keyframe, uint32_t ordinal, const char *frame_hash, const float *vector, struct err *err);

/* "B2F: hit_ne, then in 8 steps hp -3, 4 new tiles, floor +1" for a prompt, and "run X e1 s34, seed 7" as its source. Game text and
 * names that came from outside are escaped: one line, no control characters. */
void memory_told_text(const struct memory_told *t, char *text, size_t text_cap, char *from, size_t from_cap);

#endif
