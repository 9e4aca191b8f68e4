/* config.json, generation_config.json, preprocessor_config.json of a Qwen3-VL checkpoint as plain data (facts §1.2, §5.1,
 * §6.5). Every field is range-checked on reading: no later code divides by zero or overflows on a lying config. */
#ifndef CHECKPOINT_CONFIG_H
#define CHECKPOINT_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { CONFIG_MAX_DEEPSTACK = 8, CONFIG_MAX_EOS = 8 };

struct text_config {
    int layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
    float rms_eps;
    double rope_theta;
    int mrope_section[3]; /* T, H, W frequencies; interleaved; sums to head_dim / 2 */
    int64_t max_positions;
    bool tied; /* the head is the embedding matrix */
};

struct vision_config {
    int depth, hidden, heads, intermediate, patch, temporal_patch, merge, channels, positions, out_hidden;
    int deepstack_count, deepstack[CONFIG_MAX_DEEPSTACK]; /* 0-based block indexes, ascending */
};

struct image_config { /* preprocessor_config.json */
    int64_t min_pixels, max_pixels;
    float mean[3], std[3];
};

struct sampling_config { /* generation_config.json */
    bool do_sample;
    float temperature, top_p, min_p, repetition_penalty, presence_penalty;
    int top_k;
    int eos_count, eos[CONFIG_MAX_EOS];
};

struct model_config {
    struct text_config text;
    struct vision_config vision;
    struct image_config image, video;
    struct sampling_config sampling;
    int image_token, video_token, vision_start_token, vision_end_token;
    char quant_method[32]; /* "", "fp8", "bitsandbytes": for reports only */
};

int config_read(const char *folder, struct model_config *out, struct err *err);

#endif
