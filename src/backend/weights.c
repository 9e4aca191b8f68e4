/* Every tensor found under its published name with the shape that config.json promises (facts §2.1), and the rotary tables. Matrices
 * stay where the checkpoint maps them; nothing is copied. */
#include "backend/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int load_decoder(struct model_weights *m, struct err *err) {
    const struct text_config *t = &m->config.text;
    struct checkpoint *c = m->checkpoint;
    int64_t d = t->hidden, q = (int64_t)t->heads * t->head_dim, k = (int64_t)t->kv_heads * t->head_dim, i = t->intermediate;
    int r = checkpoint_linear(c, "model.language_model.embed_tokens", t->vocab, d, false, &m->embed, err);
    if (r) return r;
    m->head = m->embed;
    if (!t->tied && (r = checkpoint_linear(c, "lm_head", t->vocab, d, false, &m->head, err))) return r;
    if ((r = checkpoint_vector(c, "model.language_model.norm.weight", d, &m->norm, err))) return r;
    m->layers = calloc((size_t)t->layers, sizeof *m->layers);
    if (!m->layers) return err_set(err, ERR_MEMORY, "out of memory for %d layers", t->layers);
    for (int n = 0; n < t->layers; n++) {
        struct decoder_layer *l = &m->layers[n];
        const struct { const char *name; int64_t out, in; struct linear_weight *w; } matrices[] = {
            {"self_attn.q_proj", q, d, &l->q}, {"self_attn.k_proj", k, d, &l->k}, {"self_attn.v_proj", k, d, &l->v},
            {"self_attn.o_proj", d, q, &l->o}, {"mlp.gate_proj", i, d, &l->gate}, {"mlp.up_proj", i, d, &l->up},
            {"mlp.down_proj", d, i, &l->down}};
        const struct { const char *name; int64_t count; const float **v; } vectors[] = {
            {"input_layernorm", d, &l->input_norm}, {"post_attention_layernorm", d, &l->post_norm},
            {"self_attn.q_norm", t->head_dim, &l->q_norm}, {"self_attn.k_norm", t->head_dim, &l->k_norm}};
        char name[160];
        for (size_t j = 0; j < sizeof matrices / sizeof *matrices; j++) {
            snprintf(name, sizeof name, "model.language_model.layers.%d.%s", n, matrices[j].name);
            if ((r = checkpoint_linear(c, name, matrices[j].out, matrices[j].in, false, matrices[j].w, err))) return r;
        }
        for (size_t j = 0; j < sizeof vectors / sizeof *vectors; j++) {
            snprintf(name, sizeof name, "model.language_model.layers.%d.%s.weight", n, vectors[j].name);
            if ((r = checkpoint_vector(c, name, vectors[j].count, vectors[j].v, err))) return r;
        }
    }
    return 0;
}

static int load_norm(struct model_weights *m, const char *name, int64_t n, const float **w, const float **b, struct err *err) {
    char full[200];
    snprintf(full, sizeof full, "%s.weight", name);
    int r = checkpoint_vector(m->checkpoint, full, n, w, err);
    if (r) return r;
    snprintf(full, sizeof full, "%s.bias", name);
    return checkpoint_vector(m->checkpoint, full, n, b, err);
}

static int load_merger(struct model_weights *m, const char *name, bool after, struct vision_merger *g, struct err *err) {
    const struct vision_config *v = &m->config.vision;
    int64_t wide = (int64_t)v->hidden * v->merge * v->merge;
    char full[160];
    g->after = after;
    snprintf(full, sizeof full, "%s.norm", name);
    int r = load_norm(m, full, after ? wide : v->hidden, &g->norm_w, &g->norm_b, err);
    if (r) return r;
    snprintf(full, sizeof full, "%s.linear_fc1", name);
    if ((r = checkpoint_linear(m->checkpoint, full, wide, wide, true, &g->fc1, err))) return r;
    snprintf(full, sizeof full, "%s.linear_fc2", name);
    return checkpoint_linear(m->checkpoint, full, v->out_hidden, wide, true, &g->fc2, err);
}

