/* Embeddings of pictures and of thoughts: what they are the hidden state of, unit length, the same again; and memory that is made of them from play
 * to rebuild. */
#include "test.h"

#include <math.h>
#include <fcntl.h>
#include <unistd.h>

#include "agent/ask_engine.h"
#include "agent/embed.h"
#include "agent/home.h"
#include "app/commands.h"
#include "base/file.h"
#include "emulator/emulator.h"
#include "golden_session.h"
#include "memory/store.h"

enum { MOST = 512 };
static const struct qvl_options small = {.device = "cpu", .threads = 1, .kv_bytes = 64 << 20};

static struct embedder *open_kind(struct qvl_model *m, enum embed_kind kind) {
    struct embedder *e;
    struct err err = {0};
    if (embedder_new(m, kind, &e, &err)) fail_msg("%s", err.message);
    assert_in_range(embedder_dims(e), 1, MOST);
    return e;
}

static double dot(const float *a, const float *b, int n) {
    double s = 0;
    for (int i = 0; i < n; i++) s += (double)a[i] * (double)b[i];
    return s;
}

/* qvl_embed of a session, scaled to length 1. */
static void reference(struct qvl_session *s, enum qvl_embedding kind, float *out, int dims) {
    struct err err;
    float *v;
    int size;
    if (qvl_embed(s, kind, &v, &size, &err)) fail_msg("%s", err.message);
    assert_int_equal(size, dims);
    double length = sqrt(dot(v, v, size));
    for (int i = 0; i < size; i++) out[i] = (float)(v[i] / length);
    free(v);
    qvl_session_free(s);
}

static struct qvl_session *session(struct qvl_model *m) {
    struct qvl_session *s;
    struct err err;
    assert_int_equal(qvl_session_new(m, &s, &err), 0);
    return s;
}

static void assert_near(const float *a, const float *b, int n) {
    for (int i = 0; i < n; i++) {
        if (fabsf(a[i] - b[i]) > 1e-6f) fail_msg("element %d: %g, expected %g", i, (double)a[i], (double)b[i]);
    }
}

static void pictures_by_kind(void **state) {
    (void)state;
    struct qvl_model *m = golden_model("tiny-a", &small);
    uint8_t *one = golden_picture(FRAME_WIDTH, FRAME_HEIGHT, 3), *two = golden_picture(FRAME_WIDTH, FRAME_HEIGHT, 4);
    float v[2][MOST], other[MOST], want[MOST];
    struct err err;
    for (int k = EMBED_IMAGE; k <= EMBED_LAST; k++) {
        struct embedder *e = open_kind(m, k);
        int n = embedder_dims(e);
        for (int i = 0; i < 2; i++) {
            if (embed_picture(e, one, v[i], &err) || embed_picture(e, two, other, &err)) fail_msg("%s", err.message);
        }
        assert_memory_equal(v[0], v[1], (size_t)n * sizeof(float));  /* whatever was embedded in between */
        assert_true(fabs(dot(v[0], v[0], n) - 1) < 1e-5);
        assert_true(dot(v[0], other, n) < 0.9999);
        struct qvl_session *s = session(m);
        struct qvl_part parts[2] = {{.rgb = one, .width = FRAME_WIDTH, .height = FRAME_HEIGHT}, {.text = "Where is this, what is near, and what should be done?"}};
        assert_int_equal(qvl_session_message(s, QVL_USER, parts, k == EMBED_LAST ? 2 : 1, &err), 0);
        reference(s, k == EMBED_LAST ? QVL_EMBED_LAST : QVL_EMBED_IMAGE, want, n);
        assert_near(v[0], want, n);
        embedder_free(e);
    }
    free(one);
    free(two);
    qvl_unload(m);
}

