/* The decoder (facts §3) over any batch of spans: the rows of all spans stand one below the other for the linear layers; attention works
 * on the pages. In the last layer only the rows whose results were asked for go on after the keys and values are written. A batch of few
 * rows goes the faster way of step.cu. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/room.h"

static int check_span(const struct backend_model *m, const struct span *s, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    if (s->count < 1 || s->first < 0) return err_set(err, ERR_ARGUMENT, "forward: a span needs at least one token, found %d", s->count);
    int64_t need = (s->first + s->count + PAGE - 1) / PAGE;
    if (s->page_count < need)
        return err_set(err, ERR_ARGUMENT, "forward: a span up to token %lld needs %lld pages, found %d", (long long)(s->first + s->count), (long long)need, s->page_count);
    int32_t high = __atomic_load_n(&m->used_high, __ATOMIC_ACQUIRE);
    for (int i = 0; i < s->page_count; i++)
        if (s->pages[i] < 0 || s->pages[i] >= high) return err_set(err, ERR_ARGUMENT, "forward: KV page %d does not exist", s->pages[i]);
    for (int i = 0; i < s->count; i++)
        if (s->ids[i] < 0 || s->ids[i] >= t->vocab)
            return err_set(err, ERR_ARGUMENT, "token id %d: expected 0 to %d (vocab_size of the model)", s->ids[i], t->vocab - 1);
    for (int i = 0; i < s->logits_count; i++)
        if (s->logits_rows[i] < (i ? s->logits_rows[i - 1] + 1 : 0) || s->logits_rows[i] >= s->count)
            return err_set(err, ERR_ARGUMENT, "forward: logits of row %d of a span of %d rows (rows must ascend)", s->logits_rows[i], s->count);
    for (int i = 0; i < s->pick_count; i++)
        if (s->picks[i].row < (i ? s->picks[i - 1].row + 1 : 0) || s->picks[i].row >= s->count || !cuda_can_pick(m, &s->picks[i]))
            return err_set(err, ERR_ARGUMENT, "forward: pick of row %d of a span of %d rows (rows must ascend, picks must be such as can_pick allows)", s->picks[i].row, s->count);
    return 0;
}

/* Rows and page numbers in one piece of memory; free(b->row). */
int batch_make(const struct backend_model *m, const struct span *spans, int count, struct batch *b, struct err *err) {
    int64_t rows = 0, pages = 0;
    for (int i = 0; i < count; i++) {
        int r = check_span(m, &spans[i], err);
        if (r) return r;
        rows += spans[i].count;
        pages += (spans[i].first + spans[i].count + PAGE - 1) / PAGE;
    }
    if (rows > INT32_MAX / 4 || pages > INT32_MAX / 4) return err_set(err, ERR_LIMIT, "forward: %lld rows in one batch", (long long)rows);
    *b = (struct batch){};
    b->spans = spans, b->count = count;
    b->row = (struct drow *)malloc((size_t)rows * sizeof *b->row + (size_t)pages * sizeof *b->page + 1);
    if (!b->row) return err_set(err, ERR_MEMORY, "out of memory for a batch of %lld rows", (long long)rows);
    b->page = (int32_t *)(b->row + rows);
    for (int i = 0; i < count; i++) {
        const struct span *s = &spans[i];
        int need = (int)((s->first + s->count + PAGE - 1) / PAGE), run = attend_run_fit(m, s->count) ? b->rows : -1;
        for (int k = 0; k < s->count; k++) {
            struct drow *r = &b->row[b->rows++];
            *r = (struct drow){};
            r->id = s->ids[k], r->slot = (int32_t)(s->first + k), r->pages = b->pages, r->block = run;
            memcpy(r->position, s->positions + 3 * k, sizeof r->position);
            r->visual = s->visual_row && s->visual_row[k] >= 0 ? b->visual++ : -1;
        }
        memcpy(b->page + b->pages, s->pages, (size_t)need * sizeof *b->page);
        b->pages += need;
    }
    return 0;
}

