/* From runs on disk into memory: what `memory rebuild` does for every run and `play --resume` for the episodes that had ended. */
#ifndef APP_MEMORY_RUNS_H
#define APP_MEMORY_RUNS_H

#include "agent/recall.h"

/* The name under which memory knows a run: its folder's, of one of several games "FOLDER/game-001". full: its path. */
int run_memory_name(const char *folder, char name[256], char full[4096], struct err *err);

struct take_options {
    struct embedder *embedder; /* embeds the pictures of keyframes that were kept; NULL: none */
    const char *game;          /* ... of runs of this game */
    struct recall *recall;     /* of a resumed run: sees the episodes that are over, and what the store has already stays; NULL: none */
    volatile bool *stop;       /* may be NULL */
};
struct take_counts { /* added to */
    int64_t runs, steps, keyframes, embedded;
    int64_t without_picture;   /* keyframes that could not be embedded since the run kept no picture (or no thought) of them */
    int64_t forgotten;         /* recalled keyframes that are in no run any more */
    bool torn;
};
/* Two passes, since games that are played at the same time remember each other: first the steps, keyframes and embeddings of every run that is
 * taken, then of every one what was recalled, how its episodes ended and whether what was recalled helped. */
int memory_take_steps(struct memory *m, const char *folder, const struct take_options *o, int64_t *run, struct take_counts *c, struct err *err);
int memory_take_recalled(struct memory *m, const char *folder, const struct take_options *o, int64_t run, struct take_counts *c, struct err *err);

/* Every run below a folder (or the folder itself), oldest first: paths, malloc'ed. Folders without run.json are looked into two levels deep. */
struct run_list {
    char **folders;
    int count;
};
int run_list_find(const char *root, struct run_list *out, struct err *err);
void run_list_free(struct run_list *l);

#endif
