/* The prompt cache over restarts, on every level: what is restored answers as what never left memory, to the last bit; what is
 * bad is dropped and never believed; no failing call of the disk fails a request. Killed processes: test_prompt_cache_kill.c. */
#include <sys/wait.h>

#include "cached_model.h"

static void expect_same(const struct qvl_result *want, const struct qvl_result *r) {
    if (!same_answer(want, r)) fail_msg("answers differ: '%s' and '%s'", want->text, r->text);
}

/* ---- restart ---- */

/* Every case: written by one model, read by the next, which computes nothing of the prompt and encodes no picture. */
static void restart(void **state) {
    (void)state;
    static const char *const cases[] = {"text", "image", "images", "boundary", "video"};
    struct test_folder f;
    folder_make(&f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct golden g;
        golden_open(&g, "tiny-a", cases[i]);
        struct qvl_model *cold = golden_model("tiny-a", &plain);
        struct qvl_session *s = golden_session(cold, &g);
        struct qvl_result want = answer_of(s, greedy12);
        qvl_session_free(s);
        qvl_unload(cold);
        for (int run = 0; run < 3; run++) {
            struct qvl_model *m = cached_open(f.path);
            s = golden_session(m, &g);
            struct qvl_result r = answer_of(s, greedy12);
            expect_same(&want, &r);
            struct qvl_stats stats = stats_of(m);
            assert_int_equal(r.cached_tokens, run == 0 ? 0 : r.prompt_tokens - 1);
            if (run > 0) {
                assert_true(r.prefill_seconds == 0 && stats.images_encoded == 0);
                assert_int_equal(m->kv.miss_tokens, 1);
                assert_true(stats.disk_hit_tokens >= r.prompt_tokens - 1 && stats.disk_read_bytes > 0);
                spill_wait(m->spill);
                assert_int_equal(stats_of(m).disk_written_bytes, 0); /* nothing new under the sun */
            }
            qvl_result_free(&r);
            qvl_session_free(s);
            qvl_unload(m);
        }
        qvl_result_free(&want);
        golden_close(&g);
    }
    folder_remove(&f);
}

/* A conversation continued by a new process at every turn equals one that was never interrupted. */
static void turns_over_restarts(void **state) {
    (void)state;
    struct err err = {0};
    struct test_folder f;
    folder_make(&f);
    struct qvl_model *cold = golden_model("tiny-a", &plain), *m = cached_open(f.path);
    struct qvl_session *a = talk(cold, 5), *b = talk(m, 5);
    struct qvl_generate q = greedy12;
    q.no_append = false;
    for (int turn = 0; turn < 5; turn++) {
        struct qvl_result want = answer_of(a, q), r = answer_of(b, q);
        expect_same(&want, &r);
        assert_int_equal(want.prompt_tokens, r.prompt_tokens);
        if (turn > 0) assert_true(r.cached_tokens >= want.cached_tokens && stats_of(m).disk_hit_tokens > 0);
        qvl_result_free(&want);
        qvl_result_free(&r);
        struct qvl_part part = {.text = "go on, what is behind the third door?"};
        assert_int_equal(qvl_session_message(a, QVL_USER, &part, 1, &err), 0);
        assert_int_equal(qvl_session_message(b, QVL_USER, &part, 1, &err), 0);
        qvl_unload(m);
        m = cached_open(f.path);
        b->m = m; /* the same conversation in a new process, as it were */
        m->sessions++;
    }
    qvl_session_free(a);
    qvl_session_free(b);
    qvl_unload(cold);
    qvl_unload(m);
    folder_remove(&f);
}