/* The benchmark wants to know what a pass spends its time on: an event at each change. */
static void mark(struct backend_model *m, int part) {
    struct pass_times *t = m->times;
    if (!t || t->count == PASS_MARKS) return;
    if (!t->event[t->count] && cudaEventCreate(&t->event[t->count])) return;
    cudaEventRecord(t->event[t->count], m->stream);
    t->part[t->count++] = part;
}

struct pass {
    struct backend_model *m;
    const struct batch *b;
    const struct drow *row;  /* on the device, as all below */
    const int32_t *page;
    const float *visual;     /* (levels, visual rows, D) */
    int levels, kept;
    int32_t *keep;           /* host: (kept) rows that go on after the last layer's keys and values */
    const int32_t *keep_at;
    const struct drow *kept_row;
    int64_t hidden, q_size, k_size;
    int alone, groups;       /* the first rows of the batch are attended one by one, in groups of up to FEW_ROWS (attend_few.cu) */
    const char *group_table; /* (groups) tables of group_bytes */
    size_t group_bytes;
    bool *group_shared;      /* host: (groups) */
    float *h;
    bf16 *x, *qkv, *q, *attended, *gate_up, *delta;
    uint8_t *x8;
    float *factors8;
};

/* A product of x, or of x8 where the weights want that: y in bf16, one matrix beside the other. */
static struct product large(const struct pass *p, const struct dlinear *a, const struct dlinear *b, const struct dlinear *c, int rows, bf16 *y) {
    struct product to = {{a, b, c}, 1 + (b != NULL) + (c != NULL)};
    to.ldx = a->in, to.rows = rows, to.padded = padded_rows(rows), to.out = OUT_BF16, to.y = y;
    for (int i = 0; i < to.count; i++) to.ldy += to.w[i]->out;
    to.x = p->x, to.x8 = p->x8, to.factors8 = p->factors8;
    return to;
}

/* What the product is to be given: which of bf16 and e4m3 its weights want. */
static struct row_input input_of(const struct pass *p, struct product *to) {
    struct row_input in = {NULL, NULL, NULL, to->padded};
    bool quantised = p->m->e4m3 && library_fit(p->m, to) && to->ldx % 128 == 0;
    for (int i = 0; i < to->count; i++) {
        if (quantised && to->w[i]->storage == STORAGE_FP8_BLOCK) in.x8 = p->x8, in.factors8 = p->factors8;
        else in.x = p->x;
    }
    to->x8 = in.x8;
    return in;
}

/* Rows the caller wants something of, as numbers of the batch. */
static int choose_kept(struct pass *p, struct err *err) {
    int at = 0;
    p->keep = (int32_t *)malloc((size_t)p->b->rows * sizeof *p->keep + 1);
    if (!p->keep) return err_set(err, ERR_MEMORY, "out of memory");
    for (int i = 0; i < p->b->count; i++) {
        const struct span *s = &p->b->spans[i];
        for (int k = 0, j = 0, c = 0; k < s->count; k++) {
            bool wanted = s->hidden != NULL;
            if (j < s->logits_count && s->logits_rows[j] == k) wanted = true, j++;
            if (c < s->pick_count && s->picks[c].row == k) wanted = true, c++;
            if (wanted) p->keep[p->kept++] = at + k;
        }
        at += s->count;
    }
    return 0;
}

/* A span's image features to rows from *next on of each level at `to`, run by run; by way of the pinned `staging`, laid out alike, unless they
 * lie in pinned memory themselves. */
