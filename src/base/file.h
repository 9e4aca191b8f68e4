/* Whole files: read, map, replace safely. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

/* Reads a whole file of at most limit bytes into out (appended). */
int file_read(const char *path, size_t limit, struct buf *out, struct err *err);
/* Writes a file so that a reader sees the old or the new content, never a part: temporary file beside it, fsync,
 * rename, fsync of the folder. On failure the temporary file is removed and the old content stays. */
int file_replace(const char *path, const void *data, size_t bytes, struct err *err);
bool file_exists(const char *path);
/* mkdir -p with mode 0777 less the umask. */
int file_make_folders(const char *path, struct err *err);

/* A read-only mapping of a whole file. data is NULL for an empty file. */
struct file_map {
    const void *data;
    size_t bytes;
};
int file_map_open(const char *path, struct file_map *map, struct err *err);
void file_map_close(struct file_map *map);

#endif
