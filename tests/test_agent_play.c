/* Whole episodes on the bundled ROM: the oracles clear it, a run is the same whoever watches, its presses reproduce it, and what can
 * go wrong ends in words. */
#include "test.h"

#include "agent/hands.h"
#include "base/file.h"

static struct buf rom;
static struct emulator *game;

static int open_game(void **state) {
    (void)state;
    struct err err = {0};
    if (file_read("rom/tinywoods/tinywoods.gba", 1 << 25, &rom, &err)) return fprintf(stderr, "%s\n", err.message), -1;
    if (emulator_open(rom.data, rom.len, NULL, &game, &err)) return fprintf(stderr, "%s\n", err.message), -1;
    return 0;
}
static int close_game(void **state) {
    (void)state;
    emulator_close(game);
    buf_free(&rom);
    return 0;
}

/* What a subscriber keeps of a run. */
struct trace {
    struct buf lines, start;
    struct key_press presses[40000];
    int press_count, blocked, failed, drawn;
    char first_frame_hash[33], last_state[33];
    uint64_t start_frame, first_frame;
    volatile bool *stop;
    uint32_t stop_at;
};

static void trace_begun(void *user, uint32_t seed, struct emulator *e) {
    struct trace *t = user;
    (void)seed;
    buf_clear(&t->start);
    t->start_frame = emulator_frame_number(e);
    assert_int_equal(emulator_state_save(e, &t->start, NULL), 0);
}
static void trace_acted(void *user, struct emulator *e) {
    (void)e;
    ((struct trace *)user)->drawn++;
}
static void trace_step(void *user, const struct step *s) {
    struct trace *t = user;
    if (s->number == 1) t->first_frame = s->first_frame;
    buf_printf(&t->lines, "%u %llu %s %s %s %s\n", s->number, (unsigned long long)s->first_frame, s->frame_hash, s->state_hash, s->scene, s->action);
    for (int i = 0; i < s->press_count; i++) t->presses[t->press_count++] = s->presses[i];
    if (strstr(s->reason, "blocked")) t->blocked++;
    else if (s->decided_by == BY_RANDOM && *s->reason) t->failed++, fprintf(stderr, "step %u %s: %s\n", s->number, s->action, s->reason);
    if (t->stop && s->number == t->stop_at) *t->stop = true;
}

static struct trace *play(struct agent_options o, uint32_t seed, struct episode_result *r) {
    struct trace *t = calloc(1, sizeof *t);
    struct agent_events events[] = {{.user = t, .episode_begun = trace_begun, .acted = trace_acted, .step_done = trace_step}, {0}};
    struct agent *a;
    struct err err = {0};
    assert_non_null(t);
    t->stop = o.stop;
    t->stop_at = 20;
    o.events = events;
    assert_int_equal(agent_new(game, &o, &a, &err), 0);
    assert_int_equal(agent_play_episode(a, seed, r, &err), 0);
    emulator_state_hash(game, t->last_state);
    agent_free(a);
    return t;
}
static void free_trace(struct trace *t) {
    buf_free(&t->lines);
    buf_free(&t->start);
    free(t);
}

static void the_oracles_clear_the_dungeon(void **state) {
    (void)state;
    int seeds = slow_tests() ? AGENT_TEST_SEEDS : 6;
    for (int policy = POLICY_ORACLE; policy <= POLICY_OMNISCIENT; policy += POLICY_OMNISCIENT - POLICY_ORACLE) {
        int cleared = 0;
        for (int i = 0; i < seeds; i++) {
            struct episode_result r;
            struct trace *t = play((struct agent_options){.policy = policy}, AGENT_TEST_SEED_FIRST + (uint32_t)i, &r);
            cleared += r.outcome == OUTCOME_CLEARED;
            assert_int_equal(r.floor_reached, 3);
            assert_in_range(r.turns, 3, 900);
            assert_int_equal(r.decided[policy == POLICY_ORACLE ? BY_ORACLE : BY_OMNISCIENT], r.decisions);
            free_trace(t);
        }
        assert_true(cleared * 100 >= seeds * (policy == POLICY_ORACLE ? 97 : 99));
    }
}

