/* A prompt that is a conversation: what is told and what is left out, trims, and in the bundled dungeon that each prompt begins with the one
 * before and its reply, token by token, with the prompt cache knowing it. */
#include "test.h"

#include "agent/ask_engine.h"
#include "agent/room.h"
#include "base/file.h"
#include "golden_session.h"
#include "record/run.h"
#include "seen_world.h"

/* ---- exchanges ------------------------------------------------------------------------------------------------------------------- */

static void say(struct conversation *c, const char *text, bool again) {
    static const uint8_t black[12];
    static const int32_t tokens[] = {7, 8};
    conversation_add(c, &(struct exchange){.text = (char *)text, .rgb = (uint8_t *)(again ? NULL : black), .width = 2, .height = 2, .reply = "yes", .reply_tokens = (int32_t *)tokens,
                                           .reply_token_count = 2, .again = again});
}

static void the_older_three_quarters_go_at_once(void **state) {
    (void)state;
    static struct conversation c;
    conversation_begin(&c, 8);
    for (int i = 0; i < 8; i++) conversation_make_room(&c), say(&c, i == 0 ? "first" : "later", false);
    assert_int_equal(c.count, 8);
    assert_string_equal(c.list[0].text, "first");
    assert_int_equal(c.list[7].reply_tokens[1], 8);
    conversation_make_room(&c);
    assert_int_equal(c.count, 2);
    assert_int_equal(c.first, 6);
    /* A turn after a refusal never stands at the beginning. */
    conversation_begin(&c, 8);
    for (int i = 0; i < 8; i++) say(&c, "turn", i == 6);
    conversation_make_room(&c);
    assert_int_equal(c.count, 3);
    assert_false(c.list[0].again);
    /* Without end in one decision it is trimmed all the same. */
    conversation_begin(&c, HISTORY_MAX);
    for (int i = 0; i < 3 * HISTORY_MAX; i++) say(&c, "turn", false);
    assert_in_range(c.count, 1, HISTORY_MAX + 2);
    /* No conversation: nothing is kept, everything is told. */
    conversation_begin(&c, 0);
    say(&c, "turn", false);
    assert_int_equal(c.count, 0);
    assert_true(conversation_tells(&c, 1, "a", 1) && conversation_tells(&c, 1, "a", 1));
    conversation_forget(&c);
}

static void what_was_told_is_not_told_again(void **state) {
    (void)state;
    static struct conversation c;
    conversation_begin(&c, 4);
    assert_true(conversation_tells(&c, 1, "a", 1));
    assert_true(conversation_tells(&c, 1, "a", 1)); /* the turn that says it is no exchange yet: it may have failed */
    say(&c, "a", false);
    assert_false(conversation_tells(&c, 1, "a", 1));
    assert_true(conversation_knows(&c, 1) && !conversation_knows(&c, 2));
    assert_true(conversation_tells(&c, 1, "b", 1));
    say(&c, "b", false);
    assert_true(conversation_tells(&c, 1, "a", 1)); /* what was said last counts */
    say(&c, "a", false);
    conversation_place(&c, 1);
    assert_true(conversation_tells(&c, 1, "a", 1)); /* another floor */
    say(&c, "a", false);
    conversation_make_room(&c);
    assert_int_equal(c.count, 1);
    assert_false(conversation_tells(&c, 1, "a", 1)); /* said by the one that stayed */
    for (int i = 0; i < 3; i++) say(&c, "-", false);
    conversation_make_room(&c);
    assert_true(conversation_tells(&c, 1, "a", 1)); /* that one is gone */
    /* More lines than there is room for are told too often, never too seldom. */
    say(&c, "-", false);
    for (uint64_t k = 10; k < 10 + 2 * TOLD_LINES; k++) assert_true(conversation_tells(&c, k, "x", 1));
    say(&c, "-", false);
    int told = 0;
    for (uint64_t k = 10; k < 10 + 2 * TOLD_LINES; k++) told += conversation_tells(&c, k, "x", 1);
    assert_in_range(told, TOLD_LINES, TOLD_LINES + 2);
    conversation_forget(&c);
}

/* ---- templates ------------------------------------------------------------------------------------------------------------------- */

static const char template_text[] = "version v\n[system]\nRules. {catalogue}\n[system field]\nWalk.\n[user]\n{scene}\n-last {last}\n~bag: {bag}\n~map:{rows}\n+heard:{memory}\n"
                                    "instead {instead}\n[refused]\nno: {refused}\n";

