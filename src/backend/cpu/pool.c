/* The team of threads of the CPU backend.
 *
 * One 32-bit word says everything about the present region: how many workers are inside it, whether it is open, and its
 * generation. A worker enters by compare-and-swap (open region, generation it has not served), works, and leaves; the caller
 * works too, closes the region when no item is left to claim, and waits only for the workers that are inside. A worker that
 * sleeps through a region is therefore never waited for: a region costs the caller at most one wake-up call.
 *
 *   bits 0..11  workers inside   bit 12  open   bits 13..31  generation (wraps: a worker that slept exactly 2^19 regions
 *                                                                        sits one out, which is harmless)
 *
 * Items are dealt out in contiguous shares, one per thread; a share is a counter that its owner and, when they have finished
 * their own, the others advance. Waiting is 30 us of spinning and then a futex, so that a hot loop of regions pays about a
 * microsecond each and an idle team costs nothing. */
#include "backend/cpu/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

enum { INSIDE_MASK = 0xfff, OPEN = 0x1000, GENERATION_STEP = 0x2000, MAX_THREADS = 1024 };
static const double spin_seconds = 30e-6;

struct share {
    _Atomic int64_t next;
    int64_t end;
    char apart[64 - 2 * sizeof(int64_t)]; /* one cache line each: no false sharing */
};

struct worker {
    struct pool *pool;
    int index;
    pthread_t thread;
};

struct pool {
    _Atomic uint32_t state __attribute__((aligned(64)));
    _Atomic int sleepers;        /* workers in or just before their futex */
    _Atomic bool caller_sleeps;  /* the caller waits for the last worker inside */
    _Atomic bool stop;
    int threads;                 /* the caller included */
    void (*work)(void *, int64_t, int) __attribute__((aligned(64)));
    void *context;
    struct share *shares;        /* (threads) */
    struct worker *workers;      /* (threads - 1); worker i is thread i + 1 */
};

static void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}
static void futex_wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0);
}

/* Claims and does items until none is left: the own share first, then the others in turn. */
static void work_off(struct pool *p, int thread) {
    for (int k = 0; k < p->threads; k++) {
        struct share *s = &p->shares[(thread + k) % p->threads];
        for (;;) {
            if (atomic_load_explicit(&s->next, memory_order_relaxed) >= s->end) break;
            int64_t i = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
            if (i >= s->end) break;
            p->work(p->context, i, thread);
        }
    }
}

static bool may_enter(uint32_t state, uint32_t served) {
    return (state & OPEN) && (state & ~(uint32_t)(GENERATION_STEP - 1)) != served;
}

static void *worker_main(void *argument) {
    struct worker *self = argument;
    struct pool *p = self->pool;
    uint32_t served = 0; /* generation 0 is never open */
    double spin_until = clock_seconds() + spin_seconds;
    for (;;) {
        uint32_t s = atomic_load_explicit(&p->state, memory_order_acquire);
        if (atomic_load_explicit(&p->stop, memory_order_relaxed)) return NULL;
        if (may_enter(s, served)) {
            if (!atomic_compare_exchange_weak_explicit(&p->state, &s, s + 1, memory_order_acq_rel, memory_order_relaxed))
                continue;
            served = s & ~(uint32_t)(GENERATION_STEP - 1);
            work_off(p, self->index);
            s = atomic_fetch_sub_explicit(&p->state, 1, memory_order_seq_cst);
            if ((s & INSIDE_MASK) == 1 && atomic_load(&p->caller_sleeps)) futex_wake_all(&p->state);
            spin_until = clock_seconds() + spin_seconds;
            continue;
        }
        for (int i = 0; i < 32; i++) {
            cpu_relax();
            if (atomic_load_explicit(&p->state, memory_order_relaxed) != s) break;
        }
        if (clock_seconds() < spin_until) continue;
        atomic_fetch_add(&p->sleepers, 1);
        s = atomic_load(&p->state); /* after announcing the sleep: the caller publishes first and then looks for sleepers */
        if (!may_enter(s, served) && !atomic_load(&p->stop)) futex_wait(&p->state, s);
        atomic_fetch_sub(&p->sleepers, 1);
        spin_until = clock_seconds() + spin_seconds; /* too late for the region that woke it, perhaps, but ready for the next */
    }
}

static bool read_line(const char *path, char *line, int size) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool ok = fgets(line, size, f) != NULL;
    fclose(f);
    return ok;
}

/* CPUs' worth of time that the cgroup allows (v2 at this group and above, or v1), 0 when unlimited or unknown. */
static double cgroup_cpus(void) {
    double least = 0;
    char line[4096], path[4400];
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return 0;
    char group[4096] = "/";
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "0::", 3)) {
            line[strcspn(line, "\n")] = 0;
            snprintf(group, sizeof group, "%s", line + 3);
        }
    fclose(f);
    for (;;) {
        long long quota, period;
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", strcmp(group, "/") ? group : "");
        if (read_line(path, line, sizeof line) && sscanf(line, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0) {
            double cpus = (double)quota / (double)period;
            if (least == 0 || cpus < least) least = cpus;
        }
        char *slash = strrchr(group, '/');
        if (!slash || !slash[1]) break;
        if (slash == group) slash[1] = 0; else *slash = 0;
    }
    char quota[64], period[64];
    if (read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota, sizeof quota) &&
        read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period, sizeof period) && atof(quota) > 0 && atof(period) > 0) {
        double cpus = atof(quota) / atof(period);
        if (least == 0 || cpus < least) least = cpus;
    }
    return least;
}

