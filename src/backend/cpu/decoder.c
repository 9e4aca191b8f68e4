/* The decoder (facts §3): one pass over a batch of spans of any sequences. The rows of all spans stand one below the other for
 * the linear layers; attention works span by span on the pages. In the last layer only the rows whose results were asked for go
 * on after the keys and values are written. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/model.h"

/* Working-memory slots; an activation takes four. */
enum { SLOT_HIDDEN = 0, SLOT_QKV = 1, SLOT_ROTARY = 2, SLOT_ROWS = 3, SLOT_NORMED = 4, SLOT_ATTENDED = 8, SLOT_WIDE = 12 };
enum { ANGLE_ROWS = 4096, ANGLE_STEP = 512 }; /* positions whose angles are kept */
enum { ATTEND_ROWS = 16 };                    /* query rows of one work item in prefill */

struct row {
    const struct span *span;
    int index;          /* within the span */
    const float *angle; /* cos (half), sin (half) */
};

struct attend_block {
    const struct span *span;
    int first, rows;   /* rows of the span */
    int64_t at;        /* row of the batch */
    int64_t out;       /* row of the result */
};

struct pass {
    struct backend_model *m;
    int64_t rows, kept;          /* all rows; rows that go on after the last layer's keys and values */
    int64_t hidden, q_size, k_size;
    int head_dim;
    struct row *row;             /* (rows) */
    int64_t *keep;               /* (kept) row numbers, ascending */
    float *h;                    /* (rows, D) */
    float *qkv;                  /* (rows, Q + 2K) */
    float *product;              /* (rows, D) or (rows, I): a layer's output before the epilogue */
    struct activation normed, attended, wide;
    struct attend_block *blocks;
    int64_t block_count;
    void *const **page_lists;    /* (block_count) pages of the block's span */
    void **page_pointers;        /* what they point into */
    int layer;
    const float *norm_w;
    int deepstack_level;         /* of the layer just finished, -1 = none */
    float *compact;              /* (kept, D) rows of h in the last layer */
};

/* ---- rotary angles ---- */

static void angle_row(const struct backend_model *m, const int32_t p[3], float *c, float *s) {
    int half = m->w.config.text.head_dim / 2;
    for (int i = 0; i < half; i++) {
        float a = (float)p[m->w.axis[i]] * m->w.inverse_frequency[i];
        c[i] = (float)cos((double)a);
        s[i] = (float)sin((double)a);
    }
}

struct angle_fill {
    struct backend_model *m;
    float *angles;
    int first;
};
static void item_angle(void *context, int64_t i, int thread) {
    (void)thread;
    const struct angle_fill *f = context;
    int half = f->m->w.config.text.head_dim / 2, n = f->first + (int)i;
    float *c = f->angles + (int64_t)n * 2 * half;
    angle_row(f->m, (int32_t[3]){n, n, n}, c, c + half);
}

/* Keeps the angles of positions below `need`, as far as ANGLE_ROWS. */
static int angles_reserve(struct backend_model *m, int need, struct err *err) {
    if (need > ANGLE_ROWS) need = ANGLE_ROWS;
    if (need <= m->angle_rows) return 0;
    need = (need + ANGLE_STEP - 1) / ANGLE_STEP * ANGLE_STEP;
    float *more = realloc(m->angles, (size_t)need * (size_t)m->w.config.text.head_dim * sizeof *more);
    if (!more) return err_set(err, ERR_MEMORY, "out of memory for rotary angles");
    m->angles = more;
    struct angle_fill fill = {m, more, m->angle_rows};
    pool_run(m->pool, need - m->angle_rows, item_angle, &fill);
    m->angle_rows = need;
    return 0;
}

struct angle_pick {
    struct backend_model *m;
    const struct row *row;
    float *out; /* (rows, 2, half) */
};
static void item_pick_angle(void *context, int64_t i, int thread) {
    (void)thread;
    const struct angle_pick *k = context;
    const struct backend_model *m = k->m;
    int half = m->w.config.text.head_dim / 2;
    const int32_t *p = k->row[i].span->positions + 3 * (int64_t)k->row[i].index;
    float *c = k->out + i * 2 * half, *s = c + half;
    if (p[0] < m->angle_rows && p[1] < m->angle_rows && p[2] < m->angle_rows) {
        for (int j = 0; j < half; j++) {
            const float *t = m->angles + (int64_t)p[m->w.axis[j]] * 2 * half;
            c[j] = t[j];
            s[j] = t[half + j];
        }
    } else {
        angle_row(m, p, c, s);
    }
}

