/* A model that does not fit one card (--device-map auto): runs of consecutive layers lie on several, each a CUDA model of its own
 * (backend_options.layer_from, layer_to). A pass goes through them one after the other; what one hands to the next are the hidden rows,
 * through pinned host memory: 8 to 16 KB a row, which neither needs cards that reach each other nor weighs against the layers' own time in a
 * prompt (8,192 rows of 8B: 134 MB, 5 ms of 280). The next takes them as if they were features of a picture.
 *
 * Pages: every card holds its layers' share of each page. The cards' lists of free pages see the same calls in the same order, so a page has
 * one number on all. A page in host memory is the cards' shares one behind the other, which is the layout of a page on one card.
 *
 * The first holds the vocabulary's embedding and the picture tower, and at least the layers that take DeepStack's features; the last the
 * head. Decode steps take the way of prompts here (no graph): simple, and slower than on one card. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "backend/cuda/door.h"
#include "backend/weights.h"

enum { MOST_PARTS = 16 };

/* What hides behind struct backend_model here. */
struct parts {
    int count;
    struct backend_model *part[MOST_PARTS];
    size_t page_bytes[MOST_PARTS], page_all;
    int64_t hidden;
    float *rows;             /* (row_capacity, hidden) pinned: what goes from card to card */
    int64_t row_capacity;
    int32_t *numbers;        /* (number_capacity) 0, 1, 2, ...: every row takes a feature */
    int64_t number_capacity;
    struct model_weights w;  /* of the whole model, to describe it */
    char kernels[80];
};

static struct parts *of(struct backend_model *m) { return (struct parts *)(void *)m; }
static const struct parts *of_const(const struct backend_model *m) { return (const struct parts *)(const void *)m; }

/* Layers by free memory: part i gets [from[i], from[i + 1]). */
static void share_layers(const struct model_config *c, const struct backend_options *o, int *from) {
    double memory[MOST_PARTS], all = 0, sum = 0;
    int layers = c->text.layers, least = c->vision.deepstack_count > 0 ? c->vision.deepstack_count : 1;
    for (int i = 0; i < o->cards; i++) all += memory[i] = (double)cuda_card_memory_free(o->card + i, NULL) + 1;
    from[0] = 0;
    for (int i = 0; i < o->cards; i++) {
        sum += memory[i];
        int to = (int)(layers * (sum / all) + 0.5), low = i == 0 ? least : from[i] + 1, high = layers - (o->cards - 1 - i);
        from[i + 1] = i + 1 == o->cards ? layers : to < low ? low : to > high ? high : to;
    }
}

static void parts_unload(struct backend_model *m) {
    struct parts *p = of(m);
    if (!p) return;
    if (p->rows) cuda_host_free(p->part[0], p->rows);
    for (int i = 0; i < p->count; i++) cuda_unload(p->part[i]);
    model_weights_close(&p->w);
    free(p->numbers);
    free(p);
}

static int parts_load(struct checkpoint *c, const struct backend_options *o, struct backend_model **out, struct err *err) {
    const struct model_config *config = checkpoint_config(c);
    int from[MOST_PARTS + 1], layers = config->text.layers;
    *out = NULL;
    if (o->cards < 2 || o->cards > MOST_PARTS || o->cards > layers || config->vision.deepstack_count > layers - (o->cards - 1))
        return err_set(err, ERR_ARGUMENT, "%d layers cannot lie on %d cards", layers, o->cards);
    struct parts *p = calloc(1, sizeof *p);
    if (!p) return err_set(err, ERR_MEMORY, "out of memory");
    p->hidden = config->text.hidden;
    share_layers(config, o, from);
    int r = model_weights_open(c, &p->w, err);
    /* As many pages on each: the budget goes by layers. */
    size_t page = 2 * (size_t)config->text.kv_heads * kv_slot_bytes(config->text.head_dim, o->kv_fp8) * (size_t)layers * BACKEND_PAGE_TOKENS, pages = o->kv_bytes / page;
    for (int i = 0; i < o->cards && !r; i++) {
        struct backend_options own = *o;
        own.card = o->card + i, own.cards = 1, own.layer_from = from[i], own.layer_to = from[i + 1];
        own.kv_bytes = pages * (page / (size_t)layers) * (size_t)(from[i + 1] - from[i]);
        if (!(r = cuda_load(c, &own, &p->part[i], err))) {
            p->count++;
            p->page_all += p->page_bytes[i] = cuda_page_bytes(p->part[i]);
        }
    }
    struct backend_info info;
    if (!r) cuda_describe(p->part[0], &info);
    if (!r) snprintf(p->kernels, sizeof p->kernels, "%.60s x %d cards", info.kernels, p->count);
    if (r) parts_unload((struct backend_model *)(void *)p);
    else *out = (struct backend_model *)(void *)p;
    return r;
}

