/* What a cell should take, from a roofline: bytes over measured bandwidth, operations over measured rate, whichever is longer.
 * Estimates are never mixed with measurements: they have their own heading and columns, and pace the progress line. */
#ifndef BENCH_ESTIMATE_H
#define BENCH_ESTIMATE_H

#include "bench/matrix.h"
#include "checkpoint/config.h"
#include "qwen3vl.h"

/* A checkpoint's figures, from its headers alone. */
struct model_facts {
    struct text_config text;
    struct vision_config vision;
    char storage[32];
    size_t weight_bytes, decode_bytes; /* of all matrices; read for one decoded token */
    size_t kv_token_bytes;
    double token_products;             /* multiply-adds of one token in the decoder's matrices, the head aside */
    double head_products, picture_products;
    int picture_tokens;                /* of one frame of the game */
};
/* folder: a checkpoint, or a hollow one. */
int model_facts_read(const char *folder, const struct qvl_options *o, struct model_facts *out, struct err *err);

struct cell_estimate {
    double prefill_s, decode_step_s, prefill_tok_s, decode_tok_s;
    double cold_ms;
    double memory_mib;         /* weights and the cell's keys and values */
    double total_s;            /* of one repeat, reuse measurements included */
};
void cell_estimate(const struct cell *c, int answer_tokens, const struct model_facts *f, const struct qvl_ceilings *device,
                   struct cell_estimate *out);
/* Least bytes of one decode step, in the middle of the answers: weights, the prompts (each once), the answers. */
void decode_bytes(const struct cell *c, int64_t prompt, int answer_tokens, size_t weight_bytes, size_t kv_token_bytes,
                  double *weights, double *prefix, double *suffix);
/* Tokens of keys and values that measuring the cell takes. */
int64_t cell_kv_tokens(const struct cell *c, int answer_tokens);

#endif