/* ---- work items ---- */

static void item_embed(void *context, int64_t i, int thread) {
    (void)thread;
    const struct pass *p = context;
    const struct span *s = p->row[i].span;
    int t = p->row[i].index;
    float *h = p->h + i * p->hidden;
    int32_t visual = s->visual_row ? s->visual_row[t] : -1;
    if (visual >= 0) memcpy(h, s->visual_levels[0] + visual * p->hidden, (size_t)p->hidden * sizeof *h);
    else linear_weight_rows_f32(&p->m->w.embed, s->ids[t], s->ids[t] + 1, h);
}

/* Adds what DeepStack owes to a row after the layer before. */
static void add_deepstack(const struct pass *p, const struct row *row, float *h) {
    const struct span *s = row->span;
    int level = p->deepstack_level + 1;
    if (level < 1 || !s->visual_row || level >= s->levels || s->visual_row[row->index] < 0) return;
    const float *add = s->visual_levels[level] + s->visual_row[row->index] * p->hidden;
    for (int64_t k = 0; k < p->hidden; k++) h[k] += add[k];
}

/* The norm before attention or MLP; the first one in a layer pays what DeepStack owes. */
static void item_norm(void *context, int64_t i, int thread) {
    (void)thread;
    const struct pass *p = context;
    const struct backend_model *m = p->m;
    float *h = p->h + i * p->hidden;
    add_deepstack(p, &p->row[i], h);
    if (!p->norm_w) return;
    m->ops->rms_norm(p->normed.x + i * p->hidden, h, p->norm_w, (int)p->hidden, m->w.config.text.rms_eps);
    activation_round(m, &p->normed, i, 0, p->hidden);
    activation_quantise(m, &p->normed, i);
}

static void item_norm_compact(void *context, int64_t i, int thread) {
    (void)thread;
    const struct pass *p = context;
    const struct backend_model *m = p->m;
    m->ops->rms_norm(p->normed.x + i * p->hidden, p->compact + i * p->hidden, p->norm_w, (int)p->hidden, m->w.config.text.rms_eps);
    activation_round(m, &p->normed, i, 0, p->hidden);
    activation_quantise(m, &p->normed, i);
}

/* q and k of one row: norm of each head, rotation; k and v go to the page. */
static void item_heads(void *context, int64_t i, int thread) {
    (void)thread;
    const struct pass *p = context;
    const struct backend_model *m = p->m;
    const struct text_config *t = &m->w.config.text;
    const struct decoder_layer *l = &m->w.layers[p->layer];
    const struct span *s = p->row[i].span;
    int n = p->head_dim;
    int64_t stride = p->q_size + 2 * p->k_size, slot = s->first + p->row[i].index;
    float *q = p->qkv + i * stride, *k = q + p->q_size, *v = k + p->k_size;
    const float *c = p->row[i].angle, *sn = c + n / 2;
    for (int h = 0; h < t->heads; h++) {
        m->ops->rms_norm(q + h * n, q + h * n, l->q_norm, n, t->rms_eps);
        m->ops->rotate(q + h * n, c, sn, n);
    }
    void *page = m->kv.pages[s->pages[slot / KV_PAGE_TOKENS]];
    int64_t at = p->layer * m->kv.layer_stride + slot % KV_PAGE_TOKENS * n, half = m->kv.layer_stride / 2;
    for (int h = 0; h < t->kv_heads; h++) {
        m->ops->rms_norm(k + h * n, k + h * n, l->k_norm, n, t->rms_eps);
        m->ops->rotate(k + h * n, c, sn, n);
        int64_t to = at + (int64_t)h * KV_PAGE_TOKENS * n;
        if (m->precision == PRECISION_F32) {
            memcpy((float *)page + to, k + h * n, (size_t)n * sizeof(float));
            memcpy((float *)page + to + half, v + h * n, (size_t)n * sizeof(float));
        } else {
            m->ops->round_bf16((uint16_t *)page + to, k + h * n, n);
            m->ops->round_bf16((uint16_t *)page + to + half, v + h * n, n);
        }
    }
}

