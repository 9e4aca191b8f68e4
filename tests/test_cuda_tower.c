/* The vision tower of the CUDA backend against that of the CPU backend: pictures of several sizes and videos, the same ones again (captured
 * graphs from the second time on), many in one batch, as patches and as bytes. */
#include "backend/cuda/cuda.h"
#include "golden.h"
#include "made_checkpoint.h"
#include "picture_patches.h"

static struct checkpoint *c;
static struct backend_model *gpu, *cpu;
static const struct model_config *config;

/* Frames of random bytes, of any grid: also those that the configuration would resize. */
static struct prepared_picture picture_new(int groups, int grid_h, int grid_w) {
    int patch = config->vision.patch, frames = groups == 1 ? 1 : groups * config->vision.temporal_patch - 1; /* the last one repeated */
    struct prepared_picture p = {.grid_t = groups, .grid_h = grid_h, .grid_w = grid_w, .frames = frames, .width = grid_w * patch, .height = grid_h * patch,
                                  .source_width = grid_w * patch, .source_height = grid_h * patch};
    if (groups == 1 && grid_h % 3 == 0) p.source_width = p.width * 3 / 4 + 1, p.source_height = p.height * 2; /* resized both ways */
    if (groups == 1 && grid_h == 4) p.source_height = p.height / 2, p.kind = RESAMPLE_PILLOW;                /* and one only */
    size_t bytes = (size_t)frames * (size_t)p.source_width * (size_t)p.source_height * 3;
    p.rgb = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) p.rgb[i] = (uint8_t)(random_bits() >> 5);
    for (int ch = 0; ch < 3; ch++)
        for (int i = 0; i < 256; i++) p.values[ch][i] = ((float)i - 120 - (float)ch) / 100;
    return p;
}

static void near(const char *what, const struct prepared_picture *p, const struct vision_features *a, const struct vision_features *b) {
    assert_int_equal(a->tokens, b->tokens);
    assert_int_equal(a->levels, b->levels);
    size_t n = (size_t)a->tokens * (size_t)config->vision.out_hidden;
    for (int l = 0; l < a->levels; l++) {
        double d = relative_distance(a->values + (size_t)l * n, b->values + (size_t)l * n, n);
        if (!(d <= 0.01)) fail_msg("%s, %d x %d x %d patches, level %d: distance %.3g, expected at most 0.01", what, p->grid_t, p->grid_h, p->grid_w, l, d);
    }
}

/* As bytes and as patches a picture is the same; still and clip, resized. */
static void prepared(void **unused) {
    (void)unused;
    struct err err = {0};
    struct image im[3];
    for (int f = 0; f < 3; f++) {
        im[f] = (struct image){130, 75, malloc(130 * 75 * 3)};
        for (int i = 0; i < 130 * 75 * 3; i++) im[f].rgb[i] = (uint8_t)(random_bits() >> 5);
    }
    for (int clip = 0; clip < 2; clip++) {
        struct patches want;
        struct prepared_picture p;
        if (clip ? video_patches(im, 3, config, RESAMPLE_TORCHVISION, &want, &err) : image_patches(im, config, RESAMPLE_TORCHVISION, &want, &err)) fail_msg("%s", err.message);
        if (clip ? video_picture(im, 3, config, RESAMPLE_TORCHVISION, &p, &err) : image_picture(im, config, RESAMPLE_TORCHVISION, &p, &err)) fail_msg("%s", err.message);
        struct patches got = picture_patches(&p, config);
        assert_int_equal(got.count, want.count);
        assert_int_equal(got.grid_h, want.grid_h);
        assert_memory_equal(got.values, want.values, (size_t)(want.count * want.width) * sizeof(float));
        patches_free(&got);
        patches_free(&want);
        picture_free(&p);
    }
    for (int f = 0; f < 3; f++) image_free(&im[f]);
}

