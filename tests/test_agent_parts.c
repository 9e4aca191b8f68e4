/* The parts around the model: choices and their schema, the gatekeeper, stuckness, map memory; and all of them in the loop. */
#include "test.h"

#include "agent/choice.h"
#include "agent/stuck.h"
#include "base/file.h"
#include "base/json.h"
#include "seen_world.h"

static struct skill_set set;
static struct map_memory map;
static struct sight sight = {&seen, &map, &set, SCENE_FIELD};

static void make_sight(const char *skills) {
    struct err err = {0};
    make_world();
    map_memory_reset(&map);
    sight = (struct sight){&seen, &map, &set, SCENE_FIELD};
    if (skill_set_load("configs/skills", skills, &set, &err)) fail_msg("%s", err.message);
}

/* ---- choices ---------------------------------------------------------------------------------------------------------------------- */

static bool answers(const struct offer *o, const char *text, struct choice *c, char reason[200]) {
    char note[NOTE_BYTES + 1];
    *reason = 0;
    return choice_parse(text, o, &sight, c, note, reason, 200);
}

static void skills_are_asked_for_with_their_arguments(void **state) {
    (void)state;
    struct offer o;
    struct choice c;
    struct buf schema = {0};
    char reason[200], text[64];
    make_sight(NULL);
    offer_make(&sight, ANSWER_SKILLS, &o);
    assert_true(o.skills[skill_find(&set, "explore")]);
    assert_true(o.skills[skill_find(&set, "go_to")]);
    assert_false(o.skills[skill_find(&set, "fight")]);    /* no foe */
    assert_false(o.skills[skill_find(&set, "use_item")]); /* empty bag */
    assert_false(o.skills[skill_find(&set, "go_stairs")]);
    offer_schema(&o, &sight, &schema);
    struct arena arena = {0};
    struct err err = {0};
    const struct json *root = json_parse(schema.data, schema.len, "schema", &arena, &err), *any = json_get(root, "anyOf");
    if (!any) fail_msg("%s: %s", err.message, schema.data);
    assert_int_equal(any->count, 2);
    assert_non_null(strstr(schema.data, "\"explore\""));
    assert_null(strstr(schema.data, "fight"));
    assert_non_null(strstr(schema.data, "[\"go_to\"]},\"x\":{\"type\":\"integer\""));
    arena_free(&arena);
    buf_free(&schema);
    assert_true(answers(&o, "{\"skill\":\"go_to\",\"x\":7,\"y\":5}", &c, reason));
    choice_print(&c, &set, text, sizeof text);
    assert_string_equal(text, "go_to 7 5");
    assert_null(gatekeeper_refuses(&c, &o, &sight));
    static const struct { const char *answer, *reason; } wrong[] = {
        {"{\"skill\":\"go_to\",\"x\":7}", "needs a whole number \"y\""}, {"{\"skill\":\"go_to\",\"x\":-1,\"y\":2}", "\"x\""},
        {"{\"skill\":\"quit\"}", "names no skill: quit"},               {"{\"action\":\"eat\"}", "no text \"skill\""},
        {"hello", "is no JSON"},                                        {"[]", "no text \"skill\""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(answers(&o, wrong[i].answer, &c, reason));
        if (!strstr(reason, wrong[i].reason)) fail_msg("%s: %s", wrong[i].answer, reason);
    }
    char note[NOTE_BYTES + 1];
    assert_true(choice_parse("{\"skill\":\"explore\",\"note\":\"north is a dead end\"}", &o, &sight, &c, note, reason, sizeof reason));
    assert_string_equal(note, "north is a dead end");
}

static void a_model_of_single_steps_chooses_among_skills(void **state) {
    (void)state;
    struct offer o;
    struct choice c;
    char reason[200];
    make_sight("explore fight wait");
    put_foe(6, 4); /* north of the leader, who faces east; the way out is east */
    offer_make(&sight, ANSWER_STEPS, &o);
    assert_int_equal(o.count, 3);
    assert_true(o.actions[ACTION_WALK + 2] && o.actions[ACTION_HIT + 4] && o.actions[ACTION_WAIT]);
    assert_true(answers(&o, "{\"action\":\"hit_north\"}", &c, reason));
    assert_int_equal(c.action, -1);
    assert_int_equal(c.skill, skill_find(&set, "fight"));
    assert_true(answers(&o, "{\"action\":\"walk_east\"}", &c, reason));
    assert_int_equal(c.skill, skill_find(&set, "explore"));
    struct choice none;
    assert_false(answers(&o, "{\"action\":\"walk_west\"}", &none, reason));
    assert_false(offer_withdraw(&o, &none));
    assert_true(offer_withdraw(&o, &c));
    assert_false(o.actions[ACTION_WALK + 2]);
    assert_int_equal(o.count, 2);
}

/* ---- the gatekeeper ----------------------------------------------------------------------------------------------------------------- */

static const char *refused(int action) {
    struct offer o;
    offer_make(&sight, ANSWER_ACTIONS, &o);
    struct choice c = {.action = action, .skill = -1};
    return gatekeeper_refuses(&c, &o, &sight);
}

static void the_impossible_is_refused_with_a_reason(void **state) {
    (void)state;
    make_sight(NULL);
    for (int d = 0; d < 8; d++) assert_null(refused(ACTION_WALK + d)); /* the middle of a room */
    seen.now.team[0].at = (struct point){3, 3};                        /* its corner */
    assert_string_equal(refused(ACTION_WALK + 4), "a wall is there");
    assert_string_equal(refused(ACTION_WALK + 6), "a wall is there");
    assert_null(refused(ACTION_WALK + 2));
    seen.now.team[0].at = (struct point){9, 4};
    assert_string_equal(refused(ACTION_WALK + 1), "a wall's corner is in the way"); /* to (10, 5), past the wall at (10, 4) */
    seen.now.team[0].at = (struct point){10, 5};
    assert_null(refused(ACTION_WALK + 2)); /* nobody knows what is there */
    seen.now.team[0].at = (struct point){6, 5};
    put_foe(7, 5);
    assert_string_equal(refused(ACTION_WALK + 2), "a foe stands there");
    assert_null(refused(ACTION_HIT + 2));
    assert_string_equal(refused(ACTION_EAT), "there is no food in the bag");
    assert_string_equal(refused(ACTION_HEAL), "there is nothing in the bag that heals");
    assert_string_equal(refused(ACTION_THROW), "there is nothing in the bag to throw");
    seen.now.team[0].moves[0].pp = 0;
    assert_string_equal(refused(ACTION_USE_MOVE), "no move is set, or it has no PP left");
    assert_string_equal(refused(ACTION_PROCEED), "that is not possible here");
    struct offer o;
    offer_make(&sight, ANSWER_SKILLS, &o);
    struct choice c = {-1, skill_find(&set, "go_to"), {2, 2}};
    assert_string_equal(gatekeeper_refuses(&c, &o, &sight), "there is nothing to do for it here, or no way");
    c.argument[0] = 30, c.argument[1] = 20;
    assert_string_equal(gatekeeper_refuses(&c, &o, &sight), "that tile is not known yet");
    c.skill = skill_find(&set, "heal");
    assert_string_equal(gatekeeper_refuses(&c, &o, &sight), "that skill is not offered here");
}

/* ---- stuckness ------------------------------------------------------------------------------------------------------------------------ */

static void observe_at(struct stuck *s, int x, int y, int turn) {
    seen.now.team[0].at = (struct point){(int16_t)x, (int16_t)y};
    stuck_observe(s, &seen, SCENE_FIELD, turn);
}

static void walking_to_and_fro_is_noticed(void **state) {
    (void)state;
    struct stuck s;
    int turn = 0;
    make_world();
    stuck_reset(&s);
    for (; turn < 60 && !s.level; turn++) observe_at(&s, 5 + turn % 2, 5, turn);
    assert_in_range(turn, 5, 25);
    assert_true(s.kind == STUCK_TO_AND_FRO || s.kind == STUCK_SAME_STATE);
    assert_int_equal(s.level, RUNG_MODEL);
    for (int i = 0; i < 6; i++, turn++) observe_at(&s, 5 + turn % 2, 5, turn);
    assert_int_equal(s.level, RUNG_PROMPT);
    for (int i = 0; i < 6; i++, turn++) observe_at(&s, 5 + turn % 2, 5, turn);
    assert_int_equal(s.level, RUNG_FORCE);
    stuck_forced(&s, turn);
    assert_int_equal(s.level, 0);
    assert_int_equal(s.forced, 1);
}

static void progress_ends_it(void **state) {
    (void)state;
    struct stuck s;
    int turn = 0;
    make_world();
    stuck_reset(&s);
    /* Round and round in the room: nothing new, though each time elsewhere. */
    static const struct point ring[] = {{4, 4}, {5, 4}, {6, 4}, {7, 4}, {7, 5}, {7, 6}, {6, 6}, {5, 6}, {4, 6}, {4, 5}};
    for (; turn < 60 && !s.level; turn++) observe_at(&s, ring[turn % 10].x, ring[turn % 10].y, turn);
    assert_int_equal(s.kind, STUCK_NOTHING_NEW);
    assert_in_range(turn, 15, 40);
    seen.now.tiles[5][11] = (struct tile){.flags = TILE_FLOOR, .visibility = 1, .room = 255}; /* the map grows */
    observe_at(&s, 9, 5, turn);
    assert_int_equal(s.level, 0);
    /* Walking on towards the stairs is progress without new tiles. */
    seen.now.stairs = (struct point){3, 3};
    seen.now.tiles[3][3].flags |= TILE_STAIRS;
    for (int x = 9; x > 3; x--) observe_at(&s, x, 4, ++turn);
    assert_int_equal(s.level, 0);
}

static void a_fight_and_a_talk_take_their_time(void **state) {
    (void)state;
    struct stuck s;
    make_world();
    stuck_reset(&s);
    put_foe(7, 5);
    for (int turn = 0; turn < 40; turn++) {
        seen.now.team[0].hp = (int16_t)(45 - turn);
        observe_at(&s, 6, 5, turn);
    }
    assert_int_equal(s.level, 0);
    stuck_reset(&s);
    snprintf(seen.now.dialogue_text, sizeof seen.now.dialogue_text, "Hello.");
    for (int i = 0; i < 5; i++) stuck_observe(&s, &seen, SCENE_DIALOGUE, 0);
    assert_int_equal(s.level, 0);
    stuck_observe(&s, &seen, SCENE_DIALOGUE, 0);
    assert_int_equal(s.kind, STUCK_TEXT);
    assert_int_equal(s.level, RUNG_MODEL);
    stuck_reset(&s);
    for (int i = 0; i < 12; i++) { /* text that goes on */
        snprintf(seen.now.dialogue_text, sizeof seen.now.dialogue_text, "Page %d", i);
        stuck_observe(&s, &seen, SCENE_DIALOGUE, 0);
    }
    assert_int_equal(s.level, 0);
}

/* ---- map memory ------------------------------------------------------------------------------------------------------------------------- */

static void the_map_is_told_in_words(void **state) {
    (void)state;
    char text[400];
    make_sight("explore");
    seen.floor_serial = 1;
    seen.visits[5][6] = 1;
    map_memory_update(&map, &seen);
    map_memory_text(&map, &seen, text, sizeof text);
    assert_non_null(strstr(text, "known 63 tiles, been on 1"));
    assert_non_null(strstr(text, "unknown E 4"));
    assert_non_null(strstr(text, "not been"));
    seen.floor_serial = 2;
    map_memory_update(&map, &seen);
    assert_int_equal(map.floor_count, 2);
}

/* ---- in the loop -------------------------------------------------------------------------------------------------------------------------- */

static struct buf rom;
static struct emulator *game;

/* Answers walk_north for ever, then what it is told; counts what it was asked. */
struct stubborn {
    int asked, refusals, escalations;
    char last_schema[4000];
    const char *answer;
    bool stronger;
};
static int stubborn_answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct stubborn *s = user;
    s->asked++;
    s->refusals += q->step->refused != NULL;
    snprintf(s->last_schema, sizeof s->last_schema, "%s", q->schema);
    const char *text = strstr(q->schema, "\"next\"") ? "{\"action\":\"next\"}" : strstr(q->schema, "proceed") ? "{\"action\":\"stay\"}" : s->answer;
    out->text = strdup(text);
    return out->text ? 0 : err_set(err, ERR_MEMORY, "out of memory");
}
static bool stubborn_escalate(void *user, const struct step *s, char *why, size_t cap) {
    struct stubborn *b = user;
    b->escalations += s->stuck_level == RUNG_MODEL;
    snprintf(why, cap, "a stronger model was asked for");
    return b->stronger;
}