static void item_attend(void *context, int64_t i, int thread) {
    const struct pass *p = context;
    const struct backend_model *m = p->m;
    const struct text_config *t = &m->w.config.text;
    int heads = t->kv_heads, group = t->heads / heads, n = p->head_dim, kv = (int)(i % heads);
    const struct attend_block *b = &p->blocks[i / heads];
    int64_t offset = p->layer * m->kv.layer_stride, stride = p->q_size + 2 * p->k_size;
    const struct kv_view view = {.pages = p->page_lists[b - p->blocks],
                                 .k_offset = offset,
                                 .v_offset = offset + m->kv.layer_stride / 2,
                                 .kv_heads = heads,
                                 .head_dim = n,
                                 .precision = m->precision};
    m->ops->attend_rows(p->attended.x + b->out * p->q_size, p->q_size, p->qkv + b->at * stride, stride, b->rows, t->heads, &view,
                        b->span->first + b->first + 1, kv, kv + 1, scratch_of(m, thread));
    for (int r = 0; r < b->rows; r++)
        activation_round(m, &p->attended, b->out + r, (int64_t)kv * group * n, (int64_t)(kv + 1) * group * n);
}

static void item_quantise(void *context, int64_t i, int thread) {
    (void)thread;
    const struct pass *p = context;
    activation_quantise(p->m, &p->attended, i);
}
static void item_quantise_wide(void *context, int64_t i, int thread) {
    (void)thread;
    const struct pass *p = context;
    activation_quantise(p->m, &p->wide, i);
}

/* ---- the pass ---- */

/* Query rows grouped into work items; in the last layer only the kept rows, one by one or in their runs. */
static void make_blocks(struct pass *p, bool last) {
    p->block_count = 0;
    int64_t count = last ? p->kept : p->rows;
    const struct span *current = NULL;
    void **pointers = p->page_pointers, **next = p->page_pointers;
    for (int64_t i = 0; i < count;) {
        int64_t at = last ? p->keep[i] : i;
        const struct row *first = &p->row[at];
        int rows = 1;
        while (rows < ATTEND_ROWS && i + rows < count && (last ? p->keep[i + rows] : i + rows) == at + rows &&
               p->row[at + rows].span == first->span)
            rows++;
        if (first->span != current) {
            current = first->span;
            pointers = next;
            for (int k = 0; k < current->page_count; k++) *next++ = p->m->kv.pages[current->pages[k]];
        }
        p->page_lists[p->block_count] = pointers;
        p->blocks[p->block_count] = (struct attend_block){first->span, first->index, rows, at, i};
        i += rows;
        p->block_count++;
    }
}

static void run_layer(struct pass *p, int n) {
    struct backend_model *m = p->m;
    const struct decoder_layer *l = &m->w.layers[n];
    bool last = n == m->w.config.text.layers - 1;
    int64_t stride = p->q_size + 2 * p->k_size, rows = last ? p->kept : p->rows;
    p->layer = n;
    p->norm_w = l->input_norm;
    pool_run(m->pool, p->rows, item_norm, p);
    struct linear_job qkv[] = {
        {.w = &l->q, .in = &p->normed, .y = p->qkv, .ldy = stride, .rows = (int)p->rows},
        {.w = &l->k, .in = &p->normed, .y = p->qkv + p->q_size, .ldy = stride, .rows = (int)p->rows},
        {.w = &l->v, .in = &p->normed, .y = p->qkv + p->q_size + p->k_size, .ldy = stride, .rows = (int)p->rows}};
    linear_run(m, qkv, 3);
    pool_run(m->pool, p->rows, item_heads, p);
    if (rows == 0) return; /* nobody asked for results: the keys and values are all there is to do */
    float *h = p->h;
    if (last) {
        for (int64_t i = 0; i < p->kept; i++)
            memcpy(p->compact + i * p->hidden, p->h + p->keep[i] * p->hidden, (size_t)p->hidden * sizeof *h);
        h = p->compact;
    }
    if (n == 0 || last) make_blocks(p, last);
    pool_run(m->pool, p->block_count * m->w.config.text.kv_heads, item_attend, p);
    if (p->attended.q) pool_run(m->pool, rows, item_quantise, p);
    linear_run(m, &(struct linear_job){.w = &l->o, .in = &p->attended, .y = p->product, .ldy = p->hidden, .rows = (int)rows,
                                       .epilogue = EPILOGUE_ADD, .add_to = h}, 1);
    p->norm_w = l->post_norm;
    p->deepstack_level = -1;
    if (last) pool_run(m->pool, rows, item_norm_compact, p);
    else pool_run(m->pool, rows, item_norm, p);
    int64_t wide = l->gate.out;
    linear_run(m,
               &(struct linear_job){.w = &l->gate,
                                    .up = &l->up,
                                    .in = &p->normed,
                                    .y = p->wide.x,
                                    .y2 = p->product,
                                    .ldy = wide,
                                    .rows = (int)rows,
                                    .epilogue = EPILOGUE_SILU_MUL,
                                    .out = &p->wide},
               1);
    if (p->wide.q) pool_run(m->pool, rows, item_quantise_wide, p);
    linear_run(m, &(struct linear_job){.w = &l->down, .in = &p->wide, .y = p->product, .ldy = p->hidden, .rows = (int)rows,
                                       .epilogue = EPILOGUE_ADD, .add_to = h}, 1);
    p->deepstack_level = n;
}