static void a_run_does_not_depend_on_who_watches(void **state) {
    (void)state;
    struct episode_result r, r2, r3;
    struct trace *a = play((struct agent_options){.policy = POLICY_ORACLE}, 77, &r);
    struct trace *b = play((struct agent_options){.policy = POLICY_ORACLE, .draw_all = true, .ask_oracle = true}, 77, &r2);
    struct trace *c = play((struct agent_options){.policy = POLICY_ORACLE}, 78, &r3);
    assert_string_equal(a->lines.data, b->lines.data);
    assert_string_equal(a->last_state, b->last_state);
    assert_true(b->drawn > a->drawn);
    assert_string_not_equal(a->lines.data, c->lines.data);
    free_trace(a), free_trace(b), free_trace(c);
}

static void the_presses_reproduce_the_run(void **state) {
    (void)state;
    struct episode_result r;
    struct trace *t = play((struct agent_options){.policy = POLICY_RANDOM}, 5, &r);
    struct emulator *again;
    struct err err = {0};
    char hash[33];
    assert_int_equal(emulator_open(rom.data, rom.len, NULL, &again, &err), 0);
    assert_int_equal(emulator_state_load(again, t->start.data, t->start.len, &err), 0);
    emulator_run(again, 0, (int)(t->first_frame - t->start_frame), true);
    for (int i = 0; i < t->press_count; i++) emulator_run(again, t->presses[i].keys, t->presses[i].frames, false);
    emulator_state_hash(again, hash);
    assert_string_equal(hash, t->last_state);
    emulator_close(again);
    free_trace(t);
}

static void random_play_ends_and_its_macros_work(void **state) {
    (void)state;
    struct episode_result r;
    for (uint32_t seed = 1; seed < 6; seed++) {
        struct trace *t = play((struct agent_options){.policy = POLICY_RANDOM}, seed, &r);
        assert_int_not_equal(r.outcome, OUTCOME_NONE);
        assert_int_not_equal(r.outcome, OUTCOME_STUCK);
        if (r.outcome != OUTCOME_CLEARED) assert_true(*r.cause);
        assert_int_equal(t->failed, 0); /* only walking into walls does nothing */
        assert_int_equal(r.decided[BY_RANDOM], r.decisions);
        free_trace(t);
    }
}

static void budget_and_stop_end_a_run(void **state) {
    (void)state;
    struct episode_result r;
    struct trace *t = play((struct agent_options){.policy = POLICY_ORACLE, .max_decisions = 10}, 3, &r);
    assert_int_equal(r.outcome, OUTCOME_OUT_OF_BUDGET);
    assert_int_equal(r.decisions, 10);
    free_trace(t);
    volatile bool stop = false;
    t = play((struct agent_options){.policy = POLICY_ORACLE, .stop = &stop}, 3, &r);
    assert_int_equal(r.outcome, OUTCOME_STOPPED);
    assert_in_range(r.decisions, 20, 21);
    free_trace(t);
}

/* The hands alone, action by action. */
static void macros_turn_hit_and_use_things(void **state) {
    (void)state;
    struct agent_options o = {0};
    struct hands h;
    hands_open(&h, game, &o);
    hands_begin(&h);
    emulator_reset(game);
    hands_run(&h, 0, 80, false);
    assert_int_equal(scene_of(&h.world), SCENE_TITLE);
    emulator_write32(game, 0x0203B458, 1234);
    assert_null(hands_act(&h, ACTION_NEXT));
    assert_true(hands_ready(&h));
    while (scene_of(&h.world) == SCENE_DIALOGUE) {
        assert_null(hands_act(&h, ACTION_NEXT));
        assert_true(hands_ready(&h));
    }
    assert_int_equal(scene_of(&h.world), SCENE_FIELD);
    for (int d = 0; d < 8; d++) {
        const struct monster *l = world_leader(&h.world);
        struct point at = l->at, partner = h.world.team[1].at;
        int turns = h.turns;
        if (at.x + direction_dx[d] == partner.x && at.y + direction_dy[d] == partner.y) continue; /* that is talking */
        assert_null(hands_act(&h, ACTION_HIT + d));
        assert_true(hands_ready(&h));
        assert_int_equal(world_leader(&h.world)->facing, d);
        assert_int_equal(world_leader(&h.world)->at.x, at.x);
        assert_int_equal(world_leader(&h.world)->at.y, at.y);
        assert_int_equal(h.turns, turns + 1);
    }
    static const struct { int action; enum item_use use; } things[] = {{ACTION_HEAL, ITEM_USE_HEAL}, {ACTION_EAT, ITEM_USE_FOOD}, {ACTION_THROW, ITEM_USE_THROW}};
    for (int i = 0; i < 3; i++) {
        int before = bag_count_use(&h.world, things[i].use), turns = h.turns;
        assert_true(before > 0);
        assert_null(hands_act(&h, things[i].action));
        assert_true(hands_ready(&h));
        assert_int_equal(bag_count_use(&h.world, things[i].use), before - 1);
        assert_int_equal(h.turns, turns + 1);
    }
    while (bag_find(&h.world, ITEM_USE_FOOD) >= 0) assert_null(hands_act(&h, ACTION_EAT)), hands_ready(&h);
    assert_non_null(hands_act(&h, ACTION_EAT)); /* says why not */
    int pp = leader_set_move(&h.world)->pp;
    assert_null(hands_act(&h, ACTION_USE_MOVE));
    assert_true(hands_ready(&h));
    assert_int_equal(leader_set_move(&h.world)->pp, pp - 1);
    /* A menu that somebody left open is closed. */
    hands_run(&h, KEY_B, 4, false);
    hands_run(&h, 0, 6, false);
    assert_int_equal(scene_of(&h.world), SCENE_MENU);
    assert_null(hands_act(&h, ACTION_CLOSE));
    assert_true(hands_ready(&h));
    assert_int_equal(scene_of(&h.world), SCENE_FIELD);
}

