/* A plain data set.
 *
 *   manifest.jsonl  one object a line, exactly these fields:
 *     frame_id      "s<seed>-<step>" (8 and 5 digits), with ".<n>" for the n-th picture after a decision; unique
 *     action        what was done here ("walk_north", ...)
 *     buttons       what was pressed for it, in order: "A", "B+RIGHT", ...; waiting is left out
 *     hold_ms       time with a key held, wait_ms: without, in milliseconds of game time (1000 / 59.7275 a frame)
 *     seed          of the episode
 *     captured_at   UTC, ISO 8601 with milliseconds
 *     frame_path    picture, relative to the folder: PNG, 240x160, with a palette where 256 colours suffice
 *     notes         free text: who decided and why
 *     state         which state the game is in (world.h, enum game_state)
 *     world         everything that was in memory: the object that `pmd-agent world --json` prints
 *     oracle_action what the fair oracle would do with a player's knowledge, or null
 *     scene         what the agent took it for: "field", "dialogue", ...
 *     prompt        the text a model would get with the picture, or null
 *
 * Valid: fields as above, the picture is there, readable and has more than one colour, the action is a known one, and no two entries
 * share both picture and world (the recorder leaves repeats out: a title screen looks the same for every seed).
 *
 * Several workers write manifest.<n>.part and keys.<n>.part (32 hex digits a line, in the same order); the merge makes the manifest
 * of them and removes them. */
#include "record/dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "record/hash.h"
#include "record/key_set.h"
#include "record/lines.h"
#include "record/png_file.h"

#define FRAME_MS (1000.0 * 280896 / 16777216)

struct dataset_writer {
    char *folder;
    char manifest[PATH_MAX], keys_path[PATH_MAX];
    int fd, keys_fd;
    struct key_set seen;
    struct buf png, line;
};

void dataset_frame_path(const struct dataset_entry *e, char out[64]) {
    if (e->part) snprintf(out, 64, "frames/s%08u-%05u.%d.png", e->seed, e->step, e->part);
    else snprintf(out, 64, "frames/s%08u-%05u.png", e->seed, e->step);
}

static void put_buttons(struct buf *b, const struct dataset_entry *e) {
    static const char *const names[] = {"A", "B", "SELECT", "START", "RIGHT", "LEFT", "UP", "DOWN", "R", "L"};
    double hold = 0, wait = 0;
    int printed = 0;
    buf_str(b, ",\"buttons\":[");
    for (int i = 0; i < e->press_count; i++) {
        const struct key_press *p = &e->presses[i];
        *(p->keys ? &hold : &wait) += p->frames * FRAME_MS;
        bool goes_on = i > 0 && e->presses[i - 1].keys == p->keys;
        if (!p->keys || goes_on) continue;
        buf_str(b, printed++ ? ",\"" : "\"");
        bool first = true;
        for (int k = 0; k < 10; k++) {
            if (!(p->keys >> k & 1)) continue;
            buf_printf(b, "%s%s", first ? "" : "+", names[k]);
            first = false;
        }
        buf_char(b, '"');
    }
    buf_printf(b, "],\"hold_ms\":%.1f,\"wait_ms\":%.1f", hold, wait);
}

static void put_string(struct buf *b, const char *key, const char *s) {
    buf_printf(b, ",\"%s\":", key);
    if (s) buf_json_string(b, s, strlen(s));
    else buf_str(b, "null");
}

