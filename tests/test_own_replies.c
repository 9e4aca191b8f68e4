/* The model's own answers are repeated token by token in the next prompt, also where tokenising their text again would cut it
 * elsewhere; the text of the prompt is the same either way. */
#include "engine/session.h"
#include "golden_session.h"

static const struct qvl_options small = {.threads = 1, .kv_bytes = 32 << 20};
static const char *const schema = "{\"type\":\"object\",\"properties\":{\"say\":{\"type\":\"string\",\"maxLength\":12}},\"required\":[\"say\"],"
                                  "\"additionalProperties\":false}";

static void user_says(struct qvl_session *s, const char *text) {
    struct err err = {0};
    if (qvl_session_message(s, QVL_USER, &(struct qvl_part){.text = text}, 1, &err)) fail_msg("%s", err.message);
}

static struct qvl_session *begin(struct qvl_model *m) {
    struct err err = {0};
    struct qvl_session *s;
    assert_int_equal(qvl_session_new(m, &s, &err), 0);
    user_says(s, "which way?");
    return s;
}

static size_t find_ids(const int32_t *in, size_t count, const int32_t *what, size_t n) {
    for (size_t i = 0; i + n <= count; i++)
        if (!memcmp(in + i, what, n * sizeof *what)) return i;
    return SIZE_MAX;
}

static char *text_of(struct qvl_session *s) {
    struct err err = {0};
    int32_t *ids;
    size_t count;
    char *text;
    assert_int_equal(qvl_session_ids(s, &ids, &count, &err), 0);
    assert_int_equal(qvl_detokenize(s->m, ids, count, &text, &err), 0);
    free(ids);
    return text;
}

/* Five turns of random answers. Returns how many of them another tokenising would have cut differently. */
static int talk(struct qvl_model *m, unsigned seed, bool json, int think_tokens) {
    struct err err = {0};
    struct qvl_session *s = begin(m), *by_text = begin(m);
    int differ = 0;
    bool readable = true;
    for (int turn = 0; turn < 5; turn++) {
        struct qvl_result r;
        struct qvl_generate g = {.sampling = {.temperature = 60, .top_k = 1000, .top_p = 1, .seed = seed * 5 + (unsigned)turn},
                                 .max_tokens = 40, .think_tokens = think_tokens, .json_schema = json ? schema : NULL};
        if (qvl_generate(s, &g, &r, &err)) fail_msg("%s", err.message);
        size_t count = r.token_count, begins = 0;
        if (r.finish == QVL_FINISH_STOP && !json) count--; /* the end token */
        if (count && r.tokens[count - 1].id == m->eos[0]) count--;
        int32_t *own = calloc(count + 1, sizeof *own);
        for (size_t i = 0; i < count; i++) own[i] = r.tokens[i].id;
        if (think_tokens) { /* the template drops the block with the newlines behind it */
            while (begins < count && own[begins] != m->think_end) begins++;
            for (begins++; begins < count; begins++) {
                size_t n;
                const char *piece = qvl_token_bytes(m, own[begins], &n);
                if (n == 0 || strspn(piece, "\n") < n) break;
            }
            if (begins > count) begins = count;
        }
        struct token_list again = {0};
        assert_int_equal(tokenizer_encode(m->tokenizer, r.text, strlen(r.text), false, &again, &err), 0);
        differ += again.count != count - begins || memcmp(again.ids, own + begins, again.count * sizeof *own) != 0;
        char *normal; /* the tokenizer composes characters (NFC), which an answer made of any tokens need not be */
        assert_int_equal(qvl_detokenize(m, again.ids, again.count, &normal, &err), 0);
        readable = readable && !strstr(r.text, "\xef\xbf\xbd") && !strcmp(normal, r.text);
        free(normal);
        token_list_free(&again);
        struct qvl_part part = {.text = r.text};
        assert_int_equal(qvl_session_message(by_text, QVL_ASSISTANT, &part, 1, &err), 0);
        user_says(s, "and then?");
        user_says(by_text, "and then?");
        int32_t *ids;
        size_t all;
        struct qvl_session *fork;
        assert_int_equal(qvl_session_fork(s, &fork, &err), 0);
        assert_int_equal(qvl_session_ids(fork, &ids, &all, &err), 0);
        bool control = false; /* tokens that text cannot say are not repeated */
        for (size_t i = 0; i < count; i++) control = control || (own[i] != m->think_end && tokenizer_is_special(m->tokenizer, own[i]));
        assert_int_equal(control, s->items[s->count - 2].reply == NULL);
        size_t at = control ? 0 : find_ids(ids, all, own + begins, count - begins);
        if (at == SIZE_MAX) fail_msg("turn %d: the %zu tokens of the answer are not in the next prompt", turn, count - begins);
        if (!think_tokens && !control) assert_true(find_ids(ids + r.prompt_tokens, count, own, count) == 0);
        free(ids);
        g = (struct qvl_generate){.sampling.greedy = true, .max_tokens = 1, .no_append = true};
        struct qvl_result next;
        assert_int_equal(qvl_generate(fork, &g, &next, &err), 0);
        /* All that was computed is known again: up to the last token, which nobody needed. */
        if (!think_tokens && !control) assert_true(next.cached_tokens >= r.prompt_tokens + (int64_t)count - (json ? 24 : 1));
        qvl_result_free(&next);
        qvl_session_free(fork);
        if (readable) {
            char *a = text_of(s), *b = text_of(by_text);
            assert_string_equal(a, b);
            free(a);
            free(b);
        }
        free(own);
        qvl_result_free(&r);
    }
    qvl_session_free(s);
    qvl_session_free(by_text);
    return differ;
}

