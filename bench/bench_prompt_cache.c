/* The prompt cache below the device: what a restore takes beside computing and beside the disk itself, and what a miss costs.
 *
 *     bench_prompt_cache restore MODEL FOLDER [TOKENS] [RUNS]
 *     bench_prompt_cache miss    MODEL FOLDER [TOKENS] [ROUNDS]
 *     bench_prompt_cache full    MODEL FOLDER [TOKENS]
 *     bench_prompt_cache host    MODEL -      [TOKENS] [RUNS]       (a device with memory of its own)
 *
 * restore: writes the pages of TOKENS tokens without computing them (their bytes are random: what they mean does not matter to a
 *   disk), then, in a model loaded afresh, asks for the same prompt. Computing is measured where it is cheap and where it is dear:
 *   the first 512 tokens and the 512 behind TOKENS - 512 restored ones. Attention makes the time of a token grow linearly with its
 *   place, so TOKENS * (first + last) / 2 is the estimate of the whole.
 * full: computes all TOKENS once, then restores them: no estimate.
 * host: computes all TOKENS, waits until they are in pinned host memory, forgets them on the device and asks again; both times are those
 *   from the question to its first token, everything included. The answer must begin with the same token.
 * miss: requests that find nothing, with the cache and without, in turn; processor seconds count the writer too.
 *
 * The disk's own rate: the same files, read with O_DIRECT in pieces of 8 MiB by one thread that does nothing else. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/session.h"
#include "engine/spill.h"

enum { CHUNK = 512 };

static _Noreturn void die(const struct err *err) {
    fprintf(stderr, "bench_prompt_cache: %s\n", err->message);
    exit(1);
}

static double processor_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* ---- the disk alone ---- */

static double disk_rate(const char *folder, uint64_t *bytes) {
    DIR *d = opendir(folder);
    void *buffer;
    double start = clock_seconds();
    *bytes = 0;
    if (!d || posix_memalign(&buffer, 4096, 8 << 20)) return 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strstr(e->d_name, ".kv")) continue;
        int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECT);
        for (ssize_t n; fd >= 0 && (n = read(fd, buffer, 8 << 20)) > 0;) *bytes += (uint64_t)n;
        if (fd >= 0) close(fd);
    }
    closedir(d);
    free(buffer);
    return (double)*bytes / (clock_seconds() - start);
}

/* ---- models and prompts ---- */

static struct qvl_model *load(const char *folder, const char *cache, int64_t context) {
    struct err err = {0};
    struct qvl_model *m;
    struct qvl_options o = {.device = "cpu", .context = context, .cache_dir = cache, .disk_bytes = 100000000000, .cache_always = true,
                            .disk_daily_bytes = 1000000000000};
    if (qvl_load(folder, &o, &m, &err)) die(&err);
    return m;
}

/* `same` tokens that are the same for every seed, then others. */
static struct qvl_result ask(struct qvl_model *m, int64_t tokens, int64_t same, unsigned seed, int answer) {
    struct err err = {0};
    struct qvl_session *s;
    struct qvl_result r;
    int32_t *ids = malloc((size_t)tokens * sizeof *ids);
    unsigned ordinary = (unsigned)(m->config->text.vocab * 3 / 4); /* below the control tokens */
    for (int64_t i = 0; i < tokens; i++)
        ids[i] = (int32_t)((unsigned)(i * 7919 + (i < same ? 0 : seed * 104729)) % 50000 % ordinary);
    if (qvl_session_new(m, &s, &err) || qvl_session_raw_ids(s, ids, (size_t)tokens, &err)) die(&err);
    struct qvl_generate g = {.sampling.greedy = true, .max_tokens = answer, .no_append = true};
    if (qvl_generate(s, &g, &r, &err)) die(&err);
    qvl_session_free(s);
    free(ids);
    return r;
}

static size_t row_bytes; /* of logits */

/* A device that computes nothing and whose pages hold noise. */
static int no_forward(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    (void)m, (void)err;
    for (int i = 0; i < count; i++)
        if (spans[i].logits) memset(spans[i].logits, 0, row_bytes * (size_t)spans[i].logits_count);
    return 0;
}
static int noise_export(struct backend_model *m, int32_t page, void *out, struct err *err) {
    (void)err;
    uint64_t x = (uint64_t)page * 0x9e3779b97f4a7c15u + 1, *to = out;
    for (size_t i = 0; i < backend_cpu.page_bytes(m) / 8; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        to[i] = (x & 0x807f807f807f807f) | 0x3e003e003e003e00; /* bf16 below 1/4 */
    }
    return 0;
}

static void fill(const char *model, const char *folder, int64_t tokens) {
    struct backend idle = backend_cpu;
    idle.forward = no_forward, idle.page_export = noise_export;
    struct qvl_model *m = load(model, folder, tokens + CHUNK);
    row_bytes = (size_t)m->config->text.vocab * sizeof(float);
    m->backend = &idle;
    struct qvl_result r = ask(m, tokens, tokens, 0, 1);
    double start = clock_seconds();
    spill_wait(m->spill);
    struct qvl_stats s;
    qvl_model_stats(m, &s);
    printf("written: %.3f GB in %lld files at %.2f GB/s\n", (double)s.disk_written_bytes / 1e9, (long long)s.disk_files,
           (double)s.disk_written_bytes / 1e9 / (clock_seconds() - start));
    qvl_result_free(&r);
    qvl_unload(m);
}

