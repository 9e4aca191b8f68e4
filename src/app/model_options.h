/* The options that every command with a model understands, and opening what they name. */
#ifndef APP_MODEL_OPTIONS_H
#define APP_MODEL_OPTIONS_H

#include <limits.h>

#include "qwen3vl.h"

struct model_options {
    const char *model;
    struct qvl_options load;
    char folder[PATH_MAX];
};

extern const char model_options_help[];

/* Takes argv[*i] (and its value) if it is one of these options: 1 taken, 0 not ours, -1 wrong (said on stderr). */
int model_options_take(struct model_options *o, const char *command, int argc, char **argv, int *i);
/* Finds the folder, prints the memory plan to stderr unless quiet, loads. 0, or 1 with the reason on stderr. */
int model_options_open(struct model_options *o, const char *command, bool quiet, struct qvl_model **out);

/* The value of option `name` ("--name VALUE" or "--name=VALUE"): 1 and *value, 0 another option, -1 value missing (said). */
int option_value(const char *command, const char *name, int argc, char **argv, int *i, const char **value);
/* A number for option `name` within [low, high]: 0, or -1 (said). */
int option_number(const char *command, const char *name, const char *text, double low, double high, double *out);

#endif
