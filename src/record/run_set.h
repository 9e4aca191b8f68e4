/* A run of several games at the same time is a folder with a run for each game in it:
 *
 *     games.json   {"format":1, "program":"pmd-agent", "games":N, "arguments":[..]}, written once at the start
 *     game-001/    a run (format: run.c) that can be replayed, read and gone on with alone
 *     game-002/    ...
 *
 * Which game plays which episode is decided while they play; each run says the seeds of its own episodes. */
#ifndef RECORD_RUN_SET_H
#define RECORD_RUN_SET_H

#include "record/run.h"

enum { RUN_GAMES = 256 };

struct run_set {
    char folder[4096];
    int games;               /* 0: the folder is itself a run */
    const struct json *arguments; /* of `play`, an array of strings; NULL: an older run does not say */
    struct arena arena;
};
/* A new folder, like run_create's (folder: this very one, or NULL: root/<time>-<pid>, root NULL = "runs"). arguments: a JSON array. */
int run_set_create(const char *root, const char *folder, int games, const char *arguments, struct run_set *out, struct err *err);
/* Of a folder with games.json or run.json. */
int run_set_open(const char *folder, struct run_set *out, struct err *err);
void run_set_close(struct run_set *s);
/* The run of a game (from 0), or the folder itself when it is a run. Returns out. */
const char *run_set_game(const struct run_set *s, int game, char out[4096]);

#endif
