/* Sub-commands around many games: recorded frames in place of games, and the calibration of a model from recorded runs. */
#include "test.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/calibration.h"
#include "app/commands.h"
#include "base/file.h"
#include "base/json.h"

static char folder[] = "/tmp/pmd-test-frames-XXXXXX", said_path[100];
static struct buf text;

static int make_temporary(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(said_path, sizeof said_path, "%s/said", folder);
    return 0;
}
static int remove_temporary(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    buf_free(&text);
    return system(command);
}

/* In a process of its own; its words in text. */
static int run_command(int (*command)(int, char **), char **argv) {
    int argc = 0, status;
    while (argv[argc]) argc++;
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        int out = open(said_path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        dup2(out, 1);
        dup2(out, 2);
        status = command(argc, argv);
        fflush(NULL);
        _exit(status);
    }
    waitpid(child, &status, 0);
    buf_clear(&text);
    assert_int_equal(file_read(said_path, 1 << 20, &text, NULL), 0);
    if (!text.len) buf_str(&text, " ");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void frames_are_asked_about(void **state) {
    (void)state;
    char *argv[] = {"play", "--frames", "datasets/tinywoods-200", "--games", "3", "--decisions", "4", "--model", "tests/golden/tiny-a", "--threads", "1", "--json", NULL};
    if (run_command(cmd_play_frames, argv)) fail_msg("%s", text.data);
    struct arena arena = {0};
    const struct json *j = json_parse(text.data, text.len, "result", &arena, NULL);
    assert_non_null(j);
    assert_int_equal(json_as_integer(json_get(j, "decisions"), 0), 12);
    const struct json *all = json_get(j, "all_playing"); /* until the first of the three had his four */
    assert_in_range(json_as_integer(json_get(all, "decisions"), 0), 4, 12);
    assert_true(json_as_number(json_get(all, "seconds"), 0) > 0 && json_as_number(json_get(all, "seconds"), 0) <= json_as_number(json_get(j, "seconds"), 0) + 0.001);
    assert_int_equal(json_as_integer(json_get(j, "useless"), -1), 0); /* the schema holds even where the weights are random */
    assert_false(json_as_bool(json_get(j, "emulator"), true));       /* it says what it is not */
    assert_true(json_as_number(json_get(j, "prompt_tokens_mean"), 0) > 10);
    double share = json_as_number(json_get(j, "prefilled_share"), -1);
    assert_true(share > 0 && share <= 1);
    arena_free(&arena);
}

static void frames_that_are_none(void **state) {
    (void)state;
    char set[100], manifest[120];
    snprintf(set, sizeof set, "%s/set", folder);
    snprintf(manifest, sizeof manifest, "%s/set/manifest.jsonl", folder);
    char *argv[] = {"play", "--frames", set, NULL};
    assert_int_equal(run_command(cmd_play_frames, argv), 1);
    assert_non_null(strstr(text.data, "manifest.jsonl"));
    static const struct { const char *text, *says; } bad[] = {
        {"{\"frame_path\":\"frames/none.png\",\"prompt\":\"x\"}\n", "none.png"},
        {"{\"frame_path\":\"../../etc/passwd\",\"prompt\":\"x\"}\n", "line 1"},
        {"{\"scene\":\"field\"}\n", "frame_path"}, {"not JSON\n", "line 1"}, {"\n", "no picture"}};
    assert_int_equal(file_make_folders(set, NULL), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(file_replace(manifest, bad[i].text, strlen(bad[i].text), NULL), 0);
        assert_int_equal(run_command(cmd_play_frames, argv), 1);
        if (!strstr(text.data, bad[i].says)) fail_msg("%s: %s", bad[i].text, text.data);
    }
    char *games[] = {"play", "--frames", set, "--games", "many", NULL};
    assert_int_equal(run_command(cmd_play_frames, games), 2);
}

static void a_model_is_calibrated(void **state) {
    (void)state;
    char run[100], table[100];
    snprintf(run, sizeof run, "%s/run", folder);
    snprintf(table, sizeof table, "%s/table.json", folder);
    char *play[] = {"play", "--model", "tests/golden/tiny-a", "--act", "steps", "--episodes", "2", "--max-decisions", "60", "--ask-oracle", "--threads", "1", "--record", run,
                    "--json", "--no-dashboard", NULL};
    if (!file_exists("rom/tinywoods/tinywoods.gba")) skip_because("rom/tinywoods/tinywoods.gba is missing");
    if (run_command(cmd_play, play)) fail_msg("%s", text.data);
    char *calibrate[] = {"calibrate", run, "--out", table, NULL};
    if (run_command(cmd_calibrate, calibrate)) fail_msg("%s", text.data);
    assert_non_null(strstr(text.data, "tiny-a"));
    assert_non_null(strstr(text.data, "calibration error"));
    struct calibration c;
    struct err err;
    if (calibration_read(table, &c, &err)) fail_msg("%s", err.message);
    assert_true(c.samples >= CALIBRATION_LEAST && c.count >= 1);
    for (int i = 1; i < c.count; i++) assert_true(c.right[i] >= c.right[i - 1]);
    char *other[] = {"calibrate", run, "--model", "nobody", NULL};
    assert_int_equal(run_command(cmd_calibrate, other), 1);
    assert_non_null(strstr(text.data, "at least 50"));
    char *nothing[] = {"calibrate", "/nonexistent", NULL};
    assert_int_equal(run_command(cmd_calibrate, nothing), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_asked_about),
        cmocka_unit_test(frames_that_are_none),
        cmocka_unit_test(a_model_is_calibrated),
    };
    return cmocka_run_group_tests(tests, make_temporary, remove_temporary);
}