/* Prompts that share beginnings of every length: what one wrote serves the others as far as they agree. */
static void shared_beginnings(void **state) {
    (void)state;
    struct test_folder f;
    folder_make(&f);
    struct qvl_model *m = cached_open(f.path);
    for (int n = 12; n >= 0; n -= 4) {
        struct qvl_result r = ask(m, n);
        qvl_result_free(&r);
    }
    qvl_unload(m);
    for (int n = 0; n < 13; n++) {
        struct qvl_model *cold = golden_model("tiny-a", &plain);
        m = cached_open(f.path);
        struct qvl_result want = ask(cold, n), r = ask(m, n);
        expect_same(&want, &r);
        assert_true(r.cached_tokens >= (r.prompt_tokens - 12) / BACKEND_PAGE_TOKENS * BACKEND_PAGE_TOKENS - BACKEND_PAGE_TOKENS);
        qvl_result_free(&want);
        qvl_result_free(&r);
        qvl_unload(cold);
        qvl_unload(m);
    }
    folder_remove(&f);
}

/* Another precision, other kernels: other pages. */
static void other_models_pages(void **state) {
    (void)state;
    struct test_folder f;
    folder_make(&f);
    struct qvl_model *m = cached_open(f.path);
    struct qvl_result r = ask(m, 9);
    qvl_result_free(&r);
    qvl_unload(m);
    for (int i = 0; i < 2; i++) {
        struct qvl_options o = cached(f.path), p = plain;
        if (i == 0) o.f32 = p.f32 = true;
        else o.cpu_limit = p.cpu_limit = "c";
        struct qvl_model *other = golden_model("tiny-a", &o), *cold = golden_model("tiny-a", &p);
        struct qvl_result want = ask(cold, 9);
        r = ask(other, 9);
        assert_int_equal(r.cached_tokens, 0);
        expect_same(&want, &r);
        qvl_result_free(&r);
        qvl_result_free(&want);
        qvl_unload(cold);
        qvl_unload(other);
    }
    folder_remove(&f);
}

/* ---- bad files ---- */

/* A bit is flipped at places all over the file: never a wrong answer, and the file is gone. */
static void damaged_files(void **state) {
    (void)state;
    struct test_folder f;
    char name[256], path[400];
    folder_make(&f);
    struct qvl_model *cold = golden_model("tiny-a", &plain);
    struct qvl_result want = ask(cold, 12);
    qvl_unload(cold);
    for (int round = 0; round < 24; round++) {
        struct qvl_model *m = cached_open(f.path);
        struct qvl_result r = ask(m, 12);
        qvl_result_free(&r);
        qvl_unload(m);
        assert_int_equal(folder_count(&f, ".kv", name), 1);
        snprintf(path, sizeof path, "%s/%s", f.path, name);
        int fd = open(path, O_RDWR);
        struct stat st;
        assert_int_equal(fstat(fd, &st), 0);
        off_t at = round == 0 ? 0 : round == 1 ? 9 : round < 6 ? 20 + 60 * round : st.st_size * (round - 6) / 18 + round;
        if (round == 7) at = st.st_size - 4096 + 100; /* the logits */
        char byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= (char)(1 << round % 8);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        fsync(fd);
        close(fd);
        m = cached_open(f.path);
        r = ask(m, 12);
        expect_same(&want, &r);
        struct qvl_stats stats = stats_of(m);
        int64_t drops = stats.disk_drops[QVL_SPILL_DAMAGED] + stats.disk_drops[QVL_SPILL_FOREIGN] + stats.disk_drops[QVL_SPILL_NEWER];
        if (drops != 1) fail_msg("bit at %lld of %lld: %lld drops", (long long)at, (long long)st.st_size, (long long)drops);
        qvl_result_free(&r);
        qvl_unload(m);
        m = cached_open(f.path); /* written anew by then */
        r = ask(m, 12);
        expect_same(&want, &r);
        assert_int_equal(r.cached_tokens, r.prompt_tokens - 1);
        qvl_result_free(&r);
        qvl_unload(m);
        folder_clear(&f);
    }
    qvl_result_free(&want);
    folder_remove(&f);
}