static int load_vision(struct model_weights *m, struct err *err) {
    const struct vision_config *v = &m->config.vision;
    struct checkpoint *c = m->checkpoint;
    if (v->hidden % v->heads || v->hidden / v->heads % 4)
        return err_set(err, ERR_FORMAT,
                       "%s/config.json: vision_config: hidden_size %d over num_heads %d must give a multiple of 4",
                       checkpoint_folder(c), v->hidden, v->heads);
    if (v->out_hidden != m->config.text.hidden)
        return err_set(err, ERR_FORMAT,
                       "%s/config.json: vision_config.out_hidden_size %d differs from text_config.hidden_size %d",
                       checkpoint_folder(c), v->out_hidden, m->config.text.hidden);
    int64_t in = (int64_t)v->channels * v->temporal_patch * v->patch * v->patch;
    int r = checkpoint_linear(c, "model.visual.patch_embed.proj", v->hidden, in, true, &m->patch_embed, err);
    if (r) return r;
    if ((r = checkpoint_vector(c, "model.visual.pos_embed.weight", (int64_t)v->positions * v->hidden, &m->pos_embed, err)))
        return r;
    m->blocks = calloc((size_t)v->depth, sizeof *m->blocks);
    if (!m->blocks) return err_set(err, ERR_MEMORY, "out of memory for %d vision blocks", v->depth);
    for (int b = 0; b < v->depth; b++) {
        struct vision_block *k = &m->blocks[b];
        char name[160];
        snprintf(name, sizeof name, "model.visual.blocks.%d.norm1", b);
        if ((r = load_norm(m, name, v->hidden, &k->norm1_w, &k->norm1_b, err))) return r;
        snprintf(name, sizeof name, "model.visual.blocks.%d.norm2", b);
        if ((r = load_norm(m, name, v->hidden, &k->norm2_w, &k->norm2_b, err))) return r;
        const struct { const char *name; int64_t out, in; struct linear_weight *w; } matrices[] = {
            {"attn.qkv", 3 * (int64_t)v->hidden, v->hidden, &k->qkv}, {"attn.proj", v->hidden, v->hidden, &k->proj},
            {"mlp.linear_fc1", v->intermediate, v->hidden, &k->fc1}, {"mlp.linear_fc2", v->hidden, v->intermediate, &k->fc2}};
        for (size_t j = 0; j < sizeof matrices / sizeof *matrices; j++) {
            snprintf(name, sizeof name, "model.visual.blocks.%d.%s", b, matrices[j].name);
            if ((r = checkpoint_linear(c, name, matrices[j].out, matrices[j].in, true, matrices[j].w, err))) return r;
        }
    }
    if ((r = load_merger(m, "model.visual.merger", false, &m->merger, err))) return r;
    for (int i = 0; i < v->deepstack_count; i++) {
        char name[120];
        snprintf(name, sizeof name, "model.visual.deepstack_merger_list.%d", i);
        if ((r = load_merger(m, name, true, &m->deepstack[i], err))) return r;
    }
    return 0;
}

/* Facts §3.2 and §4.4; powers in fp32 as transformers computes them (modeling_qwen3_vl.py, compute_default_rope_parameters). */
static int make_frequencies(struct model_weights *m, struct err *err) {
    const struct text_config *t = &m->config.text;
    int half = t->head_dim / 2, quarter = m->config.vision.hidden / m->config.vision.heads / 4;
    m->inverse_frequency = malloc((size_t)half * sizeof *m->inverse_frequency);
    m->axis = malloc((size_t)half * sizeof *m->axis);
    m->vision_frequency = malloc((size_t)quarter * sizeof *m->vision_frequency);
    if (!m->inverse_frequency || !m->axis || !m->vision_frequency)
        return err_set(err, ERR_MEMORY, "out of memory for rotary tables");
    for (int i = 0; i < half; i++) {
        m->inverse_frequency[i] = 1.0f / powf((float)t->rope_theta, (float)(2 * i) / (float)t->head_dim);
        m->axis[i] = i % 3 == 1 && i < 3 * t->mrope_section[1] ? 1 : i % 3 == 2 && i < 3 * t->mrope_section[2] ? 2 : 0;
    }
    for (int j = 0; j < quarter; j++) m->vision_frequency[j] = 1.0f / powf(10000.0f, (float)(2 * j) / (float)(2 * quarter));
    return 0;
}