static int upload_features(struct pass *p, const struct span *s, float *staging, float *to, int64_t *next, struct err *err) {
    int r = 0;
    for (int k = 0, run; s->visual_row && k < s->count && !r; k += run) {
        bool visual = s->visual_row[k] >= 0;
        for (run = 1; k + run < s->count && (visual ? s->visual_row[k + run] == s->visual_row[k] + run : s->visual_row[k + run] < 0);) run++;
        size_t bytes = (size_t)run * (size_t)p->hidden * 4;
        for (int l = 0; visual && l < p->levels && !r; l++) {
            int64_t at = (l * (int64_t)p->b->visual + *next) * p->hidden;
            const float *from = l < s->levels ? s->visual_levels[l] + (int64_t)s->visual_row[k] * p->hidden : NULL;
            if (!from) memset(staging + at, 0, bytes);
            else if (!s->visual_pinned) memcpy(staging + at, from, bytes);
            r = cuda_failed(cudaMemcpyAsync(to + at, from && s->visual_pinned ? from : staging + at, bytes, cudaMemcpyHostToDevice, p->m->stream), "uploading image features", err);
        }
        if (visual) *next += run;
    }
    return r;
}

/* Rows, pages, kept rows and image features to the device. */
static int upload(struct pass *p, struct err *err) {
    struct backend_model *m = p->m;
    const struct batch *b = p->b;
    size_t rows = (size_t)b->rows * sizeof *b->row, pages = ((size_t)b->pages * sizeof *b->page + 63) / 64 * 64, keep = ((size_t)p->kept * 4 + 63) / 64 * 64;
    size_t kept_rows = (size_t)p->kept * sizeof *b->row, all = rows + pages + keep + kept_rows;
    for (int i = 0; i < b->count; i++)
        if (b->spans[i].visual_row && b->spans[i].levels > p->levels) p->levels = b->spans[i].levels;
    size_t features = (size_t)p->levels * (size_t)b->visual * (size_t)p->hidden * 4;
    char *host = (char *)pinned_get(m, PINNED_BATCH, all + 64 + features, err), *device = (char *)buffer_get(m, BUFFER_ROWS, all + 64, err);
    char *visual = b->visual ? (char *)buffer_get(m, BUFFER_VISUAL, features, err) : NULL;
    if (!host || !device || (b->visual && !visual)) return ERR_MEMORY;
    memcpy(host, b->row, rows);
    memcpy(host + rows, b->page, (size_t)b->pages * sizeof *b->page);
    memcpy(host + rows + pages, p->keep, (size_t)p->kept * 4);
    for (int i = 0; i < p->kept; i++) {
        struct drow *r = (struct drow *)(host + rows + pages + keep) + i;
        *r = b->row[p->keep[i]];
        r->block = -1; /* attended row by row */
    }
    p->row = (const struct drow *)device, p->page = (const int32_t *)(device + rows);
    p->keep_at = (const int32_t *)(device + rows + pages), p->kept_row = (const struct drow *)(device + rows + pages + keep);
    p->visual = (const float *)visual;
    int r = cuda_failed(cudaMemcpyAsync(device, host, all, cudaMemcpyHostToDevice, m->stream), "uploading a batch", err);
    int64_t next = 0;
    for (int i = 0; i < b->count && !r; i++) r = upload_features(p, &b->spans[i], (float *)(host + (all + 63) / 64 * 64), (float *)visual, &next, err);
    return r;
}

