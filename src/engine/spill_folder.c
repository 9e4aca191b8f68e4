#include "engine/spill_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

struct spill_member { /* a file */
    char name[SPILL_NAME];
    uint64_t bytes;
    int64_t used;           /* nanoseconds since 1970 */
    uint64_t seen_in_scan;
    bool touched;           /* used since the time was last saved */
    struct spill_entry *entries;
    struct spill_member *next;
};

struct spill_entry {
    struct hash128 key;
    uint32_t page, tokens;
    int32_t logits;
    struct spill_member *file;
    struct spill_entry *next_in_bucket, *next_of_file;
};

static int64_t nanoseconds(struct timespec t) { return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }

static int64_t time_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return nanoseconds(t);
}

static void path_of(const struct spill_folder *f, const char *name, char path[SPILL_PATH]) {
    snprintf(path, SPILL_PATH, "%s/%s", f->path, name);
}

/* ---- drops ---- */

/* With f->lock held. true: the first of its reason. */
static bool count_drop(struct spill_folder *f, enum qvl_spill_drop reason) { return f->drops[reason]++ == 0; }

static void tell(struct spill_folder *f, bool first, enum qvl_spill_drop reason, const char *sentence) {
    char text[1200];
    if (!first || !f->notice) return;
    snprintf(text, sizeof text, "prompt cache: %s (dropped: %s; told once, counted from now on)", sentence,
             qvl_spill_drop_name(reason));
    f->notice(f->notice_user, text);
}

void spill_folder_count_drop(struct spill_folder *f, enum qvl_spill_drop reason, const char *sentence) {
    pthread_mutex_lock(&f->lock);
    bool first = count_drop(f, reason);
    pthread_mutex_unlock(&f->lock);
    tell(f, first, reason, sentence);
}

/* ---- the index; with f->lock held ---- */

static struct spill_entry **bucket_of(const struct spill_folder *f, struct hash128 key) {
    return &f->buckets[key.low & (f->bucket_count - 1)];
}

static void grow(struct spill_folder *f) {
    size_t count = f->bucket_count * 4;
    struct spill_entry **more = calloc(count, sizeof *more);
    if (!more) return; /* longer chains, same answers */
    for (size_t i = 0; i < f->bucket_count; i++)
        for (struct spill_entry *e = f->buckets[i], *next; e; e = next) {
            next = e->next_in_bucket;
            struct spill_entry **to = &more[e->key.low & (count - 1)];
            e->next_in_bucket = *to;
            *to = e;
        }
    free(f->buckets);
    f->buckets = more;
    f->bucket_count = count;
}

static unsigned name_bucket(const char *name) { /* names are digits of a hash */
    unsigned n = 0;
    for (int i = 0; i < 3; i++) n = n * 16 + (unsigned)(name[i] <= '9' ? name[i] - '0' : name[i] - 'a' + 10);
    return n % SPILL_NAME_BUCKETS;
}

static struct spill_member *find_member(const struct spill_folder *f, const char *name) {
    struct spill_member *m = f->members[name_bucket(name)];
    while (m && strcmp(m->name, name)) m = m->next;
    return m;
}

static void forget(struct spill_folder *f, struct spill_member *m) {
    for (struct spill_entry *e = m->entries, *next; e; e = next) {
        next = e->next_of_file;
        struct spill_entry **at = bucket_of(f, e->key);
        while (*at != e) at = &(*at)->next_in_bucket;
        *at = e->next_in_bucket;
        free(e);
        f->entry_count--;
    }
    struct spill_member **at = &f->members[name_bucket(m->name)];
    while (*at != m) at = &(*at)->next;
    *at = m->next;
    f->bytes -= m->bytes;
    f->files--;
    free(m);
}

/* Keys without memory for them are not found later: a miss, nothing worse. */
static struct spill_member *remember(struct spill_folder *f, const char *name, uint64_t bytes, int64_t used,
                                     const struct spill_key *keys, uint32_t count) {
    struct spill_member *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    snprintf(m->name, sizeof m->name, "%s", name);
    m->bytes = bytes;
    m->used = used;
    m->seen_in_scan = f->scans;
    struct spill_member **bucket_of_name = &f->members[name_bucket(name)];
    m->next = *bucket_of_name;
    *bucket_of_name = m;
    f->bytes += bytes;
    f->files++;
    for (uint32_t i = 0; i < count; i++) {
        struct spill_entry *e = malloc(sizeof *e);
        if (!e) break;
        if (f->entry_count > 2 * f->bucket_count) grow(f);
        struct spill_entry **bucket = bucket_of(f, keys[i].key);
        *e = (struct spill_entry){.key = keys[i].key, .page = keys[i].page, .tokens = keys[i].tokens, .logits = keys[i].logits,
                                  .file = m, .next_in_bucket = *bucket, .next_of_file = m->entries};
        *bucket = m->entries = e;
        f->entry_count++;
    }
    return m;
}

