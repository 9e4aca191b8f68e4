/* Memory that no game would hold: nothing may crash, and what cannot be read is named. Run it with SAN=1. */
#include "test.h"

#include "base/arena.h"
#include "base/json.h"
#include "memory_image.h"

static struct image image;
static struct world w;
static struct world_seen seen;
static uint32_t random_state = 5;
static uint32_t next_random(void) { return (random_state = random_state * 1566083941 + 1) >> 8; }

/* Decodes and uses everything that a world is used for. */
static void use(void) {
    image_decode(&image, &w);
    world_seen_update(&seen, &w);
    struct distance_field f;
    struct path_options o = {true, true};
    path_distances(&w, &w.stairs, 1, &o, &f);
    for (int i = 0; i < w.team_count; i++) path_step(&w, &f, w.team[i].at, w.team[i].facing, &o);
    for (int i = 0; i < w.foe_count; i++) path_distances(&seen.now, &w.foes[i].at, 1, &o, &f);
    if (w.state == STATE_UNREADABLE) assert_true(w.unread_count > 0);
}
/* The JSON of any world is valid. */
static void print(void) {
    struct buf b = {0};
    struct arena a = {0};
    struct err err = {0};
    world_print_json(&w, &b);
    if (!json_parse(b.data, b.len, "world", &a, &err)) fail_msg("%s", err.message);
    arena_free(&a);
    world_print_text(&w, &b);
    world_print_text(&seen.now, &b);
    assert_false(b.failed);
    buf_free(&b);
}
static bool unread_mentions(const char *word) {
    for (int i = 0; i < w.unread_count; i++) {
        if (strstr(w.unread[i], word)) return true;
    }
    return false;
}

static void test_random_bytes(void **state) {
    (void)state;
    for (int n = 0; n < 40; n++) {
        for (size_t i = 0; i < sizeof image.ewram; i++) image.ewram[i] = (uint8_t)next_random();
        for (size_t i = 0; i < sizeof image.iwram; i++) image.iwram[i] = (uint8_t)next_random();
        use();
        assert_int_equal(w.state, STATE_UNREADABLE);
        image.d = IMAGE_DUNGEON; /* garbage behind sound globals: nothing that is decoded may be out of range */
        put32(&image, 0x0203B03C, 1), put32(&image, 0x0203B418, IMAGE_DUNGEON), put32(&image, 0x0202E744, 0);
        put8(&image, IMAGE_DUNGEON + 0x645, 1), put8(&image, 0x0203B40C, 1), put8(&image, IMAGE_DUNGEON + 0xF, 1);
        put32(&image, 0x0202EDD0, (uint32_t)(n % 12));
        use();
        print();
        assert_int_equal(w.unread_count, MAX_UNREAD);
        for (int i = 0; i < w.item_count; i++) assert_in_range(w.items[i].at.x, 0, 55);
        for (int i = 0; i < w.foe_count; i++) assert_in_range(w.foes[i].at.y, 0, 31);
    }
    memset(&image, 0xFF, sizeof image);
    use();
    assert_int_equal(w.state, STATE_UNREADABLE);
    memset(&image, 0, sizeof image);
    use();
    assert_int_equal(w.state, STATE_TITLE);
}

static void test_flipped_bytes(void **state) {
    (void)state;
    for (int n = 0; n < 4000; n++) {
        image_dungeon(&image);
        for (unsigned k = 0; k < 1 + next_random() % 40; k++) {
            /* Mostly where the decoder looks: pointers, entities, info, globals. */
            static const uint32_t places[][2] = {{0x1357C, 0x1A0}, {0x1381C, 0x4000}, {0x69C, 0x29A0}, {0x104C4, 0x380}, {0x644, 0x40},
                                                 {0x181E8, 0x30}, {0x1C070, 0x500}, {0x3804, 0x210}};
            unsigned place = next_random() % 10;
            uint32_t at = place < 8 ? IMAGE_DUNGEON + places[place][0] + next_random() % places[place][1]
                          : place == 8 ? 0x0202E700 + next_random() % 0x800 : 0x0203B000 + next_random() % 0x480;
            put8(&image, at, (int)(next_random() & (place & 1 ? 0xFF : 3)));
        }
        use();
        if (n % 50 == 0) print();
    }
}

