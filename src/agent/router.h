/* The router: which of several models is asked. The ladder goes from the quickest model to the best one; all of it fits into the memory at
 * the same time, so no two models ever push each other out. For every decision:
 *
 *   scene      a scene may have a rung of its own (a dialogue needs no big model); it is taken when going there, the switch included,
 *              costs no more than staying;
 *   stuck      each degree that the agent reports goes one rung up;
 *   confidence of the last answers, calibrated: low ones go a rung up, high ones a rung down, and not again before `hold` decisions;
 *   time       what a rung will take (measured: apart for the first question after another rung, whose prompt is colder; times the
 *              questions that wait there; plus loading, if it is not loaded) must fit the time for one decision.
 *
 * An answer that is too unsure is asked again one rung higher while the time lasts. Every choice comes with its reason. */
#ifndef AGENT_ROUTER_H
#define AGENT_ROUTER_H

#include "agent/ask.h"
#include "agent/calibration.h"

enum { ROUTER_RUNGS = 6 };

struct router_settings {
    int fixed;                  /* always this rung; -1: choose */
    float ask_again_below;      /* calibrated confidence under which the next rung is asked too */
    float up_below, down_above; /* of the mean of the last answers */
    int hold;                   /* decisions between two changes for confidence's sake */
    double decision_ms;         /* time for one decision; 0: no limit */
    int scene_rung[SCENE_COUNT]; /* -1: none of its own */
};
extern const struct router_settings router_defaults;

struct router_rung {
    const char *name;
    struct calibration calibration;
    double load_ms;             /* to load it, when it is not loaded yet: an estimate */
    double cost;                /* of a decision, relative to the other rungs (bytes read, say): before one was measured here; 0: unknown */
};

/* What all games share: times and queues. */
struct ladder;
/* rungs: copied, names too. loaded (may be NULL: all are) tells whether a rung is in memory now. now NULL: clock_seconds. */
int ladder_new(const struct router_settings *s, const struct router_rung *rungs, int count, bool (*loaded)(void *user, int rung), void *user,
               double (*now)(void), struct ladder **out, struct err *err);
void ladder_free(struct ladder *l);
int ladder_count(const struct ladder *l);
const char *ladder_name(const struct ladder *l, int rung);
/* What is known of its cost now: a warm decision, one after a switch, milliseconds alone; 0: not measured. */
void ladder_times(struct ladder *l, int rung, double *warm_ms, double *switch_ms, long *decisions);

/* One game's. answerers (one a rung): how this game asks them; copied. */
struct router;
int router_new(struct ladder *l, const struct answerer *answerers, struct router **out, struct err *err);
void router_free(struct router *r);
struct answerer router_door(struct router *r);
/* For agent_options.escalate with r as its user: is there a rung above? */
bool router_escalate(void *r, const struct step *s, char *why, size_t cap);
/* An answer that was given in an earlier process (a resumed run): the router comes to stand where it stood. */
void router_lived(struct router *r, const char *model, float confidence);

/* The choice by itself, for tests and for the curious: the rung, and why. */
int router_choose(struct router *r, enum scene scene, const char *stuck, int stuck_level, char *why, size_t cap);

#endif
