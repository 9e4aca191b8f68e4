/* The weights of a Qwen3-VL checkpoint by their places in the model: views into the mapped files, shared by the backends.
 *
 * Shapes in trailing comments: D text hidden, Q heads * head_dim, K kv_heads * head_dim, I text MLP width; V vision hidden,
 * J vision MLP width, M = V * merge^2. */
#ifndef BACKEND_WEIGHTS_H
#define BACKEND_WEIGHTS_H

#include "backend/backend.h"

struct decoder_layer {
    const float *input_norm, *post_norm;          /* (D) */
    const float *q_norm, *k_norm;                 /* (head_dim) */
    struct linear_weight q, k, v, o;              /* (Q, D), (K, D), (K, D), (D, Q) */
    struct linear_weight gate, up, down;          /* (I, D), (I, D), (D, I) */
};

struct vision_block {
    const float *norm1_w, *norm1_b, *norm2_w, *norm2_b; /* (V) */
    struct linear_weight qkv, proj;                     /* (3V, V), (V, V) */
    struct linear_weight fc1, fc2;                      /* (J, V), (V, J) */
};

struct vision_merger {
    const float *norm_w, *norm_b;       /* (V) before, or (M) after the concatenation */
    bool after;                         /* deepstack mergers normalise after the concatenation */
    struct linear_weight fc1, fc2;      /* (M, M), (D, M) */
};

struct model_weights {
    struct checkpoint *checkpoint; /* borrowed */
    struct model_config config;
    struct linear_weight embed, head; /* (vocab, D); head is embed when tied */
    const float *norm;                /* (D) */
    struct decoder_layer *layers;
    struct linear_weight patch_embed; /* (V, 3 * 2 * patch * patch) */
    const float *pos_embed;           /* (positions, V) */
    struct vision_block *blocks;
    struct vision_merger merger, deepstack[CONFIG_MAX_DEEPSTACK];

    float *inverse_frequency;         /* (head_dim / 2) text */
    int *axis;                        /* (head_dim / 2) 0 T, 1 H, 2 W */
    float *vision_frequency;          /* (vision head_dim / 4) */
};

/* Fills *w; c must outlive it. On failure nothing is left to close. */
int model_weights_open(struct checkpoint *c, struct model_weights *w, struct err *err);
void model_weights_close(struct model_weights *w);
/* storage, parameters, weight_bytes and decode_bytes of *out; the rest is left alone. */
void model_weights_describe(const struct model_weights *w, struct backend_info *out);

#endif
