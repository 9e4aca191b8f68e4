#include "memory/memory.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/buf.h"
#include "base/file.h"
#include "memory/scratchpad.h"
#include "memory/vector_math.h"

struct memory {
    struct memory_options o;
    struct store *store;
    struct vector_index *index; /* NULL: no space */
    int64_t space;
    int dims;
    char *folder;
    pthread_mutex_t lock;
};

static void notice(const struct memory *m, const char *text) {
    if (m->o.notice && *text) m->o.notice(m->o.notice_user, text);
}

/* ---- opening: the index is the file, then what the store has beyond it ------------------------------------------------------------ */

static int take_embedding(void *user, int64_t keyframe, int level, const float *v, struct err *err) {
    struct memory *m = user;
    return vector_index_add(m->index, vector_id(keyframe, level), v, err);
}

/* A file that fits by its head but holds another number of vectors than the store has up to there: the store was changed. */
static int load_index(struct memory *m, struct err *err) {
    char note[600];
    int64_t upto = 0, count = 0;
    int used = vector_index_open_file(m->index, &upto, note);
    notice(m, note);
    if (used == 1) {
        struct vector_index_stats stats;
        vector_index_stats(m->index, &stats);
        if (store_embedding_count(m->store, m->space, upto, &count, err)) return err->code;
        if (count != stats.in_file) {
            vector_index_forget_file(m->index);
            notice(m, "the index does not hold what the store does (runs were removed or added out of order); deleted, it is made again");
            upto = 0;
        }
    }
    return store_embeddings(m->store, m->space, upto, take_embedding, m, err);
}

static int open_index(struct memory *m, const struct store_space *space, struct err *err) {
    char path[PATH_MAX], key[600];
    uint64_t store[2];
    store_identity(m->store, store);
    int n = snprintf(key, sizeof key, "%s|%s|%s|%d", space->identity, space->kind, space->game, space->dims);
    XXH128_hash_t h = XXH3_128bits_withSeed(key, (size_t)n < sizeof key ? (size_t)n : sizeof key - 1, store[0] ^ store[1]);
    snprintf(path, sizeof path, "%.*s/index-%lld.ivf", PATH_MAX - 40, m->folder, (long long)m->space);
    struct vector_index_options o = {.path = path, .dims = space->dims, .space = {h.low64, h.high64}, .exact_bytes = m->o.exact_bytes};
    if (vector_index_new(&o, &m->index, err) || load_index(m, err)) return err->code;
    if (m->o.read_only || !vector_index_wants_file(m->index)) return 0;
    struct vector_index_stats stats;
    struct err later;
    char text[1200];
    vector_index_stats(m->index, &stats);
    snprintf(text, sizeof text, "making the index of %lld memories", (long long)stats.vectors);
    notice(m, text);
    if (vector_index_rebuild(m->index, m->o.threads > 0 ? m->o.threads : 1, &later)) {
        snprintf(text, sizeof text, "%s; memories are searched exactly, which is slower", later.message);
        notice(m, text);
    }
    return 0;
}

int memory_open(const struct memory_options *o, struct memory **out, struct err *err) {
    struct err local;
    if (!err) err = &local;
    *out = NULL;
    struct memory *m = calloc(1, sizeof *m);
    if (!m || !(m->folder = strdup(o->folder))) {
        free(m);
        return err_set(err, ERR_MEMORY, "out of memory");
    }
    m->o = *o;
    pthread_mutex_init(&m->lock, NULL);
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/memory.sqlite", o->folder);
    int code = n >= PATH_MAX ? err_set(err, ERR_ARGUMENT, "%s: path too long", o->folder) : 0;
    if (!code && !o->read_only) code = file_make_folders(o->folder, err);
    if (!code) code = store_open(path, o->read_only, &m->store, err);
    if (!code && o->space) {
        m->dims = o->space->dims;
        code = o->read_only ? store_space_find(m->store, o->space, &m->space, err) : store_space_add(m->store, o->space, &m->space, err);
        if (!code && m->space) code = open_index(m, o->space, err);
    }
    m->o.space = NULL; /* the caller's */
    if (code) {
        memory_close(m);
        return code;
    }
    *out = m;
    return 0;
}

