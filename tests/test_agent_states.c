/* Every state of the real game by its published layout: recognised, put into a scene, offered what fits, told in the prompt. The images are
 * made by the sheet, so this tests the agent against the sheet; whether the sheet is right about the game only the game can show. */
#include "test.h"

#include "agent/choice.h"
#include "agent/perceive.h"
#include "agent/prompt.h"
#include "memory_image.h"

static struct image m;
static struct world world;
static struct world_seen seen;
static struct skill_set set;
static struct prompt_template hub;

static const int stairs_rows[] = {38, 12}, item_rows[] = {13, 11};
static const char text[] = "#CFMoss#R: Is this the way~2c do you think?";

/* One image per state of section 2.5 of the sheet. */
static void make(int n) {
    if (n == 0) image_title(&m);
    else if (n == 1) memset(&m, 0, sizeof m); /* boot: main mode 0, no menu yet */
    else if (n <= 5) image_ground(&m);
    else image_dungeon(&m);
    switch (n) {
    case 3: image_dialogue(&m, 7, text, sizeof text - 1); break;
    case 4: image_dialogue(&m, 4, text, sizeof text - 1); break;
    case 5: image_dialogue(&m, 2, text, 5); break;
    case 7: image_dialogue(&m, 8, text, sizeof text - 1); break;
    case 8: image_dialogue(&m, 9, text, sizeof text - 1); break;
    case 9: image_dialogue(&m, 4, text, sizeof text - 1); break;
    case 10: image_dialogue(&m, 1, text, 3); break;
    case 11: put8(&m, 0x0203B40C, 0); break;                          /* floor title card or results */
    case 12: put32(&m, 0x0203B418, 0); break;                         /* loading */
    case 13: image_menu(&m, 7, 1, 0, NULL); break;
    case 14: image_menu(&m, 6, 0, 0, NULL); break;                    /* the short menu after 1800 idle frames */
    case 15: image_menu(&m, 10, 0, 2, stairs_rows); break;
    case 16: image_menu(&m, 10, 1, 2, item_rows); break;
    case 17: image_menu(&m, 9, 0, 0, NULL); break;
    case 18: put8(&m, m.d + 0xF, 0); break;                           /* turns resolve */
    case 19: put8(&m, m.d + 0x65B, 0); break;                         /* the first visit: no toolbox */
    default: break;
    }
}

static const struct {
    const char *what;
    enum game_state state;
    enum scene scene;
    int offered;          /* one of the actions that must be offered; -1: nothing is */
    const char *told;     /* in the prompt */
} cases[] = {
    {"title with its menu", STATE_TITLE, SCENE_TITLE, ACTION_NEXT, "scene: title"},
    {"boot", STATE_TITLE, SCENE_TITLE, ACTION_NEXT, "scene: title"},
    {"ground, free to walk: not played yet", STATE_GROUND, SCENE_NONE, -1, NULL},
    {"ground, dialogue", STATE_GROUND, SCENE_DIALOGUE, ACTION_NEXT, "Is this the way, do you think?"},
    {"ground, choice", STATE_GROUND, SCENE_CHOICE, ACTION_YES, "Is this the way, do you think?"},
    {"ground, text being printed", STATE_GROUND, SCENE_NONE, -1, NULL},
    {"dungeon, field", STATE_FIELD, SCENE_FIELD, ACTION_WAIT, "foes: Pidgey"},
    {"dungeon, dialogue, box full", STATE_DIALOGUE_WAIT, SCENE_DIALOGUE, ACTION_NEXT, "Is this the way"},
    {"dungeon, dialogue, end of message", STATE_DIALOGUE_WAIT, SCENE_DIALOGUE, ACTION_NEXT, "Is this the way"},
    {"dungeon, choice", STATE_CHOICE, SCENE_CHOICE, ACTION_NO, "Is this the way"},
    {"dungeon, text being printed", STATE_DIALOGUE, SCENE_NONE, -1, NULL},
    {"title card of a floor, or results", STATE_LOADING, SCENE_NONE, -1, NULL},
    {"loading", STATE_LOADING, SCENE_NONE, -1, NULL},
    {"main menu", STATE_MENU, SCENE_MENU, ACTION_CLOSE, "scene: menu"},
    {"short main menu", STATE_MENU, SCENE_MENU, ACTION_CLOSE, "scene: menu"},
    {"stairs prompt", STATE_STAIRS, SCENE_STAIRS, ACTION_PROCEED, "menu: Proceed"},
    {"actions of an item", STATE_MENU, SCENE_MENU, ACTION_CLOSE, "menu: "},
    {"message history", STATE_HISTORY, SCENE_MENU, ACTION_CLOSE, "scene: menu"},
    {"turns resolve", STATE_ANIMATION, SCENE_NONE, -1, NULL},
    {"field without a toolbox", STATE_FIELD, SCENE_FIELD, ACTION_WAIT, "scene: field"},
};

