/* pmd-agent eval: settings of `play` on fixed seeds, measured so that somebody else can check it. The work is done by `pmd-agent play`
 * in processes of its own, a few seeds each: a game that crashes or hangs the program cannot take the results along, and whatever
 * options play has can be compared. */
#ifndef APP_EVAL_H
#define APP_EVAL_H

#include "app/eval_results.h"

/* Plays every seed of every setting that the results do not have yet, `jobs` processes at a time, `chunk` seeds each. runs: folder
 * for the runs while they are played; kept when keep_runs is set. *stop ends it early (ERR_CANCELLED). */
struct eval_work {
    const char *runs;
    const char *rom;          /* NULL: play's default */
    int jobs, chunk;
    bool keep_runs, quiet;
    volatile bool *stop;
};
int eval_play(struct eval_results *r, const struct eval_work *w, struct err *err);

enum eval_form { EVAL_TABLE, EVAL_JSON, EVAL_CSV };
void eval_report(const struct eval_results *r, enum eval_form form, struct buf *out);
/* 95 % interval of a share (Wilson 1927). */
void wilson(int hits, int count, double *low, double *high);

/* Plays `sample` of the episodes again (0: all), spread over the file, from ROM, seed and presses: outcome, floor and memory must be
 * those on record. Says each difference on stderr; returns how many differ, or a negative code. *checked: how many were played. */
int eval_verify(const struct eval_results *r, const char *rom_path, int sample, volatile bool *stop, int *checked, struct err *err);

#endif
