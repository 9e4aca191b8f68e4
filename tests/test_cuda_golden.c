/* The CUDA backend against Hugging Face transformers on the small checkpoints of tests/golden: no further from the reference's fp32 run
 * than the reference's own bf16 run, however the prompt is cut. Runs on a GPU, or under tests/cuda_emulation. */
#include "backend/cuda/cuda.h"
#include "golden_prompt.h"

static const char *const models[] = {"tiny-a", "tiny-b", "tiny-c", "tiny-fp8", "tiny-nf4", "tiny-nf4-plain"};
static const char *const cases[] = {"text", "image", "images", "boundary", "video"};

static bool emulated(void) {
    struct checkpoint *c;
    struct backend_model *m;
    struct backend_info info;
    struct err err = {0};
    struct backend_options o = {.kv_bytes = 1 << 20};
    if (checkpoint_open("tests/golden/tiny-a", &c, &err) || backend_cuda.load(c, &o, &m, &err)) fail_msg("%s", err.message);
    backend_cuda.describe(m, &info);
    bool yes = strstr(info.kernels, "emulated") != NULL;
    backend_cuda.unload(m);
    checkpoint_close(c);
    return yes;
}

static void check_case(const char *model, const char *name) {
    char path[200];
    /* Emulated, the long prompts take minutes: one model, with the head size of the real ones, stands for all. */
    if (emulated() && !slow_tests() && (!strcmp(name, "boundary") || !strcmp(name, "video")) && strcmp(model, "tiny-c")) return;
    snprintf(path, sizeof path, "tests/golden/%s/cases/%s.json", model, name);
    if (!file_exists(path)) return;
    struct prompt_case x;
    struct backend_options o = {.kv_bytes = 64 << 20};
    prompt_case_open(&x, &backend_cuda, model, name, &o);
    fprintf(stderr, "  %-15s %-9s reference's bf16 %.2e; ours cut every", model, name, x.noise);
    int cuts[] = {x.p.n, 17, 32, 1};
    for (int i = 0; i < (x.p.n > 60 ? 2 : 4); i++) {
        double d = prompt_case_distance(&x, cuts[i]);
        fprintf(stderr, " %d: %.2e", cuts[i], d);
        if (!(d <= x.noise)) fail_msg("%s %s cut every %d tokens: logits %.3g from the reference, its own bf16 run %.3g", model, name, cuts[i], d, x.noise);
    }
    fprintf(stderr, "\n");
    prompt_case_close(&x);
}

static void goldens(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (size_t j = 0; j < sizeof cases / sizeof *cases; j++) check_case(models[i], cases[j]);
}

/* FP8 with quantised activations: rounding moves values across e4m3's boundaries, so only the size of the difference is checked. */
static void fp8_activations(void **state) {
    (void)state;
    static const char *const names[] = {"text", "image"};
    for (int i = 0; i < 2; i++) {
        struct prompt_case x;
        struct backend_options o = {.kv_bytes = 64 << 20, .fp8_e4m3_activations = true};
        prompt_case_open(&x, &backend_cuda, "tiny-fp8", names[i], &o);
        const struct tensor *twin = golden_need(&x.g, "logits_e4m3");
        size_t n = (size_t)(twin->shape[0] * twin->shape[1]);
        assert_int_equal(n, x.p.n * x.vocab);
        prompt_run(&backend_cuda, x.m, (int)x.vocab, &x.p, x.p.n, x.logits);
        double ours = relative_distance(x.logits, twin->data, n), effect = relative_distance(x.want->data, twin->data, n);
        fprintf(stderr, "  tiny-fp8 %-6s e4m3 activations: logits %.2e from the twin; quantising moves them %.2e\n", names[i], ours, effect);
        assert_true(ours < 1.5 * effect);
        prompt_case_close(&x);
    }
}

