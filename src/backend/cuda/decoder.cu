/* The decoder (facts §3) over any batch of spans: the rows of all spans stand one below the other for the linear layers; attention works
 * on the pages. In the last layer only the rows whose results were asked for go on after the keys and values are written. A batch of few
 * rows goes the faster way of step.cu. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/room.h"

enum { LOGITS_ROWS = 64 }; /* at a time */

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
    float *h, *qkv;
    bf16 *x, *q, *attended, *wide, *values;
    float *factors;
    uint8_t *bytes;
    float *factors8;
};

/* x as the layers w see it: with quantised activations beside it where they want them. */
static void give_input(struct pass *p, struct product *to, const struct dlinear *w, const bf16 *x, int rows, int n) {
    struct backend_model *m = p->m;
    to->x = x, to->ldx = n, to->rows = rows;
    if (!m->e4m3 || w->storage != STORAGE_FP8_BLOCK) return;
    bool library = rows > FEW_ROWS && m->lt && n % 128 == 0;
    quantise_rows(m, x, rows, n, p->values, p->factors, library ? p->bytes : NULL, library ? p->factors8 : NULL);
    to->x = p->values, to->factors = p->factors;
    if (library) to->x8 = p->bytes, to->factors8 = p->factors8;
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

/* Rows, pages, kept rows and image features to the device, by one pinned buffer. */
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
    float *from = (float *)(host + (all + 63) / 64 * 64);
    int64_t next = 0;
    for (int i = 0; i < b->count && b->visual; i++) {
        const struct span *s = &b->spans[i];
        for (int k = 0; s->visual_row && k < s->count; k++) {
            if (s->visual_row[k] < 0) continue;
            for (int l = 0; l < p->levels; l++) {
                float *to = from + ((int64_t)l * b->visual + next) * p->hidden;
                if (l < s->levels) memcpy(to, s->visual_levels[l] + s->visual_row[k] * p->hidden, (size_t)p->hidden * 4);
                else memset(to, 0, (size_t)p->hidden * 4);
            }
            next++;
        }
    }
    int r = cuda_failed(cudaMemcpyAsync(device, host, all, cudaMemcpyHostToDevice, m->stream), "uploading a batch", err);
    if (!r && b->visual) r = cuda_failed(cudaMemcpyAsync(visual, from, features, cudaMemcpyHostToDevice, m->stream), "uploading image features", err);
    return r;
}

static int reserve(struct pass *p, struct err *err) {
    struct backend_model *m = p->m;
    const struct text_config *t = &m->w.config.text;
    size_t rows = (size_t)p->b->rows, padded = (rows + 15) / 16 * 16, widest = (size_t)(t->intermediate > p->q_size ? t->intermediate : p->q_size);
    if (widest < (size_t)p->hidden) widest = (size_t)p->hidden;
    p->h = (float *)buffer_get(m, BUFFER_HIDDEN, rows * (size_t)p->hidden * 4, err);
    p->x = (bf16 *)buffer_get(m, BUFFER_NORMED, rows * (size_t)p->hidden * 2, err);
    p->qkv = (float *)buffer_get(m, BUFFER_QKV, rows * (size_t)(p->q_size + 2 * p->k_size) * 4, err);
    p->q = (bf16 *)buffer_get(m, BUFFER_QUERIES, rows * (size_t)p->q_size * 2, err);
    p->attended = (bf16 *)buffer_get(m, BUFFER_ATTENDED, rows * (size_t)p->q_size * 2, err);
    p->wide = (bf16 *)buffer_get(m, BUFFER_WIDE, rows * (size_t)t->intermediate * 2, err);
    if (!p->h || !p->x || !p->qkv || !p->q || !p->attended || !p->wide) return ERR_MEMORY;
    if (!m->e4m3) return 0;
    size_t groups = (widest + 127) / 128;
    char *q = (char *)buffer_get(m, BUFFER_QUANTISED, padded * (widest * 3 + groups * 8) + 1024, err);
    if (!q) return ERR_MEMORY;
    p->values = (bf16 *)q, p->bytes = (uint8_t *)(q + (padded * widest * 2 + 255) / 256 * 256);
    p->factors = (float *)(p->bytes + (padded * widest + 255) / 256 * 256), p->factors8 = p->factors + padded * groups;
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
    for (int i = 0, at = 0; i < b->count; at += b->spans[i++].count) {
        if (attend_run_fit(m, b->spans[i].count)) attend_run(m, layer, p->row, at, b->spans[i].count, p->page, q, p->attended);
        else alone = true;
    }
    if (alone) attend_rows(m, layer, p->row, b->rows, p->page, q, p->attended, 1, NULL, NULL);
    return 0;
}