bool spill_folder_find(struct spill_folder *f, struct hash128 key, struct spill_place *out) {
    pthread_mutex_lock(&f->lock);
    const struct spill_entry *found = NULL;
    for (const struct spill_entry *e = *bucket_of(f, key); e; e = e->next_in_bucket)
        if (hash_equal(e->key, key) && (!found || (found->logits < 0 && e->logits >= 0))) found = e;
    if (found) {
        *out = (struct spill_place){.page = found->page, .tokens = found->tokens, .logits = found->logits};
        memcpy(out->name, found->file->name, sizeof out->name);
    }
    pthread_mutex_unlock(&f->lock);
    return found != NULL;
}

void spill_folder_used(struct spill_folder *f, const char *name) {
    pthread_mutex_lock(&f->lock);
    struct spill_member *m = find_member(f, name);
    if (m) m->used = time_now(), m->touched = true;
    pthread_mutex_unlock(&f->lock);
}

void spill_folder_drop(struct spill_folder *f, const char *name, enum qvl_spill_drop reason, const char *sentence) {
    char path[SPILL_PATH];
    pthread_mutex_lock(&f->lock);
    struct spill_member *m = find_member(f, name);
    if (m) forget(f, m);
    bool first = count_drop(f, reason);
    pthread_mutex_unlock(&f->lock);
    path_of(f, name, path);
    /* A lack of memory says nothing about the file. */
    if (reason != QVL_SPILL_GONE && reason != QVL_SPILL_MEMORY) f->io->unlink(path);
    if (reason != QVL_SPILL_GONE) tell(f, first, reason, sentence);
}

void spill_folder_add(struct spill_folder *f, const struct spill_pack *p, const char *name) {
    pthread_mutex_lock(&f->lock);
    if (!find_member(f, name)) remember(f, name, spill_pack_bytes(p), time_now(), p->keys, p->key_count);
    pthread_mutex_unlock(&f->lock);
}

/* ---- scanning ---- */

static bool is_ours(const char *name) {
    return strlen(name) == 35 && strspn(name, "0123456789abcdef") == 32 && !strcmp(name + 32, ".kv");
}

static bool is_temporary(const char *name) {
    size_t n = strlen(name);
    return n > 36 && strspn(name, "0123456789abcdef") == 32 && name[32] == '.' && !strcmp(name + n - 4, ".tmp");
}

/* What a killed writer left behind. */
static void sweep(struct spill_folder *f, const char *name) {
    char path[SPILL_PATH];
    path_of(f, name, path);
    int fd = f->io->open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (!flock(fd, LOCK_EX | LOCK_NB)) f->io->unlink(path);
    close(fd);
}

static void read_member(struct spill_folder *f, const char *name) {
    char path[SPILL_PATH];
    struct spill_table t;
    struct stat st;
    enum qvl_spill_drop reason = QVL_SPILL_READ;
    struct err err = {0};
    path_of(f, name, path);
    int fd = f->io->open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT) return; /* evicted by another process just now */
        err_set(&err, ERR_IO, "%s: cannot open: %s", path, strerror(errno));
        spill_folder_count_drop(f, QVL_SPILL_READ, err.message);
        return;
    }
    int r = spill_table_read(f->io, fd, path, &t, &reason, &err);
    if (!r && fstat(fd, &st)) memset(&st, 0, sizeof st);
    close(fd);
    if (r) {
        spill_folder_drop(f, name, reason, err.message);
        return;
    }
    const struct spill_header *h = t.header;
    bool usable = hash_equal(h->identity, f->shape.identity) && h->page_bytes == f->shape.page_bytes &&
                  h->page_tokens == f->shape.page_tokens && h->vocab == f->shape.vocab;
    pthread_mutex_lock(&f->lock);
    remember(f, name, h->file_bytes, nanoseconds(st.st_mtim), t.keys, usable ? h->keys : 0);
    pthread_mutex_unlock(&f->lock);
    spill_table_free(&t);
}

bool spill_folder_changed(const struct spill_folder *f) {
    struct stat st;
    return !stat(f->path, &st) && (st.st_mtim.tv_sec != f->seen.tv_sec || st.st_mtim.tv_nsec != f->seen.tv_nsec);
}

void spill_folder_scan(struct spill_folder *f) {
    struct stat st;
    DIR *d = opendir(f->path);
    if (!d) return;
    /* Taken before reading, so that a change meanwhile shows next time; a time as fresh as the clock's grain proves nothing. */
    if (!fstat(dirfd(d), &st)) f->seen = st.st_mtim;
    if (time_now() - nanoseconds(f->seen) < 50000000) f->seen = (struct timespec){0};
    f->scans++;
    for (struct dirent *e; (e = readdir(d));) {
        if (is_temporary(e->d_name)) sweep(f, e->d_name);
        if (!is_ours(e->d_name)) continue;
        pthread_mutex_lock(&f->lock);
        struct spill_member *m = find_member(f, e->d_name);
        if (m) m->seen_in_scan = f->scans;
        pthread_mutex_unlock(&f->lock);
        if (!m) read_member(f, e->d_name);
    }
    closedir(d);
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < SPILL_NAME_BUCKETS; i++)
        for (struct spill_member *m = f->members[i], *next; m; m = next) {
            next = m->next;
            if (m->seen_in_scan != f->scans) forget(f, m);
        }
    pthread_mutex_unlock(&f->lock);
}