/* Rows that are no run of a prompt (batch_order has put them first) are attended as decode steps have it, where there is a kernel for that. */
static int plan_alone(struct pass *p, struct err *err) {
    struct backend_model *m = p->m;
    const struct batch *b = p->b;
    int rows = 0, most_pages = 0;
    for (int i = 0; i < b->count && !attend_run_fit(m, b->spans[i].count); i++) rows += b->spans[i].count;
    if (!rows || !attend_few_fit(m)) return 0;
    p->groups = (rows + FEW_ROWS - 1) / FEW_ROWS;
    for (int g = 0; g < p->groups; g++) {
        int last = (g + 1) * FEW_ROWS < rows ? (g + 1) * FEW_ROWS : rows, pages = b->row[last - 1].pages - b->row[g * FEW_ROWS].pages + b->row[last - 1].slot / PAGE + 1;
        if (pages > most_pages) most_pages = pages;
    }
    struct batch most = {};
    most.pages = most_pages;
    p->group_bytes = (step_bytes(&most) + 255) / 256 * 256;
    char *host = (char *)pinned_get(m, PINNED_ALONE, p->group_bytes * (size_t)p->groups, err), *device = (char *)buffer_get(m, BUFFER_ALONE, p->group_bytes * (size_t)p->groups, err);
    p->group_shared = (bool *)malloc((size_t)p->groups);
    if (!p->group_shared) return err_set(err, ERR_MEMORY, "out of memory");
    if (!host || !device) return ERR_MEMORY;
    for (int g = 0; g < p->groups; g++) {
        struct drow row[FEW_ROWS];
        struct batch part = {};
        int first = g * FEW_ROWS;
        part.rows = rows - first < FEW_ROWS ? rows - first : FEW_ROWS, part.row = row, part.page = b->page + b->row[first].pages;
        memcpy(row, b->row + first, (size_t)part.rows * sizeof *row);
        for (int i = 0; i < part.rows; i++) row[i].pages -= b->row[first].pages;
        part.pages = row[part.rows - 1].pages + row[part.rows - 1].slot / PAGE + 1;
        p->group_shared[g] = m->step_shared = attend_shared(m, &part);
        step_fill(m, &part, host + p->group_bytes * (size_t)g);
    }
    p->alone = rows, p->group_table = device;
    return cuda_failed(cudaMemcpyAsync(device, host, p->group_bytes * (size_t)p->groups, cudaMemcpyHostToDevice, m->stream), "uploading the plan of attention", err);
}

static int reserve(struct pass *p, struct err *err) {
    struct backend_model *m = p->m;
    const struct text_config *t = &m->w.config.text;
    size_t rows = (size_t)p->b->rows, padded = (size_t)padded_rows(p->b->rows), stride = (size_t)(p->q_size + 2 * p->k_size), widest = (size_t)(t->intermediate > p->q_size ? t->intermediate : p->q_size);
    if (widest < (size_t)p->hidden) widest = (size_t)p->hidden;
    p->h = (float *)buffer_get(m, BUFFER_HIDDEN, rows * (size_t)p->hidden * 4, err);
    p->x = (bf16 *)buffer_get(m, BUFFER_NORMED, padded * widest * 2 + (size_t)LOGITS_ROWS * (size_t)p->hidden * 2, err); /* padded logits rows begin anywhere */
    p->qkv = (bf16 *)buffer_get(m, BUFFER_QKV, padded * (stride > (size_t)p->hidden ? stride : (size_t)p->hidden) * 2, err);
    p->q = (bf16 *)buffer_get(m, BUFFER_QUERIES, rows * (size_t)p->q_size * 2, err);
    p->attended = (bf16 *)buffer_get(m, BUFFER_ATTENDED, padded * (size_t)p->q_size * 2, err);
    p->gate_up = (bf16 *)buffer_get(m, BUFFER_WIDE, padded * (size_t)t->intermediate * 4, err);
    if (!p->h || !p->x || !p->qkv || !p->q || !p->attended || !p->gate_up) return ERR_MEMORY;
    p->delta = p->qkv; /* what a layer adds: never beside its q, k, v */
    if (!m->e4m3) return 0;
    char *q = (char *)buffer_get(m, BUFFER_QUANTISED, padded * (widest + (widest + 127) / 128 * 4) + 256, err);
    if (!q) return ERR_MEMORY;
    p->x8 = (uint8_t *)q, p->factors8 = (float *)(q + (padded * widest + 255) / 256 * 256);
    return 0;
}

