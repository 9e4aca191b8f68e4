/* What an answer's sampling settings ask of a row of logits (struct pick): penalties follow the tokens seen, and the generator of
 * draws is our own (splitmix64), so the same seed gives the same tokens. The choice itself is backend/pick.h's. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include "backend/pick.h"
#include "checkpoint/config.h"
#include "qwen3vl.h"

struct sampler {
    bool greedy;
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int top_k;
    uint64_t state;
    int32_t *place;              /* (vocab) index in adjust, -1 = none; NULL without penalties and biases */
    struct pick_adjust *adjust;  /* every token that is treated specially */
    int adjust_count, adjust_capacity;
};

/* Zero fields of q take the checkpoint's defaults. Prompt ids count for the repetition penalty, as in transformers. */
int sampler_init(struct sampler *s, const struct qvl_sampling *q, const struct sampling_config *defaults, int vocab,
                 const int32_t *prompt, int64_t prompt_count, struct err *err);
/* Adds to a token's logit; what the same token had is added up. */
int sampler_bias(struct sampler *s, int vocab, int32_t id, float bias, struct err *err);
void sampler_free(struct sampler *s);
/* The request for the next token, among the tokens of mask (NULL: all), with `top` alternatives; uses up one draw when it is
 * sampled. Valid until the next call of a sampler function. */
struct pick sampler_request(struct sampler *s, const uint32_t *mask, int top);
/* The answer goes on with id. */
int sampler_accept(struct sampler *s, int32_t id, struct err *err);

#endif
