/* Skills: what a file may say and what is complained of, what the words mean, and skills that run on the bundled ROM. */
#include "test.h"

#include "agent/skill_ways.h"
#include "agent/skills.h"
#include "base/file.h"

static struct skill skill; /* large */
static struct skill_set set;

static int parse(const char *text, struct err *err) { return skill_parse(text, strlen(text), "dir/x.yaml", &skill, err); }

/* ---- files ---------------------------------------------------------------------------------------------------------------------- */

static void the_bundled_skills_are_read(void **state) {
    (void)state;
    struct err err = {0};
    if (skill_set_load("configs/skills", NULL, &set, &err)) fail_msg("%s", err.message);
    static const char *const needed[] = {"explore", "change_floor", "go_stairs", "go_to", "pick_up", "fight", "throw", "flee", "heal", "eat", "wait",
                                         "talk", "use_item", "next", "yes", "no", "close", "proceed", "stay"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        if (skill_find(&set, needed[i]) < 0) fail_msg("%s is missing", needed[i]);
    }
    assert_int_equal(set.offered, set.count);
    if (skill_set_load("configs/skills", "fight  explore", &set, &err)) fail_msg("%s", err.message);
    assert_int_equal(set.offered, 2);
    assert_string_equal(set.names[0], "fight");
    assert_true(set.count > 10); /* the others can be run, for forced exploration */
    assert_true(skill_set_load("configs/skills", "fight dance", &set, &err) < 0);
    assert_non_null(strstr(err.message, "configs/skills/dance.yaml"));
    assert_true(skill_set_load("configs/skills", "fight fight", &set, &err) < 0);
    assert_true(skill_set_load("configs/skills", "../x", &set, &err) < 0);
    assert_true(skill_set_load("/nonexistent", NULL, &set, &err) < 0);
    assert_non_null(strstr(err.message, "/nonexistent"));
}

