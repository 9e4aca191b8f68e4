/* Pictures from outside: decode, then (small ones) resize and cut into patches. */
#include <stddef.h>
#include <stdint.h>

#include "vision/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct model_config config = {
        .vision = {.patch = 16, .temporal_patch = 2, .merge = 2, .channels = 3},
        .image = {.min_pixels = 4096, .max_pixels = 65536, .mean = {0.5f, 0.5f, 0.5f}, .std = {0.5f, 0.5f, 0.5f}},
    };
    struct image im;
    struct err err;
    if (image_decode(data, size, 1 << 18, &im, &err) == 0) {
        struct patches p;
        if (image_patches(&im, &config, size & 1 ? RESAMPLE_PILLOW : RESAMPLE_TORCHVISION, &p, &err) == 0) patches_free(&p);
        image_free(&im);
    }
    return 0;
}
