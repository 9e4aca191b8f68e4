/* The thread pool: every item exactly once, by threads of the team only, in many small and some large regions; idle costs nothing. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend/cpu/pool.h"
#include "base/clock.h"
#include "test.h"

enum { MOST = 5000 };

struct region {
    struct pool *pool;
    unsigned char done[MOST];
    _Atomic int wrong_thread, total;
    int64_t slow; /* this item takes long: the others must be stolen */
    _Atomic int by_thread[64];
};

static void mark(void *context, int64_t i, int thread) {
    struct region *r = context;
    if (thread < 0 || thread >= pool_threads(r->pool)) r->wrong_thread++;
    r->done[i]++; /* not atomic: each item belongs to one thread, and pool_run publishes it */
    r->total++;
    r->by_thread[thread & 63]++;
    if (i == r->slow) usleep(20000);
}

static void run(struct pool *p, struct region *r, int64_t count) {
    memset(r->done, 0, sizeof r->done);
    r->pool = p;
    r->total = r->wrong_thread = 0;
    for (int t = 0; t < 64; t++) r->by_thread[t] = 0;
    pool_run(p, count, mark, r);
    assert_int_equal(r->wrong_thread, 0);
    assert_int_equal(r->total, count);
    for (int64_t i = 0; i < count; i++) assert_int_equal(r->done[i], 1);
}

static void test_every_item_once(void **state) {
    (void)state;
    static struct region r;
    static const int teams[] = {1, 2, 3, 8};
    for (size_t k = 0; k < sizeof teams / sizeof *teams; k++) {
        struct pool *p;
        struct err err = {0};
        assert_int_equal(pool_new(teams[k], &p, &err), 0);
        assert_int_equal(pool_threads(p), teams[k]);
        r.slow = -1;
        static const int counts[] = {0, 1, 2, 3, 7, 64, 100, MOST};
        for (int pass = 0; pass < 20; pass++)
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) run(p, &r, counts[c]);
        for (int pass = 0; pass < 2000; pass++) run(p, &r, 2 + pass % 5); /* regions in quick succession */
        for (int pass = 0; pass < 20; pass++) { /* a team that has gone to sleep in between */
            usleep(500);
            run(p, &r, 9);
        }
        pool_free(p);
    }
}

/* The thread with the slow item does little else: the others take its share. */
static void test_stealing(void **state) {
    (void)state;
    static struct region r;
    struct pool *p;
    assert_int_equal(pool_new(2, &p, NULL), 0);
    r.slow = 0;
    run(p, &r, 1000);
    int least = r.by_thread[0] < r.by_thread[1] ? r.by_thread[0] : r.by_thread[1];
    printf("with a slow item the two threads did %d and %d items\n", r.by_thread[0], r.by_thread[1]);
    assert_true(least < 500);
    pool_free(p);
}

/* Plain data written before and read after a region, without atomics: what ThreadSanitizer would complain about. */
static void add(void *context, int64_t i, int thread) {
    (void)thread;
    ((int64_t *)context)[i] += i;
}
static void test_publication(void **state) {
    (void)state;
    struct pool *p;
    assert_int_equal(pool_new(4, &p, NULL), 0);
    int64_t data[64] = {0};
    for (int pass = 1; pass <= 3000; pass++) {
        for (int i = 0; i < 64; i++) data[i]++;
        pool_run(p, 64, add, data);
        for (int i = 0; i < 64; i++) assert_int_equal(data[i], (int64_t)pass * (i + 1));
    }
    pool_free(p);
}

/* Several pools at once, each used by its own thread. */
static void *use_own_pool(void *unused) {
    (void)unused;
    struct pool *p;
    int64_t data[64] = {0};
    if (pool_new(3, &p, NULL)) return (void *)1;
    for (int pass = 0; pass < 500; pass++) pool_run(p, 64, add, data);
    pool_free(p);
    for (int i = 0; i < 64; i++)
        if (data[i] != 500 * i) return (void *)1;
    return NULL;
}
static void test_many_pools(void **state) {
    (void)state;
    pthread_t t[4];
    void *failed;
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, use_own_pool, NULL), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], &failed);
        assert_null(failed);
    }
}

static void test_sizes(void **state) {
    (void)state;
    struct pool *p;
    struct err err = {0};
    assert_true(pool_new(-1, &p, &err) < 0);
    assert_non_null(strstr(err.message, "-1"));
    assert_true(pool_new(100000, &p, &err) < 0);
    assert_null(p);
    assert_int_equal(pool_new(0, &p, &err), 0);
    printf("automatic team: %d threads of %ld CPUs\n", pool_threads(p), sysconf(_SC_NPROCESSORS_ONLN));
    assert_true(pool_threads(p) >= 1 && pool_threads(p) <= sysconf(_SC_NPROCESSORS_ONLN));
    pool_free(p);
    for (int i = 0; i < 200; i++) { /* a team that never worked */
        assert_int_equal(pool_new(2, &p, &err), 0);
        pool_free(p);
    }
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void test_idle_costs_nothing(void **state) {
    (void)state;
    static struct region r;
    struct pool *p;
    assert_int_equal(pool_new(4, &p, NULL), 0);
    r.slow = -1;
    run(p, &r, 100);
    usleep(20000);
    double before = cpu_seconds();
    usleep(200000);
    double used = cpu_seconds() - before;
    printf("an idle team of 4 used %.1f ms of CPU time in 200 ms\n", used * 1e3);
    assert_true(used < 0.02);
    pool_free(p);
}

/* Two items of about 5 us each: what a region adds to the work itself. */
static void spin(void *context, int64_t i, int thread) {
    (void)context, (void)i, (void)thread;
    double until = clock_seconds() + 5e-6;
    while (clock_seconds() < until) {
    }
}
static void test_overhead(void **state) {
    (void)state;
    struct pool *p;
    assert_int_equal(pool_new(2, &p, NULL), 0);
    double best = 1;
    for (int pass = 0; pass < 200; pass++) {
        double t = clock_seconds();
        for (int i = 0; i < 20; i++) pool_run(p, 2, spin, NULL);
        t = (clock_seconds() - t) / 20;
        if (t < best) best = t;
    }
    printf("a hot region of two 5 us items on 2 threads took %.2f us\n", best * 1e6);
    pool_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_once), cmocka_unit_test(test_stealing),        cmocka_unit_test(test_publication), cmocka_unit_test(test_many_pools),
        cmocka_unit_test(test_sizes),           cmocka_unit_test(test_idle_costs_nothing), cmocka_unit_test(test_overhead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
