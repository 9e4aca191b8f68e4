/* Many answers from one thread: each is to the last bit the answer that its session gets alone; common beginnings are computed once;
 * one that fails or is cancelled leaves the others alone; choices made by the device are the engine's. */
#include "backend/pick.h"
#include "engine/room.h"
#include "golden_session.h"

enum { MANY = 12 };
static const struct qvl_options small = {.threads = 2, .kv_bytes = 32 << 20};

static struct qvl_session *player(struct qvl_model *m, const struct golden *g, int index) {
    struct err err = {0};
    char text[64];
    struct qvl_session *s = golden_session(m, g);
    snprintf(text, sizeof text, "game %d of %d, where to?", index % 7, index);
    if (qvl_session_message(s, QVL_USER, &(struct qvl_part){.text = text}, 1, &err)) fail_msg("%s", err.message);
    return s;
}

/* All kinds of settings, so that rows of one pass are treated differently. */
static struct qvl_generate settings(int index) {
    static const struct qvl_bias bias[] = {{11, 2.5f}, {12, -3}, {11, 1}};
    static const char *const stop[] = {"qq"};
    struct qvl_generate g = {.max_tokens = 10 + index % 5, .no_append = true, .top_logprobs = index % 4, .ignore_end = index % 2,
                             .sampling = {.greedy = index % 3 == 0, .seed = (uint64_t)index, .temperature = 1}};
    if (index % 4 == 1) g.sampling.repetition_penalty = 1.3f, g.sampling.frequency_penalty = 0.2f;
    if (index % 4 == 2) g.bias = bias, g.bias_count = 3;
    if (index % 5 == 3) g.json_schema = "{\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[\"up\",\"down\"]}},\"required\":[\"a\"],"
                                        "\"additionalProperties\":false}";
    if (index % 5 == 4) g.stop = stop, g.stop_count = 1;
    return g;
}

static void same_result(const struct qvl_result *a, const struct qvl_result *b) {
    assert_int_equal(a->token_count, b->token_count);
    for (size_t i = 0; i < a->token_count; i++) {
        assert_int_equal(a->tokens[i].id, b->tokens[i].id);
        assert_int_equal(a->tokens[i].forced, b->tokens[i].forced);
        assert_memory_equal(&a->tokens[i].logprob, &b->tokens[i].logprob, sizeof(float)); /* to the last bit */
        assert_int_equal(a->tokens[i].top_count, b->tokens[i].top_count);
        for (int k = 0; k < a->tokens[i].top_count; k++) {
            assert_int_equal(a->tokens[i].top_id[k], b->tokens[i].top_id[k]);
            assert_memory_equal(&a->tokens[i].top_logprob[k], &b->tokens[i].top_logprob[k], sizeof(float));
        }
    }
    assert_string_equal(a->text, b->text);
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
}

static void many(struct qvl_session **s, const struct qvl_generate *g, struct qvl_result *out, int n) {
    struct err errors[MANY];
    if (qvl_generate_many(s, g, out, errors, n))
        for (int i = 0; i < n; i++)
            if (errors[i].code) fail_msg("answer %d: %s", i, errors[i].message);
}

/* The answers that sessions 0 .. n-1 get one after the other, each from a model that has seen nothing. */
static void alone(const char *name, const struct golden *g, struct qvl_result *out, int n) {
    struct err err = {0};
    for (int i = 0; i < n; i++) {
        struct qvl_model *m = golden_model(name, &small);
        struct qvl_session *s = player(m, g, i);
        struct qvl_generate q = settings(i);
        if (qvl_generate(s, &q, &out[i], &err)) fail_msg("%s", err.message);
        qvl_session_free(s);
        qvl_unload(m);
    }
}

static void free_results(struct qvl_result *r, int n) {
    for (int i = 0; i < n; i++) qvl_result_free(&r[i]);
}

static void equals_one_by_one(void **state) {
    (void)state;
    static const struct {
        const char *model, *golden;
    } cases[] = {{"tiny-a", "image"}, {"tiny-b", "boundary"}, {"tiny-nf4", "text"}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct golden g;
        golden_open(&g, cases[k].model, cases[k].golden);
        struct qvl_result want[MANY], got[MANY];
        struct qvl_generate q[MANY];
        struct qvl_session *s[MANY];
        alone(cases[k].model, &g, want, MANY);
        struct qvl_model *m = golden_model(cases[k].model, &small);
        for (int i = 0; i < MANY; i++) s[i] = player(m, &g, i), q[i] = settings(i);
        for (int round = 0; round < 2; round++) { /* the second time everything is known */
            many(s, q, got, MANY);
            for (int i = 0; i < MANY; i++) same_result(&want[i], &got[i]);
            free_results(got, MANY);
        }
        for (int i = 0; i < MANY; i++) qvl_session_free(s[i]);
        kv_forget(&m->kv);
        assert_int_equal(m->kv.pages_used, 0);
        free_results(want, MANY);
        qvl_unload(m);
        golden_close(&g);
    }
}

