/* The decoder against images made by the published layout (memory_image.h says what that proves): every state of the sheet's
 * section 2.5, and every field of a floor. */
#include "test.h"

#include <unistd.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "memory_image.h"

static struct image image;
static struct world w;

static void expect_state(enum game_state s) {
    image_decode(&image, &w);
    if (w.state != s) fail_msg("state %s, expected %s", game_state_name[w.state], game_state_name[s]);
}

static void test_title_and_ground(void **state) {
    (void)state;
    image_title(&image);
    expect_state(STATE_TITLE);
    assert_int_equal(w.unread_count, 0);
    assert_int_equal(w.leader, -1);
    image_ground(&image);
    expect_state(STATE_GROUND);
    assert_int_equal(w.unread_count, 0);
    assert_int_equal(w.money, 1200);
    assert_false(w.dialogue_waits);
    image_dialogue(&image, 9, "Hello.", 6);
    expect_state(STATE_GROUND);
    assert_true(w.dialogue_waits);
    assert_string_equal(w.dialogue_text, "Hello.");
    put32(&image, 0x03001B64, 0);
    expect_state(STATE_GROUND);
    assert_int_equal(w.unread_count, 1);
}

static void test_loading(void **state) {
    (void)state;
    image_dungeon(&image);
    put8(&image, 0x0203B40C, 0); /* title card, or results */
    expect_state(STATE_LOADING);
    assert_int_equal(w.floor, 2);
    assert_int_equal(w.team_count, 0);
    put16(&image, image.d + 0x1CE98 + 0x14, 551);
    put8(&image, 0x02000A88 + 134, 9);
    expect_state(STATE_LOADING);
    assert_int_equal(w.exit_reason, 551);
    assert_int_equal(w.story_start_mode, 9);
    put8(&image, image.d + 0x645, 0); /* generated only half: no floor number yet */
    expect_state(STATE_LOADING);
    put32(&image, 0x0203B418, 0);
    expect_state(STATE_LOADING);
    assert_int_equal(w.address_dungeon, 0);
    image_dialogue(&image, 7, "Saving...", 9);
    expect_state(STATE_DIALOGUE_WAIT);
}

static void test_dialogues(void **state) {
    (void)state;
    static const struct { int dialogue; enum game_state state; } cases[] = {
        {1, STATE_DIALOGUE}, {2, STATE_DIALOGUE}, {3, STATE_DIALOGUE}, {4, STATE_CHOICE}, {5, STATE_DIALOGUE}, {6, STATE_DIALOGUE},
        {7, STATE_DIALOGUE_WAIT}, {8, STATE_DIALOGUE_WAIT}, {9, STATE_DIALOGUE_WAIT}, {10, STATE_DIALOGUE}, {11, STATE_DIALOGUE},
    };
    image_dungeon(&image);
    put8(&image, image.d + 0xF, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image_dialogue(&image, cases[i].dialogue, "One.#PTwo~27s #CFpage#R!", 24);
        expect_state(cases[i].state);
        assert_string_equal(w.dialogue_text, "Two's page!");
        assert_int_equal(w.team_count, 2); /* the floor stays readable under a dialogue */
        assert_string_equal(w.speaker, "");
    }
    image_dialogue(&image, 1, "Printed and not printed", 7);
    image_decode(&image, &w);
    assert_string_equal(w.dialogue_text, "Printed");
    put_text(&image, 0x0202E5D8, "#CDBulbasaur#R"), put16(&image, 0x0202E77C, 8);
    image_decode(&image, &w);
    assert_string_equal(w.speaker, "Bulbasaur");
    image_dialogue(&image, 7, "Wait here#P", 11);
    image_decode(&image, &w);
    assert_string_equal(w.dialogue_text, "Wait here"); /* still on the screen */
}

