/* The model pool: shared loads, least recently used first, nothing in use is unloaded, unloading frees everything. */
#include <malloc.h>
#include <pthread.h>

#include "base/err.h"
#include "engine/model_pool.h"
#include "test.h"

static const struct qvl_options small = {.threads = 1, .kv_bytes = 4 << 20};

static struct qvl_model *acquire(struct model_pool *p, const char *folder) {
    struct err err = {0};
    struct qvl_model *m;
    if (model_pool_acquire(p, folder, &m, &err)) fail_msg("%s", err.message);
    return m;
}

static void least_recently_used(void **state) {
    (void)state;
    struct err err = {0};
    struct model_pool *p;
    struct model_pool_counts c;
    assert_int_equal(model_pool_new(2, &small, &p, &err), 0);
    struct qvl_model *a = acquire(p, "tests/golden/tiny-a"), *b = acquire(p, "tests/golden/tiny-b"), *other;
    assert_ptr_equal(acquire(p, "tests/golden/../golden/tiny-a/"), a);
    /* Both in use: a third is refused with both names. */
    assert_int_equal(model_pool_acquire(p, "tests/golden/tiny-c", &other, &err), ERR_STATE);
    assert_non_null(strstr(err.message, "tiny-a"));
    assert_non_null(strstr(err.message, "tiny-b"));
    model_pool_release(p, b);
    model_pool_release(p, a);
    assert_true(model_pool_loaded(p, "tests/golden/tiny-b"));
    /* a is still held once: b goes. */
    struct qvl_model *third = acquire(p, "tests/golden/tiny-c");
    assert_false(model_pool_loaded(p, "tests/golden/tiny-b"));
    assert_true(model_pool_loaded(p, "tests/golden/tiny-a"));
    model_pool_release(p, a);
    model_pool_release(p, third);
    b = acquire(p, "tests/golden/tiny-b"); /* a was used before c */
    assert_false(model_pool_loaded(p, "tests/golden/tiny-a"));
    assert_true(model_pool_loaded(p, "tests/golden/tiny-c"));
    model_pool_release(p, b);
    model_pool_count(p, &c);
    assert_int_equal(c.loaded, 2);
    assert_int_equal(c.in_use, 0);
    assert_int_equal(c.loads, 4);
    assert_int_equal(c.unloads, 2);
    /* A folder that is none, or a broken one, leaves the pool as it was but for the slot it needed. */
    assert_int_equal(model_pool_acquire(p, "tests/golden/none", &other, &err), ERR_MISSING);
    assert_true(model_pool_acquire(p, "tests", &other, &err) < 0);
    assert_true(err.message[0] != 0);
    model_pool_free(p);
}

struct waiter {
    struct model_pool *pool;
    struct qvl_model *model;
    pthread_t thread;
};
static void *wait_for(void *context) {
    struct waiter *w = context;
    w->model = acquire(w->pool, "tests/golden/tiny-fp8");
    return NULL;
}

static void shared_loads(void **state) {
    (void)state;
    enum { WAITERS = 8 };
    struct err err = {0};
    struct model_pool *p;
    struct model_pool_counts c;
    struct waiter w[WAITERS];
    assert_int_equal(model_pool_new(0, &small, &p, &err), 0);
    for (int i = 0; i < WAITERS; i++) {
        w[i] = (struct waiter){.pool = p};
        assert_int_equal(pthread_create(&w[i].thread, NULL, wait_for, &w[i]), 0);
    }
    for (int i = 0; i < WAITERS; i++) pthread_join(w[i].thread, NULL);
    for (int i = 0; i < WAITERS; i++) assert_ptr_equal(w[i].model, w[0].model);
    model_pool_count(p, &c);
    assert_int_equal(c.loads, 1);
    assert_int_equal(c.hits, WAITERS - 1);
    for (int i = 0; i < WAITERS; i++) model_pool_release(p, w[i].model);
    model_pool_free(p);
}

/* Loading and unloading again and again takes no more memory than once. */
static void unload_frees(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip_because("the leak checker looks after this");
#endif
    struct err err = {0};
    size_t first = 0;
    for (int i = 0; i < 6; i++) {
        struct qvl_model *m;
        struct qvl_session *s;
        struct qvl_result r;
        if (qvl_load("tests/golden/tiny-a", &small, &m, &err)) fail_msg("%s", err.message);
        assert_int_equal(qvl_session_new(m, &s, &err), 0);
        assert_int_equal(qvl_session_message(s, QVL_USER, &(struct qvl_part){.text = "hello"}, 1, &err), 0);
        if (qvl_generate(s, &(struct qvl_generate){.max_tokens = 8}, &r, &err)) fail_msg("%s", err.message);
        qvl_result_free(&r);
        qvl_session_free(s);
        qvl_unload(m);
        struct mallinfo2 info = mallinfo2();
        size_t held = info.uordblks + info.hblkhd;
        if (i == 1) first = held;
        if (i > 1) assert_true(held <= first + 65536); /* freed pieces in the allocator's own caches count as held */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(least_recently_used), cmocka_unit_test(shared_loads),
                                       cmocka_unit_test(unload_frees)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