/* Physical cores among the CPUs of this process's affinity mask: a CPU counts if it is the first of its siblings in the mask. */
static int usable_cores(void) {
    int size = 4096, cores = 0;
    cpu_set_t *set = CPU_ALLOC(size);
    if (!set) return 1;
    size_t bytes = CPU_ALLOC_SIZE(size);
    if (sched_getaffinity(0, bytes, set) == 0) {
        for (int cpu = 0; cpu < size; cpu++) {
            if (!CPU_ISSET_S(cpu, bytes, set)) continue;
            char path[128], line[1024];
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
            bool first = true;
            if (read_line(path, line, sizeof line)) { /* "0,64" or "0-1" */
                char *at = line;
                while (*at && *at != '\n') {
                    char *end;
                    long a = strtol(at, &end, 10), b = a;
                    if (end == at) break;
                    if (*end == '-') b = strtol(end + 1, &end, 10);
                    for (long s = a; s <= b && s < cpu; s++)
                        if (s >= 0 && CPU_ISSET_S((int)s, bytes, set)) first = false;
                    at = *end == ',' ? end + 1 : end;
                }
            }
            cores += first;
        }
    } else {
        cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    }
    CPU_FREE(set);
    double quota = cgroup_cpus();
    if (quota > 0 && cores > quota) cores = (int)quota;
    return cores < 1 ? 1 : cores;
}

int pool_new(int threads, struct pool **out, struct err *err) {
    *out = NULL;
    if (threads < 0 || threads > MAX_THREADS)
        return err_set(err, ERR_ARGUMENT, "thread pool: expected 0 (automatic) to %d threads, found %d", MAX_THREADS, threads);
    if (threads == 0) threads = usable_cores();
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    struct pool *p = NULL;
    if (posix_memalign((void **)&p, 64, sizeof *p)) return err_set(err, ERR_MEMORY, "thread pool: out of memory");
    memset(p, 0, sizeof *p);
    p->threads = 1; /* grows as workers start, so that pool_free joins the right number */
    if (posix_memalign((void **)&p->shares, 64, (size_t)threads * sizeof *p->shares)) p->shares = NULL;
    p->workers = calloc((size_t)threads, sizeof *p->workers);
    if (!p->shares || !p->workers) {
        pool_free(p);
        return err_set(err, ERR_MEMORY, "thread pool: out of memory for %d threads", threads);
    }
    memset(p->shares, 0, (size_t)threads * sizeof *p->shares);
    for (int i = 0; i < threads - 1; i++) {
        p->workers[i].pool = p;
        p->workers[i].index = i + 1;
        int failure = pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]);
        if (failure) {
            pool_free(p);
            return err_set(err, ERR_STATE, "thread pool: cannot start thread %d of %d: %s", i + 2, threads, strerror(failure));
        }
        p->threads++;
    }
    *out = p;
    return 0;
}

void pool_free(struct pool *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->state, GENERATION_STEP); /* changes the word: a futex about to sleep returns at once */
    futex_wake_all(&p->state);
    for (int i = 0; i < p->threads - 1; i++) pthread_join(p->workers[i].thread, NULL);
    free(p->shares);
    free(p->workers);
    free(p);
}

int pool_threads(const struct pool *p) { return p->threads; }

void pool_run(struct pool *p, int64_t count, void (*work)(void *context, int64_t i, int thread), void *context) {
    if (count <= 0) return;
    if (p->threads == 1 || count == 1) {
        for (int64_t i = 0; i < count; i++) work(context, i, 0);
        return;
    }
    p->work = work;
    p->context = context;
    for (int t = 0; t < p->threads; t++) {
        atomic_store_explicit(&p->shares[t].next, count * t / p->threads, memory_order_relaxed);
        p->shares[t].end = count * (t + 1) / p->threads;
    }
    uint32_t s = atomic_load_explicit(&p->state, memory_order_relaxed); /* closed, nobody inside */
    s = (s & ~(uint32_t)(GENERATION_STEP - 1)) + GENERATION_STEP;
    if (s == 0) s = GENERATION_STEP;
    atomic_store(&p->state, s | OPEN);
    if (atomic_load(&p->sleepers) > 0) futex_wake_all(&p->state);

    work_off(p, 0);

    s = atomic_fetch_and(&p->state, ~(uint32_t)OPEN) & ~(uint32_t)OPEN;
    if (!(s & INSIDE_MASK)) return;
    double spin_until = clock_seconds() + spin_seconds;
    for (;;) {
        for (int i = 0; i < 32; i++) {
            s = atomic_load_explicit(&p->state, memory_order_acquire);
            if (!(s & INSIDE_MASK)) return;
            cpu_relax();
        }
        if (clock_seconds() < spin_until) continue;
        atomic_store(&p->caller_sleeps, true);
        while ((s = atomic_load(&p->state)) & INSIDE_MASK) futex_wait(&p->state, s);
        atomic_store(&p->caller_sleeps, false);
        return;
    }
}
