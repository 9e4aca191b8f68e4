/* A decode step: up to 64 rows of any sequences as one CUDA graph, captured once for each number of rows.
 *
 * Up to 8 rows on Hopper: persist.cu instead. Six kernels a layer: q, k, v; heads (norm, rotation, keys and values to the pages); attention; o; gate and up; down. The norms are left
 * to the products (room.h). Each kernel may start its prologue, which asks for its weights, while the one in front still runs. What
 * changes from step to step (rows, pages, items of attention) is uploaded in front of the graph by one copy. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/persist.h"
#include "backend/cuda/pick_job.h"

enum { STEP_FEW = 8 }; /* up to so many rows the products want activations row by row */

struct step {
    struct backend_model *m;
    int rows;
    unsigned parts; /* STEP_...: what is launched */
    int tiled;      /* TILED_...: activations */
    const struct step_head *head;
    const struct drow *row;
    const int32_t *page;
    float *h, *qkv, *logits, *squares[2];
    bf16 *x, *q, *attended, *wide;
};

static void few_or_each(struct backend_model *m, const struct product *p, unsigned run, bool *fit) {
    if (few_rows_fit(p)) {
        if (run) few_rows_run(m, p);
        return;
    }
    struct product one = *p;
    one.count = 1;
    for (int i = 0; i < p->count; one.y = (float *)one.y + p->w[i++]->out) { /* q, k and v may be stored in different ways */
        one.w[0] = p->w[i];
        if (p->count == 1 || !few_rows_fit(&one)) *fit = false;
        else if (run) few_rows_run(m, &one);
    }
}

/* Launches the kernels of the step; with no parts only asks whether there is one for each product. */
static bool step_launch(const struct step *s) {
    struct backend_model *m = s->m;
    const struct text_config *t = &m->w.config.text;
    int64_t d = t->hidden, q = (int64_t)t->heads * t->head_dim, k = (int64_t)t->kv_heads * t->head_dim;
    int rows = s->rows, squares = 1;
    bool fit = true;
    int tiled = s->tiled;
    unsigned run = s->parts;
    if (run & STEP_EMBED) embed_rows(m, s->row, rows, NULL, s->h, m->layers[0].input_norm, s->x, s->squares[0], tiled);
    for (int n = 0; n < t->layers; n++) {
        const struct dlayer *l = &m->layers[n];
        struct product qkv = {{&l->q, &l->k, &l->v}, 3};
        qkv.x = s->x, qkv.ldx = d, qkv.rows = rows, qkv.out = OUT_F32, qkv.y = s->qkv, qkv.ldy = q + 2 * k;
        qkv.squares = s->squares[0], qkv.squares_count = squares, qkv.norm_n = (int)d, qkv.tiled = tiled;
        few_or_each(m, &qkv, run & STEP_QKV, &fit);
        if (run & STEP_HEADS) heads_rows(m, l, n, s->row, rows, s->page, s->qkv, s->q);
        if (run & STEP_ATTEND) attend_items(m, n, s->head, s->q, s->attended, tiled);
        struct product o = {{&l->o}, 1};
        o.x = s->attended, o.ldx = q, o.rows = rows, o.out = OUT_ADD, o.y = s->h, o.ldy = d;
        o.next_weight = l->post_norm, o.next_x = s->x, o.next_squares = s->squares[1], o.tiled = tiled;
        few_or_each(m, &o, run & STEP_O, &fit);
        struct product up = {{&l->gate}, 1, &l->up};
        up.x = s->x, up.ldx = d, up.rows = rows, up.out = OUT_SILU, up.y = s->wide, up.ldy = l->gate.out;
        up.squares = s->squares[1], up.squares_count = product_squares(&o), up.norm_n = (int)d, up.tiled = tiled;
        few_or_each(m, &up, run & STEP_UP, &fit);
        struct product down = {{&l->down}, 1};
        down.x = s->wide, down.ldx = l->gate.out, down.rows = rows, down.out = OUT_ADD, down.y = s->h, down.ldy = d;
        down.next_weight = n + 1 < t->layers ? m->layers[n + 1].input_norm : m->norm, down.next_x = s->x, down.next_squares = s->squares[0], down.tiled = tiled;
        few_or_each(m, &down, run & STEP_DOWN, &fit);
        squares = product_squares(&down);
    }
    struct product head = {{&m->head}, 1};
    head.x = s->x, head.ldx = d, head.rows = rows, head.out = OUT_F32, head.y = s->logits, head.ldy = t->vocab;
    head.squares = s->squares[0], head.squares_count = squares, head.norm_n = (int)d, head.tiled = tiled;
    few_or_each(m, &head, run & STEP_HEAD, &fit);
    return fit;
}

