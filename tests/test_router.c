/* The router: which model is asked and why, with a clock of our own and models that are scripts; thoughts that are cut; calibration; the
 * settings file; and two real checkpoints on one ladder. */
#include "test.h"

#include <math.h>
#include <unistd.h>

#include "agent/ask_engine.h"
#include "agent/router.h"
#include "app/router_file.h"
#include "base/file.h"

static double now; /* seconds */
static double clock_now(void) { return now; }

/* A model that takes so long and is so sure. */
struct fake {
    double ms;
    float confidence;
    int asked;
    double deadline; /* of the last question */
    bool fails;
};
static int fake_answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct fake *f = user;
    f->asked++;
    f->deadline = q->deadline;
    now += f->ms / 1e3;
    if (f->fails) return err_set(err, ERR_STATE, "no answer today");
    out->text = strdup("{\"action\":\"wait\"}");
    out->confidence = f->confidence;
    return 0;
}

struct set {
    struct fake models[3];
    struct ladder *ladder;
    struct router *router;
    bool loaded[3];
};
static bool fake_loaded(void *user, int rung) { return ((struct set *)user)->loaded[rung]; }

static struct set *set_up(const struct router_settings *s, int count) {
    struct set *x = calloc(1, sizeof *x);
    static const char *const names[] = {"small", "middle", "big"};
    struct router_rung rungs[3] = {0};
    struct answerer by[3];
    struct err err;
    for (int i = 0; i < count; i++) {
        x->models[i] = (struct fake){.ms = 10 * (i + 1), .confidence = 0.8f};
        x->loaded[i] = true;
        rungs[i] = (struct router_rung){.name = names[i], .cost = i + 1, .load_ms = 5000};
        by[i] = (struct answerer){fake_answer, &x->models[i]};
    }
    assert_int_equal(ladder_new(s, rungs, count, fake_loaded, x, clock_now, &x->ladder, &err), 0);
    assert_int_equal(router_new(x->ladder, by, &x->router, &err), 0);
    return x;
}
static void tear_down(struct set *x) {
    router_free(x->router);
    ladder_free(x->ladder);
    free(x);
}

static struct answer ask(struct set *x, enum scene scene, const char *stuck, int level) {
    struct step s = {.scene = scene_name[scene], .stuck = stuck, .stuck_level = level};
    struct question q = {.step = &s, .schema = "{}", .prompt = "", .system = ""};
    struct answer a = {.action = -1};
    struct err err = {0};
    struct answerer door = router_door(x->router);
    if (door.answer(door.user, &q, &a, &err)) snprintf(a.reason, sizeof a.reason, "%.200s", err.message);
    answer_free(&a);
    return a;
}
#define assert_says(a, who, why)                                                              \
    do {                                                                                      \
        struct answer a_ = (a);                                                               \
        if (strcmp(a_.model, who) || !strstr(a_.route_reason, why)) fail_msg("%s: %s", a_.model, a_.route_reason); \
    } while (0)

static void one_and_fixed(void **state) {
    (void)state;
    struct router_settings s = router_defaults;
    struct set *x = set_up(&s, 1);
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "small", "the only one");
    tear_down(x);
    s.fixed = 2;
    x = set_up(&s, 3);
    assert_says(ask(x, SCENE_TITLE, "text", 3), "big", "fixed");
    tear_down(x);
    struct ladder *l;
    struct err err;
    assert_int_equal(ladder_new(&s, (struct router_rung[]){{.name = "a"}}, 1, NULL, NULL, NULL, &l, &err), ERR_ARGUMENT);
}

static void unsure_answers_are_asked_again(void **state) {
    (void)state;
    struct router_settings s = router_defaults;
    s.up_below = 0;
    struct set *x = set_up(&s, 3);
    x->models[0].confidence = 0.3f;
    x->models[1].confidence = 0.35f;
    x->models[2].confidence = 0.9f;
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "big", "small was 30 % sure; middle was 35 % sure");
    assert_int_equal(x->models[0].asked + x->models[1].asked + x->models[2].asked, 3);
    /* One that fails takes nothing away. */
    x->models[1].fails = true;
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "small", "middle failed");
    tear_down(x);
    /* Nor does one that is asked first. */
    s.fixed = 2;
    x = set_up(&s, 3);
    x->models[2].fails = x->models[1].fails = true;
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "small", "big failed (no answer today); middle failed");
    x->models[0].fails = true;
    assert_string_equal(ask(x, SCENE_FIELD, NULL, 0).reason, "no answer today");
    tear_down(x);
}

