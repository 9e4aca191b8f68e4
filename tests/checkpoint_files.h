/* Small checkpoint folders written by tests: a good config.json and whatever weights the test wants. */
#ifndef CHECKPOINT_FILES_H
#define CHECKPOINT_FILES_H

#include <unistd.h>

#include "base/file.h"

struct scratch {
    char folder[64];
};

static inline void scratch_write(const struct scratch *s, const char *name, const void *data, size_t n) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", s->folder, name);
    struct err err = {0};
    if (file_replace(path, data, n, &err)) fail_msg("%s", err.message);
}

static inline struct buf read_whole(const char *path) {
    struct buf b = {0};
    struct err err = {0};
    if (file_read(path, 1 << 28, &b, &err)) fail_msg("%s", err.message);
    return b;
}

static inline struct scratch scratch_new(void) {
    struct scratch s;
    snprintf(s.folder, sizeof s.folder, "/tmp/test_checkpoint_XXXXXX");
    assert_non_null(mkdtemp(s.folder));
    struct buf config = read_whole("tests/golden/tiny-a/config.json");
    scratch_write(&s, "config.json", config.data, config.len);
    buf_free(&config);
    return s;
}

static inline void scratch_remove(const struct scratch *s) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", s->folder);
    assert_int_equal(system(command), 0);
}

/* Length, header, data_bytes bytes of data (0, 1, 2 ...). length < 0: that of the header. */
static inline struct buf safetensors_text(const char *header, size_t header_bytes, int64_t length, size_t data_bytes) {
    struct buf b = {0};
    uint64_t n = length < 0 ? header_bytes : (uint64_t)length;
    for (int i = 0; i < 8; i++) buf_char(&b, (char)(n >> (8 * i)));
    buf_append(&b, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) buf_char(&b, (char)i);
    return b;
}

/* text with the first `from` replaced by `to`; fails the test when there is none. */
static inline struct buf replaced(const struct buf *text, const char *from, const char *to) {
    char *at = memmem(text->data, text->len, from, strlen(from));
    if (!at) fail_msg("nothing to replace: %s", from);
    struct buf b = {0};
    buf_append(&b, text->data, (size_t)(at - text->data));
    buf_str(&b, to);
    buf_append(&b, at + strlen(from), text->len - (size_t)(at - text->data) - strlen(from));
    return b;
}

#endif
