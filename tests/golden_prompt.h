/* A golden's prompt through any backend: pictures, ids and positions as the reference had them. */
#ifndef GOLDEN_PROMPT_H
#define GOLDEN_PROMPT_H

#include "backend/backend.h"
#include "golden.h"

struct prompt {
    int n, levels, images;
    const int32_t *ids, *positions;
    int32_t *visual_row;
    struct vision_features features[8];
    float *visual;             /* (levels, tokens, hidden) of all images */
    const float *level[1 + CONFIG_MAX_DEEPSTACK];
};

/* Encodes every image of the case from the golden's pixels. */
static inline void prompt_encode(const struct backend *b, struct backend_model *m, const struct golden *g, struct prompt *p) {
    const struct tensor *grid = golden_find(g, "grid");
    if (!grid) return;
    const struct tensor *pixels = golden_need(g, "pixels");
    const int32_t *thw = (const int32_t *)grid->data;
    int64_t row = 0;
    for (int i = 0; i < grid->shape[0]; i++, thw += 3) {
        struct patches patches = {.grid_t = thw[0], .grid_h = thw[1], .grid_w = thw[2], .count = (int64_t)thw[0] * thw[1] * thw[2], .width = pixels->shape[1]};
        patches.values = malloc((size_t)(patches.count * patches.width) * sizeof *patches.values);
        const uint8_t *from = (const uint8_t *)pixels->data + row * patches.width;
        for (int64_t k = 0; k < patches.count * patches.width; k++) patches.values[k] = ((float)from[k] - 127.5f) / 127.5f;
        struct err err = {0};
        int r = b->encode_image(m, &patches, &p->features[i], &err);
        free(patches.values);
        if (r) fail_msg("%s", err.message);
        row += patches.count;
    }
    p->images = (int)grid->shape[0];
}

static inline void prompt_make(const struct backend *b, struct backend_model *m, const struct model_config *c, const struct golden *g, struct prompt *p) {
    memset(p, 0, sizeof *p);
    prompt_encode(b, m, g, p);
    const struct tensor *ids = golden_need(g, "input_ids");
    p->n = (int)ids->shape[0];
    p->ids = ids->data;
    p->positions = golden_need(g, "positions")->data;
    p->visual_row = malloc((size_t)p->n * sizeof(int32_t));
    int64_t tokens = 0, hidden = c->text.hidden;
    for (int i = 0; i < p->images; i++) tokens += p->features[i].tokens;
    p->levels = 1 + c->vision.deepstack_count;
    p->visual = malloc((size_t)(tokens * p->levels * hidden + 1) * sizeof(float));
    for (int l = 0; l < p->levels; l++) {
        float *to = p->visual + l * tokens * hidden;
        p->level[l] = to;
        for (int i = 0; i < p->images; i++) {
            const struct vision_features *f = &p->features[i];
            memcpy(to, f->values + l * f->tokens * hidden, (size_t)(f->tokens * hidden) * sizeof(float));
            to += f->tokens * hidden;
        }
    }
    int32_t row = 0;
    for (int i = 0; i < p->n; i++) p->visual_row[i] = p->ids[i] == c->image_token || p->ids[i] == c->video_token ? row++ : -1;
    assert_int_equal(row, tokens);
}

static inline void prompt_free(struct prompt *p) {
    for (int i = 0; i < p->images; i++) vision_features_free(&p->features[i]);
    free(p->visual_row);
    free(p->visual);
}

/* Runs the prompt in chunks of `chunk` tokens; logits (n, vocab) of every row. */
static inline void prompt_run(const struct backend *b, struct backend_model *m, int vocab, const struct prompt *p, int chunk, float *logits) {
    int pages = (p->n + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS;
    int32_t page[64];
    int rows[2048];
    assert_true(pages <= 64 && p->n <= 2048);
    for (int i = 0; i < pages; i++) assert_true((page[i] = b->page_alloc(m)) >= 0);
    for (int at = 0; at < p->n; at += chunk) {
        int count = p->n - at < chunk ? p->n - at : chunk;
        for (int i = 0; i < count; i++) rows[i] = i;
        struct span s = {.ids = p->ids + at, .count = count, .first = at, .positions = p->positions + 3 * at, .pages = page,
                         .page_count = pages, .visual_row = p->visual_row + at, .visual_levels = p->level, .levels = p->levels,
                         .logits_rows = rows, .logits_count = count, .logits = logits + (int64_t)at * vocab};
        struct err err = {0};
        if (b->forward(m, &s, 1, &err)) fail_msg("%s", err.message);
    }
    for (int i = 0; i < pages; i++) b->page_free(m, page[i]);
}

/* A golden with its checkpoint on a backend, and how far logits of its prompt are from the reference's. */
struct prompt_case {
    struct golden g;
    struct checkpoint *c;
    struct backend_model *m;
    struct prompt p;
    const struct backend *b;
    const struct tensor *want;
    int64_t vocab;
    double noise; /* of the reference's bf16 run from its fp32 run */
    float *logits;
};

static inline struct backend_model *prompt_load(const struct backend *b, const char *model, const struct backend_options *o, struct checkpoint **c) {
    char path[200];
    struct backend_model *m;
    struct err err = {0};
    snprintf(path, sizeof path, "tests/golden/%s", model);
    if (checkpoint_open(path, c, &err) || b->load(*c, o, &m, &err)) fail_msg("%s", err.message);
    return m;
}

static inline void prompt_case_open(struct prompt_case *x, const struct backend *b, const char *model, const char *name, const struct backend_options *o) {
    golden_open(&x->g, model, name);
    x->b = b, x->m = prompt_load(b, model, o, &x->c);
    x->vocab = checkpoint_config(x->c)->text.vocab;
    prompt_make(b, x->m, checkpoint_config(x->c), &x->g, &x->p);
    x->logits = malloc((size_t)(x->p.n * x->vocab) * sizeof *x->logits);
    x->want = golden_need(&x->g, "logits");
    x->noise = relative_distance(golden_need(&x->g, "logits_bf16")->data, x->want->data, (size_t)(x->want->shape[0] * x->vocab));
}

/* From the reference's fp32 run, the prompt cut every `cut` tokens (each cut goes another way). */
static inline double prompt_case_distance(struct prompt_case *x, int cut) {
    for (size_t k = 0; k < (size_t)(x->p.n * x->vocab); k++) x->logits[k] = NAN; /* whatever is not written shows */
    prompt_run(x->b, x->m, (int)x->vocab, &x->p, cut, x->logits);
    return relative_distance(x->logits + (x->p.n - x->want->shape[0]) * x->vocab, x->want->data, (size_t)(x->want->shape[0] * x->vocab));
}

static inline void prompt_case_close(struct prompt_case *x) {
    free(x->logits);
    prompt_free(&x->p);
    x->b->unload(x->m);
    checkpoint_close(x->c);
    golden_close(&x->g);
}

#endif
