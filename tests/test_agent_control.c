/* Pause, step, take over and notes on a running game: obeyed, labelled, recorded such that the run still replays frame by frame. */
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "agent/control.h"
#include "agent/human.h"
#include "app/commands.h"
#include "app/subscribers.h"
#include "base/file.h"

#define ROM "rom/tinywoods/tinywoods.gba"

static struct buf rom;
static struct emulator *game;

static int open_game(void **state) {
    (void)state;
    return file_read(ROM, 1 << 25, &rom, NULL) || emulator_open(rom.data, rom.len, NULL, &game, NULL) ? -1 : 0;
}
static int close_game(void **state) {
    (void)state;
    emulator_close(game);
    buf_free(&rom);
    return 0;
}

/* A subscriber that asks for things at certain steps. */
struct asker_of_things {
    struct control *control;
    uint32_t frames, human_frames;
    atomic_int steps;
    int human_steps;
    char reason[100], action[32];
    bool waits;
};

static void on_acted(void *user, struct emulator *e) {
    struct asker_of_things *t = user;
    t->frames++;
    if (t->waits) control_gate(t->control, emulator_frame_number(e), false, NULL);
    if (!control_human(t->control)) return;
    t->human_frames++;
    control_keys(t->control, t->human_frames > 20 && t->human_frames < 40 ? KEY_L | KEY_A : 0); /* the move that is set */
}

static void on_step(void *user, const struct step *s) {
    struct asker_of_things *t = user;
    if (s->decided_by == BY_HUMAN) {
        t->human_steps++;
        snprintf(t->reason, sizeof t->reason, "%s", s->reason);
        snprintf(t->action, sizeof t->action, "%s", s->action);
        control_take_over(t->control, false);
    }
    if (s->number == 3) control_take_over(t->control, true);
    atomic_fetch_add(&t->steps, 1);
    if (t->waits) control_step_done(t->control, s->first_frame, NULL);
}

static void a_person_is_recorded_and_replayed(void **state) {
    (void)state;
    char folder[] = "/tmp/pmd-test-control-XXXXXX", run[64], command[100];
    assert_non_null(mkdtemp(folder));
    snprintf(run, sizeof run, "%s/run", folder);
    struct asker_of_things things = {.control = control_new(0)};
    struct run_subscriber rec = {0};
    struct run_options o = {.folder = run, .policy = "oracle", .rom_path = ROM, .rom = rom.data, .rom_bytes = rom.len, .seed = 5, .episodes = 1};
    struct err err = {0};
    if (run_create(&o, &rec.run, &err)) fail_msg("%s", err.message);
    struct agent_events events[] = {run_events(&rec), {.user = &things, .acted = on_acted, .step_done = on_step}, {0}};
    struct agent_options options = {.policy = POLICY_ORACLE, .events = events, .max_decisions = 20, .control = things.control};
    struct agent *a;
    struct episode_result result;
    assert_int_equal(agent_new(game, &options, &a, &err), 0);
    assert_int_equal(agent_play_episode(a, 5, &result, &err), 0);
    agent_free(a);
    assert_int_equal(rec.code, 0);
    assert_int_equal(run_finish(rec.run, &err), 0);
    assert_int_equal(things.human_steps, 1);
    assert_int_equal(result.decided[BY_HUMAN], 1);
    assert_string_equal(things.action, HUMAN_ACTION);
    assert_string_equal(things.reason, "pressed A L");
    char *argv[] = {"replay", run, NULL};
    assert_int_equal(cmd_replay(2, argv), 0);
    control_free(things.control);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

struct playing {
    struct agent *agent;
    struct episode_result result;
    int code;
};
static void *play(void *user) {
    struct playing *p = user;
    p->code = agent_play_episode(p->agent, 5, &p->result, NULL);
    return NULL;
}

/* Frames do not advance for a while. */
static bool stands_still(const struct asker_of_things *t) {
    for (int i = 0; i < 200; i++) {
        uint32_t before = *(volatile const uint32_t *)&t->frames;
        usleep(120000);
        if (*(volatile const uint32_t *)&t->frames == before) return true;
    }
    return false;
}

static void pause_and_step(void **state) {
    (void)state;
    struct asker_of_things things = {.control = control_new(0), .waits = true};
    struct agent_events events[] = {{.user = &things, .acted = on_acted, .step_done = on_step}, {0}};
    struct agent_options options = {.policy = POLICY_ORACLE, .events = events, .max_decisions = 8, .control = things.control};
    struct playing p = {0};
    struct control_state s;
    pthread_t thread;
    assert_int_equal(agent_new(game, &options, &p.agent, NULL), 0);
    control_pause(things.control, true);
    assert_int_equal(pthread_create(&thread, NULL, play, &p), 0);
    assert_true(stands_still(&things));
    assert_int_equal(things.steps, 0);
    control_step(things.control);
    for (int i = 0; i < 500 && things.steps < 1; i++) usleep(10000);
    assert_true(stands_still(&things));
    assert_int_equal(things.steps, 1);
    control_read(things.control, &s);
    assert_true(s.paused);
    control_take_over(things.control, false);
    control_pause(things.control, false);
    pthread_join(thread, NULL);
    assert_int_equal(p.code, 0);
    assert_true(things.steps >= 8);
    agent_free(p.agent);
    control_free(things.control);
}

static void a_note_goes_with_the_prompt(void **state) {
    (void)state;
    struct control *c = control_new(0);
    char prompt[64] = "field";
    control_add_note(NULL, prompt, sizeof prompt);
    control_add_note(c, prompt, sizeof prompt);
    assert_string_equal(prompt, "field");
    control_note(c, "go north");
    control_add_note(c, prompt, sizeof prompt);
    assert_string_equal(prompt, "field\nnote go north");
    char full[12] = "field";
    control_add_note(c, full, sizeof full);
    assert_string_equal(full, "field"); /* does not fit: left out */
    control_free(c);
}

static void a_short_press_lasts_some_frames(void **state) {
    (void)state;
    struct control *c = control_new(0);
    control_keys(c, KEY_A);
    control_keys(c, 0);
    int frames = 0;
    while (control_held(c) == KEY_A && frames < 100) frames++;
    assert_in_range(frames, 2, 10);
    control_keys(c, KEY_UP);
    for (int i = 0; i < 50; i++) assert_int_equal(control_held(c), KEY_UP);
    control_free(c);
}

static void pace_is_kept(void **state) {
    (void)state;
    struct control *c = control_new(2);
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (uint64_t frame = 1; frame <= 61; frame++) control_gate(c, frame, true, NULL);
    clock_gettime(CLOCK_MONOTONIC, &b);
    double seconds = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    assert_true(seconds > 0.45 && seconds < 2); /* 60 frames at twice the console's speed: half a second */
    control_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_person_is_recorded_and_replayed), cmocka_unit_test(pause_and_step),
                                       cmocka_unit_test(a_note_goes_with_the_prompt), cmocka_unit_test(a_short_press_lasts_some_frames),
                                       cmocka_unit_test(pace_is_kept)};
    return cmocka_run_group_tests(tests, open_game, close_game);
}
