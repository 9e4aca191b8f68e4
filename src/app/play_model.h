/* Who plays for `pmd-agent play --policy model`: a checkpoint in this process, a server, or a script. */
#ifndef APP_PLAY_MODEL_H
#define APP_PLAY_MODEL_H

#include <limits.h>

#include "agent/ask_engine.h"
#include "app/play_ladder.h"
#include "app/play_options.h"
#include "base/buf.h"

struct mock_model;
struct openai_model;

struct play_model {
    struct qvl_model *engine; /* of these four, one */
    struct openai_model *server;
    struct mock_model *mock;
    struct play_ladder *ladder;
    struct answerer by;       /* of server and mock */
    char folder[PATH_MAX];    /* of engine */
    char label[1200];         /* how every output names it: what the user asked for; a mock says that it is one */
};

/* What one of several games has of it. */
struct play_model_game {
    struct answerer by;
    struct engine_answerer *engine;
    struct play_ladder_game *ladder;
    struct router *router;    /* of the ladder, or NULL */
};

/* Loads or connects. stop: ends waiting for a server. Closing is due in every case. */
int play_model_open(const struct play_options *o, volatile bool *stop, struct play_model *m, struct err *err);
/* Was it trained for this game alone (models/tinywoods-vl and the like), so that it knows the words of configs/prompts/tinywoods.txt only? Told by
 * its vocabulary: below 10,000 tokens nobody has learnt a language. A script counts as such a model, too. */
bool play_model_is_ours(const struct play_model *m);
/* Appends one JSON object about it, for run.json; nothing when none was opened. */
void play_model_detail(const struct play_model *m, struct buf *out);
void play_model_close(struct play_model *m);

/* For one game, one thread. Closing is due in every case, before the model's. */
int play_model_game_open(struct play_model *m, const struct play_options *o, struct play_model_game *out, struct err *err);
void play_model_game_close(struct play_model_game *g);

#endif
