/* Copies of one model on several cards (qvl_options.replicas). The model that the caller holds is the first of them, and knows the others;
 * a session belongs to one, whose pages and prompt cache it uses, and so do its forks. Answers asked for together are made card by card,
 * a thread for each but one. */
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "engine/room.h"

static int load_others(struct qvl_model *front, const char *folder, const struct qvl_options *o, struct err *err) {
    int count = o->replicas;
    front->replicas = calloc((size_t)count, sizeof(struct qvl_model *));
    if (!front->replicas) return err_set(err, ERR_MEMORY, "out of memory");
    front->replicas[0] = front;
    for (front->replica_count = 1; front->replica_count < count; front->replica_count++) {
        struct qvl_options own = *o;
        own.replicas = 0;
        own.card = o->card + front->replica_count;
        struct qvl_model **next = &front->replicas[front->replica_count];
        int r = qvl_load(folder, &own, next, err);
        if (r) return r;
        (*next)->front = front;
    }
    return 0;
}

int replicas_load(const char *folder, const struct qvl_options *o, struct qvl_model **out, struct err *err) {
    struct qvl_options own = *o;
    own.replicas = 0;
    int cards = 0;
#ifdef HAVE_CUDA
    cards = cuda_cards();
#endif
    *out = NULL;
    if (o->replicas > 64 || o->card < 0 || o->card + o->replicas > cards)
        return err_set(err, ERR_ARGUMENT, "%d replicas from card %d on: each needs a CUDA device of its own, found %d", o->replicas, o->card, cards);
    if (o->device && strcmp(o->device, "auto") && strcmp(o->device, "cuda"))
        return err_set(err, ERR_ARGUMENT, "replicas are copies on several CUDA devices; device \"%s\" has one", o->device);
    own.device = "cuda";
    int r = qvl_load(folder, &own, out, err);
    if (!r) {
        struct qvl_options others = own;
        others.replicas = o->replicas;
        r = load_others(*out, folder, &others, err);
    }
    if (r) {
        qvl_unload(*out);
        *out = NULL;
    }
    return r;
}

void replicas_unload(struct qvl_model *m) {
    if (!m->replicas) return;
    for (int i = 1; i < m->replica_count; i++) qvl_unload(m->replicas[i]);
    free(m->replicas);
}

struct qvl_model *replica_for_session(struct qvl_model *m) {
    struct qvl_model *best = m;
    for (int i = 1; i < m->replica_count; i++) {
        struct qvl_model *r = m->replicas[i];
        int sessions = __atomic_load_n(&r->sessions, __ATOMIC_RELAXED), least = __atomic_load_n(&best->sessions, __ATOMIC_RELAXED);
        if (sessions < least) best = r;
    }
    return best;
}

/* ---- answers asked for together ---- */

struct share {
    struct qvl_model *m;
    struct qvl_session **sessions; /* (n) */
    struct qvl_generate *asked;
    struct qvl_result *results;
    struct err *errors;
    int *who;                      /* (n) whose they are */
    int n, code;
    pthread_t thread;
    bool threaded;
};

static void *answer_share(void *context) {
    struct share *s = context;
    s->code = qvl_generate_many(s->sessions, s->asked, s->results, s->errors, s->n);
    return NULL;
}

static void share_free(struct share *s) {
    free(s->sessions);
    free(s->asked);
    free(s->results);
    free(s->errors);
    free(s->who);
}

static int share_make(struct share *s, struct qvl_session *const *sessions, const struct qvl_generate *asked, int n, struct err *err) {
    size_t most = (size_t)n;
    s->sessions = calloc(most, sizeof(struct qvl_session *));
    s->asked = calloc(most, sizeof *s->asked);
    s->results = calloc(most, sizeof *s->results);
    s->errors = calloc(most, sizeof *s->errors);
    s->who = calloc(most, sizeof *s->who);
    if (!s->sessions || !s->asked || !s->results || !s->errors || !s->who) return err_set(err, ERR_MEMORY, "out of memory for %d answers", n);
    for (int i = 0; i < n; i++) {
        if (session_model(sessions[i]) != s->m) continue;
        s->sessions[s->n] = sessions[i];
        s->asked[s->n] = asked[i];
        s->who[s->n++] = i;
    }
    return 0;
}

int replicas_generate(struct qvl_session *const *sessions, const struct qvl_generate *asked, struct qvl_result *results, struct err *errors, int n) {
    const struct qvl_model *front = session_model(sessions[0])->front;
    int count = front->replica_count, r = 0;
    struct share *shares = calloc((size_t)count, sizeof *shares);
    if (!shares) return err_set(&errors[0], ERR_MEMORY, "out of memory for %d answers", n);
    for (int i = 0; i < count && !r; i++) {
        shares[i].m = front->replicas[i];
        r = share_make(&shares[i], sessions, asked, n, &errors[0]);
    }
    for (int i = 1; i < count && !r; i++)
        shares[i].threaded = shares[i].n > 0 && !pthread_create(&shares[i].thread, NULL, answer_share, &shares[i]);
    for (int i = 0; i < count && !r; i++) {
        struct share *s = &shares[i];
        if (s->n > 0 && !s->threaded) answer_share(s); /* the first's, and any that got no thread */
    }
    for (int i = 0; i < count; i++) {
        struct share *s = &shares[i];
        if (s->threaded) pthread_join(s->thread, NULL);
        for (int k = 0; k < s->n && !r; k++) results[s->who[k]] = s->results[k], errors[s->who[k]] = s->errors[k];
    }
    for (int i = 0; i < count; i++) {
        if (!r) r = shares[i].code;
        share_free(&shares[i]);
    }
    free(shares);
    return r;
}