static void test_dungeon_pointers(void **state) {
    (void)state;
    static const uint32_t bad[] = {1, 0x01FFFFFC, 0x02001002, 0x02001001, 0x02040000, 0x0203FFFC, 0x02040000 - 0x1CEDC + 4, 0x03000000,
                                   0x03007FFC, 0x08000000, 0xFFFFFFFC, 0x80000000};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        image_dungeon(&image);
        put32(&image, 0x0203B418, bad[i]);
        use();
        assert_int_equal(w.state, STATE_UNREADABLE);
        assert_true(unread_mentions("dungeon pointer"));
        print();
    }
    image_dungeon(&image);
    put32(&image, 0x0203B418, 0x02040000 - 0x1CEDC); /* the last place where it fits */
    use();
    assert_false(unread_mentions("dungeon pointer"));
}

static void test_entity_pointers(void **state) {
    (void)state;
    static const uint32_t bad[] = {2, 0x0203FFFC, 0x0203FF90, 0x02001003, 0x01FFFFFF, 0x02040000, 0x03007FF0, 0x08001000, 0xFFFFFFFF};
    static const struct { enum image_pool pool; int slot; const char *word; } slots[] = {
        {POOL_TEAM, 0, "team 0"}, {POOL_WILD, 3, "wild 3"}, {POOL_ITEMS, 5, "item 5"}, {POOL_TRAPS, 1, "trap 1"},
    };
    for (size_t s = 0; s < sizeof slots / sizeof *slots; s++) {
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            for (int level = 0; level < 2; level++) { /* the pointer to the entity, and the entity's pointer to its data */
                uint32_t at = level ? image_entity(&image, slots[s].pool, slots[s].slot) + 0x70
                                    : IMAGE_DUNGEON + image_pools[slots[s].pool].pointers + 4u * (uint32_t)slots[s].slot;
                image_dungeon(&image);
                put32(&image, at, bad[i]);
                use();
                assert_int_equal(w.state, STATE_FIELD); /* the rest is read all the same */
                if (bad[i] >> 8 == 0x0203FF && level && slots[s].pool >= POOL_ITEMS) continue; /* 4 bytes fit there: legal */
                if (!unread_mentions(slots[s].word)) fail_msg("0x%08X at level %d: '%s' is not noted", bad[i], level, slots[s].word);
            }
        }
    }
    image_dungeon(&image); /* a NULL slot is no error, it is empty */
    put32(&image, IMAGE_DUNGEON + 0x1358C, 0);
    use();
    assert_int_equal(w.foe_count, 1);
    assert_int_equal(w.unread_count, 0);
}

static void test_self_references(void **state) {
    (void)state;
    image_dungeon(&image);
    for (int pool = 0; pool < 4; pool++) {
        for (int i = 0; i < image_pools[pool].count; i++) { /* every slot points to the pointer array itself */
            put32(&image, IMAGE_DUNGEON + image_pools[pool].pointers + 4u * (uint32_t)i, IMAGE_DUNGEON + image_pools[pool].pointers);
        }
    }
    use();
    print();
    assert_int_equal(w.team_count, 0);
    assert_int_equal(w.leader, -1);
    image_dungeon(&image);
    uint32_t hero = image_entity(&image, POOL_TEAM, 0);
    put32(&image, hero + 0x70, hero); /* its data is the entity itself */
    use();
    print();
    image_dungeon(&image);
    put32(&image, 0x0203B460, 0x0203B460);
    use();
    print();
    image_dungeon(&image);
    image_dialogue(&image, 4, "Choose", 6);
    put32(&image, 0x0202EC14, 0x0202EC14); /* a choice list that is its own text */
    use();
    print();
}

