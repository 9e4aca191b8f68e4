/* What the files of the engine share. Private to this room.
 *
 * One lock (qvl_model.lock) guards everything that sessions share: the page table, the prefix cache, the feature cache, the
 * grammars and the queue of those who wait for the device. It is never held during a forward pass: whoever finds the device free computes
 * for all whose turn it is (turns.h). */
#ifndef ENGINE_ROOM_H
#define ENGINE_ROOM_H

#include <pthread.h>
#include <string.h>

#include "backend/backend.h"
#include "base/err.h"
#include "engine/features.h"
#include "engine/hash.h"
#include "engine/kv_store.h"
#include "engine/turns.h"
#include "qwen3vl.h"
#include "text/chat.h"
#include "text/constraint.h"
#include "text/tokenizer.h"

enum { PREFILL_CHUNK = 512 };      /* with fixed cuts, prefill is cut at multiples of this many tokens */
enum { BATCH_ROWS = 1024 };        /* of one forward pass at most, unless a prompt has the device to itself */
enum { ALONE_ROWS = 8192 };        /* then; less where memory is short (memory_plan) */
enum { GRAMMARS_KEPT = 64 };
enum { LOGITS_KEPT = 64, LOGITS_UNDER_WAY = 40 }; /* rows of logits in a device's pinned memory: of the latest prompts, and of answers begun */
static const int64_t image_max_pixels = 1 << 28; /* of a picture handed in, before any resize */

struct cached_grammar {
    struct hash128 key;
    struct grammar *grammar;
    int users;
    uint64_t used; /* counter of last use */
};

/* Passes of the decoder so far; guarded by the model's lock. */
struct pass_sums {
    double seconds;
    int64_t count, rows, spans;
};
struct spill;

struct qvl_model {
    char *folder;
    struct checkpoint *checkpoint;
    const struct model_config *config;
    struct tokenizer *tokenizer;
    enum chat_format format;
    enum resampler resampler;
    const struct backend *backend;
    struct backend_model *device;
    struct backend_info backend_info;
    int64_t context;          /* most tokens of one sequence */
    bool fixed_cuts;          /* prompts are cut at the same places whatever else is computed: same bits always (the CPU) */
    int64_t alone_rows;       /* else: rows of a pass while nobody decodes and no other call waits */
    uint8_t checkpoint_hash[16]; /* checkpoint_identity */
    struct hash128 identity;  /* model, precision, preprocessing: the root of every page's key */
    int32_t think_end;        /* id of </think>, -1 when there is none */
    int32_t *eos;             /* tokens that end an answer */
    int eos_count;
    double load_seconds;

    pthread_mutex_t lock;
    pthread_cond_t idle;      /* a picture that others wait for is encoded */
    struct turns turns;
    struct pass_sums passes;
    struct kv_store kv;
    struct spill *spill;      /* the cache's levels below the device (spill.h), or NULL */
    struct feature_cache features;
    struct cached_grammar grammars[GRAMMARS_KEPT];
    uint64_t grammar_clock;
    int sessions;
    int answers;              /* atomic: being made, by all callers */

    struct qvl_model *front;  /* what the caller holds: this one, or the first of its replicas */
    struct qvl_model **replicas; /* (replica_count) the first's alone; [0] is itself. NULL: no others */
    int replica_count;
};

/* ---- batch.c: one device, many threads ---- */

/* Computes spans of different sequences, together with whatever other threads have asked for by then. */
int batch_forward(struct qvl_model *m, const struct span *spans, int count, struct err *err);
/* A turn of whoever has the device: a pass for those who want steps, and prompts if they are to come along; a pass of the tower for pictures that
 * wait (features.c). Returns how many were served. The lock is held before and after, not during the pass. */
int batch_turn(struct qvl_model *m, bool prompts, struct turn_request *served[TURNS_SERVED]);
int features_turn(struct qvl_model *m, struct turn_request *served[TURNS_SERVED]);

static inline void token_from_pick(struct qvl_token *t, const struct picked *p) {
    t->id = p->id;
    t->logprob = p->logprob;
    t->top_count = p->top_count;
    memcpy(t->top_id, p->top_id, sizeof t->top_id);
    memcpy(t->top_logprob, p->top_logprob, sizeof t->top_logprob);
}

/* ---- replicas.c: copies of the model on several cards ---- */

int replicas_load(const char *folder, const struct qvl_options *o, struct qvl_model **out, struct err *err);
void replicas_unload(struct qvl_model *m); /* the others of m */
/* The one with the fewest sessions. */
struct qvl_model *replica_for_session(struct qvl_model *m);
/* qvl_generate_many of sessions on several cards. */
int replicas_generate(struct qvl_session *const *sessions, const struct qvl_generate *asked, struct qvl_result *results, struct err *errors, int n);
struct qvl_model *session_model(const struct qvl_session *s);

/* ---- grammars.c ---- */
int grammar_get(struct qvl_model *m, const char *schema, struct grammar **out, struct err *err);
void grammar_put(struct qvl_model *m, struct grammar *g);
void grammars_free(struct qvl_model *m);

#endif
