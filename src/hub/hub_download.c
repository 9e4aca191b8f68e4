/* Parallel download in one thread: every file is a small state machine on one curl multi handle.
 *
 *   WAIT ── HEAD ──▶ (redirect to another host: its URL, without the token) ──▶ GET ──▶ CHECK ──▶ DONE
 *     ▲      │ error, 429, 5xx, a signed URL that expired (403): after a pause, again from HEAD, the part kept
 *     └──────┘ gives up after 5 tries without a new byte
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "hub/hub_internal.h"

enum { TRIES_WITHOUT_PROGRESS = 5, DEFAULT_PARALLEL = 4 };
enum phase { WAIT, HEAD, GET, DONE };

struct transfer {
    const struct hub_file *file;
    enum phase phase;
    CURL *curl;
    struct curl_slist *headers;
    struct hub_answer answer;
    char url[4096], part[PATH_MAX];
    int fd, lock, tries, hops;
    int64_t have;        /* bytes in the part file */
    int64_t skip;        /* bytes of a 200 answer that replace the part */
    double not_before;   /* clock time of the next try */
    bool ranged, write_failed, progressed;
    struct err why;      /* the last failure */
};

struct job {
    const struct hub_settings *s;
    const struct hub_download *d;
    struct hub_listing *listing;
    char repo[PATH_MAX];
    CURLM *multi;
    struct transfer *transfers;
    int count, running;
    int64_t fetched; /* bytes over the wire in this call */
    double begun, last_report;
    char note[256];
};

static size_t on_data(char *data, size_t size, size_t count, void *user) {
    struct transfer *t = user;
    size_t n = size * count;
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200 && status != 206) return n; /* the body of a refusal */
    if (status == 200 && t->ranged && t->have) { /* the server ignored the range: start over */
        if (ftruncate(t->fd, 0) || lseek(t->fd, 0, SEEK_SET)) return t->write_failed = true, 0;
        t->have = 0;
    }
    t->ranged = false;
    if (t->have + (int64_t)n > t->file->bytes) {
        err_set(&t->why, ERR_NETWORK, "%s: the server sends more than the %lld bytes that it promised", t->file->path, (long long)t->file->bytes);
        return 0;
    }
    for (size_t done = 0; done < n;) {
        ssize_t w = write(t->fd, data + done, n - done);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) {
            err_set(&t->why, ERR_IO, "%s: cannot write: %s", t->part, strerror(errno));
            return t->write_failed = true, 0;
        }
        done += (size_t)w;
    }
    t->have += (int64_t)n;
    t->progressed = true;
    return n;
}

static void drop_handle(struct job *j, struct transfer *t) {
    if (!t->curl) return;
    curl_multi_remove_handle(j->multi, t->curl);
    curl_easy_cleanup(t->curl);
    curl_slist_free_all(t->headers);
    t->curl = NULL;
    t->headers = NULL;
    j->running--;
}

static void close_part(struct transfer *t) {
    if (t->fd >= 0) close(t->fd);
    hub_unlock(t->lock);
    t->fd = t->lock = -1;
}

/* Starts HEAD (resolve URL) or GET (wherever HEAD led). */
static int start_request(struct job *j, struct transfer *t, enum phase phase) {
    t->curl = hub_curl_new(j->s, t->url, &t->answer);
    bool failed = !t->curl;
    if (t->curl) {
        t->headers = curl_slist_append(NULL, "Accept-Encoding: identity");
        t->headers = hub_auth_headers(j->s, t->url, t->headers, &failed);
    }
    if (failed) {
        curl_easy_cleanup(t->curl);
        curl_slist_free_all(t->headers);
        t->curl = NULL, t->headers = NULL;
        return err_set(&t->why, ERR_MEMORY, "%s: out of memory", t->file->path);
    }
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(t->curl, CURLOPT_PRIVATE, t);
    curl_easy_setopt(t->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(t->curl, CURLOPT_LOW_SPEED_TIME, (long)j->s->read_timeout_s);
    if (phase == HEAD) {
        curl_easy_setopt(t->curl, CURLOPT_NOBODY, 1L);
        curl_easy_setopt(t->curl, CURLOPT_TIMEOUT, (long)j->s->head_timeout_s);
    } else {
        curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_data);
        curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
        t->ranged = t->have > 0;
        if (t->ranged) {
            char range[40];
            snprintf(range, sizeof range, "%lld-", (long long)t->have);
            curl_easy_setopt(t->curl, CURLOPT_RANGE, range);
        }
    }
    t->phase = phase;
    j->running++;
    curl_multi_add_handle(j->multi, t->curl);
    return 0;
}