static void test_choice_texts_are_in_the_rom(void **state) {
    (void)state;
    static uint8_t rom[0x400];
    image_dungeon(&image);
    image_dialogue(&image, 4, "Go on?", 6);
    put32(&image, 0x0202EC14, 0x08000100), put16(&image, 0x0202EBEC, 1);
    expect_state(STATE_CHOICE);
    assert_int_equal(w.choice_count, 0);
    assert_int_equal(w.unread_count, 1);
    assert_non_null(strstr(w.unread[0], "ROM"));
    memcpy(rom + 0x100, (uint32_t[]){0x08000200, 1, 0x08000204, 0, 0, 0}, 24);
    memcpy(rom + 0x200, "Yes\0*No", 8);
    struct memory_view v = image_view(&image);
    v.rom = rom, v.rom_bytes = sizeof rom;
    world_decode(&v, "POKE DUNGEON", "B24E", &w);
    assert_int_equal(w.choice_count, 2);
    assert_string_equal(w.choices[0], "Yes");
    assert_string_equal(w.choices[1], "No");
    assert_int_equal(w.choice_cursor, 1);
    assert_int_equal(w.unread_count, 0);
}

static void test_field_menus_stairs_animation(void **state) {
    (void)state;
    static const int field[] = {0, 1, 3}, menu[] = {6, 7, 8}, blank[] = {2, 4, 5, 999};
    image_dungeon(&image);
    for (int i = 0; i < 3; i++) put32(&image, 0x0202EDD0, (uint32_t)field[i]), expect_state(STATE_FIELD);
    for (int i = 0; i < 3; i++) put32(&image, 0x0202EDD0, (uint32_t)menu[i]), expect_state(STATE_MENU);
    for (int i = 0; i < 4; i++) put32(&image, 0x0202EDD0, (uint32_t)blank[i]), expect_state(STATE_ANIMATION);
    put32(&image, 0x0202EDD0, 9);
    expect_state(STATE_HISTORY);
    image_menu(&image, 10, 1, 2, (const int[]){56, 12});
    expect_state(STATE_MENU);
    assert_int_equal(w.menu_cursor, 1);
    assert_int_equal(w.action_count, 2);
    assert_string_equal(game_action_name(w.layout, w.actions[1].action), "Info");
    image_menu(&image, 10, 0, 2, (const int[]){38, 12});
    expect_state(STATE_STAIRS);
    assert_string_equal(game_action_name(w.layout, w.actions[0].action), "Proceed");
    put8(&image, image.d + 0xF, 0);
    expect_state(STATE_ANIMATION);
    put32(&image, 0x0202EDD0, 0);
    put8(&image, image.d + 2, 1);
    expect_state(STATE_ANIMATION);
    assert_int_equal(w.action_count, 0); /* rows of a closed menu are stale */
}

