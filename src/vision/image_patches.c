/* Target size, normalisation and patch order of Qwen2VLImageProcessor and Qwen3VLVideoProcessor (facts §5.2 to §5.4; checked against
 * transformers 5.23). */
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "vision/image.h"

/* Python's round(): ties to even, which is nearbyint in the default rounding mode. */
static double round_even(double v) { return nearbyint(v); }

static double floor_sides(double side, double beta, double factor) {
    double v = floor(side / beta / factor) * factor;
    return v < factor ? factor : v;
}

/* frames 1 for images; for videos the budget is over the clip: n frames, counted as t_bar (rounded to whole groups). */
static int target_size(double frames, double t_bar, double height, double width, double factor, double min_pixels, double max_pixels,
                       int *out_height, int *out_width, struct err *err) {
    double longer = height > width ? height : width, shorter = height > width ? width : height;
    if (longer / shorter > 200)
        return err_set(err, ERR_LIMIT, "image: expected an aspect ratio of at most 200, found %g x %g pixels (%.1f)", width, height,
                       longer / shorter);
    double h = round_even(height / factor) * factor, w = round_even(width / factor) * factor;
    if (t_bar * h * w > max_pixels) {
        double beta = sqrt(frames * height * width / max_pixels);
        h = floor_sides(height, beta, factor);
        w = floor_sides(width, beta, factor);
    } else if (t_bar * h * w < min_pixels) {
        double beta = sqrt(min_pixels / (frames * height * width));
        h = ceil(height * beta / factor) * factor;
        w = ceil(width * beta / factor) * factor;
    }
    if (h < 1 || w < 1 || h > 1 << 24 || w > 1 << 24 || h * w > (double)INT32_MAX)
        return err_set(err, ERR_LIMIT, "image: %g x %g pixels would be resized to %g x %g with min_pixels %g and max_pixels %g", width,
                       height, w, h, min_pixels, max_pixels);
    *out_height = (int)h;
    *out_width = (int)w;
    return 0;
}

int image_target_size(int height, int width, int factor, int64_t min_pixels, int64_t max_pixels, int *out_height, int *out_width,
                      struct err *err) {
    if (height < 1 || width < 1 || factor < 1 || min_pixels < 1 || max_pixels < 1)
        return err_set(err, ERR_ARGUMENT, "image: expected positive sides and limits, found %d x %d, factor %d, pixels %" PRId64 " to %" PRId64,
                       width, height, factor, min_pixels, max_pixels);
    return target_size(1, 1, height, width, factor, (double)min_pixels, (double)max_pixels, out_height, out_width, err);
}

/* Fused rescale and normalisation, as the processor does it: fp32 (x - mean * 255) / (std * 255), a table per channel. */
static void normalisation(float table[3][256], const struct image_config *config) {
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) table[c][v] = ((float)v - config->mean[c] * 255.0f) / (config->std[c] * 255.0f);
}

/* One temporal group: frames (temporal) pictures of the target size -> count patches, blocks of merge x merge first. */
static float *group_patches(float *to, const uint8_t *const *frames, int height, int width, const struct vision_config *v,
                            float table[3][256]) {
    int p = v->patch, m = v->merge, block = p * m;
    for (int by = 0; by < height; by += block)
        for (int bx = 0; bx < width; bx += block)
            for (int iy = 0; iy < m; iy++)
                for (int ix = 0; ix < m; ix++)
                    for (int c = 0; c < 3; c++)
                        for (int t = 0; t < v->temporal_patch; t++)
                            for (int y = 0; y < p; y++) {
                                const uint8_t *row =
                                    frames[t] + ((size_t)(by + iy * p + y) * width + (size_t)(bx + ix * p)) * 3 + c;
                                for (int x = 0; x < p; x++) *to++ = table[c][row[3 * x]];
                            }
    return to;
}

static int check_config(const struct model_config *config, struct err *err) {
    const struct vision_config *v = &config->vision;
    if (v->channels != 3 || v->patch < 1 || v->merge < 1 || v->temporal_patch < 1 || v->temporal_patch > 64)
        return err_set(err, ERR_ARGUMENT,
                       "image: expected 3 channels, positive patch and merge sizes and 1 to 64 frames a patch, found %d, %d, %d, %d",
                       v->channels, v->patch, v->merge, v->temporal_patch);
    return 0;
}

/* n frames resized to dh x dw (n padded with the last to whole groups) -> out.. */
static int make_patches(const struct image *frames, int n, bool still, int dh, int dw, const struct model_config *config,
                        const struct image_config *limits, enum resampler kind, struct patches *out, struct err *err) {
    const struct vision_config *v = &config->vision;
    int temporal = v->temporal_patch, groups = still ? 1 : (n + temporal - 1) / temporal;
    out->grid_t = groups;
    out->grid_h = dh / v->patch;
    out->grid_w = dw / v->patch;
    out->count = (int64_t)groups * out->grid_h * out->grid_w;
    out->width = (int64_t)3 * temporal * v->patch * v->patch;
    size_t frame_bytes = (size_t)dh * dw * 3;
    int own = still ? 1 : temporal; /* resized frames held at once */
    uint8_t *resized = malloc(frame_bytes * (size_t)own);
    out->values = malloc((size_t)out->count * (size_t)out->width * sizeof(float));
    if (!resized || !out->values) {
        free(resized);
        patches_free(out);
        return err_set(err, ERR_MEMORY, "image: out of memory for %d groups of %d x %d pixels", groups, dw, dh);
    }
    float table[3][256];
    normalisation(table, limits);
    float *to = out->values;
    int code = 0;
    for (int g = 0; g < groups && !code; g++) {
        const uint8_t *group[64];
        for (int t = 0; t < temporal && !code; t++) {
            int f = still ? 0 : g * temporal + t, slot = still ? 0 : t;
            group[t] = resized + frame_bytes * (size_t)slot;
            if (f >= n) group[t] = group[t - 1]; /* the last frame repeated */
            else if (!still || t == 0)
                code = image_resize(frames[f].rgb, frames[f].height, frames[f].width, resized + frame_bytes * (size_t)slot, dh, dw, kind, err);
        }
        if (!code) to = group_patches(to, group, dh, dw, v, table);
    }
    free(resized);
    if (code) patches_free(out);
    return code;
}

