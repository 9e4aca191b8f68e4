/* One call of `pmd-agent play`: what its files share. Private to them. */
#ifndef APP_PLAY_H
#define APP_PLAY_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

#include "app/dashboard.h"
#include "agent/recall.h"
#include "app/play_model.h"
#include "app/play_options.h"
#include "app/play_report.h"
#include "app/subscribers.h"

struct play;

/* One of the games that are played at the same time, by a thread of its own. */
struct game {
    struct play *play;
    struct run_subscriber run;     /* its own run; run.run NULL: nothing is recorded */
    struct video_subscriber film;
    struct play_model_game model;
    struct recall *recall;         /* NULL: nothing is remembered */
    int64_t memory_run;            /* its number there */
    struct answerer by;            /* the model, or while the past of a resumed run is lived again the answers on record */
    struct samples decision_ms, overhead_ms;
    double last;                   /* time of the last decision's end */
    struct control *control;       /* pause, pace, a person at the keys */
};

struct play {
    struct play_options o;
    struct buf rom;
    char rom_path[PATH_MAX], prompt_path[PATH_MAX];
    struct play_model model;
    struct memory *memory;         /* NULL: none */
    char game[16];                 /* whose vectors are compared */
    struct term_view *view;
    struct game *games;            /* (o.jobs) */
    char folder[PATH_MAX];         /* of the record; "" none */
    struct dashboard *board;       /* NULL: none */
    char title[1400];              /* of the view */
    bool watched;                  /* somebody looks at every frame */
    bool paced;                    /* ... in a terminal or on a page, at o.speed times the console's pace */
    bool *begun;                   /* (o.episodes) by an earlier process: not dealt out any more */
    atomic_int next;               /* episode */
    pthread_mutex_t lock;          /* totals, view and err while several games run */
    struct play_totals totals;
    struct err err;                /* the first */
    double seconds;                /* spent playing, by this process */
    long long decisions_here;      /* by this process */
    volatile bool *stop;
};

/* ---- play_games.c */
/* Plays the episodes that are left, all games at the same time. */
int play_games(struct play *p, struct err *err);

/* ---- play_record.c */
/* New runs, or with --resume the old ones: then also what they hold goes into the totals. */
int play_record_open(struct play *p, struct err *err);
/* Ends all runs; the first error of writing, if any. */
int play_record_close(struct play *p, struct err *err);
/* What every output names as the model; NULL: none is asked. */
const char *play_model_name(const struct play *p);

#endif
