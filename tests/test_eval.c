/* `pmd-agent eval`: results that survive kill -9, that others can check, and figures that are computed right. */
#include "test.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/eval.h"
#include "base/clock.h"
#include "base/energy.h"
#include "base/file.h"
#include "base/json.h"

static char root[] = "/tmp/test-eval-XXXXXX";

static int setup(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}
static int teardown(void **state) {
    char command[100];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static const char *path(const char *name) {
    static char text[4][200];
    static int next;
    next = (next + 1) % 4;
    snprintf(text[next], sizeof text[next], "%s/%s", root, name);
    return text[next];
}

static pid_t start(const char *const *words) {
    char *argv[32];
    int argc = 0;
    for (; words[argc]; argc++) argv[argc] = (char *)words[argc];
    argv[argc] = NULL;
    fflush(NULL);
    pid_t pid = fork();
    if (pid) return pid;
    int out = open(path("out"), O_WRONLY | O_CREAT | O_TRUNC, 0666), log = open(path("log"), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(out, 1);
    dup2(log, 2);
    int status = cmd_eval(argc, argv);
    fflush(NULL);
    _exit(status);
}

static int finish(pid_t pid) {
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
#define EVAL(...) finish(start((const char *const[]){"eval", __VA_ARGS__, NULL}))

static bool said(const char *file, const char *words) {
    struct buf b = {0};
    struct err err;
    bool found = !file_read(path(file), 1 << 24, &b, &err) && b.data && strstr(b.data, words);
    if (!found) print_error("%s holds: %s\n", file, b.data ? b.data : "");
    buf_free(&b);
    return found;
}

static struct eval_results read_results(const char *name) {
    struct eval_results r = {.fd = -1};
    struct err err;
    if (eval_results_read(&r, path(name), &err)) fail_msg("%s", err.message);
    return r;
}

static const struct eval_episode *find(const struct eval_results *r, int setting, uint32_t seed) {
    for (int i = 0; i < r->episode_count; i++)
        if (r->episodes[i].setting == setting && r->episodes[i].seed == seed) return &r->episodes[i];
    fail_msg("no setting %d with seed %u", setting, seed);
    return NULL;
}

#define TASK "--seeds", "1000000:4", "--as", "far=--policy omniscient", "--as", "short=--policy oracle --max-decisions 20", "--baselines", "none"

static void test_measures_and_verifies(void **state) {
    (void)state;
    assert_int_equal(EVAL("--out", path("a"), TASK, "--jobs", "2", "--chunk", "2", "--json"), 0);
    struct buf text = {0};
    struct arena arena = {0};
    struct err err;
    assert_int_equal(file_read(path("out"), 1 << 24, &text, &err), 0);
    const struct json *j = json_parse(text.data, text.len, "result", &arena, &err), *s = json_get(j, "settings");
    assert_int_equal(s->count, 2);
    assert_string_equal(json_as_string(json_get(s->items[0], "name"), ""), "far");
    assert_int_equal(json_as_integer(json_get(s->items[0], "cleared"), -1), 4);
    assert_int_equal(json_as_integer(json_get(s->items[1], "cleared"), -1), 0);
    assert_int_equal(json_as_integer(json_get(s->items[1], "decisions"), -1), 80);
    assert_int_equal(json_get(s->items[0], "milestones")->count, 3);
    assert_int_equal(json_as_integer(json_get(json_get(s->items[0], "milestones")->items[2], "reached"), -1), 4);
    arena_free(&arena);
    buf_free(&text);
    assert_false(file_exists(path("a/runs"))); /* not kept */
    struct eval_results r = read_results("a");
    for (int i = 0; i < r.episode_count; i++) {
        const struct eval_episode *e = &r.episodes[i];
        if (e->setting) {
            assert_string_equal(e->outcome, "out_of_budget");
            continue;
        }
        assert_string_equal(e->outcome, "cleared");
        assert_int_equal(e->mark_count, 3);
        for (int k = 0; k < 3; k++) {
            const struct eval_mark *m = &e->marks[k], *before = k ? m - 1 : NULL;
            assert_int_equal(m->floor, k < 2 ? k + 2 : 0);
            assert_true(m->decision > (before ? before->decision : 0) && m->turn > (before ? before->turn : 0) && m->frame > (before ? before->frame : 0));
        }
        assert_int_equal(e->marks[2].turn, e->turns);
    }
    eval_results_close(&r);
    assert_int_equal(EVAL("--verify", path("a")), 0);
    assert_true(said("out", "8 of 8 episodes played again: identical"));
    assert_int_equal(EVAL("--verify", path("a"), "--sample", "3"), 0);
    assert_true(said("out", "3 of 8 episodes"));
    assert_int_equal(EVAL("--report", path("a")), 0);
    assert_true(said("out", "| far | 4 | 4 | 100.0 % | 51.0 to 100.0 % |"));
    assert_true(said("out", "3 x 20 decisions used up on floor 1"));
    assert_int_equal(EVAL("--report", path("a"), "--csv"), 0);
    assert_true(said("out", "far,1000003,cleared,\"\",3,"));
    /* Again: nothing is left to play, nothing is added. */
    struct stat before, after;
    stat(path("a/results.jsonl"), &before);
    assert_int_equal(EVAL("--out", path("a"), TASK), 0);
    stat(path("a/results.jsonl"), &after);
    assert_int_equal(before.st_size, after.st_size);
}

/* Killed with its processes again and again: in the end the results are those of the run that was left alone. */
static void test_survives_kill(void **state) {
    (void)state;
    int lines = 0;
    for (int kills = 0; kills < 3; kills++) {
        pid_t pid = start((const char *const[]){"eval", "--out", path("k"), TASK, "--jobs", "2", "--chunk", "3", NULL});
        struct stat s = {0};
        off_t size = stat(path("k/results.jsonl"), &s) ? 0 : s.st_size;
        for (double until = clock_seconds() + 20; clock_seconds() < until; usleep(2000)) { /* until something was added */
            if (!stat(path("k/results.jsonl"), &s) && s.st_size > size + (kills == 0 ? 0 : 300)) break;
            if (kills == 0 && file_exists(path("k/runs/far-1000000/trajectory.jsonl"))) break;
        }
        usleep(30000);
        kill(pid, SIGKILL);
        finish(pid);
        struct eval_results r = read_results("k");
        assert_true(r.episode_count >= lines);
        lines = r.episode_count;
        eval_results_close(&r);
    }
    int fd = open(path("k/results.jsonl"), O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "{\"event\":\"epis", 14), 14); /* and a line torn */
    close(fd);
    assert_int_equal(EVAL("--out", path("k"), TASK, "--chunk", "4"), 0);
    struct eval_results a = read_results("a"), k = read_results("k");
    assert_int_equal(k.episode_count, 8);
    for (int i = 0; i < k.episode_count; i++) {
        const struct eval_episode *e = &k.episodes[i], *f = find(&a, e->setting, e->seed);
        assert_string_equal(e->end_hash, f->end_hash);
        assert_string_equal(e->presses, f->presses);
        assert_string_equal(e->outcome, f->outcome);
        assert_int_equal(e->turns, f->turns);
    }
    eval_results_close(&a);
    eval_results_close(&k);
}

/* The results of "a" with one thing changed, chain and all, as a forger would write them. */
static void forge(const char *name, void (*change)(struct eval_episode *e)) {
    struct eval_results a = read_results("a"), f = {.fd = -1, .seed_first = a.seed_first, .seed_count = a.seed_count, .setting_count = 2};
    struct err err;
    memcpy(f.rom_hash, a.rom_hash, sizeof f.rom_hash);
    for (int i = 0; i < 2; i++) {
        f.settings[i] = a.settings[i];
        f.settings[i].options = strdup(a.settings[i].options);
    }
    if (eval_results_open(&f, path(name), &err)) fail_msg("%s", err.message);
    for (int i = 0; i < a.episode_count; i++) {
        struct eval_episode e = a.episodes[i];
        e.presses = strdup(e.presses);
        if (e.setting == 1 && e.seed == 1000002) change(&e);
        if (eval_results_add(&f, &e, &err)) fail_msg("%s", err.message);
    }
    eval_results_close(&f);
    eval_results_close(&a);
}
static void claim_cleared(struct eval_episode *e) { strcpy(e->outcome, "cleared"); }
static void claim_floor(struct eval_episode *e) { e->floor_reached = 3; }
static void claim_hash(struct eval_episode *e) { e->end_hash[5] ^= 1; }
static void claim_presses(struct eval_episode *e) { e->presses[0] = '%'; }

static void test_forgeries_are_found(void **state) {
    (void)state;
    struct buf b = {0};
    struct err err;
    forge("outcome", claim_cleared);
    assert_int_equal(EVAL("--verify", path("outcome")), 1);
    assert_true(said("log", "short, seed 1000002: the outcome differs"));
    assert_true(said("out", "1 differ"));
    forge("floor", claim_floor);
    assert_int_equal(EVAL("--verify", path("floor")), 1);
    assert_true(said("log", "the floor reached differs"));
    forge("hash", claim_hash);
    assert_int_equal(EVAL("--verify", path("hash")), 1);
    assert_true(said("log", "the memory at the end differs"));
    forge("presses", claim_presses);
    assert_int_equal(EVAL("--verify", path("presses")), 1);
    assert_true(said("log", "field presses is no base64"));
    /* Without the chain it does not even come to that. */
    assert_int_equal(file_read(path("a/results.jsonl"), 1 << 24, &b, &err), 0);
    char *at = strstr(b.data, "\"turns\":");
    at[8] = at[8] == '9' ? '8' : '9';
    assert_int_equal(mkdir(path("edited"), 0777), 0);
    assert_int_equal(file_replace(path("edited/results.jsonl"), b.data, b.len, &err), 0);
    buf_free(&b);
    assert_int_equal(EVAL("--report", path("edited")), 1);
    assert_true(said("log", "was changed, removed or added"));
}

static void test_refusals(void **state) {
    (void)state;
    assert_int_equal(EVAL("--out", path("a"), "--seeds", "1000000:5", "--as", "far=--policy omniscient", "--baselines", "none"), 1);
    assert_true(said("log", "was begun with the seeds 1000000:4, not 1000000:5"));
    assert_int_equal(EVAL("--out", path("a"), "--seeds", "1000000:4", "--as", "far=--policy oracle", "--baselines", "none"), 1);
    assert_true(said("log", "was begun with other settings"));
    assert_int_equal(EVAL("--as", "x"), 2);
    assert_int_equal(EVAL("--as", "a/b=--policy oracle"), 2);
    assert_int_equal(EVAL("--as", "x=--policy oracle --seed 3"), 2);
    assert_true(said("log", "eval itself sets '--seed'"));
    assert_int_equal(EVAL("--as", "x=--policy oracle --watchdog"), 2);
    assert_true(said("log", "must go on from its start"));
    assert_int_equal(EVAL("--as", "x=", "--as", "x="), 2);
    assert_int_equal(EVAL("--seeds", "5"), 2);
    assert_int_equal(EVAL("--baselines", "best"), 2);
    assert_int_equal(EVAL("--frob"), 2);
    assert_int_equal(EVAL("--report", path("nowhere")), 1);
    assert_int_equal(EVAL("--out", path("b"), "--seeds", "1:2", "--as", "x=--policy clever", "--baselines", "none"), 1);
    assert_true(said("log", "x, seeds from 1: play ended with status 2"));
    assert_int_equal(EVAL("--help"), 0);
    assert_true(said("out", "usage: pmd-agent eval"));
}

static void test_wilson(void **state) {
    (void)state;
    static const struct { int hits, count; double low, high; } known[] = {
        {135, 200, 0.60732, 0.73608}, {0, 30, 0, 0.11351}, {30, 30, 0.88649, 1}, {1, 2, 0.09453, 0.90547}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        double low, high;
        wilson(known[i].hits, known[i].count, &low, &high);
        assert_float_equal(low, known[i].low, 1e-5);
        assert_float_equal(high, known[i].high, 1e-5);
    }
}

static void put(const char *name, const char *text) {
    struct err err;
    if (file_replace(path(name), text, strlen(text), &err)) fail_msg("%s", err.message);
}

static void test_energy(void **state) {
    (void)state;
    static const char *const zones[][3] = {{"intel-rapl:0", "package-0\n", "1000000\n"}, {"intel-rapl:0:0", "core\n", "500\n"},
                                           {"intel-rapl:0:1", "dram\n", "100\n"}, {"intel-rapl:1", "psys\n", "7\n"}};
    char name[100];
    struct energy_meter m;
    energy_open(&m, path("nothing-here"));
    assert_true(isnan(energy_read(&m)));
    for (int i = 0; i < 4; i++) {
        struct err err;
        snprintf(name, sizeof name, "rapl/%s", zones[i][0]);
        assert_int_equal(file_make_folders(path(name), &err), 0);
        snprintf(name, sizeof name, "rapl/%s/name", zones[i][0]);
        put(name, zones[i][1]);
        snprintf(name, sizeof name, "rapl/%s/energy_uj", zones[i][0]);
        int fd = open(path(name), O_WRONLY | O_CREAT, 0666);
        assert_true(write(fd, zones[i][2], strlen(zones[i][2])) > 0);
        close(fd);
        snprintf(name, sizeof name, "rapl/%s/max_energy_range_uj", zones[i][0]);
        put(name, "262143328850\n");
    }
    energy_open(&m, path("rapl"));
    assert_int_equal(m.count, 2); /* the package and its memory */
    assert_float_equal(energy_read(&m), 0, 1e-9);
    int fd = open(path("rapl/intel-rapl:0/energy_uj"), O_WRONLY);
    assert_int_equal(write(fd, "3500000\n", 8), 8);
    assert_float_equal(energy_read(&m), 2.5, 1e-9);
    assert_int_equal(pwrite(fd, "0000001\n", 8, 0), 8); /* wrapped */
    close(fd);
    assert_float_equal(energy_read(&m), 2.5 + (262143328850.0 - 3500000 + 1) * 1e-6, 1e-3);
    energy_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measures_and_verifies), cmocka_unit_test(test_survives_kill), cmocka_unit_test(test_forgeries_are_found),
        cmocka_unit_test(test_refusals),              cmocka_unit_test(test_wilson),        cmocka_unit_test(test_energy),
    };
    return cmocka_run_group_tests_name("eval", tests, setup, teardown);
}