/* Best of n: the prompt is computed by one, the others take its pages and its last row. */
static void forks_share_the_prompt(void **state) {
    (void)state;
    struct err err = {0};
    struct golden g;
    golden_open(&g, "tiny-b", "boundary");
    struct qvl_model *m = golden_model("tiny-b", &small);
    struct qvl_session *s[MANY] = {player(m, &g, 0)};
    struct qvl_generate q[MANY];
    struct qvl_result r[MANY];
    int distinct = 0;
    for (int i = 0; i < MANY; i++) {
        if (i && qvl_session_fork(s[0], &s[i], &err)) fail_msg("%s", err.message);
        q[i] = (struct qvl_generate){.max_tokens = 8, .no_append = true, .ignore_end = true,
                                     .sampling = {.temperature = 2, .top_p = 1, .top_k = 100, .seed = (uint64_t)i}};
    }
    many(s, q, r, MANY);
    assert_int_equal(m->kv.miss_tokens, r[0].prompt_tokens + MANY - 1); /* one token each counts as not reused */
    assert_int_equal(r[0].cached_tokens, 0);
    for (int i = 1; i < MANY; i++) {
        assert_int_equal(r[i].cached_tokens, r[i].prompt_tokens - 1);
        assert_true(r[i].prefill_seconds == 0);
        bool same = true;
        for (size_t k = 0; k < 8; k++) same = same && r[i].tokens[k].id == r[0].tokens[k].id;
        distinct += !same;
    }
    assert_true(distinct > MANY / 2); /* different draws */
    /* Pages: the prompt once, and a last page and one more for each answer at most. */
    int pages = (int)(r[0].prompt_tokens / BACKEND_PAGE_TOKENS) + 1;
    assert_true(m->kv.pages_used <= pages + 2 * MANY);
    for (int i = 0; i < MANY; i++) qvl_session_free(s[i]);
    free_results(r, MANY);
    qvl_unload(m);
    golden_close(&g);
}

/* Different questions behind one long beginning: its whole pages are computed once. */
static void common_beginning(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, "tiny-b", "boundary");
    struct qvl_model *m = golden_model("tiny-b", &small);
    struct qvl_session *s[MANY];
    struct qvl_generate q[MANY];
    struct qvl_result r[MANY];
    for (int i = 0; i < MANY; i++) s[i] = player(m, &g, i), q[i] = settings(i), q[i].json_schema = NULL;
    many(s, q, r, MANY);
    for (int i = 1; i < MANY; i++) assert_true(r[i].cached_tokens > r[i].prompt_tokens * 3 / 4);
    for (int i = 0; i < MANY; i++) qvl_session_free(s[i]);
    free_results(r, MANY);
    qvl_unload(m);
    golden_close(&g);
}

static void count_token(void *user, const struct qvl_token *t, bool thinking) {
    (void)t;
    (void)thinking;
    ++*(int *)user;
}

static void one_fails_the_others_go_on(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, "tiny-a", "text");
    struct qvl_model *m = golden_model("tiny-a", &small);
    struct qvl_session *s[4];
    struct qvl_generate q[4];
    struct qvl_result r[4];
    struct err errors[4], err = {0};
    int cancel = 1, calls = 0;
    for (int i = 0; i < 4; i++) s[i] = player(m, &g, i), q[i] = (struct qvl_generate){.max_tokens = 6, .no_append = true};
    q[0].json_schema = "{\"type\":\"nonsense\"}";
    q[1].cancel = &cancel;
    q[3].on_token = count_token, q[3].user = &calls, q[3].ignore_end = true;
    qvl_session_clear(s[2]);
    assert_true(qvl_generate_many(s, q, r, errors, 4) != 0);
    assert_true(errors[0].code != 0 && strlen(errors[0].message) > 0);
    assert_int_equal(errors[1].code, 0);
    assert_int_equal(r[1].finish, QVL_FINISH_CANCELLED);
    assert_int_equal(r[1].token_count, 0);
    assert_non_null(strstr(errors[2].message, "empty"));
    assert_int_equal(errors[3].code, 0);
    assert_int_equal(r[3].token_count, 6);
    assert_int_equal(calls, 6);
    free_results(r, 4);
    /* The same session twice cannot be. */
    struct qvl_session *twice[] = {s[3], s[3]};
    assert_int_equal(qvl_generate_many(twice, q, r, errors, 2), ERR_ARGUMENT);
    assert_non_null(strstr(errors[1].message, "different sessions"));
    assert_int_equal(qvl_generate_many(NULL, NULL, NULL, NULL, 0), 0);
    /* Waiting for another's prompt does not keep a cancelled one. */
    struct qvl_session *fork;
    if (qvl_session_fork(s[3], &fork, &err)) fail_msg("%s", err.message);
    kv_forget(&m->kv);
    struct qvl_session *pair[] = {s[3], fork};
    struct qvl_generate p[] = {q[3], q[1]};
    assert_int_equal(qvl_generate_many(pair, p, r, errors, 2), 0);
    assert_int_equal(r[1].finish, QVL_FINISH_CANCELLED);
    assert_int_equal(r[0].token_count, 6);
    free_results(r, 2);
    qvl_session_free(fork);
    for (int i = 0; i < 4; i++) qvl_session_free(s[i]);
    qvl_unload(m);
    golden_close(&g);
}

