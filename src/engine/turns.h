/* Whose turn on the device it is: one device, many threads that want steps of answers (a token or few of a sequence), prompts (chunks of many
 * tokens) and pictures. Private to this room.
 *
 * Nobody has a thread of his own for this: whoever comes to a free device looks whose turn it is and computes it for all concerned, on his own
 * thread; a lone caller computes at once, with nothing in between. The rule (turns_next):
 *
 * 1. Company. Those whom the last turn served come back in a moment, and the first of them must not leave with a pass of its own, which would
 *    take as long as one for all: h who are here wait for r others until that has cost as much as leaving them behind, r / h of a step, at most half
 *    a step (where the processor itself is the device, 15 % of one and at most a millisecond).
 * 2. Gathering. A turn for pictures or prompts costs about as much for one as for a few, and all who decode stand still meanwhile (or go at the
 *    slower pace of a mixed pass). So new ones are gathered while others decode, until what their waiting has cost is what their turn will cost:
 *    each step of s seconds, w waiting beside n that decode, costs s * w / (w + n), the part of the answers that does not get on; the turn is
 *    reckoned at half a step (2B FP8 on an H100: about 1.1 of 2.6 ms; twice as much or half of it changes the rate by a percent). Waiting until
 *    waiting has cost as much as acting never costs more than twice the best that could have been done knowing who would come (rent or buy). Nor
 *    do they wait for more than TURNS_PASSED_BY steps. Where nobody decodes they go at once; so does who has begun: the prompt behind a picture,
 *    the next chunk of a prompt.
 * 3. Pictures go before prompts, so that their own prompts go with those that wait; steps go with prompts in one pass. */
#ifndef ENGINE_TURNS_H
#define ENGINE_TURNS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum turn_kind { TURN_STEP, TURN_PROMPT, TURN_PICTURE, TURN_KINDS, TURN_NOBODY = TURN_KINDS, TURN_WAIT };
enum { TURNS_SERVED = 256, TURNS_PASSED_BY = 16 };

/* Somebody who waits. Lives on his stack; guarded by the model's lock. */
struct turn_request {
    enum turn_kind kind;
    bool begun;              /* served with a picture or a chunk before */
    bool taken;              /* the turn that runs serves him */
    _Atomic bool done;
    pthread_t who;
    struct turn_request *next; /* in order of arrival */
};

struct turns {
    bool gather;             /* rule 2: the device is a GPU; without it nobody new waits longer than a pass */
    bool busy;               /* the device is taken */
    struct turn_request *first, *last;
    int waiting[TURN_KINDS], begun[TURN_KINDS]; /* begun: of these */
    struct turn_guest {
        pthread_t who;
        enum turn_kind kind;
        bool late;           /* of an earlier turn than the last */
    } served[TURNS_SERVED];
    int served_count, returning; /* returning: those that are not late */
    double ended, last_seconds;  /* of the last turn */
    double step_seconds;     /* of the last pass of steps alone; 0: none yet */
    double lost;             /* what waiting has cost those who are gathered */
    int passed_by;           /* steps since they began to wait */
    double expected;         /* when the running turn ends, if that is known; 0: it is not */
    int awake_most;          /* so many may stay awake for it: cores that have nothing else to do while a GPU computes */
    atomic_int awake;
    _Atomic uint32_t ended_turns[TURN_KINDS]; /* what those who wait for a turn of a kind sleep on */
};

/* Whose turn it is on a free device: TURN_STEP: steps alone; TURN_PROMPT: prompts and steps; TURN_PICTURE: pictures; TURN_NOBODY; TURN_WAIT: until
 * *until, or until somebody comes. */
enum turn_kind turns_next(const struct turns *t, double now, double *until);
/* Somebody comes (who and kind are set; puts him last) or is taken out. */
void turns_arrive(struct turns *t, struct turn_request *r);
void turns_take(struct turns *t, struct turn_request *r);
/* A turn of that kind is over, in which `count` were served: they are done, and expected back. */
void turns_ended(struct turns *t, enum turn_kind kind, struct turn_request *const *served, int count, double started, double ended);
/* This one will not come back soon. True: whoever waits should look again. */
bool turns_leave(struct turns *t, pthread_t who);

struct qvl_model;
/* Comes with r (who and kind are set) and waits until it is served, serving others on the way. Takes the model's lock. */
void turns_serve(struct qvl_model *m, struct turn_request *r);
/* The calling thread has got its last token (or gives up): nobody needs to wait for it. */
void turns_goodbye(struct qvl_model *m);

#endif
