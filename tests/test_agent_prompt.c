/* The words of a prompt, the scenes and their actions, the explorer: on worlds made by hand. */
#include "test.h"

#include "agent/explore.h"
#include "agent/prompt.h"
#include "seen_world.h"

static int parse(const char *text, struct prompt_template *t, struct err *err) { return prompt_template_parse(text, strlen(text), "test.txt", t, err); }

static void names_are_told_apart_early(void **state) {
    (void)state;
    for (int i = 0; i < ACTION_COUNT; i++) {
        assert_int_equal(action_by_name(action_name[i]), i);
        for (int j = 0; j < ACTION_COUNT; j++) {
            if (i != j) assert_int_not_equal(strncmp(action_name[i], action_name[j], strlen(action_name[i])), 0);
        }
    }
    assert_int_equal(action_by_name("walk"), -1);
    assert_int_equal(action_by_name(""), -1);
}

static void a_template_is_filled(void **state) {
    (void)state;
    struct prompt_template t;
    struct prompt_memory m;
    struct err err = {0};
    char out[PROMPT_BYTES];
    make_world();
    prompt_forget(&m);
    assert_int_equal(parse("# c\nversion v1\n[system]\nGo.\n[user]\n{scene}[ {floor} hp {hp}/{max_hp}]\nlast {last}\nbeen n{been_n} e{been_e}\n"
                           "here {here}\nmsg {message}\n\n", &t, &err), 0);
    assert_string_equal(t.version, "v1");
    assert_string_equal(t.system[SCENE_FIELD], "Go.");
    seen.visits[5][6] = 3;
    seen.visits[5][7] = 200;
    assert_true(prompt_template_fill(&t, &(struct prompt_view){.seen = &seen, .scene = SCENE_FIELD, .memory = &m}, out, &err) > 0);
    assert_string_equal(out, "field B1F hp 45/45\nbeen n0 e9\nhere 3");
    for (int i = 0; i < 8; i++) prompt_did(&m, action_name[ACTION_WALK + i]);
    snprintf(seen.now.log[0], sizeof seen.now.log[0], "Fen hit\nThornling: 7 damage.");
    seen.now.log_count = 1;
    prompt_observe(&m, &seen.now, SCENE_FIELD);
    assert_true(prompt_template_fill(&t, &(struct prompt_view){.seen = &seen, .scene = SCENE_FIELD, .memory = &m}, out, &err) > 0);
    assert_string_equal(out, "field B1F hp 45/45\nlast walk_east walk_ne walk_north walk_nw walk_west walk_sw\nbeen n0 e9\nhere 3\n"
                             "msg fen hit thornling: 7 damage.");
    prompt_observe(&m, &seen.now, SCENE_FIELD); /* an old message is told once */
    assert_string_equal(m.message, "");
    memset(&seen.now, 0, sizeof seen.now);
    seen.now.leader = -1;
    struct prompt_memory nothing;
    prompt_forget(&nothing);
    assert_int_equal(prompt_template_fill(&t, &(struct prompt_view){.seen = &seen, .scene = SCENE_TITLE, .memory = &nothing}, out, &err), 5);
    assert_string_equal(out, "title");
    prompt_template_free(&t);
    /* Lines from memory, each with where it comes from; without any, the line is left out. */
    struct memory_lines recalled = {.count = 2, .lines = {{"stairs were north of the pond", "floor B1F, step 12"}, {"apples heal", "scratchpad, step 3"}}};
    assert_int_equal(parse("version v1\n[system]\nGo.\n[user]\n{scene}\nyou remember:{memory}\n", &t, &err), 0);
    assert_true(prompt_template_fill(&t, &(struct prompt_view){.seen = &seen, .scene = SCENE_TITLE, .memory = &m, .recalled = &recalled}, out, &err) > 0);
    assert_string_equal(out, "title\nyou remember:\nstairs were north of the pond (floor B1F, step 12)\napples heal (scratchpad, step 3)");
    recalled.count = 0;
    assert_true(prompt_template_fill(&t, &(struct prompt_view){.seen = &seen, .scene = SCENE_TITLE, .memory = &m, .recalled = &recalled}, out, &err) > 0);
    assert_string_equal(out, "title"); /* nothing is recalled: no heading either */
    prompt_template_free(&t);
}

