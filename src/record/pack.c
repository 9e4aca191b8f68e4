/* X.pack, version 1, all integers little-endian:
 *   bytes 0..15   "PMDPACK1", u16 width (240), u16 height (160), u32 zero
 *   then records  u32 magic 0x314D5246 ("FRM1"), u32 length, `length` bytes: a zlib stream of one picture:
 *                   u8 colours - 1, colours * 3 bytes RGB, 38400 bytes palette indices, rows from the top; or, for a picture of more
 *                   than 256 colours, 115200 bytes RGB. (Which one: the unpacked size; 1 + 3 * 256 + 38400 < 115200.)
 * X.jsonl: line i is about record i: {"offset", "length" (of the zlib stream inside X.pack), "seed", "episode_step", "scene", "floor",
 *   "prompt", "actions" (offered), "action", "decided_by", "oracle_action"}.
 * Valid if and only if every line's offset is 8 past a record magic followed by its length. A record is written before its line, so
 * after a crash lines never point beyond the pack; a torn last line is left out and a record without a line is ignored.
 *
 * In Python: d = zlib.decompress(pack[offset:offset+length]); n = d[0] + 1
 *            pal = np.frombuffer(d, np.uint8, 3*n, 1).reshape(n, 3); rgb = pal[np.frombuffer(d, np.uint8, 38400, 1 + 3*n)].reshape(160, 240, 3)
 *
 * Why not PNG: making 38400 indices costs 0.1 ms and deflate at level 1 about 0.3 ms; a PNG file each would cost three system calls
 * and a name more, and a training set has 10^5 of them. */
#include "record/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/buf.h"
#include "record/lines.h"
#include "record/png_file.h"

enum { HEADER = 16, RECORD_HEADER = 8, LARGEST = 1 + 3 * 256 + FRAME_PIXELS, FLUSH_AT = 1 << 20 };
static const uint32_t magic = 0x314D5246;

struct pack_writer {
    int pack, lines;
    char pack_path[PATH_MAX], lines_path[PATH_MAX];
    uint64_t written, count;     /* bytes of the pack before what is buffered; records */
    struct buf pack_out, lines_out;
    z_stream z;
    bool z_open, failed;
    uint8_t raw[FRAME_PIXELS * 3 > LARGEST ? FRAME_PIXELS * 3 : LARGEST];
    uint8_t packed[FRAME_PIXELS * 3 + 1024];
};

static void put32(uint8_t *at, uint32_t v) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(v >> (8 * i));
}
static uint32_t get32(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24; }