static void test_every_field_of_a_floor(void **state) {
    (void)state;
    image_dungeon(&image);
    uint32_t hero = image_data(&image, POOL_TEAM, 0), foe = image_data(&image, POOL_WILD, 0);
    put8(&image, foe + 0xA8, 1), put8(&image, foe + 0xA9, 6); /* asleep */
    put8(&image, foe + 0xB0, 4), put8(&image, foe + 0xB8, 3); /* wrapped */
    put8(&image, foe + 0xFD, 2);                              /* perish song */
    put8(&image, hero + 0x60, 1), put8(&image, hero + 0x61, 0), put8(&image, hero + 0x62, 46);
    image_decode(&image, &w);
    for (int i = 0; i < w.unread_count; i++) fail_msg("%s", w.unread[i]);
    assert_int_equal(w.state, STATE_FIELD);
    assert_int_equal(w.dungeon, 0);
    assert_int_equal(w.floor, 2);
    assert_int_equal(w.floors, 3);
    assert_int_equal(w.turn_limit_left, 987);
    assert_true(w.lit && w.floor_live && w.awaiting_player && w.has_bag);
    assert_int_equal(w.floor_seed, 0xABCDEF);
    assert_int_equal(w.dungeon_frames, 4321);
    assert_int_equal(w.address_dungeon, IMAGE_DUNGEON);
    assert_int_equal(w.camera_pixel.x, 36);
    assert_int_equal(w.camera_pixel.y, 64);

    assert_int_equal(w.team_count, 2);
    assert_int_equal(w.leader, 0);
    const struct monster *m = &w.team[0];
    assert_int_equal(m->species, 25);
    assert_string_equal(game_species_name(w.layout, m->species), "Pikachu");
    assert_int_equal(m->level, 5);
    assert_int_equal(m->hp, 21);
    assert_int_equal(m->max_hp, 24);
    assert_int_equal(m->at.x, 6);
    assert_int_equal(m->at.y, 6);
    assert_string_equal(direction_name[m->facing], "E");
    assert_true(m->leader && !m->enemy && m->visible);
    assert_int_equal(m->belly, 50); /* 49.3 is shown as 50 */
    assert_int_equal(m->max_belly, 100);
    assert_int_equal(m->exp, 500);
    assert_int_equal(m->iq, 7);
    assert_int_equal(m->move_count, 2);
    assert_string_equal(game_move_name(w.layout, m->moves[0].id), "Thundershock");
    assert_int_equal(m->moves[0].pp, 18);
    assert_true(m->moves[0].set && !m->moves[1].set);
    assert_int_equal(m->held.id, 46);

    assert_int_equal(w.foe_count, 2);
    m = &w.foes[0];
    assert_int_equal(m->species, 16);
    assert_true(m->enemy);
    assert_int_equal(m->status_count, 3);
    assert_string_equal(game_status_name(m->statuses[0].slot, m->statuses[0].value), "sleep");
    assert_int_equal(m->statuses[0].turns, 6);
    assert_string_equal(game_status_name(m->statuses[1].slot, m->statuses[1].value), "wrapped");
    assert_int_equal(m->statuses[1].turns, 3);
    assert_string_equal(game_status_name(m->statuses[2].slot, m->statuses[2].value), "perish_song");
    assert_int_equal(m->statuses[2].turns, 2);
    assert_int_equal(w.foes[1].spawn_id, 10 + 3 + 100);

    assert_int_equal(w.item_count, 2);
    assert_int_equal(w.items[0].id, 105);
    assert_int_equal(w.items[0].quantity, 10); /* the amount, not the index */
    assert_int_equal(w.items[1].id, 55);
    assert_int_equal(w.items[1].at.x, 24);
    assert_int_equal(w.trap_count, 3);
    assert_true(w.traps[0].visible && !w.traps[1].visible);
    assert_int_equal(w.bag_count, 2);
    assert_int_equal(w.bag[1].id, 7);
    assert_int_equal(w.bag[1].quantity, 5);
    assert_int_equal(w.money, 345);
    assert_int_equal(w.room_count, 2);
    assert_int_equal(w.rooms[1].end_x, 27);
    assert_true(w.rooms[0].discovered && !w.rooms[1].discovered);
    assert_int_equal(w.stairs.x, 25);
    assert_int_equal(w.stairs.y, 5);
    assert_int_equal(w.tiles[6][6].room, 0);
    assert_int_equal(w.tiles[6][12].room, 255);
    assert_int_equal(w.tiles[4][4].passable, 1 << 0 | 1 << 1 | 1 << 2);
    assert_int_equal(w.tiles[0][0].flags, TILE_BORDER);
    assert_int_equal(w.log_count, 2);
    assert_string_equal(w.log[0], "Pidgey was defeated!");
    assert_string_equal(w.log[1], "Gained 4 Exp.");
}

static void test_the_ring_of_the_log_turns(void **state) {
    (void)state;
    image_dungeon(&image);
    for (int i = 0; i < 20; i++) {
        char line[20];
        snprintf(line, sizeof line, "line %d", i);
        image_log_line(&image, i, 0, 1, line);
    }
    put16(&image, image.d + 0x16, 7);
    image_decode(&image, &w);
    assert_int_equal(w.log_count, 20);
    assert_string_equal(w.log[0], "line 7");
    assert_string_equal(w.log[19], "line 6");
}

