/* Several cards (emulated ones: EMULATED_DEVICES): layers shared by two answer as on one, pictures and hidden states included; copies on each
 * share the sessions; what cannot be is refused with the numbers. On a machine with one GPU there is nothing to test. */
#include "backend/cuda/cuda.h"
#include "engine/room.h"
#include "engine/spill.h"
#include "golden_session.h"

static const size_t gib = (size_t)1 << 30, mib = (size_t)1 << 20;
static bool emulated;

static void memory_of_device(size_t bytes) {
    char text[32];
    snprintf(text, sizeof text, "%zu", bytes);
    setenv("EMULATED_BYTES", text, 1);
}

static void ask(struct qvl_session *s, struct qvl_result *out) {
    struct err err = {0};
    const struct qvl_generate g = {.sampling.greedy = true, .max_tokens = 6, .no_append = true, .ignore_end = true, .top_logprobs = 3};
    if (qvl_generate(s, &g, out, &err)) fail_msg("%s", err.message);
    assert_int_equal(out->token_count, 6);
}

/* Tokens equal where the likeliest two are apart; log-probabilities near. */
static void same(const char *what, const struct qvl_result *a, const struct qvl_result *b) {
    for (size_t i = 0; i < a->token_count; i++) {
        if (fabsf(a->tokens[i].logprob - b->tokens[i].logprob) > 2e-2f)
            fail_msg("%s: token %zu: log-probability %.5f and %.5f", what, i, (double)a->tokens[i].logprob, (double)b->tokens[i].logprob);
        if (a->tokens[i].id == b->tokens[i].id) continue;
        if (a->tokens[i].top_logprob[0] - a->tokens[i].top_logprob[1] > 2e-2f) fail_msg("%s: token %zu: %d and %d", what, i, a->tokens[i].id, b->tokens[i].id);
        return; /* from here on they answer different texts */
    }
}

/* Pages that one card does not hold beside the model, but two do. */
static void make_tight(const char *name, struct qvl_options *o) {
    struct err err = {0};
    struct qvl_plan plan;
    char folder[200];
    snprintf(folder, sizeof folder, "tests/golden/%s", name);
    o->kv_bytes = 64 * mib;
    if (emulated) {
        memory_of_device(4 * gib);
        if (qvl_plan_load(folder, o, &plan, &err)) fail_msg("%s", err.message);
        memory_of_device(plan.weight_bytes + plan.work_bytes + 40 * mib);
    } else {
        o->kv_bytes = cuda_card_memory_free(0, NULL) / 5 * 6;
    }
}

static void layers_on_two_cards(void **state) {
    (void)state;
    static const struct {
        const char *model, *golden;
    } cases[] = {{"tiny-a", "image"}, {"tiny-b", "boundary"}, {"tiny-fp8", "text"}, {"tiny-nf4", "image"}, {"tiny-c", "image"}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct golden g;
        struct err err = {0};
        struct qvl_result want, got;
        struct qvl_info info;
        float *a, *b;
        int size;
        golden_open(&g, cases[k].model, cases[k].golden);
        struct qvl_options o = {.device = "cuda", .threads = 1, .kv_bytes = 64 * mib};
        memory_of_device(4 * gib);
        struct qvl_model *one = golden_model(cases[k].model, &o);
        struct qvl_session *s = golden_session(one, &g);
        ask(s, &want);
        if (qvl_embed(s, QVL_EMBED_LAST, &a, &size, &err)) fail_msg("%s", err.message);
        qvl_session_free(s);
        qvl_unload(one);

        make_tight(cases[k].model, &o);
        char folder[200];
        struct qvl_plan plan;
        snprintf(folder, sizeof folder, "tests/golden/%s", cases[k].model);
        assert_int_equal(qvl_plan_load(folder, &o, &plan, &err), ERR_LIMIT); /* one is not enough */
        o.device_map = "auto";
        struct qvl_model *two = golden_model(cases[k].model, &o);
        qvl_model_info(two, &info);
        assert_non_null(strstr(info.kernels, "x 2 cards"));
        s = golden_session(two, &g);
        for (int round = 0; round < 2; round++) { /* the second time from the prompt cache, by copied pages */
            ask(s, &got);
            same(cases[k].model, &want, &got);
            assert_true(round == 0 || got.cached_tokens == got.prompt_tokens - 1);
            qvl_result_free(&got);
        }
        if (qvl_embed(s, QVL_EMBED_LAST, &b, &size, &err)) fail_msg("%s", err.message);
        for (int i = 0; i < size; i++) assert_true(fabsf(a[i] - b[i]) < 0.05f * (1 + fabsf(a[i])));
        free(a);
        free(b);
        qvl_result_free(&want);
        qvl_session_free(s);
        qvl_unload(two);
        golden_close(&g);
    }
    memory_of_device(4 * gib);
    for (int i = 0; i < 2 && emulated; i++) assert_int_equal(cuda_card_memory_free(i, NULL), 4 * gib); /* all of it came back */
}

