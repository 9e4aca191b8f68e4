/* The run as a person sees it: in a terminal the game itself (24-bit half blocks) with a line of numbers below; elsewhere plain
 * progress lines; or one progress bar with the remaining time for many episodes. */
#ifndef APP_TERM_VIEW_H
#define APP_TERM_VIEW_H

#include "emulator/emulator.h"
#include "record/step.h"

struct term_view;

enum term_view_kind {
    VIEW_AUTO,   /* VIEW_SCREEN when fd is a terminal, else VIEW_LINES */
    VIEW_SCREEN, /* the game in the terminal's alternate screen; the old content comes back at the end */
    VIEW_LINES,  /* one line at the start and end of an episode, at each new floor and every line_every decisions */
    VIEW_BAR,    /* one line: done, cleared, ETA; redrawn in place on a terminal, else a new line every 5 % */
};

struct term_view_options {
    enum term_view_kind kind;
    int fd;           /* where to: 1 for play, 2 for play --json */
    int episodes;     /* expected */
    int line_every;   /* 0 = 50 */
    const char *title; /* policy or model, shown in the status line */
    double max_pictures_per_second; /* 0 = 30 */
};

/* While the screen is shown, handlers for SIGWINCH, SIGTSTP/SIGCONT and the signals that end a program keep the terminal usable.
 * A signal that the caller handles (SIGINT, SIGTERM) stays his: he closes the view on his way out (atexit does it too). One view
 * at a time. NULL: out of memory. */
struct term_view *term_view_open(const struct term_view_options *o);
void term_view_close(struct term_view *v); /* restores the terminal; v may be NULL */

void term_view_episode_begun(struct term_view *v, uint32_t seed, struct emulator *e);
void term_view_acted(struct term_view *v, struct emulator *e);
void term_view_step(struct term_view *v, const struct step *s);
void term_view_episode_done(struct term_view *v, const struct episode_result *r);

#endif