static void test_bag_without_toolbox(void **state) {
    (void)state;
    image_dungeon(&image);
    put8(&image, image.d + 0x65B, 0);
    image_decode(&image, &w);
    assert_false(w.has_bag);
    assert_int_equal(w.bag_count, 0);
    assert_int_equal(w.money, 345);
    struct memory_view v = image_view(&image); /* the home-brew game always has one */
    world_decode(&v, "TINY WOODS", "TWDE", &w);
    assert_true(w.has_bag);
    assert_int_equal(w.bag_count, 2);
    assert_string_equal(game_item_name(w.layout, w.bag[0].id), "Apple");
    assert_int_equal(game_item_use(w.layout, 82), ITEM_USE_FOOD);
    assert_int_equal(game_item_use(w.layout, 55), ITEM_USE_HEAL);
    assert_int_equal(game_item_use(w.layout, 1), ITEM_USE_THROW);
    assert_int_equal(game_item_use(w.layout, 105), ITEM_USE_NONE);
}

static void test_foreign_games(void **state) {
    (void)state;
    static const struct { const char *title, *code, *word; } games[] = {
        {"POKEMON RED", "BPRE", "no layout table"}, {"POKE DUNGEON", "B24P", "region"}, {"POKE DUNGEON", "B24J", "region"},
        {"TINY WOODS", "B24E", "title"}, {"", "", "no layout"},
    };
    image_dungeon(&image);
    struct memory_view v = image_view(&image);
    for (size_t i = 0; i < sizeof games / sizeof *games; i++) {
        world_decode(&v, games[i].title, games[i].code, &w);
        assert_int_equal(w.state, STATE_UNREADABLE);
        assert_null(w.layout);
        assert_int_equal(w.unread_count, 1);
        if (!strstr(w.unread[0], games[i].word)) fail_msg("%s", w.unread[0]);
        assert_string_equal(game_species_name(w.layout, 25), "unknown");
        struct buf b = {0};
        world_print_text(&w, &b);
        world_print_json(&w, &b);
        buf_free(&b);
    }
}

static void test_names_cover_the_ids(void **state) {
    (void)state;
    image_dungeon(&image);
    image_decode(&image, &w);
    const struct game_layout *g = w.layout;
    assert_string_equal(game_species_name(g, 290), "Wurmple");
    assert_string_equal(game_species_name(g, 423), game_species_name(g, 423));
    assert_string_equal(game_species_name(g, 424), "unknown");
    assert_string_equal(game_species_name(g, -1), "unknown");
    assert_string_equal(game_item_name(g, 239), "G Machine 8");
    assert_string_equal(game_item_name(g, 240), "unknown item");
    assert_string_equal(game_dungeon_name(g, 1), "Thunderwave Cave");
    assert_string_equal(game_trap_name(g, 5), "Pitfall Trap");
    for (int i = -5; i < 600; i++) {
        assert_non_null(game_species_name(g, i));
        assert_non_null(game_item_name(g, i));
        assert_non_null(game_move_name(g, i));
        assert_non_null(game_trap_name(g, i));
        assert_non_null(game_dungeon_name(g, i));
        assert_non_null(game_action_name(g, i));
        (void)game_item_use(g, i);
    }
}

/* src/game/names_tinywoods.c is generated: it must be what the tool makes of the ROM's table today. */
static void test_names_of_the_bundled_game_are_current(void **state) {
    (void)state;
    char path[] = "/tmp/pmd-names-XXXXXX", command[200];
    struct buf made = {0}, kept = {0};
    struct err err = {0};
    if (system("python3 -c pass >/dev/null 2>&1")) skip_because("no python3, which tools/make_names.py needs");
    int fd = mkstemp(path);
    snprintf(command, sizeof command, "python3 tools/make_names.py tinywoods rom/tinywoods/names.json %s", path);
    int status = system(command);
    if (!status) status = file_read(path, 1 << 20, &made, &err) || file_read("src/game/names_tinywoods.c", 1 << 20, &kept, &err);
    close(fd);
    unlink(path);
    assert_int_equal(status, 0);
    assert_int_equal(made.len, kept.len);
    assert_memory_equal(made.data, kept.data, kept.len);
    buf_free(&made);
    buf_free(&kept);
}

