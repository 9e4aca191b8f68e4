#include "record/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int line_reader_open(const char *path, struct line_reader *r, struct err *err) {
    *r = (struct line_reader){.fd = -1};
    r->path = strdup(path);
    if (!r->path) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    r->fd = open(path, O_RDONLY | O_CLOEXEC);
    int e = errno;
    struct stat st;
    if (r->fd >= 0 && fstat(r->fd, &st) == 0 && !S_ISREG(st.st_mode)) {
        line_reader_close(r);
        return err_set(err, ERR_IO, "%s: not a regular file", path);
    }
    if (r->fd < 0) {
        line_reader_close(r);
        return err_set(err, e == ENOENT ? ERR_MISSING : ERR_IO, "%s: cannot open: %s", path, strerror(e));
    }
    return 0;
}

void line_reader_close(struct line_reader *r) {
    if (r->path && r->fd >= 0) close(r->fd);
    free(r->path);
    free(r->data);
    *r = (struct line_reader){.fd = -1};
}

int line_reader_next(struct line_reader *r, char **line, size_t *n, bool *torn, struct err *err) {
    size_t scanned = 0;
    if (torn) *torn = false;
    for (;;) {
        char *from = r->data ? r->data + r->start : NULL;
        size_t have = r->end - r->start;
        char *newline = have > scanned ? memchr(from + scanned, '\n', have - scanned) : NULL;
        if (newline) {
            *newline = 0;
            *line = from;
            *n = (size_t)(newline - from);
            r->start += *n + 1;
            r->number++;
            return 1;
        }
        if (r->eof) {
            if (torn) *torn = have > 0;
            return 0;
        }
        if (have >= LINE_LIMIT) {
            return err_set(err, ERR_FORMAT, "%s: line %llu is longer than %d bytes", r->path, (unsigned long long)r->number + 1,
                           LINE_LIMIT);
        }
        scanned = have;
        if (r->start) {
            memmove(r->data, from, have);
            r->start = 0;
            r->end = have;
        }
        if (r->cap - r->end < 65536) {
            size_t cap = r->cap ? r->cap * 2 : 131072;
            char *data = realloc(r->data, cap);
            if (!data) return err_set(err, ERR_MEMORY, "%s: out of memory in line %llu", r->path, (unsigned long long)r->number + 1);
            r->data = data;
            r->cap = cap;
        }
        ssize_t got = read(r->fd, r->data + r->end, r->cap - r->end);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            return err_set(err, ERR_IO, "%s: read failed after line %llu: %s", r->path, (unsigned long long)r->number, strerror(errno));
        }
        if (got == 0) r->eof = true;
        r->end += (size_t)got;
    }
}

int line_append(int fd, const char *path, const char *line, size_t n, const char *what, struct err *err) {
    off_t before = lseek(fd, 0, SEEK_END);
    size_t done = 0;
    while (done < n) {
        ssize_t put = write(fd, line + done, n - done);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            int e = put < 0 ? errno : ENOSPC;
            if (done && before >= 0 && ftruncate(fd, before) != 0) { /* a torn line stays: readers leave it out */
            }
            return err_set(err, ERR_IO, "%s: cannot write %s (%zu bytes at offset %lld): %s; everything before it is kept", path, what, n,
                           (long long)before, strerror(e));
        }
        done += (size_t)put;
    }
    return 0;
}