int dataset_line(const struct dataset_entry *e, struct buf *b, char key[33], struct err *err) {
    char path[64], now[32], picture[33];
    struct timeval time;
    struct tm tm;
    gettimeofday(&time, NULL);
    gmtime_r(&time.tv_sec, &tm);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%S", &tm);
    dataset_frame_path(e, path);
    buf_printf(b, "{\"frame_id\":\"%.*s\"", (int)strlen(path) - 7 - 4, path + 7);
    put_string(b, "action", e->action);
    put_buttons(b, e);
    buf_printf(b, ",\"seed\":%u,\"captured_at\":\"%s.%03dZ\",\"frame_path\":\"%s\"", e->seed, now, (int)(time.tv_usec / 1000), path);
    put_string(b, "notes", e->notes ? e->notes : "");
    buf_printf(b, ",\"state\":\"%s\",\"world\":", game_state_name[e->world->state]);
    size_t from = b->len;
    world_print_json(e->world, b);
    if (b->failed) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    while (b->len > from && b->data[b->len - 1] == '\n') b->len--;
    for (size_t i = from; i < b->len; i++) {
        if (b->data[i] == '\n') b->data[i] = ' '; /* an entry is one line; inside strings newlines are escaped */
    }
    frame_hash(e->rgb, picture);
    hash_hex(picture, 32, b->data + from, b->len - from, key);
    put_string(b, "oracle_action", e->oracle_action);
    put_string(b, "scene", e->scene);
    put_string(b, "prompt", e->prompt);
    buf_str(b, "}\n");
    return b->failed ? err_set(err, ERR_MEMORY, "%s: out of memory", path) : 0;
}

