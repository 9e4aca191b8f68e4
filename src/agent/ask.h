/* Asking a model: picture and words in, one of the offered actions out, held to a JSON schema. Who answers is behind a small door,
 * struct answerer: the engine in this process, or whatever app brings (a server, a script). */
#ifndef AGENT_ASK_H
#define AGENT_ASK_H

#include "agent/ballot.h"
#include "agent/conversation.h"
#include "agent/scene.h"

struct asker;

struct answer {
    int action;              /* -1: none could be made of it; reason says why */
    char reason[300];        /* may also hold a remark when there is an action */
    bool give_up;            /* asking again is no use: the run ends with reason as its error */
    char *text;              /* as generated, or NULL; freed by answer_free */
    int32_t *prompt_tokens, *answer_tokens; /* NULL when who answers tells no ids */
    int prompt_token_count, answer_token_count;
    char *pieces;            /* the tokens of text as a JSON array of [text, probability, forced], or NULL; freed by answer_free */
    float confidence;        /* product of the probabilities of the answer's tokens that were a choice; 0: not known */
    float calibrated;        /* how often an answer is right that is so sure (calibration.h); 0: not known */
    char model[96];          /* who of several answered; "": there is only one */
    char route_reason[200];  /* why that one was asked (router.h) */
    struct vote votes[VOTE_MAX]; /* best of n: what was answered; vote_count 0: one answer only */
    int vote_count;
    int64_t cached_tokens, computed_tokens;
    double image_ms, prefill_ms, generate_ms, total_ms;
};
void answer_free(struct answer *a);
void answer_remark(struct answer *a, const char *text); /* adds to reason */

struct question {
    const char *system, *prompt;
    const uint8_t *rgb;          /* goes before the prompt; NULL: no picture */
    int width, height;           /* of rgb; 0: FRAME_WIDTH x FRAME_HEIGHT */
    const char *schema;          /* of the answer */
    bool greedy;
    float temperature;
    uint64_t seed;               /* of the sampler */
    uint32_t decision;           /* its number in the episode, from 1 */
    bool again;                  /* asked once more in this decision, after a refusal */
    struct conversation *past;   /* what goes between system and prompt; NULL: nothing. Only `wire` of its exchanges may be changed */
    double deadline;             /* clock_seconds() by which thinking must end and the answer begin; 0: none */
    double (*now)(void);         /* the clock of the deadline; NULL: clock_seconds */
    const struct step *step;     /* what is decided on: scene, what is seen, whether the agent is stuck; for a router; may be NULL */
    const struct agent_events *events; /* for question_token */
};
/* Tells the subscribers a piece of the answer as it comes. */
void question_token(const struct question *q, const char *text, size_t n);
void question_piece(const struct question *q, const char *text, size_t n, float probability, bool forced);

double question_now(const struct question *q);

/* Who answers. Fills text, and what is known of tokens, confidence and times, in *out (zeroed before). A negative code with the
 * reason in err makes this decision a fallback, with out->give_up it ends the run. One answerer may be asked from several threads. */
struct answerer {
    int (*answer)(void *user, const struct question *q, struct answer *out, struct err *err);
    void *user;
};

struct ask_options {
    const char *system;
    bool greedy;
    float temperature;
    const struct agent_events *events;
    const struct answerer *answerer; /* instead of a model in this process */
};
/* model (NULL with an answerer) must outlive the asker; system is copied. */
int asker_new(struct qvl_model *model, const struct ask_options *o, struct asker **out, struct err *err);
void asker_free(struct asker *a);
/* Asks q (whose greedy, temperature and events are set here; system NULL: the asker's). Never fails: what went wrong is in out->reason,
 * out->text is NULL then, and out->action is -1 in every case. */
void asker_question(struct asker *a, const struct question *q, struct answer *out);
/* {"action": one of the offered names}: the schema, and the action that such an answer names, -1 with a reason. */
void action_schema(const bool offered[ACTION_COUNT], struct buf *out);
enum { NOTE_BYTES = 120, NOTE_CHARACTERS = NOTE_BYTES / 2 }; /* of a note to itself */
/* The same with an optional "note" of at most so many characters; 0: without. */
void action_note_schema(const bool offered[ACTION_COUNT], int note, struct buf *out);
int action_of_answer(const char *text, const bool offered[ACTION_COUNT], char *reason, size_t cap);
/* All three together: out->action is the action, -1 with out->reason. */
void asker_ask(struct asker *a, const uint8_t *rgb, const char *prompt, const bool offered[ACTION_COUNT], uint32_t seed, uint32_t decision,
               struct answer *out);

#endif
