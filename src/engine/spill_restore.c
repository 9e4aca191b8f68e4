/* Bringing pages back onto the device.
 *
 * A thread reads ahead while the caller checks and imports what has arrived: the disk and the memory work at the same time. Runs
 * of pages that lie side by side in a file are one read. 2.3 GB (20,000 tokens of a 2B model in bf16) at 1.5 GB/s are 1.5 s;
 * checking and copying them is as much again, on the other core. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/spill.h"

enum { READ_BYTES = 8 << 20, READS_AHEAD = 3, INLINE_BYTES = 1 << 20 };
enum { HOST_RUN = 32 }; /* pages of one import from host memory: 117 MB of a 2B model, 2 ms */

struct chunk {
    int first, count;           /* of the list */
    char *data;                 /* (count, page_stride) */
    struct hash128 sums[SPILL_MAX_PAGES];
    bool failed, ready;
};

struct reader {
    struct spill *s;
    const struct known_page *list;
    int count, next;            /* next: first page not yet in a chunk */
    int fd;
    char name[SPILL_NAME];      /* of the open file */
    struct spill_table table;
    uint32_t stride, per_chunk;
    struct chunk chunks[READS_AHEAD];
    unsigned made, taken;       /* chunks so far: made - taken are full */
    uint64_t bytes;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool threaded, stop;
};

/* ---- reading ---- */

static void close_file(struct reader *r) {
    if (r->fd >= 0) close(r->fd);
    spill_table_free(&r->table);
    r->fd = -1;
}