/* Pages of both cards go to host memory and come back. */
static void pages_of_two_cards(void **state) {
    (void)state;
    struct golden g;
    struct qvl_result want, got;
    golden_open(&g, "tiny-b", "boundary");
    struct qvl_options o = {.device = "cuda", .threads = 1, .host_bytes = 64 * mib};
    make_tight("tiny-b", &o);
    o.device_map = "auto";
    struct qvl_model *m = golden_model("tiny-b", &o);
    struct qvl_session *s = golden_session(m, &g);
    ask(s, &want);
    spill_wait(m->spill);
    pthread_mutex_lock(&m->lock);
    kv_forget(&m->kv); /* the device's level alone */
    pthread_mutex_unlock(&m->lock);
    ask(s, &got);
    assert_true(got.cached_tokens >= got.prompt_tokens / 32 * 32 - 32 && got.cached_tokens > 0);
    same("restored", &want, &got);
    struct qvl_stats stats;
    qvl_model_stats(m, &stats);
    assert_true(stats.host_hit_tokens > 0);
    qvl_result_free(&want);
    qvl_result_free(&got);
    qvl_session_free(s);
    qvl_unload(m);
    golden_close(&g);
    memory_of_device(4 * gib);
}

static void copies_share_the_sessions(void **state) {
    (void)state;
    enum { MANY = 6 };
    struct golden g;
    struct err err = {0}, errors[MANY];
    struct qvl_result want, got[MANY];
    struct qvl_session *s[MANY], *fork;
    struct qvl_generate q[MANY];
    struct qvl_stats stats;
    golden_open(&g, "tiny-a", "image");
    struct qvl_options o = {.device = "cuda", .threads = 1, .kv_bytes = 16 * mib, .replicas = 2};
    struct qvl_model *m = golden_model("tiny-a", &o);
    int on_second = 0;
    for (int i = 0; i < MANY; i++) {
        s[i] = golden_session(m, &g);
        on_second += session_model(s[i]) != m;
        q[i] = (struct qvl_generate){.sampling.greedy = true, .max_tokens = 6, .no_append = true, .ignore_end = true, .top_logprobs = 3};
    }
    assert_int_equal(on_second, MANY / 2);
    assert_int_equal(qvl_session_fork(s[1], &fork, &err), 0);
    assert_ptr_equal(session_model(fork), session_model(s[1]));
    qvl_session_free(fork);
    ask(s[0], &want);
    if (qvl_generate_many(s, q, got, errors, MANY)) fail_msg("%s", errors[0].message);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(got[i].token_count, 6);
        same("a copy", &want, &got[i]);
        qvl_result_free(&got[i]);
    }
    qvl_model_stats(m, &stats);
    assert_int_equal(stats.sessions, MANY);
    assert_int_equal(stats.images_encoded, 2); /* once on each */
    qvl_model_forget(m);
    qvl_model_stats(m, &stats);
    assert_int_equal(stats.pages_used, 0);
    /* One that fails leaves those of the other card alone. */
    q[1].json_schema = "{\"type\":\"nonsense\"}";
    assert_true(qvl_generate_many(s, q, got, errors, MANY) != 0);
    for (int i = 0; i < MANY; i++) {
        assert_true((errors[i].code != 0) == (i == 1));
        qvl_result_free(&got[i]);
    }
    for (int i = 0; i < MANY; i++) qvl_session_free(s[i]);
    qvl_result_free(&want);
    qvl_unload(m);
    golden_close(&g);
}

static void refusals(void **state) {
    (void)state;
    struct err err = {0};
    struct qvl_model *m;
    const int cards = cuda_cards();
    struct qvl_options o = {.device = "cuda", .kv_bytes = 16 * mib, .replicas = cards + 1};
    assert_int_equal(qvl_load("tests/golden/tiny-a", &o, &m, &err), ERR_ARGUMENT);
    assert_null(m);
    assert_non_null(strstr(err.message, "a CUDA device of its own"));
    o.device = "cpu", o.replicas = 2;
    assert_int_equal(qvl_load("tests/golden/tiny-a", &o, &m, &err), ERR_ARGUMENT);
    o = (struct qvl_options){.device = "cuda", .kv_bytes = 16 * mib, .device_map = "both"};
    assert_int_equal(qvl_load("tests/golden/tiny-a", &o, &m, &err), ERR_ARGUMENT);
    o = (struct qvl_options){.device = "cuda", .kv_bytes = 16 * mib, .card = cards};
    assert_true(qvl_load("tests/golden/tiny-a", &o, &m, &err) != 0);
    if (!emulated) return;
    o = (struct qvl_options){.device = "cuda", .kv_bytes = 16 * gib, .device_map = "auto"};
    assert_int_equal(qvl_load("tests/golden/tiny-a", &o, &m, &err), ERR_LIMIT); /* not even together */
    assert_non_null(strstr(err.message, "not enough memory on the device"));
}

int main(void) {
    size_t total = 0;
    setenv("EMULATED_DEVICES", "2", 1);
    memory_of_device(4 * gib);
    cuda_memory_free(&total);
    emulated = total == 4 * gib;
    if (cuda_cards() < 2) return printf("one card: nothing to test\n"), 0;
    const struct CMUnitTest tests[] = {cmocka_unit_test(layers_on_two_cards), cmocka_unit_test(pages_of_two_cards),
                                       cmocka_unit_test(copies_share_the_sessions), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
