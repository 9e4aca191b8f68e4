/* What a model will need before anything is loaded: parameters, bytes on disk, memory at a context. Figures come from the config.json
 * in the cache or on the Hub; where neither is at hand, from the published shapes of the 2B, 4B and 8B models, and the plan says so. */
#ifndef APP_MODEL_PLAN_H
#define APP_MODEL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpoint/config.h"

enum plan_source { PLAN_UNKNOWN, PLAN_PUBLISHED_SHAPE, PLAN_CONFIG, PLAN_FILES };

struct model_plan {
    enum plan_source source;
    const char *format;         /* "bf16", "fp8", "nf4" */
    int64_t parameters;
    int64_t weight_bytes;       /* on disk; exact when source is PLAN_FILES, else computed from the format */
    int64_t kv_bytes_per_token; /* bf16 keys and values of all layers */
    int64_t fp8_kv_bytes_per_token; /* of FP8 pages (a GPU's --kv fp8) */
    int64_t decode_bytes;       /* weights read for one token */
    int64_t max_context;
};

/* From the id alone: size and format as the name says. */
void model_plan_from_id(const char *id, struct model_plan *out);
/* From a config: counts parameters of the decoder and of the vision tower (facts: qwen3-vl.md §2.1). */
void model_plan_from_config(const struct model_config *c, struct model_plan *out);

/* KV and working memory for so many tokens in so many sequences (activations of a 512-token chunk, logits, one picture). */
int64_t model_plan_memory(const struct model_plan *p, int64_t context, int batch);

#endif