/* The prompt for models that were not trained for the game: everything a player could know, by scene, and nothing else. */
static void the_hub_prompt_tells_what_is_seen(void **state) {
    (void)state;
    struct prompt_template t;
    struct prompt_memory m;
    struct err err = {0};
    static struct map_memory map;
    static struct skill_set set;
    static struct offer offer;
    char out[PROMPT_BYTES];
    if (prompt_template_load("configs/prompts/hub.txt", &t, &err)) fail_msg("%s", err.message);
    assert_int_equal(t.answers, ANSWER_SKILLS);
    assert_true(t.scratchpad && t.unstick);
    for (int i = 1; i < SCENE_COUNT; i++) {
        for (int k = 1; k < i; k++) assert_string_not_equal(t.system[i], t.system[k]); /* rules that fit the scene */
    }
    make_world();
    map_memory_reset(&map);
    prompt_forget(&m);
    assert_int_equal(skill_set_load("configs/skills", "explore fight heal", &set, &err), 0);
    put_foe(8, 4);
    struct sight sight = {&seen, &map, &set, SCENE_FIELD};
    offer_make(&sight, ANSWER_SKILLS, &offer);
    struct skill_count rates[] = {{"explore", 9, 7}};
    struct prompt_view v = {.seen = &seen, .scene = SCENE_FIELD, .memory = &m, .map = &map, .offer = &offer, .skills = &set, .rates = rates, .rate_count = 1};
    assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
    static const char *const told[] = {"scene: field\n", "you may choose:\nexplore: ", "(worked 7 of 9 times)", "\nfight: ", "HP 45/45 belly 50", "you are at 6,5 facing E",
                                       "x 0 to 20\ny2", "\ny5    #...@....", "2 NE at 8,4", "ways: ", "unknown E 4"};
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        if (!strstr(out, told[i])) fail_msg("'%s' is missing in\n%s", told[i], out);
    }
    assert_null(strstr(out, "heal: "));  /* not offered */
    assert_null(strstr(out, "stairs: ")); /* not seen */
    assert_null(strstr(out, "stuck"));
    v.unstick = true, v.stuck = "to_and_fro", v.refused = "walk_north: a wall is there";
    assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
    assert_non_null(strstr(out, "You are stuck (to_and_fro)"));
    assert_non_null(strstr(out, "not possible: walk_north: a wall is there"));
    v.picture_only = true; /* what was read from the game's memory is gone */
    assert_true(prompt_template_fill(&t, &v, out, &err) > 0);
    for (size_t i = 4; i < sizeof told / sizeof *told; i++) assert_null(strstr(out, told[i]));
    assert_non_null(strstr(out, "explore: "));
    prompt_template_free(&t);
}