static void test_json_has_the_agreed_keys(void **state) {
    (void)state;
    static const char *const keys[] = {"game", "state", "dungeon", "leader", "team", "foes", "items", "bag", "traps", "stairs", "rooms",
                                       "terrain", "seen", "dialogue", "message_log", "money", "addresses", "unread"};
    struct buf b = {0};
    struct arena a = {0};
    struct err err = {0};
    image_dungeon(&image);
    image_decode(&image, &w);
    world_print_json(&w, &b);
    const struct json *j = json_parse(b.data, b.len, "world", &a, &err);
    if (!j) fail_msg("%s", err.message);
    assert_int_equal(j->count, sizeof keys / sizeof *keys);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) assert_non_null(json_get(j, keys[i]));
    const struct json *hero = json_get(j, "team")->items[0];
    static const char *const of_monster[] = {"species", "species_name", "level", "hp", "max_hp", "x", "y", "direction", "moves",
                                             "statuses", "held"};
    for (size_t i = 0; i < sizeof of_monster / sizeof *of_monster; i++) {
        assert_non_null(json_get(hero, of_monster[i]));
        assert_non_null(json_get(json_get(j, "foes")->items[0], of_monster[i]));
    }
    assert_string_equal(json_as_string(json_get(hero, "direction"), ""), "E");
    assert_int_equal(json_as_integer(json_get(hero, "belly"), 0), 50);
    assert_null(json_get(json_get(j, "foes")->items[0], "belly"));
    assert_string_equal(json_as_string(json_get(json_get(j, "game"), "code"), ""), "B24E");
    assert_true(json_as_bool(json_get(json_get(j, "game"), "supported"), false));
    assert_string_equal(json_as_string(json_get(j, "state"), ""), "field");
    assert_int_equal(json_as_integer(json_get(j, "leader"), -1), 0);
    assert_int_equal(json_as_integer(json_get(json_get(j, "stairs"), "x"), -1), 25);
    assert_int_equal(json_as_integer(json_get(json_get(j, "items")->items[0], "quantity"), -1), 10);
    assert_string_equal(json_as_string(json_get(json_get(j, "addresses"), "dungeon"), ""), "0x02001000");
    const struct json *terrain = json_get(j, "terrain"), *seen = json_get(j, "seen");
    assert_int_equal(terrain->count, 32);
    assert_int_equal(seen->count, 32);
    for (int y = 0; y < 32; y++) {
        assert_int_equal(terrain->items[y]->count, 56);
        assert_int_equal(seen->items[y]->count, 56);
    }
    assert_string_equal(terrain->items[5]->string, "####......##########.....>.#############################");
    assert_string_equal(seen->items[5]->string, "00033333333300000000000000000000000000000000000000000000");
    arena_free(&a);
    buf_free(&b);
}

static void test_speed(void **state) {
    (void)state;
    image_dungeon(&image);
    double best = 1;
    for (int round = 0; round < 20; round++) {
        double start = clock_seconds();
        for (int i = 0; i < 100; i++) image_decode(&image, &w);
        double each = (clock_seconds() - start) / 100;
        best = each < best ? each : best;
    }
    fprintf(stderr, "decode: %.1f us\n", best * 1e6);
#if !defined(__SANITIZE_ADDRESS__)
    assert_true(best < 20e-6);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_title_and_ground), cmocka_unit_test(test_loading), cmocka_unit_test(test_dialogues),
        cmocka_unit_test(test_choice_texts_are_in_the_rom), cmocka_unit_test(test_field_menus_stairs_animation),
        cmocka_unit_test(test_every_field_of_a_floor), cmocka_unit_test(test_the_ring_of_the_log_turns),
        cmocka_unit_test(test_bag_without_toolbox), cmocka_unit_test(test_foreign_games), cmocka_unit_test(test_names_cover_the_ids),
        cmocka_unit_test(test_names_of_the_bundled_game_are_current),
        cmocka_unit_test(test_json_has_the_agreed_keys), cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