/* A file that vanishes, or is cut, between look-up and reading. */
static void files_that_vanish(void **state) {
    (void)state;
    struct test_folder f;
    char name[256], path[400];
    folder_make(&f);
    struct qvl_model *m = cached_open(f.path);
    struct qvl_result want = ask(m, 12);
    qvl_unload(m);
    for (int cut = 0; cut < 2; cut++) {
        m = cached_open(f.path);
        assert_int_equal(folder_count(&f, ".kv", name), 1);
        snprintf(path, sizeof path, "%s/%s", f.path, name);
        assert_int_equal(cut ? truncate(path, 8192) : unlink(path), 0);
        struct qvl_result r = ask(m, 12);
        expect_same(&want, &r);
        assert_int_equal(r.cached_tokens, 0);
        assert_int_equal(stats_of(m).disk_drops[cut ? QVL_SPILL_TRUNCATED : QVL_SPILL_GONE], 1);
        qvl_result_free(&r);
        qvl_unload(m);
    }
    qvl_result_free(&want);
    folder_remove(&f);
}

/* ---- failing calls ---- */

/* Writes and reads with the n-th call of a kind failing (all later ones too, when `for_good`). Requests never fail. */
static bool run_with_fault(const struct test_folder *f, const struct qvl_result *want, int kind, long n, int error, bool for_good) {
    folder_clear(f);
    bool hit = false;
    for (int run = 0; run < 2; run++) {
        struct qvl_model *m = cached_open(f->path);
        m->spill->io = m->spill->folder.io = &fault_disk;
        m->spill->rest_seconds = 0;
        if (kind == FAULT_UNLINK) m->spill->folder.budget = 360000; /* so that something must be evicted */
        fault.from_then_on = for_good;
        fault_arm(kind, n, error);
        for (int i = 0; i < 2; i++) {
            struct qvl_result r = ask(m, 12 - 5 * i);
            expect_same(&want[i], &r);
            qvl_result_free(&r);
            spill_wait(m->spill);
        }
        hit = hit || fault.hit;
        fault_disarm();
        qvl_unload(m);
    }
    return hit;
}

static void failing_disk(void **state) {
    (void)state;
    static const int errors[] = {EIO, ENOSPC, EACCES};
    struct test_folder f;
    folder_make(&f);
    struct qvl_model *cold = golden_model("tiny-a", &plain);
    struct qvl_result want[2] = {ask(cold, 12), ask(cold, 7)};
    qvl_unload(cold);
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        for (int for_good = 0; for_good < 2; for_good++) {
            long n = 0;
            while (run_with_fault(&f, want, kind, n, errors[n % 3], for_good)) n++;
            fprintf(stderr, "%s: %ld calls failed in turn%s\n", fault_names[kind], n, for_good ? " and all after them" : "");
            assert_true(n >= (kind == FAULT_UNLINK ? 1 : 2));
            assert_true(n < 200);
        }
    for (int i = 0; i < 2; i++) qvl_result_free(&want[i]);
    folder_remove(&f);
}

/* ---- choices and budgets ---- */

static void set_rates(struct qvl_model *m, double compute, double read) {
    pthread_mutex_lock(&m->spill->lock);
    m->spill->compute_rate = compute, m->spill->read_rate = read;
    pthread_mutex_unlock(&m->spill->lock);
}

static void computing_may_be_faster(void **state) {
    (void)state;
    struct test_folder f;
    folder_make(&f);
    struct qvl_model *m = cached_open(f.path);
    struct qvl_result want = ask(m, 12);
    qvl_unload(m);
    struct qvl_options o = cached(f.path);
    o.cache_always = false;
    m = golden_model("tiny-a", &o);
    set_rates(m, 1e9, 1e3); /* a tape */
    struct qvl_result r = ask(m, 12);
    expect_same(&want, &r);
    assert_int_equal(r.cached_tokens, 0);
    assert_int_equal(stats_of(m).disk_recomputed, 1);
    qvl_result_free(&r);
    for (int i = 0; i < 40; i++) { /* now and then the disk is asked all the same: it may have become faster */
        qvl_model_forget(m);
        set_rates(m, 1e9, 1e3);
        r = ask(m, 12);
        qvl_result_free(&r);
    }
    assert_true(stats_of(m).disk_hit_tokens > 0);
    struct qvl_result other = ask(m, 12 + 13); /* and what is not worth reading is not written */
    qvl_result_free(&other);
    spill_wait(m->spill);
    assert_true(stats_of(m).disk_written_bytes == 0 && stats_of(m).disk_drops[QVL_SPILL_SLOW] > 0);
    set_rates(m, 123, 1e9);
    qvl_unload(m);
    m = golden_model("tiny-a", &o);
    assert_true(stats_of(m).compute_tokens_per_second == 123 && stats_of(m).disk_read_bytes_per_second == 1e9); /* remembered */
    r = ask(m, 12);
    expect_same(&want, &r);
    assert_int_equal(r.cached_tokens, r.prompt_tokens - 1);
    qvl_result_free(&r);
    qvl_result_free(&want);
    qvl_unload(m);
    folder_remove(&f);
}

