#include "engine/features.h"

#include <stdlib.h>

#include "base/clock.h"
#include "engine/room.h"

struct feature_entry {
    struct vision_features features; /* first: features_put is handed its address */
    struct hash128 key;
    size_t bytes;
    int users;               /* whoever encodes it, waits for it or uses it */
    bool ready, failed;      /* neither: being encoded */
    struct feature_entry *newer, *older;
};

/* ---- pictures ---- */

static struct hash128 visual_hash(const struct qvl_model *m, const struct visual *v) {
    const int32_t prepared[] = {v->frame_count, v->video, v->grid_t, v->grid_h, v->grid_w, (int32_t)m->resampler};
    struct hash128 h = hash_bytes(prepared, sizeof prepared, 2);
    for (int i = 0; i < v->frame_count; i++) {
        const struct image *im = &v->frames[i];
        struct hash128 parts[3] = {h, {(uint64_t)im->width, (uint64_t)im->height},
                                   hash_bytes(im->rgb, (size_t)im->width * (size_t)im->height * 3, 0)};
        h = hash_bytes(parts, sizeof parts, 1);
    }
    return h;
}

static int find_grid(struct qvl_model *m, struct visual *v, struct err *err) {
    const struct model_config *c = m->config;
    int height, width;
    if (v->video) { /* the size rule runs over the clip: let the preparation itself tell */
        struct patches p;
        int r = video_patches(v->frames, v->frame_count, c, m->resampler, &p, err);
        if (r) return r;
        v->grid_t = p.grid_t, v->grid_h = p.grid_h, v->grid_w = p.grid_w;
        patches_free(&p);
    } else {
        int r = image_target_size(v->frames[0].height, v->frames[0].width, c->vision.patch * c->vision.merge, c->image.min_pixels,
                                  c->image.max_pixels, &height, &width, err);
        if (r) return r;
        v->grid_t = 1, v->grid_h = height / c->vision.patch, v->grid_w = width / c->vision.patch;
    }
    v->tokens = (int64_t)v->grid_t * v->grid_h * v->grid_w / (c->vision.merge * c->vision.merge);
    return 0;
}

int visual_new(struct qvl_model *m, struct image *frames, int count, bool video, double fps, struct visual **out,
               struct err *err) {
    *out = NULL;
    struct visual *v = calloc(1, sizeof *v);
    struct image *copy = calloc((size_t)count, sizeof *copy);
    if (!v || !copy) {
        free(v);
        free(copy);
        for (int i = 0; i < count; i++) image_free(&frames[i]);
        return err_set(err, ERR_MEMORY, "out of memory for a picture");
    }
    memcpy(copy, frames, (size_t)count * sizeof *copy);
    *v = (struct visual){.refs = 1, .frame_count = count, .frames = copy, .video = video, .fps = fps};
    int r = find_grid(m, v, err);
    if (r) {
        visual_drop(v);
        return r;
    }
    v->hash = visual_hash(m, v);
    *out = v;
    return 0;
}

void visual_hold(struct visual *v) { __atomic_add_fetch(&v->refs, 1, __ATOMIC_RELAXED); }

