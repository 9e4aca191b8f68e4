/* Pictures: decoding (PNG, JPEG), the resize of Qwen2VLImageProcessor bit-exact at the uint8 level, patches (facts §5). */
#ifndef VISION_IMAGE_H
#define VISION_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "checkpoint/config.h"

struct image {
    int width, height;
    uint8_t *rgb; /* (height, width, 3), owned */
};

/* Decodes a file in memory. The header is read first and width * height is checked against max_pixels before any pixel is
 * allocated. Alpha is dropped as PIL's convert("RGB") does, EXIF orientation is applied as transformers' load_image
 * does. Cut or damaged files are refused; other formats are refused by name. image_size reads and checks the header only. */
int image_size(const void *data, size_t bytes, int64_t max_pixels, int64_t *width, int64_t *height, struct err *err);
int image_decode(const void *data, size_t bytes, int64_t max_pixels, struct image *out, struct err *err);
void image_free(struct image *im);

enum resampler { RESAMPLE_TORCHVISION, RESAMPLE_PILLOW };

/* Target size (facts §5.2); refuses an aspect ratio above 200. factor = patch * merge. */
int image_target_size(int height, int width, int factor, int64_t min_pixels, int64_t max_pixels, int *out_height,
                      int *out_width, struct err *err);
/* Bicubic, antialiased, a = -0.5, horizontal pass first, uint8 between passes (Pillow 13 chooses the order of the passes by cost;
 * up to 12 it was this one: the results may differ by a level or two where the height shrinks). src (sh, sw, 3) -> dst (dh, dw, 3). */
int image_resize(const uint8_t *src, int sh, int sw, uint8_t *dst, int dh, int dw, enum resampler kind, struct err *err);

/* The weights of one axis of a resize, for devices that do it themselves: output i is the sum over j < count[i] of source[first[i] + j] *
 * weight[i * most + j], plus half of 2^bits, shifted right by bits, cut to 0 .. 255. An axis that keeps its size is skipped. */
struct resize_taps {
    int bits, most;
    int *first, *count;
    int32_t *weight;
};
int resize_taps_new(struct resize_taps *t, int in, int out, enum resampler kind, struct err *err);
void resize_taps_free(struct resize_taps *t);

/* Patches ready for the tower: values (patches, 3 * temporal * patch * patch) fp32 normalised, order of facts §5.3. */
struct patches {
    int grid_t, grid_h, grid_w;
    int64_t count, width; /* count = t*h*w, width = 1536 for the published models */
    float *values;        /* owned */
};
int image_patches(const struct image *im, const struct model_config *config, enum resampler kind, struct patches *out,
                  struct err *err);
/* A video: n frames of equal size (facts §5.4), already sampled. */
int video_patches(const struct image *frames, int n, const struct model_config *config, enum resampler kind,
                  struct patches *out, struct err *err);
void patches_free(struct patches *p);

/* The same before normalisation and the order of patches, for devices that do the rest themselves: frames as bytes, and the value that each byte
 * of a channel becomes. Frames have the target size, or are still to be resized to it (image_resize). Groups of frames are filled up with the
 * last one; a still has one frame for all places. */
struct prepared_picture {
    int grid_t, grid_h, grid_w;
    int frames, width, height;          /* target size */
    int source_width, source_height;    /* of rgb */
    enum resampler kind;
    uint8_t *rgb; /* (frames, source_height, source_width, 3), owned */
    float values[3][256];
};
int image_picture(const struct image *im, const struct model_config *config, enum resampler kind, struct prepared_picture *out, struct err *err);
int video_picture(const struct image *frames, int n, const struct model_config *config, enum resampler kind, struct prepared_picture *out, struct err *err);
void picture_free(struct prepared_picture *p);

#endif
