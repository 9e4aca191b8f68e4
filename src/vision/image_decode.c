/* Which decoder a picture's bytes go to; the size is checked from the header before any pixel is allocated. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vision/image_formats.h"

/* Formats that people hand over and that are refused by name. */
static const char *foreign_format(const uint8_t *d, size_t n) {
    if (n >= 6 && (!memcmp(d, "GIF87a", 6) || !memcmp(d, "GIF89a", 6))) return "GIF";
    if (n >= 12 && !memcmp(d, "RIFF", 4) && !memcmp(d + 8, "WEBP", 4)) return "WebP";
    if (n >= 2 && !memcmp(d, "BM", 2)) return "BMP";
    if (n >= 4 && (!memcmp(d, "II*\0", 4) || !memcmp(d, "MM\0*", 4))) return "TIFF";
    if (n >= 12 && !memcmp(d + 4, "ftyp", 4))
        return !memcmp(d + 8, "avif", 4) || !memcmp(d + 8, "avis", 4) ? "AVIF" : !memcmp(d + 8, "hei", 3) || !memcmp(d + 8, "mif1", 4) ? "HEIF" : "MP4";
    if ((n >= 2 && !memcmp(d, "\xff\x0a", 2)) || (n >= 12 && !memcmp(d, "\0\0\0\x0cJXL \r\n\x87\n", 12))) return "JPEG XL";
    if (n >= 12 && !memcmp(d, "\0\0\0\x0cjP  \r\n\x87\n", 12)) return "JPEG 2000";
    if (n >= 2 && d[0] == 'P' && d[1] >= '1' && d[1] <= '7') return "PNM";
    if (n >= 5 && (!memcmp(d, "<?xml", 5) || !memcmp(d, "<svg", 4))) return "SVG or XML";
    return NULL;
}

static bool is_png(const uint8_t *d, size_t bytes) { return bytes >= 8 && !memcmp(d, "\x89PNG\r\n\x1a\n", 8); }

int image_size(const void *data, size_t bytes, int64_t max_pixels, int64_t *out_width, int64_t *out_height, struct err *err) {
    const uint8_t *d = data;
    bool png = is_png(d, bytes), jpeg = bytes >= 3 && !memcmp(d, "\xff\xd8\xff", 3);
    if (!png && !jpeg) {
        const char *name = bytes ? foreign_format(d, bytes) : NULL;
        if (name) return err_set(err, ERR_FORMAT, "image: expected PNG or JPEG, found %s, which is not supported", name);
        char start[3 * 8 + 1] = "nothing";
        for (size_t i = 0; i < bytes && i < 8; i++) snprintf(start + 3 * i, 4, "%02x ", d[i]);
        return err_set(err, ERR_FORMAT, "image: expected PNG or JPEG, found %zu bytes of something else (first bytes: %s)", bytes, start);
    }
    int64_t width, height;
    int code = png ? image_png_size(d, bytes, &width, &height, err) : image_jpeg_size(d, bytes, &width, &height, err);
    if (code) return code;
    const char *kind = png ? "PNG" : "JPEG";
    if (width < 1 || height < 1 || width > IMAGE_MAX_SIDE || height > IMAGE_MAX_SIDE)
        return err_set(err, ERR_FORMAT, "%s image: expected sides of 1 to %d pixels, found %" PRId64 " x %" PRId64, kind, IMAGE_MAX_SIDE,
                       width, height);
    if (width * height > max_pixels)
        return err_set(err, ERR_LIMIT, "%s image: expected at most %" PRId64 " pixels, found %" PRId64 " x %" PRId64 " = %" PRId64, kind,
                       max_pixels, width, height, width * height);
    *out_width = width;
    *out_height = height;
    return 0;
}

int image_decode(const void *data, size_t bytes, int64_t max_pixels, struct image *out, struct err *err) {
    const uint8_t *d = data;
    int64_t width, height;
    *out = (struct image){0};
    int code = image_size(data, bytes, max_pixels, &width, &height, err), orientation = 1;
    if (code) return code;
    code = is_png(d, bytes) ? image_png_decode(d, bytes, max_pixels, out, &orientation, err) : image_jpeg_decode(d, bytes, out, &orientation, err);
    if (!code) code = image_orient(out, orientation, err);
    if (code) image_free(out);
    return code;
}

void image_free(struct image *im) {
    free(im->rgb);
    *im = (struct image){0};
}