int model_weights_open(struct checkpoint *c, struct model_weights *m, struct err *err) {
    *m = (struct model_weights){.checkpoint = c, .config = *checkpoint_config(c)};
    int r = load_decoder(m, err);
    if (!r) r = load_vision(m, err);
    if (!r) r = make_frequencies(m, err);
    if (r) model_weights_close(m);
    return r;
}

void model_weights_close(struct model_weights *m) {
    free(m->layers);
    free(m->blocks);
    free(m->inverse_frequency);
    free(m->axis);
    free(m->vision_frequency);
    *m = (struct model_weights){0};
}

static const char *storage_words(unsigned seen) {
    static const char *const names[] = {"f32", "f16", "bf16", "fp8", "nf4"};
    for (int s = 0; s < 5; s++)
        if (seen == 1u << s) return names[s];
    if (seen == (1u << STORAGE_NF4 | 1u << STORAGE_BF16)) return "mixed nf4/bf16";
    if (seen == (1u << STORAGE_FP8_BLOCK | 1u << STORAGE_BF16)) return "mixed fp8/bf16";
    return "mixed";
}

static void count_in(struct backend_info *out, const struct linear_weight *w) {
    out->parameters += w->out * w->in + (w->bias ? w->out : 0);
    out->weight_bytes += linear_weight_bytes(w) + (w->bias ? 4 * (size_t)w->out : 0);
}

void model_weights_describe(const struct model_weights *m, struct backend_info *out) {
    const struct text_config *t = &m->config.text;
    const struct vision_config *v = &m->config.vision;
    unsigned seen = 0;
    for (int n = 0; n < t->layers; n++) {
        const struct decoder_layer *l = &m->layers[n];
        const struct linear_weight *all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (int i = 0; i < 7; i++) {
            count_in(out, all[i]);
            out->decode_bytes += linear_weight_bytes(all[i]);
            seen |= 1u << all[i]->storage;
        }
        out->parameters += 2 * t->hidden + 2 * t->head_dim;
    }
    out->storage = storage_words(seen);
    out->decode_bytes += linear_weight_bytes(&m->head) + (size_t)(linear_weight_bytes(&m->embed) / (size_t)m->embed.out);
    count_in(out, &m->embed);
    if (m->head.data != m->embed.data) count_in(out, &m->head);
    out->parameters += t->hidden;
    count_in(out, &m->patch_embed);
    out->parameters += (int64_t)v->positions * v->hidden;
    for (int b = 0; b < v->depth; b++) {
        const struct linear_weight *all[] = {&m->blocks[b].qkv, &m->blocks[b].proj, &m->blocks[b].fc1, &m->blocks[b].fc2};
        for (int i = 0; i < 4; i++) count_in(out, all[i]);
        out->parameters += 4 * v->hidden;
    }
    for (int i = -1; i < v->deepstack_count; i++) {
        const struct vision_merger *g = i < 0 ? &m->merger : &m->deepstack[i];
        count_in(out, &g->fc1);
        count_in(out, &g->fc2);
        out->parameters += 2 * (int64_t)v->hidden * (g->after ? v->merge * v->merge : 1);
    }
}

void vision_features_free(struct vision_features *f) {
    free(f->values);
    *f = (struct vision_features){0};
}