static void confidence_moves_it_and_is_held(void **state) {
    (void)state;
    struct router_settings s = router_defaults;
    s.ask_again_below = 0;
    s.hold = 4;
    struct set *x = set_up(&s, 2);
    x->models[0].confidence = 0.45f;
    x->models[1].confidence = 0.95f;
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "small", "start");
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "middle", "confidence 45 % below 50 %");
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "middle", "held for 3 more");
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "middle", "held for 2 more");
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "middle", "held for 1 more");
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "small", "confidence 95 % above 90 %");
    /* It never goes to and fro faster than `hold`: 4 decisions between two changes. */
    int changes = 0, before = x->models[1].asked;
    for (int i = 0; i < 40; i++) {
        struct answer a = ask(x, SCENE_FIELD, NULL, 0);
        bool up = x->models[1].asked > before;
        changes += strstr(a.route_reason, "below") || strstr(a.route_reason, "above") ? 1 : 0;
        before = x->models[1].asked;
        (void)up;
    }
    assert_in_range(changes, 5, 10);
    tear_down(x);
}

static void stuck_and_scenes(void **state) {
    (void)state;
    struct router_settings s = router_defaults;
    struct set *x = set_up(&s, 3);
    struct step step = {.stuck = "to_and_fro", .stuck_level = 1};
    char why[100];
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "small", "start");
    assert_true(router_escalate(x->router, &step, why, sizeof why));
    assert_string_equal(why, "middle is asked");
    assert_says(ask(x, SCENE_FIELD, "to_and_fro", 1), "middle", "stuck (to_and_fro, 1)");
    assert_says(ask(x, SCENE_FIELD, "to_and_fro", 3), "big", "stuck");
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "small", "stays");
    tear_down(x);

    /* A dialogue goes to its own rung when that is no dearer, the switch included. */
    s.ask_again_below = 0, s.hold = 0;
    x = set_up(&s, 2);
    x->models[0].confidence = 0.2f;
    ask(x, SCENE_FIELD, NULL, 0);
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "middle", "below");
    assert_says(ask(x, SCENE_DIALOGUE, NULL, 0), "small", "scene dialogue");
    x->models[0].ms = 500; /* coming back to it is dear: its pages were given to others, say */
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "middle", "stays");
    for (int i = 0; i < 30; i++) ask(x, SCENE_DIALOGUE, NULL, 0), ask(x, SCENE_FIELD, NULL, 0);
    assert_says(ask(x, SCENE_DIALOGUE, NULL, 0), "middle", "the switch to small would take");
    tear_down(x);
}

static void time_is_kept(void **state) {
    (void)state;
    struct router_settings s = router_defaults;
    s.decision_ms = 100;
    s.up_below = 0.95f, s.down_above = 0.99f, s.hold = 0; /* wants to go up at once */
    struct set *x = set_up(&s, 2);
    x->models[0].confidence = 0.3f; /* and would ask again */
    x->models[1].ms = 300;
    now = 50;
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "middle", "small was 30 % sure"); /* not measured yet: taken to need twice small's 10 ms */
    double begin = now;
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "small", "middle would take 300 of 100 ms");
    assert_true(fabs(x->models[0].deadline - (begin + 0.085)) < 1e-9); /* the rest is for the answer */
    /* What is not loaded costs its loading. */
    struct router_settings t = router_defaults;
    t.decision_ms = 1000;
    t.up_below = 0;
    tear_down(x);
    x = set_up(&t, 2);
    x->models[0].confidence = 0.3f;
    x->loaded[1] = false;
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "small", "no time to ask middle");
    x->loaded[1] = true;
    assert_says(ask(x, SCENE_FIELD, NULL, 0), "middle", "sure");
    double warm, first;
    long decisions;
    ladder_times(x->ladder, 0, &warm, &first, &decisions);
    assert_true(fabs(first - 10) < 1e-6 && decisions == 2);
    tear_down(x);
}

