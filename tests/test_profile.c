/* `pmd-agent profile`: the parts of a recorded run's decisions, which must add up to their whole. */
#include "test.h"

#include <fcntl.h>
#include <math.h>
#include <unistd.h>

#include "app/commands.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "game/world.h"

static char root[] = "/tmp/test-profile-XXXXXX";
static char run[100], out[100], log_file[100];

/* Runs a command with its words in files; returns its status. */
static int call(int (*command)(int, char **), const char *const *words) {
    char *argv[32];
    int argc = 0, saved[2] = {dup(1), dup(2)};
    for (; words[argc]; argc++) argv[argc] = (char *)words[argc];
    argv[argc] = NULL;
    fflush(NULL);
    int fds[2] = {open(out, O_WRONLY | O_CREAT | O_TRUNC, 0666), open(log_file, O_WRONLY | O_CREAT | O_TRUNC, 0666)};
    dup2(fds[0], 1);
    dup2(fds[1], 2);
    int status = command(argc, argv);
    fflush(NULL);
    for (int i = 0; i < 2; i++) {
        dup2(saved[i], i + 1);
        close(saved[i]);
        close(fds[i]);
    }
    return status;
}
#define PROFILE(...) call(cmd_profile, (const char *const[]){"profile", __VA_ARGS__, NULL})

static bool said(const char *file, const char *words) {
    struct buf b = {0};
    struct err err;
    bool found = !file_read(file, 1 << 24, &b, &err) && b.data && strstr(b.data, words);
    if (!found) print_error("%s: %s\n", file, b.data ? b.data : "");
    buf_free(&b);
    return found;
}

static int setup(void **state) {
    (void)state;
    if (!mkdtemp(root)) return -1;
    snprintf(run, sizeof run, "%s/run", root);
    snprintf(out, sizeof out, "%s/out", root);
    snprintf(log_file, sizeof log_file, "%s/log", root);
    return call(cmd_play, (const char *const[]){"play", "--policy", "oracle", "--seed", "1000000", "--max-decisions", "60", "--json", "--record", run, NULL});
}
static int teardown(void **state) {
    char command[100];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static void test_parts_add_up(void **state) {
    (void)state;
    struct buf text = {0};
    struct arena arena = {0};
    struct err err;
    char plot[120];
    snprintf(plot, sizeof plot, "%s/p.svg", root);
    assert_int_equal(PROFILE(run, "--json", "--svg", plot), 0);
    assert_int_equal(file_read(out, 1 << 20, &text, &err), 0);
    const struct json *j = json_parse(text.data, text.len, "profile", &arena, &err), *parts = json_get(j, "parts");
    assert_non_null(j);
    assert_int_equal(json_as_integer(json_get(j, "decisions"), -1), 60);
    assert_int_equal(parts->count, 8);
    double ms = 0, shares = 0;
    for (uint32_t i = 0; i < parts->count; i++) {
        ms += json_as_number(json_get(parts->members[i].value, "ms"), NAN);
        shares += json_as_number(json_get(parts->members[i].value, "share"), NAN);
    }
    assert_float_equal(ms * 60 / 1e3, json_as_number(json_get(j, "seconds"), NAN), 1e-3);
    assert_float_equal(shares, 1, 1e-3);
    static const char *const spent[] = {"capture", "decode", "path finding", "emulator", "recording"};
    for (size_t i = 0; i < sizeof spent / sizeof *spent; i++) assert_true(json_as_number(json_get(json_get(parts, spent[i]), "ms"), 0) > 0);
    assert_true(json_as_number(json_get(json_get(parts, "model"), "ms"), -1) == 0); /* none was asked */
    assert_true(said(plot, "<svg") && said(plot, "path finding"));
    arena_free(&arena);
    buf_free(&text);
    assert_int_equal(PROFILE(run, "--skip", "50"), 0);
    assert_true(said(out, "10 decisions,"));
    assert_true(said(out, "| model | 0.000 | 0.00 % | 60-70 % |"));
}

static void test_refusals(void **state) {
    (void)state;
    struct buf text = {0};
    struct err err;
    char file[120];
    assert_int_equal(PROFILE(run, "--skip", "60"), 1);
    assert_true(said(log_file, "holds no decisions behind those skipped"));
    assert_int_equal(PROFILE(root), 1);
    assert_true(said(log_file, "no run"));
    assert_int_equal(PROFILE("--frob"), 2);
    assert_int_equal(PROFILE(run, run), 2);
    assert_int_equal(PROFILE("--help"), 0);
    snprintf(file, sizeof file, "%s/trajectory.jsonl", run);
    assert_int_equal(file_read(file, 1 << 24, &text, &err), 0);
    text.data[text.len / 2] ^= 1;
    assert_int_equal(file_replace(file, text.data, text.len, &err), 0);
    buf_free(&text);
    assert_int_equal(PROFILE(run), 1);
    assert_true(said(log_file, "was changed"));
}

/* The account of searches: of this thread, emptied by reading it. */
static void test_path_seconds(void **state) {
    (void)state;
    static struct world w;
    static struct distance_field field;
    struct point goal = {5, 5};
    path_seconds();
    assert_true(path_seconds() == 0);
    for (int i = 0; i < 50; i++) path_distances(&w, &goal, 1, NULL, &field);
    double spent = path_seconds();
    assert_true(spent > 0 && spent < 10);
    assert_true(path_seconds() == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_add_up),
        cmocka_unit_test(test_path_seconds),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("profile", tests, setup, teardown);
}
