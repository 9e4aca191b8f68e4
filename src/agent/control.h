/* What somebody outside asks of a running game: pause, one step, speed, the keys, a note. Set from any thread; obeyed by the thread that
 * plays. A run with and without a control is the same as long as nothing is asked: pausing and pace cost no frame, and what a person
 * presses is recorded like everything else. */
#ifndef AGENT_CONTROL_H
#define AGENT_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "record/step.h"

enum { CONTROL_NOTE = 301 };

struct control;
struct control_state {
    bool paused, human; /* human: a person has the keys */
    double speed;       /* times the console's; 0: as fast as it goes */
    char note[CONTROL_NOTE];
};

struct control *control_new(double speed); /* NULL: out of memory */
void control_free(struct control *c);

/* ---- any thread ---- */

void control_pause(struct control *c, bool paused);
void control_step(struct control *c); /* to the end of the decision under way, or one more; then pause */
void control_speed(struct control *c, double times);
void control_take_over(struct control *c, bool human); /* from the next decision on; ends a pause */
void control_keys(struct control *c, uint32_t keys);   /* held now; a short press counts for some frames even when it is over */
void control_note(struct control *c, const char *text);/* goes with every prompt until it is taken back with "" */
void control_draw(struct control *c, bool draw);       /* somebody looks: every frame is drawn */
void control_read(struct control *c, struct control_state *out);

/* ---- the thread that plays; c may be NULL: nobody asks for anything ---- */

bool control_human(struct control *c);
bool control_draws(const struct control *c);
uint32_t control_held(struct control *c); /* keys for the next frame */
/* The next decision is a person's that is on record already: these presses, in place of keys. They must live until then. */
void control_script(struct control *c, const struct key_press *presses, int count);
const struct key_press *control_take_script(struct control *c, int *count); /* NULL: none */
/* Appends the note, as a line of its own, to a prompt of at most cap bytes; it is left out when it does not fit. */
void control_add_note(struct control *c, char *prompt, size_t cap);
/* After each frame that was run. Waits while paused; keeps the pace when paced (somebody looks). */
void control_gate(struct control *c, uint64_t frame, bool paced, const volatile bool *stop);
/* After each decision. */
void control_step_done(struct control *c, uint64_t frame, const volatile bool *stop);

#endif