bool step_products_fit(const struct backend_model *m, int tiled) {
    struct step s = {(struct backend_model *)m};
    s.tiled = tiled;
    if (!attend_few_fit(m) || (tiled && m->arch != 90)) return false;
    for (s.rows = tiled ? FEW_ROWS : 1; s.rows <= FEW_ROWS; s.rows += FEW_ROWS - 1)
        if (!step_launch(&s)) return false;
    return true;
}

bool step_fit(const struct backend_model *m, const struct batch *b) {
    if (!m->few_fit || b->rows > FEW_ROWS || b->visual) return false;
    for (int i = 0; i < b->count; i++)
        if (b->spans[i].hidden) return false;
    return true;
}

void graphs_drop(struct backend_model *m) {
    tower_graphs_drop(m);
    for (int i = 0; i <= FEW_ROWS; i++)
        for (int s = 0; s < 2; s++) {
            if (m->graphs[i][s]) cudaGraphExecDestroy(m->graphs[i][s]);
            m->graphs[i][s] = NULL;
        }
}

static int reserve(struct step *s, size_t upload, struct err *err) {
    struct backend_model *m = s->m;
    const struct text_config *t = &m->w.config.text;
    size_t d = (size_t)t->hidden, q = (size_t)(t->heads * t->head_dim), k = (size_t)(t->kv_heads * t->head_dim), rows = FEW_ROWS; /* the most: addresses stay */
    char *step = (char *)buffer_get(m, BUFFER_STEP, upload < 256 << 10 ? 256 << 10 : upload, err);
    s->h = (float *)buffer_get(m, BUFFER_HIDDEN, rows * d * 4, err);
    s->x = (bf16 *)buffer_get(m, BUFFER_NORMED, rows * d * 2, err);
    s->qkv = (float *)buffer_get(m, BUFFER_QKV, rows * (q + 2 * k) * 4, err);
    s->q = (bf16 *)buffer_get(m, BUFFER_QUERIES, rows * q * 2, err);
    s->attended = (bf16 *)buffer_get(m, BUFFER_ATTENDED, rows * q * 2, err);
    s->wide = (bf16 *)buffer_get(m, BUFFER_WIDE, rows * (size_t)t->intermediate * 2, err);
    s->logits = (float *)buffer_get(m, BUFFER_LOGITS, rows * (size_t)t->vocab * 4, err);
    s->squares[0] = (float *)buffer_get(m, BUFFER_PARTIAL, rows * MOST_SQUARES * 8, err);
    if (!step || !s->h || !s->x || !s->qkv || !s->q || !s->attended || !s->wide || !s->logits || !s->squares[0]) return ERR_MEMORY;
    s->squares[1] = s->squares[0] + rows * MOST_SQUARES;
    s->head = (const struct step_head *)step, s->row = (const struct drow *)(step + STEP_ROWS_AT), s->page = (const int32_t *)step;
    return 0;
}

static int capture(struct step *s, cudaGraphExec_t *exec, struct err *err) {
    cudaGraph_t graph = NULL;
    int r = cuda_failed(cudaStreamBeginCapture(s->m->stream, cudaStreamCaptureModeThreadLocal), "capturing a step", err);
    if (r) return r;
    step_launch(s);
    r = cuda_failed(cudaStreamEndCapture(s->m->stream, &graph), "capturing a step", err);
    if (!r) r = cuda_failed(cudaGetLastError(), "capturing a step", err);
    if (!r) r = cuda_failed(cudaGraphInstantiate(exec, graph, 0), "a step's graph", err);
    if (graph) cudaGraphDestroy(graph);
    return r;
}

static int read_logits(const struct step *s, const struct batch *b, struct err *err) {
    struct backend_model *m = s->m;
    int64_t vocab = m->w.config.text.vocab;
    int r = 0;
    for (int i = 0, at = 0; i < b->count && !r; at += b->spans[i++].count)
        for (int j = 0; j < b->spans[i].logits_count && !r; j++)
            r = cuda_failed(cudaMemcpyAsync(b->spans[i].logits + j * vocab, s->logits + (at + b->spans[i].logits_rows[j]) * vocab, (size_t)vocab * 4, cudaMemcpyDeviceToHost,
                                            m->stream), "reading logits", err);
    return r;
}

