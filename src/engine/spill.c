#include "engine/spill.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "engine/spill_ledger.h"

enum { PACK_BYTES = 32 << 20 };  /* of one file's pages: large reads, and no more lost than this when a write fails */
enum { LOOK_SECONDS = 1, REST_SECONDS = 30, ASK_AGAIN = 32 };
static const uint64_t default_disk_bytes = 8000000000, default_daily_bytes = 32000000000;

const char *qvl_spill_drop_name(enum qvl_spill_drop reason) {
    static const char *const names[QVL_SPILL_DROPS] = {
        [QVL_SPILL_DAMAGED] = "damaged", [QVL_SPILL_TRUNCATED] = "truncated", [QVL_SPILL_FOREIGN] = "foreign",
        [QVL_SPILL_NEWER] = "newer",     [QVL_SPILL_READ] = "read",           [QVL_SPILL_WRITE] = "write",
        [QVL_SPILL_FSYNC] = "fsync",     [QVL_SPILL_GONE] = "gone",           [QVL_SPILL_MEMORY] = "memory",
        [QVL_SPILL_QUEUE] = "queue",     [QVL_SPILL_DAILY] = "daily_budget",  [QVL_SPILL_SIZE] = "size_budget",
        [QVL_SPILL_SLOW] = "slow"};
    return (unsigned)reason < QVL_SPILL_DROPS ? names[reason] : "unknown";
}

/* ---- rates ---- */

static void average(double *rate, double now) { *rate = *rate > 0 ? 0.75 * *rate + 0.25 * now : now; }

void spill_note_compute(struct spill *s, int64_t tokens, double seconds) {
    if (tokens < BACKEND_PAGE_TOKENS || !(seconds > 0)) return; /* a decode step says nothing about prefill */
    pthread_mutex_lock(&s->lock);
    average(&s->compute_rate, (double)tokens / seconds);
    pthread_mutex_unlock(&s->lock);
}

void spill_note_read(struct spill *s, uint64_t bytes, double seconds) {
    if (bytes == 0 || !(seconds > 0)) return;
    pthread_mutex_lock(&s->lock);
    s->read_bytes += bytes;
    s->refused = 0;
    average(&s->read_rate, (double)bytes / seconds);
    pthread_mutex_unlock(&s->lock);
}

static bool worth(const struct spill *s, int64_t tokens, uint64_t bytes) {
    if (s->always || !(s->compute_rate > 0) || !(s->read_rate > 0)) return true;
    return (double)bytes / s->read_rate <= (double)tokens / s->compute_rate;
}

/* What was slow once may not be so now (another disk, a busy minute): every so often the disk is asked all the same. */
bool spill_worth(struct spill *s, int64_t tokens, uint64_t bytes) {
    pthread_mutex_lock(&s->lock);
    bool yes = worth(s, tokens, bytes) || s->refused >= ASK_AGAIN;
    if (!yes) s->refused++, s->recomputed++;
    pthread_mutex_unlock(&s->lock);
    return yes;
}

static void rates_path(const struct spill *s, char path[SPILL_PATH]) {
    const struct hash128 *id = &s->folder.shape.identity;
    snprintf(path, SPILL_PATH, "%s/rates-%016llx%016llx", s->folder.path, (unsigned long long)id->high,
             (unsigned long long)id->low);
}

static void load_rates(struct spill *s) {
    char path[SPILL_PATH];
    double compute, read;
    rates_path(s, path);
    FILE *f = fopen(path, "re");
    if (!f) return;
    if (fscanf(f, "compute_tokens_per_second %lf read_bytes_per_second %lf", &compute, &read) == 2 && compute >= 0 &&
        compute < 1e12 && read >= 0 && read < 1e15)
        s->compute_rate = compute, s->read_rate = read;
    fclose(f);
}

static void save_rates(struct spill *s) {
    char path[SPILL_PATH], text[120];
    rates_path(s, path);
    int n = snprintf(text, sizeof text, "compute_tokens_per_second %.6g\nread_bytes_per_second %.6g\n", s->compute_rate,
                     s->read_rate);
    file_replace(path, text, (size_t)n, NULL); /* lost, they are measured again */
}

/* ---- writing; the thread alone ---- */

static void drop(struct spill *s, enum qvl_spill_drop reason, const char *sentence) {
    spill_folder_count_drop(&s->folder, reason, sentence);
}

