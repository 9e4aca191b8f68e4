/* The sizes of Qwen3-VL as published, the checkpoints known by name, and the tensors that a checkpoint of one size holds. */
#ifndef BENCH_SHAPES_H
#define BENCH_SHAPES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct shape {
    const char *size; /* "2b" */
    int layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
    int sections[3];
    bool tied;
    int vision_depth, vision_hidden, vision_heads, vision_intermediate, deepstack[3], positions;
};

enum shape_format { SHAPE_BF16, SHAPE_FP8, SHAPE_NF4 };

/* A checkpoint of the Hub by its shape. */
struct known_model {
    const char *name;         /* short: "2b-fp8" */
    const char *ids[2];       /* the Hub's, NULL when there is none */
    const char *size;
    enum shape_format format;
    bool base;                /* a bf16 base, not one of the six quantised */
};
extern const struct known_model known_models[];
extern const int known_model_count;
/* By short name or Hub id, letters in any case; NULL when unknown. */
const struct known_model *known_model_find(const char *name);
const struct shape *shape_find(const char *size);

enum tensor_role { ROLE_LINEAR, ROLE_DENSE, ROLE_NORM, ROLE_BIAS };
/* Calls add for every tensor of the bf16 checkpoint, in no order; deviation: that of random weights that keep activations sane.
 * Stops at the first code that is not 0 and returns it. */
int shape_tensors(const struct shape *s,
                  int (*add)(void *user, const char *name, const int64_t *dims, int rank, enum tensor_role role, float deviation,
                             struct err *err),
                  void *user, struct err *err);

#endif