static struct episode_result play_stubborn(struct stubborn *s, unsigned parts, int decisions) {
    struct answerer by = {stubborn_answer, s};
    struct agent_options o = {.policy = POLICY_MODEL, .answerer = &by, .greedy = true, .parts = parts, .max_decisions = decisions,
                              .escalate = stubborn_escalate, .escalate_user = s};
    struct agent *a;
    struct err err = {0};
    struct episode_result r;
    if (agent_new(game, &o, &a, &err)) fail_msg("%s", err.message);
    if (agent_play_episode(a, 3, &r, &err)) fail_msg("%s", err.message);
    agent_free(a);
    return r;
}

static void a_stubborn_model_is_helped_and_every_help_is_counted(void **state) {
    (void)state;
    struct stubborn s = {.answer = "{\"action\":\"walk_north\"}"};
    struct episode_result r = play_stubborn(&s, PART_GATEKEEPER, 60);
    /* It runs into the wall: refused, asked again, refused for what is not offered, and the default is taken. */
    assert_true(r.parts.refused > 5);
    assert_int_equal(r.parts.corrected, 0);
    assert_int_equal(r.decided[BY_GATEKEEPER], r.parts.refused);
    assert_int_equal(s.refusals, r.parts.refused);
    assert_null(strstr(s.last_schema, "walk_north\""));
    assert_int_equal(r.decided[BY_STUCK], 0);
    s = (struct stubborn){.answer = "{\"action\":\"walk_north\"}"};
    r = play_stubborn(&s, PART_GATEKEEPER | PART_STUCK | PART_MAP, 400);
    assert_true(r.decided[BY_STUCK] > 0);
    assert_true(r.parts.stuck[STUCK_SAME_STATE] + r.parts.stuck[STUCK_TO_AND_FRO] + r.parts.stuck[STUCK_NOTHING_NEW] > 0);
    assert_true(s.escalations > 0);
    assert_int_equal(r.parts.escalated, 0); /* nobody stronger was there */
    assert_true(r.floor_reached > 1);       /* forced exploration carries even this one on */
    assert_true(r.turns_by[BY_STUCK] > 0);
    int decided = 0, turns = 0;
    for (int i = 0; i < DECIDED_BY_COUNT; i++) decided += r.decided[i], turns += r.turns_by[i];
    assert_int_equal(decided, r.decisions);
    assert_int_equal(turns, r.turns);
    s = (struct stubborn){.answer = "{\"action\":\"walk_north\"}", .stronger = true};
    r = play_stubborn(&s, PART_GATEKEEPER | PART_STUCK | PART_MAP, 40);
    assert_true(r.parts.escalated > 0);
    s = (struct stubborn){.answer = "{\"action\":\"quit\"}"};
    r = play_stubborn(&s, PART_GATEKEEPER, 10);
    assert_true(r.decided[BY_GATEKEEPER] > 3);
    s = (struct stubborn){.answer = "{\"action\":\"walk_north\"}"};
    r = play_stubborn(&s, 0, 60); /* the model alone: nobody helps */
    assert_int_equal(r.decided[BY_MODEL], r.decisions);
    assert_int_equal(r.parts.refused, 0);
}

