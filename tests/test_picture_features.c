/* Encoded pictures: once for all who need them, also at the same time; ahead of need when asked for; failures are not kept. */
#include <pthread.h>
#include <unistd.h>

#include "engine/room.h"
#include "engine/session.h"
#include "golden_session.h"

static const struct qvl_options small = {.threads = 1, .kv_bytes = 32 << 20};
static const struct qvl_generate greedy8 = {.sampling.greedy = true, .max_tokens = 8, .no_append = true};

/* ---- a device that takes its time, or fails ---- */

static int encode_ms, failures_left;
static int slow_encode(struct backend_model *m, const struct patches *p, struct vision_features *out, struct err *err) {
    usleep((useconds_t)encode_ms * 1000);
    if (__atomic_load_n(&failures_left, __ATOMIC_RELAXED) > 0) {
        __atomic_sub_fetch(&failures_left, 1, __ATOMIC_RELAXED);
        return err_set(err, ERR_STATE, "the device is out of sorts");
    }
    return backend_cpu.encode_image(m, p, out, err);
}

static struct qvl_model *model_open(bool ahead, struct backend *slow) {
    struct qvl_options o = small;
    o.encode_ahead = ahead;
    struct qvl_model *m = golden_model("tiny-a", &o);
    *slow = backend_cpu;
    slow->encode_image = slow_encode;
    m->backend = slow;
    return m;
}

static struct qvl_session *look(struct qvl_model *m, int seed) {
    struct err err = {0};
    struct qvl_session *s;
    uint8_t *rgb = golden_picture(96, 64, seed);
    struct qvl_part parts[] = {{.rgb = rgb, .width = 96, .height = 64}, {.text = "what is here?"}};
    assert_int_equal(qvl_session_new(m, &s, &err), 0);
    if (qvl_session_message(s, QVL_USER, parts, 2, &err)) fail_msg("%s", err.message);
    free(rgb);
    return s;
}

static struct qvl_result answer(struct qvl_session *s) {
    struct err err = {0};
    struct qvl_result r;
    if (qvl_generate(s, &greedy8, &r, &err)) fail_msg("%s", err.message);
    return r;
}

static int64_t encoded(struct qvl_model *m) {
    struct qvl_stats s;
    qvl_model_stats(m, &s);
    return s.images_encoded;
}

struct asker {
    struct qvl_session *session;
    struct qvl_result result;
    struct err err;
    int code;
    pthread_t thread;
};
static void *ask(void *context) {
    struct asker *a = context;
    a->code = qvl_generate(a->session, &greedy8, &a->result, &a->err);
    return NULL;
}

/* Four threads, one picture, told apart only by a later message: one encodes, three wait for it. */
static void at_the_same_time(void **state) {
    (void)state;
    enum { ASKERS = 4 };
    struct backend slow;
    struct err err = {0};
    struct qvl_model *m = model_open(false, &slow);
    struct asker a[ASKERS];
    encode_ms = 60;
    for (int i = 0; i < ASKERS; i++) {
        a[i] = (struct asker){.session = look(m, 5)};
        char text[20];
        snprintf(text, sizeof text, "guest %d", i);
        assert_int_equal(qvl_session_message(a[i].session, QVL_USER, &(struct qvl_part){.text = text}, 1, &err), 0);
    }
    for (int i = 0; i < ASKERS; i++) assert_int_equal(pthread_create(&a[i].thread, NULL, ask, &a[i]), 0);
    for (int i = 0; i < ASKERS; i++) {
        pthread_join(a[i].thread, NULL);
        assert_int_equal(a[i].code, 0);
        qvl_result_free(&a[i].result);
        qvl_session_free(a[i].session);
    }
    assert_int_equal(encoded(m), 1);
    encode_ms = 0;
    qvl_unload(m);
}

/* Who encodes may fail; who waits then tries for himself, and the failure is not remembered. */
static void failure_is_not_kept(void **state) {
    (void)state;
    struct backend slow;
    struct qvl_model *m = model_open(false, &slow);
    struct asker a[2] = {{.session = look(m, 5)}, {.session = look(m, 5)}};
    encode_ms = 40;
    failures_left = 1;
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&a[i].thread, NULL, ask, &a[i]), 0);
    for (int i = 0; i < 2; i++) pthread_join(a[i].thread, NULL);
    assert_true((a[0].code == 0) != (a[1].code == 0));
    const struct asker *failed = &a[a[0].code ? 0 : 1];
    assert_non_null(strstr(failed->err.message, "out of sorts"));
    assert_int_equal(encoded(m), 1);
    encode_ms = 0;
    struct qvl_result again = answer(failed->session);
    qvl_result_free(&again);
    for (int i = 0; i < 2; i++) {
        if (!a[i].code) qvl_result_free(&a[i].result);
        qvl_session_free(a[i].session);
    }
    qvl_unload(m);
}

static void ahead_of_need(void **state) {
    (void)state;
    struct backend slow, other;
    struct qvl_model *m = model_open(true, &slow), *plain = model_open(false, &other);
    for (int seed = 1; seed < 4; seed++) {
        struct qvl_session *s = look(m, seed), *p = look(plain, seed);
        for (int i = 0; i < 2000 && encoded(m) < seed; i++) usleep(5000);
        assert_int_equal(encoded(m), seed); /* before anybody asked */
        assert_int_equal(encoded(plain), seed - 1);
        struct qvl_result r = answer(s), want = answer(p);
        assert_true(r.image_seconds == 0 && want.image_seconds > 0);
        assert_string_equal(r.text, want.text);
        assert_int_equal(encoded(m), seed);
        qvl_result_free(&r);
        qvl_result_free(&want);
        qvl_session_free(s);
        qvl_session_free(p);
    }
    qvl_unload(plain);
    /* More pictures than the queue holds, sessions gone before their turn, and the model closed in the middle of it. */
    encode_ms = 20;
    for (int i = 0; i < 2 * ENCODE_AHEAD; i++) qvl_session_free(look(m, 10 + i));
    qvl_unload(m);
    encode_ms = 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(at_the_same_time), cmocka_unit_test(failure_is_not_kept),
                                       cmocka_unit_test(ahead_of_need)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