void visual_drop(struct visual *v) {
    if (!v || __atomic_sub_fetch(&v->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
    for (int i = 0; i < v->frame_count; i++) image_free(&v->frames[i]);
    free(v->frames);
    free(v);
}

/* ---- memory for features ----
 *
 * Fresh memory is dear: 2.3 MB (a picture of a game, 2B) cost 1 to 2 ms of page faults on the machines measured, as much as the picture itself.
 * So what the cache lets go is taken again, and while the device is held nothing is allocated here. Where the device copies faster from and to
 * memory of its own kind (host_alloc), features lie there. */

struct spare_block {
    struct spare_block *next;
    size_t bytes;
};

static bool is_pinned(const struct feature_cache *c) { return c->backend && c->backend->host_alloc; }

static float *memory_new(const struct feature_cache *c, size_t bytes) { return is_pinned(c) ? c->backend->host_alloc(c->device, bytes) : malloc(bytes); }

static void memory_free(const struct feature_cache *c, void *memory) {
    if (is_pinned(c)) c->backend->host_free(c->device, memory);
    else free(memory);
}

/* The lock is held. NULL: none of that size. */
static float *spare_take(struct feature_cache *c, size_t bytes) {
    for (struct spare_block **at = &c->spare; *at; at = &(*at)->next) {
        struct spare_block *b = *at;
        if (b->bytes != bytes) continue;
        *at = b->next;
        c->spare_count--;
        return (float *)b;
    }
    return NULL;
}

static void spare_give(struct feature_cache *c, float *values, size_t bytes) {
    if (c->spare_count == SPARE_BLOCKS || bytes < sizeof(struct spare_block)) return memory_free(c, values);
    struct spare_block *b = (struct spare_block *)values;
    *b = (struct spare_block){c->spare, bytes};
    c->spare = b;
    c->spare_count++;
}

/* ---- the cache ---- */

static void unlink_entry(struct feature_cache *c, struct feature_entry *e) {
    if (e->newer) e->newer->older = e->older;
    else c->newest = e->older;
    if (e->older) e->older->newer = e->newer;
    else c->oldest = e->newer;
}

static void link_newest(struct feature_cache *c, struct feature_entry *e) {
    e->newer = NULL;
    e->older = c->newest;
    if (c->newest) c->newest->newer = e;
    else c->oldest = e;
    c->newest = e;
}

void features_trim(struct feature_cache *c) {
    for (struct feature_entry *e = c->oldest, *newer; e && c->bytes + c->coming > c->limit; e = newer) {
        newer = e->newer;
        if (e->users) continue;
        unlink_entry(c, e);
        c->bytes -= e->bytes;
        spare_give(c, e->features.values, e->bytes);
        free(e);
    }
}

static struct feature_entry *find(struct feature_cache *c, struct hash128 key) {
    for (struct feature_entry *e = c->newest; e; e = e->older)
        if (hash_equal(e->key, key)) {
            unlink_entry(c, e);
            link_newest(c, e);
            return e;
        }
    return NULL;
}

/* ---- encoding: pictures that wait at the same time are encoded together: any, by a device that makes the patches itself (encode_pictures);
 * else those of one size, like the groups of a video, between which there is no attention. A small picture keeps a GPU a few percent busy, so
 * that sixteen of them take little longer than one; while the device is taken nothing else is done than what must be: of patches encoded
 * together each takes his own part out of the result afterwards. ---- */

struct encoded_together {
    struct vision_features all; /* (levels, count * tokens, hidden) */
    int count, users;           /* users: who have not taken their part yet; guarded by the model's lock */
};

struct encode_request {
    struct turn_request turn;         /* first: the queue hands out its address */
    struct patches patches;           /* grid and count in any case */
    struct prepared_picture picture;  /* for encode_pictures, or empty */
    size_t bytes;                     /* of the memory for its features */
    struct vision_features *features;
    struct encoded_together *of; /* NULL: it failed */
    int part;
    struct err err;
    int code;
};

static bool alike(const struct encode_request *x, const struct encode_request *y) {
    const struct patches *a = &x->patches, *b = &y->patches;
    if (x->picture.rgb && y->picture.rgb) return true;
    return !x->picture.rgb && !y->picture.rgb && a->grid_t == 1 && b->grid_t == 1 && a->grid_h == b->grid_h && a->grid_w == b->grid_w && a->width == b->width;
}

/* The first that waits, and those behind it that can go with it. The lock is held. */
static int take_requests(struct turns *t, struct encode_request *taken[ENCODE_TOGETHER]) {
    int count = 0;
    int64_t patches = 0;
    for (struct turn_request *at = t->first, *next; at && count < ENCODE_TOGETHER; at = next) {
        struct encode_request *r = (struct encode_request *)at;
        next = at->next;
        if (at->kind != TURN_PICTURE || (count && (!alike(taken[0], r) || patches + r->patches.count > ENCODE_PATCHES))) continue;
        turns_take(t, at);
        patches += r->patches.count;
        taken[count++] = r;
    }
    return count;
}

/* Into the memory that each asker has brought. */
static int encode_pictures(struct qvl_model *m, struct encode_request **taken, int count, struct err *err) {
    struct prepared_picture *pictures = calloc((size_t)count, sizeof *pictures);
    struct vision_features f[ENCODE_TOGETHER];
    if (!pictures) return err_set(err, ERR_MEMORY, "out of memory for %d pictures", count);
    for (int i = 0; i < count; i++) pictures[i] = taken[i]->picture, f[i] = *taken[i]->features;
    int code = m->backend->encode_pictures(m->device, pictures, count, f, err);
    for (int i = 0; i < count && !code; i++) *taken[i]->features = f[i];
    free(pictures);
    return code;
}

/* One pass for all; negative: it failed (the first has the reason). Only whoever has the device comes here. */
static int encode_together(struct qvl_model *m, struct encode_request **taken, int count) {
    struct feature_cache *c = &m->features;
    if (taken[0]->picture.rgb) return encode_pictures(m, taken, count, &taken[0]->err);
    struct patches all = taken[0]->patches;
    int code = 0;
    size_t values = (size_t)all.count * (size_t)all.width, bytes = values * (size_t)count * sizeof *all.values;
    struct encoded_together *t = calloc(1, sizeof *t);
    if (count > 1 && bytes > c->staging_bytes) {
        while (c->spare) memory_free(c, spare_take(c, c->spare->bytes));
        free(c->staging);
        c->staging = malloc(bytes);
        c->staging_bytes = c->staging ? bytes : 0;
    }
    if (!t || (count > 1 && !c->staging)) code = err_set(&taken[0]->err, ERR_MEMORY, "out of memory for a picture");
    if (count > 1) all.grid_t = count, all.count *= count, all.values = c->staging;
    for (int i = 0; i < count && count > 1 && !code; i++) memcpy(all.values + (size_t)i * values, taken[i]->patches.values, values * sizeof *all.values);
    if (!code) code = m->backend->encode_image(m->device, &all, &t->all, &taken[0]->err);
    if (code) return free(t), code;
    t->count = t->users = count;
    for (int i = 0; i < count; i++) taken[i]->of = t, taken[i]->part = i;
    return 0;
}

static void encode_requests(struct qvl_model *m, struct encode_request **taken, int count) {
    if (count > 1 && !encode_together(m, taken, count)) return;
    for (int i = 0; i < count; i++) taken[i]->code = encode_together(m, &taken[i], 1); /* one that fails must not fail its neighbours */
}

/* What the device wants of a picture, and memory for its features where they come straight there. */
static int prepare(struct qvl_model *m, const struct visual *v, struct encode_request *r, struct err *err) {
    if (!m->backend->encode_pictures)
        return v->video ? video_patches(v->frames, v->frame_count, m->config, m->resampler, &r->patches, err)
                        : image_patches(&v->frames[0], m->config, m->resampler, &r->patches, err);
    struct prepared_picture *p = &r->picture;
    int code = v->video ? video_picture(v->frames, v->frame_count, m->config, m->resampler, p, err)
                        : image_picture(&v->frames[0], m->config, m->resampler, p, err);
    if (code) return code;
    r->patches.count = (int64_t)p->grid_t * p->grid_h * p->grid_w;
    r->bytes = (size_t)(1 + m->config->vision.deepstack_count) * (size_t)v->tokens * (size_t)m->config->text.hidden * sizeof(float);
    pthread_mutex_lock(&m->lock);
    r->features->values = spare_take(&m->features, r->bytes);
    pthread_mutex_unlock(&m->lock);
    if (!r->features->values) r->features->values = memory_new(&m->features, r->bytes);
    r->features->pinned = is_pinned(&m->features);
    if (r->features->values) return 0;
    picture_free(p);
    return err_set(err, ERR_MEMORY, "out of memory for a picture");
}

/* Copies a request's part out of what was encoded together. */
static void take_part(struct qvl_model *m, struct encode_request *r) {
    struct encoded_together *t = r->of;
    const struct vision_features *f = &t->all;
    size_t rows = (size_t)(f->tokens / t->count) * (size_t)m->config->text.hidden; /* floats of a level of one picture */
    size_t bytes = (size_t)f->levels * rows * sizeof *f->values;
    pthread_mutex_lock(&m->lock);
    float *values = spare_take(&m->features, bytes);
    pthread_mutex_unlock(&m->lock);
    *r->features = (struct vision_features){t->count > 1 ? 1 : f->grid_t, f->grid_h, f->grid_w, f->tokens / t->count, f->levels,
                                           values ? values : memory_new(&m->features, bytes), is_pinned(&m->features)};
    for (int l = 0; l < f->levels && r->features->values; l++)
        memcpy(r->features->values + (size_t)l * rows, f->values + ((size_t)l * (size_t)t->count + (size_t)r->part) * rows, rows * sizeof *f->values);
    if (!r->features->values) r->code = err_set(&r->err, ERR_MEMORY, "out of memory for a picture");
    pthread_mutex_lock(&m->lock);
    bool last = --t->users == 0;
    pthread_mutex_unlock(&m->lock);
    if (!last) return;
    vision_features_free(&t->all);
    free(t);
}

int features_turn(struct qvl_model *m, struct turn_request *served[TURNS_SERVED]) {
    struct encode_request *taken[ENCODE_TOGETHER];
    int count = take_requests(&m->turns, taken);
    pthread_mutex_unlock(&m->lock);
    double start = clock_seconds();
    encode_requests(m, taken, count);
    pthread_mutex_lock(&m->lock);
    m->features.passes++;
    m->features.seconds += clock_seconds() - start;
    for (int i = 0; i < count; i++) served[i] = &taken[i]->turn;
    return count;
}

static int encode(struct qvl_model *m, const struct visual *v, struct vision_features *f, struct err *err) {
    struct encode_request mine = {.turn = {.kind = TURN_PICTURE, .who = pthread_self()}, .features = f};
    struct feature_cache *c = &m->features;
    *f = (struct vision_features){0};
    int r = prepare(m, v, &mine, err);
    if (r) return r;
    turns_serve(m, &mine.turn);
    if (mine.of) take_part(m, &mine);
    if (mine.code && mine.picture.rgb) {
        pthread_mutex_lock(&m->lock);
        spare_give(c, f->values, mine.bytes);
        pthread_mutex_unlock(&m->lock);
        *f = (struct vision_features){0};
    }
    patches_free(&mine.patches);
    picture_free(&mine.picture);
    if ((r = mine.code) && err) *err = mine.err;
    if (!r && f->tokens != v->tokens) {
        err_set(err, ERR_STATE, "picture: %lld features for %lld tokens", (long long)f->tokens, (long long)v->tokens);
        memory_free(c, f->values);
        *f = (struct vision_features){0};
        r = ERR_STATE;
    }
    return r;
}

/* Gives up one use of an entry that failed; it is in the list no more. The lock is held. */
static void leave_failed(struct feature_entry *e) {
    if (--e->users == 0) free(e);
}

/* The entry, held, once it is ready: in the cache, or encoded by another thread while this one waits. NULL: neither. Called with
 * the lock held. */
static struct feature_entry *wait_for(struct qvl_model *m, const struct visual *v) {
    for (struct feature_entry *e; (e = find(&m->features, v->hash));) {
        e->users++;
        while (!e->ready && !e->failed) pthread_cond_wait(&m->idle, &m->lock);
        if (e->ready) return e;
        leave_failed(e);
    }
    return NULL;
}

static int encode_entry(struct qvl_model *m, const struct visual *v, struct feature_entry *e, double *seconds, struct err *err) {
    double start = clock_seconds();
    size_t bytes = (size_t)(1 + m->config->vision.deepstack_count) * (size_t)v->tokens * (size_t)m->config->text.hidden * sizeof(float);
    pthread_mutex_lock(&m->lock);
    m->features.coming += bytes;
    features_trim(&m->features); /* now: the memory is then taken again, by this picture */
    pthread_mutex_unlock(&m->lock);
    int r = encode(m, v, &e->features, err);
    *seconds += clock_seconds() - start;
    pthread_mutex_lock(&m->lock);
    m->features.coming -= bytes;
    if (r) {
        e->failed = true;
        unlink_entry(&m->features, e);
        leave_failed(e);
    } else {
        e->ready = true;
        e->bytes = (size_t)e->features.levels * (size_t)e->features.tokens * (size_t)m->config->text.hidden * sizeof(float);
        m->features.bytes += e->bytes;
        m->features.encoded++;
        features_trim(&m->features);
    }
    pthread_cond_broadcast(&m->idle);
    pthread_mutex_unlock(&m->lock);
    return r;
}

int features_get(struct qvl_model *m, const struct visual *v, const struct vision_features **out, double *seconds,
                 struct err *err) {
    double start = clock_seconds();
    pthread_mutex_lock(&m->lock);
    bool waits = find(&m->features, v->hash) && !m->features.newest->ready;
    struct feature_entry *e = wait_for(m, v);
    if (e) {
        m->features.reused++;
        if (waits) *seconds += clock_seconds() - start;
    } else if ((e = calloc(1, sizeof *e))) {
        e->key = v->hash;
        e->users = 1;
        link_newest(&m->features, e);
    }
    pthread_mutex_unlock(&m->lock);
    if (!e) return err_set(err, ERR_MEMORY, "out of memory for a picture");
    int r = e->ready ? 0 : encode_entry(m, v, e, seconds, err);
    if (!r) *out = &e->features;
    return r;
}

void features_put(struct qvl_model *m, const struct vision_features *f) {
    struct feature_entry *e = (struct feature_entry *)f;
    pthread_mutex_lock(&m->lock);
    e->users--;
    features_trim(&m->features);
    pthread_mutex_unlock(&m->lock);
}

void features_free(struct feature_cache *c) {
    for (struct feature_entry *e = c->oldest, *newer; e; e = newer) {
        newer = e->newer;
        memory_free(c, e->features.values);
        free(e);
    }
    while (c->spare) memory_free(c, spare_take(c, c->spare->bytes));
    free(c->staging);
    *c = (struct feature_cache){0};
}
