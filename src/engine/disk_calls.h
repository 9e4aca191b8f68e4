/* The calls by which spill files reach the disk, so that tests can make the N-th of them fail. */
#ifndef ENGINE_DISK_CALLS_H
#define ENGINE_DISK_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct disk_calls {
    int (*open)(const char *path, int flags);  /* new files get mode 0666 less the umask */
    ssize_t (*pread)(int fd, void *to, size_t bytes, off_t at);
    ssize_t (*pwrite)(int fd, const void *from, size_t bytes, off_t at);
    int (*fsync)(int fd);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
};
extern const struct disk_calls disk_calls_system;

/* Whole reads and writes: 0, or -1 with errno set (ENODATA: the file ends before). */
int disk_read(const struct disk_calls *io, int fd, void *to, size_t bytes, off_t at);
int disk_write(const struct disk_calls *io, int fd, const void *from, size_t bytes, off_t at);
/* Opens past the page cache (O_DIRECT) where the file system can, else through it. */
int disk_open(const struct disk_calls *io, const char *path, int flags);
/* fsync of a folder: makes a rename in it last. 0, or -1 with errno set. */
int disk_sync_folder(const struct disk_calls *io, const char *folder);

#endif