static uint64_t folder_bytes(const struct test_folder *f) {
    DIR *d = opendir(f->path);
    uint64_t sum = 0;
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (strstr(e->d_name, ".kv") && !fstatat(dirfd(d), e->d_name, &st, 0)) sum += (uint64_t)st.st_size;
    }
    closedir(d);
    return sum;
}

static void budgets(void **state) {
    (void)state;
    struct test_folder f;
    struct qvl_result r;
    folder_make(&f);
    struct qvl_options o = cached(f.path);
    o.disk_bytes = 500000;
    struct qvl_model *m = golden_model("tiny-a", &o);
    for (int n = 12; n < 200; n += 13) {
        r = ask(m, n);
        qvl_result_free(&r);
        spill_wait(m->spill);
        assert_true(folder_bytes(&f) <= o.disk_bytes);
    }
    struct qvl_stats s = stats_of(m);
    assert_true(s.disk_evictions > 0 && s.disk_bytes == folder_bytes(&f) && s.disk_written_bytes > o.disk_bytes);
    qvl_unload(m);
    folder_clear(&f);
    o.disk_bytes = 0;
    o.disk_daily_bytes = 500000;
    for (int n = 12; n < 200; n += 13) { /* a new process each time */
        m = golden_model("tiny-a", &o);
        r = ask(m, n);
        qvl_result_free(&r);
        spill_wait(m->spill);
        s = stats_of(m);
        assert_true(folder_bytes(&f) <= o.disk_daily_bytes);
        qvl_unload(m);
    }
    assert_int_equal(s.disk_written_bytes, 0);
    assert_true(s.disk_drops[QVL_SPILL_DAILY] > 0 && folder_bytes(&f) > 300000);
    folder_remove(&f);
}

/* A disk that takes its time holds up nobody but the writer: the queue fills, the rest is dropped and counted. */
static void slow_disk_blocks_no_step(void **state) {
    (void)state;
    struct test_folder f;
    folder_make(&f);
    struct qvl_model *m = cached_open(f.path);
    m->spill->io = m->spill->folder.io = &fault_disk;
    __atomic_store_n(&fault.fsync_ms, 200, __ATOMIC_RELAXED);
    int asked = 0, slow = 0;
    while (stats_of(m).disk_drops[QVL_SPILL_QUEUE] == 0 && asked < 1000) {
        struct qvl_result r = ask(m, asked++);
        slow += r.first_token_seconds > 0.2;
        qvl_result_free(&r);
    }
    assert_true(asked > SPILL_QUEUE && asked < 1000);
    __atomic_store_n(&fault.fsync_ms, 0, __ATOMIC_RELAXED);
    assert_true(slow < asked / 4); /* none for the disk's sake: a wait for it would be 0.4 s each time */
    qvl_unload(m);
    folder_remove(&f);
}

/* Few pages on the device: what they push out comes back from below. */
static void evicted_pages_return(void **state) {
    (void)state;
    struct test_folder f;
    folder_make(&f);
    struct qvl_model *cold = golden_model("tiny-a", &plain);
    struct qvl_options o = cached(f.path);
    o.kv_bytes = cold->backend->page_bytes(cold->device) * 16;
    struct qvl_model *m = golden_model("tiny-a", &o);
    for (int round = 0; round < 3; round++)
        for (int n = 12; n < 60; n += 13) {
            struct qvl_result want = ask(cold, n), r = ask(m, n);
            expect_same(&want, &r);
            if (round > 0) assert_true(r.cached_tokens >= r.prompt_tokens - 1 - BACKEND_PAGE_TOKENS);
            qvl_result_free(&want);
            qvl_result_free(&r);
            spill_wait(m->spill);
            assert_true(m->kv.pages_used <= 16);
        }
    assert_true(stats_of(m).disk_hit_tokens > 0 && stats_of(m).prefix_evictions > 0);
    qvl_unload(m);
    qvl_unload(cold);
    folder_remove(&f);
}

