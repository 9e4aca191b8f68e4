/* The CPU backend against Hugging Face transformers, stage by stage, on the small checkpoints of tests/golden: fp32 products
 * within 1e-4 of the reference's fp32 run; bf16 products no further from it than the reference's own bf16 run. */
#include "backend/cpu/model.h"
#include "golden.h"

static const char *const models[] = {"tiny-a", "tiny-b", "tiny-c", "tiny-fp8", "tiny-nf4", "tiny-nf4-plain"};
static const char *const cases[] = {"text", "image", "images", "boundary", "video"};

struct bench {
    const struct golden *g;
    double limit, worst;
    char worst_stage[64];
    int compared;
    int64_t vision_row; /* patches of earlier images */
    bool vision;
};

static void compare_stage(void *user, const char *stage, const float *values, int64_t rows, int64_t cols) {
    struct bench *b = user;
    char last[32];
    if (!strcmp(stage, "text.layer.last")) { /* only when all rows were kept */
        int n = -1;
        do snprintf(last, sizeof last, "text.layer.%d", ++n);
        while (golden_find(b->g, last));
        snprintf(last, sizeof last, "text.layer.%d", n - 1);
        stage = last;
    }
    const struct tensor *t = golden_find(b->g, stage);
    if (!t) return;
    assert_int_equal(t->shape[1], cols);
    int64_t from = 0;
    if (!strncmp(stage, "vision.", 7)) { /* the reference computes all images of a prompt at once */
        bool merged = !strcmp(stage, "vision.merger") || !strncmp(stage, "vision.deepstack", 16);
        from = merged ? b->vision_row / 4 : b->vision_row;
    } else if (t->shape[0] < rows) {
        values += (rows - t->shape[0]) * cols;
        rows = t->shape[0];
    }
    assert_true(from + rows <= t->shape[0]);
    double d = relative_distance(values, (const float *)t->data + from * cols, (size_t)(rows * cols));
    b->compared++;
    if (!(d <= b->worst)) {
        b->worst = d;
        snprintf(b->worst_stage, sizeof b->worst_stage, "%s", stage);
    }
    if (!(d <= b->limit)) fail_msg("%s %s: distance %.3g, expected at most %.3g", b->g->path, stage, d, b->limit);
}

/* Encodes every image of the case from the golden's pixels. Returns features of all, rows in prompt order. */
static int encode_all(struct backend_model *m, const struct golden *g, struct bench *b, struct vision_features *f) {
    const struct tensor *grid = golden_find(g, "grid");
    if (!grid) return 0;
    const struct tensor *pixels = golden_need(g, "pixels");
    const int32_t *thw = grid->data;
    int64_t row = 0;
    for (int i = 0; i < grid->shape[0]; i++, thw += 3) {
        struct patches p = {.grid_t = thw[0], .grid_h = thw[1], .grid_w = thw[2], .count = (int64_t)thw[0] * thw[1] * thw[2],
                            .width = pixels->shape[1]};
        p.values = malloc((size_t)(p.count * p.width) * sizeof *p.values);
        const uint8_t *from = (const uint8_t *)pixels->data + row * p.width;
        for (int64_t k = 0; k < p.count * p.width; k++) p.values[k] = ((float)from[k] - 127.5f) / 127.5f;
        struct err err = {0};
        b->vision_row = row;
        int r = backend_cpu.encode_image(m, &p, &f[i], &err);
        free(p.values);
        if (r) fail_msg("%s", err.message);
        row += p.count;
    }
    return (int)grid->shape[0];
}

struct prompt {
    int n, levels;
    const int32_t *ids, *positions;
    int32_t *visual_row;
    float *visual;             /* (levels, tokens, hidden) of all images */
    const float *level[1 + CONFIG_MAX_DEEPSTACK];
};

static void make_prompt(struct backend_model *m, const struct golden *g, const struct vision_features *f, int images,
                        struct prompt *p) {
    const struct tensor *ids = golden_need(g, "input_ids");
    p->n = (int)ids->shape[0];
    p->ids = ids->data;
    p->positions = golden_need(g, "positions")->data;
    p->visual_row = malloc((size_t)p->n * sizeof(int32_t));
    int64_t tokens = 0, hidden = m->w.config.text.hidden;
    for (int i = 0; i < images; i++) tokens += f[i].tokens;
    p->levels = 1 + m->w.config.vision.deepstack_count;
    p->visual = malloc((size_t)(tokens * p->levels * hidden + 1) * sizeof(float));
    for (int l = 0; l < p->levels; l++) {
        float *to = p->visual + l * tokens * hidden;
        p->level[l] = to;
        for (int i = 0; i < images; i++) {
            memcpy(to, f[i].values + l * f[i].tokens * hidden, (size_t)(f[i].tokens * hidden) * sizeof(float));
            to += f[i].tokens * hidden;
        }
    }
    int32_t row = 0;
    for (int i = 0; i < p->n; i++)
        p->visual_row[i] = p->ids[i] == m->w.config.image_token || p->ids[i] == m->w.config.video_token ? row++ : -1;
    assert_int_equal(row, tokens);
}