static void instruct(void **state) {
    (void)state;
    struct qvl_model *m = golden_model("tiny-a", &small);
    int free_text = 0, json = 0;
    for (unsigned seed = 0; seed < 6; seed++) {
        free_text += talk(m, seed, false, 0);
        json += talk(m, seed, true, 0);
    }
    fprintf(stderr, "of 30 answers each, %d in free text and %d in JSON would have been cut differently\n", free_text, json);
    assert_true(free_text > 0 && json > 0);
    qvl_unload(m);
}

static void thinking(void **state) {
    (void)state;
    struct qvl_model *m = golden_model("tiny-b", &small);
    int differ = 0;
    for (unsigned seed = 0; seed < 6; seed++) differ += talk(m, seed, true, 5);
    assert_true(differ > 0);
    qvl_unload(m);
}

/* A stop string cuts the text inside what was generated: then the text counts. */
static void stopped(void **state) {
    (void)state;
    struct err err = {0};
    struct qvl_model *m = golden_model("tiny-a", &small);
    struct qvl_session *s = begin(m), *cut = begin(m);
    struct qvl_generate g = {.sampling.greedy = true, .max_tokens = 16};
    struct qvl_result r, c;
    assert_int_equal(qvl_generate(s, &g, &r, &err), 0);
    assert_true(strlen(r.text) > 6);
    char stop[3] = {r.text[3], r.text[4], 0};
    const char *stops[] = {stop};
    g.stop = stops, g.stop_count = 1;
    assert_int_equal(qvl_generate(cut, &g, &c, &err), 0);
    assert_true(strlen(c.text) < strlen(r.text));
    assert_null(cut->items[cut->count - 1].reply);
    assert_non_null(s->items[s->count - 1].reply);
    char *text = text_of(cut);
    assert_non_null(strstr(text, c.text));
    assert_null(strstr(text, r.text));
    free(text);
    qvl_result_free(&r);
    qvl_result_free(&c);
    qvl_session_free(s);
    qvl_session_free(cut);
    qvl_unload(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(instruct), cmocka_unit_test(thinking), cmocka_unit_test(stopped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
