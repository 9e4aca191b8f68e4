/* The vision tower (facts §4): patch embedding as a matrix product, learned positions interpolated corner-aligned, blocks with
 * full attention inside each temporal group, DeepStack taps, mergers. All linears have a bias. Rows are patches in merge-block
 * order, so four consecutive rows are one token. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/model.h"

/* Working-memory slots; an activation takes four. The decoder uses the same ones: only one of the two runs at a time. */
enum { SLOT_HIDDEN = 0, SLOT_QKV = 1, SLOT_ROTARY = 2, SLOT_PIXELS = 4, SLOT_NORMED = 8, SLOT_WIDE = 12 };
enum { MLP_ROWS = 2048 }; /* rows that pass the MLP at once: bounds the memory of its wide activation */

struct tower {
    struct backend_model *m;
    int grid_t, grid_h, grid_w;
    int64_t patches, hidden, head_dim;
    float *h;            /* (patches, V) the residual stream */
    float *qkv;          /* (patches, 3V) */
    float *rotary;       /* (grid_h * grid_w, 2, head_dim / 2): cos, sin */
    struct activation pixels, normed, wide;
    const float *norm_w, *norm_b;
    int64_t row0;        /* first row of the chunk at work */
    int64_t norm_n;
};

/* Patch index inside a temporal group -> row and column of the patch grid (facts §4.3). */
static void patch_place(const struct tower *w, int64_t p, int *row, int *col) {
    int merge = w->m->w.config.vision.merge, unit = merge * merge, blocks = w->grid_w / merge;
    int64_t block = p / unit;
    int inside = (int)(p % unit);
    *row = (int)(block / blocks) * merge + inside / merge;
    *col = (int)(block % blocks) * merge + inside % merge;
}

/* index * (side - 1) / (size - 1) in fp32, as vision_utils.py (transformers 5.x) does. */
static void interpolate(int index, int size, int side, int *at0, int *at1, float *fraction) {
    float source = (float)(index * (side - 1)) / (float)(size > 1 ? size - 1 : 1);
    int floor0 = (int)floorf(source);
    *fraction = source - (float)floor0;
    *at0 = floor0 > side - 1 ? side - 1 : floor0;
    *at1 = floor0 + 1 > side - 1 ? side - 1 : floor0 + 1;
}

static void item_position(void *context, int64_t i, int thread) {
    (void)thread;
    const struct tower *w = context;
    const struct vision_config *v = &w->m->w.config.vision;
    int row, col, y0, y1, x0, x1, side = (int)lround(sqrt(v->positions));
    float fy, fx;
    patch_place(w, i % ((int64_t)w->grid_h * w->grid_w), &row, &col);
    interpolate(row, w->grid_h, side, &y0, &y1, &fy);
    interpolate(col, w->grid_w, side, &x0, &x1, &fx);
    const float *t = w->m->w.pos_embed;
    const float *a = t + ((int64_t)y0 * side + x0) * w->hidden, *b = t + ((int64_t)y0 * side + x1) * w->hidden;
    const float *c = t + ((int64_t)y1 * side + x0) * w->hidden, *d = t + ((int64_t)y1 * side + x1) * w->hidden;
    float wa = (1 - fy) * (1 - fx), wb = (1 - fy) * fx, wc = fy * (1 - fx), wd = fy * fx;
    float *h = w->h + i * w->hidden;
    for (int64_t k = 0; k < w->hidden; k++) h[k] += wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k];
}

static void make_rotary(struct tower *w) {
    int64_t half = w->head_dim / 2, quarter = w->head_dim / 4;
    for (int64_t p = 0; p < (int64_t)w->grid_h * w->grid_w; p++) {
        int row, col;
        patch_place(w, p, &row, &col);
        float *c = w->rotary + p * 2 * half, *s = c + half;
        for (int64_t j = 0; j < quarter; j++) {
            float f = w->m->w.vision_frequency[j], a = (float)row * f, b = (float)col * f;
            c[j] = (float)cos((double)a), s[j] = (float)sin((double)a);
            c[quarter + j] = (float)cos((double)b), s[quarter + j] = (float)sin((double)b);
        }
    }
}

static void item_round_pixels(void *context, int64_t r, int thread) {
    (void)thread;
    const struct tower *w = context;
    activation_round(w->m, &w->pixels, r, 0, w->pixels.n);
}

static void item_layer_norm(void *context, int64_t r, int thread) {
    (void)thread;
    const struct tower *w = context;
    const struct activation *a = &w->normed;
    w->m->ops->layer_norm(a->x + r * w->norm_n, w->h + (w->row0 * w->hidden) + r * w->norm_n, w->norm_w, w->norm_b,
                          (int)w->norm_n, 1e-6f);
    if (a->xb) w->m->ops->round_bf16(a->xb + r * w->norm_n, a->x + r * w->norm_n, w->norm_n);
}