/* ---- a device with memory of its own: the CPU's pages behind a door that says so ---- */

static long pinned;
static void *pin(struct backend_model *m, size_t bytes) {
    (void)m;
    __atomic_add_fetch(&pinned, 1, __ATOMIC_RELAXED);
    return malloc(bytes);
}
static void unpin(struct backend_model *m, void *p) {
    (void)m;
    __atomic_sub_fetch(&pinned, 1, __ATOMIC_RELAXED);
    free(p);
}

static void host_level(void **state) {
    (void)state;
    struct err err = {0};
    struct test_folder f;
    folder_make(&f);
    struct backend device = backend_cpu;
    device.host_alloc = pin, device.host_free = unpin;
    struct qvl_model *cold = golden_model("tiny-a", &plain);
    size_t page = cold->backend->page_bytes(cold->device);
    for (int with_disk = 0; with_disk < 2; with_disk++) {
        struct qvl_options o = cached(with_disk ? f.path : NULL);
        o.kv_bytes = page * 16;
        o.host_bytes = page * 40 + 4096;
        struct qvl_options off = o;
        off.cache_dir = NULL;
        struct qvl_model *m = golden_model("tiny-a", &off);
        assert_null(m->spill); /* on the CPU host memory is the device's: no level of its own */
        m->backend = &device;
        m->backend_info.own_memory = true;
        assert_int_equal(spill_open(m, &o, &err), 0);
        for (int round = 0; round < 3; round++)
            for (int n = 12; n < 48; n += 13) {
                struct qvl_result want = ask(cold, n), r = ask(m, n);
                expect_same(&want, &r);
                if (round > 0) assert_int_equal(r.cached_tokens, r.prompt_tokens - 1);
                qvl_result_free(&want);
                qvl_result_free(&r);
                spill_wait(m->spill);
            }
        struct qvl_stats s = stats_of(m);
        assert_true(s.host_hit_tokens > 0 && s.disk_hit_tokens == 0); /* the disk is not asked for what the host has */
        assert_true(s.host_bytes <= o.host_bytes && s.host_pages > 0 && pinned > 0);
        for (int n = 12; n < 200; n += 13) {
            struct qvl_result r = ask(m, n);
            qvl_result_free(&r);
            spill_wait(m->spill);
        }
        s = stats_of(m);
        assert_true(s.host_evictions > 0 && s.host_bytes <= o.host_bytes);
        struct qvl_result want = ask(cold, 12), r = ask(m, 12); /* pushed out of the host's memory too */
        expect_same(&want, &r);
        assert_true(with_disk ? r.cached_tokens == r.prompt_tokens - 1 : r.cached_tokens <= BACKEND_PAGE_TOKENS); /* one that all share */
        qvl_result_free(&want);
        qvl_result_free(&r);
        qvl_unload(m);
        assert_int_equal(pinned, 0);
    }
    qvl_unload(cold);
    folder_remove(&f);
}

/* ---- two processes ---- */

/* A process of its own: asks in a rotated order, and again, with the folder shared; 0 when every answer is right. */
static int other_process(const char *folder, int first) {
    struct qvl_model *cold = golden_model("tiny-a", &plain), *m = cached_open(folder);
    int wrong = 0;
    for (int i = 0; i < 48; i++) {
        int n = (first + i * 5) % 40;
        struct qvl_result want = ask(cold, n), r = ask(m, n);
        wrong += !same_answer(&want, &r);
        qvl_result_free(&want);
        qvl_result_free(&r);
        qvl_model_forget(m); /* so that the disk is asked every time */
        qvl_model_forget(cold);
        if (i % 8 == 0) spill_look(m->spill);
    }
    spill_wait(m->spill);
    struct qvl_stats s = stats_of(m);
    wrong += s.disk_hit_tokens == 0;
    for (int i = 0; i < QVL_SPILL_DROPS; i++)
        if (i != QVL_SPILL_GONE && i != QVL_SPILL_QUEUE && s.disk_drops[i]) {
            fprintf(stderr, "%lld dropped: %s\n", (long long)s.disk_drops[i], qvl_spill_drop_name(i));
            wrong++;
        }
    qvl_unload(m);
    qvl_unload(cold);
    return wrong ? 1 : 0;
}

