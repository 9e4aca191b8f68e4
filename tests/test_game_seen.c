/* Fairness: what a player could know, and nothing that depends on what he cannot. */
#include "test.h"

#include "base/clock.h"
#include "memory_image.h"

static struct image image;
static struct world w;
static struct world_seen seen;

static void update(void) {
    put32(&image, 0x0202EDCC, w.dungeon_frames + 1);
    image_decode(&image, &w);
    world_seen_update(&seen, &w);
}
static void start(void) {
    memset(&seen, 0, sizeof seen);
    image_dungeon(&image);
    update();
}
static void move_hero(int x, int y) {
    put16(&image, image_entity(&image, POOL_TEAM, 0) + 4, x), put16(&image, image_entity(&image, POOL_TEAM, 0) + 6, y);
    put16(&image, image.d + 0x181F0, 24 * x + 12 - 120), put16(&image, image.d + 0x181F2, 24 * y + 16 - 96);
}

static void test_lit_floor(void **state) {
    (void)state;
    start();
    const struct world *now = &seen.now;
    assert_int_equal(now->state, STATE_FIELD);
    assert_int_equal(now->team_count, 2);
    assert_int_equal(now->leader, 0);
    assert_int_equal(now->team[0].hp, 21);
    assert_int_equal(now->foe_count, 1);
    assert_int_equal(now->foes[0].species, 16);
    assert_int_equal(now->foes[0].at.x, 9);
    assert_int_equal(now->foes[0].spawn_id, 1);
    assert_int_equal(now->foes[0].hp, 0); /* no screen shows a foe's HP, level, moves */
    assert_int_equal(now->foes[0].level, 0);
    assert_int_equal(now->foes[0].move_count, 0);
    assert_int_equal(now->item_count, 1);
    assert_int_equal(now->items[0].id, 105);
    assert_int_equal(now->trap_count, 1); /* the visible one; the hidden one in the same room is not known */
    assert_int_equal(now->traps[0].at.x, 4);
    assert_int_equal(now->stairs.x, -1);
    assert_int_equal(now->room_count, 1);
    assert_int_equal(now->tiles[6][11].flags & TILE_KIND, TILE_FLOOR);
    assert_int_equal(now->tiles[6][12].flags, 0);
    assert_int_equal(now->tiles[6][12].visibility, 0);
    assert_int_equal(now->tiles[6][12].room, 255);
    assert_int_equal(now->floor_seed, 0);
    assert_int_equal(now->turn_limit_left, 0);
    assert_int_equal(now->unread_count, 0);
    assert_int_equal(now->bag_count, 2);
    assert_int_equal(now->log_count, 2);
    /* The way on looks closed where it is not known, and open where it is. */
    assert_true(tile_step_allowed(now, (struct point){10, 6}, 2));
    assert_false(tile_step_allowed(now, (struct point){11, 6}, 2));
    assert_true(tile_step_allowed(&w, (struct point){11, 6}, 2));
    assert_int_equal(seen.step, 1);
    assert_int_equal(seen.visits[6][6], 1);
    assert_int_equal(seen.last_visit[6][6], 1);
}

