/* One answer being made. It alternates between what is forced (think budget, the bytes that a schema leaves no choice about) and
 * what is chosen. Forced tokens cost no forward pass of their own: they wait and are computed together with whatever comes before
 * the next choice, the prompt included; those behind the last choice are never computed.
 *
 * The driver (generate.c) turns the wheel: next -> prepare / pass / commit until ready -> choose -> next ... until done. */
#ifndef ENGINE_GENERATION_H
#define ENGINE_GENERATION_H

#include "base/buf.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "engine/session.h"

struct generation {
    struct qvl_model *m;
    struct qvl_session *session;
    const struct qvl_generate *g;
    double start;                        /* when it was asked for */
    struct sequence sequence;
    struct sampler sampler;
    struct grammar *grammar;
    struct constraint_state *constraint; /* NULL until the answer begins, or without a schema */
    uint32_t *mask;                      /* (vocab bits) */
    bool thinks;                         /* the answer has a think block */
    bool thinking;                       /* inside it */
    bool break_due;                      /* the newlines between the think block and a constrained answer are not there yet */
    int think_count;
    struct qvl_token *tokens;
    size_t count, capacity;
    int64_t prompt_tokens;               /* without what is forced at the start of the answer */
    bool prefilled;                      /* the prompt is computed and published */
    double prefill_seconds, first_seconds;
    struct buf pending;                  /* bytes of an incomplete UTF-8 sequence */
    struct buf thought, answer;          /* decoded so far: valid UTF-8 */
    bool skip_newlines;                  /* those that the template puts between think block and answer */
    size_t streamed;                     /* bytes of the current one handed to on_text */
    bool cancelled, stopped, ended;
    enum qvl_finish finish;
    /* the choice at hand */
    struct pick pick;
    struct picked picked;
    bool device_picked;                  /* picked is filled by the backend */
    struct sequence_pass pass;
    int last_row;
};

/* Builds the prompt. generation_close is due also when it fails. The session must outlive it. */
int generation_open(struct generation *x, struct qvl_session *s, const struct qvl_generate *g, double start, struct err *err);
/* Goes on to the next choice of the model, or to the end. */
int generation_next(struct generation *x, bool *done, struct err *err);
/* Is everything computed that the choice needs? */
bool generation_ready(const struct generation *x);
bool generation_cancelled(struct generation *x);
/* One pass of at most so many rows (sequence_next) towards that: x->pass.span is to be computed between the two. */
int generation_prepare(struct generation *x, int64_t most, struct err *err);
void generation_commit(struct generation *x, bool done, double seconds);
/* work: pick_work_bytes. */
int generation_choose(struct generation *x, void *work, struct err *err);
/* The answer, also appended to the session unless that is not wanted. */
int generation_result(struct generation *x, struct qvl_result *out, struct err *err);
void generation_close(struct generation *x);

#endif
