/* Every allocation made while a prompt is restored, computed and written fails once: in the threads that write and read ahead no
 * request may notice; in the caller's own the answer is right or there is none. Never a wrong answer, never a bad file. */
#include "cached_model.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static void skipped(void **state) {
    (void)state;
    skip_because("the sanitizer has its own malloc");
}
int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(skipped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
extern char __executable_start, etext;
static __thread bool is_caller; /* the thread that asks */
static bool fail_caller;        /* whose allocations fail: its, or those of all others */
static long countdown = -1;

static bool refuse(const void *caller) {
    if (__atomic_load_n(&countdown, __ATOMIC_RELAXED) < 0 || is_caller != fail_caller || (const char *)caller < &__executable_start ||
        (const char *)caller >= &etext)
        return false;
    return __atomic_fetch_sub(&countdown, 1, __ATOMIC_RELAXED) == 0;
}
void *malloc(size_t n) { return refuse(__builtin_return_address(0)) ? NULL : __libc_malloc(n); }
void *calloc(size_t a, size_t b) { return refuse(__builtin_return_address(0)) ? NULL : __libc_calloc(a, b); }
void *realloc(void *p, size_t n) { return refuse(__builtin_return_address(0)) ? NULL : __libc_realloc(p, n); }
int posix_memalign(void **out, size_t align, size_t n) {
    void *p = refuse(__builtin_return_address(0)) ? NULL : __libc_memalign(align, n);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}

enum { LONG_TALK = 12, OTHER_TALK = 12 + 13 };

/* Restores one conversation and computes another. Returns whether an allocation failed; *refused counts requests without answer. */
static bool run(const struct test_folder *f, const struct qvl_result *want, long n, int *refused) {
    struct qvl_model *m = cached_open(f->path);
    struct qvl_session *sessions[2] = {talk(m, LONG_TALK), talk(m, OTHER_TALK)};
    for (int i = 0; i < 2; i++) {
        struct err err = {0};
        struct qvl_result r;
        struct qvl_session *s = sessions[i];
        if (i == 0) __atomic_store_n(&countdown, n, __ATOMIC_RELAXED);
        int code = qvl_generate(s, &greedy12, &r, &err);
        if (code) {
            ++*refused;
            assert_true(fail_caller);
            assert_true(code == ERR_MEMORY || code == ERR_LIMIT); /* a page that could not be had is "no room" */
        } else {
            if (!same_answer(&want[i], &r)) fail_msg("allocation %ld: a wrong answer", n);
            qvl_result_free(&r);
        }
        qvl_session_free(s);
    }
    spill_wait(m->spill);
    bool failed = __atomic_load_n(&countdown, __ATOMIC_RELAXED) < 0;
    __atomic_store_n(&countdown, -1, __ATOMIC_RELAXED);
    struct qvl_stats stats = stats_of(m);
    for (int i = 0; i < QVL_SPILL_DROPS; i++)
        if (i != QVL_SPILL_MEMORY && i != QVL_SPILL_QUEUE) assert_int_equal(stats.disk_drops[i], 0);
    qvl_unload(m);
    return failed;
}

static void fail_each(bool caller) {
    struct test_folder f;
    struct qvl_model *cold = golden_model("tiny-a", &plain);
    struct qvl_result want[2] = {ask(cold, LONG_TALK), ask(cold, OTHER_TALK)};
    qvl_unload(cold);
    folder_make(&f);
    fail_caller = caller;
    int refused = 0;
    long n = 0;
    for (;; n++) {
        folder_clear(&f);
        struct qvl_model *m = cached_open(f.path); /* one of the two is on the disk */
        struct qvl_result r = ask(m, LONG_TALK);
        qvl_result_free(&r);
        qvl_unload(m);
        if (!run(&f, want, n, &refused)) break;
        m = cached_open(f.path); /* what is in the folder now serves as ever */
        for (int i = 0; i < 2; i++) {
            r = ask(m, i ? OTHER_TALK : LONG_TALK);
            if (!same_answer(&want[i], &r)) fail_msg("allocation %ld: a wrong answer afterwards", n);
            qvl_result_free(&r);
        }
        qvl_unload(m);
        if (n > 3000) fail_msg("no end of allocations");
    }
    fprintf(stderr, "%ld allocations failed in turn, %d requests had no answer\n", n, refused);
    assert_true(n > 5 && (caller ? refused > 5 : refused == 0));
    for (int i = 0; i < 2; i++) qvl_result_free(&want[i]);
    folder_remove(&f);
}

static void behind_the_scenes(void **state) { (void)state, fail_each(false); }
static void of_the_caller(void **state) { (void)state, fail_each(true); }

int main(void) {
    is_caller = true;
    const struct CMUnitTest tests[] = {cmocka_unit_test(behind_the_scenes), cmocka_unit_test(of_the_caller)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