static int check_span(const struct backend_model *m, const struct span *s, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    if (s->count < 1 || s->first < 0)
        return err_set(err, ERR_ARGUMENT, "forward: a span needs at least one token, found %d", s->count);
    int64_t need = (s->first + s->count + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    if (s->page_count < need)
        return err_set(err, ERR_ARGUMENT, "forward: a span up to token %lld needs %lld pages, found %d",
                       (long long)(s->first + s->count), (long long)need, s->page_count);
    for (int i = 0; i < s->page_count; i++)
        if (s->pages[i] < 0 || s->pages[i] >= kv_pages_high(&m->kv))
            return err_set(err, ERR_ARGUMENT, "forward: KV page %d does not exist", s->pages[i]);
    for (int i = 0; i < s->count; i++)
        if (s->ids[i] < 0 || s->ids[i] >= t->vocab)
            return err_set(err, ERR_ARGUMENT, "token id %d: expected 0 to %d (vocab_size of the model)", s->ids[i], t->vocab - 1);
    for (int i = 0; i < s->logits_count; i++)
        if (s->logits_rows[i] < (i ? s->logits_rows[i - 1] + 1 : 0) || s->logits_rows[i] >= s->count)
            return err_set(err, ERR_ARGUMENT, "forward: logits of row %d of a span of %d rows (rows must ascend)",
                           s->logits_rows[i], s->count);
    return 0;
}

static int prepare(struct pass *p, const struct span *spans, int count, struct err *err) {
    struct backend_model *m = p->m;
    const struct text_config *t = &m->w.config.text;
    p->hidden = t->hidden, p->head_dim = t->head_dim;
    p->q_size = (int64_t)t->heads * t->head_dim, p->k_size = (int64_t)t->kv_heads * t->head_dim;
    int64_t pages = 0;
    int most_position = 0;
    for (int i = 0; i < count; i++) {
        int r = check_span(m, &spans[i], err);
        if (r) return r;
        p->rows += spans[i].count;
        pages += spans[i].page_count;
        for (int k = 0; k < 3 * spans[i].count; k++)
            if (spans[i].positions[k] > most_position) most_position = spans[i].positions[k];
    }
    if (p->rows > INT32_MAX / 4) return err_set(err, ERR_LIMIT, "forward: %lld rows in one batch", (long long)p->rows);
    int64_t rows = p->rows, wide = t->intermediate > p->hidden ? t->intermediate : p->hidden;
    p->h = workspace_get(m, SLOT_HIDDEN, (size_t)(rows * (2 * p->hidden + wide)) * sizeof *p->h);
    p->qkv = workspace_get(m, SLOT_QKV, (size_t)(rows * (p->q_size + 2 * p->k_size)) * sizeof *p->qkv);
    float *angles = workspace_get(m, SLOT_ROTARY, (size_t)(rows * p->head_dim) * sizeof *angles);
    char *lists = workspace_get(m, SLOT_ROWS,
                                (size_t)rows * (sizeof *p->row + sizeof *p->keep + sizeof *p->blocks + sizeof *p->page_lists) +
                                    (size_t)pages * sizeof *p->page_pointers);
    if (!p->h || !p->qkv || !angles || !lists)
        return err_set(err, ERR_MEMORY, "out of memory for a forward pass of %lld rows", (long long)rows);
    p->compact = p->h + rows * p->hidden;
    p->product = p->compact + rows * p->hidden;
    p->row = (void *)lists;
    p->keep = (void *)(p->row + rows);
    p->blocks = (void *)(p->keep + rows);
    p->page_lists = (void *)(p->blocks + rows);
    p->page_pointers = (void *)(p->page_lists + rows);
    int r = activation_get(m, SLOT_NORMED, rows, p->hidden, true, &p->normed, err);
    if (!r) r = activation_get(m, SLOT_ATTENDED, rows, p->q_size, true, &p->attended, err);
    if (!r) r = activation_get(m, SLOT_WIDE, rows, t->intermediate, true, &p->wide, err);
    if (!r) r = angles_reserve(m, most_position + 1, err);
    if (r) return r;
    int64_t at = 0;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < spans[i].count; k++, at++)
            p->row[at] = (struct row){&spans[i], k, angles + at * p->head_dim};
    pool_run(m->pool, rows, item_pick_angle, &(struct angle_pick){m, p->row, angles});
    return 0;
}