/* Buffers and the upload of what changes. */
static int begin(struct step *s, const struct batch *b, struct err *err) {
    struct backend_model *m = s->m;
    size_t most = step_bytes(b);
    char *host = (char *)pinned_get(m, PINNED_BATCH, most, err);
    if (!host) return ERR_MEMORY;
    m->step_shared = attend_shared(m, b);
    size_t bytes = step_fill(m, b, host);
    int r = reserve(s, most, err);
    return r ? r : cuda_failed(cudaMemcpyAsync((void *)s->head, host, bytes, cudaMemcpyHostToDevice, m->stream), "uploading a step", err);
}

static int run_graph(struct step *s, const struct batch *b, struct err *err) {
    struct backend_model *m = s->m;
    int r = begin(s, b, err);
    cudaGraphExec_t *exec = &m->graphs[b->rows][m->step_shared];
    if (!r && !*exec) r = capture(s, exec, err);
    return r ? r : cuda_failed(cudaGraphLaunch(*exec, m->stream), "a decode step", err);
}

/* Is one row of logits wanted, in memory that the device can write to? Its row; -1: no. That is the first token of a prompt that is all but known. */
static int straight_row(const struct batch *b, float **to) {
    int found = -1;
    for (int i = 0, at = 0; i < b->count; at += b->spans[i++].count) {
        if (!b->spans[i].logits_count) continue;
        if (found >= 0 || b->spans[i].logits_count > 1) return -1;
        found = at + b->spans[i].logits_rows[0], *to = b->spans[i].logits;
    }
    struct cudaPointerAttributes where;
    if (found < 0 || (uintptr_t)*to % 16) return -1;
    if (cudaPointerGetAttributes(&where, *to)) return cudaGetLastError(), -1;
    return where.type == cudaMemoryTypeHost && where.devicePointer == *to ? found : -1;
}

int step_run(struct backend_model *m, const struct batch *b, struct err *err) {
    struct step s = {m, b->rows, STEP_ALL, b->rows > STEP_FEW ? m->tiled : TILED_NO};
    int r, straight = -1;
    if (persist_fit(m, b)) {
        float *to = NULL;
        straight = straight_row(b, &to);
        s.logits = (float *)buffer_get(m, BUFFER_LOGITS, (size_t)FEW_ROWS * (size_t)m->w.config.text.vocab * 4, err);
        r = s.logits ? persist_start_to(m, b, s.logits, straight, straight < 0 ? NULL : to, err) : ERR_MEMORY;
        if (s.logits && r) persist_close(m); /* this step tells why; the graph serves from the next one on */
    } else r = run_graph(&s, b, err);
    if (!r && straight < 0) r = read_logits(&s, b, err);
    struct pick_place picks[FEW_ROWS];
    int count = 0, at = 0;
    for (int i = 0; i < b->count; at += b->spans[i++].count)
        for (int k = 0; k < b->spans[i].pick_count; k++) picks[count++] = (struct pick_place){&b->spans[i].picks[k], &b->spans[i].picked[k], at + b->spans[i].picks[k].row};
    if (!r && count) return picks_run_behind(m, picks, count, s.logits, straight >= 0, err);
    int late = cuda_failed(cudaStreamSynchronize(m->stream), "a decode step", r ? NULL : err);
    return r ? r : late;
}

int step_time(struct backend_model *m, const struct batch *b, unsigned parts, int repeats, float *ms, struct err *err) {
    struct step s = {m, b->rows, parts, b->rows > STEP_FEW ? m->tiled : TILED_NO};
    cudaGraphExec_t exec = NULL;
    cudaEvent_t from = NULL, to = NULL;
    int r = begin(&s, b, err);
    if (!r) r = capture(&s, &exec, err);
    if (!r) r = cuda_failed(cudaEventCreate(&from), "an event", err);
    if (!r) r = cuda_failed(cudaEventCreate(&to), "an event", err);
    for (int i = -2; i < repeats && !r; i++) { /* two to warm up */
        if (i == 0) cudaEventRecord(from, m->stream);
        r = cuda_failed(cudaGraphLaunch(exec, m->stream), "a decode step", err);
    }
    if (!r) r = cuda_failed(cudaEventRecord(to, m->stream), "an event", err);
    int late = cuda_failed(cudaStreamSynchronize(m->stream), "a decode step", r ? NULL : err);
    if (!r && !late) r = cuda_failed(cudaEventElapsedTime(ms, from, to), "an event", err);
    *ms /= (float)repeats;
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    if (exec) cudaGraphExecDestroy(exec);
    return r ? r : late;
}
