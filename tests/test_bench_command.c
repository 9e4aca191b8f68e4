/* `pmd-agent bench` as a user calls it, on a tiny checkpoint: a sweep, one that is killed and goes on, the plan, comparison, pictures,
 * wrong usage. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/commands.h"
#include "base/buf.h"
#include "base/file.h"
#include "bench/result.h"
#include "test.h"

static char folder[] = "/tmp/bench-command-XXXXXX";
static struct buf out, complaints;

/* The same name, the same pointer. */
static const char *in_folder(const char *name) {
    static char paths[32][120];
    char path[120];
    int i = 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    while (paths[i][0] && strcmp(paths[i], path)) i++;
    assert_true(i < 31);
    return strcpy(paths[i], path);
}

/* In a child, so that it can be killed: after kill_lines lines stand in `watched` (0: never). Returns its exit status, 1000 + signal. */
static int run_until(const char *const *words, const char *watched, int kill_lines) {
    char *argv[40];
    int argc = 0, status;
    struct err err = {0};
    argv[argc++] = "bench";
    for (; words[argc - 1]; argc++) argv[argc] = (char *)words[argc - 1];
    argv[argc] = NULL;
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();
    if (pid == 0) {
        int o = open(in_folder("out"), O_WRONLY | O_CREAT | O_TRUNC, 0600), e = open(in_folder("err"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(o, 1);
        dup2(e, 2);
        int r = cmd_bench(argc, argv);
        fflush(stdout);
        _exit(r);
    }
    while (kill_lines) {
        struct buf text = {0};
        int lines = 0;
        usleep(1000);
        if (!file_read(watched, 1 << 24, &text, &err))
            for (size_t i = 0; i < text.len; i++) lines += text.data[i] == '\n';
        buf_free(&text);
        if (waitpid(pid, &status, WNOHANG) == pid) fail_msg("it ended before it could be killed");
        if (lines >= kill_lines) break;
    }
    if (kill_lines) kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    buf_clear(&out);
    buf_clear(&complaints);
    buf_str(&out, "");
    buf_str(&complaints, "");
    file_read(in_folder("out"), 1 << 24, &out, &err);
    file_read(in_folder("err"), 1 << 24, &complaints, &err);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int run(const char *const *words) { return run_until(words, NULL, 0); }

static void check_measured(const struct result *r) {
    assert_string_equal(r->status, "measured");
    assert_string_equal(r->device, "cpu");
    assert_string_equal(r->weights, "file");
    const struct measure all[] = {r->prefill_tok_s, r->decode_tok_s, r->ttft_cold_ms, r->ttft_prefix_ms, r->ttft_full_ms};
    if (strcmp(r->task, "mixed")) assert_true(r->ttft_resident_ms.median > 0);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) assert_true(all[i].median > 0 && all[i].spread >= 0);
    assert_true(r->token_p50_ms <= r->token_p95_ms && r->token_p95_ms <= r->token_p99_ms && r->token_p50_ms > 0);
    assert_true(r->memory_mib > 1 && r->host_mib > 1);
    assert_true(r->floor_tok_s > 0 && fabs(r->floor_share - r->decode_tok_s.median / r->floor_tok_s) < 1e-3 * r->floor_share);
    double bytes = 1e6 * (r->weight_mb + r->prefix_mb + r->suffix_mb);
    assert_true(fabs((double)(r->batch * r->best_of) * r->read_gb_s * 1e9 / bytes / r->floor_tok_s - 1) < 1e-3);
    assert_int_equal(r->prompt_tokens + r->answer_tokens, r->context);
    assert_true(isfinite(r->ttft_half_ms.median) == (r->batch == 1 && r->best_of == 1));
    assert_true(isfinite(r->picture_ms) == (strcmp(r->task, "text") != 0));
    assert_true(strlen(r->date) == 20 && r->machine[0] && r->kernels[0]);
}

#define MODEL "--models", "tests/golden/tiny-a", "--threads", "1"

/* A cell that is the model's whole context has room for one token less. */
static void whole_context(void **state) {
    (void)state;
    struct err err = {0};
    struct results a;
    const char *words[] = {MODEL, "--contexts", "4096", "--best-of", "2", "--repeats", "1", "--answer-tokens", "3", "--json", in_folder("whole.json"), NULL};
    int status = run(words);
    if (status) fail_msg("%d: %s", status, complaints.data);
    if (results_read(in_folder("whole.json"), &a, &err)) fail_msg("%s", err.message);
    assert_int_equal(a.count, 1);
    check_measured(&a.items[0]);
    results_free(&a);
}

static void a_sweep(void **state) {
    (void)state;
    struct err err = {0};
    struct results a, b;
    const char *words[] = {MODEL, "--contexts", "160,256", "--batches", "1,2", "--best-of", "1,2", "--tasks", "text,mixed", "--repeats",
                           "2", "--answer-tokens", "3", "--json", in_folder("a.json"), "--csv", in_folder("a.csv"), NULL};
    int status = run(words);
    if (status) fail_msg("%d: %s", status, complaints.data);
    if (results_read(in_folder("a.json"), &a, &err) || results_read(in_folder("a.csv"), &b, &err)) fail_msg("%s", err.message);
    assert_int_equal(a.count, 16);
    assert_int_equal(b.count, 16);
    for (size_t i = 0; i < 16; i++) {
        struct buf x = {0}, y = {0};
        check_measured(&a.items[i]);
        assert_int_equal(a.items[i].repeats, 2);
        result_write_csv(&a.items[i], &x);
        result_write_csv(&b.items[i], &y);
        assert_string_equal(x.data, y.data);
        buf_free(&x);
        buf_free(&y);
    }
    results_free(&a);
    results_free(&b);
    assert_non_null(strstr(out.data, "| decode tok/s |"));
    assert_non_null(strstr(complaints.data, "[16/16]"));
    /* A file that is there is not overwritten unasked. */
    assert_int_equal(run(words), 1);
    assert_non_null(strstr(complaints.data, "--resume"));
}

static void a_killed_sweep_goes_on(void **state) {
    (void)state;
    struct err err = {0};
    struct results l;
    const char *json = in_folder("k.json"), *csv = in_folder("k.csv");
    const char *words[] = {MODEL, "--contexts", "64,96,128,160,192", "--batches", "1,2,4", "--repeats", "2", "--answer-tokens", "3",
                           "--json", json, "--csv", csv, "--resume", NULL};
    assert_int_equal(run_until(words, json, 3), 1000 + SIGKILL);
    int fd = open(json, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "{\"model\":\"to", 12), 12); /* as if torn in the middle of a line */
    close(fd);
    int status = run(words);
    if (status) fail_msg("%d: %s", status, complaints.data);
    for (int form = 0; form < 2; form++) {
        if (results_read(form ? csv : json, &l, &err)) fail_msg("%s", err.message);
        assert_false(l.torn);
        assert_int_equal(l.count, 15);
        for (size_t i = 0; i < l.count; i++) {
            check_measured(&l.items[i]);
            for (size_t k = 0; k < i; k++) assert_false(result_same_cell(&l.items[i], &l.items[k]));
        }
        results_free(&l);
    }
    /* Nothing is left: at once. */
    assert_int_equal(run(words), 0);
    assert_null(strstr(complaints.data, "loading"));
}

static void limits_of_time_and_room(void **state) {
    (void)state;
    struct err err = {0};
    struct results l;
    const char *json = in_folder("t.json");
    const char *words[] = {MODEL, "--contexts", "64,96", "--repeats", "1", "--answer-tokens", "3", "--json", json, "--max-wall", "0.001", NULL};
    assert_int_equal(run(words), 3);
    assert_non_null(strstr(complaints.data, "2 cells are left"));
    const char *none[] = {MODEL, "--contexts", "64", "--repeats", "1", "--tasks", "picture-simple", "--pictures", "/nonexistent",
                          "--answer-tokens", "70", "--json", json, NULL};
    assert_int_equal(run(none), 0);
    if (results_read(json, &l, &err)) fail_msg("%s", err.message);
    assert_string_equal(l.items[0].status, "skipped");
    assert_non_null(strstr(l.items[0].reason, "no room"));
    results_free(&l);
    const char *pictures[] = {MODEL, "--contexts", "96", "--repeats", "1", "--tasks", "picture-simple", "--pictures", "/nonexistent",
                              "--answer-tokens", "4", "--csv", in_folder("t.csv"), NULL};
    assert_int_equal(run(pictures), 0);
    assert_non_null(strstr(out.data, "no pictures: /nonexistent"));
    const char *missing[] = {"--models", "/nonexistent", "--contexts", "96", NULL};
    assert_int_equal(run(missing), 1);
    assert_non_null(strstr(complaints.data, "/nonexistent"));
}

/* No figure of a plan may be taken for a measurement. */
static void a_plan_measures_nothing(void **state) {
    (void)state;
    const char *words[] = {"--models", "tiny-fp8,tiny-nf4", "--random-weights", "--dry-run", "--contexts", "1k,2k", NULL};
    int status = run(words);
    if (status) fail_msg("%d: %s", status, complaints.data);
    assert_non_null(strstr(out.data, "4 cells"));
    assert_non_null(strstr(out.data, "estimate"));
    char *heading = strstr(out.data, "| model |"), *end = strchr(heading, '\n');
    *end = 0;
    int columns = 0;
    for (char *save, *c = strtok_r(heading, "|", &save); c; c = strtok_r(NULL, "|", &save)) {
        bool says_figure = strstr(c, "tok/s") || strstr(c, " ms") || strstr(c, "MiB") || strstr(c, "seconds");
        if (says_figure) assert_non_null(strstr(c, "estimate:"));
        columns += says_figure;
    }
    assert_int_equal(columns, 5);
}

static void write_results(const char *path, double decode, double spread) {
    struct err err = {0};
    struct result r;
    result_clear(&r);
    strcpy(r.model, "m");
    strcpy(r.task, "text");
    strcpy(r.status, "measured");
    r.context = 1024, r.batch = r.best_of = 1;
    r.decode_tok_s = (struct measure){decode, spread};
    unlink(path);
    assert_int_equal(result_append(path, strstr(path, "csv") != NULL, &r, &err), 0);
}

static void comparing(void **state) {
    (void)state;
    const char *a = in_folder("c1.json"), *b = in_folder("c2.csv");
    const char *words[] = {"--compare", a, b, NULL};
    write_results(a, 100, 3);
    write_results(b, 90, 3);
    assert_int_equal(run(words), 3);
    assert_non_null(strstr(out.data, "| slower |"));
    assert_non_null(strstr(out.data, "1 slower"));
    write_results(b, 120, 3);
    assert_int_equal(run(words), 0);
    assert_non_null(strstr(out.data, "| faster |"));
    write_results(b, 95, 3);
    assert_int_equal(run(words), 0);
    assert_non_null(strstr(out.data, "| within noise |"));
    const char *missing[] = {"--compare", a, "/nonexistent.json", NULL};
    assert_int_equal(run(missing), 1);
    assert_non_null(strstr(complaints.data, "/nonexistent.json"));
    const char *one[] = {"--compare", a, NULL};
    assert_int_equal(run(one), 2);
}

static void drawing(void **state) {
    (void)state;
    struct stat st;
    const char *words[] = {"--plot", in_folder("a.json"), "--plot-to", in_folder("pictures"), NULL};
    int status = run(words);
    if (status == 1 && strstr(complaints.data, "gnuplot is not installed")) skip_because("gnuplot is not installed");
    if (status) fail_msg("%d: %s", status, complaints.data);
    static const char *const names[] = {"landscape", "first-token", "memory", "best-of"};
    for (int i = 0; i < 8; i++) {
        char name[120];
        snprintf(name, sizeof name, "pictures/a-tests-golden-tiny-a-%s.%s", names[i / 2], i % 2 ? "svg" : "png");
        if (stat(in_folder(name), &st) || st.st_size < 5000) fail_msg("%s is not there or too small", name);
    }
    setenv("PATH", "/nonexistent", 1);
    assert_int_equal(run(words), 1);
    assert_non_null(strstr(complaints.data, "apt-get install gnuplot-nox"));
}

static void wrong_usage(void **state) {
    (void)state;
    static const char *const wrong[][6] = {{NULL}, {"--models", "all", "--contexts", "0"}, {"--models", "all", "--nonsense"},
                                           {"--models", "x,x"}, {"--models", "3b", "--random-weights"}, {"--models", "all", "--resume"},
                                           {"--models", "all", "--repeats", "0"}, {"--models"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(run(wrong[i]), 2);
        assert_non_null(strstr(complaints.data, "pmd-agent bench: "));
    }
    const char *help[] = {"--help", NULL};
    assert_int_equal(run(help), 0);
    assert_non_null(strstr(out.data, "--random-weights"));
}

static int open_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}
static int remove_folder(void **state) {
    (void)state;
    char command[100];
    setenv("PATH", "/usr/bin:/bin", 1);
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    buf_free(&out);
    buf_free(&complaints);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_sweep), cmocka_unit_test(whole_context), cmocka_unit_test(a_killed_sweep_goes_on),
                                       cmocka_unit_test(limits_of_time_and_room), cmocka_unit_test(a_plan_measures_nothing),
                                       cmocka_unit_test(comparing), cmocka_unit_test(wrong_usage), cmocka_unit_test(drawing)};
    return cmocka_run_group_tests(tests, open_folder, remove_folder);
}
