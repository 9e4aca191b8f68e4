/* What an evaluation has found, in one file that is appended to: results.jsonl (format at the head of eval_results.c). */
#ifndef APP_EVAL_RESULTS_H
#define APP_EVAL_RESULTS_H

#include "base/buf.h"
#include "record/step.h"

enum { EVAL_NAME = 40, EVAL_MARKS = 32, EVAL_SETTINGS = 64 };

struct eval_setting {
    char name[EVAL_NAME];
    char *options; /* of `pmd-agent play`, owned */
};

/* When a floor was first stood on, or the dungeon cleared (floor 0). */
struct eval_mark {
    int floor, decision, turn;
    uint64_t frame;   /* since the start state */
    double seconds;   /* of wall time */
};

struct eval_episode {
    int setting;      /* index */
    uint32_t seed;
    char outcome[16], cause[96];
    int floor_reached, turns, decisions;
    int decided[DECIDED_BY_COUNT];
    int64_t tokens;
    double seconds, model_seconds, emulator_seconds;
    int mark_count;
    struct eval_mark marks[EVAL_MARKS];
    char start_hash[33], end_hash[33]; /* of memory (emulator_state_hash) before the first press and after the last */
    char *presses;    /* owned: base64 of deflated pairs (keys, frames), 16 bit each, little endian */
};

/* Energy of a stretch of work on one setting; joules NAN: not available. */
struct eval_energy {
    int setting;
    double joules, seconds;
};

struct eval_results {
    char *path;
    int fd;           /* -1: only read */
    char rom_hash[33];
    uint32_t seed_first;
    int seed_count;
    struct eval_setting settings[EVAL_SETTINGS];
    int setting_count;
    struct eval_episode *episodes;
    int episode_count, episode_cap;
    struct eval_energy *energy;
    int energy_count;
    char started_at[32], machine[160], chain[33];
};

/* Begins a file in `folder` (made), or goes on with the one there if it has the same ROM, seeds and settings, which r holds. */
int eval_results_open(struct eval_results *r, const char *folder, struct err *err);
/* Reads the file of a folder. */
int eval_results_read(struct eval_results *r, const char *folder, struct err *err);
/* Takes e->presses over. On disk (fdatasync) when this returns. */
int eval_results_add(struct eval_results *r, struct eval_episode *e, struct err *err);
int eval_results_add_energy(struct eval_results *r, const struct eval_energy *e, struct err *err);
bool eval_results_have(const struct eval_results *r, int setting, uint32_t seed);
void eval_results_close(struct eval_results *r);

/* Presses as text and back (pairs appended to out as struct key_press). */
int eval_presses_pack(const struct key_press *presses, size_t count, char **out, struct err *err);
int eval_presses_unpack(const char *text, struct buf *out, struct err *err);

#endif