/* Takes the lock and opens the part; a file that another process has finished meanwhile is simply done. */
static int begin(struct job *j, struct transfer *t) {
    struct err err = {0};
    if (t->lock < 0) {
        t->lock = hub_lock(j->s, j->d->id, t->file->etag, false, NULL, &err);
        if (t->lock < 0 && err.code == ERR_CANCELLED) {
            t->lock = -1;
            t->not_before = clock_seconds() + 0.3;
            snprintf(j->note, sizeof j->note, "waiting: another process is fetching %.100s", t->file->path);
            return 0;
        }
        if (t->lock < 0) return t->lock = -1, t->why = err, err.code;
    }
    if (hub_blob_complete(j->repo, t->file->etag, t->file->bytes)) {
        close_part(t);
        t->phase = DONE;
        return hub_publish(j->repo, j->listing->commit, t->file->path, t->file->etag, &t->why);
    }
    if (t->fd < 0) {
        t->fd = open(t->part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        struct stat st;
        if (t->fd < 0 || fstat(t->fd, &st)) return err_set(&t->why, ERR_IO, "%s: cannot create: %s", t->part, strerror(errno));
        t->have = st.st_size;
        if (t->have > t->file->bytes) t->have = ftruncate(t->fd, 0) ? -1 : 0;
        if (t->have < 0) return err_set(&t->why, ERR_IO, "%s: cannot shorten: %s", t->part, strerror(errno));
    }
    if (lseek(t->fd, t->have, SEEK_SET) < 0) return err_set(&t->why, ERR_IO, "%s: cannot seek: %s", t->part, strerror(errno));
    struct buf url = {0};
    buf_printf(&url, "%s/%s/resolve/%s/", j->s->endpoint, j->d->id, j->listing->commit);
    hub_quote(&url, t->file->path, true);
    bool fits = !url.failed && (size_t)snprintf(t->url, sizeof t->url, "%s", url.data) < sizeof t->url;
    buf_free(&url);
    if (!fits) return err_set(&t->why, ERR_ARGUMENT, "%s: URL too long", t->file->path);
    t->hops = 0;
    return start_request(j, t, HEAD);
}

/* The part is whole: hash, sync, rename, link. A wrong hash throws the part away. */
static int finish(struct job *j, struct transfer *t) {
    char blob[PATH_MAX];
    if (t->have != t->file->bytes) {
        return err_set(&t->why, ERR_NETWORK, "%s: the transfer ended at %lld of %lld bytes", t->file->path, (long long)t->have,
                       (long long)t->file->bytes);
    }
    int wrong = hub_hash_check(t->part, t->file->etag, &t->why);
    if (wrong > 0) {
        if (ftruncate(t->fd, 0) == 0) t->have = 0;
        t->progressed = false; /* bytes that turned out wrong are no progress: a file that is always wrong must end */
        return ERR_FORMAT;
    }
    if (wrong < 0) return wrong;
    if (fsync(t->fd)) {
        int e = errno;
        unlink(t->part); /* after a failed fsync the content is unknown */
        return err_set(&t->why, ERR_IO, "%s: cannot sync: %s", t->part, strerror(e));
    }
    if (hub_blob_path(j->repo, t->file->etag, blob) || rename(t->part, blob)) {
        return err_set(&t->why, ERR_IO, "%s: cannot rename: %s", t->part, strerror(errno));
    }
    close_part(t);
    t->phase = DONE;
    return hub_publish(j->repo, j->listing->commit, t->file->path, t->file->etag, &t->why);
}

/* Another try after a pause, or the end of the file's tries. Returns 0 when it will be tried again. */
static int retry(struct job *j, struct transfer *t, double pause) {
    if (t->progressed) t->tries = 0;
    t->progressed = false;
    if (++t->tries >= TRIES_WITHOUT_PROGRESS) return t->why.code ? t->why.code : ERR_NETWORK;
    snprintf(j->note, sizeof j->note, "retrying: %.200s", t->why.message);
    t->not_before = clock_seconds() + pause;
    t->phase = WAIT;
    return 0;
}

static int head_done(struct job *j, struct transfer *t) {
    struct hub_answer *a = &t->answer;
    if (a->status >= 300 && a->status < 400 && *a->location) {
        char next[4096];
        if (++t->hops > 8 || hub_resolve_url(t->url, a->location, next)) {
            return err_set(&t->why, ERR_NETWORK, "%s: too many redirects or a bad Location header", t->file->path);
        }
        bool same = hub_same_origin(t->url, next);
        snprintf(t->url, sizeof t->url, "%s", next);
        /* A relative redirect is a renamed repository: ask again there. An absolute one to another host is the answer. */
        return start_request(j, t, same ? HEAD : GET);
    }
    if (a->status == 200) {
        if (*a->commit && strcmp(a->commit, j->listing->commit)) {
            return err_set(&t->why, ERR_NETWORK, "%s: the server answers for commit %s, expected %s", t->file->path, a->commit, j->listing->commit);
        }
        return start_request(j, t, GET);
    }
    hub_refusal(j->s, a, j->d->id, &t->why);
    if (a->status == 408 || a->status == 429 || a->status >= 500) return retry(j, t, a->retry_after_s > 0 ? a->retry_after_s : j->s->retry_pause_s);
    return t->why.code;
}

static int get_done(struct job *j, struct transfer *t, CURLcode code) {
    struct hub_answer *a = &t->answer;
    if (t->write_failed) return t->why.code;
    if (code != CURLE_OK) {
        if (code != CURLE_WRITE_ERROR) err_set(&t->why, ERR_NETWORK, "%s: %s after %lld of %lld bytes", t->file->path, curl_easy_strerror(code),
                                               (long long)t->have, (long long)t->file->bytes);
        return retry(j, t, j->s->retry_pause_s);
    }
    if (a->status == 206 && a->range_total >= 0 && a->range_total != t->file->bytes) {
        return err_set(&t->why, ERR_NETWORK, "%s: the server's file has %lld bytes, expected %lld", t->file->path, (long long)a->range_total,
                       (long long)t->file->bytes);
    }
    if (a->status == 200 || a->status == 206) {
        int result = finish(j, t);
        return result == ERR_FORMAT || result == ERR_NETWORK ? retry(j, t, j->s->retry_pause_s) : result;
    }
    if (a->status >= 300 && a->status < 400 && *a->location) { /* storage that leads to other storage */
        char next[4096];
        if (++t->hops > 8 || hub_resolve_url(t->url, a->location, next)) {
            return err_set(&t->why, ERR_NETWORK, "%s: too many redirects or a bad Location header", t->file->path);
        }
        snprintf(t->url, sizeof t->url, "%s", next);
        return start_request(j, t, GET);
    }
    if (a->status == 416) { /* nothing after our last byte: whole already, or a wrong part */
        if (t->have == t->file->bytes) {
            int result = finish(j, t);
            return result == ERR_FORMAT ? retry(j, t, j->s->retry_pause_s) : result;
        }
        if (ftruncate(t->fd, 0) == 0) t->have = 0;
        err_set(&t->why, ERR_NETWORK, "%s: the server refuses the range", t->file->path);
        return retry(j, t, j->s->retry_pause_s);
    }
    hub_refusal(j->s, a, j->d->id, &t->why);
    /* 403 from the storage host: the signed URL has expired; HEAD gives a new one. */
    if (a->status == 403 || a->status == 408 || a->status == 429 || a->status >= 500) {
        return retry(j, t, a->retry_after_s > 0 ? a->retry_after_s : j->s->retry_pause_s);
    }
    return t->why.code;
}

static void report(struct job *j, bool force) {
    double now = clock_seconds();
    if (!j->d->on_progress || (!force && now - j->last_report < 0.2)) return;
    j->last_report = now;
    struct hub_progress p = {.files = j->count, .note = *j->note ? j->note : NULL};
    int64_t start = 0;
    for (int i = 0; i < j->count; i++) {
        const struct transfer *t = &j->transfers[i];
        p.bytes += t->file->bytes;
        p.bytes_done += t->phase == DONE ? t->file->bytes : t->have;
        p.files_done += t->phase == DONE;
        start += t->skip;
    }
    double seconds = now - j->begun;
    p.bytes_per_s = seconds > 0.5 ? (double)(p.bytes_done - start) / seconds : 0;
    p.eta_s = p.bytes_per_s > 0 ? (double)(p.bytes - p.bytes_done) / p.bytes_per_s : -1;
    j->d->on_progress(j->d->user, &p);
    j->note[0] = 0;
}

static int run_transfers(struct job *j, struct err *err) {
    int parallel = j->d->parallel > 0 ? j->d->parallel : DEFAULT_PARALLEL;
    for (;;) {
        if (j->d->stop && *j->d->stop) return err_set(err, ERR_CANCELLED, "%s: stopped; what was fetched is kept and will be resumed", j->d->id);
        int open = 0;
        double now = clock_seconds();
        for (int i = 0; i < j->count; i++) {
            struct transfer *t = &j->transfers[i];
            if (t->phase == DONE) continue;
            open++;
            if (t->phase == WAIT && j->running < parallel && now >= t->not_before && begin(j, t)) {
                if (err) *err = t->why;
                return t->why.code ? t->why.code : ERR_IO;
            }
        }
        if (!open) return 0;
        int running = 0, left = 0;
        curl_multi_perform(j->multi, &running);
        for (CURLMsg *m; (m = curl_multi_info_read(j->multi, &left));) {
            if (m->msg != CURLMSG_DONE) continue;
            struct transfer *t = NULL;
            CURLcode code = m->data.result;
            curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
            curl_easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &t->answer.status);
            drop_handle(j, t);
            int result;
            if (t->phase == GET) {
                result = get_done(j, t, code);
            } else if (code != CURLE_OK) {
                err_set(&t->why, ERR_NETWORK, "%s: %s", t->url, curl_easy_strerror(code));
                result = retry(j, t, j->s->retry_pause_s);
            } else {
                result = head_done(j, t);
            }
            if (result) {
                if (err) *err = t->why;
                return result;
            }
        }
        report(j, false);
        curl_multi_poll(j->multi, NULL, 0, j->s->retry_pause_s < 0.1 ? (int)(1000 * j->s->retry_pause_s) : 100, NULL);
    }
}

