/* The emulator room: determinism, undrawn frames, publication to other threads, states, cartridge saves, bad input. */
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "emulator/emulator.h"
#include "tiny_rom.h"

static const char tinywoods[] = "rom/tinywoods/tinywoods.gba";

static struct emulator *open_tiny(const char *save) {
    uint8_t rom[TINY_ROM_BYTES];
    tiny_rom_write(rom, "TINY ROM", "ATST");
    struct emulator *e = NULL;
    struct err err = {0};
    if (emulator_open(rom, sizeof rom, save, &e, &err)) fail_msg("%s", err.message);
    return e;
}

/* The bundled game, or the tiny program while it is not there. */
static struct emulator *open_game(void) {
    if (!file_exists(tinywoods)) return open_tiny(NULL);
    struct buf rom = {0};
    struct emulator *e = NULL;
    struct err err = {0};
    if (file_read(tinywoods, 32 << 20, &rom, &err) || emulator_open(rom.data, rom.len, NULL, &e, &err)) fail_msg("%s", err.message);
    buf_free(&rom);
    return e;
}

/* Keys that depend only on the frame number: every button comes up, with pauses. */
static uint32_t keys_at(int i) {
    uint32_t h = (uint32_t)(i / 3) * 2654435761u;
    return h & 0x10000000 ? 1u << (h >> 8) % 10 : 0;
}
static void play(struct emulator *e, int from, int to, int draw_every) {
    for (int i = from; i < to; i++) emulator_run(e, keys_at(i), 1, draw_every && i % draw_every == draw_every - 1);
}

struct outcome { char state[33], frame[33]; };
static struct outcome outcome_of(struct emulator *e) {
    struct outcome o;
    uint8_t rgb[FRAME_PIXELS * 3];
    emulator_run(e, 0, 1, true);
    assert_int_not_equal(emulator_frame(e, rgb), 0);
    frame_hash(rgb, o.frame);
    emulator_state_hash(e, o.state);
    return o;
}
static void assert_same(struct outcome a, struct outcome b) {
    assert_string_equal(a.state, b.state);
    assert_string_equal(a.frame, b.frame);
}

static uint32_t word(struct emulator *e, uint32_t address) {
    struct memory_view m;
    emulator_memory(e, &m);
    uint32_t v;
    memcpy(&v, m.ewram + (address & 0x3FFFF), 4);
    return v;
}

static void test_runs_and_shows_memory(void **state) {
    (void)state;
    struct emulator *e = open_tiny(NULL);
    assert_string_equal(emulator_header(e)->title, "TINY ROM");
    assert_string_equal(emulator_header(e)->code, "ATST");
    assert_int_equal(emulator_run(e, 0, 10, false), 10);
    uint32_t frames = word(e, 0x02000000);
    assert_in_range(frames, 8, 11);
    assert_int_equal(emulator_run(e, KEY_A, 5, false), 15);
    assert_int_equal(word(e, 0x02000000), frames + 5);
    emulator_write32(e, 0x02000100, 0xCAFEF00D);
    assert_int_equal(word(e, 0x02000100), 0xCAFEF00D);
    emulator_reset(e);
    assert_int_equal(emulator_frame_number(e), 0);
    struct memory_view m;
    emulator_memory(e, &m);
    assert_int_equal(m.rom_bytes, TINY_ROM_BYTES);
    assert_int_equal(m.rom[0xB2], 0x96);
    emulator_close(e);
}

static void test_reset_is_a_new_start(void **state) {
    (void)state;
    struct emulator *a = open_game(), *b = open_game();
    play(a, 0, 333, 4);
    emulator_reset(a);
    struct buf one = {0}, two = {0};
    struct err err = {0};
    play(a, 0, 200, 4);
    play(b, 0, 200, 4);
    assert_same(outcome_of(a), outcome_of(b));
    assert_int_equal(emulator_state_save(a, &one, &err), 0);
    assert_int_equal(emulator_state_save(b, &two, &err), 0);
    assert_int_equal(one.len, two.len);
    for (size_t i = 0; i < one.len; i++) {
        if (one.data[i] != two.data[i]) fail_msg("states differ at 0x%zx", i);
    }
    buf_free(&one);
    buf_free(&two);
    emulator_close(a);
    emulator_close(b);
}

static void test_same_keys_same_game(void **state) {
    (void)state;
    struct emulator *a = open_game(), *b = open_game();
    play(a, 0, 900, 1);
    play(b, 0, 900, 1);
    assert_same(outcome_of(a), outcome_of(b));
    emulator_close(a);
    emulator_close(b);
}

