/* What a device makes of a struct prepared_picture, in plain C. */
#ifndef TESTS_PICTURE_PATCHES_H
#define TESTS_PICTURE_PATCHES_H
#include <stdlib.h>

#include "vision/image.h"

/* The patches that image_patches makes of it: the plain way. */
static inline struct patches picture_patches(const struct prepared_picture *p, const struct model_config *config) {
    int patch = config->vision.patch, merge = config->vision.merge, temporal = config->vision.temporal_patch;
    struct patches out = {p->grid_t, p->grid_h, p->grid_w, (int64_t)p->grid_t * p->grid_h * p->grid_w, (int64_t)3 * temporal * patch * patch, NULL};
    float *to = out.values = malloc((size_t)(out.count * out.width) * sizeof(float));
    size_t frame = (size_t)p->width * (size_t)p->height * 3;
    uint8_t *rgb = malloc(frame * (size_t)p->frames);
    for (int f = 0; f < p->frames; f++)
        if (image_resize(p->rgb + (size_t)f * (size_t)p->source_width * (size_t)p->source_height * 3, p->source_height, p->source_width, rgb + (size_t)f * frame, p->height,
                         p->width, p->kind, NULL))
            abort();
    for (int g = 0; g < p->grid_t; g++)
        for (int i = 0; i < p->grid_h * p->grid_w; i++) {
            int unit = merge * merge, across = p->grid_w / merge, row = i / unit / across * merge + i % unit / merge, col = i / unit % across * merge + i % merge;
            for (int ch = 0; ch < 3; ch++)
                for (int t = 0; t < temporal; t++) {
                    int f = g * temporal + t < p->frames ? g * temporal + t : p->frames - 1;
                    for (int y = 0; y < patch; y++)
                        for (int x = 0; x < patch; x++)
                            *to++ = p->values[ch][rgb[(((size_t)f * (size_t)p->height + (size_t)(row * patch + y)) * (size_t)p->width + (size_t)(col * patch + x)) * 3 + (size_t)ch]];
                }
        }
    free(rgb);
    return out;
}

#endif