/* Runs the prompt in chunks of `chunk` tokens; logits (n, vocab). */
static void run_prompt(struct backend_model *m, const struct prompt *p, int chunk, float *logits) {
    int pages = (p->n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    int32_t page[64];
    int rows[2048];
    assert_true(pages <= 64 && p->n <= 2048);
    for (int i = 0; i < pages; i++) assert_true((page[i] = backend_cpu.page_alloc(m)) >= 0);
    for (int at = 0; at < p->n; at += chunk) {
        int count = p->n - at < chunk ? p->n - at : chunk;
        for (int i = 0; i < count; i++) rows[i] = i;
        struct span s = {.ids = p->ids + at, .count = count, .first = at, .positions = p->positions + 3 * at, .pages = page,
                         .page_count = pages, .visual_row = p->visual_row + at, .visual_levels = p->level, .levels = p->levels,
                         .logits_rows = rows, .logits_count = count, .logits = logits + (int64_t)at * m->w.config.text.vocab};
        struct err err = {0};
        if (backend_cpu.forward(m, &s, 1, &err)) fail_msg("%s", err.message);
    }
    for (int i = 0; i < pages; i++) backend_cpu.page_free(m, page[i]);
}

static void check_case(const char *model, const char *name, bool f32, const char *cpu) {
    char path[200];
    snprintf(path, sizeof path, "tests/golden/%s/cases/%s.json", model, name);
    if (!file_exists(path)) return;
    struct golden g;
    golden_open(&g, model, name);
    snprintf(path, sizeof path, "tests/golden/%s", model);
    struct checkpoint *c;
    struct backend_model *m;
    struct err err = {0};
    if (checkpoint_open(path, &c, &err)) fail_msg("%s", err.message);
    struct backend_options o = {.threads = 2, .f32 = f32, .cpu_limit = cpu, .kv_bytes = 64 << 20};
    if (backend_cpu.load(c, &o, &m, &err)) fail_msg("%s", err.message);

    struct bench b = {.g = &g, .limit = f32 ? 1e-4 : 1.0};
    struct vision_features f[8];
    m->tap = compare_stage;
    m->tap_user = &b;
    int images = encode_all(m, &g, &b, f);
    struct prompt p;
    make_prompt(m, &g, f, images, &p);
    int64_t vocab = m->w.config.text.vocab;
    float *logits = malloc((size_t)(p.n * vocab) * sizeof *logits), *again = malloc((size_t)(p.n * vocab) * sizeof *again);
    run_prompt(m, &p, p.n, logits);
    const struct tensor *want = golden_need(&g, "logits"), *bf16 = golden_need(&g, "logits_bf16");
    assert_int_equal(want->shape[1], vocab);
    const float *tail = logits + (p.n - want->shape[0]) * vocab;
    size_t n = (size_t)(want->shape[0] * vocab);
    double d = relative_distance(tail, want->data, n), noise = relative_distance(bf16->data, want->data, n);
    fprintf(stderr, "  %-15s %-9s %-10s %s logits %.2e, worst stage %-18s %.2e (%d stages); reference's bf16 %.2e\n", model, name,
            m->ops->name, f32 ? "fp32" : "bf16", d, b.worst_stage, b.worst, b.compared, noise);
    assert_true(b.compared > 0);
    assert_true(d <= (f32 ? 1e-4 : noise));

    /* The cut must not matter, to the last bit. */
    m->tap = NULL;
    int cuts[] = {1, 17, 32, 512};
    for (int i = p.n > 200 ? 1 : 0; i < 4; i++) {
        run_prompt(m, &p, cuts[i], again);
        if (memcmp(logits, again, (size_t)(p.n * vocab) * sizeof *logits))
            fail_msg("%s %s (%s): logits differ when the prompt is cut every %d tokens", model, name, m->ops->name, cuts[i]);
    }
    free(logits);
    free(again);
    free(p.visual_row);
    free(p.visual);
    for (int i = 0; i < images; i++) vision_features_free(&f[i]);
    backend_cpu.unload(m);
    checkpoint_close(c);
    golden_close(&g);
}

static void check_all(bool f32, const char *cpu) {
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (size_t j = 0; j < sizeof cases / sizeof *cases; j++) check_case(models[i], cases[j], f32, cpu);
}

/* FP8 with quantised activations. Everything else exact: equal to the twin but for the rare value that fp32 noise moves across a
 * rounding boundary of e4m3. With bf16 elsewhere such moves are common, so only the size of the difference is checked. */
static void check_e4m3(const char *name, const char *cpu, bool f32) {
    struct golden g;
    struct checkpoint *c;
    struct backend_model *m;
    struct err err = {0};
    struct vision_features f[8];
    struct prompt p;
    golden_open(&g, "tiny-fp8", name);
    if (checkpoint_open("tests/golden/tiny-fp8", &c, &err)) fail_msg("%s", err.message);
    struct backend_options o = {.threads = 2, .f32 = f32, .fp8_e4m3_activations = true, .cpu_limit = cpu, .kv_bytes = 64 << 20};
    if (backend_cpu.load(c, &o, &m, &err)) fail_msg("%s", err.message);
    struct bench b = {.g = &g, .limit = 1};
    int images = encode_all(m, &g, &b, f);
    make_prompt(m, &g, f, images, &p);
    const struct tensor *twin = golden_need(&g, "logits_e4m3"), *plain = golden_need(&g, "logits");
    size_t n = (size_t)(twin->shape[0] * twin->shape[1]);
    float *logits = malloc(n * sizeof *logits), *again = malloc(n * sizeof *again);
    run_prompt(m, &p, p.n, logits);
    run_prompt(m, &p, 7, again);
    assert_memory_equal(logits, again, n * sizeof *logits);
    double ours = relative_distance(logits, twin->data, n), effect = relative_distance(plain->data, twin->data, n);
    fprintf(stderr, "  tiny-fp8 %-6s %-10s e4m3 activations, else %s: logits %.2e from the twin; quantising moves them %.2e\n",
            name, m->ops->name, f32 ? "fp32" : "bf16", ours, effect);
    assert_true(ours < (f32 ? 1e-4 : 1.5 * effect));
    free(logits);
    free(again);
    free(p.visual_row);
    free(p.visual);
    for (int i = 0; i < images; i++) vision_features_free(&f[i]);
    backend_cpu.unload(m);
    checkpoint_close(c);
    golden_close(&g);
}
static void fp8_activations(void **state) {
    (void)state;
    static const char *const sets[] = {"c", "avx2", "avx512", NULL};
    for (int i = 0; i < 8; i++) {
        check_e4m3("text", sets[i / 2], i % 2 == 0);
        check_e4m3("image", sets[i / 2], i % 2 == 0);
    }
}

/* A page carried out and in again, or copied, holds the same. */
static void pages(void **state) {
    (void)state;
    struct checkpoint *c;
    struct backend_model *m;
    struct err err = {0};
    if (checkpoint_open("tests/golden/tiny-c", &c, &err)) fail_msg("%s", err.message);
    struct backend_options o = {.threads = 1, .kv_bytes = 1 << 20};
    if (backend_cpu.load(c, &o, &m, &err)) fail_msg("%s", err.message);
    size_t n = backend_cpu.page_bytes(m);
    assert_int_equal(n, 2 * 2 * 128 * 32 * 2 * 2); /* layers, k and v, head_dim, tokens, kv heads, bf16 */
    uint8_t *in = malloc(n), *out = malloc(n);
    for (size_t i = 0; i < n; i++) in[i] = (uint8_t)(i * 7 + (i >> 8));
    int32_t a = backend_cpu.page_alloc(m), b = backend_cpu.page_alloc(m);
    assert_int_equal(backend_cpu.page_import(m, a, in, &err), 0);
    assert_int_equal(backend_cpu.page_copy(m, b, a, KV_PAGE_TOKENS, &err), 0);
    backend_cpu.page_free(m, a);
    assert_int_equal(backend_cpu.page_export(m, b, out, &err), 0);
    assert_memory_equal(in, out, n);
    assert_int_equal(backend_cpu.page_export(m, 1000, out, &err), ERR_ARGUMENT);
    int32_t taken = 1;
    while (backend_cpu.page_alloc(m) >= 0) taken++;
    assert_int_equal(taken, (1 << 20) / n);
    free(in);
    free(out);
    backend_cpu.unload(m);
    checkpoint_close(c);
}

static void fp32_reference(void **state) { (void)state; check_all(true, "c"); }
static void bf16_reference(void **state) { (void)state; check_all(false, "c"); }
static void fp32_best(void **state) { (void)state; check_all(true, NULL); }
static void bf16_best(void **state) { (void)state; check_all(false, NULL); }
static void bf16_avx2(void **state) { (void)state; check_all(false, "avx2"); }
static void bf16_avx512(void **state) { (void)state; check_all(false, "avx512"); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp32_reference),  cmocka_unit_test(bf16_reference), cmocka_unit_test(fp32_best),
        cmocka_unit_test(bf16_best),       cmocka_unit_test(bf16_avx2),      cmocka_unit_test(bf16_avx512),
        cmocka_unit_test(fp8_activations), cmocka_unit_test(pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