/* Drawing is only looking: frames that are not drawn change neither the game nor the pictures that are. */
static void test_undrawn_frames_change_nothing(void **state) {
    (void)state;
    struct emulator *a = open_game(), *b = open_game(), *c = open_game();
    play(a, 0, 900, 1);
    play(b, 0, 900, 0);
    play(c, 0, 900, 7);
    struct outcome drawn = outcome_of(a);
    assert_same(drawn, outcome_of(b));
    assert_same(drawn, outcome_of(c));
    emulator_close(a);
    emulator_close(b);
    emulator_close(c);
}

static void *play_in_thread(void *game) {
    play(game, 0, 600, 3);
    return NULL;
}
static void test_two_games_in_two_threads(void **state) {
    (void)state;
    struct emulator *alone = open_game(), *pair[2] = {open_game(), open_game()};
    play(alone, 0, 600, 3);
    pthread_t t[2];
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&t[i], NULL, play_in_thread, pair[i]), 0);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    struct outcome expected = outcome_of(alone);
    for (int i = 0; i < 2; i++) {
        assert_same(expected, outcome_of(pair[i]));
        emulator_close(pair[i]);
    }
    emulator_close(alone);
}

/* A reader in another thread sees whole frames with rising numbers. In the tiny program, frame n differs from n - 1 in one pixel,
 * so a torn frame would not hash like any frame. */
struct watcher {
    struct emulator *e;
    atomic_int stop;
    int seen, wrong;
    char (*hashes)[33];
};
enum { WATCHED = 400 };
static void *watch(void *arg) {
    struct watcher *w = arg;
    uint8_t rgb[FRAME_PIXELS * 3];
    uint64_t last = 0;
    while (!atomic_load(&w->stop)) {
        uint64_t n = emulator_frame(w->e, rgb);
        if (n < last) w->wrong++;
        if (n && n != last) {
            char hash[33];
            frame_hash(rgb, hash);
            w->seen++;
            if (n > WATCHED || strcmp(hash, w->hashes[n])) w->wrong++;
        }
        last = n;
    }
    return NULL;
}
static void test_frames_reach_another_thread_whole(void **state) {
    (void)state;
    char(*hashes)[33] = calloc(WATCHED + 1, 33);
    struct emulator *e = open_tiny(NULL);
    uint8_t rgb[FRAME_PIXELS * 3];
    assert_int_equal(emulator_frame(e, rgb), 0);
    for (int i = 1; i <= WATCHED; i++) {
        emulator_run(e, 0, 1, true);
        assert_int_equal(emulator_frame(e, rgb), i);
        frame_hash(rgb, hashes[i]);
    }
    emulator_reset(e);
    assert_int_equal(emulator_frame(e, rgb), 0);
    struct watcher w = {.e = e, .hashes = hashes};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, watch, &w), 0);
    for (int i = 1; i <= WATCHED; i++) {
        emulator_run(e, 0, 1, true);
        if (i % 10 == 0) usleep(200);
    }
    usleep(2000);
    atomic_store(&w.stop, 1);
    pthread_join(t, NULL);
    assert_int_equal(w.wrong, 0);
    assert_true(w.seen > 0);
    emulator_close(e);
    free(hashes);
}

static void test_state_round_trip(void **state) {
    (void)state;
    struct emulator *a = open_game(), *b = open_game();
    struct err err = {0};
    struct buf one = {0}, two = {0};
    play(a, 0, 700, 5);
    assert_int_equal(emulator_state_save(a, &one, &err), 0);
    play(a, 700, 1100, 5);
    struct outcome expected = outcome_of(a);
    for (int again = 0; again < 2; again++) { /* into another game, and back into the first */
        struct emulator *e = again ? a : b;
        if (emulator_state_load(e, one.data, one.len, &err)) fail_msg("%s", err.message);
        assert_int_equal(emulator_frame_number(e), 0);
        two.len = 0;
        assert_int_equal(emulator_state_save(e, &two, &err), 0);
        assert_int_equal(one.len, two.len);
        assert_memory_equal(one.data, two.data, one.len);
        play(e, 700, 1100, 5);
        assert_same(expected, outcome_of(e));
    }
    buf_free(&one);
    buf_free(&two);
    emulator_close(a);
    emulator_close(b);
}

