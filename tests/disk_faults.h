/* Disk calls of which the N-th of a kind fails, for spill files. Counters are shared by all threads of the test. */
#ifndef DISK_FAULTS_H
#define DISK_FAULTS_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/disk_calls.h"
#include "test.h"

enum fault_kind { FAULT_OPEN, FAULT_READ, FAULT_WRITE, FAULT_FSYNC, FAULT_RENAME, FAULT_UNLINK, FAULT_KINDS };
static const char *const fault_names[FAULT_KINDS] = {"open", "read", "write", "fsync", "rename", "unlink"};

static struct {
    int kind, error;
    long countdown;  /* calls of the kind until one fails; negative: none does */
    bool from_then_on; /* every later call of the kind fails too */
    bool hit;
    int fsync_ms;    /* a slow disk */
} fault = {.countdown = -1};
static long fault_calls[FAULT_KINDS];

static inline bool fault_now(int kind) {
    __atomic_add_fetch(&fault_calls[kind], 1, __ATOMIC_RELAXED);
    if (kind != fault.kind || __atomic_load_n(&fault.countdown, __ATOMIC_RELAXED) < 0) return false;
    long left = __atomic_fetch_sub(&fault.countdown, 1, __ATOMIC_RELAXED);
    if (left > 0) return false;
    if (fault.from_then_on) __atomic_store_n(&fault.countdown, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&fault.hit, true, __ATOMIC_RELAXED);
    errno = fault.error;
    return true;
}

static int fault_open(const char *path, int flags) { return fault_now(FAULT_OPEN) ? -1 : disk_calls_system.open(path, flags); }
static ssize_t fault_pread(int fd, void *to, size_t n, off_t at) { return fault_now(FAULT_READ) ? -1 : pread(fd, to, n, at); }
static ssize_t fault_pwrite(int fd, const void *from, size_t n, off_t at) {
    if (!fault_now(FAULT_WRITE)) return pwrite(fd, from, n, at);
    if (n > 4096 && pwrite(fd, from, 4096, at) < 0) errno = fault.error; /* a part of it got there */
    errno = fault.error;
    return -1;
}
static int fault_fsync(int fd) {
    int ms = __atomic_load_n(&fault.fsync_ms, __ATOMIC_RELAXED);
    if (ms) usleep((useconds_t)ms * 1000);
    return fault_now(FAULT_FSYNC) ? -1 : fsync(fd);
}
static int fault_rename(const char *a, const char *b) { return fault_now(FAULT_RENAME) ? -1 : rename(a, b); }
static int fault_unlink(const char *path) { return fault_now(FAULT_UNLINK) ? -1 : unlink(path); }

static const struct disk_calls fault_disk = {.open = fault_open, .pread = fault_pread, .pwrite = fault_pwrite, .fsync = fault_fsync,
                                             .rename = fault_rename, .unlink = fault_unlink};

static inline void fault_arm(int kind, long n, int error) {
    fault.kind = kind, fault.error = error, fault.hit = false;
    __atomic_store_n(&fault.countdown, n, __ATOMIC_RELAXED);
}
static inline void fault_disarm(void) { __atomic_store_n(&fault.countdown, -1, __ATOMIC_RELAXED); }

/* ---- folders ---- */

struct test_folder {
    char path[64];
};
static inline void folder_make(struct test_folder *f) {
    snprintf(f->path, sizeof f->path, "/tmp/pmd-spill-XXXXXX");
    assert_non_null(mkdtemp(f->path));
}
/* Names that end in `ending`; the last one into name (NULL: not wanted). */
static inline int folder_count(const struct test_folder *f, const char *ending, char name[256]) {
    DIR *d = opendir(f->path);
    int count = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t n = strlen(e->d_name), k = strlen(ending);
        if (n < k || strcmp(e->d_name + n - k, ending) || e->d_name[0] == '.') continue;
        count++;
        if (name) snprintf(name, 256, "%s", e->d_name);
    }
    if (d) closedir(d);
    return count;
}
static inline void folder_clear(const struct test_folder *f) {
    char name[256], path[400];
    while (folder_count(f, "", name)) {
        snprintf(path, sizeof path, "%s/%s", f->path, name);
        if (unlink(path)) fail_msg("cannot remove %s", path);
    }
}
static inline void folder_remove(const struct test_folder *f) {
    folder_clear(f);
    rmdir(f->path);
}

#endif