void memory_close(struct memory *m) {
    if (!m) return;
    vector_index_free(m->index);
    store_close(m->store);
    pthread_mutex_destroy(&m->lock);
    free(m->folder);
    free(m);
}

struct store *memory_store(struct memory *m) { return m->store; }

void memory_index_stats(struct memory *m, struct vector_index_stats *out) {
    *out = (struct vector_index_stats){0};
    pthread_mutex_lock(&m->lock);
    if (m->index) vector_index_stats(m->index, out);
    pthread_mutex_unlock(&m->lock);
}

int memory_index_rebuild(struct memory *m, struct err *err) {
    if (!m->index || m->o.read_only) return err_set(err, ERR_STATE, "%s: no vector space was opened for writing", m->folder);
    pthread_mutex_lock(&m->lock);
    int code = vector_index_rebuild(m->index, m->o.threads > 0 ? m->o.threads : 1, err);
    pthread_mutex_unlock(&m->lock);
    return code;
}

/* ---- recalling ------------------------------------------------------------------------------------------------------------------- */

static int recall(struct memory *m, const float *vector, int64_t run, int episode, struct memory_told *out, int max, int *count, struct err *err) {
    struct silo_lists lists = {0};
    struct fused fused[FUSED_MAX];
    int64_t newest[NEAR_LEFT_OUT + NEAR_SHOWN];
    int got = store_newest_keyframes(m->store, run, episode, newest, NEAR_LEFT_OUT + NEAR_SHOWN, err);
    if (got < 0) return got;
    if (m->index && vector) vector_index_search(m->index, vector, got ? newest[got < NEAR_LEFT_OUT ? got - 1 : NEAR_LEFT_OUT - 1] : 0, &lists);
    for (int i = NEAR_LEFT_OUT; i < got; i++) lists.near.hit[lists.near.count++].id = newest[i];
    int n = silo_fuse(&lists, fused);
    for (int i = 0; i < n && *count < max; i++) {
        struct memory_told *t = &out[*count];
        *t = (struct memory_told){.score = fused[i].score, .similarity = fused[i].similarity, .silos = fused[i].silos};
        if (store_memory(m->store, fused[i].id, &t->memory, err)) return err->code;
        ++*count;
    }
    return 0;
}

int memory_recall(struct memory *m, const float *vector, int64_t run, int episode, struct memory_told *out, int max, int *count, struct err *err) {
    *count = 0;
    pthread_mutex_lock(&m->lock);
    int code = recall(m, vector, run, episode, out, max, count, err);
    pthread_mutex_unlock(&m->lock);
    return code;
}

int memory_told_at(struct memory *m, int64_t run, int episode, uint32_t number, struct memory_told *out, int max, int *count, struct err *err) {
    struct store_recall rows[MEMORY_TOLD];
    *count = 0;
    pthread_mutex_lock(&m->lock);
    int n = store_recalled(m->store, run, episode, number, rows, max < MEMORY_TOLD ? max : MEMORY_TOLD, err), code = n < 0 ? n : 0;
    for (int i = 0; i < n && !code; i++) {
        out[i] = (struct memory_told){.score = rows[i].score, .similarity = rows[i].similarity, .silos = rows[i].silos};
        code = store_memory(m->store, rows[i].keyframe, &out[i].memory, err);
        *count += !code;
    }
    pthread_mutex_unlock(&m->lock);
    return code;
}

/* ---- adding ------------------------------------------------------------------------------------------------------------------------ */

int memory_run_add(struct memory *m, const struct store_run *run, int64_t *id, struct err *err) {
    pthread_mutex_lock(&m->lock);
    int code = store_run_add(m->store, run, id, err);
    pthread_mutex_unlock(&m->lock);
    return code;
}

/* A picture that is known in this space adds nothing to it. */
static int add_vector(struct memory *m, int64_t keyframe, const char *frame_hash, const float *vector, bool *added, struct err *err) {
    bool known = false;
    *added = false;
    if (frame_hash && store_has_picture(m->store, m->space, frame_hash, &known, err)) return err->code;
    if (known) return 0;
    if (store_embedding(m->store, m->space, keyframe, vector, m->dims, err)) return err->code;
    *added = true;
    return 0;
}