static void refuse(struct emulator *e, const void *bytes, size_t n, const char *word_in_error) {
    struct err err = {0};
    struct buf before = {0}, after = {0};
    assert_int_equal(emulator_state_save(e, &before, &err), 0);
    uint64_t frame = emulator_frame_number(e);
    assert_true(emulator_state_load(e, bytes, n, &err) < 0);
    if (!strstr(err.message, word_in_error)) fail_msg("expected '%s' in: %s", word_in_error, err.message);
    assert_int_equal(emulator_frame_number(e), frame);
    assert_int_equal(emulator_state_save(e, &after, &err), 0);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.data, after.data, before.len);
    buf_free(&before);
    buf_free(&after);
}
static void test_bad_states_change_nothing(void **state) {
    (void)state;
    struct emulator *e = open_tiny(NULL);
    struct err err = {0};
    struct buf s = {0};
    play(e, 0, 60, 0);
    assert_int_equal(emulator_state_save(e, &s, &err), 0);
    play(e, 60, 90, 0);
    refuse(e, s.data, 0, "whole state");
    refuse(e, s.data, 1000, "whole state");
    refuse(e, s.data, 0x61000 - 1, "whole state");
    for (size_t cut = 1; cut < s.len - 0x61000; cut++) {
        struct err why = {0};
        assert_true(emulator_state_load(e, s.data, s.len - cut, &why) < 0);
    }
    refuse(e, s.data, s.len - 1, "extension");
    uint8_t *bad = malloc(s.len);
    const struct { size_t at; uint8_t flip; const char *why; } damage[] = {
        {3, 0x40, "not an mGBA state"}, {0, 0x80, "newer"}, {8, 1, "another ROM"}, {0x10, 1, "another ROM"}, {0x1C, 1, "another ROM"},
        {0x5000, 1, "damaged"}, {0x30000, 0x80, "damaged"}, {0x61000 + 7, 0x7F, "extension"}, {0x61000 + 12, 1, "extension"},
    };
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        memcpy(bad, s.data, s.len);
        bad[damage[i].at] ^= damage[i].flip;
        refuse(e, bad, s.len, damage[i].why);
    }
    memset(bad, 0xA5, s.len);
    refuse(e, bad, s.len, "not an mGBA state");

    /* A bare machine has no checksum: what the core itself refuses must leave no trace either. */
    uint32_t random = 9;
    int refused = 0;
    struct buf before = {0}, after = {0};
    assert_int_equal(emulator_state_save(e, &before, &err), 0);
    for (int n = 0; n < 40; n++) {
        memcpy(bad, s.data, 0x61000);
        for (size_t i = 0x20; i < 0x400; i++) bad[i] = (uint8_t)((random = random * 1566083941 + 1) >> 16);
        if (emulator_state_load(e, bad, 0x61000, &err)) {
            refused++;
            after.len = 0;
            assert_int_equal(emulator_state_save(e, &after, &err), 0);
            assert_memory_equal(before.data, after.data, before.len);
        } else {
            emulator_run(e, KEY_A, 5, true);
            assert_int_equal(emulator_state_load(e, before.data, before.len, &err), 0);
        }
    }
    assert_true(refused > 0);
    buf_free(&before);
    buf_free(&after);

    /* A state of another game. */
    uint8_t rom[TINY_ROM_BYTES];
    tiny_rom_write(rom, "OTHER ROM", "AOTH");
    struct emulator *other = NULL;
    assert_int_equal(emulator_open(rom, sizeof rom, NULL, &other, &err), 0);
    s.len = 0;
    assert_int_equal(emulator_state_save(other, &s, &err), 0);
    refuse(e, s.data, s.len, "another ROM");
    /* A bare machine, as mGBA writes it without extensions, is taken. */
    assert_int_equal(emulator_state_load(other, s.data, 0x61000, &err), 0);
    free(bad);
    buf_free(&s);
    emulator_close(other);
    emulator_close(e);
}

static void test_garbage_roms_are_refused(void **state) {
    (void)state;
    struct err err = {0};
    struct emulator *e = (void *)1;
    uint8_t rom[TINY_ROM_BYTES];
    tiny_rom_write(rom, "TINY ROM", "ATST");
    assert_true(emulator_open(rom, 0, NULL, &e, &err) < 0);
    assert_null(e);
    assert_true(emulator_open(rom, 100, NULL, &e, &err) < 0);
    assert_non_null(strstr(err.message, "not a Game Boy Advance ROM"));
    rom[0xB2] = 0;
    assert_true(emulator_open(rom, sizeof rom, NULL, &e, &err) < 0);
    rom[0xB2] = 0x96, rom[0xBD] ^= 1;
    assert_true(emulator_open(rom, sizeof rom, NULL, &e, &err) < 0);
    assert_non_null(strstr(err.message, "checksum"));
    uint8_t *big = calloc(1, (32 << 20) + 1);
    rom[0xBD] ^= 1;
    memcpy(big, rom, sizeof rom);
    assert_true(emulator_open(big, (32 << 20) + 1, NULL, &e, &err) < 0);
    free(big);
    uint32_t random = 1;
    for (int n = 0; n < 200; n++) {
        for (size_t i = 0; i < sizeof rom; i++) rom[i] = (uint8_t)((random = random * 1566083941 + 1) >> 16);
        assert_true(emulator_open(rom, sizeof rom, NULL, &e, &err) < 0);
        assert_null(e);
    }
}