#define SKILL(steps) "name: a\ndescription: b\nwhen: [field]\n" steps
static void complaints_name_file_and_line(void **state) {
    (void)state;
    static const struct { const char *text, *says; } cases[] = {
        {"", "line 1: expected keys and values"},
        {"name: [a\n", "line 2"},
        {"- a\n- b\n", "line 1: expected keys and values"},
        {SKILL("steps:\n  - do: dance\n"), "line 5: 'dance' is no act"},
        {SKILL("steps:\n  - walk: moon\n"), "line 5: 'moon' is no target"},
        {SKILL("steps:\n  - {do: wait, walk: foe}\n"), "line 5: steps: expected if, and one of do and walk"},
        {SKILL("steps:\n  - if: [field]\n"), "line 5: steps: a step has neither"},
        {SKILL("steps:\n  - {if: [happy], do: wait}\n"), "line 5: 'happy' is no condition"},
        {SKILL("steps:\n  - {if: [hp below lots], do: wait}\n"), "line 5: 'hp below lots': expected"},
        {SKILL("steps:\n  - {if: [hp below 120], do: wait}\n"), "from 0 to 100"},
        {SKILL("steps: wait\n"), "line 4: steps: expected a list"},
        {SKILL("steps: [{do: wait}]\nlimits: {turns: 0}\n"), "line 5: turns: expected a whole number from 1"},
        {SKILL("steps: [{do: wait}]\nlimits: {years: 1}\n"), "line 5: limits: expected turns or acts"},
        {SKILL("steps: [{do: wait}]\ncolour: red\n"), "line 5: unknown key 'colour'"},
        {SKILL("steps: [{do: wait}]\nname: again\n"), "line 5: a key stands twice"},
        {SKILL("steps: [{do: wait}]\narguments: [z]\n"), "line 5: arguments: expected [x, y], [item] or none"},
        {SKILL("steps: [{do: wait}]\nscenes: [moon]\n"), "line 5: expected title, field"},
        {SKILL("until: [turn_passed]\n"), "name, description, when and steps are needed"},
        {"name: Loud\ndescription: b\nwhen: [field]\nsteps: [{do: wait}]\n", "small letters"},
        {"name: a\ndescription: b\nwhen: [field]\nsteps: [{do: walk_north}]\n", "'walk_north' is no act"}, /* where to, not which way */
        {"name: a_name_that_is_much_too_long_for_a_skill\n", "line 1: name: expected a text of 1 to 23 bytes"},
        {"name: \"a\\0b\"\n", "line 1: name: expected a text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = {0};
        if (parse(cases[i].text, &err) >= 0) fail_msg("taken: %s", cases[i].text);
        if (!strstr(err.message, cases[i].says) || strncmp(err.message, "dir/x.yaml", 10)) fail_msg("%s\n-> %s", cases[i].text, err.message);
    }
    struct err err = {0};
    struct buf many = {0};
    buf_str(&many, "name: a\ndescription: b\nwhen: [field]\nsteps:\n");
    for (int i = 0; i <= MAX_RULES; i++) buf_str(&many, "  - do: wait\n");
    assert_true(skill_parse(many.data, many.len, "dir/x.yaml", &skill, &err) < 0);
    assert_non_null(strstr(err.message, "a list of at most 12"));
    buf_free(&many);
    assert_int_equal(parse(SKILL("steps: &s [{do: wait}]\n"), &err), 0);
    assert_int_equal(skill.rule_count, 1);
    assert_int_equal(skill.turns, SKILL_TURNS);
}

/* ---- on the bundled ROM ----------------------------------------------------------------------------------------------------------- */

static struct buf rom;
static struct emulator *game;
static struct hands hands;
static struct step step;
static struct world_seen seen;
static struct map_memory map;
static struct skill_room room;
static int did[400], did_count;

static void note_act(void *user, int act) {
    (void)user;
    if (did_count < 400) did[did_count++] = act;
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

static void look(void) {
    world_seen_update(&seen, &hands.world);
    map_memory_update(&map, &seen);
}

/* A new game, up to the first decision of the field. */
static void begin(uint32_t seed) {
    struct agent_options o = {0};
    hands_open(&hands, game, &o);
    hands_begin(&hands);
    hands.seen = &seen;
    world_seen_reset(&seen);
    map_memory_reset(&map);
    room = (struct skill_room){&hands, &seen, &map, note_act, NULL};
    did_count = 0;
    emulator_reset(game);
    hands_run(&hands, 0, 80, false);
    emulator_write32(game, 0x0203B458, seed);
    hands_act(&hands, ACTION_NEXT);
    for (hands_ready(&hands); scene_of(&hands.world) == SCENE_DIALOGUE; hands_ready(&hands)) assert_null(hands_act(&hands, ACTION_NEXT));
    assert_int_equal(scene_of(&hands.world), SCENE_FIELD);
    look();
}

static struct skill_result run(const struct skill *k, int a, int b) {
    struct skill_result r;
    step.press_count = 0;
    hands.step = &step;
    hands.presses_full = false;
    skill_run(k, &room, (int[2]){a, b}, &r);
    hands.step = NULL;
    return r;
}
static struct skill_result run_named(const char *name) {
    int k = skill_find(&set, name);
    assert_true(k >= 0);
    return run(&set.skills[k], 0, 0);
}

static bool stairs_reachable(enum scene scene) { /* seen across unknown ground is not enough */
    return skill_first_act(&set.skills[skill_find(&set, "change_floor")], &seen, &map, scene, NULL, NULL) >= 0;
}

static void exploring_finds_the_way_through_a_dungeon(void **state) {
    (void)state;
    assert_int_equal(skill_set_load("configs/skills", NULL, &set, NULL), 0);
    begin(1234);
    int grown = 0, floor = hands.floor, decisions = 0;
    for (; decisions < 300 && hands_outcome(&hands) == OUTCOME_NONE; decisions++) {
        enum scene scene = scene_of(&hands.world);
        const char *name = scene == SCENE_STAIRS ? "proceed" : scene == SCENE_DIALOGUE ? "next" : foe_beside(&seen.now) >= 0 ? "fight"
                         : stairs_reachable(scene) ? "change_floor" : "explore";
        if (scene == SCENE_FIELD) { /* what is told before is what is done first */
            int first = skill_first_act(&set.skills[skill_find(&set, name)], &seen, &map, scene, NULL, NULL);
            did_count = 0;
            struct skill_result r = run_named(name);
            assert_true(r.acts > 0);
            assert_int_equal(did[0], first);
            assert_int_equal(did_count, r.acts);
            grown += !strcmp(name, "explore") && r.success;
        } else {
            run_named(name);
        }
        look();
        if (hands.floor > floor) floor = hands.floor;
    }
    assert_int_equal(hands_outcome(&hands), OUTCOME_CLEARED);
    assert_int_equal(floor, 3);
    assert_true(grown > 3);
    assert_in_range(hands.turns, 60, 400);
    assert_int_equal(map.floor_count, 3);
    assert_true(map.floors[0].visited > 5 && map.floors[0].known > map.floors[0].visited);
}

static void skills_stop_at_limits_and_interruptions(void **state) {
    (void)state;
    struct err err = {0};
    struct skill_result r;
    begin(77);
    assert_int_equal(parse(SKILL("steps: [{do: wait}]\nlimits: {turns: 3}\n"), &err), 0);
    r = run(&skill, 0, 0);
    assert_int_equal(r.end, SKILL_LIMIT);
    assert_int_equal(r.turns, 3);
    assert_string_equal(r.words, "stopped: the skill's limit after 3 turns, without success");
    assert_int_equal(parse(SKILL("steps: [{do: wait}]\nlimits: {acts: 2}\nsuccess: [turn_passed]\n"), &err), 0);
    r = run(&skill, 0, 0);
    assert_int_equal(r.acts, 2);
    assert_true(r.success);
    assert_int_equal(parse(SKILL("steps: [{do: wait}]\ninterrupt: [turn_passed]\n"), &err), 0);
    r = run(&skill, 0, 0);
    assert_int_equal(r.end, SKILL_INTERRUPTED);
    assert_int_equal(r.turns, 1);
    assert_string_equal(r.words, "interrupted: turn_passed after 1 turns, without success");
    /* What was the case at the start does not interrupt. */
    assert_int_equal(parse(SKILL("steps: [{do: wait}]\ninterrupt: [hp above 1]\nlimits: {turns: 2}\n"), &err), 0);
    assert_int_equal(run(&skill, 0, 0).turns, 2);
    assert_int_equal(parse(SKILL("steps: [{do: wait}]\nuntil: [turn_passed]\n"), &err), 0);
    r = run(&skill, 0, 0);
    assert_int_equal(r.end, SKILL_DONE);
    assert_true(r.success);
    /* No rule fits: nothing is pressed. */
    assert_int_equal(parse(SKILL("steps: [{if: [menu], do: close}]\n"), &err), 0);
    r = run(&skill, 0, 0);
    assert_int_equal(r.end, SKILL_NOTHING);
    assert_int_equal(step.press_count, 0);
    /* A thousand acts at most by file, but a step has room for so many presses only. */
    assert_int_equal(parse(SKILL("steps: [{do: wait}]\nlimits: {turns: 1000, acts: 1000}\n"), &err), 0);
    r = run(&skill, 0, 0);
    assert_int_equal(r.end, SKILL_LIMIT);
    assert_false(hands.presses_full);
}

static void arguments_are_used(void **state) {
    (void)state;
    assert_int_equal(skill_set_load("configs/skills", NULL, &set, NULL), 0);
    begin(77);
    const struct monster *l = world_leader(&seen.now);
    struct point goal = l->at;
    for (int d = 0; d < 8; d++) { /* two steps straight on */
        if (!tile_step_allowed(&seen.now, l->at, d)) continue;
        struct point one = {(int16_t)(l->at.x + direction_dx[d]), (int16_t)(l->at.y + direction_dy[d])};
        if (tile_step_allowed(&seen.now, one, d)) goal = (struct point){(int16_t)(one.x + direction_dx[d]), (int16_t)(one.y + direction_dy[d])};
    }
    const struct skill *go = &set.skills[skill_find(&set, "go_to")];
    struct plan plan;
    assert_true(skill_first_act(go, &seen, &map, SCENE_FIELD, (int[2]){goal.x, goal.y}, &plan) >= 0);
    assert_int_equal(plan.count, 2);
    assert_int_equal(plan.path[1].x, goal.x);
    assert_int_equal(plan.path[1].y, goal.y);
    struct skill_result r = run(go, goal.x, goal.y);
    assert_true(r.success);
    assert_int_equal(world_leader(&hands.world)->at.x, goal.x);
    assert_int_equal(world_leader(&hands.world)->at.y, goal.y);
    assert_true(skill_first_act(go, &seen, &map, SCENE_FIELD, (int[2]){0, 0}, &plan) < 0); /* rock */
    int things = seen.now.bag_count;
    assert_true(things > 0);
    r = run(&set.skills[skill_find(&set, "use_item")], 1, 0);
    assert_true(r.acts == 1);
    look();
    assert_true(r.success);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bundled_skills_are_read), cmocka_unit_test(complaints_name_file_and_line),
        cmocka_unit_test(exploring_finds_the_way_through_a_dungeon), cmocka_unit_test(skills_stop_at_limits_and_interruptions),
        cmocka_unit_test(arguments_are_used),
    };
    return cmocka_run_group_tests(tests, open_game, close_game);
}