/* Which rows somebody wants; logits and hidden states are taken from the kept rows in order. */
static void choose_kept(struct pass *p, const struct span *spans, int count) {
    int64_t at = 0;
    for (int i = 0; i < count; i++) {
        const struct span *s = &spans[i];
        for (int k = 0; k < s->count; k++) {
            bool wanted = s->hidden != NULL;
            for (int j = 0; j < s->logits_count && !wanted; j++) wanted = s->logits_rows[j] == k;
            if (wanted) p->keep[p->kept++] = at + k;
        }
        at += s->count;
    }
}

/* Final norm of the kept rows, then the head for the rows whose logits are wanted. */
static int finish(struct pass *p, const struct span *spans, int count, struct err *err) {
    struct backend_model *m = p->m;
    int64_t vocab = m->w.config.text.vocab;
    p->norm_w = m->w.norm;
    pool_run(m->pool, p->kept, item_norm_compact, p);
    tap(m, "text.norm", p->normed.x, p->kept, p->hidden);
    int64_t at = 0, k = 0, wanted = 0;
    for (int i = 0; i < count; i++) wanted += spans[i].logits_count;
    /* When the logits of every kept row are wanted, one product serves all; else row by row. */
    bool straight = wanted == p->kept;
    float *logits = NULL;
    if (straight && wanted > 0) {
        bool one = true; /* one span's own buffer takes them directly */
        for (int i = 0; i < count; i++) one = one && (spans[i].logits_count == 0 || spans[i].logits_count == wanted);
        for (int i = 0; i < count && one; i++)
            if (spans[i].logits_count) logits = spans[i].logits;
        if (!one) logits = workspace_get(m, SLOT_QKV, (size_t)(wanted * vocab) * sizeof *logits);
        if (!logits)
            return err_set(err, ERR_MEMORY, "out of memory for logits: %lld rows of %lld", (long long)wanted, (long long)vocab);
        linear_run(m, &(struct linear_job){.w = &m->w.head, .in = &p->normed, .y = logits, .ldy = vocab, .rows = (int)wanted}, 1);
    }
    for (int i = 0; i < count; i++) {
        const struct span *s = &spans[i];
        for (int r = 0; r < s->count; r++) {
            if (k >= p->kept || p->keep[k] != at + r) continue;
            if (s->hidden) memcpy(s->hidden + r * p->hidden, p->normed.x + k * p->hidden, (size_t)p->hidden * sizeof(float));
            for (int j = 0; j < s->logits_count; j++) {
                if (s->logits_rows[j] != r) continue;
                float *to = s->logits + j * vocab;
                if (straight) {
                    if (to != logits + k * vocab) memcpy(to, logits + k * vocab, (size_t)vocab * sizeof *to);
                    continue;
                }
                struct activation one = p->normed;
                one.x += k * p->hidden;
                if (one.xb) one.xb += k * p->hidden;
                one.q = NULL;
                linear_run(m, &(struct linear_job){.w = &m->w.head, .in = &one, .y = to, .ldy = vocab, .rows = 1}, 1);
            }
            k++;
        }
        at += s->count;
    }
    return 0;
}

int cpu_forward(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    struct pass p = {.m = m, .deepstack_level = -1};
    int r = prepare(&p, spans, count, err);
    if (r || p.rows == 0) return r;
    choose_kept(&p, spans, count);
    pool_run(m->pool, p.rows, item_embed, &p);
    tap(m, "text.embed", p.h, p.rows, p.hidden);
    for (int n = 0; n < m->w.config.text.layers; n++) {
        run_layer(&p, n);
        if (m->tap && n + 1 < m->w.config.text.layers) { /* with DeepStack's addition, as the next layer will see it */
            char stage[32];
            p.norm_w = NULL;
            pool_run(m->pool, p.rows, item_norm, &p);
            p.deepstack_level = -1;
            snprintf(stage, sizeof stage, "text.layer.%d", n);
            tap(m, stage, p.h, p.rows, p.hidden);
        }
    }
    if (p.kept == 0) return 0;
    /* A model with as many DeepStack levels as layers owes the last addition here. */
    for (int64_t i = 0; i < p.kept; i++) add_deepstack(&p, &p.row[p.keep[i]], p.compact + i * p.hidden);
    tap(m, "text.layer.last", p.compact, p.kept, p.hidden);
    return finish(&p, spans, count, err);
}