/* Opens the file of a place and reads its table. A file that fails is dropped. */
static int open_file(struct reader *r, const struct spill_place *place) {
    struct spill *s = r->s;
    char path[SPILL_PATH];
    enum qvl_spill_drop reason = QVL_SPILL_READ;
    struct err err = {0};
    if (r->fd >= 0 && !strcmp(r->name, place->name)) return 0;
    close_file(r);
    memcpy(r->name, place->name, sizeof r->name);
    snprintf(path, sizeof path, "%s/%s", s->folder.path, place->name);
    r->fd = disk_open(s->io, path, O_RDONLY);
    if (r->fd < 0) {
        reason = errno == ENOENT ? QVL_SPILL_GONE : QVL_SPILL_READ;
        err_set(&err, ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    } else if (!spill_table_read(s->io, r->fd, path, &r->table, &reason, &err)) {
        const struct spill_header *h = r->table.header;
        const struct spill_shape *shape = &s->folder.shape;
        if (hash_equal(h->identity, shape->identity) && h->page_bytes == shape->page_bytes && h->vocab == shape->vocab) {
            spill_folder_used(&s->folder, place->name);
            return 0;
        }
        reason = QVL_SPILL_FOREIGN;
        err_set(&err, ERR_FORMAT, "%s: has become another model's", path);
    }
    close_file(r);
    spill_folder_drop(&s->folder, place->name, reason, err.message);
    return -1;
}

/* Does the table still say at `place` what the index said? Another process may have replaced the file. */
static bool place_holds(const struct spill_table *t, const struct known_page *p) {
    for (uint32_t i = 0; i < t->header->keys; i++)
        if (t->keys[i].page == p->place.page && t->keys[i].tokens == (uint32_t)p->tokens && hash_equal(t->keys[i].key, p->key))
            return true;
    return false;
}

static void read_chunk(struct reader *r, struct chunk *c) {
    const struct known_page *first = &r->list[c->first];
    struct spill *s = r->s;
    struct err err = {0};
    c->failed = true;
    if (open_file(r, &first->place)) return;
    for (int i = 0; i < c->count; i++) {
        if (!place_holds(&r->table, &first[i])) return; /* equal names have equal keys: a file made to deceive */
        c->sums[i] = r->table.page_sums[first[i].place.page];
    }
    size_t bytes = (size_t)c->count * r->stride;
    if (disk_read(s->io, r->fd, c->data, bytes, spill_page_at(r->table.header, first->place.page))) {
        err_set(&err, ERR_IO, "%s/%s: cannot read: %s", s->folder.path, r->name, strerror(errno));
        close_file(r);
        spill_folder_drop(&s->folder, first->place.name, QVL_SPILL_READ, err.message);
        return;
    }
    c->failed = false;
}

static bool follows(const struct known_page *a, const struct known_page *b) {
    return b->on_disk && b->place.page == a->place.page + 1 && !strcmp(a->place.name, b->place.name);
}

/* The next run of pages that lie on disk; false: no more. */
static bool next_run(struct reader *r, struct chunk *c) {
    while (r->next < r->count && !r->list[r->next].on_disk) r->next++;
    if (r->next == r->count) return false;
    c->first = r->next++;
    while (r->next < r->count && (uint32_t)(r->next - c->first) < r->per_chunk && follows(&r->list[r->next - 1], &r->list[r->next]))
        r->next++;
    c->count = r->next - c->first;
    return true;
}

static void *read_ahead(void *context) {
    struct reader *r = context;
    pthread_mutex_lock(&r->lock);
    for (;;) {
        while (!r->stop && r->made - r->taken == READS_AHEAD) pthread_cond_wait(&r->changed, &r->lock);
        struct chunk *c = &r->chunks[r->made % READS_AHEAD];
        if (r->stop || !next_run(r, c)) break;
        pthread_mutex_unlock(&r->lock);
        read_chunk(r, c);
        pthread_mutex_lock(&r->lock);
        r->made++;
        pthread_cond_broadcast(&r->changed);
        if (c->failed) break;
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* The chunk that begins with page i of the list. */
static struct chunk *chunk_wait(struct reader *r) {
    struct chunk *c = &r->chunks[r->threaded ? r->taken % READS_AHEAD : 0];
    if (!r->threaded) {
        next_run(r, c);
        read_chunk(r, c);
        r->made++;
        return c;
    }
    pthread_mutex_lock(&r->lock);
    while (r->made == r->taken) pthread_cond_wait(&r->changed, &r->lock);
    pthread_mutex_unlock(&r->lock);
    return c;
}

static void chunk_done(struct reader *r) {
    pthread_mutex_lock(&r->lock);
    r->taken++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void reader_close(struct reader *r) {
    if (r->threaded) {
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_cond_broadcast(&r->changed);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->thread, NULL);
    }
    close_file(r);
    for (int i = 0; i < READS_AHEAD; i++) free(r->chunks[i].data);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* NULL: out of memory. */
static struct reader *reader_open(struct spill *s, const struct known_page *list, int count) {
    struct reader *r = calloc(1, sizeof *r);
    int pages = 0;
    for (int i = 0; i < count; i++) pages += list[i].on_disk;
    if (!r) return NULL;
    r->s = s, r->list = list, r->count = count, r->fd = -1;
    r->stride = spill_round(s->folder.shape.page_bytes);
    r->per_chunk = READ_BYTES / r->stride;
    if (r->per_chunk < 1) r->per_chunk = 1;
    if (r->per_chunk > SPILL_MAX_PAGES) r->per_chunk = SPILL_MAX_PAGES;
    if (r->per_chunk > (uint32_t)pages) r->per_chunk = (uint32_t)pages;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    bool threaded = (size_t)pages * r->stride > INLINE_BYTES;
    for (int i = 0; i < (threaded ? READS_AHEAD : 1); i++) {
        void *data = NULL;
        if (posix_memalign(&data, SPILL_BLOCK, (size_t)r->per_chunk * r->stride)) {
            reader_close(r);
            return NULL;
        }
        r->chunks[i].data = data;
    }
    /* Without a thread every read waits for the import before it; nothing else changes. */
    r->threaded = threaded && !pthread_create(&r->thread, NULL, read_ahead, r);
    return r;
}

/* ---- importing ---- */

static int import_page(struct spill *s, struct known_page *p, const void *bytes) {
    struct qvl_model *m = s->m;
    struct err err = {0};
    pthread_mutex_lock(&m->lock);
    int32_t page = kv_page_take(&m->kv, NULL);
    pthread_mutex_unlock(&m->lock);
    if (page < 0) return -1;
    int r = m->backend->page_import(m->device, page, bytes, &err);
    pthread_mutex_lock(&m->lock);
    if (r) {
        kv_page_drop(&m->kv, page);
    } else {
        kv_publish(&m->kv, p->key, page, p->tokens, NULL);
        p->page = page;
    }
    pthread_mutex_unlock(&m->lock);
    return r;
}

static int import_pages(struct qvl_model *m, const int32_t *pages, const void *const *bytes, int count) {
    struct err err = {0};
    int r = 0;
    if (m->backend->pages_import) return m->backend->pages_import(m->device, pages, bytes, count, &err);
    for (int i = 0; i < count && !r; i++) r = m->backend->page_import(m->device, pages[i], bytes[i], &err);
    return r;
}

/* The pages at the list's beginning that lie in host memory, many at a time; returns how many are on the device now. */
static int host_run(struct spill *s, struct known_page *list, int count) {
    struct qvl_model *m = s->m;
    int32_t pages[HOST_RUN];
    const void *bytes[HOST_RUN];
    int n = 0;
    pthread_mutex_lock(&m->lock);
    for (; n < count && n < HOST_RUN && list[n].page < 0 && list[n].blob; n++) {
        if ((pages[n] = kv_page_take(&m->kv, NULL)) < 0) break;
        bytes[n] = list[n].blob->bytes;
    }
    pthread_mutex_unlock(&m->lock);
    int r = import_pages(m, pages, bytes, n);
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < n; i++) {
        if (r) {
            kv_page_drop(&m->kv, pages[i]);
            continue;
        }
        kv_publish(&m->kv, list[i].key, list[i].page = pages[i], list[i].tokens, NULL);
        host_blob_drop(&s->host, list[i].blob);
        list[i].blob = NULL;
        __atomic_add_fetch(&s->host_hit_tokens, list[i].tokens, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&m->lock);
    return r ? 0 : n;
}

static void keep_on_host(struct spill *s, const struct known_page *p, const void *bytes) {
    if (s->host.limit == 0) return;
    pthread_mutex_lock(&s->m->lock);
    struct host_blob *b = host_pages_has(&s->host, p->key) ? NULL : host_blob_new(&s->host);
    if (b) {
        memcpy(b->bytes, bytes, s->host.page_bytes);
        host_pages_put(&s->host, p->key, p->tokens, b, NULL);
        host_blob_drop(&s->host, b);
    }
    pthread_mutex_unlock(&s->m->lock);
}

/* Page i of the list, which is page i - c->first of the chunk. */
static int from_disk(struct reader *r, const struct chunk *c, struct known_page *p, int at) {
    struct spill *s = r->s;
    const char *bytes = c->data + (size_t)at * r->stride;
    if (!hash_equal(hash_bytes(bytes, r->stride, 0), c->sums[at])) {
        struct err err = {0};
        err_set(&err, ERR_FORMAT, "%s/%s: checksum of page %u is wrong", s->folder.path, p->place.name, p->place.page);
        spill_folder_drop(&s->folder, p->place.name, QVL_SPILL_DAMAGED, err.message);
        return -1;
    }
    int code = import_page(s, p, bytes);
    if (code) return code;
    keep_on_host(s, p, bytes);
    r->bytes += r->stride;
    __atomic_add_fetch(&s->disk_hit_tokens, p->tokens, __ATOMIC_RELAXED);
    return 0;
}

/* Imports the chunk that begins with page i; returns how many pages, *whole: all of them. */
static int disk_run(struct reader *r, struct known_page *list, int i, bool *whole) {
    struct chunk *c = chunk_wait(r);
    int done = 0;
    *whole = false;
    if (!c->failed && c->first == i) {
        while (done < c->count && !from_disk(r, c, &list[i + done], done)) done++;
        *whole = done == c->count;
    }
    chunk_done(r);
    return done;
}

void spill_let_go(struct spill *s, struct known_page *list, int count) {
    pthread_mutex_lock(&s->m->lock);
    for (int i = 0; i < count; i++) {
        if (list[i].page >= 0) kv_page_drop(&s->m->kv, list[i].page);
        host_blob_drop(&s->host, list[i].blob);
        list[i].page = -1;
        list[i].blob = NULL;
    }
    pthread_mutex_unlock(&s->m->lock);
}

int spill_restore(struct spill *s, struct known_page *list, int count) {
    double start = clock_seconds();
    struct reader *r = NULL;
    int i = 0;
    while (i < count) {
        if (list[i].page >= 0) {
            i++;
        } else if (list[i].blob) {
            int n = host_run(s, list + i, count - i);
            if (n == 0) break;
            i += n;
        } else {
            bool whole;
            if (!r && !(r = reader_open(s, list, count))) break;
            i += disk_run(r, list, i, &whole);
            if (!whole) break;
        }
    }
    if (r) {
        uint64_t bytes = r->bytes;
        reader_close(r);
        spill_note_read(s, bytes, clock_seconds() - start);
    }
    spill_let_go(s, list + i, count - i);
    return i;
}

bool spill_read_logits(struct spill *s, const struct spill_place *place, float *logits) {
    struct reader r = {.s = s, .fd = -1};
    void *block = NULL;
    uint32_t stride = spill_round(4 * s->folder.shape.vocab);
    if (place->logits < 0 || open_file(&r, place)) return false;
    bool ok = place->logits < (int32_t)r.table.header->logits && !posix_memalign(&block, SPILL_BLOCK, stride) &&
              !disk_read(s->io, r.fd, block, stride, spill_logits_at(r.table.header, (uint32_t)place->logits));
    if (ok && !hash_equal(hash_bytes(block, stride, 0), r.table.logits_sums[place->logits])) {
        struct err err = {0};
        err_set(&err, ERR_FORMAT, "%s/%s: checksum of logits %d is wrong", s->folder.path, place->name, place->logits);
        spill_folder_drop(&s->folder, place->name, QVL_SPILL_DAMAGED, err.message);
        ok = false;
    }
    if (ok) memcpy(logits, block, 4 * (size_t)s->folder.shape.vocab);
    free(block);
    close_file(&r);
    return ok;
}
