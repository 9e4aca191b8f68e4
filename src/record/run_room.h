/* What run.c and run_resume.c share: a run that is being written. */
#ifndef RECORD_RUN_ROOM_H
#define RECORD_RUN_ROOM_H

#include <limits.h>

#include "record/counts.h"
#include "record/run.h"

enum { KEY_FRAMES_EPISODE = 32, KEY_FRAMES_RUN = 512, KEY_FRAMES_MEMORY = 20000, SYNC_SECONDS = 2 };

/* A beginning on record; several when the watchdog went back. */
struct run_past_part {
    uint32_t seed;
    uint64_t start_frame;
    char start_hash[33];
    int first, count; /* of its steps */
    bool ended;       /* by a return */
};
/* What the episode at the seam has on record: it is lived again and must come out the same. */
struct run_past {
    struct arena arena;
    struct run_past_step *steps;
    int count, at; /* at: how many were lived again */
    struct run_past_part *parts;
    int part_count, part; /* part: the one that is being lived again; -1: the first is yet to be begun */
};

struct run {
    char *folder;
    int trajectory, episodes;    /* file descriptors */
    char trajectory_path[PATH_MAX], episodes_path[PATH_MAX];
    char chain[33], episode_chain[33];
    bool failed, no_pictures;
    int episode;                 /* number of the present one, 0 before the first */
    bool in_episode;
    uint32_t seed;
    uint32_t steps;              /* of this episode */
    int key_frames, key_frames_total, memory_frames, checkpoint_floor, last_floor;
    char picture[64];            /* key frame of the last step; "" none */
    char last_scene[32];
    double last_sync, record_ms; /* record_ms: of the last step */
    struct emulator *emulator;   /* valid during an episode */
    struct buf line;
    struct token_chain chain_tokens; /* of the line before */
    char *model;                 /* as in run.json; NULL: none */
    struct run_past past;        /* of a run that goes on */
    /* totals for summary.json */
    double started;
    int done, outcomes[OUTCOME_STUCK + 1], decided[DECIDED_BY_COUNT];
    struct run_counts counts, before; /* before: of the episodes that had ended when the run was taken up */
    int64_t decisions, tokens, turns_cleared;
    double model_seconds, emulator_seconds;
};

/* Makes the folder of a new run (see run_options). */
int run_make_folder(const char *root, const char *folder, char path[PATH_MAX], struct err *err);
/* UTC with milliseconds. */
void run_now(char out[32]);
/* Ends the object in r->line with its chain and appends it to a file. */
int run_append(struct run *r, int fd, const char *path, char chain[33], const char *what, struct err *err);
int run_sync(struct run *r, int fd, const char *path, struct err *err);
int run_refuse(const struct run *r, struct err *err);
int run_fail(struct run *r, struct err *err);
void run_count(struct run *r, const struct episode_result *result); /* into the totals */
/* The name of a step's key frame into r->picture, or "" when it has none. */
void run_picture_name(struct run *r, uint32_t step, bool has_one);
/* XXH3-128 of the presses. */
void run_presses_hash(const struct key_press *presses, int count, char out[33]);

/* One process at a time writes a run. */
int run_lock(int fd, const char *folder, struct err *err);

void run_past_free(struct run_past *p);
/* While the past is lived again these take the place of writing. */
int past_begin(struct run *r, uint32_t seed, struct emulator *e, struct err *err);
bool past_goes_on(const struct run *r); /* a part on record is still to be begun again */
int past_steps(const struct run *r);    /* on record, of the part that is lived again */
/* The part ends as it did on record. */
bool past_part_ended(const struct run *r, const struct episode_result *result);
int past_step(struct run *r, const struct step *s, int floor, struct err *err);

#endif
