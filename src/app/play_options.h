/* The options of `pmd-agent play`. */
#ifndef APP_PLAY_OPTIONS_H
#define APP_PLAY_OPTIONS_H

#include "agent/agent.h"

enum backend { BACKEND_HF, BACKEND_LOCAL, BACKEND_OPENAI, BACKEND_MOCK, BACKEND_COUNT };
extern const char *const backend_name[]; /* "hf", "local", "openai", "mock" */

struct play_options {
    enum policy policy;
    enum backend backend; /* --backend, else what --server or --mock-script asks for, else $MODEL_BACKEND, else hf */
    enum picture picture;
    int episodes, jobs, threads, max_decisions;
    uint32_t seed;
    bool json, no_record, no_stream;
    double speed;       /* times the console's speed while watching; 0 = as fast as it goes */
    double server_timeout_s; /* 0: the default */
    float temperature;
    const char *model, *rom, *prompt, *video, *record, *device, *server, *mock_script; /* NULL: the default */
};
/* 0: play; 1: help was printed; 2: wrong usage (said on stderr). */
int play_options_parse(int argc, char **argv, struct play_options *o);

#endif
