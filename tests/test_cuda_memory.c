/* The device's memory: the plan for every checkpoint of the Hub on a card of 80 GB, beside other processes, one request too large, and
 * a pool whose models do not fit side by side. Sizes are those of the emulated device (EMULATED_BYTES); on a GPU only what holds there
 * too is asked. */
#include "backend/cuda/cuda.h"
#include "bench/random_checkpoint.h"
#include "engine/model_pool.h"
#include "engine/room.h"
#include "golden_session.h"

static bool emulated;

static void memory_of_device(size_t bytes) {
    char text[32];
    snprintf(text, sizeof text, "%zu", bytes);
    setenv("EMULATED_BYTES", text, 1);
}

static const size_t gib = (size_t)1 << 30, mib = (size_t)1 << 20, tokens_most = 262144;

/* 80 GB are 79.6 GiB to the driver, of which a context takes half a GiB. */
static void whole_context_on_80_gb(void **state) {
    (void)state;
    static const char *const names[] = {"2b-fp8", "2b-nf4", "4b-nf4", "8b-nf4", "2b-bf16", "4b-bf16", "8b-bf16"};
    if (!emulated) skip();
    memory_of_device(79 * gib);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char folder[] = "/tmp/cuda-memory-test-XXXXXX";
        const struct known_model *k = known_model_find(names[i]);
        struct err err = {0};
        struct qvl_plan plan, beside;
        const struct qvl_options o = {.device = "cuda"}, whole = {.device = "cuda", .context = (int64_t)tokens_most};
        assert_non_null(mkdtemp(folder));
        if (random_checkpoint_write(folder, shape_find(k->size), k->format, true, &err)) fail_msg("%s", err.message);
        if (qvl_plan_load(folder, &o, &plan, &err)) fail_msg("%s: %s", names[i], err.message);
        assert_int_equal(plan.context, tokens_most);
        assert_true(plan.kv_bytes >= tokens_most * plan.kv_bytes_per_token);
        assert_true(plan.total_bytes <= plan.available_bytes && plan.total_bytes == plan.weight_bytes + plan.kv_bytes + plan.work_bytes);
        /* Others hold the half of the card: what is left decides, and what cannot be is refused with the numbers. */
        memory_of_device(plan.weight_bytes + plan.work_bytes + 20 * gib);
        if (qvl_plan_load(folder, &o, &beside, &err)) fail_msg("%s: %s", names[i], err.message);
        assert_true(beside.available_bytes == plan.weight_bytes + plan.work_bytes + 20 * gib && beside.total_bytes <= beside.available_bytes);
        assert_true(beside.context >= 100000 && (size_t)beside.context <= 20 * gib / plan.kv_bytes_per_token);
        if (tokens_most * plan.kv_bytes_per_token > 20 * gib) {
            assert_int_equal(qvl_plan_load(folder, &whole, &beside, &err), ERR_LIMIT);
            assert_non_null(strstr(err.message, "not enough memory on the device"));
        }
        memory_of_device(plan.weight_bytes / 2);
        assert_int_equal(qvl_plan_load(folder, &o, &beside, &err), ERR_LIMIT);
        memory_of_device(79 * gib);
        random_checkpoint_remove(folder);
    }
    memory_of_device(4 * gib);
}

/* Passes of prompts get smaller with the card. */
static void passes_follow_the_memory(void **state) {
    (void)state;
    struct err err = {0};
    struct qvl_plan large, small, asked;
    if (!emulated) skip();
    struct qvl_options o = {.device = "cuda", .kv_bytes = 8 * mib};
    memory_of_device(79 * gib);
    if (qvl_plan_load("tests/golden/tiny-a", &o, &large, &err)) fail_msg("%s", err.message);
    memory_of_device(2 * gib);
    if (qvl_plan_load("tests/golden/tiny-a", &o, &small, &err)) fail_msg("%s", err.message);
    assert_true(small.work_bytes <= large.work_bytes);
    o.prefill_rows = 65536;
    memory_of_device(79 * gib);
    if (qvl_plan_load("tests/golden/tiny-a", &o, &asked, &err)) fail_msg("%s", err.message);
    assert_true(asked.work_bytes > large.work_bytes);
    o.prefill_rows = 65537;
    assert_int_equal(qvl_plan_load("tests/golden/tiny-a", &o, &asked, &err), ERR_ARGUMENT);
    memory_of_device(4 * gib);
}