static int check_space(struct job *j, struct err *err) {
    struct statvfs v;
    int64_t missing = 0;
    for (int i = 0; i < j->count; i++) {
        if (j->transfers[i].phase != DONE) missing += j->transfers[i].file->bytes - j->transfers[i].have;
    }
    if (statvfs(j->repo, &v)) return 0;
    int64_t space = (int64_t)v.f_bavail * (int64_t)v.f_frsize;
    if (missing <= space) return 0;
    return err_set(err, ERR_LIMIT, "%s: %.2f GB are to be fetched and %s has %.2f GB free", j->d->id, (double)missing * 1e-9, j->s->cache,
                   (double)space * 1e-9);
}

static int fetch(struct job *j, struct err *err) {
    char blobs[PATH_MAX];
    if (snprintf(blobs, sizeof blobs, "%s/blobs", j->repo) >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "path too long");
    if (file_make_folders(blobs, err)) return err->code;
    j->transfers = calloc((size_t)j->listing->count + 1, sizeof *j->transfers);
    j->multi = curl_multi_init();
    if (!j->transfers || !j->multi) return err_set(err, ERR_MEMORY, "%s: out of memory", j->d->id);
    for (int i = 0; i < j->listing->count; i++) {
        const struct hub_file *f = &j->listing->files[i];
        if (!hub_file_wanted(f->path)) continue;
        struct transfer *t = &j->transfers[j->count++];
        struct stat st;
        *t = (struct transfer){.file = f, .fd = -1, .lock = -1};
        if (snprintf(t->part, sizeof t->part, "%s/%s.pmd-part", blobs, f->etag) >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "path too long");
        if (f->cached) {
            t->phase = DONE;
            t->skip = f->bytes;
            if (hub_publish(j->repo, j->listing->commit, f->path, f->etag, err)) return err->code;
        } else if (!stat(t->part, &st) && st.st_size <= f->bytes) {
            t->have = t->skip = st.st_size;
        }
    }
    if (!j->count) return err_set(err, ERR_MISSING, "%s: the repository has none of the files that a model needs", j->d->id);
    if (check_space(j, err)) return err->code;
    j->begun = clock_seconds();
    int result = run_transfers(j, err);
    report(j, true);
    return result;
}