static void a_turn_tells_what_is_new(void **state) {
    (void)state;
    struct prompt_template t;
    struct prompt_memory m;
    struct err err = {0};
    static struct conversation c;
    static char out[PROMPT_BYTES];
    struct memory_lines heard = {.count = 1, .lines = {{"apples heal", "step 3"}}};
    if (prompt_template_parse(template_text, sizeof template_text - 1, "t", &t, &err) || prompt_template_catalogue(&t, NULL, &err)) fail_msg("%s", err.message);
    assert_non_null(strstr(t.always, "Rules. walk_south, "));
    assert_null(strstr(t.always, "Walk."));
    assert_non_null(strstr(t.system[SCENE_FIELD], "\nWalk."));
    assert_string_equal(t.scene[SCENE_FIELD], "Walk.");
    make_world();
    seen.now.bag_count = 1;
    seen.now.bag[0].id = 1;
    prompt_forget(&m);
    prompt_did(&m, "eat");
    struct prompt_view v = {.seen = &seen, .scene = SCENE_FIELD, .memory = &m, .recalled = &heard};
    /* Every question alone: the signs do nothing. */
    for (int i = 0; i < 2; i++) {
        assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
        assert_memory_equal(out, "field\nlast eat\nbag: 1 ", 22);
        assert_non_null(strstr(out, "\nmap:\ny2 x2 #########\ny3 x2 #.......#"));
        assert_non_null(strstr(out, "\nheard:\napples heal (step 3)"));
    }
    conversation_begin(&c, 4);
    v.conversation = &c;
    assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
    assert_memory_equal(out, "Walk.\nfield\nbag: 1 ", 19);
    assert_null(strstr(out, "last eat"));
    assert_non_null(strstr(out, "\nmap:\ny2 x2 #########\n"));
    say(&c, out, false);
    assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
    assert_string_equal(out, "field");
    say(&c, out, false);
    /* A step to the east changes a row; a new memory; the bag is eaten empty. */
    seen.now.team[0].at.x++;
    seen.now.bag_count = 0;
    heard.count = 2;
    heard.lines[1] = (struct memory_line){.text = "seeds burn", .from = "step 9"};
    v.instead = "eat";
    assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
    assert_string_equal(out, "field\nbag: none\nmap:\ny5 x2 #....@...\nheard:\nseeds burn (step 9)\ninstead eat");
    say(&c, out, false);
    v.instead = NULL;
    assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
    assert_string_equal(out, "field"); /* "none" is said once */
    v.after_refusal = true;
    v.refused = "walk_north: a wall is there";
    assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
    assert_string_equal(out, "no: walk_north: a wall is there");
    v.after_refusal = false;
    seen.floor_serial++;
    assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
    assert_non_null(strstr(out, "\nmap:\ny2 x2 #########\n")); /* the map of another floor */
    conversation_forget(&c);
    prompt_template_free(&t);
}

/* ---- in the game ------------------------------------------------------------------------------------------------------------------ */

static struct buf rom;
static struct emulator *game;
static struct qvl_model *model;

static int open_game(void **state) {
    (void)state;
    struct err err = {0};
    if (file_read("rom/tinywoods/tinywoods.gba", 1 << 25, &rom, &err) || emulator_open(rom.data, rom.len, NULL, &game, &err)) return fprintf(stderr, "%s\n", err.message), -1;
    struct qvl_options o = {.threads = 1, .device = "cpu", .kv_bytes = 64 << 20};
    model = golden_model("tiny-c", &o);
    return 0;
}
static int close_game(void **state) {
    (void)state;
    qvl_unload(model);
    emulator_close(game);
    buf_free(&rom);
    return 0;
}

/* Asks the engine and looks at what it was given. */
struct listener {
    struct answerer by, other; /* other: another rung, asked at every third decision */
    struct token_chain said;  /* the last prompt and its reply, as far as tokens are known */
    int64_t first;            /* of the conversation then */
    int count, questions, again, trims, kept_tokens;
    long long prompt_tokens, computed_tokens;
    int refuse_at;            /* this decision's first answer is an impossible one */
    int fail_at;              /* ... fails while there is a conversation */
    int failed, others;
};

static int listen(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct listener *l = user;
    assert_non_null(q->past);
    if ((int)q->decision == l->fail_at && q->past->count && !l->failed) {
        l->failed++;
        return err_set(err, ERR_LIMIT, "too long");
    }
    if (l->other.answer && q->decision % 3 == 0) {
        l->others++;
        return l->other.answer(l->other.user, q, out, err);
    }
    int code = l->by.answer(l->by.user, q, out, err);
    if (code) return code;
    if (l->other.answer) {
        if (q->past->first == l->first) assert_true(out->cached_tokens >= l->said.count - 2); /* what it saw and said itself is known */
        l->first = q->past->first;
        token_chain_set(&l->said, out->prompt_tokens, out->prompt_token_count, out->answer_tokens, out->answer_token_count);
        l->questions++;
        return 0;
    }
    if (l->questions && q->past->first == l->first) {
        assert_int_equal(q->past->count, l->count + 1); /* append only */
        int same = token_chain_common(&l->said, out->prompt_tokens, out->prompt_token_count);
        if (same < l->said.count) fail_msg("question %d: %d of %d tokens are those of the one before", l->questions, same, l->said.count);
        assert_true(out->cached_tokens >= l->said.count - 2); /* its last token, and what was not computed behind a forced end */
        l->kept_tokens++;
    } else if (l->questions) {
        l->trims++;
        assert_true(q->past->count <= 3);
    }
    l->first = q->past->first, l->count = q->past->count;
    l->again += q->again;
    l->questions++;
    l->prompt_tokens += out->prompt_token_count;
    l->computed_tokens += out->prompt_token_count - out->cached_tokens;
    if ((int)q->decision == l->refuse_at && !q->again) {
        free(out->text);
        free(out->answer_tokens);
        out->text = strdup("{\"skill\":\"go_to\",\"x\":0,\"y\":0}");
        out->answer_tokens = NULL;
        out->answer_token_count = 0;
    }
    token_chain_set(&l->said, out->prompt_tokens, out->prompt_token_count, out->answer_tokens, out->answer_token_count);
    return 0;
}

