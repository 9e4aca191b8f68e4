/* RAM against picture: what a model says that it sees, scored against what the game's memory says is on the screen. A disagreement is
 * recorded, never papered over: nothing that is decided depends on it. */
#ifndef AGENT_PERCEIVE_H
#define AGENT_PERCEIVE_H

#include "agent/ask.h"
#include "agent/prompt.h"
#include "base/json.h"

/* What is on the screen by the game's memory. Places are judged from where a standing leader's camera shows them. */
void perception_of_world(const struct world *w, int truth[PERCEPTION_FIELDS]);
/* The same from the "world" of a data set's entry. */
void perception_of_entry(const struct json *world, const char *scene, int truth[PERCEPTION_FIELDS]);

struct perceiver {
    struct prompt_template prompt;
    struct asker *asker; /* not owned */
};
int perceiver_open(struct perceiver *p, const char *prompt_file, struct asker *asker, struct err *err); /* NULL: configs/prompts/perceive.txt */
void perceiver_close(struct perceiver *p);
/* Asks about one picture and fills said (PERCEPTION_NONE: no usable answer). seconds and tokens may be NULL. */
void perceiver_ask(struct perceiver *p, const uint8_t *rgb, int width, int height, uint64_t seed, int said[PERCEPTION_FIELDS], char *answer, size_t cap,
                   double *seconds, int64_t *tokens);

#endif