int hub_download(const struct hub_settings *s, const struct hub_download *d, char folder[PATH_MAX], struct err *err) {
    const char *revision = d->revision ? d->revision : "main";
    struct err inner = {0};
    if (!err) err = &inner;
    if (s->offline) return hub_cached(s, d->id, revision, folder, err);
    if (hub_is_hex(revision, 40) && !hub_cached(s, d->id, revision, folder, err)) return *err = (struct err){0}, 0;
    *err = (struct err){0};
    struct hub_listing listing;
    if (hub_list(s, d->id, revision, &listing, err)) {
        struct err cached = {0};
        if (err->code == ERR_ARGUMENT || hub_cached(s, d->id, revision, folder, &cached)) return err->code;
        if (d->on_progress) {
            d->on_progress(d->user, &(struct hub_progress){.eta_s = -1, .note = "the Hub cannot be asked: using the cached snapshot"});
        }
        return *err = (struct err){0}, 0;
    }
    struct job j = {.s = s, .d = d, .listing = &listing};
    int result = hub_repo_folder(s, d->id, j.repo, err);
    if (!result) result = fetch(&j, err);
    for (int i = 0; i < j.count; i++) {
        drop_handle(&j, &j.transfers[i]);
        close_part(&j.transfers[i]);
    }
    if (j.multi) curl_multi_cleanup(j.multi);
    free(j.transfers);
    if (!result) result = hub_write_ref(j.repo, revision, listing.commit, err);
    if (!result && snprintf(folder, PATH_MAX, "%s/snapshots/%s", j.repo, listing.commit) >= PATH_MAX) {
        result = err_set(err, ERR_ARGUMENT, "%s: the cache folder's path is too long", s->cache);
    }
    hub_listing_free(&listing);
    return result;
}