/* Too few pages for all: some are refused with numbers, the others answer, and every page comes back. */
static void pages_run_out(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, "tiny-a", "images");
    struct qvl_model *big = golden_model("tiny-a", &small);
    struct qvl_options o = small;
    o.kv_bytes = big->backend->page_bytes(big->device) * 16;
    struct qvl_model *m = golden_model("tiny-a", &o);
    struct qvl_session *s[MANY];
    struct qvl_generate q[MANY];
    struct qvl_result r[MANY];
    struct err errors[MANY];
    for (int i = 0; i < MANY; i++)
        s[i] = player(m, &g, i), q[i] = (struct qvl_generate){.max_tokens = 70, .no_append = true, .ignore_end = true};
    assert_int_equal(qvl_generate_many(s, q, r, errors, MANY), ERR_LIMIT);
    int good = 0;
    for (int i = 0; i < MANY; i++) {
        good += errors[i].code == 0;
        if (errors[i].code) assert_non_null(strstr(errors[i].message, "pages"));
        else assert_int_equal(r[i].token_count, 70);
    }
    assert_true(good > 0 && good < MANY);
    kv_forget(&m->kv);
    assert_int_equal(m->kv.pages_used, 0);
    for (int i = 0; i < MANY; i++) qvl_session_free(s[i]);
    free_results(r, MANY);
    qvl_unload(m);
    qvl_unload(big);
    golden_close(&g);
}

/* ---- a device that picks ---- */

static int rows_read, picks_made, device_vocab;

static bool picks_plain_ones(const struct backend_model *m, const struct pick *p) {
    (void)m;
    return p->adjust_count == 0; /* as a device might that knows no penalties */
}

/* The CPU's pass, then the picks that were asked for, as a device would make them. */
static int forward_and_pick(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    enum { MOST = 64 };
    struct span inner[MOST];
    size_t vocab = (size_t)device_vocab;
    float *rows = malloc(MOST * vocab * sizeof *rows);
    void *work = malloc(pick_work_bytes(device_vocab));
    assert_true(count <= MOST);
    for (int i = 0; i < count; i++) {
        inner[i] = spans[i];
        rows_read += spans[i].logits_count;
        if (!spans[i].pick_count) continue;
        assert_int_equal(spans[i].pick_count, 1);
        inner[i].logits_rows = &spans[i].picks->row;
        inner[i].logits_count = 1;
        inner[i].logits = rows + (size_t)i * vocab;
    }
    int r = backend_cpu.forward(m, inner, count, err);
    for (int i = 0; !r && i < count; i++) {
        if (!spans[i].pick_count) continue;
        pick_from_logits(inner[i].logits, device_vocab, spans[i].picks, work, spans[i].picked);
        if (spans[i].logits_count) memcpy(spans[i].logits, inner[i].logits, vocab * sizeof *rows);
        picks_made++;
    }
    free(work);
    free(rows);
    return r;
}

