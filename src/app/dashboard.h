/* The dashboard over the games of `play`: what the agent publishes goes to the page, what the page asks for goes to the agent. */
#ifndef APP_DASHBOARD_H
#define APP_DASHBOARD_H

#include "agent/agent.h"
#include "agent/control.h"
#include "serve/dash.h"

struct dashboard;

struct dashboard_options {
    int port;             /* 0: DASH_PORT and those after it */
    int port_tries;       /* of a port that was given; 0: one */
    int games;            /* at the same time */
    const char *title;    /* model or policy */
    const char *about;    /* one JSON object about run, model and game, or NULL */
    struct control *const *controls; /* (games): what the page asks for goes there */
    bool notes;           /* a model reads them */
    bool serves;          /* dashboard_serve follows */
    struct qvl_model *model; /* for its caches' hit rates; NULL: none in this process */
};
int dashboard_open(const struct dashboard_options *o, struct dashboard **out, struct err *err);
void dashboard_close(struct dashboard *d); /* after the games; d may be NULL */
const char *dashboard_url(const struct dashboard *d);
/* Offers o->model to others too, as `pmd-agent serve` does, on the page's address; drained and stopped by dashboard_close. */
int dashboard_serve(struct dashboard *d, const char *model_name, struct err *err);

/* Its subscription to a game. */
struct agent_events dashboard_events(struct dashboard *d, int game);
/* Does anybody look at this game now? */
bool dashboard_looks(const struct dashboard *d, int game);

#endif
