/* Any step of a recorded run, made again: the recorded presses are played in the emulator from the nearest state that is at hand. States
 * are kept in memory along the way, so that going back costs some frames only. Without an emulator (the library or the ROM is
 * missing) the key frames of the run are all there is. One thread at a time. */
#ifndef APP_RUN_PLAYER_H
#define APP_RUN_PLAYER_H

#include "record/run.h"
#include "serve/dash.h"

struct run_player;

/* Reads and checks the whole run. why: why there is no emulator, "" when there is one. */
int run_player_open(const char *folder, const char *rom, struct run_player **out, char *why, size_t cap, struct err *err);
void run_player_close(struct run_player *p); /* p may be NULL */

const struct run_reader *run_player_reader(const struct run_player *p);
uint32_t run_player_steps(const struct run_player *p);
const struct dash_row *run_player_row(const struct run_player *p, uint32_t index);
bool run_player_has_game(const struct run_player *p);

/* The line of a step as recorded (appended). */
int run_player_line(struct run_player *p, uint32_t index, struct buf *out, struct err *err);

/* Goes to the observation of a step; then picture, world and seen are those of that step. */
int run_player_go(struct run_player *p, uint32_t index, struct err *err);
const uint8_t *run_player_picture(const struct run_player *p);          /* RGB; NULL: there is none */
const struct world *run_player_world(const struct run_player *p);       /* NULL without an emulator */
const struct world_seen *run_player_seen(const struct run_player *p);

/* Plays on from the step it stands at, up to the next or to the end of the episode; frame is called after each frame with its picture
 * and may end it (false). *arrived: at the next step of the same episode. */
int run_player_play(struct run_player *p, bool (*frame)(void *user, const uint8_t *rgb, uint64_t number), void *user, bool *arrived, struct err *err);

#endif