/* A page carried out and in again, or copied, holds the same. */
static void pages(void **state) {
    (void)state;
    struct checkpoint *c;
    struct backend_model *m;
    struct err err = {0};
    if (checkpoint_open("tests/golden/tiny-c", &c, &err)) fail_msg("%s", err.message);
    struct backend_options o = {.kv_bytes = 1 << 20};
    if (backend_cuda.load(c, &o, &m, &err)) fail_msg("%s", err.message);
    size_t n = backend_cuda.page_bytes(m);
    assert_int_equal(n, 2 * 2 * 128 * 32 * 2 * 2); /* layers, k and v, head_dim, tokens, kv heads, bf16 */
    uint8_t *in = malloc(n), *out = malloc(n);
    for (size_t i = 0; i < n; i++) in[i] = (uint8_t)(i * 7 + (i >> 8));
    int32_t a = backend_cuda.page_alloc(m), b = backend_cuda.page_alloc(m), d = backend_cuda.page_alloc(m);
    assert_int_equal(backend_cuda.page_import(m, a, in, &err), 0);
    assert_int_equal(backend_cuda.page_copy(m, b, a, BACKEND_PAGE_TOKENS, &err), 0);
    assert_int_equal(backend_cuda.page_export(m, b, out, &err), 0);
    assert_memory_equal(in, out, n);
    memset(out, 0, n);
    assert_int_equal(backend_cuda.page_import(m, d, out, &err), 0);
    assert_int_equal(backend_cuda.page_copy(m, d, a, 5, &err), 0);
    assert_int_equal(backend_cuda.page_export(m, d, out, &err), 0);
    for (size_t head = 0; head < 8; head++)
        for (size_t i = 0; i < n / 8; i++) assert_int_equal(out[head * (n / 8) + i], i < 5 * 256 ? in[head * (n / 8) + i] : 0);
    assert_int_equal(backend_cuda.page_export(m, 1000, out, &err), ERR_ARGUMENT);
    int32_t taken = 3;
    while (backend_cuda.page_alloc(m) >= 0) taken++;
    assert_int_equal(taken, (1 << 20) / n);
    backend_cuda.page_free(m, b);
    assert_int_equal(backend_cuda.page_alloc(m), b);
    free(in);
    free(out);
    backend_cuda.unload(m);
    checkpoint_close(c);
}

static void refusals(void **state) {
    (void)state;
    struct checkpoint *c;
    struct backend_model *m;
    struct err err = {0};
    if (checkpoint_open("tests/golden/tiny-a", &c, &err)) fail_msg("%s", err.message);
    struct backend_options o = {.kv_bytes = 1 << 20, .f32 = true};
    assert_int_equal(backend_cuda.load(c, &o, &m, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "f32"));
    o.f32 = false, o.kv_bytes = (size_t)1 << 50;
    if (emulated()) assert_int_equal(backend_cuda.load(c, &o, &m, &err), ERR_MEMORY); /* a large card has room for as many pages as there may be */
    o.kv_bytes = 100;
    assert_int_equal(backend_cuda.load(c, &o, &m, &err), ERR_LIMIT);
    o.kv_bytes = 1 << 20;
    if (backend_cuda.load(c, &o, &m, &err)) fail_msg("%s", err.message);
    int32_t id = 1 << 20, position[3] = {0}, page = 0;
    struct span s = {.ids = &id, .count = 1, .positions = position, .pages = &page, .page_count = 1};
    assert_int_equal(backend_cuda.forward(m, &s, 1, &err), ERR_ARGUMENT); /* no such page */
    page = backend_cuda.page_alloc(m);
    assert_int_equal(backend_cuda.forward(m, &s, 1, &err), ERR_ARGUMENT); /* no such token */
    id = 1, s.page_count = 0;
    assert_int_equal(backend_cuda.forward(m, &s, 1, &err), ERR_ARGUMENT);
    struct patches p = {.grid_t = 1, .grid_h = 3, .grid_w = 2, .count = 6};
    struct vision_features f;
    assert_int_equal(backend_cuda.encode_image(m, &p, &f, &err), ERR_ARGUMENT);
    backend_cuda.unload(m);
    checkpoint_close(c);
}

int main(void) {
    struct err err = {0};
    if (!cuda_available(&err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(goldens), cmocka_unit_test(fp8_activations), cmocka_unit_test(pages), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
