/* Encoded pictures by content and preparation: the same picture is not encoded twice while its features are within the budget, nor
 * by two threads at once. The cache is guarded by the model's lock, which is not held while a picture is encoded. */
#ifndef ENGINE_FEATURES_H
#define ENGINE_FEATURES_H

#include "engine/hash.h"
#include "vision/image.h"

struct qvl_model;
struct vision_features;

/* A picture or video of a message; shared by forks. */
struct visual {
    int refs;                    /* atomic */
    struct hash128 hash;         /* of the pixels and how they are prepared */
    int frame_count;             /* 1 for a picture */
    struct image *frames;
    bool video;
    double fps;
    int grid_t, grid_h, grid_w;
    int64_t tokens;              /* of all groups */
};

/* Takes over the frames (also on failure). */
int visual_new(struct qvl_model *m, struct image *frames, int count, bool video, double fps, struct visual **out,
               struct err *err);
void visual_hold(struct visual *v);
void visual_drop(struct visual *v);

enum { ENCODE_TOGETHER = 32, ENCODE_PATCHES = 16384 }; /* pictures, and patches of several, in one pass */

enum { SPARE_BLOCKS = 8 };

struct feature_entry;
struct spare_block;
struct backend;
struct backend_model;
struct feature_cache {
    const struct backend *backend; /* whose host_alloc, if it has one, features live in */
    struct backend_model *device;
    struct feature_entry *newest, *oldest;
    struct spare_block *spare; /* memory that was let go */
    int spare_count;
    float *staging;          /* patches of several pictures side by side; of whoever has the device */
    size_t staging_bytes;
    int64_t passes;          /* of the tower */
    double seconds;          /* ... which took so long */
    size_t bytes, coming, limit; /* coming: of those being encoded */
    int64_t encoded, reused;
};

/* The features of v, encoding it when necessary (or waiting for a thread that does); hold until features_put. seconds is increased
 * by the time that takes. */
int features_get(struct qvl_model *m, const struct visual *v, const struct vision_features **out, double *seconds,
                 struct err *err);
void features_put(struct qvl_model *m, const struct vision_features *f);
/* Drops the oldest that nobody uses until the rest is within the limit. */
void features_trim(struct feature_cache *c);
void features_free(struct feature_cache *c);

#endif
