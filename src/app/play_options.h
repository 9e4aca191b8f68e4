/* The options of `pmd-agent play`. */
#ifndef APP_PLAY_OPTIONS_H
#define APP_PLAY_OPTIONS_H

#include "agent/agent.h"

struct play_options {
    enum policy policy;
    enum picture picture;
    int episodes, jobs, threads, max_decisions;
    uint32_t seed;
    bool json, no_record;
    double speed;       /* times the console's speed while watching; 0 = as fast as it goes */
    float temperature;
    const char *model, *rom, *prompt, *video, *record, *device; /* NULL: the default */
};
/* 0: play; 1: help was printed; 2: wrong usage (said on stderr). */
int play_options_parse(int argc, char **argv, struct play_options *o);

#endif
