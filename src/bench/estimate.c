#include "bench/estimate.h"

#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/weights.h"

/* A frame of 240x160 is enlarged to the processor's least area: 320x224, 20 x 14 patches, merged 2 x 2. */
enum { FRAME_PATCHES = 20 * 14, PAGE = BACKEND_PAGE_TOKENS };

static double products_of(const struct linear_weight *w) { return (double)w->out * (double)w->in; }

static void count_products(const struct model_weights *w, struct model_facts *f) {
    for (int n = 0; n < f->text.layers; n++) {
        const struct decoder_layer *l = &w->layers[n];
        const struct linear_weight *all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (int i = 0; i < 7; i++) f->token_products += products_of(all[i]);
    }
    f->head_products = products_of(&w->head);
    double patch = 0;
    for (int b = 0; b < f->vision.depth; b++) {
        const struct vision_block *k = &w->blocks[b];
        patch += products_of(&k->qkv) + products_of(&k->proj) + products_of(&k->fc1) + products_of(&k->fc2);
    }
    double merged = products_of(&w->merger.fc1) + products_of(&w->merger.fc2);
    for (int i = 0; i < f->vision.deepstack_count; i++)
        merged += products_of(&w->deepstack[i].fc1) + products_of(&w->deepstack[i].fc2);
    int merge = f->vision.merge > 0 ? f->vision.merge : 2;
    f->picture_tokens = FRAME_PATCHES / (merge * merge);
    f->picture_products = patch * FRAME_PATCHES + merged * f->picture_tokens;
}

int model_facts_read(const char *folder, const struct qvl_options *o, struct model_facts *out, struct err *err) {
    struct checkpoint *c;
    struct model_weights w;
    struct backend_info info = {0};
    *out = (struct model_facts){0};
    int r = checkpoint_open(folder, &c, err);
    if (r) return r;
    if (!(r = model_weights_open(c, &w, err))) {
        out->text = w.config.text;
        out->vision = w.config.vision;
        model_weights_describe(&w, &info);
        snprintf(out->storage, sizeof out->storage, "%s", info.storage);
        out->weight_bytes = info.weight_bytes;
        out->decode_bytes = info.decode_bytes;
        out->kv_token_bytes = 2 * (size_t)out->text.kv_heads * (size_t)out->text.layers *
                              (o->f32 ? (size_t)out->text.head_dim * 4 : kv_slot_bytes(out->text.head_dim, o->kv && !strcmp(o->kv, "fp8")));
        count_products(&w, out);
        model_weights_close(&w);
    }
    checkpoint_close(c);
    return r;
}

void decode_bytes(const struct cell *c, int64_t prompt, int answer_tokens, size_t weight_bytes, size_t kv_token_bytes,
                  double *weights, double *prefix, double *suffix) {
    *weights = (double)weight_bytes;
    *prefix = (double)c->batch * (double)prompt * (double)kv_token_bytes;
    *suffix = (double)c->batch * c->best_of * (answer_tokens / 2.0) * (double)kv_token_bytes;
}

int64_t cell_kv_tokens(const struct cell *c, int answer_tokens) {
    int64_t prompt = c->context - answer_tokens;
    if (prompt < 1) prompt = 1;
    /* The prompts; their last tenths anew (half of a lone one); the answers, each with pages of its own at both ends. */
    int64_t again = c->batch == 1 ? prompt / 2 : prompt / 10;
    return (prompt + again + 3 * PAGE) * c->batch + (int64_t)(answer_tokens + 2 * PAGE) * c->batch * c->best_of;
}

static double most(double a, double b) { return a > b ? a : b; }

/* Pictures of a prompt. */
static double pictures(const struct cell *c, int64_t prompt, const struct model_facts *f) {
    if (c->task == TASK_TEXT || f->picture_tokens == 0) return 0;
    return c->task == TASK_MIXED ? most(1, c->picture_share * (double)prompt / f->picture_tokens) : 1;
}

/* Seconds of so many multiply-adds; none when the device's speed is not known. */
static double multiply(double products, const struct qvl_ceilings *device) {
    return device->product_flops > 0 ? 2 * products / device->product_flops : 0;
}

void cell_estimate(const struct cell *c, int answer_tokens, const struct model_facts *f, const struct qvl_ceilings *device,
                   struct cell_estimate *out) {
    const struct text_config *t = &f->text;
    int64_t prompt = c->context - answer_tokens > 1 ? c->context - answer_tokens : 1;
    double rows = (double)c->batch * c->best_of, weights, prefix, suffix;
    decode_bytes(c, prompt, answer_tokens, f->decode_bytes, f->kv_token_bytes, &weights, &prefix, &suffix);
    /* One position of attention: a query head's dot with a key and the sum of the values. */
    double attend = 2.0 * t->layers * t->heads * t->head_dim;
    double tokens = (double)prompt * c->batch, chunks = (double)((prompt + 511) / 512) * c->batch;
    double products = tokens * (f->token_products + attend * (double)prompt / 2) + c->batch * f->head_products;
    double encode = multiply(f->picture_products * pictures(c, prompt, f) * c->batch, device);
    out->prefill_s = most(multiply(products, device), chunks * weights / device->read_bytes);
    double step_products = rows * (f->token_products + f->head_products + attend * (double)prompt);
    out->decode_step_s = most((weights + prefix + suffix) / device->read_bytes, multiply(step_products, device));
    out->prefill_tok_s = tokens / out->prefill_s;
    out->decode_tok_s = rows / out->decode_step_s;
    out->cold_ms = 1e3 * (out->prefill_s + encode);
    out->memory_mib = ((double)f->weight_bytes + (double)cell_kv_tokens(c, answer_tokens) * (double)f->kv_token_bytes) / 1048576;
    double again = c->batch == 1 && c->best_of == 1 ? 0.6 : 0.1;
    out->total_s = (1 + again) * (out->prefill_s + encode) + (answer_tokens + 2) * out->decode_step_s;
}
