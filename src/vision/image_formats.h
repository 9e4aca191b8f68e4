/* The decoders behind image_decode, one file each. Private to this room. */
#ifndef VISION_IMAGE_FORMATS_H
#define VISION_IMAGE_FORMATS_H

#include <stddef.h>
#include <stdint.h>

#include "vision/image.h"

enum { IMAGE_MAX_SIDE = 1 << 20 };

/* The size in the header, before anything is allocated. */
int image_png_size(const uint8_t *data, size_t bytes, int64_t *width, int64_t *height, struct err *err);
int image_jpeg_size(const uint8_t *data, size_t bytes, int64_t *width, int64_t *height, struct err *err);
/* Pixels into out (zeroed by the caller; freed on failure). orientation is set when the file carries an EXIF one. */
int image_png_decode(const uint8_t *data, size_t bytes, int64_t max_pixels, struct image *out, int *orientation, struct err *err);
int image_jpeg_decode(const uint8_t *data, size_t bytes, struct image *out, int *orientation, struct err *err);

/* EXIF tag 0x0112 of a TIFF block (with or without the "Exif\0\0" before it): 1 to 8; 1 when absent or malformed. */
int exif_orientation(const uint8_t *data, size_t bytes);
/* Turns the picture upright in place, as PIL.ImageOps.exif_transpose does. */
int image_orient(struct image *im, int orientation, struct err *err);

#endif
