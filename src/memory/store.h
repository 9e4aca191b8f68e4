/* The trajectory store: one SQLite file with every step of the runs it was told of, their keyframes, the embeddings of those and what
 * was recalled. It is derived from runs and can be made again from them (`pmd-agent memory rebuild`), embeddings aside as far as the
 * runs keep their pictures. WAL, synchronous=NORMAL: a step is in the file when store_step returns, survives a kill of the program,
 * and the last ones may be lost in a power cut. Schema and its versions: store_schema.c. A connection is used by one thread at a
 * time; several processes may share the file. err must not be NULL. */
#ifndef MEMORY_STORE_H
#define MEMORY_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct store;

/* Creates the file, brings an older schema to the present one, refuses a newer one; a damaged file is named. read_only: it must exist. */
int store_open(const char *path, bool read_only, struct store **out, struct err *err);
void store_close(struct store *s);
const char *store_path(const struct store *s);
/* A random number made with the file: indexes of other stores are told by it. */
void store_identity(const struct store *s, uint64_t out[2]);
/* SQLite's own integrity check, and whether every reference leads somewhere. 0: all well; else the first problem in err. */
int store_verify(struct store *s, struct err *err);

int store_begin(struct store *s, struct err *err); /* many writes at once: a rebuild */
int store_commit(struct store *s, struct err *err);
void store_rollback(struct store *s);
/* Inside a transaction: what follows can be undone alone. */
int store_savepoint(struct store *s, struct err *err);
int store_savepoint_keep(struct store *s, struct err *err);
int store_savepoint_undo(struct store *s, struct err *err);
bool store_in_transaction(const struct store *s);

/* ---- runs and steps --------------------------------------------------------------------------------------------------------- */

struct store_run {
    const char *name;   /* unique: the folder's name, of one of several games "FOLDER/game-001" */
    const char *folder, *started_at, *game /* "TWDE" */, *rom_hash, *policy, *model;
};
/* The run's number; one that is there already keeps its number and its steps. Another run under its name (it began at another time): what
 * was in the same folder before is forgotten; in another folder it is an error. */
int store_run_add(struct store *s, const struct store_run *run, int64_t *id, struct err *err);
/* Forgets a run: steps, keyframes, embeddings, recalls. */
int store_run_remove(struct store *s, int64_t run, struct err *err);

/* One step, as plain data: what a run's line says, and what keyframe.h made of it. Strings may be NULL. */
struct store_step {
    int64_t run;
    int episode;
    uint32_t number, seed;
    uint64_t first_frame;
    const char *frame_hash, *state_hash; /* 32 hex digits */
    uint64_t picture_hash;
    const char *scene;
    int floor, hp, max_hp, level, belly, x, y, foes;
    uint64_t bag;                        /* hash of what is in the bag */
    const char *action, *decided_by, *note;
    bool new_tile;
    unsigned causes;                     /* of a keyframe, enum keyframe_cause; 0: none */
    uint32_t ordinal;                    /* of the keyframe in its run, from 1 */
    const char *picture;                 /* file in the run's folder */
};
/* 1: added, a keyframe's number (they rise with time) is in *keyframe, 0 when it is none; 0: the step was there already; negative: error. */
int store_step(struct store *s, const struct store_step *step, int64_t *keyframe, struct err *err);
/* An episode's end. outcome: "cleared", "fainted", ... */
int store_episode_end(struct store *s, int64_t run, int episode, uint32_t steps, const char *outcome, struct err *err);

/* For a rebuild, inside a transaction: forgets all runs; with keep_vectors their embeddings are put by, and store_restore_vectors gives them
 * back to the keyframes (same run, step and picture) that have none. It counts those that found no place any more as lost. */
int store_forget_runs(struct store *s, bool keep_vectors, struct err *err);
int store_restore_vectors(struct store *s, int64_t *kept, int64_t *lost, struct err *err);

/* ---- vector spaces and embeddings ---------------------------------------------------------------------------------------------- */

