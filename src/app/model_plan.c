#include "app/model_plan.h"

#include <string.h>

#include "backend/backend.h"

/* Parameters of the published configs (facts: qwen3-vl.md §1.3). */
static const struct shape {
    const char *word;
    int64_t decoder_linear, embedding, vision, other;
    bool tied;
    int layers, kv_heads, head_dim;
} shapes[] = {
    {"-2B-", 1409286144, 311164928, 406957056, 123904, true, 28, 8, 128},
    {"-4B-", 3633315840, 388956160, 415347712, 196096, true, 36, 8, 128},
    {"-8B-", 6945767424, 622329856, 576388336, 308224, false, 36, 8, 128},
};

static void fill(struct model_plan *p, int64_t linear, int64_t embedding, int64_t vision, int64_t other, bool tied, const char *format) {
    int64_t head = tied ? 0 : embedding;
    double per_weight = 2;
    if (!strcmp(format, "fp8")) per_weight = 1 + 4.0 / (128 * 128);
    if (!strcmp(format, "nf4")) per_weight = 0.5 + 1.0 / 64 + 4.0 / (64 * 256);
    p->format = format;
    p->parameters = linear + embedding + head + vision + other;
    /* The FP8 files keep a redundant head although it is tied. */
    if (!strcmp(format, "fp8") && tied) head = embedding;
    p->weight_bytes = (int64_t)((double)linear * per_weight) + 2 * (embedding + head + vision + other);
    p->decode_bytes = (int64_t)((double)linear * per_weight) + 2 * embedding;
}

void model_plan_from_id(const char *id, struct model_plan *out) {
    *out = (struct model_plan){.source = PLAN_UNKNOWN, .format = "?"};
    const char *format = strstr(id, "FP8") ? "fp8" : strstr(id, "bnb-4bit") ? "nf4" : "bf16";
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && strstr(id, "Qwen3-VL"); i++) {
        const struct shape *s = &shapes[i];
        if (!strstr(id, s->word)) continue;
        out->source = PLAN_PUBLISHED_SHAPE;
        fill(out, s->decoder_linear, s->embedding, s->vision, s->other, s->tied, format);
        out->kv_bytes_per_token = (int64_t)2 * 2 * s->layers * s->kv_heads * s->head_dim;
        out->fp8_kv_bytes_per_token = (int64_t)2 * s->layers * s->kv_heads * (int64_t)kv_slot_bytes(s->head_dim, true);
        out->max_context = 262144;
        return;
    }
}

void model_plan_from_config(const struct model_config *c, struct model_plan *out) {
    const struct text_config *t = &c->text;
    const struct vision_config *v = &c->vision;
    int64_t d = t->hidden, q = (int64_t)t->heads * t->head_dim, k = (int64_t)t->kv_heads * t->head_dim;
    int64_t linear = t->layers * (2 * d * q + 2 * d * k + 3 * d * t->intermediate);
    int64_t other = t->layers * (2 * d + 2 * t->head_dim) + d;
    int64_t h = v->hidden, m = h * v->merge * v->merge, patch = (int64_t)v->channels * v->temporal_patch * v->patch * v->patch;
    int64_t block = 4 * h * h + 4 * h + 2 * h * v->intermediate + v->intermediate + h + 4 * h;
    int64_t merger = m * m + m + m * v->out_hidden + v->out_hidden;
    int64_t vision = patch * h + h + (int64_t)v->positions * h + v->depth * block + merger + 2 * h + v->deepstack_count * (merger + 2 * m);
    const char *format = !strcmp(c->quant_method, "fp8") ? "fp8" : !strcmp(c->quant_method, "bitsandbytes") ? "nf4" : "bf16";
    *out = (struct model_plan){.source = PLAN_CONFIG};
    fill(out, linear, (int64_t)t->vocab * d, vision, other, t->tied, format);
    out->kv_bytes_per_token = (int64_t)2 * 2 * t->layers * k;
    out->fp8_kv_bytes_per_token = (int64_t)2 * t->layers * t->kv_heads * (int64_t)kv_slot_bytes(t->head_dim, true);
    out->max_context = t->max_positions;
}

int64_t model_plan_memory(const struct model_plan *p, int64_t context, int batch) {
    /* Working memory: a 512-token chunk of activations, the pool's scratch and one picture; measured 60 to 250 MB from 2B to 8B. */
    int64_t working = 64 * 1000000 + p->parameters / 50;
    return p->kv_bytes_per_token * context * batch + working;
}
