/* Fuzz target of what record reads: lines of a run (episodes and trajectory), of a data set's manifest, PNG files, packed frames.
 * The first byte chooses. Runs and manifests carry chains and pictures that a fuzzer cannot make, so the input is given the chain
 * that it needs: behind every line, as a writer would. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "record/dataset.h"
#include "record/hash.h"
#include "record/pack.h"
#include "record/png_file.h"
#include "record/run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char head[] = "{\"format\":1,\"rom\":{\"hash\":\"0123456789abcdef0123456789abcdef\"}}";
static char folder[64];

static void write_file(const char *name, const void *data, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    close(fd);
}

/* Each line (without its end) gets a chain that fits. */
static void write_chained(const char *name, const char *text, size_t n) {
    struct buf out = {0};
    char chain[33], next[33];
    hash_hex(head, strlen(head), NULL, 0, chain);
    while (n) {
        const char *newline = memchr(text, '\n', n);
        size_t line = newline ? (size_t)(newline - text) : n;
        hash_hex(chain, 32, text, line, next);
        memcpy(chain, next, 33);
        buf_append(&out, text, line);
        buf_printf(&out, ",\"chain\":\"%s\"}\n", chain);
        text += line + (newline != NULL);
        n -= line + (newline != NULL);
    }
    write_file(name, out.data ? out.data : "", out.len);
    buf_free(&out);
}

static void read_run(const uint8_t *data, size_t n) {
    /* A zero byte divides episodes from steps. */
    const uint8_t *zero = memchr(data, 0, n);
    size_t first = zero ? (size_t)(zero - data) : n;
    write_file("run.json", head, strlen(head));
    write_chained("episodes.jsonl", (const char *)data, first);
    write_chained("trajectory.jsonl", (const char *)data + first + (zero != NULL), n - first - (zero != NULL));
    struct run_reader *r;
    struct run_line *line = malloc(sizeof *line);
    const struct run_episode *episodes;
    struct err err;
    if (run_open(folder, &r, &err) == 0) {
        int count = run_reader_episodes(r, &episodes);
        for (int i = 0; i < count; i++) {
            struct buf state = {0};
            run_start_state(r, &episodes[i], &state, &err);
            buf_free(&state);
        }
        while (run_next(r, line, NULL, &err) == 1) continue;
        run_close(r);
    }
    free(line);
}

static void ignore(void *user, const char *text) {
    (void)user;
    if (strlen(text) > 2000) abort();
}
static int visit(void *user, const struct json *entry, const uint8_t *rgb, struct err *err) {
    (void)user, (void)err;
    return entry && rgb ? 0 : -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static uint8_t rgb[FRAME_PIXELS * 3];
    struct err err;
    if (!folder[0]) {
        snprintf(folder, sizeof folder, "/tmp/pmd-fuzz-run-%ld", (long)getpid());
        if (file_make_folders(folder, &err)) abort();
    }
    if (n == 0) return 0;
    const uint8_t *rest = data + 1;
    switch (data[0] % 4) {
    case 0: read_run(rest, n - 1); break;
    case 1:
        write_file("manifest.jsonl", rest, n - 1);
        struct dataset_check check = {.problem = ignore};
        dataset_check(folder, &check, &err);
        dataset_each(folder, visit, NULL, &err);
        break;
    case 2: png_decode(rest, n - 1, FRAME_WIDTH, FRAME_HEIGHT, rgb, "fuzz", &err); break;
    default: pack_decode(rest, n - 1, rgb, "fuzz", &err); break;
    }
    return 0;
}
