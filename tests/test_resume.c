/* Runs that are killed at any moment, stopped, damaged, and gone on with: what comes out is the run that nobody disturbed. */
#include "test.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "app/commands.h"
#include "base/clock.h"
#include "base/file.h"
#include "record/hash.h"
#include "record/run_set.h"

#define ROM "rom/tinywoods/tinywoods.gba"
enum { EPISODES = 4, LIFE_LIMIT = 400 };

static char folder[] = "/tmp/pmd-test-resume-XXXXXX", script[200], said_path[200];
static uint32_t random_state = 12345;

static uint32_t random_number(uint32_t below) {
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)random_state * below >> 32);
}

static int make_temporary(void **state) {
    (void)state;
    static const char actions[] = "walk_north\nwalk_east\nnext\nhit_ne\nwalk_south\nwalk_west\nuse_move\n";
    struct buf rom = {0};
    struct emulator *e;
    if (!mkdtemp(folder) || file_read(ROM, 1 << 25, &rom, NULL)) return -1;
    /* Loads the library once: the children inherit it. */
    if (emulator_open(rom.data, rom.len, NULL, &e, NULL)) return -1;
    emulator_close(e);
    buf_free(&rom);
    snprintf(script, sizeof script, "%s/script", folder);
    snprintf(said_path, sizeof said_path, "%s/said", folder);
    return file_replace(script, actions, sizeof actions - 1, NULL);
}