static void every_state_is_recognised_and_handled(void **state) {
    (void)state;
    struct prompt_memory memory;
    struct map_memory map;
    char prompt[PROMPT_BYTES];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = {0};
        make((int)i);
        memset(&seen, 0, sizeof seen);
        image_decode(&m, &world);
        if (world.state != cases[i].state) fail_msg("%s: state %s", cases[i].what, game_state_name[world.state]);
        enum scene scene = scene_of(&world);
        if (scene != cases[i].scene) fail_msg("%s: scene %s", cases[i].what, scene_name[scene]);
        world_seen_update(&seen, &world);
        map_memory_reset(&map);
        map_memory_update(&map, &seen);
        struct sight sight = {&seen, &map, &set, scene};
        struct offer actions, skills;
        offer_make(&sight, ANSWER_ACTIONS, &actions);
        offer_make(&sight, ANSWER_SKILLS, &skills);
        if (cases[i].offered < 0) {
            assert_int_equal(actions.count, 0); /* nothing is pressed: the game is waited for */
            assert_int_equal(skills.count, 0);
            continue;
        }
        if (!actions.actions[cases[i].offered] || !skills.count) fail_msg("%s: nothing fits", cases[i].what);
        if (!hub.system[scene] || !*hub.system[scene]) fail_msg("%s: no rules", cases[i].what);
        prompt_forget(&memory);
        prompt_observe(&memory, &seen.now, scene);
        struct prompt_view v = {.seen = &seen, .scene = scene, .memory = &memory, .map = &map, .offer = &skills, .skills = &set};
        if (prompt_template_fill(&hub, &v, prompt, &err) < 0) fail_msg("%s: %s", cases[i].what, err.message);
        if (!strstr(prompt, cases[i].told)) fail_msg("%s: '%s' is not in\n%s", cases[i].what, cases[i].told, prompt);
        struct buf schema = {0};
        offer_schema(&skills, &sight, &schema);
        assert_false(schema.failed);
        buf_free(&schema);
    }
}

static void without_a_toolbox_nothing_of_a_bag_is_offered(void **state) {
    (void)state;
    struct offer o;
    make(19);
    memset(&seen, 0, sizeof seen);
    image_decode(&m, &world);
    assert_false(world.has_bag);
    world_seen_update(&seen, &world);
    struct sight sight = {&seen, NULL, &set, SCENE_FIELD};
    offer_make(&sight, ANSWER_ACTIONS, &o);
    assert_false(o.actions[ACTION_EAT] || o.actions[ACTION_HEAL] || o.actions[ACTION_THROW]);
    offer_make(&sight, ANSWER_SKILLS, &o);
    assert_false(o.skills[skill_find(&set, "use_item")]);
    assert_true(o.skills[skill_find(&set, "explore")]);
}

/* ---- RAM against picture ------------------------------------------------------------------------------------------------------------ */

struct looker { const char *says; struct question asked; char schema[2000]; };
static int look_answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct looker *l = user;
    l->asked = *q;
    snprintf(l->schema, sizeof l->schema, "%s", q->schema);
    out->text = strdup(l->says);
    return out->text ? 0 : err_set(err, ERR_MEMORY, "out of memory");
}

static void what_a_model_sees_is_scored_by_field(void **state) {
    (void)state;
    struct looker l = {.says = "{\"floor\":2,\"hp\":20,\"foes\":1,\"items\":1,\"stairs\":true,\"text\":false,\"menu\":false}"};
    struct answerer by = {look_answer, &l};
    struct ask_options ask = {.system = "x", .greedy = true, .answerer = &by};
    struct asker *asker;
    struct perceiver p;
    struct perception seen_by;
    struct perception_score score = {0};
    struct err err = {0};
    static const uint8_t picture[FRAME_PIXELS * 3];
    assert_int_equal(asker_new(NULL, &ask, &asker, &err), 0);
    if (perceiver_open(&p, NULL, asker, &err)) fail_msg("%s", err.message);
    make(6);
    memset(&seen, 0, sizeof seen);
    image_decode(&m, &world);
    world_seen_update(&seen, &world);
    perception_of_world(&seen.now, seen_by.truth);
    static const int truth[PERCEPTION_FIELDS] = {2, 21, 1, 1, 0, 0, 0}; /* one foe and the money are on the screen, the stairs are not */
    assert_memory_equal(seen_by.truth, truth, sizeof truth);
    perceiver_ask(&p, picture, 0, 0, 1, seen_by.said, NULL, 0, NULL, NULL);
    assert_ptr_equal(l.asked.rgb, picture);
    assert_null(strstr(l.asked.prompt, "21")); /* no words that give it away */
    assert_non_null(strstr(l.schema, "\"hp\":{\"type\":\"integer\""));
    perception_add(&score, &seen_by);
    static const int agreed[PERCEPTION_FIELDS] = {1, 0, 1, 1, 0, 1, 1};
    assert_memory_equal(score.agreed, agreed, sizeof agreed);
    l.says = "I see a cave"; /* no answer is a wrong answer */
    perceiver_ask(&p, picture, 0, 0, 1, seen_by.said, NULL, 0, NULL, NULL);
    perception_add(&score, &seen_by);
    assert_memory_equal(score.agreed, agreed, sizeof agreed);
    assert_int_equal(score.asked[PERCEIVE_HP], 2);
    make(7); /* under a box the field is not asked for */
    image_decode(&m, &world);
    perception_of_world(&world, seen_by.truth);
    assert_int_equal(seen_by.truth[PERCEIVE_FOES], PERCEPTION_NONE);
    assert_int_equal(seen_by.truth[PERCEIVE_TEXT], 1);
    perceiver_close(&p);
    asker_free(asker);
}

int main(void) {
    struct err err = {0};
    if (prompt_template_load("configs/prompts/hub.txt", &hub, &err) || skill_set_load("configs/skills", NULL, &set, &err)) return fprintf(stderr, "%s\n", err.message), 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_state_is_recognised_and_handled), cmocka_unit_test(without_a_toolbox_nothing_of_a_bag_is_offered),
                                       cmocka_unit_test(what_a_model_sees_is_scored_by_field)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    prompt_template_free(&hub);
    return failed;
}