/* Vectors of different models, kinds, sizes or games are never compared. */
struct store_space {
    const char *model;    /* as a person names it */
    const char *identity; /* hash of the checkpoint */
    const char *kind;     /* "image", "last", "thought" */
    const char *game;
    int dims;
};
int store_space_find(struct store *s, const struct store_space *space, int64_t *id, struct err *err); /* 0: it has none */
int store_space_add(struct store *s, const struct store_space *space, int64_t *id, struct err *err);
int store_embedding(struct store *s, int64_t space, int64_t keyframe, const float *vector, int dims, struct err *err);
/* Every embedding of a space with a keyframe above `after`, in order. visit returns 0 to go on. */
int store_embeddings(struct store *s, int64_t space, int64_t after, int (*visit)(void *user, int64_t keyframe, int level, const float *v, struct err *err),
                     void *user, struct err *err);
/* Is an embedding of the very same picture there? */
int store_has_picture(struct store *s, int64_t space, const char *frame_hash, bool *known, struct err *err);
/* How many embeddings a space has up to a keyframe: tells whether an index fits. */
int store_embedding_count(struct store *s, int64_t space, int64_t upto, int64_t *count, struct err *err);

/* ---- what was remembered, and what came of it ---------------------------------------------------------------------------------- */

/* What followed step `from` in its episode: over steps from+1 .. from+OUTCOME_STEPS, or to the end. */
enum { OUTCOME_STEPS = 8 };
struct store_outcome {
    int steps;                 /* that there were */
    int hp_change, floors, new_tiles;
    bool ended;                /* the episode ended within them */
    char outcome[24];          /* then how */
};
int store_outcome(struct store *s, int64_t run, int episode, uint32_t from, struct store_outcome *out, struct err *err);

struct store_memory { /* a keyframe as it is told */
    int64_t keyframe, run;
    int episode, floor, hp, max_hp, foes;
    uint32_t number, seed;
    unsigned causes;
    char run_name[128], run_folder[1024], scene[24], action[64], picture[128];
    struct store_outcome after;
};
int store_memory(struct store *s, int64_t keyframe, struct store_memory *out, struct err *err);

/* The newest keyframes of an episode, newest first; returns how many (at most max), negative on error. */
int store_newest_keyframes(struct store *s, int64_t run, int episode, int64_t *out, int max, struct err *err);

/* A memory was told at a step. Its judgement comes when OUTCOME_STEPS steps have followed, or the episode has ended:
 *   followed   the action taken was the one of the memory
 *   good       no HP lost, and a new tile or floor; or the dungeon cleared
 * It helped when it was followed and good came of it; how often good came when it was not followed is the yardstick. */
struct store_recall {
    int64_t run;
    int episode;
    uint32_t number;
    int rank;
    int64_t keyframe;
    float score, similarity;
    unsigned silos;
};
int store_recall(struct store *s, const struct store_recall *r, struct err *err);
/* What was told at a step, by rank: keyframe, score, similarity and silos are filled. Returns how many (at most max). */
int store_recalled(struct store *s, int64_t run, int episode, uint32_t number, struct store_recall *out, int max, struct err *err);
/* The keyframe at a step; 0: it is none. */
int store_keyframe_at(struct store *s, const char *run, int episode, uint32_t number, int64_t *keyframe, struct err *err);
/* Judges what is due in this episode after step `number`; ended: all of it. */
int store_judge(struct store *s, int64_t run, int episode, uint32_t number, bool ended, struct err *err);

/* ---- questions ---------------------------------------------------------------------------------------------------------------------- */

struct store_counts {
    int64_t runs, episodes, steps, keyframes, spaces, embeddings;
    int64_t recalls, judged, followed, followed_good, other_good; /* other: judged and not followed */
};
int store_counts(struct store *s, struct store_counts *out, struct err *err);

struct store_space_row {
    int64_t id, vectors;
    int dims;
    char model[256], identity[64], kind[16], game[16];
};
int store_spaces(struct store *s, int (*visit)(void *user, const struct store_space_row *row), void *user, struct err *err);

/* The newest steps that fit all of what is not NULL or negative; visit returns 0 to go on. */
struct store_filter {
    const char *run, *scene, *action, *outcome;
    int floor, episode;
    bool keyframes;
    int limit;
};
struct store_found {
    const char *run, *scene, *action, *decided_by, *note, *picture, *outcome;
    int episode, floor, hp, max_hp;
    uint32_t number, seed;
    unsigned causes;
};
int store_find(struct store *s, const struct store_filter *f, int (*visit)(void *user, const struct store_found *row), void *user, struct err *err);

/* A number for everything in the store that rebuild must give again, row numbers aside. */
int store_fingerprint(struct store *s, char out[33], struct err *err);

#endif