struct watcher {
    struct buf refused;
    int refusals, with_history;
};
static void watch(void *user, const struct step *s) {
    struct watcher *w = user;
    w->refusals += s->refused_answer != NULL;
    if (s->refused_answer) buf_str(&w->refused, s->refused_answer), assert_non_null(strstr(s->prompt, "not possible: "));
    w->with_history += s->history > 0;
}

static void play(struct listener *l, struct watcher *w, int history, int best_of, int decisions) {
    struct engine_answerer *engine;
    struct engine_answerer_options eo = {.best_of = best_of};
    struct agent *a;
    struct episode_result r;
    struct err err = {0};
    if (engine_answerer_new(model, &eo, &engine, &err)) fail_msg("%s", err.message);
    l->by = engine_answerer_door(engine);
    struct answerer door = {listen, l};
    struct agent_events events[] = {{.user = w, .step_done = watch}, {0}};
    struct agent_options o = {.policy = POLICY_MODEL, .answerer = &door, .prompt_file = "configs/prompts/hub-2.txt", .acting = ACT_BY_SKILLS, .parts = PART_ALL & ~PART_STUCK,
                              .history = history, .max_decisions = decisions, .greedy = true, .events = events};
    if (agent_new(game, &o, &a, &err) || agent_play_episode(a, 5, &r, &err)) fail_msg("%s", err.message);
    assert_int_equal(r.decided[BY_FALLBACK], 0);
    agent_free(a);
    engine_answerer_free(engine);
    token_chain_free(&l->said);
}

static void each_prompt_begins_with_the_one_before(void **state) {
    (void)state;
    struct listener l = {.refuse_at = 9};
    struct watcher w = {0};
    play(&l, &w, 8, 1, 34);
    assert_true(l.trims >= 3 && l.kept_tokens >= 20);
    assert_int_equal(l.again, w.refusals);
    assert_true(w.refusals >= 1);
    assert_non_null(strstr(w.refused.data, "\"go_to\",\"x\":0"));
    assert_in_range(w.with_history, 28, 33); /* few questions outgrow the context of this little model */
    /* Trims included, and the first question. */
    if (l.computed_tokens * 100 > l.prompt_tokens * 25) fail_msg("%lld of %lld tokens were computed", l.computed_tokens, l.prompt_tokens);
    buf_free(&w.refused);
}

static void votes_go_on_from_the_winner(void **state) {
    (void)state;
    struct listener l = {0};
    struct watcher w = {0};
    play(&l, &w, 4, 3, 10);
    assert_true(l.kept_tokens >= 5);
    buf_free(&w.refused);
}

/* Rungs of a ladder go on with one conversation, also when they have not a vocabulary in common: then replies go by their text. */
static void another_model_in_between(void **state) {
    (void)state;
    struct qvl_options o = {.threads = 1, .device = "cpu", .kv_bytes = 64 << 20};
    static const char *const others[] = {"tiny-c", "../../models/tinywoods-vl"};
    for (int i = 0; i < 2; i++) {
        struct qvl_model *second = golden_model(others[i], &o);
        struct engine_answerer *engine;
        struct err err;
        struct listener l = {0};
        struct watcher w = {0};
        assert_int_equal(engine_answerer_new(second, NULL, &engine, &err), 0);
        l.other = engine_answerer_door(engine);
        play(&l, &w, 12, 1, 11);
        assert_true(l.others >= 3 && l.questions >= 7);
        engine_answerer_free(engine);
        qvl_unload(second);
        buf_free(&w.refused);
    }
}

/* A conversation that has outgrown what there is room for is given up, and the question asked without it. */
static void a_failed_question_is_asked_alone(void **state) {
    (void)state;
    struct listener l = {.fail_at = 4};
    struct watcher w = {0};
    play(&l, &w, 16, 1, 6);
    assert_int_equal(l.failed, 1);
    assert_int_equal(l.trims, 1);
    buf_free(&w.refused);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_older_three_quarters_go_at_once),   cmocka_unit_test(what_was_told_is_not_told_again),
        cmocka_unit_test(a_turn_tells_what_is_new),              cmocka_unit_test(each_prompt_begins_with_the_one_before),
        cmocka_unit_test(votes_go_on_from_the_winner),           cmocka_unit_test(another_model_in_between),
        cmocka_unit_test(a_failed_question_is_asked_alone),
    };
    if (!file_exists("rom/tinywoods/tinywoods.gba")) {
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) printf("ok %zu # SKIP\n", i + 1);
        return 0;
    }
    return cmocka_run_group_tests(tests, open_game, close_game);
}