/* Keys and values lie in the pages; q is ready. out: rows as in p->q, or the kept ones one below the other. */
static int attend(struct pass *p, int layer, const bf16 *q, bool kept, struct err *err) {
    struct backend_model *m = p->m;
    const struct batch *b = p->b;
    if (kept) {
        int splits = 1, longest = 0;
        for (int i = 0; i < p->kept; i++)
            if (b->row[p->keep[i]].slot > longest) longest = b->row[p->keep[i]].slot;
        while (splits < MOST_SPLITS && p->kept * splits * m->w.config.text.kv_heads < m->sm_count * 4 && longest / splits > 4 * PAGE) splits *= 2;
        const struct text_config *t = &m->w.config.text;
        size_t counters = (size_t)p->kept * t->kv_heads * 4, partial = splits > 1 ? (size_t)p->kept * t->heads * splits * (t->head_dim + 2) * 4 : 0;
        char *work = splits > 1 ? (char *)buffer_get(m, BUFFER_PARTIAL, counters + 256 + partial, err) : NULL;
        if (splits > 1 && !work) return ERR_MEMORY;
        if (work) cudaMemsetAsync(work, 0, counters, m->stream);
        attend_rows(m, layer, p->kept_row, p->kept, p->page, q, p->attended, splits, (float *)(work + (counters + 255) / 256 * 256), (unsigned *)work);
        return 0;
    }
    bool alone = false;
    struct attend_run run[MOST_RUNS];
    int runs = 0;
    for (int i = 0, at = 0; i < b->count; at += b->spans[i++].count) {
        const struct span *s = &b->spans[i];
        if (!attend_run_fit(m, s->count)) {
            alone = p->alone == 0;
            continue;
        }
        run[runs++] = (struct attend_run){at, s->count, s->first + s->count};
        if (runs < MOST_RUNS) continue;
        int r = attend_runs(m, layer, p->row, run, runs, p->page, q, p->attended, b->pages, err);
        if (r) return r;
        runs = 0;
    }
    for (int g = 0; g < p->groups; g++) {
        int64_t at = (int64_t)g * FEW_ROWS * p->q_size;
        m->step_shared = p->group_shared[g];
        attend_items(m, layer, (const struct step_head *)(p->group_table + p->group_bytes * (size_t)g), q + at, p->attended + at, TILED_NO);
    }
    int r = runs ? attend_runs(m, layer, p->row, run, runs, p->page, q, p->attended, b->pages, err) : 0;
    if (!r && alone) attend_rows(m, layer, p->row, b->rows, p->page, q, p->attended, 1, NULL, NULL);
    return r;
}

/* The norm in front of layer n, or the last one; what the layer before it adds comes first. */
static void norm_before(struct pass *p, int n, const bf16 *delta, bool kept, int rows) {
    struct backend_model *m = p->m;
    int64_t d = p->hidden;
    struct row_input to = {p->x};
    if (n < m->w.config.text.layers) {
        const struct dlayer *l = &m->layers[n];
        struct product qkv = large(p, &l->q, &l->k, &l->v, rows, p->qkv);
        to = input_of(p, &qkv);
    }
    const float *level = delta && n < p->levels ? p->visual + (int64_t)n * p->b->visual * d : NULL; /* what DeepStack owes after the layer before */
    add_norm_rows(m, p->h, delta, level, kept ? p->kept_row : p->row, n < m->w.config.text.layers ? m->layers[n].input_norm : m->norm, &to, rows, (int)d);
}

