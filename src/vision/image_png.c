/* PNG -> RGB through libpng's row interface (the simplified one applies gamma, which PIL does not).
 *
 * Meaning of the pixels is that of PIL's Image.open(...).convert("RGB"): alpha is dropped, palettes are looked up, 1/2/4-bit grey
 * is widened, 16-bit colour keeps the high byte, 16-bit grey without alpha is clipped to 255 (as Pillow 13 does). Bytes from
 * outside: every error of libpng arrives by longjmp at the one setjmp below, warnings about pixels count as errors. */
#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vision/image_formats.h"

struct png_input {
    const uint8_t *data;
    size_t bytes, at;
    char message[200];
};

static void on_error(png_structp png, png_const_charp message) {
    struct png_input *in = png_get_error_ptr(png);
    snprintf(in->message, sizeof in->message, "%s", message);
    png_longjmp(png, 1);
}
static void on_warning(png_structp png, png_const_charp message) { (void)png, (void)message; }

static void read_bytes(png_structp png, png_bytep out, size_t n) {
    struct png_input *in = png_get_io_ptr(png);
    if (n > in->bytes - in->at) png_error(png, "the file ends early");
    memcpy(out, in->data + in->at, n);
    in->at += n;
}

/* The part that may longjmp. Everything it allocates is reachable from *out and *rows, which the caller frees. */
static void decode(png_structp png, png_infop info, int64_t max_pixels, struct image *out, png_bytep *volatile *rows,
                   int *orientation) {
    png_read_info(png, info);
    png_uint_32 width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    if (width > IMAGE_MAX_SIDE || height > IMAGE_MAX_SIDE || (int64_t)width * height > max_pixels)
        png_error(png, "more pixels than allowed"); /* unreachable: image_decode has read IHDR */
    int type = png_get_color_type(png, info), depth = png_get_bit_depth(png, info);
    bool clip = type == PNG_COLOR_TYPE_GRAY && depth == 16;
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (type == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
    if (depth == 16 && !clip) png_set_strip_16(png);
    png_set_strip_alpha(png); /* also what the expansion of a palette with tRNS adds */
    if (!(type & PNG_COLOR_MASK_COLOR) && !clip) png_set_gray_to_rgb(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    size_t row_bytes = png_get_rowbytes(png, info);
    if (row_bytes != (size_t)width * (clip ? 2 : 3)) png_error(png, "unexpected row size");
    out->width = (int)width;
    out->height = (int)height;
    out->rgb = malloc((size_t)width * height * 3);
    *rows = malloc(sizeof(png_bytep) * height);
    if (!out->rgb || !*rows) png_error(png, "out of memory");
    for (png_uint_32 y = 0; y < height; y++) (*rows)[y] = out->rgb + (size_t)y * width * 3; /* clip: 2 of 3 bytes used */
    png_read_image(png, *rows);
    png_read_end(png, info);
    if (clip)
        for (png_uint_32 y = 0; y < height; y++) {
            uint8_t *row = out->rgb + (size_t)y * width * 3;
            for (png_uint_32 x = width; x-- > 0;) {
                uint8_t v = row[2 * x] ? 255 : row[2 * x + 1];
                row[3 * x] = row[3 * x + 1] = row[3 * x + 2] = v;
            }
        }
#ifdef PNG_eXIf_SUPPORTED
    png_bytep exif;
    png_uint_32 exif_bytes;
    if (png_get_eXIf_1(png, info, &exif_bytes, &exif)) *orientation = exif_orientation(exif, exif_bytes);
#endif
}

int image_png_size(const uint8_t *data, size_t bytes, int64_t *width, int64_t *height, struct err *err) {
    if (bytes < 33 || memcmp(data + 12, "IHDR", 4))
        return err_set(err, ERR_FORMAT, "PNG image: expected an IHDR chunk of 25 bytes at offset 8, found %zu bytes in all%s", bytes,
                       bytes < 33 ? "" : " and another chunk");
    *width = (int64_t)data[16] << 24 | data[17] << 16 | data[18] << 8 | data[19];
    *height = (int64_t)data[20] << 24 | data[21] << 16 | data[22] << 8 | data[23];
    return 0;
}

int image_png_decode(const uint8_t *data, size_t bytes, int64_t max_pixels, struct image *out, int *orientation, struct err *err) {
    struct png_input in = {.data = data, .bytes = bytes};
    png_bytep *volatile rows = NULL;
    png_infop volatile info = NULL;
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &in, on_error, on_warning);
    if (!png) return err_set(err, ERR_MEMORY, "PNG image: out of memory");
    int failure = 0;
    if (setjmp(png_jmpbuf(png))) {
        failure = err_set(err, ERR_FORMAT, "PNG image: %s (near offset %zu of %zu)", in.message, in.at, in.bytes);
        image_free(out);
    } else {
        info = png_create_info_struct(png);
        if (!info) png_error(png, "out of memory");
        png_set_read_fn(png, &in, read_bytes);
        png_set_user_limits(png, IMAGE_MAX_SIDE, IMAGE_MAX_SIDE);
        png_set_chunk_malloc_max(png, 16u << 20); /* an iCCP or zTXt bomb stops here */
        png_set_chunk_cache_max(png, 64);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION /* a fuzzer cannot guess checksums */
        png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
#else
        png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_WARN_DISCARD);
#endif
        png_set_benign_errors(png, 1);
        decode(png, info, max_pixels, out, &rows, orientation);
    }
    png_infop made = info;
    png_destroy_read_struct(&png, made ? &made : NULL, NULL);
    free(rows);
    return failure;
}