struct restore {
    double seconds, processor, rate, disk;
};

static struct restore measure_restore(const char *model, const char *folder, int64_t tokens) {
    uint64_t bytes;
    struct restore out;
    struct qvl_stats s;
    struct qvl_model *m = load(model, folder, tokens + CHUNK);
    double disk_before = disk_rate(folder, &bytes), processor = processor_seconds(), start = clock_seconds();
    struct qvl_result r = ask(m, tokens, tokens, 0, 1);
    out.seconds = clock_seconds() - start;
    out.processor = processor_seconds() - processor;
    qvl_model_stats(m, &s);
    out.rate = (double)s.disk_read_bytes / out.seconds;
    out.disk = (disk_before + disk_rate(folder, &bytes)) / 2;
    printf("restore of %lld tokens: %lld cached, %.3f GB in %.3f s = %.2f GB/s (processor %.2f s); the disk alone %.2f GB/s\n",
           (long long)tokens, (long long)r.cached_tokens, (double)s.disk_read_bytes / 1e9, out.seconds, out.rate / 1e9, out.processor,
           out.disk / 1e9);
    qvl_result_free(&r);
    qvl_unload(m);
    return out;
}

static void measure_restores(const char *model, const char *folder, int64_t tokens, int runs) {
    double seconds[64], processor[64], of_disk[64];
    fill(model, folder, tokens);
    for (int i = 0; i < runs; i++) {
        struct restore r = measure_restore(model, folder, tokens);
        seconds[i] = r.seconds, processor[i] = r.processor, of_disk[i] = r.rate / r.disk;
    }
    struct qvl_model *m = load(model, folder, tokens + CHUNK);
    double first[3], last[3], first_cpu[3], last_cpu[3];
    for (int i = 0; i < 3; i++) {
        double cpu = processor_seconds();
        struct spill *spill = m->spill;
        m->spill = NULL;
        struct qvl_result r = ask(m, CHUNK, 0, (unsigned)i + 1, 1);
        m->spill = spill;
        first[i] = r.prefill_seconds, first_cpu[i] = processor_seconds() - cpu;
        qvl_result_free(&r);
        r = ask(m, tokens - CHUNK, tokens - CHUNK, 0, 1); /* restored, or there already */
        qvl_result_free(&r);
        cpu = processor_seconds();
        m->spill = NULL;
        r = ask(m, tokens, tokens - CHUNK, (unsigned)i + 1, 1);
        m->spill = spill;
        last[i] = r.prefill_seconds, last_cpu[i] = processor_seconds() - cpu;
        printf("computing %d tokens: %.2f s at the start (processor %.2f s), %.2f s behind %lld tokens (processor %.2f s)\n", CHUNK,
               first[i], first_cpu[i], last[i], (long long)r.cached_tokens, last_cpu[i]);
        qvl_result_free(&r);
    }
    qvl_unload(m);
    double chunks = (double)tokens / CHUNK, restore = median(seconds, runs);
    double whole = chunks * (median(first, 3) + median(last, 3)) / 2;
    double cpu = chunks * (median(first_cpu, 3) + median(last_cpu, 3)) / 2;
    printf("median restore %.3f s at %.0f %% of the disk's own rate; computing %.1f s (estimate from first and last %d tokens): 1/%.1f\n",
           restore, 100 * median(of_disk, runs), whole, CHUNK, whole / restore);
    printf("processor seconds: restore %.2f, computing %.1f (estimate): 1/%.1f\n", median(processor, runs), cpu,
           cpu / median(processor, runs));
}

static void measure_full(const char *model, const char *folder, int64_t tokens) {
    struct qvl_model *m = load(model, folder, tokens + CHUNK);
    double cpu = processor_seconds(), start = clock_seconds();
    struct qvl_result r = ask(m, tokens, tokens, 0, 1);
    double whole = clock_seconds() - start;
    printf("computing %lld tokens: %.1f s (processor %.1f s)\n", (long long)tokens, whole, processor_seconds() - cpu);
    fflush(stdout);
    qvl_unload(m); /* writes */
    qvl_result_free(&r);
    double seconds[3];
    for (int i = 0; i < 3; i++) seconds[i] = measure_restore(model, folder, tokens).seconds;
    printf("median restore %.3f s: 1/%.1f\n", median(seconds, 3), whole / median(seconds, 3));
}