static void item_rotate(void *context, int64_t r, int thread) {
    (void)thread;
    const struct tower *w = context;
    int heads = w->m->w.config.vision.heads;
    const float *c = w->rotary + r % ((int64_t)w->grid_h * w->grid_w) * w->head_dim, *s = c + w->head_dim / 2;
    for (int h = 0; h < 2 * heads; h++) /* q heads, then k heads */
        w->m->ops->rotate(w->qkv + r * 3 * w->hidden + h * w->head_dim, c, s, (int)w->head_dim);
}

enum { ATTEND_PARTS = 2 };

static void item_attend(void *context, int64_t i, int thread) {
    const struct tower *w = context;
    const struct backend_model *m = w->m;
    int heads = m->w.config.vision.heads, n = w->grid_h * w->grid_w;
    int part = (int)(i % ATTEND_PARTS), head = (int)(i / ATTEND_PARTS % heads);
    int64_t base = i / ATTEND_PARTS / heads * n; /* first row of the temporal group */
    int r0 = n * part / ATTEND_PARTS, r1 = n * (part + 1) / ATTEND_PARTS;
    const float *q = w->qkv + base * 3 * w->hidden;
    m->ops->attend_full(w->normed.x + base * w->hidden, w->hidden, q, q + w->hidden, q + 2 * w->hidden, 3 * w->hidden, n,
                        (int)w->head_dim, head, r0, r1, m->precision, scratch_of(m, thread));
    for (int64_t r = base + r0; r < base + r1; r++)
        activation_round(m, &w->normed, r, head * w->head_dim, (head + 1) * w->head_dim);
}

static void run_norm(struct tower *w, const float *weight, const float *bias, int64_t row0, int64_t rows, int64_t n) {
    w->norm_w = weight, w->norm_b = bias, w->row0 = row0, w->norm_n = n;
    pool_run(w->m->pool, rows, item_layer_norm, w);
}

/* MLP of a block, or a merger: normed -> fc1 -> activation function -> fc2. */
static void run_two(struct tower *w, const struct linear_weight *fc1, enum epilogue gelu, const struct linear_weight *fc2,
                    int rows, float *y, enum epilogue last, float *add_to) {
    struct activation in = w->normed, wide = w->wide;
    in.n = fc1->in;
    wide.n = fc1->out;
    linear_run(
        w->m,
        &(struct linear_job){.w = fc1, .in = &in, .y = wide.x, .ldy = fc1->out, .rows = rows, .epilogue = gelu, .out = &wide}, 1);
    linear_run(
        w->m,
        &(struct linear_job){.w = fc2, .in = &wide, .y = y, .ldy = fc2->out, .rows = rows, .epilogue = last, .add_to = add_to},
        1);
}

static void run_block(struct tower *w, const struct vision_block *b) {
    struct backend_model *m = w->m;
    int64_t v = w->hidden, groups = w->grid_t;
    run_norm(w, b->norm1_w, b->norm1_b, 0, w->patches, v);
    linear_run(m, &(struct linear_job){.w = &b->qkv, .in = &w->normed, .y = w->qkv, .ldy = 3 * v, .rows = (int)w->patches}, 1);
    pool_run(m->pool, w->patches, item_rotate, w);
    pool_run(m->pool, groups * m->w.config.vision.heads * ATTEND_PARTS, item_attend, w);
    /* The products of this stage and the next may lie in qkv: attention is done with it. */
    linear_run(m, &(struct linear_job){.w = &b->proj, .in = &w->normed, .y = w->qkv, .ldy = v, .rows = (int)w->patches,
                                       .epilogue = EPILOGUE_ADD, .add_to = w->h}, 1);
    for (int64_t r = 0; r < w->patches; r += MLP_ROWS) {
        int rows = (int)(w->patches - r < MLP_ROWS ? w->patches - r : MLP_ROWS);
        run_norm(w, b->norm2_w, b->norm2_b, r, rows, v);
        run_two(w, &b->fc1, EPILOGUE_GELU_TANH, &b->fc2, rows, w->qkv, EPILOGUE_ADD, w->h + r * v);
    }
}

static void run_merger(struct tower *w, const struct vision_merger *g, float *out) {
    const struct vision_config *v = &w->m->w.config.vision;
    int64_t unit = (int64_t)v->merge * v->merge, tokens = w->patches / unit;
    for (int64_t t = 0; t < tokens; t += MLP_ROWS / unit) {
        int rows = (int)(tokens - t < MLP_ROWS / unit ? tokens - t : MLP_ROWS / unit);
        if (g->after) run_norm(w, g->norm_w, g->norm_b, t * unit, rows, w->hidden * unit);
        else run_norm(w, g->norm_w, g->norm_b, t * unit, rows * unit, w->hidden);
        run_two(w, &g->fc1, EPILOGUE_GELU_ERF, &g->fc2, rows, out + t * v->out_hidden, EPILOGUE_NONE, NULL);
    }
}

