/* The engine in this process as somebody who answers: one session of a model. */
#ifndef AGENT_ASK_ENGINE_H
#define AGENT_ASK_ENGINE_H

#include "agent/ask.h"

struct engine_answerer;
struct engine_answerer_options {
    int think_tokens;   /* of a thinking model; 0: ENGINE_THINK_TOKENS */
    int best_of;        /* so many answers, voted on (ballot.h); 0 or 1: one */
    bool sum_vote;      /* by probability instead of by number */
};
enum { ENGINE_ANSWER_TOKENS = 160, ENGINE_THINK_TOKENS = 256 };

/* model must outlive it; one thread at a time. */
int engine_answerer_new(struct qvl_model *model, const struct engine_answerer_options *o, struct engine_answerer **out, struct err *err);
void engine_answerer_free(struct engine_answerer *a);
struct answerer engine_answerer_door(struct engine_answerer *a);

#endif
