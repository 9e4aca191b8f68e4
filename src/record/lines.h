/* Lines of a JSONL file, one at a time: a line is what ends with a newline; a last line without one was torn by a crash. */
#ifndef RECORD_LINES_H
#define RECORD_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { LINE_LIMIT = 8 << 20 }; /* bytes; a longer line is an error, not an allocation */

struct line_reader {
    int fd;
    char *path;
    char *data;
    size_t start, end, cap; /* unread bytes are data[start..end) */
    bool eof;
    uint64_t number;        /* of the last line returned, from 1 */
};

int line_reader_open(const char *path, struct line_reader *r, struct err *err);
/* 1: *line (NUL-terminated in place of the newline, valid until the next call) of *n bytes; 0: end, *torn = a torn line was left
 * out; negative: read error or a line above the limit. */
int line_reader_next(struct line_reader *r, char **line, size_t *n, bool *torn, struct err *err);
void line_reader_close(struct line_reader *r);

/* Appends one line (which ends with a newline) with one write; a part that was written before an error is cut off again, so
 * that the file keeps only whole lines. what: "step 17", for the error. */
int line_append(int fd, const char *path, const char *line, size_t n, const char *what, struct err *err);

#endif
