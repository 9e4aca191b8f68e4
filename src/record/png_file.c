/* A writer of its own instead of libpng's: 60 lines that know the palette case, with one deflate call for the whole picture.
 * Format: PNG specification, third edition, chapters 5 (chunks), 9 (filter type 0 suits palettes), 11. */
#include "record/png_file.h"

#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

int picture_palette(const uint8_t *rgb, int pixels, uint8_t *indices, uint8_t palette[256 * 3]) {
    /* Open addressing, 1024 slots for at most 256 colours; a slot holds colour + 1 so that zero means empty. */
    uint32_t colours[1024] = {0};
    uint8_t index_of[1024];
    int count = 0;
    uint32_t last = 0xFFFFFFFF;
    uint8_t last_index = 0;
    for (int i = 0; i < pixels; i++) {
        uint32_t c = (uint32_t)rgb[3 * i] << 16 | (uint32_t)rgb[3 * i + 1] << 8 | rgb[3 * i + 2];
        if (c != last) {
            uint32_t slot = (c * 2654435761u) >> 22;
            while (colours[slot] && colours[slot] != c + 1) slot = (slot + 1) & 1023;
            if (!colours[slot]) {
                if (count == 256) return 0;
                colours[slot] = c + 1;
                index_of[slot] = (uint8_t)count;
                memcpy(palette + 3 * count, rgb + 3 * i, 3);
                count++;
            }
            last = c;
            last_index = index_of[slot];
        }
        indices[i] = last_index;
    }
    return count;
}

static void put32(uint8_t *at, uint32_t v) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void chunk(struct buf *out, const char type[4], const void *data, size_t n) {
    uint8_t head[8], tail[4];
    put32(head, (uint32_t)n);
    memcpy(head + 4, type, 4);
    uLong crc = crc32(crc32(0, NULL, 0), head + 4, 4);
    if (n) crc = crc32(crc, data, (uInt)n);
    put32(tail, (uint32_t)crc);
    buf_append(out, head, 8);
    buf_append(out, data, n);
    buf_append(out, tail, 4);
}

int png_encode(const uint8_t *rgb, int width, int height, int level, struct buf *out, struct err *err) {
    size_t pixels = (size_t)width * (size_t)height;
    uint8_t palette[256 * 3];
    uint8_t *indices = malloc(pixels);
    size_t row_bytes = 3 * (size_t)width;
    uint8_t *rows = malloc((row_bytes + 1) * (size_t)height);
    uLongf packed_bytes = compressBound((uLong)((row_bytes + 1) * (size_t)height));
    uint8_t *packed = malloc(packed_bytes);
    if (!indices || !rows || !packed) {
        free(indices), free(rows), free(packed);
        return err_set(err, ERR_MEMORY, "PNG of %dx%d: out of memory", width, height);
    }
    int colours = picture_palette(rgb, (int)pixels, indices, palette);
    int bits = colours == 0 ? 24 : colours <= 2 ? 1 : colours <= 4 ? 2 : colours <= 16 ? 4 : 8;
    if (colours) row_bytes = ((size_t)width * (size_t)bits + 7) / 8;
    for (int y = 0; y < height; y++) {
        uint8_t *row = rows + (row_bytes + 1) * (size_t)y;
        *row++ = 0; /* filter type: none */
        if (!colours) {
            memcpy(row, rgb + 3 * (size_t)width * (size_t)y, row_bytes);
            continue;
        }
        memset(row, 0, row_bytes);
        const uint8_t *from = indices + (size_t)width * (size_t)y;
        for (int x = 0; x < width; x++) row[x * bits / 8] |= (uint8_t)(from[x] << (8 - bits - x * bits % 8));
    }
    int status = compress2(packed, &packed_bytes, rows, (uLong)((row_bytes + 1) * (size_t)height), level);
    if (status == Z_OK) {
        uint8_t header[13] = {0};
        put32(header, (uint32_t)width);
        put32(header + 4, (uint32_t)height);
        header[8] = colours ? (uint8_t)bits : 8;
        header[9] = colours ? 3 : 2;
        buf_append(out, "\x89PNG\r\n\x1A\n", 8);
        chunk(out, "IHDR", header, 13);
        if (colours) chunk(out, "PLTE", palette, 3 * (size_t)colours);
        chunk(out, "IDAT", packed, packed_bytes);
        chunk(out, "IEND", NULL, 0);
    }
    free(indices), free(rows), free(packed);
    if (status != Z_OK || out->failed) return err_set(err, ERR_MEMORY, "PNG of %dx%d: out of memory", width, height);
    return 0;
}

int png_decode(const void *data, size_t bytes, int width, int height, uint8_t *rgb, const char *what, struct err *err) {
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (bytes == 0) return err_set(err, ERR_FORMAT, "%s: empty file, expected a PNG", what);
    /* libpng is content once it has all rows; a file that was cut behind them is still a damaged file. */
    if (bytes < 12 || memcmp((const char *)data + bytes - 8, "IEND\xAE\x42\x60\x82", 8) != 0) {
        return err_set(err, ERR_FORMAT, "%s: no PNG, or cut short: %zu bytes that do not end with an IEND chunk", what, bytes);
    }
    if (!png_image_begin_read_from_memory(&image, data, bytes)) {
        return err_set(err, ERR_FORMAT, "%s: no readable PNG: %s", what, image.message);
    }
    if (image.width != (png_uint_32)width || image.height != (png_uint_32)height) {
        int code = err_set(err, ERR_FORMAT, "%s: %ux%u pixels, expected %dx%d", what, image.width, image.height, width, height);
        png_image_free(&image);
        return code;
    }
    image.format = PNG_FORMAT_RGB;
    if (!png_image_finish_read(&image, NULL, rgb, 0, NULL)) {
        int code = err_set(err, ERR_FORMAT, "%s: no readable PNG: %s", what, image.message);
        png_image_free(&image);
        return code;
    }
    return 0;
}
