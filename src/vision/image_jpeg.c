/* JPEG -> RGB through libturbojpeg, with the accurate inverse transform and smooth chroma upsampling that PIL uses too. Grey becomes
 * RGB; CMYK is taken as Adobe writes it (inverted) and converted with PIL's formula. A warning of the decoder (data cut short
 * or damaged) is an error here. */
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>

#include "vision/image_formats.h"

static int failed(tjhandle jpeg, const char *what, struct err *err) {
    return err_set(err, ERR_FORMAT, "JPEG image: %s: %s", what, jpeg ? tjGetErrorStr2(jpeg) : "out of memory");
}

int image_jpeg_size(const uint8_t *data, size_t bytes, int64_t *width, int64_t *height, struct err *err) {
    tjhandle jpeg = tjInitDecompress();
    int w = 0, h = 0, subsampling, colours, code = 0;
    if (!jpeg || tjDecompressHeader3(jpeg, data, bytes, &w, &h, &subsampling, &colours))
        code = failed(jpeg, "cannot read the header", err);
    if (jpeg) tjDestroy(jpeg);
    *width = w;
    *height = h;
    return code;
}

/* Walks the marker segments up to the scan, looking for APP1 "Exif". */
static int find_orientation(const uint8_t *data, size_t bytes) {
    size_t at = 2;
    while (bytes - at >= 4 && data[at] == 0xff) {
        int marker = data[at + 1];
        if (marker == 0xff) { /* fill byte */
            at++;
            continue;
        }
        if (marker == 0xda || marker == 0xd9) break;
        if (marker == 0x01 || (marker >= 0xd0 && marker <= 0xd7)) {
            at += 2;
            continue;
        }
        size_t length = (size_t)data[at + 2] << 8 | data[at + 3];
        if (length < 2 || length > bytes - at - 2) break;
        if (marker == 0xe1 && length >= 8 && !memcmp(data + at + 4, "Exif\0\0", 6))
            return exif_orientation(data + at + 4, length - 2);
        at += 2 + length;
    }
    return 1;
}

int image_jpeg_decode(const uint8_t *data, size_t bytes, struct image *out, int *orientation, struct err *err) {
    tjhandle jpeg = tjInitDecompress();
    int w, h, subsampling, colours, code = 0;
    if (!jpeg || tjDecompressHeader3(jpeg, data, bytes, &w, &h, &subsampling, &colours)) {
        code = failed(jpeg, "cannot read the header", err);
        goto end;
    }
    int cmyk = colours == TJCS_CMYK || colours == TJCS_YCCK;
    size_t pixels = (size_t)w * h;
    out->width = w;
    out->height = h;
    out->rgb = malloc(pixels * (cmyk ? 4 : 3));
    if (!out->rgb) {
        code = err_set(err, ERR_MEMORY, "JPEG image: out of memory for %d x %d pixels", w, h);
        goto end;
    }
    if (tjDecompress2(jpeg, data, bytes, out->rgb, w, 0, h, cmyk ? TJPF_CMYK : TJPF_RGB,
                      TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS | TJFLAG_ACCURATEDCT)) {
        code = failed(jpeg, "damaged or cut short", err);
        goto end;
    }
    if (cmyk) { /* Pillow's Convert.c cmyk2rgb on inverted samples, packed from 4 to 3 bytes in place */
        for (size_t i = 0; i < pixels; i++) {
            uint8_t ink[4];
            memcpy(ink, out->rgb + 4 * i, 4);
            for (int c = 0; c < 3; c++) {
                int product = (255 - ink[c]) * ink[3] + 128; /* (255 - k) * c / 255 with k = 255 - ink[3] */
                int v = ink[3] - (((product >> 8) + product) >> 8);
                out->rgb[3 * i + c] = (uint8_t)(v < 0 ? 0 : v);
            }
        }
        uint8_t *less = realloc(out->rgb, pixels * 3);
        if (less) out->rgb = less;
    }
    *orientation = find_orientation(data, bytes);
end:
    if (jpeg) tjDestroy(jpeg);
    if (code) image_free(out);
    return code;
}