static const int sizes[][3] = {{1, 4, 4}, {1, 12, 14}, {1, 2, 70}, {4, 4, 4}, {3, 4, 6}, {1, 4, 18}, {1, 6, 8}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void against_cpu(void **unused) {
    (void)unused;
    struct err err = {0};
    struct prepared_picture p[SIZES];
    struct vision_features want[SIZES], got[SIZES] = {0}, one = {0};
    for (int i = 0; i < SIZES; i++) {
        p[i] = picture_new(sizes[i][0], sizes[i][1], sizes[i][2]);
        struct patches patches = picture_patches(&p[i], config);
        if (backend_cpu.encode_image(cpu, &patches, &want[i], &err)) fail_msg("%s", err.message);
        if (backend_cuda.encode_image(gpu, &patches, &one, &err)) fail_msg("%s", err.message);
        near("patches", &p[i], &one, &want[i]);
        vision_features_free(&one);
        patches_free(&patches);
    }
    for (int again = 0; again < 3; again++)
        for (int i = 0; i < 3; i++) {
            float *mine = again == 2 ? malloc((size_t)want[i].levels * (size_t)want[i].tokens * (size_t)config->vision.out_hidden * sizeof *mine) : NULL;
            one.values = mine;
            if (backend_cuda.encode_pictures(gpu, &p[i], 1, &one, &err)) fail_msg("%s", err.message);
            assert_true(!mine || one.values == mine);
            near(again == 0 ? "bytes" : again == 1 ? "captured" : "replayed", &p[i], &one, &want[i]);
            vision_features_free(&one);
        }
    for (int i = 0; i < SIZES; i++) { /* straight to pinned memory, all in one batch */
        got[i].values = backend_cuda.host_alloc(gpu, (size_t)want[i].levels * (size_t)want[i].tokens * (size_t)config->vision.out_hidden * sizeof *got[i].values);
        got[i].pinned = true;
        assert_non_null(got[i].values);
    }
    if (backend_cuda.encode_pictures(gpu, p, SIZES, got, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < SIZES; i++) {
        assert_true(got[i].pinned);
        near("to pinned memory", &p[i], &got[i], &want[i]);
        backend_cuda.host_free(gpu, got[i].values);
        got[i] = (struct vision_features){0};
    }
    for (int again = 0; again < 3; again++) {
        if (backend_cuda.encode_pictures(gpu, p, SIZES, got, &err)) fail_msg("%s", err.message);
        for (int i = 0; i < SIZES; i++) {
            near("in one batch", &p[i], &got[i], &want[i]);
            vision_features_free(&got[i]);
        }
    }
    struct prepared_picture many[40]; /* more than one batch holds */
    struct vision_features each[40] = {0};
    for (int i = 0; i < 40; i++) many[i] = p[i % 2];
    if (backend_cuda.encode_pictures(gpu, many, 40, each, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < 40; i++) {
        near("40 pictures", &many[i], &each[i], &want[i % 2]);
        vision_features_free(&each[i]);
    }
    for (int i = 0; i < SIZES; i++) {
        vision_features_free(&want[i]);
        picture_free(&p[i]);
    }
}

static void refused(void **unused) {
    (void)unused;
    struct err err = {0};
    struct prepared_picture p[2] = {picture_new(1, 4, 4), picture_new(1, 4, 4)};
    struct vision_features f[2] = {0};
    p[1].grid_h = 3;
    assert_int_equal(backend_cuda.encode_pictures(gpu, p, 2, f, &err), ERR_ARGUMENT);
    assert_null(f[0].values);
    assert_null(f[1].values);
    picture_free(&p[0]);
    picture_free(&p[1]);
}

int main(void) {
    struct err err = {0};
    struct backend_options o = {.threads = 2, .kv_bytes = 16 << 20};
    char folder[64];
    made_checkpoint(MADE_BF16, folder);
    if (checkpoint_open(folder, &c, &err) || backend_cpu.load(c, &o, &cpu, &err) || backend_cuda.load(c, &o, &gpu, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    config = checkpoint_config(c);
    const struct CMUnitTest tests[] = {cmocka_unit_test(prepared), cmocka_unit_test(against_cpu), cmocka_unit_test(refused)};
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    backend_cuda.unload(gpu);
    backend_cpu.unload(cpu);
    checkpoint_close(c);
    made_remove(folder);
    return r;
}