static int write_step(struct memory *m, const struct store_step *step, const float *vector, const struct memory_told *told, int told_count,
                      int64_t *keyframe, bool *added, struct err *err) {
    int stored = store_step(m->store, step, keyframe, err);
    if (stored <= 0) return stored; /* there already: a resumed run lives its open episode again */
    if (*keyframe && vector && m->index && add_vector(m, *keyframe, step->frame_hash, vector, added, err)) return err->code;
    for (int i = 0; i < told_count; i++) {
        struct store_recall r = {step->run, step->episode, step->number, i + 1, told[i].memory.keyframe, told[i].score, told[i].similarity, told[i].silos};
        if (store_recall(m->store, &r, err)) return err->code;
    }
    return store_judge(m->store, step->run, step->episode, step->number, false, err);
}

int memory_step(struct memory *m, const struct store_step *step, const float *vector, const struct memory_told *told, int told_count, struct err *err) {
    struct err local;
    if (!err) err = &local;
    int64_t keyframe = 0;
    bool added = false;
    pthread_mutex_lock(&m->lock);
    bool own = !store_in_transaction(m->store);
    int code = own ? store_begin(m->store, err) : 0;
    if (!code) code = write_step(m, step, vector, told, told_count, &keyframe, &added, err);
    if (!code && own) code = store_commit(m->store, err);
    if (code && own) store_rollback(m->store);
    if (!code && added) code = vector_index_add(m->index, vector_id(keyframe, silo_level(step->ordinal)), vector, err);
    pthread_mutex_unlock(&m->lock);
    return code;
}

int memory_episode_end(struct memory *m, int64_t run, int episode, uint32_t steps, const char *outcome, struct err *err) {
    if (!strcmp(outcome, "stopped")) return 0;
    pthread_mutex_lock(&m->lock);
    int code = store_episode_end(m->store, run, episode, steps, outcome, err);
    if (!code) code = store_judge(m->store, run, episode, steps, true, err);
    pthread_mutex_unlock(&m->lock);
    return code;
}

int memory_embed(struct memory *m, int64_t keyframe, uint32_t ordinal, const char *frame_hash, const float *vector, struct err *err) {
    bool added = false;
    if (!m->index) return err_set(err, ERR_STATE, "%s: no vector space was opened", m->folder);
    pthread_mutex_lock(&m->lock);
    int code = add_vector(m, keyframe, frame_hash, vector, &added, err);
    if (!code && added) code = vector_index_add(m->index, vector_id(keyframe, silo_level(ordinal)), vector, err);
    pthread_mutex_unlock(&m->lock);
    return code;
}

/* ---- in words ---------------------------------------------------------------------------------------------------------------------- */

void memory_told_text(const struct memory_told *t, char *text, size_t text_cap, char *from, size_t from_cap) {
    const struct store_memory *k = &t->memory;
    const struct store_outcome *a = &k->after;
    struct buf b = {0};
    buf_printf(&b, "like floor %d, %s", k->floor, k->scene);
    if (k->hp >= 0) buf_printf(&b, ", hp %d/%d", k->hp, k->max_hp);
    if (k->foes > 0) buf_printf(&b, ", %d %s", k->foes, k->foes == 1 ? "foe" : "foes");
    buf_printf(&b, ": %s", k->action);
    if (a->steps) {
        buf_printf(&b, "; %d steps later: hp %+d, %d new tiles", a->steps, a->hp_change, a->new_tiles);
        if (a->floors) buf_printf(&b, ", floor %+d", a->floors);
    }
    if (a->ended) buf_printf(&b, ", %s", a->outcome);
    line_escape(b.data ? b.data : "", text, text_cap);
    buf_clear(&b);
    buf_printf(&b, "run %s, seed %u, step %u", k->run_name, k->seed, k->number);
    line_escape(b.data ? b.data : "", from, from_cap);
    buf_free(&b);
}