static void bad_templates_are_refused(void **state) {
    (void)state;
    static const struct { const char *text, *says; } cases[] = {
        {"", "[system]"},
        {"version 1\n[system]\nx\n", "[user]"},
        {"[system]\nx\n[user]\ny\n", "version"},
        {"version 1\n[system]\nx\n[user]\n{exit}\n", "unknown placeholder {exit}"},
        {"version 1\n[system]\nx\n[user]\n{hp\n", "'{' without '}'"},
        {"version 1\n[system]\nx\n[user]\n[a [b]]\n", "brackets"},
        {"version 1\n[system]\nx\n[user]\n[a\n", "'[' without ']'"},
        {"hello\n", "expected"},
        {"version 1\n[system]\nx\n[user]\ny\n[stuck]\n{hp\n", "line 7: '{' without '}'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct prompt_template t;
        struct err err = {0};
        assert_true(parse(cases[i].text, &t, &err) < 0);
        assert_non_null(strstr(err.message, cases[i].says));
        assert_non_null(strstr(err.message, "test.txt"));
    }
    struct prompt_template t;
    struct err err = {0};
    assert_true(prompt_template_parse("version 1\0", 10, "test.txt", &t, &err) < 0);
    assert_true(prompt_template_load("/nonexistent/prompt", &t, &err) < 0);
}

static void the_bundled_prompt_is_short_and_hides_the_map(void **state) {
    (void)state;
    struct prompt_template t;
    struct prompt_memory m;
    struct err err = {0};
    char first[PROMPT_BYTES], second[PROMPT_BYTES];
    assert_int_equal(prompt_template_load("configs/prompts/tinywoods.txt", &t, &err), 0);
    make_world();
    prompt_forget(&m);
    for (int i = 0; i < 6; i++) prompt_did(&m, action_name[ACTION_WALK + 4]);
    assert_true(prompt_template_fill(&t, &(struct prompt_view){.seen = &seen, .scene = SCENE_FIELD, .memory = &m}, first, &err) > 0);
    assert_true(strlen(first) < 260);
    assert_int_equal(t.answers, ANSWER_STEPS);
    assert_non_null(strstr(t.skills, "explore"));
    struct prompt_view alone = {.seen = &seen, .scene = SCENE_FIELD, .memory = &m, .without = PART_MEMORY | PART_MAP};
    assert_true(prompt_template_fill(&t, &alone, second, &err) > 0); /* switched off: neither what was done nor where it was */
    assert_null(strstr(second, "last "));
    assert_null(strstr(second, "been "));
    assert_null(strstr(second, "here "));
    seen.now.stairs = (struct point){4, 4};
    seen.now.tiles[3][3].flags = TILE_WALL;
    assert_true(prompt_template_fill(&t, &(struct prompt_view){.seen = &seen, .scene = SCENE_FIELD, .memory = &m}, second, &err) > 0);
    assert_string_equal(first, second);
    prompt_template_free(&t);
}

static void only_fitting_actions_are_offered(void **state) {
    (void)state;
    bool offered[ACTION_COUNT];
    make_world();
    assert_int_equal(scene_offers(&seen.now, SCENE_FIELD, offered), 18); /* 8 walk, 8 hit, move, wait */
    seen.now.team[0].moves[0].pp = 0;
    assert_int_equal(scene_offers(&seen.now, SCENE_FIELD, offered), 17);
    assert_true(offered[ACTION_WALK + 4]); /* into the wall, too */
    assert_int_equal(scene_offers(&seen.now, SCENE_STAIRS, offered), 2);
    assert_true(offered[ACTION_PROCEED] && offered[ACTION_STAY]);
    assert_int_equal(scene_offers(&seen.now, SCENE_DIALOGUE, offered), 1);
    assert_int_equal(scene_offers(&seen.now, SCENE_CHOICE, offered), 2);
    assert_int_equal(scene_offers(&seen.now, SCENE_MENU, offered), 1);
    assert_int_equal(scene_offers(&seen.now, SCENE_NONE, offered), 0);
}

static void the_explorer_leaves_by_the_exit(void **state) {
    (void)state;
    const char *why = NULL;
    make_world();
    assert_true(tile_is_frontier(&seen.now, 10, 5));
    assert_false(tile_is_frontier(&seen.now, 9, 5));
    assert_int_equal(explore_step(&seen.now, &seen, false, &why), 2);
    assert_string_equal(why, "exploring");
    seen.now.stairs = (struct point){6, 3};
    seen.now.tiles[3][6].flags |= TILE_STAIRS;
    seen.now.team[0].facing = 4; /* facing east, north-east first would be as good */
    assert_int_equal(explore_step(&seen.now, &seen, false, &why), 4);
    seen.now.team[0].at = seen.now.stairs;
    assert_true(explore_step(&seen.now, &seen, false, &why) >= 0); /* off them again */
    /* Stairs seen across unknown ground: the frontier, not a wait. */
    make_world();
    seen.now.stairs = (struct point){20, 20};
    assert_int_equal(explore_step(&seen.now, &seen, false, &why), 2);
}

static void the_oracle_heals_eats_and_fights(void **state) {
    (void)state;
    const char *why = NULL;
    struct oracle *o = oracle_new(false);
    make_world();
    seen.now.foes[0] = (struct monster){.enemy = true, .at = {7, 5}, .hp = 9, .max_hp = 9, .visible = true};
    seen.now.foe_count = 1;
    assert_int_equal(oracle_decide(o, NULL, &seen, &why), ACTION_USE_MOVE);
    seen.now.team[0].moves[0].pp = 0;
    assert_int_equal(oracle_decide(o, NULL, &seen, &why), ACTION_HIT + 2);
    seen.now.team[0].facing = 4;
    assert_int_equal(oracle_decide(o, NULL, &seen, &why), ACTION_HIT + 2);
    seen.now.state = STATE_STAIRS;
    assert_int_equal(oracle_decide(o, NULL, &seen, &why), ACTION_PROCEED);
    seen.now.state = STATE_DIALOGUE_WAIT;
    assert_int_equal(oracle_decide(o, NULL, &seen, &why), ACTION_NEXT);
    seen.now.leader = -1;
    seen.now.state = STATE_FIELD;
    assert_true(oracle_decide(o, NULL, &seen, &why) >= 0);
    oracle_free(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_told_apart_early), cmocka_unit_test(a_template_is_filled), cmocka_unit_test(the_hub_prompt_tells_what_is_seen), cmocka_unit_test(bad_templates_are_refused),
        cmocka_unit_test(the_bundled_prompt_is_short_and_hides_the_map), cmocka_unit_test(only_fitting_actions_are_offered),
        cmocka_unit_test(the_explorer_leaves_by_the_exit), cmocka_unit_test(the_oracle_heals_eats_and_fights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