/* ---- budget ---- */

int spill_folder_lock(struct spill_folder *f, struct err *err) {
    char path[SPILL_PATH];
    path_of(f, "lock", path);
    int fd = f->io->open(path, O_RDWR | O_CREAT | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX)) {
        close(fd);
        fd = -1;
    }
    if (fd < 0) err_set(err, ERR_IO, "%s: cannot lock: %s", path, strerror(errno));
    return fd;
}

bool spill_folder_make_room(struct spill_folder *f, uint64_t bytes) {
    if (spill_folder_changed(f)) spill_folder_scan(f);
    if (bytes > f->budget) return false;
    for (;;) {
        char path[SPILL_PATH], name[SPILL_NAME];
        struct spill_member *oldest = NULL;
        pthread_mutex_lock(&f->lock);
        bool fits = f->bytes + bytes <= f->budget && f->files < SPILL_MAX_FILES;
        for (int i = 0; i < SPILL_NAME_BUCKETS && !fits; i++)
            for (struct spill_member *m = f->members[i]; m; m = m->next)
                if (!oldest || m->used < oldest->used) oldest = m;
        if (oldest) memcpy(name, oldest->name, sizeof name);
        pthread_mutex_unlock(&f->lock);
        if (fits || !oldest) return fits;
        /* Another process may have used it since: its time on the disk tells. */
        struct stat st;
        path_of(f, name, path);
        int64_t used = stat(path, &st) ? 0 : nanoseconds(st.st_mtim);
        pthread_mutex_lock(&f->lock);
        oldest = find_member(f, name);
        bool later = oldest && used > oldest->used;
        if (later) oldest->used = used;
        pthread_mutex_unlock(&f->lock);
        if (later) continue;
        if (f->io->unlink(path) && errno != ENOENT) return false;
        pthread_mutex_lock(&f->lock);
        if ((oldest = find_member(f, name))) forget(f, oldest);
        f->evicted++;
        pthread_mutex_unlock(&f->lock);
    }
}

void spill_folder_save_times(struct spill_folder *f) {
    for (;;) {
        char path[SPILL_PATH];
        struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}};
        pthread_mutex_lock(&f->lock);
        struct spill_member *m = NULL;
        for (int i = 0; i < SPILL_NAME_BUCKETS && !m; i++)
            for (m = f->members[i]; m && !m->touched;) m = m->next;
        if (m) {
            m->touched = false;
            path_of(f, m->name, path);
            times[1] = (struct timespec){.tv_sec = m->used / 1000000000, .tv_nsec = m->used % 1000000000};
        }
        pthread_mutex_unlock(&f->lock);
        if (!m) return;
        utimensat(AT_FDCWD, path, times, 0); /* a file that is gone, or a time lost, costs nothing but order */
    }
}

/* ---- opening ---- */

int spill_folder_open(struct spill_folder *f, const char *path, const struct spill_shape *shape, uint64_t budget,
                      const struct disk_calls *io, void (*notice)(void *, const char *), void *user, struct err *err) {
    *f = (struct spill_folder){.io = io, .shape = *shape, .budget = budget, .bucket_count = 1024, .notice = notice,
                               .notice_user = user};
    if (strlen(path) > SPILL_FOLDER_MAX)
        return err_set(err, ERR_ARGUMENT, "prompt cache: the folder's name is longer than %d bytes", SPILL_FOLDER_MAX);
    int r = file_make_folders(path, err);
    if (r) return err_context(err, "prompt cache");
    f->path = strdup(path);
    f->buckets = calloc(f->bucket_count, sizeof(struct spill_entry *));
    if (!f->path || !f->buckets) {
        free(f->path);
        free(f->buckets);
        return err_set(err, ERR_MEMORY, "out of memory for the prompt cache");
    }
    pthread_mutex_init(&f->lock, NULL);
    int fd = spill_folder_lock(f, err); /* tells now whether the folder can be written */
    if (fd < 0) {
        spill_folder_close(f);
        return err_context(err, "prompt cache");
    }
    spill_folder_scan(f);
    spill_folder_make_room(f, 0); /* the budget may have become smaller */
    close(fd);
    return 0;
}

void spill_folder_close(struct spill_folder *f) {
    if (!f->path) return;
    for (int i = 0; i < SPILL_NAME_BUCKETS; i++)
        while (f->members[i]) forget(f, f->members[i]);
    pthread_mutex_destroy(&f->lock);
    free(f->buckets);
    free(f->path);
    *f = (struct spill_folder){0};
}