static int ask(struct qvl_model *m, int tokens, struct err *err) {
    struct qvl_session *s;
    struct qvl_result r = {0};
    int32_t *ids = malloc((size_t)tokens * sizeof *ids);
    assert_non_null(ids);
    for (int i = 0; i < tokens; i++) ids[i] = 20 + i * 7 % 200;
    if (qvl_session_new(m, &s, err) || qvl_session_raw_ids(s, ids, (size_t)tokens, err)) fail_msg("%s", err->message);
    const struct qvl_generate g = {.max_tokens = 2, .no_append = true, .ignore_end = true};
    int code = qvl_generate(s, &g, &r, err);
    if (!code) assert_int_equal(r.token_count, 2);
    qvl_result_free(&r);
    qvl_session_free(s);
    free(ids);
    return code;
}

/* Working memory that cannot grow is one request's error. */
static void one_request_too_large(void **state) {
    (void)state;
    struct err err = {0};
    const struct qvl_options o = {.device = "cuda", .kv_bytes = 8 * mib, .threads = 1};
    if (!emulated) skip();
    struct qvl_model *m = golden_model("tiny-a", &o);
    if (ask(m, 20, &err)) fail_msg("%s", err.message);
    size_t total, left = cuda_memory_free(&total);
    memory_of_device(total - left + 64 * 1024); /* somebody else has taken the rest */
    int code = ask(m, 900, &err);
    if (code != ERR_MEMORY) fail_msg("code %d: %s", code, err.message);
    assert_non_null(strstr(err.message, "out of memory"));
    for (int i = 0; i < 2; i++)
        if (ask(m, 21 + i, &err)) fail_msg("the next one: %s", err.message);
    memory_of_device(4 * gib); /* and when it is given back, the large one too */
    if (ask(m, 900, &err)) fail_msg("%s", err.message);
    qvl_unload(m);
}

static void pool_evicts_for_memory(void **state) {
    (void)state;
    struct err err = {0};
    struct model_pool *p;
    struct qvl_model *a, *b, *c;
    struct qvl_plan plan;
    struct qvl_options o = {.device = "cuda", .kv_bytes = 300 * mib, .threads = 1};
    if (!emulated) skip();
    if (qvl_plan_load("tests/golden/tiny-a", &o, &plan, &err)) fail_msg("%s", err.message);
    memory_of_device(plan.total_bytes + 250 * mib); /* one and its pages, not two of them */
    if (model_pool_new(3, &o, &p, &err)) fail_msg("%s", err.message);
    if (model_pool_acquire(p, "tests/golden/tiny-a", &a, &err)) fail_msg("%s", err.message);
    /* While it is in use it stays, and the second is refused with the numbers. */
    int code = model_pool_acquire(p, "tests/golden/tiny-b", &b, &err);
    if (code != ERR_LIMIT) fail_msg("code %d: %s", code, err.message);
    assert_non_null(strstr(err.message, "not enough memory on the device"));
    assert_true(model_pool_loaded(p, "tests/golden/tiny-a"));
    model_pool_release(p, a);
    if (model_pool_acquire(p, "tests/golden/tiny-b", &b, &err)) fail_msg("%s", err.message);
    assert_false(model_pool_loaded(p, "tests/golden/tiny-a"));
    if (ask(b, 30, &err)) fail_msg("%s", err.message);
    model_pool_release(p, b);
    if (model_pool_acquire(p, "tests/golden/tiny-b", &c, &err)) fail_msg("%s", err.message);
    assert_ptr_equal(b, c);
    model_pool_release(p, c);
    model_pool_free(p);
    memory_of_device(4 * gib);
}

int main(void) {
    size_t total = 0;
    memory_of_device(4 * gib);
    cuda_memory_free(&total);
    emulated = total == 4 * gib;
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_context_on_80_gb), cmocka_unit_test(passes_follow_the_memory),
                                       cmocka_unit_test(one_request_too_large), cmocka_unit_test(pool_evicts_for_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