/* The answerer's own tokens, with and without a conversation in front: the thought behind system text and newest turn. */
static void thoughts_leave_the_conversation_out(void **state) {
    (void)state;
    struct qvl_model *m = golden_model("tiny-b", &small);
    struct engine_answerer *engine;
    struct engine_answerer_options o = {.think_tokens = 12};
    struct err err;
    assert_int_equal(engine_answerer_new(m, &o, &engine, &err), 0);
    struct answerer door = engine_answerer_door(engine);
    struct embedder *e = open_kind(m, EMBED_THOUGHT);
    uint8_t *picture = golden_picture(FRAME_WIDTH, FRAME_HEIGHT, 5), *older = golden_picture(FRAME_WIDTH, FRAME_HEIGHT, 6);
    static struct conversation c;
    float v[3][MOST], want[MOST];
    int n = embedder_dims(e);
    conversation_begin(&c, 4);
    for (int i = 0; i < 3; i++) {
        struct question q = {.system = "Look.", .prompt = "What now?", .rgb = picture, .schema = "{\"enum\":[\"a\",\"b\"]}", .greedy = true, .past = &c};
        struct answer a = {0};
        if (door.answer(door.user, &q, &a, &err)) fail_msg("%s", err.message);
        struct embed_answer said = {picture, a.prompt_tokens, a.answer_tokens, a.prompt_token_count, a.answer_token_count};
        static int32_t first[MOST];
        static int first_count;
        if (!i) memcpy(first, a.answer_tokens, (size_t)a.answer_token_count * sizeof *first), first_count = a.answer_token_count;
        said.answer = first, said.answer_count = first_count; /* the same thought every time */
        if (embed_thought(e, &said, v[i], &err)) fail_msg("%s", err.message);
        if (!i) {
            struct qvl_session *s = session(m);
            struct qvl_part system = {.text = "Look."}, user[2] = {{.rgb = picture, .width = FRAME_WIDTH, .height = FRAME_HEIGHT}, {.text = "What now?"}};
            assert_int_equal(qvl_session_message(s, QVL_SYSTEM, &system, 1, &err), 0);
            assert_int_equal(qvl_session_message(s, QVL_USER, user, 2, &err), 0);
            struct qvl_generate g = {.sampling.greedy = true, .think_tokens = 12, .max_tokens = 400, .json_schema = q.schema, .no_append = true};
            struct qvl_result r;
            if (qvl_generate(s, &g, &r, &err)) fail_msg("%s", err.message);
            assert_int_equal(r.token_count, a.answer_token_count);
            assert_non_null(r.thinking);
            int32_t *ids;
            size_t count;
            assert_int_equal(qvl_session_ids(s, &ids, &count, &err), 0);
            assert_int_equal(count, a.prompt_token_count);
            free(ids);
            /* The same by way of the template. */
            if (qvl_session_reply(s, r.text, first, (size_t)first_count, &err)) fail_msg("%s", err.message);
            reference(s, QVL_EMBED_THOUGHT, want, n);
            assert_near(v[0], want, n);
            qvl_result_free(&r);
            assert_true(fabs(dot(v[0], v[0], n) - 1) < 1e-5);
        }
        struct embed_answer cut = said;
        cut.answer_count = 1; /* no </think> in it */
        assert_int_equal(embed_thought(e, &cut, want, &err), ERR_ARGUMENT);
        conversation_add(&c, &(struct exchange){.text = "What was?", .rgb = older, .width = FRAME_WIDTH, .height = FRAME_HEIGHT, .reply = a.text, .reply_tokens = a.answer_tokens,
                                                .reply_token_count = a.answer_token_count});
        assert_true(i == 0 || a.prompt_token_count > 100);
        answer_free(&a);
    }
    assert_memory_equal(v[0], v[1], (size_t)n * sizeof(float));
    assert_memory_equal(v[0], v[2], (size_t)n * sizeof(float));
    conversation_forget(&c);
    free(picture);
    free(older);
    embedder_free(e);
    engine_answerer_free(engine);
    qvl_unload(m);
}

/* ---- from play to rebuild ----------------------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/pmd-test-embed-XXXXXX";
static int set_up(void **state) {
    (void)state;
    unsetenv("MODEL_BACKEND");
    return mkdtemp(folder) ? 0 : -1;
}
static int tear_down(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static void fingerprint(const char *in, char out[33], struct store_counts *counts) {
    char path[300];
    struct store *s;
    struct err err;
    snprintf(path, sizeof path, "%s/memory.sqlite", in);
    if (store_open(path, false, &s, &err) || store_fingerprint(s, out, &err) || store_verify(s, &err) || store_counts(s, counts, &err)) fail_msg("%s", err.message);
    store_close(s);
}

static int run(int (*command)(int, char **), char **argv) {
    int argc = 0;
    while (argv[argc]) argc++;
    fflush(stdout);
    int old = dup(1), null = open("/dev/null", O_WRONLY);
    dup2(null, 1), close(null);
    int code = command(argc, argv);
    fflush(stdout);
    dup2(old, 1), close(old);
    unsetenv("MODEL_BACKEND");
    return code;
}

static void memory_of_each_kind(void **state) {
    (void)state;
    char path[4096];
    if (!file_exists(home_file(HOME_ROM, path, sizeof path))) skip_because("no ROM");
    static const struct { char *kind, *model, *history; } cases[] = {{"last", "tests/golden/tiny-a", "0"}, {"thought", "tests/golden/tiny-b", "0"}, {"thought", "tests/golden/tiny-b", "4"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char memory[200], again[200], runs[200], record[220], played[33], made[33];
        struct store_counts counts, rebuilt;
        snprintf(memory, sizeof memory, "%s/%zu-memory", folder, i);
        snprintf(again, sizeof again, "%s/%zu-again", folder, i);
        snprintf(runs, sizeof runs, "%s/%zu-runs", folder, i);
        snprintf(record, sizeof record, "%s/r", runs);
        char *play[] = {"play", "--model", cases[i].model, "--embed", cases[i].kind, "--history", cases[i].history, "--act", "skills", "--prompt", "configs/prompts/hub-2.txt", "--think-tokens", "8",
                        "--threads", "1", "--device", "cpu", "--memory", memory, "--record", record, "--max-decisions", "14", "--seed", "5", "--json", NULL};
        assert_int_equal(run(cmd_play, play), 0);
        fingerprint(memory, played, &counts);
        assert_int_equal(counts.steps, 14);
        assert_true(counts.embeddings >= 2);
        char *rebuild[] = {"memory", "rebuild", "--memory", again, "--runs", runs, "--model", cases[i].model, "--embed", cases[i].kind, "--threads", "1", "--device", "cpu", NULL};
        assert_int_equal(run(cmd_memory, rebuild), 0);
        fingerprint(again, made, &rebuilt);
        assert_int_equal(rebuilt.embeddings, counts.embeddings);
        assert_string_equal(made, played); /* vectors too */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(pictures_by_kind), cmocka_unit_test(thoughts_leave_the_conversation_out), cmocka_unit_test(memory_of_each_kind)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