static void write_locked(struct spill *s, const char *name) {
    struct err err = {0};
    struct timespec now;
    enum qvl_spill_drop reason = QVL_SPILL_WRITE;
    uint64_t bytes = spill_pack_bytes(&s->pack);
    if (!spill_folder_make_room(&s->folder, bytes)) {
        drop(s, QVL_SPILL_SIZE, "pages need more than the folder's budget");
        return;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    enum spill_promise promise = spill_ledger_take(s->io, s->folder.path, now.tv_sec, bytes, s->daily, &err);
    if (promise == SPILL_REFUSED) {
        drop(s, QVL_SPILL_DAILY, err.message[0] ? err.message : "today's write budget is used up");
    } else if (promise == SPILL_LEDGER_FAILED) {
        drop(s, QVL_SPILL_WRITE, err.message);
    } else if (spill_pack_write(&s->pack, s->io, s->folder.path, name, &reason, &err)) {
        drop(s, reason, err.message);
        s->rest_until = clock_seconds() + s->rest_seconds;
    } else {
        spill_folder_add(&s->folder, &s->pack, name);
        pthread_mutex_lock(&s->lock);
        s->written_bytes += bytes;
        pthread_mutex_unlock(&s->lock);
    }
}

static void write_pack(struct spill *s) {
    char name[SPILL_NAME];
    struct err err = {0};
    if (s->pack.page_count == 0) return;
    spill_pack_name(&s->pack, name);
    int fd = spill_folder_lock(&s->folder, &err);
    if (fd < 0) drop(s, QVL_SPILL_WRITE, err.message);
    else {
        write_locked(s, name);
        close(fd);
    }
    s->pack.page_count = s->pack.logits_count = s->pack.key_count = 0;
}

static bool pack_full(const struct spill_pack *p) {
    return p->page_count == p->page_room || p->logits_count == p->logits_room || p->key_count == p->key_room;
}

/* What is left to do for one name, with the page held when there is. */
struct page_task {
    int32_t page;
    bool to_disk, to_host, has_logits, left; /* left: the page is not on the device any more */
};

static struct page_task look_at(struct spill *s, const struct page_name *n, bool disk) {
    struct qvl_model *m = s->m;
    struct page_task t = {.page = -1};
    struct spill_place place;
    bool on_disk = s->has_folder && spill_folder_find(&s->folder, n->key, &place);
    pthread_mutex_lock(&m->lock);
    const struct kv_entry *e = kv_peek(&m->kv, n->key);
    t.left = !e && !on_disk;
    /* A writer may still fill slots behind these: its own end will offer the page again. */
    if (e && !(n->tokens < BACKEND_PAGE_TOKENS && m->kv.pages[e->page].writer)) {
        t.has_logits = e->logits != NULL;
        t.to_disk = disk && (!on_disk || (t.has_logits && place.logits < 0));
        t.to_host = s->host.limit > 0 && !host_pages_has(&s->host, n->key);
        if (t.to_disk || t.to_host) {
            t.page = e->page;
            kv_page_hold(&m->kv, t.page);
            if (t.has_logits) memcpy(s->logits, e->logits->values, (size_t)m->config->text.vocab * sizeof *s->logits);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return t;
}

struct page_copy { /* the page copied last: names of the same page follow each other */
    int32_t page;  /* held, -1: none */
    bool in_pack;
    struct host_blob *blob;
};

static void copy_release(struct spill *s, struct page_copy *c) {
    pthread_mutex_lock(&s->m->lock);
    if (c->page >= 0) kv_page_drop(&s->m->kv, c->page);
    host_blob_drop(&s->host, c->blob);
    pthread_mutex_unlock(&s->m->lock);
    *c = (struct page_copy){.page = -1};
}

/* Copies the page to where it is wanted. Outside every lock: nobody writes to it any more. */
static bool copy_page(struct spill *s, const struct page_task *t, struct page_copy *c) {
    struct err err = {0};
    struct qvl_model *m = s->m;
    if (t->to_host && !c->blob && (c->blob = host_blob_new(&s->host)) &&
        m->backend->page_export(m->device, t->page, c->blob->bytes, &err)) {
        host_blob_drop(&s->host, c->blob); /* nobody else has it yet */
        c->blob = NULL;
        return false;
    }
    if (t->to_disk && !c->in_pack) {
        char *to = spill_pack_next_page(&s->pack);
        if (c->blob) memcpy(to, c->blob->bytes, s->pack.shape.page_bytes);
        else if (m->backend->page_export(m->device, t->page, to, &err)) return false;
        s->pack.page_count++;
        c->in_pack = true;
    }
    return true;
}

static void spill_page(struct spill *s, const struct page_name *n, bool disk, struct page_copy *c) {
    if (s->has_folder && pack_full(&s->pack)) {
        write_pack(s);
        copy_release(s, c);
    }
    struct page_task t = look_at(s, n, disk);
    if (t.left && disk) drop(s, QVL_SPILL_QUEUE, "pages left the memory before they were written");
    if (t.page < 0) return;
    if (t.page == c->page) {
        pthread_mutex_lock(&s->m->lock);
        kv_page_drop(&s->m->kv, t.page); /* held once is enough */
        pthread_mutex_unlock(&s->m->lock);
    } else {
        copy_release(s, c);
        c->page = t.page;
    }
    if (!copy_page(s, &t, c)) return;
    const float *logits = t.has_logits ? s->logits : NULL;
    if (t.to_disk) spill_pack_key(&s->pack, n->key, s->pack.page_count - 1, (uint32_t)n->tokens, logits);
    if (t.to_host && c->blob) {
        pthread_mutex_lock(&s->m->lock);
        host_pages_put(&s->host, n->key, n->tokens, c->blob, logits);
        pthread_mutex_unlock(&s->m->lock);
    }
}

/* Whether what the disk lacks of a job is worth writing: as one restore would read it. */
static bool worth_writing(struct spill *s, const struct spill_job *job) {
    struct spill_place place;
    int64_t tokens = 0, pages = 0;
    if (!s->has_folder) return false;
    if (clock_seconds() < s->rest_until) {
        drop(s, QVL_SPILL_WRITE, "pages came while writing rests after a failure");
        return false;
    }
    for (size_t i = 0; i < job->count; i++) {
        if (spill_folder_find(&s->folder, job->pages[i].key, &place)) continue;
        pages++;
        tokens += job->pages[i].tokens;
    }
    pthread_mutex_lock(&s->lock);
    bool yes = worth(s, tokens, (uint64_t)pages * s->folder.shape.page_bytes);
    pthread_mutex_unlock(&s->lock);
    if (!yes) drop(s, QVL_SPILL_SLOW, "computing these pages is faster than reading them back would be");
    return yes;
}

static void process(struct spill *s, const struct spill_job *job) {
    struct page_copy copy = {.page = -1};
    bool disk = worth_writing(s, job);
    struct err err = {0};
    if (disk && !s->pack.pages && spill_pack_init(&s->pack, &s->folder.shape, PACK_BYTES, &err)) {
        drop(s, QVL_SPILL_MEMORY, err.message);
        disk = false;
    }
    for (size_t i = 0; i < job->count && (disk || s->host.limit > 0); i++) spill_page(s, &job->pages[i], disk, &copy);
    copy_release(s, &copy);
    write_pack(s);
}

/* ---- the thread ---- */

static void look_around(struct spill *s) {
    if (!s->has_folder) return;
    if (spill_folder_changed(&s->folder)) spill_folder_scan(&s->folder);
    spill_folder_save_times(&s->folder);
}

static void *run(void *context) {
    struct spill *s = context;
    pthread_mutex_lock(&s->lock);
    while (s->first || !s->stop) {
        struct spill_job *job = s->first;
        bool look = s->look;
        if (!job && !look) {
            pthread_cond_broadcast(&s->idle);
            pthread_cond_wait(&s->work, &s->lock);
            continue;
        }
        s->look = false;
        s->busy = true;
        if (job) {
            s->first = job->next;
            if (!s->first) s->last = NULL;
            s->waiting--;
        }
        pthread_mutex_unlock(&s->lock);
        if (job) process(s, job);
        if (look) look_around(s);
        free(job);
        pthread_mutex_lock(&s->lock);
        s->busy = false;
    }
    pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void spill_offer(struct spill *s, const struct page_name *pages, size_t count) {
    if (!s || count == 0) return;
    struct spill_job *job = malloc(sizeof *job + count * sizeof *pages);
    if (job) {
        *job = (struct spill_job){.count = count};
        memcpy(job->pages, pages, count * sizeof *pages);
        pthread_mutex_lock(&s->lock);
        if (s->waiting < SPILL_QUEUE) {
            if (s->last) s->last->next = job;
            else s->first = job;
            s->last = job;
            s->waiting++;
            job = NULL;
            pthread_cond_signal(&s->work);
        }
        pthread_mutex_unlock(&s->lock);
        if (!job) return;
    }
    free(job);
    if (s->has_folder) drop(s, QVL_SPILL_QUEUE, "the writer is behind");
}

void spill_wait(struct spill *s) {
    pthread_mutex_lock(&s->lock);
    while (s->first || s->busy || s->look) pthread_cond_wait(&s->idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void spill_look(struct spill *s) {
    pthread_mutex_lock(&s->lock);
    s->look = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

void spill_missed(struct spill *s) {
    double now = clock_seconds();
    pthread_mutex_lock(&s->lock);
    bool due = now - s->looked > LOOK_SECONDS;
    if (due) s->looked = now;
    pthread_mutex_unlock(&s->lock);
    if (due) spill_look(s);
}

/* ---- opening ---- */

static int open_levels(struct spill *s, const struct qvl_options *o, struct err *err) {
    struct qvl_model *m = s->m;
    int r = host_pages_init(&s->host, m->backend, m->device, m->config->text.vocab, m->backend_info.own_memory ? o->host_bytes : 0,
                            err);
    if (r || !o->cache_dir) return r;
    if (s->host.page_bytes > SPILL_MAX_PAGE_BYTES)
        return err_set(err, ERR_LIMIT, "prompt cache: pages of %zu bytes, a spill file takes up to %u", s->host.page_bytes,
                       (unsigned)SPILL_MAX_PAGE_BYTES);
    struct spill_shape shape = {.identity = m->identity, .page_bytes = (uint32_t)s->host.page_bytes,
                                .page_tokens = BACKEND_PAGE_TOKENS, .vocab = (uint32_t)m->config->text.vocab};
    s->daily = o->disk_daily_bytes ? o->disk_daily_bytes : default_daily_bytes;
    r = spill_folder_open(&s->folder, o->cache_dir, &shape, o->disk_bytes ? o->disk_bytes : default_disk_bytes, s->io, o->on_notice,
                          o->notice_user, err);
    if (r) return r;
    s->has_folder = true;
    load_rates(s);
    return 0;
}

int spill_open(struct qvl_model *m, const struct qvl_options *o, struct err *err) {
    if (!o->cache_dir && !(o->host_bytes && m->backend_info.own_memory)) return 0;
    struct spill *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ERR_MEMORY, "out of memory for the prompt cache");
    *s = (struct spill){.m = m, .io = &disk_calls_system, .always = o->cache_always, .rest_seconds = REST_SECONDS};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->idle, NULL);
    m->spill = s;
    int r = open_levels(s, o, err);
    if (!r && !(s->logits = malloc((size_t)m->config->text.vocab * sizeof *s->logits)))
        r = err_set(err, ERR_MEMORY, "out of memory for the prompt cache");
    if (!r && pthread_create(&s->thread, NULL, run, s)) r = err_set(err, ERR_MEMORY, "prompt cache: cannot start a thread");
    if (!r) s->running = true;
    if (r) spill_close(m);
    return r;
}

void spill_close(struct qvl_model *m) {
    struct spill *s = m->spill;
    if (!s) return;
    if (s->running) {
        pthread_mutex_lock(&s->lock);
        s->stop = true;
        pthread_cond_signal(&s->work);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    if (s->has_folder) {
        spill_folder_save_times(&s->folder);
        save_rates(s);
        spill_folder_close(&s->folder);
    }
    host_pages_free(&s->host);
    spill_pack_free(&s->pack);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->lock);
    free(s->logits);
    free(s);
    m->spill = NULL;
}

void spill_stats(struct spill *s, struct qvl_stats *out) {
    out->host_pages = s->host.pages, out->host_evictions = s->host.evicted, out->host_bytes = s->host.bytes;
    pthread_mutex_lock(&s->lock);
    out->host_hit_tokens = __atomic_load_n(&s->host_hit_tokens, __ATOMIC_RELAXED);
    out->disk_hit_tokens = __atomic_load_n(&s->disk_hit_tokens, __ATOMIC_RELAXED);
    out->disk_read_bytes = s->read_bytes, out->disk_written_bytes = s->written_bytes;
    out->disk_recomputed = s->recomputed;
    out->compute_tokens_per_second = s->compute_rate, out->disk_read_bytes_per_second = s->read_rate;
    pthread_mutex_unlock(&s->lock);
    if (!s->has_folder) return;
    pthread_mutex_lock(&s->folder.lock);
    out->disk_files = s->folder.files, out->disk_evictions = s->folder.evicted, out->disk_bytes = s->folder.bytes;
    memcpy(out->disk_drops, s->folder.drops, sizeof out->disk_drops);
    pthread_mutex_unlock(&s->folder.lock);
}
