/* Goldens with one JSON value a line. */
#ifndef JSONL_H
#define JSONL_H

#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"

/* Calls each for every line of path; returns how many there were, -1 when the file is missing. */
static inline int jsonl_each(const char *path, void (*each)(const struct json *line, int number, void *user), void *user) {
    struct buf text = {0};
    if (file_read(path, 1 << 28, &text, NULL)) return -1;
    int number = 0;
    for (char *at = text.data, *end = text.data + text.len; at < end;) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        struct arena arena = {0};
        struct err err = {0};
        const struct json *line = json_parse(at, (size_t)(stop - at), path, &arena, &err);
        if (!line) fprintf(stderr, "line %d: %s\n", number, err.message), abort();
        each(line, number++, user);
        arena_free(&arena);
        at = stop + 1;
    }
    buf_free(&text);
    return number;
}

#endif