static void test_values_out_of_range(void **state) {
    (void)state;
    static const struct { uint32_t at; int bytes; uint32_t value; const char *word; } cases[] = {
        {0x0203B03C, 4, 3, "main mode"}, {0x0203B03C, 4, 0xFFFFFFFF, "main mode"}, {0x0202E744, 4, 12, "dialogue state"},
        {0x0202E744, 4, 0x80000000, "dialogue state"}, {IMAGE_DUNGEON + 0x645, 1, 0, "floor 0"}, {IMAGE_DUNGEON + 0x645, 1, 200, "floor 200"},
        {IMAGE_DUNGEON + 0x18209, 1, 9, "visibility range"}, {IMAGE_DUNGEON + 0x16, 2, 20, "next slot"},
        {IMAGE_DUNGEON + 0x16, 2, 0xFFFF, "next slot"}, {IMAGE_DUNGEON + 0xE21C, 2, 56, "stairs"}, {IMAGE_DUNGEON + 0xE21C, 2, 0xFFFF, "stairs"},
        {IMAGE_DUNGEON + 0x104C4 + 6, 2, 57, "room 0"}, {IMAGE_DUNGEON + 0x104C4 + 2, 2, 0xFFFF, "room 0"},
        {IMAGE_DUNGEON + 0x1381C + 4, 2, 56, "team 0"}, {IMAGE_DUNGEON + 0x1381C + 6, 2, 0xFFFF, "team 0"},
        {IMAGE_DUNGEON + 0x1381C, 4, 3, "team 0"}, {IMAGE_DUNGEON + 0xEBC + 9, 1, 101, "wild 0"}, {IMAGE_DUNGEON + 0xEBC + 0x46, 1, 8, "wild 0"},
        {IMAGE_DUNGEON + 0xEBC + 0xE, 2, 0xFFFF, "wild 0"}, {IMAGE_DUNGEON + 0xEBC + 0x118 + 2, 2, 430, "move id"},
        {IMAGE_DUNGEON + 0x3804 + 1, 1, 100, "item 0"}, {IMAGE_DUNGEON + 0x3804 + 2, 1, 240, "item 0"}, {IMAGE_DUNGEON + 0x3908, 1, 20, "trap 0"},
        {IMAGE_BAG + 2, 1, 240, "bag slot 0"}, {0x02038C08, 4, 100000, "money"}, {0x02038C08, 4, 0xFFFFFFFF, "money"},
        {0x0203B460, 4, 0x0203FFFC, "bag: pointer"}, {IMAGE_DUNGEON + 0x3A18, 1, 3, "terrain kind 3"}, {IMAGE_DUNGEON + 0x69C + 7, 1, 0, "no leader"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image_dungeon(&image);
        for (int k = 0; k < cases[i].bytes; k++) put8(&image, cases[i].at + (uint32_t)k, (int)(cases[i].value >> 8 * k & 0xFF));
        use();
        print();
        if (!unread_mentions(cases[i].word)) fail_msg("case %zu: nothing says '%s' (%s)", i, cases[i].word, w.unread[0]);
    }
    image_dungeon(&image); /* both species fields must be wrong for a monster to be unreadable */
    put16(&image, IMAGE_DUNGEON + 0xEBC + 4, 9999);
    use();
    assert_int_equal(w.foes[0].species, 16);
    put16(&image, IMAGE_DUNGEON + 0xEBC + 2, 0);
    use();
    assert_true(unread_mentions("wild 0"));
}

/* A floor caught while it is made: any number of bytes of the struct written, the rest still zero or old. */
static void test_half_written_dungeons(void **state) {
    (void)state;
    static struct image whole;
    image_dungeon(&whole);
    for (uint32_t bytes = 0; bytes < 0x1CEDC; bytes += 0x3F1) {
        for (int old = 0; old < 2; old++) {
            memcpy(&image, &whole, sizeof image);
            memset(image_at(&image, IMAGE_DUNGEON + bytes), old ? 0xCD : 0, 0x1CEDC - bytes);
            use();
            if (bytes % 0x3F10 == 0) print();
        }
    }
}

static void test_texts_without_end(void **state) {
    (void)state;
    image_dungeon(&image);
    put32(&image, 0x0202E744, 7);
    memset(image_at(&image, 0x0202E798), 0x85, 1000); /* 3 bytes of UTF-8 each */
    static const uint32_t next[] = {0, 0x0202E798, 0x0202E797, 0x0202E798 + 1000, 0x0202E798 + 1001, 0xFFFFFFFF};
    for (size_t i = 0; i < sizeof next / sizeof *next; i++) {
        put32(&image, 0x0202E794, next[i]);
        use();
        print();
    }
    for (int i = 0; i < 20; i++) image_log_line(&image, i, 0, 0, "x"), memset(image_at(&image, IMAGE_DUNGEON + 0x1C073 + 0x40 * i), 0xE9, 61);
    use();
    print();
    assert_int_equal(w.log_count, 1);
    memset(image_at(&image, 0x0202E5D8), 'A', 80), put16(&image, 0x0202E77C, 8);
    use();
    assert_int_equal(strlen(w.speaker), 80);
}

static void test_no_memory(void **state) {
    (void)state;
    struct memory_view none = {0};
    world_decode(&none, "POKE DUNGEON", "B24E", &w);
    assert_int_equal(w.state, STATE_UNREADABLE);
    assert_int_equal(w.unread_count, 1);
    world_decode(&none, "a title that is much too long", "and a code", &w);
    assert_int_equal(strlen(w.title), 12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_bytes), cmocka_unit_test(test_flipped_bytes), cmocka_unit_test(test_dungeon_pointers),
        cmocka_unit_test(test_entity_pointers), cmocka_unit_test(test_self_references), cmocka_unit_test(test_values_out_of_range),
        cmocka_unit_test(test_half_written_dungeons), cmocka_unit_test(test_texts_without_end), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
