/* The lists of models in configs/ and how a name given by the user becomes a checkpoint folder. */
#ifndef APP_MODEL_LIST_H
#define APP_MODEL_LIST_H

#include <limits.h>
#include <stdbool.h>

#include "base/err.h"

struct model_list {
    char **names;
    int count;
};
/* One name a line; # comments and blank lines. hub: every line must be owner/name. A bad line is named with its number. */
int model_list_read(const char *path, bool hub, struct model_list *out, struct err *err);
void model_list_free(struct model_list *l);

/* $HF_MODELS_FILE, else configs/qwen_vl_models_hf.txt under the project's root. */
int model_list_hub(struct model_list *out, char path[PATH_MAX], struct err *err);

/* A folder is used as it is; owner/name is taken from the Hub's cache, and fetched when it is not there (progress on stderr)
 * unless offline. With MODEL_BACKEND=local nothing is fetched: beside a folder, only a name of configs/qwen_vl_models.txt (the whole
 * line or its last part) is taken. */
int model_resolve(const char *name, bool local_only, char folder[PATH_MAX], struct err *err);

/* Downloads with a progress line on stderr: a bar on a terminal, plain lines elsewhere. */
int model_fetch(const char *id, const char *revision, char folder[PATH_MAX], struct err *err);

#endif
