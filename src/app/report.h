/* The report of a run: one HTML file that needs nothing else (no script, pictures inside), and a film with captions. Private to
 * cmd_report.c and the report_*.c files. */
#ifndef APP_REPORT_H
#define APP_REPORT_H

#include "app/run_player.h"

struct report_options {
    const char *folder;
    uint32_t episodes;       /* shown in full; all of them are in the table */
    double film_minutes;     /* at most */
};

/* Appends the whole page. film: file name of the film beside it, or NULL. */
int report_page(struct run_player *p, const struct report_options *o, const char *film, struct buf *out, struct err *err);
/* *cut: film_minutes ended it before the run's end. */
int report_film(struct run_player *p, const struct report_options *o, const char *path, bool *cut, struct err *err);

/* ---- plots (report_plots.c): SVG */

/* HP and belly over the steps, floors as bands. */
void plot_life(struct buf *b, const struct dash_row *rows, uint32_t count);
/* Milliseconds of each decision, split by where they went. */
void plot_times(struct buf *b, const struct dash_row *rows, uint32_t count);
enum { SPLIT_IMAGE, SPLIT_PROMPT, SPLIT_ANSWER, SPLIT_EMULATOR, SPLIT_REST, SPLIT_PARTS };
extern const char *const split_name[SPLIT_PARTS];
void split_of(const struct dash_row *row, double ms[SPLIT_PARTS]);
void plot_split(struct buf *b, const struct dash_row *rows, uint32_t count);
/* What was known of a floor and the way that was walked. */
void plot_map(struct buf *b, const struct world_seen *seen, const struct point *trail, int count);

#endif
