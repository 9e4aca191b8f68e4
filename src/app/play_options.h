/* The options of `pmd-agent play`. */
#ifndef APP_PLAY_OPTIONS_H
#define APP_PLAY_OPTIONS_H

#include "agent/agent.h"
#include "agent/embed.h"
#include "record/run_set.h"

enum backend { BACKEND_HF, BACKEND_LOCAL, BACKEND_OPENAI, BACKEND_MOCK, BACKEND_COUNT };
extern const char *const backend_name[]; /* "hf", "local", "openai", "mock" */

enum dashboard_wish { DASHBOARD_AUTO, DASHBOARD_ON, DASHBOARD_OFF }; /* auto: in a terminal, without --json */

struct play_options {
    enum policy policy;
    enum backend backend; /* --backend, else what --server or --mock-script asks for, else $MODEL_BACKEND, else hf */
    enum picture picture;
    enum acting acting;  /* act_given: else cmd_play.c chooses what fits the model */
    bool act_given, watchdog;
    enum see see;
    int upscale, perception_every;
    int history;         /* exchanges; -1: cmd_play.c chooses what fits the model */
    unsigned parts; /* enum part */
    int episodes, jobs, threads, max_decisions;
    uint32_t seed;
    bool json, no_record, no_stream;
    enum dashboard_wish dashboard;
    bool serve;         /* the model is offered to others on the dashboard's address */
    int dashboard_port; /* 0: 8717, or the next free one */
    double speed;       /* times the console's speed while watching; 0 = as fast as it goes */
    double server_timeout_s; /* 0: the default */
    float temperature;
    int think_tokens, best_of; /* 0: the default, one answer */
    bool vote_sum, backend_given, ask_oracle;
    int max_loaded, fixed_rung;  /* of a ladder; 0: as configs/router.yaml says */
    double decision_ms;          /* likewise */
    const char *remote;          /* HOST:PORT of an mGBA; NULL: the game runs in this process */
    const char *ladder, *router; /* models separated by commas; another file than configs/router.yaml */
    struct buf arguments;      /* as given, a JSON array: for run.json */
    struct run_set past;       /* of resume: holds the strings of its arguments */
    const char *resume;        /* folder of the run to go on with */
    const char *memory;        /* folder of the memory over runs; NULL: none */
    enum embed_kind embed;
    bool scratchpad;
    const char *skills, *model, *rom, *prompt, *video, *record, *device, *kv_cache, *server, *mock_script; /* NULL: the default */
};
/* With --resume the arguments on record are taken, and those given now may change only how it is shown and where it is computed.
 * 0: play; 1: help was printed; 2: wrong usage (said on stderr). */
int play_options_parse(int argc, char **argv, struct play_options *o);
void play_options_free(struct play_options *o); /* also after a failed parse */

#endif
