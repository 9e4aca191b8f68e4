/* The one EXIF field that changes pixels: orientation. transformers' load_image applies it (PIL.ImageOps.exif_transpose) before the
 * processor sees the picture, so a photo of a phone reaches the model upright. */
#include <stdlib.h>
#include <string.h>

#include "vision/image_formats.h"

int exif_orientation(const uint8_t *data, size_t bytes) {
    if (bytes >= 6 && !memcmp(data, "Exif\0\0", 6)) data += 6, bytes -= 6;
    if (bytes < 8) return 1;
    int big = data[0] == 'M';
    if (memcmp(data, big ? "MM\0*" : "II*\0", 4)) return 1;
#define U16(at) (uint32_t)(big ? data[at] << 8 | data[(at) + 1] : data[(at) + 1] << 8 | data[at])
#define U32(at) (big ? U16(at) << 16 | U16((at) + 2) : U16((at) + 2) << 16 | U16(at))
    size_t ifd = U32(4);
    if (ifd > bytes || bytes - ifd < 2) return 1;
    size_t entries = U16(ifd);
    for (size_t i = 0; i < entries; i++) {
        size_t at = ifd + 2 + 12 * i;
        if (at > bytes || bytes - at < 12) return 1;
        if (U16(at) != 0x0112) continue;
        uint32_t value = U16(at + 8); /* type SHORT, count 1 */
        return U16(at + 2) == 3 && value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
#undef U16
#undef U32
}

int image_orient(struct image *im, int orientation, struct err *err) {
    if (orientation <= 1 || orientation > 8) return 0;
    int w = im->width, h = im->height, swapped = orientation >= 5;
    int new_w = swapped ? h : w, new_h = swapped ? w : h;
    uint8_t *rgb = malloc((size_t)w * h * 3);
    if (!rgb) return err_set(err, ERR_MEMORY, "image: out of memory turning %d x %d pixels upright", w, h);
    for (int y = 0; y < new_h; y++)
        for (int x = 0; x < new_w; x++) {
            int sx = swapped ? y : x, sy = swapped ? x : y; /* 5: transpose */
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) sx = w - 1 - sx;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) sy = h - 1 - sy;
            memcpy(rgb + ((size_t)y * new_w + x) * 3, im->rgb + ((size_t)sy * w + sx) * 3, 3);
        }
    free(im->rgb);
    *im = (struct image){new_w, new_h, rgb};
    return 0;
}