static int create(const char *prefix, const char *ending, char path[PATH_MAX], struct err *err) {
    if (snprintf(path, PATH_MAX, "%s.%s", prefix, ending) >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "%s: path too long", prefix);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return err_set(err, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    return fd;
}

int pack_create(const char *prefix, struct pack_writer **out, struct err *err) {
    *out = NULL;
    struct pack_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(err, ERR_MEMORY, "%s: out of memory", prefix);
    int code = 0;
    w->lines = -1;
    if ((w->pack = create(prefix, "pack", w->pack_path, err)) < 0) code = w->pack;
    else if ((w->lines = create(prefix, "jsonl", w->lines_path, err)) < 0) code = w->lines;
    if (!code && deflateInit(&w->z, 1) != Z_OK) code = err_set(err, ERR_MEMORY, "%s: out of memory", prefix);
    w->z_open = code == 0;
    if (!code) {
        uint8_t header[HEADER] = {'P', 'M', 'D', 'P', 'A', 'C', 'K', '1', FRAME_WIDTH, 0, FRAME_HEIGHT, 0};
        buf_append(&w->pack_out, header, HEADER);
    }
    if (code) {
        w->failed = true;
        pack_close(w, NULL);
        return code;
    }
    *out = w;
    return 0;
}

static int flush(struct pack_writer *w, struct err *err) {
    if (w->pack_out.failed || w->lines_out.failed) return w->failed = true, err_set(err, ERR_MEMORY, "%s: out of memory", w->pack_path);
    int code = line_append(w->pack, w->pack_path, w->pack_out.data ? w->pack_out.data : "", w->pack_out.len, "packed frames", err);
    if (!code) code = line_append(w->lines, w->lines_path, w->lines_out.data ? w->lines_out.data : "", w->lines_out.len, "lines", err);
    if (code) return w->failed = true, code;
    w->written += w->pack_out.len;
    buf_clear(&w->pack_out);
    buf_clear(&w->lines_out);
    return 0;
}

static void put_string(struct buf *b, const char *key, const char *s) {
    buf_printf(b, ",\"%s\":", key);
    if (s) buf_json_string(b, s, strlen(s));
    else buf_str(b, "null");
}

int pack_add(struct pack_writer *w, const uint8_t *rgb, const struct pack_entry *e, struct err *err) {
    if (w->failed) return err_set(err, ERR_STATE, "%s: ended by an earlier error", w->pack_path);
    uint8_t palette[256 * 3], header[RECORD_HEADER];
    static _Thread_local uint8_t indices[FRAME_PIXELS];
    int colours = picture_palette(rgb, FRAME_PIXELS, indices, palette);
    size_t raw_bytes = FRAME_PIXELS * 3;
    if (colours) {
        w->raw[0] = (uint8_t)(colours - 1);
        memcpy(w->raw + 1, palette, 3 * (size_t)colours);
        memcpy(w->raw + 1 + 3 * colours, indices, FRAME_PIXELS);
        raw_bytes = 1 + 3 * (size_t)colours + FRAME_PIXELS;
    } else {
        memcpy(w->raw, rgb, raw_bytes);
    }
    deflateReset(&w->z);
    w->z.next_in = w->raw, w->z.avail_in = (uInt)raw_bytes;
    w->z.next_out = w->packed, w->z.avail_out = sizeof w->packed;
    if (deflate(&w->z, Z_FINISH) != Z_STREAM_END) return w->failed = true, err_set(err, ERR_STATE, "%s: deflate failed", w->pack_path);
    uint32_t length = (uint32_t)w->z.total_out;
    put32(header, magic);
    put32(header + 4, length);
    buf_append(&w->pack_out, header, sizeof header);
    uint64_t offset = w->written + w->pack_out.len;
    buf_append(&w->pack_out, w->packed, length);

    struct buf *b = &w->lines_out;
    buf_printf(b, "{\"offset\":%llu,\"length\":%u,\"seed\":%u,\"episode_step\":%u", (unsigned long long)offset, length, e->seed, e->episode_step);
    put_string(b, "scene", e->scene);
    buf_printf(b, ",\"floor\":%d", e->floor);
    put_string(b, "prompt", e->prompt);
    buf_str(b, ",\"actions\":");
    if (!e->actions) buf_str(b, "null");
    for (int i = 0; e->actions && i < e->action_count; i++) {
        buf_char(b, i ? ',' : '[');
        buf_json_string(b, e->actions[i], strlen(e->actions[i]));
    }
    if (e->actions) buf_str(b, e->action_count > 0 ? "]" : "[]");
    put_string(b, "action", e->action);
    put_string(b, "decided_by", e->decided_by);
    put_string(b, "oracle_action", e->oracle_action);
    buf_str(b, "}\n");
    w->count++;
    return w->pack_out.len + b->len >= FLUSH_AT ? flush(w, err) : 0;
}

int pack_close(struct pack_writer *w, struct err *err) {
    if (!w) return 0;
    int code = w->failed ? 0 : flush(w, err);
    if (!code && !w->failed && (fsync(w->pack) != 0 || fsync(w->lines) != 0) && errno != EINVAL) {
        code = err_set(err, ERR_IO, "%s: cannot bring to the disk: %s", w->pack_path, strerror(errno));
    }
    if (w->pack >= 0) close(w->pack);
    if (w->lines >= 0) close(w->lines);
    if (w->z_open) deflateEnd(&w->z);
    buf_free(&w->pack_out);
    buf_free(&w->lines_out);
    free(w);
    return code;
}

int pack_decode(const void *data, size_t bytes, uint8_t rgb[FRAME_PIXELS * 3], const char *what, struct err *err) {
    static _Thread_local uint8_t raw[FRAME_PIXELS * 3 + 1];
    uLongf n = sizeof raw;
    int status = uncompress(raw, &n, data, (uLong)bytes);
    if (status != Z_OK) return err_set(err, ERR_FORMAT, "%s: damaged zlib stream (zlib says %d)", what, status);
    if (n == FRAME_PIXELS * 3) {
        memcpy(rgb, raw, n);
        return 0;
    }
    size_t colours = n ? (size_t)raw[0] + 1 : 0;
    if (n != 1 + 3 * colours + FRAME_PIXELS) {
        return err_set(err, ERR_FORMAT, "%s: %lu bytes unpacked, expected %zu for %zu colours or %d", what, (unsigned long)n, 1 + 3 * colours + FRAME_PIXELS,
                       colours, FRAME_PIXELS * 3);
    }
    const uint8_t *indices = raw + 1 + 3 * colours;
    for (int i = 0; i < FRAME_PIXELS; i++) {
        if (indices[i] >= colours) return err_set(err, ERR_FORMAT, "%s: pixel %d has colour %d of %zu", what, i, indices[i], colours);
        memcpy(rgb + 3 * i, raw + 1 + 3 * indices[i], 3);
    }
    return 0;
}

int pack_read(int fd, uint64_t offset, uint32_t length, uint8_t rgb[FRAME_PIXELS * 3], const char *what, struct err *err) {
    uint8_t header[RECORD_HEADER];
    if (offset < HEADER + RECORD_HEADER || offset > INT64_MAX || length > FRAME_PIXELS * 3 + 1024) {
        return err_set(err, ERR_FORMAT, "%s: offset %llu, length %u make no sense", what, (unsigned long long)offset, length);
    }
    if (pread(fd, header, sizeof header, (off_t)(offset - RECORD_HEADER)) != RECORD_HEADER || get32(header) != magic || get32(header + 4) != length) {
        return err_set(err, ERR_FORMAT, "%s: no record of %u bytes at offset %llu", what, length, (unsigned long long)offset);
    }
    uint8_t *data = malloc(length ? length : 1);
    if (!data) return err_set(err, ERR_MEMORY, "%s: out of memory", what);
    int code;
    if (pread(fd, data, length, (off_t)offset) != (ssize_t)length) code = err_set(err, ERR_FORMAT, "%s: the pack ends inside the record", what);
    else code = pack_decode(data, length, rgb, what, err);
    free(data);
    return code;
}
