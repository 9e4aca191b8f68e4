/* Several checkpoints in this process, and a router that chooses among them for each game. */
#ifndef APP_PLAY_LADDER_H
#define APP_PLAY_LADDER_H

#include "agent/router.h"
#include "app/play_options.h"
#include "base/buf.h"

struct play_ladder;
struct play_ladder_game;

/* Do the options and configs/router.yaml ask for one? */
bool play_ladder_wanted(const struct play_options *o);
/* Reads the settings, loads the first rung; the others are loaded when they are first asked. label: all names, for every output. */
int play_ladder_open(const struct play_options *o, char *label, size_t cap, struct play_ladder **out, struct err *err);
void play_ladder_close(struct play_ladder *l);
void play_ladder_detail(const struct play_ladder *l, struct buf *out); /* one JSON object */
/* Tokens of the first rung's vocabulary. */
int play_ladder_vocabulary(const struct play_ladder *l);
/* "NAME 120 decisions, 17.6 ms, 21.3 ms after a switch": one line a rung. */
void play_ladder_report(struct play_ladder *l, struct buf *out);

int play_ladder_game_open(struct play_ladder *l, const struct play_options *o, struct play_ladder_game **out, struct err *err);
void play_ladder_game_close(struct play_ladder_game *g);
struct router *play_ladder_router(struct play_ladder_game *g);

#endif
