/* The dashboard: a page on loopback that shows one or several games as they are played, or a recorded run.
 *
 * Three ideas:
 *   source    who shows something publishes it here (pictures, steps, tokens) from any thread. Without a client that looks,
 *             publishing a picture costs one atomic load.
 *   commands  what a client asks for (pause, keys, ...) travels down through callbacks that the source registers; a command that is
 *             not registered is not offered by the page.
 *   history   one short row a step is kept for all steps, the whole step and its picture for the newest DASH_KEPT. A recorded run
 *             brings all rows at once and makes steps on demand (`fetch`).
 *
 * Routes and messages: docs/dashboard.md. */
#ifndef SERVE_DASH_H
#define SERVE_DASH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "game/world.h"
#include "record/step.h"

struct dash;
struct http_exchange;

enum { DASH_PORT = 8717, DASH_PORT_TRIES = 20, DASH_GAMES = 256, DASH_KEPT = 512, DASH_NOTE = 300 /* bytes of a text note */ };

/* Called on the service thread: must not block. NULL: not offered. */
struct dash_commands {
    void *user;
    void (*pause)(void *user, bool paused);
    void (*step)(void *user);                 /* one decision more, then pause */
    void (*speed)(void *user, double times);  /* of the console's speed; 0: as fast as it goes */
    void (*take_over)(void *user, int game, bool on); /* on: keys of a client decide; at most one client has them */
    void (*keys)(void *user, int game, uint32_t keys); /* held now (enum key) */
    void (*note)(void *user, int game, const char *text); /* "" takes it back */
    void (*seek)(void *user, int game, uint32_t index); /* recorded: play on from this row */
    /* Appends the members of one JSON object, without braces, about what changes by itself: paused, speed, caches, ... */
    void (*status)(void *user, struct buf *out);
};

struct dash_row { /* what the timeline and the plots need of a step */
    uint32_t episode, step;
    int16_t floor, hp, max_hp, belly;
    float confidence, total_ms, ask_ms, image_ms, prefill_ms, generate_ms, emulator_ms;
    int32_t prompt_tokens, cached_tokens, answer_tokens;
    char decided_by[12], action[28];
};

struct dash_options {
    const char *host;      /* NULL: 127.0.0.1 */
    int port;              /* 0: DASH_PORT and those after it; else this very one, or with `port_tries` those after it */
    int port_tries;        /* 0: DASH_PORT_TRIES when port is 0, else 1 */
    bool any_port;         /* the system chooses (tests) */
    bool shared;           /* others add routes to its server: the limits on bodies and connections are the core's, not the page's */
    int games;             /* 0: 1 */
    bool recorded;
    const char *title;     /* of the page: model or policy */
    const char *about;     /* one JSON object: run, model, game; or NULL */
    struct dash_commands commands;
    /* A step that is not kept: answers x (with dash_answer_step or http_error) now or later, from any thread. */
    void (*fetch)(void *user, struct http_exchange *x, int game, uint32_t index, bool picture);
    void *fetch_user;
};

int dash_open(const struct dash_options *o, struct dash **out, struct err *err);
void dash_close(struct dash *d); /* d may be NULL; every fetched exchange must have been answered */
/* "http://127.0.0.1:8717/" */
const char *dash_url(const struct dash *d);
struct http_server;
/* The server that it runs on, for other routes beside its own; belongs to the dashboard. */
struct http_server *dash_server(const struct dash *d);

/* Does anybody look at this game now? 0: no; 1: on the wall of tiles; 2: at this game. */
int dash_looks(const struct dash *d, int game);
/* A new picture (240x160 RGB): sent to those who look, at most 60 a second, or 10 to the wall. */
void dash_picture(struct dash *d, int game, const uint8_t *rgb, uint64_t frame);
/* A piece of the model's answer; probability < 0: not known. forced: nothing else was allowed. */
void dash_token(struct dash *d, int game, const char *text, size_t n, float probability, bool forced);
/* A step: json is one object with the fields of a trajectory line, row says the same in short. w, seen and rgb: the world of the
 * observation (seen may be NULL) and its picture. */
void dash_step(struct dash *d, int game, const struct dash_row *row, const char *json, const struct world *w, const struct world_seen *seen,
               const uint8_t *rgb);
/* The world as it is now, while something is done that takes many turns; to those who look at this game. */
void dash_world(struct dash *d, int game, const struct world *w, const struct world_seen *seen);
/* "begun" or "done" with an object of details (NULL allowed). */
void dash_episode(struct dash *d, int game, const char *event, const char *details);
/* Sends the status to all, at most once a second unless `now`. */
void dash_status(struct dash *d, bool now);

/* ---- recorded runs ---- */

int dash_add_row(struct dash *d, int game, const struct dash_row *row);
/* Answers a fetched exchange with a step (json, world as in dash_step) or its picture. */
void dash_answer_step(struct http_exchange *x, int game, uint32_t index, const char *json, const struct world *w, const struct world_seen *seen);
void dash_answer_picture(struct http_exchange *x, int game, const uint8_t *rgb, uint64_t frame);
/* Shows a step without adding a row (playing a recorded run). */
void dash_show_step(struct dash *d, int game, uint32_t index, const char *json, const struct world *w, const struct world_seen *seen);

#endif