/* Whatever lies outside of the player's knowledge may change: `now` stays the same byte for byte. */
static void test_now_does_not_depend_on_the_unseen(void **state) {
    (void)state;
    static struct world_seen reference;
    start();
    memcpy(&reference, &seen, sizeof seen);
    uint32_t random = 11;
    for (int n = 0; n < 300; n++) {
        image_dungeon(&image);
        for (int y = 0; y < 32; y++) { /* terrain that was not shown */
            for (int x = 0; x < 56; x++) {
                uint32_t t = image_tile(&image, x, y);
                if (*image_at(&image, t + 4) & 1) {
                    put8(&image, t + 0xA, (int)((random = random * 1566083941 + 1) >> 16)); /* legality leaks what is next door */
                    continue;
                }
                random = random * 1566083941 + 1;
                put16(&image, t, (random >> 16 & 1) | (random >> 20 & 0x140));
                put8(&image, t + 9, random >> 24 & 1 ? 255 : 1);
            }
        }
        random = random * 1566083941 + 1;
        int sx = 20 + (random >> 16) % 30, sy = 12 + (random >> 24) % 18;
        put16(&image, image_tile(&image, 25, 5), 1);
        image_stairs(&image, sx, sy);
        uint32_t far = image_monster(&image, POOL_WILD, 3, 1 + (random >> 8) % 300, 9, 50, 60, 25 + (random >> 12) % 20, 20, 3);
        image_move(&image, far, 0, 1, 99, 9);
        if (random >> 9 & 1) put32(&image, image_entity(&image, POOL_WILD, 3), 0);
        image_monster(&image, POOL_WILD, 7, 102, 1, 5, 5, 40, 12 + (random >> 10) % 15, 1);
        uint32_t near = image_data(&image, POOL_WILD, 0); /* what nobody sees of the foe that is seen */
        put16(&image, near + 0xE, random >> 16 & 63), put8(&image, near + 9, random >> 11 & 31), image_move(&image, near, 1, 1, 44, 3);
        put16(&image, image_entity(&image, POOL_WILD, 0) + 0x26, random >> 16 & 0xFF);
        image_item(&image, 5, random >> 16 & 63, 0, 1, 30 + (random >> 18) % 20, 20);
        image_item(&image, 9, 55, 0, 1, 7, 3); /* buried in the wall of the room */
        image_trap(&image, 1, (random >> 13) % 20, false, 5 + (random >> 17) % 4, 7);
        image_trap(&image, 2, 7, true, 33, 22);
        image_room(&image, 1, 30, 20, 33 + (random >> 14) % 8, 25, false);
        put32(&image, image.d + 0x67C, random), put16(&image, image.d + 0x666, random >> 16 & 1023);
        put32(&image, 0x0203B454, random), put16(&image, image.d + 0x1CE98 + 0x14, 0);
        image_passable(&image);
        put32(&image, 0x0202EDCC, random);
        memset(&seen, 0, sizeof seen);
        image_decode(&image, &w);
        world_seen_update(&seen, &w);
        if (memcmp(&seen.now, &reference.now, sizeof seen.now)) {
            const uint8_t *a = (const uint8_t *)&seen.now, *b = (const uint8_t *)&reference.now;
            size_t at = 0;
            while (a[at] == b[at]) at++;
            fail_msg("round %d: byte %zu of now differs", n, at);
        }
    }
}

static void test_the_screen_is_the_limit(void **state) {
    (void)state;
    start();
    static const struct { int dx, dy; bool shown; } places[] = {
        {5, 0, true}, {-5, 0, true}, {6, 0, false}, {-6, 0, false}, {0, 2, true}, {0, 3, true}, {0, 4, false}, {0, -3, true}, {0, -4, false},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        move_hero(12, 12);
        image_monster(&image, POOL_WILD, 0, 16, 1, 9, 11, 12 + places[i].dx, 12 + places[i].dy, 0);
        update();
        if (seen.now.foe_count != places[i].shown) fail_msg("(%d, %d): %d foes", places[i].dx, places[i].dy, seen.now.foe_count);
    }
    image_monster(&image, POOL_WILD, 0, 16, 1, 9, 11, 13, 12, 0);
    put8(&image, image_data(&image, POOL_WILD, 0) + 0xE4, 1); /* invisible */
    update();
    assert_int_equal(seen.now.foe_count, 0);
}

static void test_stairs_and_memory(void **state) {
    (void)state;
    start();
    move_hero(20, 6); /* room 1: on the screen, though not on the map yet */
    update();
    assert_int_equal(seen.now.stairs.x, 25);
    assert_true(seen.now.tiles[5][25].flags & TILE_STAIRS);
    assert_int_equal(seen.now.item_count, 2);
    assert_int_equal(seen.now.trap_count, 1);
    assert_int_equal(seen.now.foe_count, 1);
    assert_int_equal(seen.now.foes[0].spawn_id, 2);
    move_hero(6, 6);
    put32(&image, image_entity(&image, POOL_ITEMS, 5), 0); /* taken by somebody, unseen */
    update();
    assert_int_equal(seen.now.stairs.x, 25); /* remembered */
    assert_int_equal(seen.now.item_count, 2);
    assert_int_equal(seen.now.foe_count, 1);
    assert_int_equal(seen.now.foes[0].spawn_id, 1); /* the same as before */
    move_hero(20, 6);
    update();
    assert_int_equal(seen.now.item_count, 1); /* seen to be gone */
    assert_int_equal(seen.step, 4);
    assert_int_equal(seen.visits[6][20], 2);
    assert_int_equal(seen.last_visit[6][20], 4);

    image_dialogue(&image, 9, "Hm.", 3);
    update();
    assert_int_equal(seen.now.state, STATE_DIALOGUE_WAIT);
    assert_int_equal(seen.step, 4);
    put32(&image, 0x0202E744, 0);
    int serial = seen.floor_serial;
    put8(&image, 0x0203B40C, 0);
    update();
    put8(&image, 0x0203B40C, 1), put8(&image, image.d + 0x645, 3), put32(&image, image.d + 0x680, 5);
    move_hero(6, 6);
    update();
    assert_int_equal(seen.floor_serial, serial + 1);
    assert_int_equal(seen.now.stairs.x, -1);
    assert_int_equal(seen.now.item_count, 1);
    assert_int_equal(seen.visits[6][20], 0);
    assert_int_equal(seen.step, 1);
    world_seen_update(&seen, &w); /* the same frame again is no new decision */
    assert_int_equal(seen.step, 1);
}

