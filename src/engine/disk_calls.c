#include "engine/disk_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int system_open(const char *path, int flags) { return open(path, flags, 0666); }

const struct disk_calls disk_calls_system = {
    .open = system_open, .pread = pread, .pwrite = pwrite, .fsync = fsync, .rename = rename, .unlink = unlink};

int disk_read(const struct disk_calls *io, int fd, void *to, size_t bytes, off_t at) {
    for (char *p = to; bytes;) {
        ssize_t n = io->pread(fd, p, bytes, at);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ENODATA;
        if (n <= 0) return -1;
        p += n, at += n, bytes -= (size_t)n;
    }
    return 0;
}

int disk_write(const struct disk_calls *io, int fd, const void *from, size_t bytes, off_t at) {
    for (const char *p = from; bytes;) {
        ssize_t n = io->pwrite(fd, p, bytes, at);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ENOSPC;
        if (n <= 0) return -1;
        p += n, at += n, bytes -= (size_t)n;
    }
    return 0;
}

int disk_open(const struct disk_calls *io, const char *path, int flags) {
    int fd = io->open(path, flags | O_CLOEXEC | O_DIRECT);
    if (fd < 0 && errno == EINVAL) { /* no O_DIRECT here; the file may have been made nevertheless */
        if (flags & O_EXCL) io->unlink(path);
        fd = io->open(path, flags | O_CLOEXEC);
    }
    return fd;
}

int disk_sync_folder(const struct disk_calls *io, const char *folder) {
    int fd = io->open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    int r = io->fsync(fd), e = errno;
    close(fd);
    errno = e;
    return r;
}