static void measure_host(const char *model, int64_t tokens, int runs) {
    struct err err = {0};
    struct qvl_plan plan;
    struct qvl_options o = {.context = tokens + CHUNK};
    if (qvl_plan_load(model, &o, &plan, &err)) die(&err);
    o.kv_bytes = plan.kv_bytes_per_token * (size_t)(tokens + 2 * CHUNK);
    o.host_bytes = o.kv_bytes + o.kv_bytes / 4;
    struct qvl_model *m;
    if (qvl_load(model, &o, &m, &err)) die(&err);
    struct qvl_info info;
    qvl_model_info(m, &info);
    if (!m->spill) {
        err_set(&err, ERR_ARGUMENT, "%s has no memory of its own: there is no level of host memory to measure", info.device);
        die(&err);
    }
    double computing[64], restoring[64];
    struct qvl_result warm = ask(m, 2 * CHUNK, 0, 1000, 1); /* what happens once: buffers, libraries */
    qvl_result_free(&warm);
    for (int i = 0; i < runs; i++) {
        struct qvl_result cold = ask(m, tokens, 0, (unsigned)i + 1, 1);
        spill_wait(m->spill);
        pthread_mutex_lock(&m->lock);
        kv_forget(&m->kv);
        pthread_mutex_unlock(&m->lock);
        int64_t before = __atomic_load_n(&m->spill->host_hit_tokens, __ATOMIC_RELAXED);
        struct qvl_result back = ask(m, tokens, 0, (unsigned)i + 1, 1);
        int64_t hits = __atomic_load_n(&m->spill->host_hit_tokens, __ATOMIC_RELAXED) - before;
        computing[i] = cold.first_token_seconds, restoring[i] = back.first_token_seconds;
        bool same = cold.token_count == 1 && back.token_count == 1 && cold.tokens[0].id == back.tokens[0].id;
        printf("%s, %lld tokens, first token after: computed %.4f s, restored from host memory %.4f s (%lld tokens cached, %lld of host pages, %.1f GB/s)%s\n", info.storage,
               (long long)tokens, computing[i], restoring[i], (long long)back.cached_tokens, (long long)hits,
               (double)plan.kv_bytes_per_token * (double)hits / restoring[i] / 1e9, same ? "" : "  NOT THE SAME FIRST TOKEN");
        qvl_result_free(&cold);
        qvl_result_free(&back);
    }
    double c = median(computing, runs), r = median(restoring, runs);
    printf("%s on %s: median computing %.4f s, restore %.4f s: 1/%.1f\n", model, info.device, c, r, c / r);
    qvl_unload(m);
}

static void measure_misses(const char *model, const char *folder, int64_t tokens, int rounds) {
    double wall[2][256], cpu[2][256], ratio[256], cpu_ratio[256];
    struct qvl_model *m = load(model, folder, tokens + CHUNK);
    struct spill *spill = m->spill;
    for (int i = 0; i < rounds; i++) {
        for (int k = 0; k < 2; k++) {
            int on = (i + k) % 2; /* either goes first */
            double c = processor_seconds(), t = clock_seconds();
            m->spill = on ? spill : NULL;
            struct qvl_result r = ask(m, tokens, 0, (unsigned)(2 * i + k + 1), 8);
            wall[on][i] = clock_seconds() - t;
            m->spill = spill;
            spill_wait(spill);
            cpu[on][i] = processor_seconds() - c;
            if (r.cached_tokens > 0) printf("round %d: not a miss (%lld tokens)\n", i, (long long)r.cached_tokens);
            qvl_result_free(&r);
            kv_forget(&m->kv);
        }
        ratio[i] = wall[1][i] / wall[0][i];
        cpu_ratio[i] = cpu[1][i] / cpu[0][i];
    }
    struct qvl_stats s;
    qvl_model_stats(m, &s);
    printf("%d rounds of %lld tokens and 8 of an answer, nothing known: wall %.4f s without, %.4f s with the cache (medians); median of the "
           "rounds' ratios %.4f\n",
           rounds, (long long)tokens, median(wall[0], rounds), median(wall[1], rounds), median(ratio, rounds));
    printf("processor seconds, writer included: %.4f and %.4f; median ratio %.4f; %.3f GB written\n", median(cpu[0], rounds),
           median(cpu[1], rounds), median(cpu_ratio, rounds), (double)s.disk_written_bytes / 1e9);
    qvl_unload(m);
}

int main(int argc, char **argv) {
    int64_t tokens = argc > 4 ? atoll(argv[4]) : 0;
    int runs = argc > 5 ? atoi(argv[5]) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 4) {
        fprintf(stderr, "usage: bench_prompt_cache restore|miss|full|host MODEL FOLDER [TOKENS] [RUNS]\n");
        return 2;
    }
    if (!strcmp(argv[1], "restore")) measure_restores(argv[2], argv[3], tokens ? tokens : 20000, runs < 1 ? 5 : runs > 64 ? 64 : runs);
    else if (!strcmp(argv[1], "host")) measure_host(argv[2], tokens ? tokens : 20000, runs < 1 ? 5 : runs > 64 ? 64 : runs);
    else if (!strcmp(argv[1], "full")) measure_full(argv[2], argv[3], tokens ? tokens : 20000);
    else measure_misses(argv[2], argv[3], tokens ? tokens : 512, runs < 1 ? 15 : runs > 256 ? 256 : runs);
    return 0;
}
