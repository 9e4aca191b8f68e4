/* The Hub's cache layout on disk: paths, locks, hashes, publishing (facts: qwen3-vl.md §8.4). */
#include <errno.h>
#include <fcntl.h>
#define ERR_STATE OPENSSL_ERR_STATE /* OpenSSL has a type of that name */
#include <openssl/evp.h>
#undef ERR_STATE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "hub/hub_internal.h"

bool hub_is_hex(const char *s, size_t n) {
    return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

bool hub_path_safe(const char *path) {
    if (!*path || *path == '/' || strlen(path) > 512) return false;
    for (const char *p = path;;) {
        size_t n = strcspn(p, "/");
        if (!n || (n == 1 && *p == '.') || (n == 2 && p[0] == '.' && p[1] == '.')) return false;
        for (size_t i = 0; i < n; i++) {
            if ((unsigned char)p[i] < 0x20 || p[i] == 0x7F || p[i] == '\\') return false;
        }
        if (!p[n]) return true;
        p += n + 1;
    }
}

int hub_repo_folder(const struct hub_settings *s, const char *id, char out[PATH_MAX], struct err *err) {
    if (!hub_id_valid(id)) return err_set(err, ERR_ARGUMENT, "'%s' is no Hub model id (expected owner/name)", id);
    const char *slash = strchr(id, '/');
    int n = snprintf(out, PATH_MAX, "%s/models--%.*s--%s", s->cache, (int)(slash - id), id, slash + 1);
    return n < PATH_MAX - 600 ? 0 : err_set(err, ERR_ARGUMENT, "%s: the cache folder's path is too long", s->cache);
}

int hub_blob_path(const char *repo, const char *etag, char out[PATH_MAX]) {
    return snprintf(out, PATH_MAX, "%s/blobs/%s", repo, etag) < PATH_MAX ? 0 : -1;
}

bool hub_blob_complete(const char *repo, const char *etag, int64_t bytes) {
    char path[PATH_MAX];
    struct stat st;
    return *etag && !hub_blob_path(repo, etag, path) && !stat(path, &st) && S_ISREG(st.st_mode) && st.st_size == bytes;
}

int hub_publish(const char *repo, const char *commit, const char *path, const char *etag, struct err *err) {
    char link_path[PATH_MAX], folder[PATH_MAX], target[PATH_MAX], present[PATH_MAX];
    if (snprintf(link_path, sizeof link_path, "%s/snapshots/%s/%s", repo, commit, path) >= PATH_MAX) {
        return err_set(err, ERR_ARGUMENT, "%s: path too long", path);
    }
    snprintf(folder, sizeof folder, "%s", link_path);
    *strrchr(folder, '/') = 0;
    if (file_make_folders(folder, err)) return err->code;
    struct buf up = {0};
    buf_str(&up, "../../");
    for (const char *p = path; (p = strchr(p, '/')); p++) buf_str(&up, "../");
    buf_printf(&up, "blobs/%s", etag);
    bool fits = !up.failed && (size_t)snprintf(target, sizeof target, "%s", up.data) < sizeof target;
    buf_free(&up);
    if (!fits) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    ssize_t n = readlink(link_path, present, sizeof present - 1);
    if (n > 0) {
        present[n] = 0;
        if (!strcmp(present, target)) return 0;
    }
    char fresh[PATH_MAX];
    if (snprintf(fresh, sizeof fresh, "%s.%ld.link", link_path, (long)getpid()) >= PATH_MAX) {
        return err_set(err, ERR_ARGUMENT, "%s: path too long", path);
    }
    unlink(fresh);
    if (symlink(target, fresh) || rename(fresh, link_path)) {
        int e = errno;
        unlink(fresh);
        return err_set(err, ERR_IO, "%s: cannot link to %s: %s", link_path, target, strerror(e));
    }
    return 0;
}

int hub_write_ref(const char *repo, const char *revision, const char *commit, struct err *err) {
    if (hub_is_hex(revision, 40)) return 0; /* a commit names itself */
    char path[PATH_MAX], folder[PATH_MAX];
    if (!hub_path_safe(revision)) return err_set(err, ERR_ARGUMENT, "'%s' is no revision", revision);
    if (snprintf(path, sizeof path, "%s/refs/%s", repo, revision) >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "path too long");
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = 0;
    if (file_make_folders(folder, err)) return err->code;
    return file_replace(path, commit, strlen(commit), err);
}

int hub_hash_check(const char *file, const char *etag, struct err *err) {
    bool sha256 = hub_is_hex(etag, 64);
    if (!sha256 && !hub_is_hex(etag, 40)) return 0; /* an etag that is no hash says nothing about the content */
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) {
        int e = errno;
        if (fd >= 0) close(fd);
        return err_set(err, ERR_IO, "%s: cannot read: %s", file, strerror(e));
    }
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    size_t cap = 1 << 20;
    unsigned char *data = malloc(cap), digest[EVP_MAX_MD_SIZE];
    int result = err_set(err, ERR_MEMORY, "%s: out of memory", file);
    if (md && data && EVP_DigestInit_ex(md, sha256 ? EVP_sha256() : EVP_sha1(), NULL)) {
        char head[40];
        if (!sha256) EVP_DigestUpdate(md, head, (size_t)snprintf(head, sizeof head, "blob %lld", (long long)st.st_size) + 1);
        ssize_t n;
        while ((n = read(fd, data, cap)) > 0) EVP_DigestUpdate(md, data, (size_t)n);
        if (n < 0) {
            result = err_set(err, ERR_IO, "%s: read failed: %s", file, strerror(errno));
        } else {
            unsigned len = 0;
            EVP_DigestFinal_ex(md, digest, &len);
            char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
            for (unsigned i = 0; i < len; i++) sprintf(hex + 2 * i, "%02x", digest[i]);
            result = strcmp(hex, etag) ? 1 : 0;
            if (result == 0 && err) *err = (struct err){0};
            if (result == 1) err_set(err, ERR_FORMAT, "%s: content does not match its hash: expected %s, found %s", file, etag, hex);
        }
    }
    EVP_MD_CTX_free(md);
    free(data);
    close(fd);
    return result;
}

int hub_lock(const struct hub_settings *s, const char *id, const char *etag, bool wait, volatile bool *stop, struct err *err) {
    char repo[PATH_MAX], folder[PATH_MAX], path[PATH_MAX];
    if (hub_repo_folder(s, id, repo, err)) return err->code;
    if (snprintf(folder, sizeof folder, "%s/.locks/%s", s->cache, strrchr(repo, '/') + 1) >= PATH_MAX ||
        snprintf(path, sizeof path, "%s/%s.lock", folder, etag) >= PATH_MAX) {
        return err_set(err, ERR_ARGUMENT, "%s: the cache folder's path is too long", s->cache);
    }
    if (file_make_folders(folder, err)) return err->code;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return err_set(err, ERR_IO, "%s: cannot create the lock: %s", path, strerror(errno));
    while (flock(fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            int e = errno;
            close(fd);
            return err_set(err, ERR_IO, "%s: cannot lock: %s", path, strerror(e));
        }
        if (!wait || (stop && *stop)) {
            close(fd);
            return err_set(err, ERR_CANCELLED, "%s: another process is fetching this file", path);
        }
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return fd;
}

void hub_unlock(int fd) {
    if (fd >= 0) close(fd); /* the lock file stays: removing it would let two processes lock two different files */
}
