/* Asking a model: picture and words in, one of the offered actions out, held to a JSON schema. */
#ifndef AGENT_ASK_H
#define AGENT_ASK_H

#include "agent/scene.h"

struct asker;

struct answer {
    int action;              /* -1: none could be made of it; reason says why */
    char reason[200];
    char *text;              /* as generated, or NULL; freed by answer_free */
    int32_t *prompt_tokens, *answer_tokens;
    int prompt_token_count, answer_token_count;
    float confidence;        /* product of the probabilities of the tokens that were a choice */
    int64_t cached_tokens, computed_tokens;
    double image_ms, prefill_ms, generate_ms, total_ms;
};
void answer_free(struct answer *a);

struct ask_options {
    const char *system;
    bool greedy;
    float temperature;
    const struct agent_events *events; /* token */
};
/* model must outlive the asker; system is copied. */
int asker_new(struct qvl_model *model, const struct ask_options *o, struct asker **out, struct err *err);
void asker_free(struct asker *a);
/* Never fails: what went wrong is in out->reason with out->action = -1. seed: of the sampler. */
void asker_ask(struct asker *a, const uint8_t *rgb, const char *prompt, const bool offered[ACTION_COUNT], uint64_t seed, struct answer *out);

#endif