static void calibration_is_fitted(void **state) {
    (void)state;
    enum { N = 4000 };
    struct calibration_sample *s = calloc(N, sizeof *s);
    struct calibration c;
    struct err err;
    uint32_t r = 7;
    for (int i = 0; i < N; i++) { /* right in half of the cases in which it says so: p / 2 */
        r = r * 1664525u + 1013904223u;
        float p = (float)(r >> 8) * 0x1p-24f;
        r = r * 1664525u + 1013904223u;
        s[i] = (struct calibration_sample){p, (float)(r >> 8) * 0x1p-24f < p / 2, i / 50};
    }
    assert_int_equal(calibration_fit(s, N, &c, &err), 0);
    assert_true(c.error_before > 0.2 && c.error_after < 0.06);
    for (float p = 0.1f; p < 1; p += 0.2f) assert_true(fabsf(calibration_apply(&c, p) - p / 2) < 0.08f);
    assert_true(calibration_apply(&c, 0) == 0);
    /* Written and read again it is the same; damage is named. */
    char path[] = "/tmp/pmd-test-calibration-XXXXXX";
    close(mkstemp(path));
    struct buf text = {0};
    struct calibration again;
    snprintf(c.model, sizeof c.model, "m");
    calibration_write(&c, &text);
    assert_int_equal(file_replace(path, text.data, text.len, &err), 0);
    if (calibration_read(path, &again, &err)) fail_msg("%s", err.message);
    assert_int_equal(again.count, c.count);
    for (float p = 0.05f; p < 1; p += 0.1f) assert_true(fabsf(calibration_apply(&c, p) - calibration_apply(&again, p)) < 1e-4f);
    static const char *const bad[] = {"{", "{\"format\":2}", "{\"format\":1,\"points\":[]}", "{\"format\":1,\"points\":[[0.5,0.4],[0.4,0.5]]}",
                                      "{\"format\":1,\"points\":[[0.5,1.5]]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(file_replace(path, bad[i], strlen(bad[i]), &err), 0);
        assert_int_equal(calibration_read(path, &again, &err), ERR_FORMAT);
        assert_non_null(strstr(err.message, path));
    }
    unlink(path);
    assert_int_equal(calibration_fit(s, 10, &c, &err), ERR_ARGUMENT);
    buf_free(&text);
    free(s);
}