/* x holds the norm in front of the layer when it begins, that of the next one when it ends. */
static int run_layer(struct pass *p, int n, struct err *err) {
    struct backend_model *m = p->m;
    const struct dlayer *l = &m->layers[n];
    int64_t d = p->hidden;
    int rows = p->b->rows, r;
    bool last = n == m->w.config.text.layers - 1;
    struct product qkv = large(p, &l->q, &l->k, &l->v, rows, p->qkv);
    input_of(p, &qkv);
    mark(m, PASS_PRODUCTS);
    if ((r = product_run(m, &qkv, err))) return r;
    mark(m, PASS_HEADS);
    heads_rows_bf16(m, l, n, p->row, rows, p->page, p->qkv, p->q);
    if (last && p->kept == 0) return 0; /* nobody asked for results: the keys and values are all there is to do */
    bool kept = last && p->kept < rows;
    const bf16 *q = p->q;
    if (kept) { /* only these go on */
        char *c = (char *)buffer_get(m, BUFFER_COMPACT, (size_t)p->kept * (size_t)(d * 4 + p->q_size * 2), err);
        if (!c) return ERR_MEMORY;
        gather_rows(m, p->h, p->keep_at, p->kept, (int)d, (float *)c);
        q = (const bf16 *)(c + (size_t)p->kept * d * 4);
        gather_rows(m, (const float *)p->q, p->keep_at, p->kept, (int)p->q_size / 2, (float *)q); /* two values a word */
        p->h = (float *)c;
        rows = p->kept;
    }
    mark(m, PASS_ATTEND);
    if ((r = attend(p, n, q, kept, err))) return r;
    struct product o = large(p, &l->o, NULL, NULL, rows, p->delta), up = large(p, &l->gate, &l->up, NULL, rows, p->gate_up), down = large(p, &l->down, NULL, NULL, rows, p->delta);
    struct row_input to = input_of(p, &o);
    o.x = p->attended;
    mark(m, PASS_ROWS);
    if (to.x8) quantise_eight_rows(m, p->attended, &to, rows, (int)p->q_size);
    mark(m, PASS_PRODUCTS);
    if ((r = product_run(m, &o, err))) return r;
    mark(m, PASS_ROWS);
    to = input_of(p, &up);
    add_norm_rows(m, p->h, p->delta, NULL, p->row, l->post_norm, &to, rows, (int)d);
    mark(m, PASS_PRODUCTS);
    if ((r = product_run(m, &up, err))) return r;
    mark(m, PASS_ROWS);
    to = input_of(p, &down);
    silu_rows(m, p->gate_up, &to, rows, l->gate.out);
    mark(m, PASS_PRODUCTS);
    if ((r = product_run(m, &down, err))) return r;
    mark(m, PASS_ROWS);
    norm_before(p, n + 1, p->delta, kept, rows);
    return cuda_failed(cudaGetLastError(), "a layer", err);
}

/* Hidden states after the exact norm, in fp32. Where a span wants them all its rows are kept. */
static int read_hidden(struct pass *p, struct err *err) {
    struct backend_model *m = p->m;
    int64_t d = p->hidden;
    for (int i = 0, at = 0, k = 0; i < p->b->count; at += p->b->spans[i++].count) {
        const struct span *s = &p->b->spans[i];
        while (k < p->kept && p->keep[k] < at) k++;
        if (!s->hidden) continue;
        float *f = m->last ? (float *)buffer_get(m, BUFFER_PRODUCT, (size_t)(s->count * d) * 4, err) : p->h + k * d; /* else the next card goes on from here */
        if (!f) return ERR_MEMORY;
        if (m->last) norm_rows_f32(m, p->h + k * d, m->norm, f, s->count, (int)d);
        int r = cuda_failed(cudaMemcpyAsync(s->hidden, f, (size_t)(s->count * d) * 4, cudaMemcpyDeviceToHost, m->stream), "reading hidden states", err);
        if (!r) r = cuda_failed(cudaStreamSynchronize(m->stream), "reading hidden states", err);
        if (r) return r;
    }
    return 0;
}

/* Where row `row` of the batch stands among the kept ones from k0 on; outside of [0, LOGITS_ROWS): not in this chunk. */
static int place_in_chunk(const struct pass *p, int k0, int row) {
    for (int k = k0; k < p->kept && k < k0 + LOGITS_ROWS; k++)
        if (p->keep[k] == row) return k - k0;
    return -1;
}