static void test_dark_floor(void **state) {
    (void)state;
    start();
    put8(&image, image.d + 0x18209, 1), put8(&image, image.d + 0x1820C, 0);
    memset(&seen, 0, sizeof seen);
    update();
    assert_int_equal(seen.now.foe_count, 1); /* same room */
    assert_int_equal(seen.now.item_count, 1);
    move_hero(12, 6); /* corridor: one tile around */
    update();
    assert_int_equal(seen.now.foe_count, 0);
    image_monster(&image, POOL_WILD, 0, 16, 1, 9, 11, 13, 7, 0);
    update();
    assert_int_equal(seen.now.foe_count, 1);
    image_monster(&image, POOL_WILD, 0, 16, 1, 9, 11, 14, 6, 0);
    update();
    assert_int_equal(seen.now.foe_count, 0);
    put8(&image, image.d + 0x18209, 2);
    update();
    assert_int_equal(seen.now.foe_count, 1);
}

/* ---- path finding ---------------------------------------------------------------------------------------------------- */

static void test_paths(void **state) {
    (void)state;
    struct distance_field f;
    start();
    path_distances(&w, &w.stairs, 1, NULL, &f);
    assert_int_equal(f.steps[5][25], 0);
    assert_int_equal(f.steps[6][6], 19);
    assert_int_equal(f.steps[4][4], 21);
    assert_int_equal(f.steps[2][2], 0xFFFF);
    assert_int_equal(path_step(&w, &f, (struct point){6, 6}, -1, NULL), 2);
    assert_int_equal(path_step(&w, &f, w.stairs, 2, NULL), -1);
    assert_int_equal(path_step(&w, &f, (struct point){2, 2}, 2, NULL), -1);
    assert_int_equal(path_step(&w, &f, (struct point){-1, 99}, 2, NULL), -1);
    /* On the seen map the stairs are unknown: nothing leads there. */
    path_distances(&seen.now, &w.stairs, 1, NULL, &f);
    assert_int_equal(f.steps[6][6], 0xFFFF);
    /* Every step the field offers is legal and one nearer. */
    path_distances(&w, &w.stairs, 1, NULL, &f);
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) {
            struct point p = {(int16_t)x, (int16_t)y};
            if (f.steps[y][x] == 0xFFFF || f.steps[y][x] == 0) continue;
            int d = path_step(&w, &f, p, 0, NULL);
            assert_in_range(d, 0, 7);
            assert_true(tile_step_allowed(&w, p, d));
            assert_int_equal(f.steps[y + direction_dy[d]][x + direction_dx[d]], f.steps[y][x] - 1);
        }
    }
}