static int run_layer(struct pass *p, int n, struct err *err) {
    struct backend_model *m = p->m;
    const struct dlayer *l = &m->layers[n];
    int64_t d = p->hidden, stride = p->q_size + 2 * p->k_size;
    int rows = p->b->rows, r;
    bool last = n == m->w.config.text.layers - 1;
    norm_rows(m, p->h, l->input_norm, p->x, rows, (int)d);
    struct product qkv = {{&l->q, &l->k, &l->v}, 3};
    give_input(p, &qkv, &l->q, p->x, rows, (int)d);
    qkv.out = OUT_F32, qkv.y = p->qkv, qkv.ldy = stride;
    if ((r = product_run(m, &qkv, err))) return r;
    heads_rows(m, l, n, p->row, rows, p->page, p->qkv, p->q);
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
    if ((r = attend(p, n, q, kept, err))) return r;
    struct product o = {{&l->o}, 1};
    give_input(p, &o, &l->o, p->attended, rows, (int)p->q_size);
    o.out = OUT_ADD, o.y = p->h, o.ldy = d;
    if ((r = product_run(m, &o, err))) return r;
    norm_rows(m, p->h, l->post_norm, p->x, rows, (int)d);
    struct product up = {{&l->gate}, 1, &l->up}, down = {{&l->down}, 1};
    give_input(p, &up, &l->gate, p->x, rows, (int)d);
    up.out = OUT_SILU, up.y = p->wide, up.ldy = l->gate.out;
    if ((r = product_run(m, &up, err))) return r;
    give_input(p, &down, &l->down, p->wide, rows, l->gate.out);
    down.out = OUT_ADD, down.y = p->h, down.ldy = d;
    if ((r = product_run(m, &down, err))) return r;
    if (n + 1 < p->levels) /* what DeepStack owes after this layer */
        add_visual(m, kept ? p->kept_row : p->row, rows, p->visual + (int64_t)(n + 1) * p->b->visual * d, p->h);
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
        float *f = (float *)buffer_get(m, BUFFER_PRODUCT, (size_t)(s->count * d) * 4, err);
        if (!f) return ERR_MEMORY;
        norm_rows_f32(m, p->h + k * d, m->norm, f, s->count, (int)d);
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
            if (!(logits = (float *)buffer_get(m, BUFFER_LOGITS, (size_t)(rows * vocab) * 4, err))) return ERR_MEMORY;
            struct product head = {{&m->head}, 1};
            head.x = p->x + k0 * d, head.ldx = d, head.rows = rows, head.out = OUT_F32, head.y = logits, head.ldy = vocab;
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
    norm_rows(p->m, p->h, p->m->norm, p->x, p->kept, (int)p->hidden);
    int r = read_hidden(p, err);
    for (int k = 0; k < p->kept && !r; k += LOGITS_ROWS) r = finish_chunk(p, k, err);
    return r;
}

static int run_batch(struct backend_model *m, const struct batch *b, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    struct pass p = {m, b};
    p.hidden = t->hidden, p.q_size = (int64_t)t->heads * t->head_dim, p.k_size = (int64_t)t->kv_heads * t->head_dim;
    int r = choose_kept(&p, err);
    if (!r) r = upload(&p, err);
    if (!r) r = reserve(&p, err);
    if (!r) embed_rows(m, p.row, b->rows, p.visual, p.h, NULL, NULL, NULL);
    for (int n = 0; n < t->layers && !r; n++) r = run_layer(&p, n, err);
    if (!r && p.kept) r = finish(&p, err);
    int late = cuda_failed(cudaStreamSynchronize(m->stream), "a forward pass", r ? NULL : err);
    free(p.keep);
    return r ? r : late;
}

int cuda_forward(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    struct batch b;
    struct err local = {};
    if (!err) err = &local;
    cudaSetDevice(m->device);
    int r = batch_make(m, spans, count, &b, err);
    if (r) return r;
    r = copies_wait(m, err);
    if (b.rows && !r) r = step_fit(m, &b) ? step_run(m, &b, err) : run_batch(m, &b, err);
    free(b.row);
    return r;
}