/* A sound header with garbage behind it is a game that goes wrong, not a program that does. */
static void test_garbage_code_does_no_harm(void **state) {
    (void)state;
    uint32_t random = 7;
    for (int n = 0; n < 20; n++) {
        uint8_t rom[TINY_ROM_BYTES];
        tiny_rom_write(rom, "BROKEN", "ABAD");
        for (size_t i = 0xC0; i < sizeof rom; i++) rom[i] = (uint8_t)((random = random * 1566083941 + 1) >> 16);
        struct emulator *e = NULL;
        struct err err = {0};
        assert_int_equal(emulator_open(rom, sizeof rom, NULL, &e, &err), 0);
        assert_int_equal(emulator_run(e, KEY_A, 30, true), 30);
        emulator_close(e);
    }
}

static void test_cartridge_save(void **state) {
    (void)state;
    char folder[] = "/tmp/pmd-test-XXXXXX", path[64], lost[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/game.sav", folder);
    snprintf(lost, sizeof lost, "%s/none/game.sav", folder);
    struct err err = {0};
    struct buf file = {0}, s = {0};

    struct emulator *e = open_tiny(path);
    emulator_run(e, 0, 20, false);
    assert_int_equal(emulator_save_cartridge(e, &err), 0);
    assert_false(file_exists(path)); /* untouched: nothing to write */
    assert_int_equal(emulator_state_save(e, &s, &err), 0);
    emulator_run(e, KEY_B, 20, false);
    uint8_t counter = (uint8_t)word(e, 0x02000000);
    if (emulator_save_cartridge(e, &err)) fail_msg("%s", err.message);
    assert_int_equal(file_read(path, 1 << 20, &file, &err), 0);
    assert_int_equal(file.len, 32768);
    assert_int_equal((uint8_t)file.data[0], counter);
    /* The state carries the save of its moment. */
    assert_int_equal(emulator_state_load(e, s.data, s.len, &err), 0);
    assert_int_equal(emulator_save_cartridge(e, &err), 0);
    s.len = 0;
    emulator_run(e, KEY_B, 3, false);
    uint8_t later = (uint8_t)word(e, 0x02000000);
    assert_int_equal(emulator_state_save(e, &s, &err), 0);
    emulator_run(e, KEY_B, 9, false);
    assert_int_equal(emulator_state_load(e, s.data, s.len, &err), 0);
    assert_int_equal(emulator_save_cartridge(e, &err), 0);
    file.len = 0;
    assert_int_equal(file_read(path, 1 << 20, &file, &err), 0);
    assert_int_equal((uint8_t)file.data[0], later);
    emulator_close(e);

    /* A new game starts from the file, and only a call writes it. */
    e = open_tiny(path);
    emulator_run(e, KEY_B, 7, false);
    emulator_close(e);
    file.len = 0;
    assert_int_equal(file_read(path, 1 << 20, &file, &err), 0);
    assert_int_equal((uint8_t)file.data[0], later);

    e = open_tiny(lost);
    emulator_run(e, KEY_B, 10, false);
    assert_true(emulator_save_cartridge(e, &err) < 0);
    emulator_close(e);
    e = open_tiny(NULL);
    assert_true(emulator_save_cartridge(e, &err) < 0);
    emulator_close(e);
    unlink(path);
    assert_int_equal(rmdir(folder), 0); /* no temporary file was left */
    buf_free(&file);
    buf_free(&s);
}

static void test_hash_is_of_the_colours(void **state) {
    (void)state;
    uint8_t rgb[FRAME_PIXELS * 3] = {0};
    char a[33], b[33];
    frame_hash(rgb, a);
    rgb[FRAME_PIXELS * 3 - 1] = 1;
    frame_hash(rgb, b);
    assert_int_equal(strlen(a), 32);
    assert_string_not_equal(a, b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_and_shows_memory), cmocka_unit_test(test_reset_is_a_new_start),
        cmocka_unit_test(test_same_keys_same_game),
        cmocka_unit_test(test_undrawn_frames_change_nothing), cmocka_unit_test(test_two_games_in_two_threads),
        cmocka_unit_test(test_frames_reach_another_thread_whole), cmocka_unit_test(test_state_round_trip),
        cmocka_unit_test(test_bad_states_change_nothing), cmocka_unit_test(test_garbage_roms_are_refused),
        cmocka_unit_test(test_garbage_code_does_no_harm), cmocka_unit_test(test_cartridge_save),
        cmocka_unit_test(test_hash_is_of_the_colours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