enum { DEVICE_RESIZE_PIXELS = 1 << 21 }; /* stills up to so large are left to the device as they are */

/* n frames of the target size dh x dw, or what becomes that -> out. */
static int make_picture(const struct image *frames, int n, int dh, int dw, const struct model_config *config, const struct image_config *limits,
                        enum resampler kind, struct prepared_picture *out, struct err *err) {
    const struct vision_config *v = &config->vision;
    bool as_is = n == 1 && (int64_t)frames->height * frames->width <= DEVICE_RESIZE_PIXELS;
    int sh = as_is ? frames->height : dh, sw = as_is ? frames->width : dw, code = 0;
    size_t frame_bytes = (size_t)sh * (size_t)sw * 3;
    *out = (struct prepared_picture){.grid_t = (n + v->temporal_patch - 1) / v->temporal_patch, .grid_h = dh / v->patch, .grid_w = dw / v->patch,
                                     .frames = n, .width = dw, .height = dh, .source_width = sw, .source_height = sh, .kind = kind,
                                     .rgb = malloc(frame_bytes * (size_t)n)};
    if (!out->rgb) return err_set(err, ERR_MEMORY, "image: out of memory for %d frames of %d x %d pixels", n, sw, sh);
    normalisation(out->values, limits);
    for (int f = 0; f < n && !code; f++)
        code = image_resize(frames[f].rgb, frames[f].height, frames[f].width, out->rgb + frame_bytes * (size_t)f, sh, sw, kind, err);
    if (code) picture_free(out);
    return code;
}

static int still_size(const struct image *im, const struct model_config *config, int *dh, int *dw, struct err *err) {
    int code = check_config(config, err);
    return code ? code : image_target_size(im->height, im->width, config->vision.patch * config->vision.merge, config->image.min_pixels,
                                           config->image.max_pixels, dh, dw, err);
}

int image_patches(const struct image *im, const struct model_config *config, enum resampler kind, struct patches *out, struct err *err) {
    *out = (struct patches){0};
    int dh, dw, code = still_size(im, config, &dh, &dw, err);
    return code ? code : make_patches(im, 1, true, dh, dw, config, &config->image, kind, out, err);
}

int image_picture(const struct image *im, const struct model_config *config, enum resampler kind, struct prepared_picture *out, struct err *err) {
    *out = (struct prepared_picture){0};
    int dh, dw, code = still_size(im, config, &dh, &dw, err);
    return code ? code : make_picture(im, 1, dh, dw, config, &config->image, kind, out, err);
}

static int clip_size(const struct image *frames, int n, const struct model_config *config, int *dh, int *dw, struct err *err) {
    int code = check_config(config, err);
    if (code) return code;
    int temporal = config->vision.temporal_patch, factor = config->vision.patch * config->vision.merge;
    if (n < temporal) return err_set(err, ERR_ARGUMENT, "video: expected at least %d frames, found %d", temporal, n);
    for (int i = 0; i < n; i++)
        if (frames[i].width != frames[0].width || frames[i].height != frames[0].height || frames[i].width < 1 || frames[i].height < 1)
            return err_set(err, ERR_ARGUMENT, "video: expected every frame to be %d x %d pixels like the first, found %d x %d in frame %d",
                           frames[0].width, frames[0].height, frames[i].width, frames[i].height, i);
    double height = frames[0].height, width = frames[0].width;
    if (height < factor || width < factor) {
        double scale = fmax(factor / height, factor / width);
        height = trunc(height * scale);
        width = trunc(width * scale);
    }
    return target_size(n, round_even((double)n / temporal) * temporal, height, width, factor, (double)config->video.min_pixels,
                       (double)config->video.max_pixels, dh, dw, err);
}

int video_patches(const struct image *frames, int n, const struct model_config *config, enum resampler kind, struct patches *out,
                  struct err *err) {
    *out = (struct patches){0};
    int dh, dw, code = clip_size(frames, n, config, &dh, &dw, err);
    return code ? code : make_patches(frames, n, false, dh, dw, config, &config->video, kind, out, err);
}

int video_picture(const struct image *frames, int n, const struct model_config *config, enum resampler kind, struct prepared_picture *out, struct err *err) {
    *out = (struct prepared_picture){0};
    int dh, dw, code = clip_size(frames, n, config, &dh, &dw, err);
    return code ? code : make_picture(frames, n, dh, dw, config, &config->video, kind, out, err);
}

void patches_free(struct patches *p) {
    free(p->values);
    *p = (struct patches){0};
}

void picture_free(struct prepared_picture *p) {
    free(p->rgb);
    *p = (struct prepared_picture){0};
}
