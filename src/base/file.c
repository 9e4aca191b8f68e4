#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int file_read(const char *path, size_t limit, struct buf *out, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_set(err, errno == ENOENT ? ERR_MISSING : ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        return err_set(err, ERR_IO, "%s: is a folder, expected a file", path);
    }
    size_t start = out->len;
    for (;;) {
        if (!buf_reserve(out, 65536)) {
            close(fd);
            return err_set(err, ERR_MEMORY, "%s: out of memory after %zu bytes", path, out->len - start);
        }
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            int e = errno;
            close(fd);
            return err_set(err, ERR_IO, "%s: read failed at byte %zu: %s", path, out->len - start, strerror(e));
        }
        if (n == 0) break;
        out->len += (size_t)n;
        if (out->len - start > limit) {
            close(fd);
            return err_set(err, ERR_LIMIT, "%s: larger than the limit of %zu bytes", path, limit);
        }
    }
    out->data[out->len] = 0;
    close(fd);
    return 0;
}

static int write_all(int fd, const char *data, size_t bytes) {
    while (bytes) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        data += n;
        bytes -= (size_t)n;
    }
    return 0;
}

static void sync_folder_of(const char *path) {
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder ? 1 : 0] = 0;
    else snprintf(folder, sizeof folder, ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return; /* the rename itself succeeded; a folder that cannot be opened cannot be synced */
    fsync(fd);
    close(fd);
}

int file_replace(const char *path, const void *data, size_t bytes, struct err *err) {
    char temporary[PATH_MAX];
    int n = snprintf(temporary, sizeof temporary, "%s.tmp.%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof temporary) return err_set(err, ERR_ARGUMENT, "%s: path too long", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return err_set(err, ERR_IO, "%s: cannot create: %s", temporary, strerror(errno));
    /* A failed fsync is final: the kernel may have dropped the pages, so the file is thrown away, never retried. */
    bool ok = write_all(fd, data, bytes) == 0 && fsync(fd) == 0;
    int e = errno;
    if (close(fd) != 0 && ok) ok = false, e = errno;
    if (ok && rename(temporary, path) != 0) ok = false, e = errno;
    if (!ok) {
        unlink(temporary);
        return err_set(err, ERR_IO, "%s: cannot write %zu bytes: %s", path, bytes, strerror(e));
    }
    sync_folder_of(path);
    return 0;
}

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

int file_make_folders(const char *path, struct err *err) {
    char part[PATH_MAX];
    int n = snprintf(part, sizeof part, "%s", path);
    if (n <= 0 || (size_t)n >= sizeof part) return err_set(err, ERR_ARGUMENT, "folder name is empty or too long");
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p != 0) continue;
        char end = *p;
        *p = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST) {
            return err_set(err, ERR_IO, "%s: cannot create folder: %s", part, strerror(errno));
        }
        if (!end) break;
        *p = end;
    }
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        return err_set(err, ERR_IO, "%s: exists and is not a folder", path);
    }
    return 0;
}

int file_map_open(const char *path, struct file_map *map, struct err *err) {
    *map = (struct file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_set(err, errno == ENOENT ? ERR_MISSING : ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(err, ERR_IO, "%s: not a regular file", path);
    }
    map->bytes = (size_t)st.st_size;
    if (map->bytes) {
        void *p = mmap(NULL, map->bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            int e = errno;
            close(fd);
            map->bytes = 0;
            return err_set(err, ERR_MEMORY, "%s: cannot map %lld bytes: %s", path, (long long)st.st_size, strerror(e));
        }
        map->data = p;
        /* Big files are weights: pages of 2 MiB where the file system has them (Linux 6.16 with ext4, XFS), which also makes the first
         * reading one of big pieces. Elsewhere this says no and changes nothing. */
        if (map->bytes >= (size_t)64 << 20) madvise(p, map->bytes, MADV_HUGEPAGE);
    }
    close(fd);
    return 0;
}

void file_map_close(struct file_map *map) {
    if (map->data) munmap((void *)map->data, map->bytes);
    *map = (struct file_map){0};
}