/* Logits of the kept rows [k0, k0 + LOGITS_ROWS), to whoever wants them or a pick from them. */
static int finish_chunk(struct pass *p, int k0, struct err *err) {
    struct backend_model *m = p->m;
    int64_t vocab = m->w.config.text.vocab, d = p->hidden;
    int rows = p->kept - k0 < LOGITS_ROWS ? p->kept - k0 : LOGITS_ROWS, r = 0, picks = 0;
    struct pick_place pick[LOGITS_ROWS];
    float *logits = NULL;
    for (int i = 0, at = 0; i < p->b->count && !r; at += p->b->spans[i++].count) {
        const struct span *s = &p->b->spans[i];
        if (at + s->count <= p->keep[k0] || at > p->keep[k0 + rows - 1] || (!s->logits_count && !s->pick_count)) continue;
        if (!logits) {
            if (!(logits = (float *)buffer_get(m, BUFFER_LOGITS, (size_t)(padded_rows(rows) * vocab) * 4, err))) return ERR_MEMORY;
            struct product head = {{&m->head}, 1};
            head.x = p->x + k0 * d, head.ldx = d, head.rows = rows, head.padded = padded_rows(rows), head.out = OUT_F32, head.y = logits, head.ldy = vocab;
            if ((r = product_run(m, &head, err))) return r;
        }
        for (int j = 0; j < s->logits_count && !r; j++) {
            int row = place_in_chunk(p, k0, at + s->logits_rows[j]);
            if (row < 0) continue;
            r = cuda_failed(cudaMemcpyAsync(s->logits + j * vocab, logits + row * vocab, (size_t)vocab * 4, cudaMemcpyDeviceToHost, m->stream), "reading logits", err);
        }
        for (int j = 0; j < s->pick_count; j++) {
            int row = place_in_chunk(p, k0, at + s->picks[j].row);
            if (row >= 0) pick[picks++] = (struct pick_place){&s->picks[j], &s->picked[j], row};
        }
    }
    if (!r && picks) return picks_run(m, pick, picks, logits, err);
    int late = cuda_failed(cudaStreamSynchronize(m->stream), "reading logits", r ? NULL : err);
    return r ? r : late;
}

static int finish(struct pass *p, struct err *err) {
    mark(p->m, PASS_REST);
    int r = read_hidden(p, err);
    for (int k = 0; k < p->kept && !r; k += LOGITS_ROWS) r = finish_chunk(p, k, err);
    return r;
}

static int run_batch(struct backend_model *m, const struct batch *b, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    struct pass p = {m, b};
    p.hidden = t->hidden, p.q_size = (int64_t)t->heads * t->head_dim, p.k_size = (int64_t)t->kv_heads * t->head_dim;
    mark(m, PASS_REST);
    int r = choose_kept(&p, err);
    if (!r) r = upload(&p, err);
    if (!r) r = plan_alone(&p, err);
    if (!r) r = reserve(&p, err);
    if (!r) embed_rows(m, p.row, b->rows, p.visual, p.h, NULL, NULL, NULL, TILED_NO);
    if (!r) norm_before(&p, 0, NULL, false, b->rows);
    for (int n = 0; n < t->layers && !r; n++) r = run_layer(&p, n, err);
    if (!r && p.kept) r = finish(&p, err);
    mark(m, PASS_REST);
    int late = cuda_failed(cudaStreamSynchronize(m->stream), "a forward pass", r ? NULL : err);
    free(p.keep);
    free(p.group_shared);
    return r ? r : late;
}

/* The spans with those in front whose rows are attended one by one; they keep their places for results. NULL: out of memory. free() it. */
static struct span *batch_order(const struct backend_model *m, const struct span *spans, int count) {
    struct span *to = (struct span *)malloc((size_t)count * sizeof *to + 1);
    int n = 0;
    for (int run = 0; run < 2 && to; run++)
        for (int i = 0; i < count; i++)
            if (attend_run_fit(m, spans[i].count) == (run == 1)) to[n++] = spans[i];
    return to;
}

int cuda_forward(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    struct batch b;
    struct err local = {};
    if (!err) err = &local;
    cudaSetDevice(m->device);
    struct span *ordered = batch_order(m, spans, count);
    if (!ordered) return err_set(err, ERR_MEMORY, "out of memory for a batch of %d spans", count);
    int r = batch_make(m, ordered, count, &b, err);
    if (!r) {
        r = copies_wait(m, err);
        if (b.rows && !r) r = step_fit(m, &b) ? step_run(m, &b, err) : run_batch(m, &b, err);
        free(b.row);
    }
    free(ordered);
    return r;
}