static int reserve(struct parts *p, int64_t rows, int64_t longest, struct err *err) {
    if (rows > p->row_capacity) {
        if (p->rows) cuda_host_free(p->part[0], p->rows);
        p->row_capacity = 0;
        p->rows = cuda_host_alloc(p->part[0], (size_t)(rows + rows / 4) * (size_t)p->hidden * sizeof(float));
        if (!p->rows) return err_set(err, ERR_MEMORY, "out of pinned memory for %lld rows between cards", (long long)rows);
        p->row_capacity = rows + rows / 4;
    }
    if (longest > p->number_capacity) {
        int32_t *more = realloc(p->numbers, (size_t)longest * sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for a batch");
        for (int64_t i = 0; i < longest; i++) more[i] = (int32_t)i;
        p->numbers = more, p->number_capacity = longest;
    }
    return 0;
}

static int parts_forward(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    struct parts *p = of(m);
    int64_t rows = 0, longest = 0;
    for (int i = 0; i < count; i++) {
        rows += spans[i].count > 0 ? spans[i].count : 0;
        if (spans[i].count > longest) longest = spans[i].count;
    }
    int r = reserve(p, rows, longest, err);
    struct span *own = calloc((size_t)count + 1, sizeof *own);
    const float **level = calloc((size_t)count + 1, sizeof *level);
    if (!r && (!own || !level)) r = err_set(err, ERR_MEMORY, "out of memory for a batch");
    for (int part = 0; part < p->count && !r; part++) {
        float *at = p->rows;
        for (int i = 0; i < count; i++) {
            struct span *s = &own[i];
            *s = spans[i];
            level[i] = at;
            if (part > 0) s->visual_row = p->numbers, s->visual_levels = &level[i], s->levels = 1, s->visual_pinned = false; /* overwritten by this part's results */
            if (part + 1 < p->count) s->hidden = at, s->logits_count = s->pick_count = 0;
            if (s->count > 0) at += s->count * p->hidden;
        }
        r = cuda_forward(p->part[part], own, count, err);
    }
    free(own);
    free(level);
    return r;
}

static int parts_encode_image(struct backend_model *m, const struct patches *a, struct vision_features *out, struct err *err) {
    return cuda_encode_image(of(m)->part[0], a, out, err);
}
static int parts_encode_pictures(struct backend_model *m, const struct prepared_picture *pictures, int count, struct vision_features *out, struct err *err) {
    return cuda_encode_pictures(of(m)->part[0], pictures, count, out, err);
}

static bool parts_can_pick(const struct backend_model *m, const struct pick *k) {
    const struct parts *p = of_const(m);
    return cuda_can_pick(p->part[p->count - 1], k);
}

/* ---- pages ---- */

static int32_t parts_page_alloc(struct backend_model *m) {
    struct parts *p = of(m);
    int32_t page = cuda_page_alloc(p->part[0]);
    for (int i = 1; i < p->count && page >= 0; i++) cuda_page_alloc(p->part[i]); /* the same number: the lists went through the same */
    return page;
}

static void parts_page_free(struct backend_model *m, int32_t page) {
    for (int i = 0; i < of(m)->count; i++) cuda_page_free(of(m)->part[i], page);
}

static int parts_page_copy(struct backend_model *m, int32_t to, int32_t from, int tokens, struct err *err) {
    int r = 0;
    for (int i = 0; i < of(m)->count && !r; i++) r = cuda_page_copy(of(m)->part[i], to, from, tokens, err);
    return r;
}

static size_t parts_page_bytes(const struct backend_model *m) { return of_const(m)->page_all; }

static int parts_page_export(struct backend_model *m, int32_t page, void *out, struct err *err) {
    const struct parts *p = of(m);
    char *at = out;
    int r = 0;
    for (int i = 0; i < p->count && !r; at += p->page_bytes[i++]) r = cuda_page_export(p->part[i], page, at, err);
    return r;
}

static int parts_page_import(struct backend_model *m, int32_t page, const void *in, struct err *err) {
    const struct parts *p = of(m);
    const char *at = in;
    int r = 0;
    for (int i = 0; i < p->count && !r; at += p->page_bytes[i++]) r = cuda_page_import(p->part[i], page, at, err);
    return r;
}

static void *parts_host_alloc(struct backend_model *m, size_t bytes) { return cuda_host_alloc(of(m)->part[0], bytes); }
static void parts_host_free(struct backend_model *m, void *memory) { cuda_host_free(of(m)->part[0], memory); }

/* ---- what it says about itself ---- */

static size_t parts_memory_bytes(const struct backend_model *m) {
    size_t sum = 0;
    for (int i = 0; i < of_const(m)->count; i++) sum += cuda_memory_bytes(of_const(m)->part[i]);
    return sum;
}

static void parts_describe(const struct backend_model *m, struct backend_info *out) {
    const struct parts *p = of_const(m);
    struct backend_info part;
    cuda_describe(p->part[0], out);
    for (int i = 1; i < p->count; i++) {
        cuda_describe(p->part[i], &part);
        if (part.pages < out->pages) out->pages = part.pages;
    }
    const int32_t pages = out->pages;
    *out = (struct backend_info){.kernels = p->kernels, .threads = 1, .pages = pages, .own_memory = true};
    model_weights_describe(&p->w, out);
}

const struct backend backend_cuda_parts = {
    .name = "cuda",
    .load = parts_load,
    .unload = parts_unload,
    .encode_image = parts_encode_image,
    .encode_pictures = parts_encode_pictures,
    .forward = parts_forward,
    .can_pick = parts_can_pick,
    .page_alloc = parts_page_alloc,
    .page_free = parts_page_free,
    .page_copy = parts_page_copy,
    .page_bytes = parts_page_bytes,
    .page_export = parts_page_export,
    .page_import = parts_page_import,
    .host_alloc = parts_host_alloc,
    .host_free = parts_host_free,
    .memory_bytes = parts_memory_bytes,
    .describe = parts_describe,
    .ceilings = cuda_ceilings,
};
