/* Encoded pictures: once for all who need them, also at the same time; several in one pass (those of one size, or any where the device makes the
 * patches), with the same features; failures are not kept. */
#include <pthread.h>
#include <unistd.h>

#include "engine/room.h"
#include "engine/session.h"
#include "golden_session.h"
#include "picture_patches.h"

static const struct qvl_options small = {.threads = 1, .kv_bytes = 32 << 20};
static const struct qvl_generate greedy8 = {.sampling.greedy = true, .max_tokens = 8, .no_append = true};

/* ---- a device that takes its time, or fails ---- */

static int encode_ms, failures_left, passes, most_together;
static int slow_encode(struct backend_model *m, const struct patches *p, struct vision_features *out, struct err *err) {
    usleep((useconds_t)encode_ms * 1000);
    passes++; /* one at a time */
    if (p->grid_t > most_together) most_together = p->grid_t;
    if (__atomic_load_n(&failures_left, __ATOMIC_RELAXED) > 0) {
        __atomic_sub_fetch(&failures_left, 1, __ATOMIC_RELAXED);
        return err_set(err, ERR_STATE, "the device is out of sorts");
    }
    return backend_cpu.encode_image(m, p, out, err);
}

static const struct model_config *picture_config;
static int slow_pictures(struct backend_model *m, const struct prepared_picture *pictures, int count, struct vision_features *out, struct err *err) {
    usleep((useconds_t)encode_ms * 1000);
    passes++;
    if (count > most_together) most_together = count;
    if (__atomic_load_n(&failures_left, __ATOMIC_RELAXED) > 0) {
        __atomic_sub_fetch(&failures_left, 1, __ATOMIC_RELAXED);
        return err_set(err, ERR_STATE, "the device is out of sorts");
    }
    int r = 0;
    for (int i = 0; i < count && !r; i++) {
        struct patches p = picture_patches(&pictures[i], picture_config);
        struct vision_features one;
        r = backend_cpu.encode_image(m, &p, &one, err);
        patches_free(&p);
        if (r) break;
        float *to = out[i].values;
        assert_non_null(to);
        memcpy(to, one.values, (size_t)one.levels * (size_t)one.tokens * (size_t)picture_config->text.hidden * sizeof *to);
        out[i] = (struct vision_features){one.grid_t, one.grid_h, one.grid_w, one.tokens, one.levels, to, false};
        vision_features_free(&one);
    }
    return r;
}

static struct qvl_model *model_open(struct backend *slow) {
    struct qvl_model *m = golden_model("tiny-a", &small);
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
    struct qvl_model *m = model_open(&slow);
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
    struct qvl_model *m = model_open(&slow);
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

struct looker {
    struct qvl_model *m;
    struct visual *visual;
    const struct vision_features *features;
    struct err err;
    int code;
    pthread_t thread;
};
static void *encode_one(void *context) {
    struct looker *l = context;
    double seconds = 0;
    l->code = features_get(l->m, l->visual, &l->features, &seconds, &l->err);
    return NULL;
}

static struct visual *picture(struct qvl_model *m, int width, int height, int seed) {
    struct image image = {.width = width, .height = height, .rgb = golden_picture(width, height, seed)};
    struct visual *v;
    struct err err;
    if (visual_new(m, &image, 1, false, 0, &v, &err)) fail_msg("%s", err.message);
    return v;
}

/* What each alone would have given, bit for bit: the CPU's rows do not know how many there are. */
static void together_as_alone(void **state) {
    (void)state;
    enum { LOOKERS = 12 };
    struct backend slow;
    struct qvl_model *m = model_open(&slow), *alone = golden_model("tiny-a", &small);
    struct looker l[LOOKERS];
    picture_config = m->config;
    for (int way = 0; way < 4; way++) {
        bool failing = way % 2, bytes = way / 2;
        slow.encode_pictures = bytes ? slow_pictures : NULL;
        qvl_model_forget(m);
        passes = most_together = 0;
        encode_ms = 50;
        failures_left = failing ? 2 : 0; /* the first picture's pass, then the first that holds several: those are tried one by one */
        for (int i = 0; i < LOOKERS; i++) {
            bool other = i % 4 == 3; /* of another size: as patches never in one pass with the rest */
            l[i] = (struct looker){.m = m, .visual = picture(m, other ? 64 : 96, other ? 96 : 64, 20 + i)};
            assert_int_equal(pthread_create(&l[i].thread, NULL, encode_one, &l[i]), 0);
            if (!i) usleep(10000);
        }
        for (int i = 0; i < LOOKERS; i++) pthread_join(l[i].thread, NULL);
        int failed = 0;
        for (int i = 0; i < LOOKERS; i++) {
            const struct vision_features *want, *got = l[i].features;
            struct visual *same = picture(alone, i % 4 == 3 ? 64 : 96, i % 4 == 3 ? 96 : 64, 20 + i);
            struct err err;
            double seconds = 0;
            if (features_get(alone, same, &want, &seconds, &err)) fail_msg("%s", err.message);
            failed += l[i].code != 0;
            if (!l[i].code) {
                assert_true(got->grid_t == 1 && got->grid_h == want->grid_h && got->grid_w == want->grid_w);
                assert_true(got->tokens == want->tokens && got->levels == want->levels);
                assert_memory_equal(got->values, want->values, (size_t)got->levels * (size_t)got->tokens * (size_t)m->config->text.hidden * sizeof(float));
                features_put(m, got);
            }
            features_put(alone, want);
            visual_drop(same);
            visual_drop(l[i].visual);
        }
        assert_int_equal(failed, failing); /* only the one that was alone when the device failed */
        assert_true(most_together > 2);
        if (!failing) assert_in_range(passes, bytes ? 2 : 3, 8);
    }
    encode_ms = 0;
    qvl_unload(alone);
    qvl_unload(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(at_the_same_time), cmocka_unit_test(failure_is_not_kept),
                                       cmocka_unit_test(together_as_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
