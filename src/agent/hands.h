/* The hands: every frame of an episode runs through here. Actions become key presses; after each press the game's memory says
 * whether it had its effect, and every press has a frame limit, so no macro can hang. What was pressed, waiting included, is
 * appended to the present step: played back from the start state it gives the same run bit for bit. */
#ifndef AGENT_HANDS_H
#define AGENT_HANDS_H

#include "agent/agent.h"
#include "agent/scene.h"

struct hands {
    struct emulator *e;
    struct memory_view memory;
    char title[13], code[5];
    const struct agent_events *events;
    bool draw_all;
    struct control *control; /* NULL: nobody asks for anything */
    volatile bool *stop;

    const struct world_seen *seen; /* what a player could know, for aiming; NULL: everything */
    struct step *step; /* gets the presses; NULL: frames that belong to no step */
    struct world world; /* newest */
    bool entered;      /* the dungeon was seen live in this episode */
    bool presses_full; /* MAX_STEP_PRESSES reached: nothing more is pressed in this step */
    int turns;         /* of the leader, in this episode */
    int floor, turn_limit_left;
    uint64_t frames;   /* of this episode */
    double emulator_seconds, decode_seconds;
    double watch_seconds; /* spent by subscribers of `acted`: drawing, filming, keeping pace */
};

enum { READY_LIMIT = 3600, EPISODE_FRAMES = 2000000 }; /* frames until the game counts as stuck */

void hands_open(struct hands *h, struct emulator *e, const struct agent_options *o);
void hands_begin(struct hands *h); /* a new episode */
/* Runs frames with these keys held, records them and decodes; false when nothing more may be pressed. draw: the last frame. */
bool hands_run(struct hands *h, uint32_t keys, int frames, bool draw);
/* How the dungeon ended, OUTCOME_NONE while it goes on. */
enum outcome hands_outcome(const struct hands *h);
bool hands_stopped(const struct hands *h);
/* Waits until the game takes input (then the last frame is drawn) or the dungeon is over; false after READY_LIMIT frames. */
bool hands_ready(struct hands *h);
/* Does one action from the scene the game is in, up to but without hands_ready. Returns NULL or why it did not work. */
const char *hands_act(struct hands *h, int action);
/* Turns to the ally in direction d and talks. */
const char *hands_talk(struct hands *h, int d);
/* Uses the thing in this row of the bag (from 0): eats it, or whatever its first action is. */
const char *hands_use_row(struct hands *h, int row);

/* The array of subscribers ends with an all-zero entry. */
static inline bool subscriber(const struct agent_events *v) {
    return v && (v->user || v->episode_begun || v->observed || v->token || v->piece || v->planned || v->acted || v->step_done || v->episode_done);
}

/* The nearest foe within the bounds, in a straight line over open ground: its direction, -1 none. */
int foe_in_line(const struct world *w, int min, int max);

#endif