static int remove_temporary(void **state) {
    (void)state;
    char command[200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

/* A sub-command in a process of its own, all its words in said_path. */
static pid_t start(int (*command)(int, char **), char **argv) {
    int argc = 0;
    while (argv[argc]) argc++;
    fflush(NULL);
    pid_t child = fork();
    if (child) return child;
    int out = open(said_path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(out, 1);
    dup2(out, 2);
    int status = command(argc, argv);
    fflush(NULL);
    _exit(status);
}

static const char *said(void) {
    static struct buf text;
    buf_clear(&text);
    file_read(said_path, 1 << 20, &text, NULL);
    return text.len ? text.data : "";
}

static int end_of(pid_t child) {
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run_command(int (*command)(int, char **), char **argv) { return end_of(start(command, argv)); }

/* What happened in each episode, and how many steps are on record. */
struct trace {
    struct buf episode[EPISODES];
    int steps;
};

static int read_run(const char *run, uint32_t seed, struct trace *t) {
    struct run_reader *r;
    struct err err;
    static struct run_line line;
    const struct run_episode *episodes;
    int got;
    if (run_open(run, &r, &err)) return -1;
    int count = run_reader_episodes(r, &episodes);
    while ((got = run_next(r, &line, NULL, &err)) == 1) {
        char presses[33];
        hash_hex(line.presses, (size_t)line.press_count * sizeof *line.presses, NULL, 0, presses);
        uint32_t at = episodes[line.episode - 1].seed - seed;
        assert_true(at < EPISODES);
        const char *answer = json_as_string(json_get(line.json, "answer"), "");
        buf_printf(&t->episode[at], "%u %llu %s %s %s %s %s %s\n", line.step, (unsigned long long)line.first_frame, line.frame_hash, line.state_hash,
                   line.action, line.decided_by, answer, presses);
        t->steps++;
    }
    if (got < 0) fail_msg("%s", err.message);
    for (int i = 0; i < count; i++) {
        if (episodes[i].ended) buf_printf(&t->episode[episodes[i].seed - seed], "%s %s %s\n", episodes[i].outcome, episodes[i].end_hash, episodes[i].cause);
    }
    run_close(r);
    return 0;
}

/* Returns the steps on record; 0 also for a run without a beginning. */
static int trace_of(const char *run, uint32_t seed, struct trace *t) {
    struct run_set set;
    struct err err;
    memset(t, 0, sizeof *t);
    if (run_set_open(run, &set, &err)) return 0;
    for (int i = 0; i < (set.games ? set.games : 1); i++) {
        char game[PATH_MAX], head[PATH_MAX + 20];
        snprintf(head, sizeof head, "%s/episodes.jsonl", run_set_game(&set, i, game));
        if (file_exists(head)) read_run(game, seed, t);
    }
    run_set_close(&set);
    return t->steps;
}

static void trace_free(struct trace *t) {
    for (int i = 0; i < EPISODES; i++) buf_free(&t->episode[i]);
}

static void assert_same(const struct trace *a, const struct trace *b) {
    assert_int_equal(a->steps, b->steps);
    for (int i = 0; i < EPISODES; i++) assert_string_equal(a->episode[i].len ? a->episode[i].data : "", b->episode[i].len ? b->episode[i].data : "");
}

/* ---- kill -9 ------------------------------------------------------------------------------------------------------------------- */

static char *random_play[] = {"play", "--policy", "random", "--episodes", "4", "--max-decisions", "14", "--seed", "77", "--json", "--record", NULL, NULL};
static char *mock_games[] = {"play", "--mock-script", script, "--games", "2", "--episodes", "4", "--max-decisions", "14", "--seed", "77", "--json", "--record", NULL, NULL};

static char **recording(char **args, char *run) {
    int n = 0;
    while (strcmp(args[n], "--record")) n++;
    args[n + 1] = run;
    return args;
}

/* One life of the run: killed after so many microseconds, or ended by itself. */
static bool lives(char **args, char *run, uint32_t microseconds) {
    char head[PATH_MAX], games[PATH_MAX];
    snprintf(head, sizeof head, "%s/run.json", run);
    snprintf(games, sizeof games, "%s/games.json", run);
    char *resume[] = {"play", "--resume", run, "--json", NULL};
    bool begun = file_exists(head) || file_exists(games);
    pid_t child = start(cmd_play, begun ? resume : recording(args, run));
    double end = clock_seconds() + microseconds * 1e-6;
    for (;;) {
        int status;
        if (waitpid(child, &status, WNOHANG) == child) {
            if (!WIFEXITED(status) || WEXITSTATUS(status)) fail_msg("ended with status %x: %s", status, said());
            return false;
        }
        double left = end - clock_seconds();
        if (left <= 0) break;
        nanosleep(&(struct timespec){0, (long)((left < 0.002 ? left : 0.002) * 1e9)}, NULL);
    }
    kill(child, SIGKILL);
    int status;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status);
}

static int kill_until(char **args, int kills, int *runs) {
    char run[300];
    struct trace whole, now;
    snprintf(run, sizeof run, "%s/whole-%s", folder, args[1] + 2);
    double begin = clock_seconds();
    int status = run_command(cmd_play, recording(args, run)), done = 0;
    uint32_t span = (uint32_t)((clock_seconds() - begin) * 1e6 * 0.6);
    if (status) fail_msg("%s", said());
    assert_int_equal(trace_of(run, 77, &whole), 4 * 14);
    for (*runs = 0; done < kills; ++*runs) {
        snprintf(run, sizeof run, "%s/%s-%d", folder, args[1] + 2, *runs);
        int before = 0, life = 0;
        while (lives(args, run, random_number(span) + 1)) {
            done++;
            int steps = trace_of(run, 77, &now);
            trace_free(&now);
            if (steps < before) fail_msg("run %d: %d steps are on record after kill %d, %d were before", *runs, steps, done, before);
            before = steps;
            if (++life > LIFE_LIMIT) fail_msg("run %d does not come to its end", *runs);
        }
        trace_of(run, 77, &now);
        assert_same(&whole, &now);
        trace_free(&now);
        char *replay[] = {"replay", run, NULL}, command[400];
        if (run_command(cmd_replay, replay)) fail_msg("%s", said());
        snprintf(command, sizeof command, "rm -rf '%s'", run);
        assert_int_equal(system(command), 0);
    }
    trace_free(&whole);
    return done;
}

static void killed_at_any_moment(void **state) {
    (void)state;
    int kills = slow_tests() ? 500 : 15, runs[2];
    int done = kill_until(random_play, kills, &runs[0]);
    done += kill_until(mock_games, kills, &runs[1]);
    printf("# %d kills in %d + %d runs\n", done, runs[0], runs[1]);
}

/* ---- other ends ---------------------------------------------------------------------------------------------------------------- */

static void stopped_by_the_user(void **state) {
    (void)state;
    char run[300], whole_run[300], lines[400];
    snprintf(whole_run, sizeof whole_run, "%s/unstopped", folder);
    snprintf(run, sizeof run, "%s/stopped", folder);
    char *whole_args[] = {"play", "--mock-script", script, "--max-decisions", "300", "--seed", "77", "--json", "--record", whole_run, NULL};
    char *args[] = {"play", "--mock-script", script, "--max-decisions", "300", "--seed", "77", "--json", "--record", run, NULL};
    assert_int_equal(run_command(cmd_play, whole_args), 0);
    snprintf(lines, sizeof lines, "%s/trajectory.jsonl", run);
    char *resume[] = {"play", "--resume", run, "--json", NULL};
    for (int round = 0; round < 2; round++) { /* stopped twice, the second time soon after going on, perhaps before the seam */
        pid_t child = start(cmd_play, round ? resume : args);
        struct stat s = {0};
        for (int i = 0; i < 2000 && (stat(lines, &s) || s.st_size < 20000); i++) nanosleep(&(struct timespec){0, 2000000}, NULL);
        kill(child, SIGINT);
        assert_int_equal(end_of(child), 130);
        if (!round) assert_non_null(strstr(said(), "--resume")); /* the second may come before anybody listens */
    }
    if (run_command(cmd_play, resume)) fail_msg("%s", said());
    struct trace a, b;
    assert_true(trace_of(whole_run, 77, &a) > 50);
    trace_of(run, 77, &b);
    assert_same(&a, &b);
    trace_free(&a), trace_free(&b);
    char *replay[] = {"replay", run, NULL};
    if (run_command(cmd_replay, replay)) fail_msg("%s", said());
    /* Once it is finished there is nothing to go on with; the result is told again. */
    assert_int_equal(run_command(cmd_play, resume), 0);
    assert_non_null(strstr(said(), "to its end already"));
    assert_non_null(strstr(said(), "\"episodes\":1"));
}

static void cut_short(const char *path, long bytes) {
    struct stat s;
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(truncate(path, s.st_size - bytes), 0);
}

static void copy_run(const char *from, const char *to) {
    char command[700];
    snprintf(command, sizeof command, "cp -r '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

/* A run without its last lines, as a kill leaves it. */
static void unfinished(const char *run) {
    char path[400];
    struct buf text = {0};
    snprintf(path, sizeof path, "%s/summary.json", run);
    unlink(path);
    snprintf(path, sizeof path, "%s/episodes.jsonl", run);
    assert_int_equal(file_read(path, 1 << 20, &text, NULL), 0);
    cut_short(path, (long)(text.data + text.len - 1 - (char *)memrchr(text.data, '\n', text.len - 1)));
    buf_free(&text);
}

static void torn_lines_and_changes(void **state) {
    (void)state;
    char good[300], run[300], path[400];
    snprintf(good, sizeof good, "%s/good", folder);
    char *args[] = {"play", "--mock-script", script, "--max-decisions", "12", "--seed", "77", "--json", "--record", good, NULL};
    if (run_command(cmd_play, args)) fail_msg("%s", said());
    struct trace whole, now;
    trace_of(good, 77, &whole);
    char *resume[] = {"play", "--resume", run, "--json", NULL};

    snprintf(run, sizeof run, "%s/torn", folder);
    copy_run(good, run);
    unfinished(run);
    snprintf(path, sizeof path, "%s/trajectory.jsonl", run);
    cut_short(path, 100);
    if (run_command(cmd_play, resume)) fail_msg("%s", said());
    trace_of(run, 77, &now);
    assert_same(&whole, &now);
    trace_free(&now), trace_free(&whole);

    /* Another script answers differently where nothing is on record, and is never asked where something is. */
    snprintf(run, sizeof run, "%s/edited", folder);
    copy_run(good, run);
    unfinished(run);
    struct buf text = {0};
    snprintf(path, sizeof path, "%s/trajectory.jsonl", run);
    assert_int_equal(file_read(path, 1 << 24, &text, NULL), 0);
    char *answer = strstr(text.data, "walk_north");
    memcpy(answer, "walk_south", 10);
    assert_int_equal(file_replace(path, text.data, text.len, NULL), 0);
    buf_free(&text);
    assert_int_equal(run_command(cmd_play, resume), 1);
    assert_non_null(strstr(said(), "was changed"));

    /* One process at a time. */
    snprintf(run, sizeof run, "%s/locked", folder);
    copy_run(good, run);
    unfinished(run);
    struct run *held;
    struct err err;
    assert_int_equal(run_resume(run, &held, &err), 0);
    assert_int_equal(run_command(cmd_play, resume), 1);
    assert_non_null(strstr(said(), "another process"));
    run_finish(held, &err);
}

/* ---- over the watchdog's returns, and in a conversation --------------------------------------------------------------------------- */

/* Only the first `lines` lines of a file stay. */
static void first_lines(const char *path, int lines) {
    struct buf text = {0};
    assert_int_equal(file_read(path, 1 << 26, &text, NULL), 0);
    size_t at = 0;
    for (int i = 0; i < lines; i++) at = (size_t)((char *)memchr(text.data + at, '\n', text.len - at) + 1 - text.data);
    assert_int_equal(truncate(path, (off_t)at), 0);
    buf_free(&text);
}

/* A copy of a run as if it had been killed with so many lines in its files. */
static void killed_at(const char *from, const char *to, int steps, int events) {
    char path[400];
    copy_run(from, to);
    snprintf(path, sizeof path, "%s/summary.json", to);
    unlink(path);
    snprintf(path, sizeof path, "%s/trajectory.jsonl", to);
    first_lines(path, steps);
    snprintf(path, sizeof path, "%s/episodes.jsonl", to);
    first_lines(path, events);
}

static void goes_on_like(const struct trace *whole, char *run) {
    struct trace now;
    char *resume[] = {"play", "--resume", run, "--json", NULL}, *replay[] = {"replay", run, NULL}, command[400];
    if (run_command(cmd_play, resume)) fail_msg("%s", said());
    trace_of(run, 77, &now);
    assert_same(whole, &now);
    trace_free(&now);
    if (run_command(cmd_replay, replay)) fail_msg("%s", said());
    snprintf(command, sizeof command, "rm -rf '%s'", run);
    assert_int_equal(system(command), 0);
}

/* Against a wall until the watchdog goes back, three times; then the second episode. Killed in each part, at its first step, its last one, and between
 * the end of a part and the beginning of the next. */
static void over_the_returns_of_the_watchdog(void **state) {
    (void)state;
    char wall[200], good[300], run[300];
    snprintf(wall, sizeof wall, "%s/wall", folder);
    snprintf(good, sizeof good, "%s/returns", folder);
    snprintf(run, sizeof run, "%s/returned", folder);
    static const char script_text[] = "next\nnext\nwait\nwait\nwalk_north\n";
    struct buf lines = {0};
    buf_str(&lines, script_text);
    for (int i = 0; i < 200; i++) buf_str(&lines, "walk_north\n");
    assert_int_equal(file_replace(wall, lines.data, lines.len, NULL), 0);
    buf_free(&lines);
    char *args[] = {"play", "--mock-script", wall, "--without", "all", "--watchdog", "--episodes", "2", "--max-decisions", "150", "--seed", "77", "--json", "--record", good, NULL};
    if (run_command(cmd_play, args)) fail_msg("%s", said());
    assert_non_null(strstr(said(), "\"episodes\":2,"));
    assert_non_null(strstr(said(), "\"restored\":6"));
    struct trace whole;
    trace_of(good, 77, &whole);
    struct run_reader *r;
    struct err err;
    const struct run_episode *episodes;
    assert_int_equal(run_open(good, &r, &err), 0);
    int count = run_reader_episodes(r, &episodes), before = 0;
    assert_int_equal(count, 8); /* records: four parts of two episodes */
    assert_int_equal(run_reader_reopens(r), 9);
    for (int part = 0; part < count; part++) {
        int steps = (int)episodes[part].steps;
        assert_true(steps > 20);
        assert_int_equal(episodes[part].returns, part % 4 != 3);
        if (part == 0 || part == 2 || part == 4) {
            killed_at(good, run, before + 1, 2 * part + 1);
            goes_on_like(&whole, run);
            killed_at(good, run, before + steps, 2 * part + 1);
            goes_on_like(&whole, run);
            killed_at(good, run, before + steps, 2 * part + 2); /* the end is on record, what follows is not */
            goes_on_like(&whole, run);
        }
        before += steps;
    }
    run_close(r);
    trace_free(&whole);
}

/* Prompts too are those of the run that nobody disturbed: what was said, what was told, what was refused. */
static struct buf prompts_of(const char *run) {
    struct run_reader *r;
    struct err err;
    static struct run_line line;
    struct buf out = {0};
    struct token_chain tokens = {0};
    int got, count;
    if (run_open(run, &r, &err)) fail_msg("%s", err.message);
    while ((got = run_next(r, &line, NULL, &err)) == 1) {
        const int32_t *ids = token_chain_line(&tokens, line.json, &count);
        char hash[33] = "none";
        if (ids) hash_hex(ids, (size_t)count * sizeof *ids, NULL, 0, hash);
        buf_printf(&out, "%d.%u history %d, %d tokens %s\n%s\n> %s\nrefused %s\n", line.episode, line.step, (int)json_as_integer(json_get(line.json, "history"), 0), count, hash,
                   json_as_string(json_get(line.json, "prompt"), ""), json_as_string(json_get(line.json, "answer"), ""),
                   json_as_string(json_get(line.json, "refused_answer"), "nothing"));
    }
    if (got < 0) fail_msg("%s", err.message);
    run_close(r);
    token_chain_free(&tokens);
    return out;
}

static void in_a_conversation(void **state) {
    (void)state;
    char skills[200], good[300], run[300];
    snprintf(skills, sizeof skills, "%s/skills", folder);
    snprintf(run, sizeof run, "%s/talking", folder);
    static const char text[] = "skill next\nskill next\nskill explore\nskill go_to 0 0\nskill explore\nskill explore\nskill wait\n";
    assert_int_equal(file_replace(skills, text, sizeof text - 1, NULL), 0);
    char *mock[] = {"play", "--mock-script", skills, "--act", "skills", "--prompt", "configs/prompts/hub-2.txt", "--history", "4", "--episodes", "2", "--max-decisions", "12", "--seed", "77", "--json",
                    "--record", good, NULL};
    char *engine[] = {"play", "--model", "tests/golden/tiny-c", "--threads", "1", "--device", "cpu", "--act", "skills", "--prompt", "configs/prompts/hub-2.txt", "--history", "6", "--episodes", "2",
                      "--max-decisions", "12", "--seed", "77", "--json", "--record", good, NULL};
    for (int k = 0; k < 2; k++) {
        snprintf(good, sizeof good, "%s/talk-%d", folder, k);
        if (run_command(cmd_play, k ? engine : mock)) fail_msg("%s", said());
        struct trace whole;
        assert_int_equal(trace_of(good, 77, &whole), 24);
        struct buf prompts = prompts_of(good);
        if (!k) assert_non_null(strstr(prompts.data, "not possible: go_to 0 0"));
        assert_non_null(strstr(prompts.data, "history 1,"));
        static const int cuts[][2] = {{1, 1}, {6, 1}, {11, 1}, {18, 3}};
        for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
            char *resume[] = {"play", "--resume", run, "--json", NULL}, command[400];
            struct trace now;
            killed_at(good, run, cuts[i][0], cuts[i][1]);
            if (run_command(cmd_play, resume)) fail_msg("%s", said());
            trace_of(run, 77, &now);
            assert_same(&whole, &now);
            trace_free(&now);
            struct buf again = prompts_of(run);
            if (strcmp(again.data, prompts.data)) {
                size_t d = 0;
                while (again.data[d] == prompts.data[d]) d++;
                fail_msg("killed at step %d: prompts differ at\n%.600s\n--- undisturbed:\n%.600s", cuts[i][0], again.data + (d > 300 ? d - 300 : 0), prompts.data + (d > 300 ? d - 300 : 0));
            }
            buf_free(&again);
            snprintf(command, sizeof command, "rm -rf '%s'", run);
            assert_int_equal(system(command), 0);
        }
        buf_free(&prompts);
        trace_free(&whole);
    }
}

static void refusals(void **state) {
    (void)state;
    char run[300];
    snprintf(run, sizeof run, "%s/nothing", folder);
    char *resume[] = {"play", "--resume", run, NULL}, *changed[] = {"play", "--resume", run, "--seed", "3", NULL};
    assert_int_equal(run_command(cmd_play, resume), 2);
    assert_non_null(strstr(said(), "no run"));
    assert_int_equal(run_command(cmd_play, changed), 2);
    assert_non_null(strstr(said(), "--seed"));
    char path[400];
    assert_int_equal(mkdir(run, 0777), 0);
    snprintf(path, sizeof path, "%s/games.json", run);
    static const char bad[] = "{\"format\":1,\"games\":100000,\"arguments\":[]}";
    assert_int_equal(file_replace(path, bad, sizeof bad - 1, NULL), 0);
    assert_int_equal(run_command(cmd_play, resume), 2);
    assert_non_null(strstr(said(), "games"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_at_any_moment),
        cmocka_unit_test(stopped_by_the_user),
        cmocka_unit_test(torn_lines_and_changes),
        cmocka_unit_test(over_the_returns_of_the_watchdog),
        cmocka_unit_test(in_a_conversation),
        cmocka_unit_test(refusals),
    };
    if (!file_exists(ROM)) {
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) printf("ok %zu # SKIP\n", i + 1);
        fprintf(stderr, "SKIPPED test_resume: %s is missing\n", ROM);
        return 0;
    }
    return cmocka_run_group_tests(tests, make_temporary, remove_temporary);
}
