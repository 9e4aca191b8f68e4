#include <stdlib.h>

#include "engine/room.h"

static void *run(void *context) {
    struct qvl_model *m = context;
    struct encode_ahead *a = &m->ahead;
    pthread_mutex_lock(&m->lock);
    while (!a->stop) {
        if (a->count == 0) {
            pthread_cond_wait(&a->work, &m->lock);
            continue;
        }
        struct visual *v = a->queue[0];
        memmove(a->queue, a->queue + 1, (size_t)--a->count * sizeof a->queue[0]);
        pthread_mutex_unlock(&m->lock);
        const struct vision_features *f;
        double seconds = 0;
        /* What fails here fails again, with its sentence, for whoever needs it. */
        if (!features_known(m, v) && !features_get(m, v, &f, &seconds, NULL)) features_put(m, f);
        visual_drop(v);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

int encode_ahead_open(struct qvl_model *m, struct err *err) {
    pthread_cond_init(&m->ahead.work, NULL);
    if (pthread_create(&m->ahead.thread, NULL, run, m)) {
        pthread_cond_destroy(&m->ahead.work);
        return err_set(err, ERR_MEMORY, "cannot start a thread for pictures");
    }
    m->ahead.running = true;
    return 0;
}

void encode_ahead_add(struct qvl_model *m, struct visual *v) {
    struct encode_ahead *a = &m->ahead;
    if (!a->running) return;
    pthread_mutex_lock(&m->lock);
    if (a->count < ENCODE_AHEAD) {
        visual_hold(v);
        a->queue[a->count++] = v;
        pthread_cond_signal(&a->work);
    }
    pthread_mutex_unlock(&m->lock);
}

void encode_ahead_close(struct qvl_model *m) {
    struct encode_ahead *a = &m->ahead;
    if (!a->running) return;
    pthread_mutex_lock(&m->lock);
    a->stop = true;
    pthread_cond_signal(&a->work);
    pthread_mutex_unlock(&m->lock);
    pthread_join(a->thread, NULL);
    for (int i = 0; i < a->count; i++) visual_drop(a->queue[i]);
    pthread_cond_destroy(&a->work);
    *a = (struct encode_ahead){0};
}