/* A small checkpoint with random weights: what it does is nonsense, but it is the model that does it. */
static void a_model_plays_within_the_schema(void **state) {
    (void)state;
    struct qvl_model *model;
    struct err err = {0};
    struct qvl_options options = {.device = "cpu", .threads = 1};
    struct episode_result first, r;
    if (qvl_load("tests/golden/tiny-a", &options, &model, &err)) fail_msg("%s", err.message);
    struct agent_options o = {.policy = POLICY_MODEL, .model = model, .greedy = true, .max_decisions = 12};
    struct trace *t = play(o, 9, &first), *u = play(o, 9, &r);
    assert_int_equal(first.decided[BY_MODEL], 12);
    assert_int_equal(first.decided[BY_FALLBACK], 0);
    assert_true(first.tokens > 0);
    assert_string_equal(t->lines.data, u->lines.data);
    free_trace(t), free_trace(u);
    static const enum picture pictures[] = {PICTURE_BLANK, PICTURE_OTHER_SEED};
    for (int i = 0; i < 2; i++) {
        o.picture = pictures[i];
        t = play(o, 9, &r);
        assert_int_equal(r.decided[BY_MODEL], 12);
        free_trace(t);
    }
    o.picture = PICTURE_REAL;
    o.prompt_file = "/nonexistent/prompt.txt";
    struct agent *a;
    assert_true(agent_new(game, &o, &a, &err) < 0);
    assert_non_null(strstr(err.message, "/nonexistent/prompt.txt"));
    qvl_unload(model);
}

static void a_game_without_a_title_is_an_error(void **state) {
    (void)state;
    struct buf other = {0};
    struct emulator *e;
    struct agent *a;
    struct err err = {0};
    struct episode_result r;
    buf_append(&other, rom.data, rom.len);
    memcpy(other.data + 0xAC, "ZZZE", 4); /* a game of which nothing is known */
    uint8_t sum = 0;
    for (int i = 0xA0; i < 0xBD; i++) sum = (uint8_t)(sum - (uint8_t)other.data[i]);
    other.data[0xBD] = (char)(sum - 0x19);
    assert_int_equal(emulator_open(other.data, other.len, NULL, &e, &err), 0);
    struct agent_options o = {.policy = POLICY_ORACLE};
    assert_int_equal(agent_new(e, &o, &a, &err), 0);
    assert_true(agent_play_episode(a, 1, &r, &err) < 0);
    assert_non_null(strstr(err.message, "title"));
    agent_free(a);
    emulator_close(e);
    buf_free(&other);
    o.policy = POLICY_MODEL; /* and no model */
    assert_true(agent_new(game, &o, &a, &err) < 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oracles_clear_the_dungeon), cmocka_unit_test(a_run_does_not_depend_on_who_watches),
        cmocka_unit_test(the_presses_reproduce_the_run), cmocka_unit_test(random_play_ends_and_its_macros_work),
        cmocka_unit_test(budget_and_stop_end_a_run), cmocka_unit_test(macros_turn_hit_and_use_things),
        cmocka_unit_test(a_model_plays_within_the_schema), cmocka_unit_test(a_game_without_a_title_is_an_error),
    };
    return cmocka_run_group_tests(tests, open_game, close_game);
}
