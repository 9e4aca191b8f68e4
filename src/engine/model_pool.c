#include "engine/model_pool.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/err.h"

struct pooled_model {
    char *folder;             /* real path; NULL = free slot */
    struct qvl_model *model;  /* NULL while loading */
    int users;                /* loading counts as use */
    uint64_t used;
};

struct model_pool {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct qvl_options options;
    int most;
    struct pooled_model *slots; /* (most) */
    uint64_t clock;
    struct model_pool_counts counts;
};

int model_pool_new(int most, const struct qvl_options *options, struct model_pool **out, struct err *err) {
    *out = NULL;
    if (most == 0) most = 2;
    if (most < 1 || most > 64) return err_set(err, ERR_ARGUMENT, "model pool: expected 1 to 64 loaded models, found %d", most);
    struct model_pool *p = calloc(1, sizeof *p);
    if (p) p->slots = calloc((size_t)most, sizeof *p->slots);
    if (!p || !p->slots) {
        free(p);
        return err_set(err, ERR_MEMORY, "out of memory for a model pool");
    }
    p->most = most;
    if (options) p->options = *options;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    *out = p;
    return 0;
}

void model_pool_free(struct model_pool *p) {
    if (!p) return;
    for (int i = 0; i < p->most; i++) {
        qvl_unload(p->slots[i].model);
        free(p->slots[i].folder);
    }
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p->slots);
    free(p);
}

static struct pooled_model *find(struct model_pool *p, const char *folder) {
    for (int i = 0; i < p->most; i++)
        if (p->slots[i].folder && !strcmp(p->slots[i].folder, folder)) return &p->slots[i];
    return NULL;
}

static int all_in_use(struct model_pool *p, const char *folder, struct err *err) {
    struct buf names = {0};
    for (int i = 0; i < p->most; i++) buf_printf(&names, "%s%s", i ? ", " : "", p->slots[i].folder);
    int r = err_set(err, ERR_STATE, "%s cannot be loaded: %d models are loaded and in use, the most allowed (%.600s)", folder,
                    p->most, names.data ? names.data : "");
    buf_free(&names);
    return r;
}

/* Empties the slot of the model that was not used for longest, which the caller unloads without the lock; NULL: all are in use. The lock
 * is held. */
static struct pooled_model *empty_oldest(struct model_pool *p, struct qvl_model **evicted) {
    struct pooled_model *oldest = NULL;
    for (int i = 0; i < p->most; i++) {
        struct pooled_model *s = &p->slots[i];
        if (s->folder && s->users == 0 && (!oldest || s->used < oldest->used)) oldest = s;
    }
    if (!oldest) return NULL;
    *evicted = oldest->model;
    free(oldest->folder);
    *oldest = (struct pooled_model){0};
    p->counts.unloads++;
    return oldest;
}

/* A slot that is free, or whose model can go. The lock is held. */
static struct pooled_model *make_slot(struct model_pool *p, struct qvl_model **evicted) {
    *evicted = NULL;
    for (int i = 0; i < p->most; i++)
        if (!p->slots[i].folder) return &p->slots[i];
    return empty_oldest(p, evicted);
}

/* Loads into a slot of its own without holding the lock; others that want the folder wait for `changed`. While there is too little
 * memory, models that nobody uses go, the least recently used first. */
static int load_into(struct model_pool *p, struct pooled_model *slot, char *folder, struct qvl_model *evicted,
                     struct qvl_model **out, struct err *err) {
    *slot = (struct pooled_model){.folder = folder, .users = 1, .used = ++p->clock};
    pthread_mutex_unlock(&p->lock);
    qvl_unload(evicted); /* first: the new one may need its memory */
    int r = qvl_load(folder, &p->options, out, err);
    pthread_mutex_lock(&p->lock);
    while ((r == ERR_LIMIT || r == ERR_MEMORY) && empty_oldest(p, &evicted)) {
        pthread_mutex_unlock(&p->lock);
        qvl_unload(evicted);
        r = qvl_load(folder, &p->options, out, err);
        pthread_mutex_lock(&p->lock);
    }
    if (r) {
        free(slot->folder);
        *slot = (struct pooled_model){0};
    } else {
        slot->model = *out;
        p->counts.loads++;
    }
    pthread_cond_broadcast(&p->changed);
    return r;
}

int model_pool_acquire(struct model_pool *p, const char *folder, struct qvl_model **out, struct err *err) {
    *out = NULL;
    char *real = realpath(folder, NULL);
    if (!real) return err_set(err, ERR_MISSING, "%s: no such checkpoint folder", folder);
    int r = 0;
    pthread_mutex_lock(&p->lock);
    struct pooled_model *s;
    while ((s = find(p, real)) && !s->model) pthread_cond_wait(&p->changed, &p->lock);
    if (s) {
        s->users++;
        s->used = ++p->clock;
        p->counts.hits++;
        *out = s->model;
    } else {
        struct qvl_model *evicted;
        s = make_slot(p, &evicted);
        if (s) {
            r = load_into(p, s, real, evicted, out, err);
            real = NULL; /* the slot's, or freed with it */
        } else {
            r = all_in_use(p, folder, err);
        }
    }
    pthread_mutex_unlock(&p->lock);
    free(real);
    return r;
}

void model_pool_release(struct model_pool *p, struct qvl_model *m) {
    pthread_mutex_lock(&p->lock);
    for (int i = 0; m && i < p->most; i++)
        if (p->slots[i].model == m) p->slots[i].users--;
    pthread_mutex_unlock(&p->lock);
}

bool model_pool_loaded(struct model_pool *p, const char *folder) {
    char *real = realpath(folder, NULL);
    if (!real) return false;
    pthread_mutex_lock(&p->lock);
    struct pooled_model *s = find(p, real);
    bool loaded = s && s->model;
    pthread_mutex_unlock(&p->lock);
    free(real);
    return loaded;
}

void model_pool_count(struct model_pool *p, struct model_pool_counts *out) {
    pthread_mutex_lock(&p->lock);
    *out = p->counts;
    for (int i = 0; i < p->most; i++) {
        out->loaded += p->slots[i].model != NULL;
        out->in_use += p->slots[i].users > 0;
    }
    pthread_mutex_unlock(&p->lock);
}
