/* mGBA save states as files: the machine's bytes, raw or in a PNG.
 *
 * Raw, version word 0x01000000 to 0x01000007: +0 version, +8 CRC-32 of the ROM, +0x10 title (12), +0x1C game code (4),
 * +0x19000 IWRAM (0x8000), +0x21000 EWRAM (0x40000); 0x61000 bytes, extensions may follow. A PNG state carries the same bytes,
 * zlib-compressed, in its chunk `gbAs`. Lengths are checked against what remains before anything is read. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "game/ram.h"

enum { STATE_BYTES = 0x61000, AT_TITLE = 0x10, AT_CODE = 0x1C, AT_IWRAM = 0x19000, AT_EWRAM = 0x21000 };
static const uint32_t version_first = 0x01000000, version_last = 0x01000007;
static const uint8_t png_signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

static uint32_t big_endian(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

/* Inflates to exactly STATE_BYTES (raw states in PNG have no extensions behind them). */
static int inflate_state(const uint8_t *p, size_t n, struct buf *owned, struct err *err) {
    if (!buf_reserve(owned, STATE_BYTES)) return err_set(err, ERR_MEMORY, "out of memory for a save state");
    uLongf bytes = STATE_BYTES;
    int code = uncompress((Bytef *)owned->data + owned->len, &bytes, p, (uLong)n);
    if (code != Z_OK || bytes != STATE_BYTES) {
        return err_set(err, ERR_FORMAT, "PNG save state: its gbAs chunk (%zu bytes) does not inflate to 0x%X bytes (%s)", n, STATE_BYTES,
                       code == Z_OK ? "it holds fewer" : code == Z_BUF_ERROR ? "it holds more, or is cut off" : "zlib data is damaged");
    }
    owned->len += bytes;
    return 0;
}

static int read_png(const uint8_t *p, size_t n, struct buf *owned, struct err *err) {
    size_t at = sizeof png_signature;
    while (n - at >= 12) {
        uint32_t length = big_endian(p + at);
        const uint8_t *type = p + at + 4;
        if (length > n - at - 12) {
            return err_set(err, ERR_FORMAT, "PNG save state: chunk at offset %zu has %u bytes, %zu remain", at, length, n - at - 12);
        }
        if (!memcmp(type, "gbAs", 4)) {
            if (crc32(0, type, length + 4) != big_endian(type + 4 + length)) {
                return err_set(err, ERR_FORMAT, "PNG save state: the gbAs chunk at offset %zu is damaged (checksum differs)", at);
            }
            return inflate_state(type + 4, length, owned, err);
        }
        if (!memcmp(type, "IEND", 4)) break;
        at += 12 + (size_t)length;
    }
    return err_set(err, ERR_FORMAT, "this PNG has no gbAs chunk: a picture, or cut off, but not a whole mGBA save state");
}

static void copy_text(char *out, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = p[i] == 0 ? 0 : p[i] >= 0x20 && p[i] < 0x7F ? (char)p[i] : '?';
    out[n] = 0;
    for (size_t k = strlen(out); k > 0 && out[k - 1] == ' '; k--) out[k - 1] = 0;
}

int save_state_read(const void *file, size_t bytes, struct buf *owned, struct memory_view *memory, char title[13], char code[5],
                    struct err *err) {
    const uint8_t *p = file;
    size_t start = owned->len;
    memset(memory, 0, sizeof *memory);
    title[0] = code[0] = 0;
    if (bytes >= sizeof png_signature && !memcmp(p, png_signature, sizeof png_signature)) {
        int status = read_png(p, bytes, owned, err);
        if (status) return status;
    } else {
        if (bytes >= 0xC0 && p[0xB2] == 0x96 && p[3] == 0xEA) {
            return err_set(err, ERR_FORMAT, "this is a Game Boy Advance ROM, not a save state");
        }
        if (bytes < STATE_BYTES) {
            return err_set(err, ERR_FORMAT, "save state: %zu bytes, a whole one has at least %d", bytes, STATE_BYTES);
        }
        buf_append(owned, p, STATE_BYTES);
        if (owned->failed) return err_set(err, ERR_MEMORY, "out of memory for a save state");
    }
    const uint8_t *s = (const uint8_t *)owned->data + start;
    uint32_t version = ram_u32(s);
    if (version < version_first || version > version_last) {
        owned->len = start;
        return err_set(err, ERR_FORMAT, "save state: version word 0x%08X, expected 0x%08X to 0x%08X: not an mGBA state, or a newer one",
                       version, version_first, version_last);
    }
    copy_text(title, s + AT_TITLE, 12);
    copy_text(code, s + AT_CODE, 4);
    memory->iwram = s + AT_IWRAM;
    memory->ewram = s + AT_EWRAM;
    return 0;
}
