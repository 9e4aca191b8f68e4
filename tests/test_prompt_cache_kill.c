/* kill -9 at random moments, over and over, on one folder: no wrong answer, no file that is not whole, nothing lost that had been
 * written. 50 kills; 1,000 with PMD_SLOW_TESTS. */
#include <signal.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "cached_model.h"

enum { TALKS = 39 };

/* What an answer is, in 16 bytes. */
static struct hash128 answer_hash(const struct qvl_result *r) {
    struct hash128 h = hash_bytes(r->text, strlen(r->text), 0);
    for (size_t i = 0; i < r->token_count; i++) {
        struct {
            struct hash128 before;
            int32_t id;
            float logprob;
        } part = {h, r->tokens[i].id, r->tokens[i].logprob};
        h = hash_bytes(&part, sizeof part, 1);
    }
    return h;
}

static struct hash128 cold_answer(struct qvl_model *m, int n) {
    struct qvl_result r = ask(m, n);
    struct hash128 h = answer_hash(&r);
    qvl_result_free(&r);
    qvl_model_forget(m);
    return h;
}

static unsigned rng_state;
static unsigned rng(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 17;
    rng_state ^= rng_state << 5;
    return rng_state;
}

/* ---- the process that is killed ---- */

/* Asks for ever; says on stdout which conversations are on the disk. A wrong answer ends it with 3. */
static int victim(const char *folder, unsigned seed, uint64_t budget) {
    struct hash128 want[TALKS];
    char path[400];
    rng_state = seed * 2654435761u + 1;
    snprintf(path, sizeof path, "%s/answers", folder);
    FILE *f = fopen(path, "rb");
    if (!f || fread(want, sizeof want, 1, f) != 1) return 4;
    fclose(f);
    struct qvl_options o = cached(folder);
    o.disk_bytes = budget;
    struct qvl_model *m = golden_model("tiny-a", &o);
    for (;;) {
        unsigned char n = (unsigned char)(rng() % TALKS);
        int64_t lost = stats_of(m).disk_drops[QVL_SPILL_QUEUE];
        struct qvl_result r = ask(m, n);
        if (!hash_equal(answer_hash(&r), want[n])) return 3;
        qvl_result_free(&r);
        if (rng() % 3 == 0) qvl_model_forget(m);
        if (rng() % 2) continue;
        spill_wait(m->spill);
        if (stats_of(m).disk_drops[QVL_SPILL_QUEUE] == lost && write(1, &n, 1) != 1) return 5;
    }
}

struct child {
    pid_t pid;
    int out;
};

static struct child start(const struct test_folder *f, unsigned seed, uint64_t budget) {
    int pipes[2];
    char number[20], bytes[20];
    snprintf(number, sizeof number, "%u", seed);
    snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)budget);
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipes[1], 1);
        execl("/proc/self/exe", "test_prompt_cache_kill", "victim", f->path, number, bytes, (char *)NULL);
        _exit(127);
    }
    close(pipes[1]);
    return (struct child){pid, pipes[0]};
}

/* ---- the survivor ---- */

struct tally {
    long kills, written, checked, temporary; /* temporary: kills that left a temporary file */
};

/* Everything that the killed process said was written is there and answers right; every file is whole. */
static void check(const struct test_folder *f, const struct hash128 *want, const unsigned char *written, int count, uint64_t budget,
                  struct tally *t) {
    struct qvl_options o = cached(f->path);
    o.disk_bytes = budget;
    t->temporary += folder_count(f, ".tmp", NULL) > 0;
    struct qvl_model *m = golden_model("tiny-a", &o);
    assert_int_equal(folder_count(f, ".tmp", NULL), 0); /* swept: their writer is dead */
    for (int i = 0; i < count + 1; i++) {
        int n = i < count ? written[i] : (int)(rng() % TALKS);
        struct qvl_result r = ask(m, n);
        if (!hash_equal(answer_hash(&r), want[n])) fail_msg("kill %ld: a wrong answer to conversation %d", t->kills, n);
        if (i < count && !budget && r.cached_tokens != r.prompt_tokens - 1)
            fail_msg("kill %ld: conversation %d was written, but only %lld of %lld tokens are known", t->kills, n,
                     (long long)r.cached_tokens, (long long)r.prompt_tokens);
        qvl_result_free(&r);
        t->checked++;
    }
    spill_wait(m->spill);
    struct qvl_stats s = stats_of(m);
    for (int i = 0; i < QVL_SPILL_DROPS; i++)
        if (s.disk_drops[i] && !(budget && i == QVL_SPILL_GONE)) /* with a small budget the writer evicts what a reader has found */
            fail_msg("kill %ld: %lld dropped: %s", t->kills, (long long)s.disk_drops[i], qvl_spill_drop_name(i));
    if (budget) assert_true(s.disk_bytes <= budget);
    qvl_unload(m);
}

/* How long a process takes until it has written something, in microseconds: moments are random within twice that. */
static unsigned calibrate(const struct test_folder *f) {
    unsigned char n;
    double begin = clock_seconds();
    struct child c = start(f, 1, 0);
    ssize_t got = read(c.out, &n, 1);
    double seconds = clock_seconds() - begin;
    kill(c.pid, SIGKILL);
    waitpid(c.pid, NULL, 0);
    close(c.out);
    assert_int_equal(got, 1);
    return (unsigned)(seconds * 1e6);
}

static void killed(void **state) {
    (void)state;
    int kills = slow_tests() ? 1000 : 50;
    struct test_folder f;
    struct tally t = {0};
    struct hash128 want[TALKS];
    char path[400];
    folder_make(&f);
    rng_state = 20251;
    struct qvl_model *cold = golden_model("tiny-a", &plain);
    for (int n = 0; n < TALKS; n++) want[n] = cold_answer(cold, n);
    qvl_unload(cold);
    snprintf(path, sizeof path, "%s/answers", f.path);
    assert_int_equal(file_replace(path, want, sizeof want, NULL), 0);
    unsigned moment = calibrate(&f), idle = 0;
    for (; t.kills < kills; t.kills++) {
        uint64_t budget = t.kills % 4 == 3 ? 600000 : 0; /* a fourth of them evict as they go */
        if (t.kills % 10 == 0) { /* from nothing again, so that there is something to write */
            folder_clear(&f);
            assert_int_equal(file_replace(path, want, sizeof want, NULL), 0);
        }
        struct child c = start(&f, (unsigned)t.kills, budget);
        usleep(rng() % (2 * moment));
        kill(c.pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(c.pid, &status, 0), c.pid);
        if (!WIFSIGNALED(status)) fail_msg("kill %ld: the process ended by itself with %d", t.kills, WEXITSTATUS(status));
        unsigned char written[256];
        ssize_t count = read(c.out, written, sizeof written);
        assert_true(count >= 0);
        close(c.out);
        t.written += count;
        idle = count ? 0 : idle + 1;
        if (idle == 8 && moment < 4000000) moment *= 2, idle = 0; /* the machine has become busier ... */
        if (count > 3) moment -= moment / 4; /* ... or idler */
        check(&f, want, written, (int)(count < 6 ? count : 6), budget, &t);
    }
    fprintf(stderr, "%ld kills, %ld of them in the middle of a write; %ld conversations written, %ld answers compared: all right\n",
            t.kills, t.temporary, t.written, t.checked);
    assert_true(t.written > 0 && t.checked >= t.kills);
    folder_remove(&f);
}

int main(int argc, char **argv) {
    if (argc == 5 && !strcmp(argv[1], "victim")) return victim(argv[2], (unsigned)atoi(argv[3]), strtoull(argv[4], NULL, 10));
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