static void device_picks_are_the_same(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, "tiny-a", "image");
    struct qvl_result want[MANY], got[MANY];
    struct qvl_generate q[MANY];
    struct qvl_session *s[MANY];
    alone("tiny-a", &g, want, MANY);
    struct qvl_model *m = golden_model("tiny-a", &small);
    struct backend picking = backend_cpu;
    picking.can_pick = picks_plain_ones;
    picking.forward = forward_and_pick;
    m->backend = &picking;
    device_vocab = m->config->text.vocab;
    for (int i = 0; i < MANY; i++) s[i] = player(m, &g, i), q[i] = settings(i);
    for (int round = 0; round < 2; round++) {
        rows_read = picks_made = 0;
        many(s, q, got, MANY);
        for (int i = 0; i < MANY; i++) same_result(&want[i], &got[i]);
        free_results(got, MANY);
        assert_true(picks_made > 3 * MANY); /* the plain ones */
        assert_true(rows_read > 0);         /* those with penalties or biases */
    }
    /* A plain answer to a prompt seen in full reads no row at all. */
    struct qvl_generate plain = {.max_tokens = 9, .no_append = true, .ignore_end = true, .sampling.greedy = true};
    many(s, &plain, got, 1);
    rows_read = picks_made = 0;
    qvl_result_free(got);
    many(s, &plain, got, 1);
    assert_int_equal(rows_read, 0);
    assert_int_equal(picks_made, 8); /* the first comes from the row that was kept */
    qvl_result_free(got);
    for (int i = 0; i < MANY; i++) qvl_session_free(s[i]);
    free_results(want, MANY);
    qvl_unload(m);
    golden_close(&g);
}

/* ---- where prompts are cut ---- */

static int pass_rows[64], pass_count;

static int forward_and_note(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    assert_true(pass_count < 64);
    pass_rows[pass_count] = 0;
    for (int i = 0; i < count; i++) pass_rows[pass_count] += spans[i].count;
    pass_count++;
    return backend_cpu.forward(m, spans, count, err);
}

enum { LONG = 3000, ANSWER = 6 };

/* The greedy answer to LONG tokens (beside a short one, when there is company); the rows of its passes are noted. */
static void answer_long(struct qvl_model *m, bool company, int32_t ids[ANSWER]) {
    struct qvl_session *s[2];
    struct qvl_generate q[2];
    struct qvl_result r[2];
    struct err err = {0};
    int32_t prompt[LONG];
    for (int i = 0; i < LONG; i++) prompt[i] = 20 + i * 7 % 200;
    for (int i = 0; i < 2; i++) {
        if (qvl_session_new(m, &s[i], &err) || qvl_session_raw_ids(s[i], prompt + (i ? 100 : 0), i ? 10 : LONG, &err)) fail_msg("%s", err.message);
        q[i] = (struct qvl_generate){.sampling.greedy = true, .max_tokens = i ? 3 : ANSWER, .no_append = true, .ignore_end = true};
    }
    kv_forget(&m->kv);
    pass_count = 0;
    many(s, q, r, company ? 2 : 1);
    for (int i = 0; i < ANSWER; i++) ids[i] = r[0].tokens[i].id;
    free_results(r, company ? 2 : 1);
    for (int i = 0; i < 2; i++) qvl_session_free(s[i]);
}

static void prompts_are_cut_by_who_waits(void **state) {
    (void)state;
    struct qvl_options o = small;
    o.kv_bytes = 128 << 20;
    struct qvl_model *m = golden_model("tiny-a", &o);
    struct backend noting = backend_cpu;
    int32_t want[ANSWER], got[ANSWER];
    noting.forward = forward_and_note;
    m->backend = &noting;
    answer_long(m, false, want); /* the CPU's own way: at multiples of 512, whoever else is there */
    for (int i = 0; i < 6; i++) assert_int_equal(pass_rows[i], i < 5 ? PREFILL_CHUNK : LONG - 5 * PREFILL_CHUNK);
    assert_int_equal(pass_count, 6 + ANSWER - 1);
    static const struct {
        int alone_rows, others;
        bool company;
        int first, most; /* rows of the first pass, and at most of any */
    } cases[] = {{2048, 0, false, 2048, 2048}, {8192, 0, false, LONG, LONG}, {2048, 0, true, 1002, 1024}, {2048, 1, false, 1024, 1024},
                 {100, 0, false, 96, 100}, {100, 1, true, 74, 100}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        m->fixed_cuts = false;
        m->alone_rows = cases[k].alone_rows;
        m->answers = cases[k].others;
        answer_long(m, cases[k].company, got);
        assert_int_equal(m->answers, cases[k].others); /* counted out again */
        assert_memory_equal(got, want, sizeof want);
        if (pass_rows[0] != cases[k].first) fail_msg("case %zu: the first pass has %d rows", k, pass_rows[0]);
        for (int i = 0; i < pass_count; i++) assert_true(pass_rows[i] <= cases[k].most);
        m->answers = 0;
    }
    qvl_unload(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(equals_one_by_one), cmocka_unit_test(forks_share_the_prompt),
                                       cmocka_unit_test(common_beginning), cmocka_unit_test(one_fails_the_others_go_on),
                                       cmocka_unit_test(pages_run_out), cmocka_unit_test(device_picks_are_the_same),
                                       cmocka_unit_test(prompts_are_cut_by_who_waits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
