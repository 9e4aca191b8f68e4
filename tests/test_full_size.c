/* Real shapes on the CPU, with random weights (make test-all only): checkpoints of tools/make_checkpoint.py load, see a picture,
 * answer under a schema, and stay within the memory plan that was printed before. The figures are of this machine at this moment.
 * PMD_PYTHON names a Python with numpy (default python3); PMD_FULL_SIZE_DIR the folder for up to 8 GB of files (default /tmp). */
#include <math.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "golden_session.h"

static const char *from_environment(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static size_t resident_peak(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (size_t)u.ru_maxrss * 1024;
}

/* In a process of its own, so that the peak of memory is this model's. */
static int run_model(const char *folder) {
    struct err err = {0};
    struct qvl_options o = {.context = 4096};
    struct qvl_plan plan;
    struct qvl_model *m;
    struct qvl_session *s;
    struct qvl_result r;
    struct qvl_info info;
    if (qvl_plan_load(folder, &o, &plan, &err) || qvl_load(folder, &o, &m, &err) || qvl_session_new(m, &s, &err)) {
        fprintf(stderr, "  %s\n", err.message);
        return 1;
    }
    uint8_t *rgb = golden_picture(240, 160, 3);
    struct qvl_part parts[2] = {{.rgb = rgb, .width = 240, .height = 160}, {.text = "Which way?"}};
    struct qvl_generate g = {.sampling.greedy = true, .max_tokens = 12, .no_append = true, .top_logprobs = 3};
    int code = qvl_session_message(s, QVL_USER, parts, 2, &err);
    if (!code) code = qvl_generate(s, &g, &r, &err);
    free(rgb);
    if (code) {
        fprintf(stderr, "  %s\n", err.message);
        return 1;
    }
    bool sane = r.prompt_tokens > 70 && r.token_count > 0;
    for (size_t i = 0; i < r.token_count; i++)
        sane = sane && (r.tokens[i].forced || (isfinite(r.tokens[i].logprob) && r.tokens[i].logprob <= 0));
    qvl_model_info(m, &info);
    double rate = r.decode_seconds > 0 ? (double)(r.token_count - 1) / r.decode_seconds : 0;
    fprintf(
        stderr,
        "  %s: loaded in %.2f s, %lld prompt tokens in %.1f s (picture %.1f s), %.2f tok/s = %.2f GB/s; peak %.0f MiB of a plan of %.0f MiB\n",
        info.storage, info.load_seconds, (long long)r.prompt_tokens, r.first_token_seconds, r.image_seconds, rate,
        rate * (double)info.decode_bytes / 1e9, (double)resident_peak() / 1048576, (double)plan.total_bytes / 1048576);
    bool within = resident_peak() <= plan.total_bytes;
    qvl_result_free(&r);
    qvl_session_free(s);
    qvl_unload(m);
    return sane && within ? 0 : 1;
}

static void full_size(const char *size, const char *format, size_t bytes) {
    if (!slow_tests()) skip_because("runs with make test-all");
    char folder[300], command[900];
    struct statvfs disk;
    const char *python = from_environment("PMD_PYTHON", "python3"), *where = from_environment("PMD_FULL_SIZE_DIR", "/tmp");
    snprintf(command, sizeof command, "%s -c 'import numpy' 2>/dev/null", python);
    if (system(command)) skip_because("%s has no numpy (PMD_PYTHON names another)", python);
    if (statvfs(where, &disk) || (size_t)disk.f_bavail * disk.f_frsize < bytes + ((size_t)1 << 30))
        skip_because("%s has less than %zu MB free", where, (bytes >> 20) + 1024);
    snprintf(folder, sizeof folder, "%s/qvl-full-%d-%s-%s", where, (int)getpid(), size, format);
    snprintf(command, sizeof command, "%s tools/make_checkpoint.py %s --size %s --format %s >/dev/null", python, folder, size,
             format);
    int made = system(command), status = 1;
    if (made == 0) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) _exit(run_model(folder));
        if (child > 0) waitpid(child, &status, 0);
    }
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(made, 0);
    assert_int_equal(status, 0);
}

static void fp8_2b(void **state) { (void)state; full_size("2b", "fp8", 3500000000u); }
static void nf4_4b(void **state) { (void)state; full_size("4b", "nf4", 4200000000u); }
static void nf4_8b(void **state) { (void)state; full_size("8b", "nf4", 7600000000u); }

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fp8_2b), cmocka_unit_test(nf4_4b), cmocka_unit_test(nf4_8b)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