static int create(const char *folder, const char *name, int worker, char path[PATH_MAX], struct err *err) {
    int n = worker < 0 ? snprintf(path, PATH_MAX, "%s/%s", folder, name) : snprintf(path, PATH_MAX, "%s/%s.%d.part", folder, name, worker);
    if (n >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "%s: path too long", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (fd >= 0) return fd;
    if (errno == EEXIST) return err_set(err, ERR_STATE, "%s: exists already; a data set is never written over: name another folder", path);
    return err_set(err, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
}

int dataset_create(const char *folder, int worker, struct dataset_writer **out, struct err *err) {
    struct err local;
    if (!err) err = &local;
    *out = NULL;
    struct dataset_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(err, ERR_MEMORY, "%s: out of memory", folder);
    char path[PATH_MAX];
    w->fd = w->keys_fd = -1;
    w->folder = strdup(folder);
    int code = w->folder ? 0 : err_set(err, ERR_MEMORY, "%s: out of memory", folder);
    if (!code && snprintf(path, sizeof path, "%s/frames", folder) >= PATH_MAX - 80) code = err_set(err, ERR_ARGUMENT, "%s: path too long", folder);
    if (!code) code = file_make_folders(path, err);
    if (!code && (w->fd = create(folder, worker < 0 ? "manifest.jsonl" : "manifest", worker, w->manifest, err)) < 0) code = err->code;
    if (!code && worker >= 0 && (w->keys_fd = create(folder, "keys", worker, w->keys_path, err)) < 0) code = err->code;
    if (code) {
        dataset_close(w, NULL);
        return code;
    }
    *out = w;
    return 0;
}

int dataset_add_made(struct dataset_writer *w, const char *frame_path, const struct buf *png, const struct buf *line, const char key[33], bool *kept,
                     struct err *err) {
    char path[PATH_MAX], key_line[34];
    int added = key_set_add(&w->seen, key);
    if (kept) *kept = added > 0;
    if (added < 0) return err_set(err, ERR_MEMORY, "%s: out of memory", w->manifest);
    if (!added) return 0;
    snprintf(path, sizeof path, "%.*s/%s", PATH_MAX - 80, w->folder, frame_path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return err_set(err, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    int code = line_append(fd, path, png->data, png->len, "a frame", err);
    close(fd);
    if (code) {
        unlink(path);
        return code;
    }
    snprintf(key_line, sizeof key_line, "%.32s\n", key);
    if (w->keys_fd >= 0) code = line_append(w->keys_fd, w->keys_path, key_line, 33, "a key", err);
    return code ? code : line_append(w->fd, w->manifest, line->data, line->len, "an entry", err);
}

int dataset_add(struct dataset_writer *w, const struct dataset_entry *e, bool *kept, struct err *err) {
    char key[33], path[64];
    buf_clear(&w->png);
    buf_clear(&w->line);
    int code = dataset_line(e, &w->line, key, err);
    if (!code) code = png_encode(e->rgb, FRAME_WIDTH, FRAME_HEIGHT, 9, &w->png, err);
    dataset_frame_path(e, path);
    return code ? code : dataset_add_made(w, path, &w->png, &w->line, key, kept, err);
}

int dataset_close(struct dataset_writer *w, struct err *err) {
    if (!w) return 0;
    int code = 0;
    if (w->fd >= 0 && fsync(w->fd) != 0 && errno != EINVAL) code = err_set(err, ERR_IO, "%s: cannot bring to the disk: %s", w->manifest, strerror(errno));
    if (w->fd >= 0) close(w->fd);
    if (w->keys_fd >= 0) close(w->keys_fd);
    key_set_free(&w->seen);
    buf_free(&w->png);
    buf_free(&w->line);
    free(w->folder);
    free(w);
    return code;
}

/* A repeat's picture goes too: its name is in the line. */
static void remove_picture(const char *folder, const char *line, size_t n) {
    struct arena a = {0};
    char path[PATH_MAX];
    const char *name = json_as_string(json_get(json_parse(line, n, "entry", &a, NULL), "frame_path"), NULL);
    if (name && strncmp(name, "frames/", 7) == 0 && !strchr(name + 7, '/')) {
        snprintf(path, sizeof path, "%.*s/%.*s", PATH_MAX / 2, folder, 200, name);
        unlink(path);
    }
    arena_free(&a);
}

static int merge_part(const char *folder, int worker, int out, const char *out_path, struct key_set *seen, int64_t *entries, int64_t *repeats,
                      struct err *err) {
    char manifest[PATH_MAX], keys[PATH_MAX], *line, *key;
    size_t n, key_n;
    snprintf(manifest, sizeof manifest, "%.*s/manifest.%d.part", PATH_MAX - 40, folder, worker);
    snprintf(keys, sizeof keys, "%.*s/keys.%d.part", PATH_MAX - 40, folder, worker);
    struct line_reader lines, key_lines;
    int code = line_reader_open(manifest, &lines, err);
    if (code) return code;
    code = line_reader_open(keys, &key_lines, err);
    while (!code && (code = line_reader_next(&lines, &line, &n, NULL, err)) == 1) {
        code = line_reader_next(&key_lines, &key, &key_n, NULL, err);
        if (code == 1 && key_n != 32) code = 0;
        if (code != 1) {
            code = code < 0 ? code : err_set(err, ERR_FORMAT, "%s: no key for line %llu of the manifest", keys, (unsigned long long)lines.number);
            break;
        }
        int added = key_set_add(seen, key);
        code = added < 0 ? err_set(err, ERR_MEMORY, "%s: out of memory", keys) : 0;
        if (added == 0) {
            ++*repeats;
            remove_picture(folder, line, n);
        } else if (added > 0) {
            ++*entries;
            line[n] = '\n';
            code = line_append(out, out_path, line, n + 1, "an entry", err);
        }
    }
    line_reader_close(&lines);
    line_reader_close(&key_lines);
    return code;
}

int dataset_merge(const char *folder, int workers, int64_t *entries, int64_t *repeats, struct err *err) {
    char path[PATH_MAX];
    struct key_set seen = {0};
    *entries = *repeats = 0;
    int out = create(folder, "manifest.jsonl", -1, path, err), code = out < 0 ? out : 0;
    for (int i = 0; i < workers && !code; i++) code = merge_part(folder, i, out, path, &seen, entries, repeats, err);
    if (!code && fsync(out) != 0 && errno != EINVAL) code = err_set(err, ERR_IO, "%s: cannot bring to the disk: %s", path, strerror(errno));
    if (out >= 0) close(out);
    key_set_free(&seen);
    for (int i = 0; i < workers && !code; i++) {
        snprintf(path, sizeof path, "%.*s/manifest.%d.part", PATH_MAX - 40, folder, i);
        unlink(path);
        snprintf(path, sizeof path, "%.*s/keys.%d.part", PATH_MAX - 40, folder, i);
        unlink(path);
    }
    return code;
}
