/* configs/router.yaml: the ladder of models and when which is asked. */
#ifndef APP_ROUTER_FILE_H
#define APP_ROUTER_FILE_H

#include <limits.h>

#include "agent/router.h"

enum { ROUTER_MODEL_NAME = 1200 };
struct router_file {
    struct router_settings settings;
    char models[ROUTER_RUNGS][ROUTER_MODEL_NAME];
    int model_count, max_loaded;
    struct {
        char model[ROUTER_MODEL_NAME], path[PATH_MAX];
    } calibration[ROUTER_RUNGS];
    int calibration_count;
};
/* Errors name file and line. What the file does not say keeps its default. */
int router_file_read(const char *path, struct router_file *out, struct err *err);
int router_file_parse(const char *text, size_t n, const char *name, struct router_file *out, struct err *err);

#endif
