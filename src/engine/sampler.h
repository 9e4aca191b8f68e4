/* From a row of logits to a token, in the order of transformers: repetition and presence penalty, temperature, top-k (ties with
 * the k-th stay), top-p, min-p, one draw. Same seed, same tokens: the generator is our own (splitmix64). */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include "checkpoint/config.h"
#include "qwen3vl.h"

struct candidate {
    int32_t id;
    float score;
};

struct sampler {
    bool greedy;
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int top_k;
    uint64_t state;
    int vocab;
    uint8_t *seen;               /* (vocab) 1 = in prompt or answer, 2 = in the answer; NULL without penalties */
    uint32_t *times;             /* (vocab) how often in the answer; NULL without frequency penalty */
    struct candidate *candidates; /* (vocab) */
};

/* Zero fields of q take the checkpoint's defaults. Prompt ids count for the repetition penalty, as in transformers. */
int sampler_init(struct sampler *s, const struct qvl_sampling *q, const struct sampling_config *defaults, int vocab,
                 const int32_t *prompt, int64_t prompt_count, struct err *err);
void sampler_free(struct sampler *s);
/* Picks among the tokens whose bit is set in mask (NULL: all). Returns -1 when no token is allowed or all are NaN. */
int32_t sampler_pick(struct sampler *s, const float *logits, const uint32_t *mask);
void sampler_accept(struct sampler *s, int32_t id);

/* The log-probability of id among the allowed tokens, and the `top` best of them, from raw logits. */
void logprobs_of(const float *logits, int vocab, const uint32_t *mask, int32_t id, int top, struct qvl_token *out);

#endif
