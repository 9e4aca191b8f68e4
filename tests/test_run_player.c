/* Steps of a recorded run made again, in any order: the picture is the recorded one bit for bit, and map, foes and fog are those that were
 * shown while it was played. */
#include "test.h"

#include <unistd.h>

#include "app/run_player.h"
#include "app/subscribers.h"
#include "base/file.h"
#include "serve/dash_room.h"

#define ROM "rom/tinywoods/tinywoods.gba"

static char folder[] = "/tmp/pmd-test-player-XXXXXX", run[64];
static struct buf rom;
enum { STEPS = 400 };
static struct buf worlds[STEPS]; /* as shown live */
static int steps;

static void on_step(void *user, const struct step *s) {
    (void)user;
    if (steps < STEPS) dash_put_step(&worlds[steps++], 0, 0, NULL, s->world, s->seen);
}

static int record(void **state) {
    (void)state;
    struct err err = {0};
    struct emulator *e;
    struct agent *a;
    struct run_subscriber rec = {0};
    if (!mkdtemp(folder) || file_read(ROM, 1 << 25, &rom, &err) || emulator_open(rom.data, rom.len, NULL, &e, &err)) return -1;
    snprintf(run, sizeof run, "%s/run", folder);
    struct run_options o = {.folder = run, .policy = "oracle", .rom_path = ROM, .rom = rom.data, .rom_bytes = rom.len, .seed = 7, .episodes = 2};
    if (run_create(&o, &rec.run, &err)) return -1;
    struct agent_events events[] = {run_events(&rec), {.user = &rec, .step_done = on_step}, {0}};
    struct agent_options options = {.policy = POLICY_ORACLE, .events = events, .max_decisions = 150};
    struct episode_result result;
    if (agent_new(e, &options, &a, &err)) return -1;
    for (uint32_t seed = 7; seed < 9; seed++) {
        if (agent_play_episode(a, seed, &result, &err)) return -1;
    }
    agent_free(a);
    emulator_close(e);
    return run_finish(rec.run, &err);
}

static int clean(void **state) {
    (void)state;
    char command[100];
    for (int i = 0; i < steps; i++) buf_free(&worlds[i]);
    buf_free(&rom);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static void check(struct run_player *p, uint32_t index) {
    struct err err = {0};
    struct buf line = {0}, shown = {0};
    struct arena arena = {0};
    char hash[33];
    if (run_player_go(p, index, &err)) fail_msg("step %u: %s", index, err.message);
    assert_int_equal(run_player_line(p, index, &line, &err), 0);
    const struct json *j = json_parse(line.data, line.len, "line", &arena, NULL);
    frame_hash(run_player_picture(p), hash);
    assert_string_equal(hash, json_as_string(json_get(j, "frame_hash"), ""));
    dash_put_step(&shown, 0, 0, NULL, run_player_world(p), run_player_seen(p));
    assert_string_equal(shown.data, worlds[index].data);
    buf_free(&line);
    buf_free(&shown);
    arena_free(&arena);
}

static void any_step_in_any_order(void **state) {
    (void)state;
    struct run_player *p;
    struct err err = {0};
    char why[200];
    if (run_player_open(run, NULL, &p, why, sizeof why, &err)) fail_msg("%s", err.message);
    assert_string_equal(why, "");
    assert_int_equal(run_player_steps(p), steps);
    uint32_t n = run_player_steps(p), random = 12345;
    check(p, n - 1);
    check(p, 0);
    for (int i = 0; i < 40; i++) check(p, (random = random * 1664525 + 1013904223) / 65536 % n);
    for (uint32_t i = 60; i < 80; i++) check(p, i);
    assert_int_not_equal(run_player_go(p, n, &err), 0);
    run_player_close(p);
}

struct played {
    int frames, stop_at;
};
static bool on_frame(void *user, const uint8_t *rgb, uint64_t number) {
    struct played *d = user;
    (void)rgb, (void)number;
    return ++d->frames != d->stop_at;
}

static void playing_arrives_at_the_next_step(void **state) {
    (void)state;
    struct run_player *p;
    struct err err = {0};
    char why[200];
    bool arrived;
    struct played played = {0};
    assert_int_equal(run_player_open(run, NULL, &p, why, sizeof why, &err), 0);
    assert_int_equal(run_player_go(p, 30, &err), 0);
    for (uint32_t i = 31; i < 40; i++) {
        assert_int_equal(run_player_play(p, on_frame, &played, &arrived, &err), 0);
        assert_true(arrived);
        check(p, i);
    }
    assert_true(played.frames > 20);
    played = (struct played){.stop_at = 2}; /* cut in the middle: going anywhere still works */
    assert_int_equal(run_player_play(p, on_frame, &played, &arrived, &err), 0);
    assert_false(arrived);
    check(p, 40);
    uint32_t last = 0; /* of the first episode */
    while (run_player_row(p, last + 1)->episode == 1) last++;
    played = (struct played){0};
    assert_int_equal(run_player_go(p, last, &err), 0);
    assert_int_equal(run_player_play(p, on_frame, &played, &arrived, &err), 0);
    assert_false(arrived);
    check(p, last + 1);
    run_player_close(p);
}

static void without_the_rom_there_are_key_frames(void **state) {
    (void)state;
    struct run_player *p;
    struct err err = {0};
    char why[300], other[100];
    snprintf(other, sizeof other, "%s/other.gba", folder);
    assert_int_equal(file_replace(other, "not a ROM", 9, NULL), 0);
    assert_int_not_equal(run_player_open(run, other, &p, why, sizeof why, &err), 0); /* named by the user: an error */
    assert_null(p);
    assert_non_null(strstr(err.message, "not the ROM of this run"));
    assert_int_not_equal(run_player_open("/nonexistent", NULL, &p, why, sizeof why, &err), 0);
    setenv("PMD_HOME", "/nonexistent", 1);
    char here[512];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(folder), 0); /* the ROM's path in the run does not lead anywhere from here */
    int code = run_player_open(run, NULL, &p, why, sizeof why, &err);
    assert_int_equal(chdir(here), 0);
    unsetenv("PMD_HOME");
    if (code) fail_msg("%s", err.message);
    assert_non_null(strstr(why, "ROM"));
    assert_false(run_player_has_game(p));
    assert_int_equal(run_player_go(p, 50, &err), 0);
    assert_non_null(run_player_picture(p));
    assert_null(run_player_world(p));
    bool arrived;
    struct played played = {0};
    assert_int_not_equal(run_player_play(p, on_frame, &played, &arrived, &err), 0);
    run_player_close(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_step_in_any_order), cmocka_unit_test(playing_arrives_at_the_next_step),
                                       cmocka_unit_test(without_the_rom_there_are_key_frames)};
    return cmocka_run_group_tests(tests, record, clean);
}