static pid_t start(const char *folder, const char *first) {
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "test_prompt_cache", "process", folder, first, (char *)NULL);
        _exit(127);
    }
    return child;
}

static void two_processes(void **state) {
    (void)state;
    struct test_folder f;
    folder_make(&f);
    pid_t a = start(f.path, "0"), b = start(f.path, "3");
    int status[2];
    assert_int_equal(waitpid(a, &status[0], 0), a);
    assert_int_equal(waitpid(b, &status[1], 0), b);
    assert_true(WIFEXITED(status[0]) && WEXITSTATUS(status[0]) == 0 && WIFEXITED(status[1]) && WEXITSTATUS(status[1]) == 0);
    assert_int_equal(folder_count(&f, ".tmp", NULL), 0);
    folder_remove(&f);
}

/* What another process has written is found without a restart. */
static void seen_without_restart(void **state) {
    (void)state;
    struct test_folder f;
    folder_make(&f);
    struct qvl_model *a = cached_open(f.path), *b = cached_open(f.path);
    struct qvl_result want = ask(a, 12);
    spill_wait(a->spill);
    spill_look(b->spill);
    spill_wait(b->spill);
    struct qvl_result r = ask(b, 12);
    expect_same(&want, &r);
    assert_int_equal(r.cached_tokens, r.prompt_tokens - 1);
    qvl_result_free(&want);
    qvl_result_free(&r);
    qvl_unload(a);
    qvl_unload(b);
    folder_remove(&f);
}

static void *asking(void *context) {
    struct qvl_model *m = context;
    for (int i = 0; i < 30; i++) {
        struct qvl_result r = ask(m, i * 7 % 40);
        qvl_result_free(&r);
    }
    return NULL;
}

/* Many threads on few pages, with restores, writes and statistics at once (what a run under TSan looks at). */
static void threads(void **state) {
    (void)state;
    struct test_folder f;
    folder_make(&f);
    struct qvl_model *cold = golden_model("tiny-a", &plain);
    struct qvl_options o = cached(f.path);
    o.kv_bytes = cold->backend->page_bytes(cold->device) * 80;
    struct qvl_model *m = golden_model("tiny-a", &o);
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&thread[i], NULL, asking, m), 0);
    for (int i = 0; i < 20; i++) {
        stats_of(m);
        spill_look(m->spill);
        usleep(2000);
    }
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    for (int n = 0; n < 40; n += 3) {
        struct qvl_result want = ask(cold, n), r = ask(m, n);
        expect_same(&want, &r);
        qvl_result_free(&want);
        qvl_result_free(&r);
    }
    spill_wait(m->spill);
    qvl_model_forget(m);
    assert_int_equal(m->kv.pages_used, 0);
    qvl_unload(m);
    qvl_unload(cold);
    folder_remove(&f);
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "process")) return other_process(argv[2], atoi(argv[3]));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(restart),           cmocka_unit_test(turns_over_restarts),     cmocka_unit_test(shared_beginnings),
        cmocka_unit_test(other_models_pages), cmocka_unit_test(damaged_files),          cmocka_unit_test(files_that_vanish),
        cmocka_unit_test(failing_disk),      cmocka_unit_test(computing_may_be_faster), cmocka_unit_test(budgets),
        cmocka_unit_test(slow_disk_blocks_no_step), cmocka_unit_test(evicted_pages_return), cmocka_unit_test(host_level),
        cmocka_unit_test(two_processes),     cmocka_unit_test(seen_without_restart),    cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
