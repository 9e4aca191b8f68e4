#include "bench/shapes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct shape shapes[] = {
    {"tiny", 3, 256, 4, 2, 64, 768, 1152, {12, 10, 10}, true, 4, 192, 3, 768, {0, 1, 2}, 576},
    {"2b", 28, 2048, 16, 8, 128, 6144, 151936, {24, 20, 20}, true, 24, 1024, 16, 4096, {5, 11, 17}, 2304},
    {"4b", 36, 2560, 32, 8, 128, 9728, 151936, {24, 20, 20}, true, 24, 1024, 16, 4096, {5, 11, 17}, 2304},
    {"8b", 36, 4096, 32, 8, 128, 12288, 151936, {24, 20, 20}, false, 27, 1152, 16, 4304, {8, 16, 24}, 2304}};

const struct known_model known_models[] = {
    {"2b-fp8", {"Qwen/Qwen3-VL-2B-Thinking-FP8"}, "2b", SHAPE_FP8, false},
    {"2b-nf4", {"unsloth/Qwen3-VL-2B-Instruct-unsloth-bnb-4bit"}, "2b", SHAPE_NF4, false},
    {"4b-nf4",
     {"unsloth/Qwen3-VL-4B-Instruct-unsloth-bnb-4bit", "unsloth/Qwen3-VL-4B-Thinking-unsloth-bnb-4bit"}, "4b", SHAPE_NF4, false},
    {"8b-nf4",
     {"unsloth/Qwen3-VL-8B-Instruct-unsloth-bnb-4bit", "unsloth/Qwen3-VL-8B-Thinking-unsloth-bnb-4bit"}, "8b", SHAPE_NF4, false},
    {"2b-bf16", {"Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-2B-Thinking"}, "2b", SHAPE_BF16, true},
    {"4b-bf16", {"Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-4B-Thinking"}, "4b", SHAPE_BF16, true},
    {"8b-bf16", {"Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-VL-8B-Thinking"}, "8b", SHAPE_BF16, true},
    {"tiny-bf16", {NULL}, "tiny", SHAPE_BF16, true},
    {"tiny-fp8", {NULL}, "tiny", SHAPE_FP8, true},
    {"tiny-nf4", {NULL}, "tiny", SHAPE_NF4, true}};
const int known_model_count = sizeof known_models / sizeof *known_models;

const struct known_model *known_model_find(const char *name) {
    for (int i = 0; i < known_model_count; i++) {
        const struct known_model *m = &known_models[i];
        if (!strcasecmp(name, m->name)) return m;
        for (int k = 0; k < 2; k++)
            if (m->ids[k] && !strcasecmp(name, m->ids[k])) return m;
    }
    return NULL;
}

const struct shape *shape_find(const char *size) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(size, shapes[i].size)) return &shapes[i];
    return NULL;
}

struct listing {
    int (*add)(void *, const char *, const int64_t *, int, enum tensor_role, float, struct err *);
    void *user;
    struct err *err;
    int code;
};

static void put(struct listing *l, const char *prefix, const char *name, int64_t rows, int64_t columns, enum tensor_role role,
                double deviation) {
    char full[200];
    if (l->code) return;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    int64_t dims[] = {rows, columns};
    l->code = l->add(l->user, full, dims, columns ? 2 : 1, role, (float)deviation, l->err);
}

static void put_linear(struct listing *l, const char *prefix, const char *name, int64_t out, int64_t in, double deviation) {
    char full[200];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    put(l, full, ".weight", out, in, ROLE_DENSE, deviation);
    put(l, full, ".bias", out, 0, ROLE_BIAS, 0.02);
}

static void put_norm(struct listing *l, const char *prefix, const char *name, int64_t n) {
    char full[200];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    put(l, full, ".weight", n, 0, ROLE_NORM, 0.1);
    put(l, full, ".bias", n, 0, ROLE_BIAS, 0.02);
}