static int prepare(struct tower *w, const struct patches *p, struct err *err) {
    struct backend_model *m = w->m;
    const struct vision_config *v = &m->w.config.vision;
    int unit = v->merge * v->merge;
    if (p->grid_t < 1 || p->grid_h < v->merge || p->grid_w < v->merge || p->grid_h % v->merge || p->grid_w % v->merge ||
        p->count != (int64_t)p->grid_t * p->grid_h * p->grid_w || p->width != m->w.patch_embed.in || p->count > INT32_MAX)
        return err_set(err, ERR_ARGUMENT,
                       "image patches: grid %d x %d x %d with %lld patches of %lld values does not fit this model "
                       "(merge %d, %lld values a patch)",
                       p->grid_t, p->grid_h, p->grid_w, (long long)p->count, (long long)p->width, v->merge,
                       (long long)m->w.patch_embed.in);
    w->grid_t = p->grid_t, w->grid_h = p->grid_h, w->grid_w = p->grid_w;
    w->patches = p->count, w->hidden = v->hidden, w->head_dim = v->hidden / v->heads;
    int64_t group = (int64_t)p->grid_h * p->grid_w, rows = p->count, chunk = rows < MLP_ROWS ? rows : MLP_ROWS;
    w->h = workspace_get(m, SLOT_HIDDEN, (size_t)(rows * w->hidden) * sizeof *w->h);
    w->qkv = workspace_get(m, SLOT_QKV, (size_t)(rows * 3 * w->hidden) * sizeof *w->qkv);
    w->rotary = workspace_get(m, SLOT_ROTARY, (size_t)(group * w->head_dim) * sizeof *w->rotary);
    if (!w->h || !w->qkv || !w->rotary)
        return err_set(err, ERR_MEMORY, "out of memory for an image of %lld patches", (long long)rows);
    /* Wide rows: MLP_ROWS of the MLP, or a fourth of that of a merger's. */
    int64_t wide = chunk * v->intermediate, merged = (chunk / unit + 1) * unit * v->hidden;
    int r = activation_get(m, SLOT_WIDE, 1, wide > merged ? wide : merged, false, &w->wide, err);
    if (!r) r = activation_get(m, SLOT_NORMED, rows, w->hidden, false, &w->normed, err);
    w->pixels = (struct activation){.x = p->values, .n = p->width}; /* read in place */
    if (!r && m->precision != PRECISION_F32) {
        w->pixels.xb = workspace_get(m, SLOT_PIXELS, (size_t)(rows * p->width) * sizeof *w->pixels.xb);
        if (!w->pixels.xb) r = err_set(err, ERR_MEMORY, "out of memory for an image of %lld patches", (long long)rows);
    }
    if (!r) r = scratch_reserve(m, m->widest_input, (int)w->head_dim, group, err);
    return r;
}

int cpu_encode_image(struct backend_model *m, const struct patches *p, struct vision_features *out, struct err *err) {
    const struct vision_config *v = &m->w.config.vision;
    struct tower w = {.m = m};
    memset(out, 0, sizeof *out);
    int r = prepare(&w, p, err);
    if (r) return r;
    int64_t tokens = p->count / (v->merge * v->merge), size = tokens * v->out_hidden;
    float *values = malloc((size_t)(1 + v->deepstack_count) * (size_t)size * sizeof *values);
    if (!values) return err_set(err, ERR_MEMORY, "out of memory for the features of %lld image tokens", (long long)tokens);

    pool_run(m->pool, p->count, item_round_pixels, &w);
    linear_run(m, &(struct linear_job){.w = &m->w.patch_embed, .in = &w.pixels, .y = w.h, .ldy = w.hidden, .rows = (int)p->count},
               1);
    tap(m, "vision.patch_embed", w.h, w.patches, w.hidden);
    pool_run(m->pool, p->count, item_position, &w);
    tap(m, "vision.embed", w.h, w.patches, w.hidden);
    make_rotary(&w);
    int level = 0;
    for (int b = 0; b < v->depth; b++) {
        char stage[32];
        run_block(&w, &m->w.blocks[b]);
        snprintf(stage, sizeof stage, "vision.block.%d", b);
        tap(m, stage, w.h, w.patches, w.hidden);
        if (level < v->deepstack_count && v->deepstack[level] == b) {
            float *to = values + (1 + level) * size;
            run_merger(&w, &m->w.deepstack[level], to);
            snprintf(stage, sizeof stage, "vision.deepstack.%d", level++);
            tap(m, stage, to, tokens, v->out_hidden);
        }
    }
    run_merger(&w, &m->w.merger, values);
    tap(m, "vision.merger", values, tokens, v->out_hidden);
    *out = (struct vision_features){.grid_t = p->grid_t, .grid_h = p->grid_h, .grid_w = p->grid_w, .tokens = tokens,
                                    .levels = 1 + v->deepstack_count, .values = values};
    return 0;
}
