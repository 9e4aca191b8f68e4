/* Glue: the recorder, the film and the terminal view as subscribers of the agent's events.
 *
 *     struct run_subscriber rec = {.run = run, .stop = &stop};
 *     struct agent_events events[] = {run_events(&rec), video_events(&film), term_view_events(view), {0}};
 *
 * Events cannot fail, a full disk can: the first error is kept in the subscriber, *stop is set so that the agent ends the episode,
 * and the caller reports code/err after agent_play_episode returned (exit status non-zero). */
#ifndef APP_SUBSCRIBERS_H
#define APP_SUBSCRIBERS_H

#include "agent/agent.h"
#include "app/term_view.h"
#include "record/run.h"
#include "record/video.h"

struct run_subscriber {
    struct run *run;
    volatile bool *stop; /* may be NULL */
    int code;            /* 0 or the first error */
    struct err err;
    struct emulator *emulator; /* private: of the present episode */
};
struct agent_events run_events(struct run_subscriber *s);

struct video_subscriber {
    struct video *video;
    volatile bool *stop;
    int code;
    struct err err;
};
struct agent_events video_events(struct video_subscriber *s);

struct agent_events term_view_events(struct term_view *v);

#endif