static void test_corner_rule_foes_and_traps(void **state) {
    (void)state;
    struct distance_field f;
    struct path_options both = {.avoid_traps = true, .foes_block = true};
    image_dungeon(&image);
    image_dig(&image, 10, 7, 0, 255), image_dig(&image, 10, 5, 1, 255); /* (10, 5) is diagonal to (9, 4) behind a wall at (10, 4) */
    image_passable(&image);
    image_decode(&image, &w);
    assert_false(tile_step_allowed(&w, (struct point){9, 4}, 1));
    assert_false(tile_attack_allowed(&w, (struct point){9, 4}, 1));
    assert_true(tile_attack_allowed(&w, (struct point){9, 5}, 2));
    assert_true(tile_attack_allowed(&w, (struct point){8, 5}, 3));
    assert_false(tile_attack_allowed(&w, (struct point){4, 4}, 4));
    image_dig(&image, 10, 4, 2, 255); /* liquid: no wall for the corner, but nothing to stand on */
    image_passable(&image);
    image_decode(&image, &w);
    assert_true(tile_step_allowed(&w, (struct point){9, 4}, 1));
    assert_true(tile_attack_allowed(&w, (struct point){9, 4}, 1));
    assert_false(tile_step_allowed(&w, (struct point){9, 4}, 2));
    assert_true(tile_attack_allowed(&w, (struct point){9, 4}, 2)); /* a hit reaches over liquid */

    image_dungeon(&image);
    image_monster(&image, POOL_WILD, 0, 16, 1, 9, 11, 12, 6, 6);
    image_decode(&image, &w);
    path_distances(&w, &w.stairs, 1, &both, &f);
    assert_int_equal(f.steps[6][6], 0xFFFF); /* a foe fills the corridor */
    path_distances(&w, &w.foes[0].at, 1, &both, &f);
    assert_int_equal(f.steps[6][6], 6); /* as a goal it can be reached */
    assert_int_equal(path_step(&w, &f, (struct point){11, 6}, 0, &both), 2);
    image_dungeon(&image);
    image_trap(&image, 0, 16, true, 7, 6);
    image_decode(&image, &w);
    path_distances(&w, &w.stairs, 1, &both, &f);
    assert_int_equal(f.steps[6][6], 19); /* around it costs nothing here */
    assert_int_not_equal(path_step(&w, &f, (struct point){6, 6}, 2, &both), 2);
    image_trap(&image, 0, 16, true, 13, 6);
    image_decode(&image, &w);
    path_distances(&w, &w.stairs, 1, &both, &f);
    assert_int_equal(f.steps[6][6], 0xFFFF);
    both.avoid_traps = false;
    path_distances(&w, &w.stairs, 1, &both, &f);
    assert_int_equal(f.steps[6][6], 19);
}

static void test_ties_keep_the_direction(void **state) {
    (void)state;
    struct distance_field f;
    image_dungeon(&image);
    image_decode(&image, &w);
    struct point goal = {8, 6}, from = {5, 5};
    path_distances(&w, &goal, 1, NULL, &f);
    assert_int_equal(f.steps[5][5], 3);
    assert_int_equal(path_step(&w, &f, from, 2, NULL), 2);
    assert_int_equal(path_step(&w, &f, from, 1, NULL), 1);
    assert_int_equal(path_step(&w, &f, from, 3, NULL), 3);
}

static void test_speed(void **state) {
    (void)state;
    struct distance_field f;
    double best = 1, best_seen = 1;
    image_dungeon(&image);
    for (int y = 1; y < 31; y++) {
        for (int x = 1; x < 55; x++) image_dig(&image, x, y, 1, 0); /* the worst case: one hall */
    }
    image_stairs(&image, 25, 5);
    image_passable(&image);
    image_decode(&image, &w);
    for (int round = 0; round < 20; round++) {
        double start_time = clock_seconds();
        for (int i = 0; i < 50; i++) path_distances(&w, &w.stairs, 1, NULL, &f);
        double each = (clock_seconds() - start_time) / 50;
        best = each < best ? each : best;
        start_time = clock_seconds();
        for (int i = 0; i < 50; i++) world_seen_update(&seen, &w);
        each = (clock_seconds() - start_time) / 50;
        best_seen = each < best_seen ? each : best_seen;
    }
    fprintf(stderr, "distances over the whole map: %.1f us; world_seen_update: %.1f us\n", best * 1e6, best_seen * 1e6);
#if !defined(__SANITIZE_ADDRESS__)
    assert_true(best < 50e-6);
    assert_true(best_seen < 50e-6);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lit_floor), cmocka_unit_test(test_now_does_not_depend_on_the_unseen),
        cmocka_unit_test(test_the_screen_is_the_limit), cmocka_unit_test(test_stairs_and_memory), cmocka_unit_test(test_dark_floor),
        cmocka_unit_test(test_paths), cmocka_unit_test(test_corner_rule_foes_and_traps),
        cmocka_unit_test(test_ties_keep_the_direction), cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