/* A model that never lets a turn pass: a soft-lock, out of which the watchdog goes back, when it may. */
struct parts_of { int begun, done, stuck, decisions; };
static void part_begun(void *user, uint32_t seed, struct emulator *e) {
    (void)seed, (void)e;
    ((struct parts_of *)user)->begun++;
}
static void part_done(void *user, const struct episode_result *r) {
    struct parts_of *p = user;
    p->done++, p->stuck += r->outcome == OUTCOME_STUCK, p->decisions += r->decisions;
}

static void the_watchdog_goes_back_when_it_may(void **state) {
    (void)state;
    for (int allowed = 0; allowed < 2; allowed++) {
        struct stubborn s = {.answer = "{\"action\":\"walk_north\"}"};
        struct answerer by = {stubborn_answer, &s};
        struct parts_of p = {0};
        struct agent_events events[] = {{.user = &p, .episode_begun = part_begun, .episode_done = part_done}, {0}};
        struct agent_options o = {.policy = POLICY_MODEL, .answerer = &by, .greedy = true, .max_decisions = 400, .watchdog = allowed, .events = events};
        struct agent *a;
        struct err err = {0};
        struct episode_result r;
        if (agent_new(game, &o, &a, &err)) fail_msg("%s", err.message);
        if (agent_play_episode(a, 3, &r, &err)) fail_msg("%s", err.message);
        agent_free(a);
        assert_int_equal(r.outcome, OUTCOME_STUCK);
        assert_int_equal(r.parts.restored, allowed ? 3 : 0);
        assert_int_equal(p.begun, allowed ? 4 : 1);
        assert_int_equal(p.stuck, p.begun);
        assert_int_equal(p.decisions, r.decisions); /* nothing is lost or counted twice */
    }
}

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(skills_are_asked_for_with_their_arguments), cmocka_unit_test(a_model_of_single_steps_chooses_among_skills),
        cmocka_unit_test(the_impossible_is_refused_with_a_reason), cmocka_unit_test(walking_to_and_fro_is_noticed), cmocka_unit_test(progress_ends_it),
        cmocka_unit_test(a_fight_and_a_talk_take_their_time), cmocka_unit_test(the_map_is_told_in_words),
        cmocka_unit_test(a_stubborn_model_is_helped_and_every_help_is_counted), cmocka_unit_test(the_watchdog_goes_back_when_it_may),
    };
    return cmocka_run_group_tests(tests, open_game, close_game);
}
