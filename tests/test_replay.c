/* A run of the real game (the home-brew ROM, the fair oracle), recorded, killed, damaged and played again. */
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/subscribers.h"
#include "base/file.h"
#include "record/hash.h"

#define ROM "rom/tinywoods/tinywoods.gba"

static char folder[] = "/tmp/pmd-test-replay-XXXXXX", run_name[300];
static struct buf rom;

static int make_temporary(void **state) {
    (void)state;
    return mkdtemp(folder) && file_read(ROM, 1 << 25, &rom, NULL) == 0 ? 0 : -1;
}

static int remove_temporary(void **state) {
    (void)state;
    char command[200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    buf_free(&rom);
    return system(command);
}

/* Plays so many episodes and records them; returns the recorder's code. pause_at: stops for good at this step (to be killed). */
struct pauser {
    uint32_t at;
    int pipe;
};
static void pause_here(void *user, const struct step *s) {
    struct pauser *p = user;
    if (s->number != p->at) return;
    if (write(p->pipe, "x", 1) == 1) pause();
}

static int play(const char *name, int episodes, int decisions, struct pauser *pauser, struct err *err) {
    volatile bool stop = false;
    struct emulator *e;
    struct run_subscriber rec = {.stop = &stop};
    struct run_options o = {.folder = name, .policy = "oracle", .rom_path = ROM, .rom = rom.data, .rom_bytes = rom.len, .seed = 5, .episodes = episodes};
    int code = emulator_open(rom.data, rom.len, NULL, &e, err);
    if (code) return code;
    if ((code = run_create(&o, &rec.run, err))) {
        emulator_close(e);
        return code;
    }
    struct agent_events events[3] = {run_events(&rec)};
    if (pauser) events[1] = (struct agent_events){.user = pauser, .step_done = pause_here};
    struct agent_options options = {.policy = POLICY_ORACLE, .events = events, .max_decisions = decisions, .ask_oracle = true, .stop = &stop};
    struct agent *a;
    code = agent_new(e, &options, &a, err);
    for (int i = 0; i < episodes && !code && !rec.code; i++) {
        struct episode_result result;
        code = agent_play_episode(a, 5 + (uint32_t)i, &result, err);
    }
    agent_free(a);
    int finish = run_finish(rec.run, err);
    emulator_close(e);
    if (rec.code) *err = rec.err;
    return code ? code : rec.code ? rec.code : finish;
}

/* cmd_replay in a process of its own; what it said comes back in text. */
static int replay(const char *name, char *text, size_t cap) {
    int out[2];
    assert_int_equal(pipe(out), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(out[1], 1);
        dup2(out[1], 2);
        close(out[0]);
        close(out[1]);
        char *argv[] = {"replay", (char *)name, NULL};
        int status = cmd_replay(2, argv);
        fflush(NULL);
        _exit(status);
    }
    close(out[1]);
    size_t n = 0;
    ssize_t got;
    while (n < cap - 1 && (got = read(out[0], text + n, cap - 1 - n)) > 0) n += (size_t)got;
    text[n] = 0;
    close(out[0]);
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void replays_identically(void **state) {
    (void)state;
    struct err err = {0};
    char text[2000];
    snprintf(run_name, sizeof run_name, "%s/good", folder);
    int code = play(run_name, 2, 0, NULL, &err);
    if (code) fail_msg("%s", err.message);
    int status = replay(run_name, text, sizeof text);
    if (status || !strstr(text, "identical")) fail_msg("status %d: %s", status, text);
    char path[400];
    snprintf(path, sizeof path, "%s/summary.json", run_name);
    assert_true(file_exists(path));
    snprintf(path, sizeof path, "%s/frames/e00001-s000001.png", run_name);
    assert_true(file_exists(path));
}

/* Every chain of a file made to fit its lines again, from the chain of run.json on; the last one comes back in `chain`. */
static void forge(struct buf *text, char chain[33]) {
    struct buf out = {0};
    char next[33];
    for (char *line = text->data; line && *line;) {
        char *end = strchr(line, '\n'), *tail = end - 44; /* ,"chain":"<32>"} */
        hash_hex(chain, 32, line, (size_t)(tail - line), next);
        memcpy(chain, next, 33);
        buf_append(&out, line, (size_t)(tail - line));
        buf_printf(&out, ",\"chain\":\"%s\"}\n", chain);
        line = end + 1;
    }
    buf_free(text);
    *text = out;
}

/* Somebody who recomputes the checksums still cannot make the game do something else. */
static void forged_presses_are_seen_in_the_game(void **state) {
    (void)state;
    char path[400], text[2000], first[33], chain[33];
    struct buf head = {0}, steps = {0}, episodes = {0}, steps_before = {0}, episodes_before = {0};
    struct err err;
    snprintf(path, sizeof path, "%s/run.json", run_name);
    assert_int_equal(file_read(path, 1 << 20, &head, &err), 0);
    hash_hex(head.data, head.len, NULL, 0, first);
    snprintf(path, sizeof path, "%s/trajectory.jsonl", run_name);
    assert_int_equal(file_read(path, 1 << 28, &steps, &err), 0);
    buf_append(&steps_before, steps.data, steps.len);
    char *buttons = strstr(steps.data + steps.len / 4, "\"buttons\":[[");
    while (buttons && (buttons[12] < '1' || buttons[12] > '9' || buttons[13] != '6')) buttons = strstr(buttons + 1, "\"buttons\":[["); /* a walk: 16 right */
    assert_non_null(buttons);
    buttons[12] = (char)('0' + ('9' - buttons[12])); /* other keys */
    memcpy(chain, first, 33);
    forge(&steps, chain);
    assert_int_equal(file_replace(path, steps.data, steps.len, &err), 0);
    /* the end records name the last chain of their episode: the second is the file's last, the first needs its own */
    snprintf(path, sizeof path, "%s/episodes.jsonl", run_name);
    assert_int_equal(file_read(path, 1 << 20, &episodes, &err), 0);
    buf_append(&episodes_before, episodes.data, episodes.len);
    char *second = strstr(steps.data, "{\"episode\":2,"), *last1 = second - 2 - 33, *at = strstr(episodes.data, "last_chain");
    memcpy(at + 13, last1, 32);
    memcpy(strstr(at + 13, "last_chain") + 13, chain, 32);
    memcpy(chain, first, 33);
    forge(&episodes, chain);
    assert_int_equal(file_replace(path, episodes.data, episodes.len, &err), 0);
    assert_int_equal(replay(run_name, text, sizeof text), 1);
    if (!strstr(text, "first mismatch")) fail_msg("%s", text);

    assert_int_equal(file_replace(path, episodes_before.data, episodes_before.len, &err), 0);
    snprintf(path, sizeof path, "%s/trajectory.jsonl", run_name);
    assert_int_equal(file_replace(path, steps_before.data, steps_before.len, &err), 0);
    assert_int_equal(replay(run_name, text, sizeof text), 0);
    buf_free(&head), buf_free(&steps), buf_free(&episodes), buf_free(&steps_before), buf_free(&episodes_before);
}

/* A changed press, a cut, a damaged state. */
static void changes_and_cuts_are_named(void **state) {
    (void)state;
    char path[400], text[2000];
    struct buf t = {0};
    struct err err;
    snprintf(path, sizeof path, "%s/trajectory.jsonl", run_name);
    assert_int_equal(file_read(path, 1 << 28, &t, &err), 0);
    char *buttons = strstr(t.data + t.len / 2, "\"buttons\":[[");
    assert_non_null(buttons);
    buttons[12] ^= 1;
    assert_int_equal(file_replace(path, t.data, t.len, &err), 0);
    assert_int_equal(replay(run_name, text, sizeof text), 1);
    assert_non_null(strstr(text, "was changed"));
    buttons[12] ^= 1;
    assert_int_equal(file_replace(path, t.data, t.len / 2, &err), 0);
    assert_int_equal(replay(run_name, text, sizeof text), 1);
    assert_non_null(strstr(text, "cut short"));
    assert_int_equal(file_replace(path, t.data, t.len, &err), 0);
    buf_free(&t);

    snprintf(path, sizeof path, "%s/start.state", run_name); /* a damaged state */
    assert_int_equal(file_read(path, 1 << 28, &t, &err), 0);
    assert_int_equal(file_replace(path, t.data, t.len / 2, &err), 0);
    assert_int_equal(replay(run_name, text, sizeof text), 1);
    assert_int_equal(file_replace(path, t.data, t.len, &err), 0);
    assert_int_equal(replay(run_name, text, sizeof text), 0);
    buf_free(&t);

    char moved[400]; /* ended between two episodes */
    snprintf(path, sizeof path, "%s/summary.json", run_name);
    snprintf(moved, sizeof moved, "%s/summary", run_name);
    assert_int_equal(rename(path, moved), 0);
    assert_int_equal(replay(run_name, text, sizeof text), 1);
    assert_non_null(strstr(text, "cut off after episode 2"));
    assert_int_equal(rename(moved, path), 0);
}

static void a_killed_run_is_readable(void **state) {
    (void)state;
    char name[300], text[2000], byte;
    int ready[2], steps = 0;
    snprintf(name, sizeof name, "%s/killed", folder);
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct pauser pauser = {25, ready[1]};
        struct err err;
        play(name, 1, 0, &pauser, &err);
        _exit(1);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    struct run_reader *r;
    struct run_line *line = malloc(sizeof *line);
    struct err err;
    assert_int_equal(run_open(name, &r, &err), 0);
    while (run_next(r, line, NULL, &err) == 1) steps++;
    assert_int_equal(steps, 25);
    run_close(r);
    free(line);
    assert_int_equal(replay(name, text, sizeof text), 1); /* everything there is identical, but the end is missing */
    if (!strstr(text, "25 steps") || !strstr(text, "identical")) fail_msg("%s", text);
}

static void a_full_disk_ends_the_run(void **state) {
    (void)state;
    char name[300], text[2000];
    snprintf(name, sizeof name, "%s/full", folder);
    pid_t child = fork();
    if (child == 0) {
        struct err err = {0};
        struct rlimit limit = {700 * 1024, 700 * 1024}; /* above a start state, below the trajectory: its files all stay under it */
        setrlimit(RLIMIT_FSIZE, &limit);
        int code = play(name, 50, 0, NULL, &err);
        _exit(code == ERR_IO && strstr(err.message, "cannot write step") && strstr(err.message, "File too large") ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(replay(name, text, sizeof text), 1);
    if (!strstr(text, "identical")) fail_msg("%s", text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replays_identically),
        cmocka_unit_test(changes_and_cuts_are_named),
        cmocka_unit_test(forged_presses_are_seen_in_the_game),
        cmocka_unit_test(a_killed_run_is_readable),
        cmocka_unit_test(a_full_disk_ends_the_run),
    };
    if (!file_exists(ROM)) {
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) printf("ok %zu # SKIP\n", i + 1);
        fprintf(stderr, "SKIPPED test_replay: %s is missing\n", ROM);
        return 0;
    }
    return cmocka_run_group_tests(tests, make_temporary, remove_temporary);
}