static void put_decoder(struct listing *l, const struct shape *s) {
    int64_t d = s->hidden, q = (int64_t)s->heads * s->head_dim, k = (int64_t)s->kv_heads * s->head_dim, wide = s->intermediate;
    put(l, "model.language_model.", "embed_tokens.weight", s->vocab, d, ROLE_DENSE, 0.02);
    for (int n = 0; n < s->layers; n++) {
        char p[80];
        snprintf(p, sizeof p, "model.language_model.layers.%d.", n);
        put(l, p, "input_layernorm.weight", d, 0, ROLE_NORM, 0.1);
        put(l, p, "self_attn.q_proj.weight", q, d, ROLE_LINEAR, 0.8 / sqrt((double)d));
        put(l, p, "self_attn.k_proj.weight", k, d, ROLE_LINEAR, 0.8 / sqrt((double)d));
        put(l, p, "self_attn.v_proj.weight", k, d, ROLE_LINEAR, 0.8 / sqrt((double)d));
        put(l, p, "self_attn.o_proj.weight", d, q, ROLE_LINEAR, 0.3 / sqrt((double)q));
        put(l, p, "self_attn.q_norm.weight", s->head_dim, 0, ROLE_NORM, 0.1);
        put(l, p, "self_attn.k_norm.weight", s->head_dim, 0, ROLE_NORM, 0.1);
        put(l, p, "post_attention_layernorm.weight", d, 0, ROLE_NORM, 0.1);
        put(l, p, "mlp.gate_proj.weight", wide, d, ROLE_LINEAR, 0.8 / sqrt((double)d));
        put(l, p, "mlp.up_proj.weight", wide, d, ROLE_LINEAR, 0.8 / sqrt((double)d));
        put(l, p, "mlp.down_proj.weight", d, wide, ROLE_LINEAR, 0.3 / sqrt((double)wide));
    }
    put(l, "model.language_model.", "norm.weight", d, 0, ROLE_NORM, 0.1);
    if (!s->tied) put(l, "", "lm_head.weight", s->vocab, d, ROLE_DENSE, 0.02);
}

static void put_vision(struct listing *l, const struct shape *s) {
    int64_t v = s->vision_hidden, wide = s->vision_intermediate, merged = 4 * v;
    const char *p = "model.visual.";
    if (!l->code) {
        int64_t dims[] = {v, 3, 2, 16, 16};
        l->code = l->add(l->user, "model.visual.patch_embed.proj.weight", dims, 5, ROLE_DENSE, 0.02f, l->err);
    }
    put(l, p, "patch_embed.proj.bias", v, 0, ROLE_BIAS, 0.02);
    put(l, p, "pos_embed.weight", s->positions, v, ROLE_DENSE, 0.02);
    for (int b = 0; b < s->vision_depth; b++) {
        char q[80];
        snprintf(q, sizeof q, "model.visual.blocks.%d.", b);
        put_norm(l, q, "norm1", v);
        put_norm(l, q, "norm2", v);
        put_linear(l, q, "attn.qkv", 3 * v, v, 0.8 / sqrt((double)v));
        put_linear(l, q, "attn.proj", v, v, 0.3 / sqrt((double)v));
        put_linear(l, q, "mlp.linear_fc1", wide, v, 0.8 / sqrt((double)v));
        put_linear(l, q, "mlp.linear_fc2", v, wide, 0.3 / sqrt((double)wide));
    }
    for (int i = -1; i < 3; i++) {
        char q[80];
        if (i < 0) snprintf(q, sizeof q, "model.visual.merger.");
        else snprintf(q, sizeof q, "model.visual.deepstack_merger_list.%d.", i);
        put_norm(l, q, "norm", i < 0 ? v : merged);
        put_linear(l, q, "linear_fc1", merged, merged, 0.8 / sqrt((double)merged));
        put_linear(l, q, "linear_fc2", s->hidden, merged, 0.8 / sqrt((double)merged));
    }
}

int shape_tensors(const struct shape *s,
                  int (*add)(void *user, const char *name, const int64_t *dims, int rank, enum tensor_role role, float deviation,
                             struct err *err),
                  void *user, struct err *err) {
    struct listing l = {add, user, err, 0};
    put_decoder(&l, s);
    put_vision(&l, s);
    return l.code;
}
