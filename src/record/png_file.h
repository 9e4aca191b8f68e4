/* PNG files of game pictures: as small as PNG allows for few colours (palette, 1 to 8 bits a pixel), and the way back. */
#ifndef RECORD_PNG_FILE_H
#define RECORD_PNG_FILE_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* The picture's colours: indices (width * height) into palette (3 bytes each), in order of first appearance. Returns how many
 * colours, 0 when there are more than 256. */
int picture_palette(const uint8_t *rgb, int pixels, uint8_t *indices, uint8_t palette[256 * 3]);

/* Appends a PNG file; level: zlib 1 (fast) to 9 (small). */
int png_encode(const uint8_t *rgb, int width, int height, int level, struct buf *out, struct err *err);
/* Decodes a PNG of exactly width x height to RGB; any other size is refused before its pixels are decoded. what: its name. */
int png_decode(const void *data, size_t bytes, int width, int height, uint8_t *rgb, const char *what, struct err *err);

#endif