static void settings_file(void **state) {
    (void)state;
    static struct router_file f;
    struct err err = {0};
    if (router_file_read("configs/router.yaml", &f, &err)) fail_msg("%s", err.message);
    assert_int_equal(f.settings.fixed, router_defaults.fixed);
    assert_true(f.settings.hold == router_defaults.hold && f.settings.up_below == router_defaults.up_below);
    assert_memory_equal(f.settings.scene_rung, router_defaults.scene_rung, sizeof f.settings.scene_rung);
    static const char good[] = "models: [a, b/c]\nmax_loaded_models: 2\nfixed: 2\nscenes: {field: 2, menu: 0}\ncalibration: {a: x.json}\n";
    if (router_file_parse(good, sizeof good - 1, "t", &f, &err)) fail_msg("%s", err.message);
    assert_string_equal(f.models[1], "b/c");
    assert_int_equal(f.settings.fixed, 1);
    assert_int_equal(f.settings.scene_rung[SCENE_FIELD], 1);
    assert_int_equal(f.settings.scene_rung[SCENE_MENU], -1);
    assert_string_equal(f.calibration[0].path, "x.json");
    static const struct { const char *text, *says; } bad[] = {
        {"hold: many\n", "line 1: hold"}, {"models: 3\n", "models"}, {"a: 1\n", "unknown key"}, {"\nscenes: {moon: 1}\n", "line 2"}, {"up_below: 0.95\n", "up_below"},
        {"models: [a", "no YAML"}, {"hold: 2.5\n", "whole"}, {"models: [1,2,3,4,5,6,7]", "more than 6"}, {"- x\n", "keys and values"}, {"up_below: nan\n", "up_below"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(router_file_parse(bad[i].text, strlen(bad[i].text), "t", &f, &err), ERR_FORMAT);
        if (!strstr(err.message, bad[i].says)) fail_msg("%s", err.message);
    }
}

/* ---- real checkpoints ----------------------------------------------------------------------------------------------------------- */

static const char schema[] = "{\"type\":\"object\",\"properties\":{\"action\":{\"type\":\"string\",\"enum\":[\"wait\",\"eat\",\"walk_north\",\"hit_ne\"]}},"
                             "\"required\":[\"action\"],\"additionalProperties\":false}";
static uint8_t picture[FRAME_PIXELS * 3];

static double slow_clock(void) { return now += 0.01; } /* every look takes 10 ms */

static void a_thought_is_cut_by_the_clock(void **state) {
    (void)state;
    struct qvl_model *m = NULL;
    struct qvl_info info = {0};
    struct err err = {0};
    for (char which = 'a'; which <= 'c' && !info.thinking; which++) {
        char path[64];
        if (m) qvl_unload(m);
        m = NULL;
        snprintf(path, sizeof path, "tests/golden/tiny-%c", which);
        if (qvl_load(path, &(struct qvl_options){.threads = 1}, &m, &err)) fail_msg("%s", err.message);
        qvl_model_info(m, &info);
    }
    if (!info.thinking) {
        qvl_unload(m);
        skip_because("none of the small checkpoints thinks");
    }
    struct engine_answerer *a;
    assert_int_equal(engine_answerer_new(m, &(struct engine_answerer_options){.think_tokens = 100}, &a, &err), 0);
    struct answerer door = engine_answerer_door(a);
    int tokens[2];
    for (int hurry = 0; hurry < 2; hurry++) {
        now = 1000;
        struct question q = {.system = "s", .prompt = "p", .rgb = picture, .schema = schema, .greedy = true, .deadline = hurry ? 1000.2 : 0, .now = slow_clock};
        struct answer out = {.action = -1};
        if (door.answer(door.user, &q, &out, &err)) fail_msg("%s", err.message);
        tokens[hurry] = out.answer_token_count;
        bool offered[ACTION_COUNT] = {[ACTION_WAIT] = true, [ACTION_EAT] = true, [ACTION_WALK + 4] = true, [ACTION_HIT + 3] = true};
        char reason[200];
        if (action_of_answer(out.text, offered, reason, sizeof reason) < 0) fail_msg("%s: %s", out.text, reason);
        assert_true(out.confidence > 0 && out.confidence <= 1);
        answer_free(&out);
    }
    /* Twenty tokens of thought fit into 0.2 s, a hundred were allowed. */
    assert_in_range(tokens[0] - tokens[1], 70, 85);
    engine_answerer_free(a);
    qvl_unload(m);
}

static void two_checkpoints(void **state) {
    (void)state;
    struct qvl_model *m[2];
    struct engine_answerer *a[2];
    struct answerer by[2];
    struct router_rung rungs[2] = {{.name = "tiny-a", .cost = 1}, {.name = "bundled", .cost = 10}};
    static const char *const folders[] = {"tests/golden/tiny-a", "models/tinywoods-vl"};
    struct err err = {0};
    for (int i = 0; i < 2; i++) {
        if (qvl_load(folders[i], &(struct qvl_options){.threads = 1}, &m[i], &err)) fail_msg("%s", err.message);
        struct engine_answerer_options o = {.think_tokens = 8, .best_of = i ? 4 : 1};
        assert_int_equal(engine_answerer_new(m[i], &o, &a[i], &err), 0);
        by[i] = engine_answerer_door(a[i]);
    }
    struct router_settings s = router_defaults;
    s.ask_again_below = 1; /* the small one is never sure enough */
    struct ladder *l;
    struct router *r;
    assert_int_equal(ladder_new(&s, rungs, 2, NULL, NULL, NULL, &l, &err), 0);
    assert_int_equal(router_new(l, by, &r, &err), 0);
    struct step step = {.scene = "field"};
    struct question q = {.system = "Play the dungeon: find the stairs.", .prompt = "field 1 hp 20/20 belly 100", .rgb = picture, .schema = schema, .greedy = true,
                         .step = &step, .seed = 3};
    struct answer out = {.action = -1};
    struct answerer door = router_door(r);
    if (door.answer(door.user, &q, &out, &err)) fail_msg("%s", err.message);
    assert_string_equal(out.model, "bundled");
    assert_non_null(strstr(out.route_reason, "tiny-a was"));
    int votes = 0;
    for (int i = 0; i < out.vote_count; i++) votes += out.votes[i].count;
    assert_int_equal(votes, 4);
    bool stands = false; /* what is answered was voted for */
    for (int i = 0; i < out.vote_count; i++) stands |= !strcmp(out.votes[i].answer, out.text);
    assert_true(stands);
    answer_free(&out);
    router_free(r);
    ladder_free(l);
    for (int i = 0; i < 2; i++) engine_answerer_free(a[i]), qvl_unload(m[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_and_fixed),
        cmocka_unit_test(unsure_answers_are_asked_again),
        cmocka_unit_test(confidence_moves_it_and_is_held),
        cmocka_unit_test(stuck_and_scenes),
        cmocka_unit_test(time_is_kept),
        cmocka_unit_test(calibration_is_fitted),
        cmocka_unit_test(settings_file),
        cmocka_unit_test(a_thought_is_cut_by_the_clock),
        cmocka_unit_test(two_checkpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
