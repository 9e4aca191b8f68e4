/* `pmd-agent dataset record`: settings shared by its two ways (episodes as they come; a covering choice of frames). */
#ifndef APP_DATASET_RECORD_H
#define APP_DATASET_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/agent.h"
#include "base/buf.h"

struct record_settings {
    const char *out, *rom_path, *model_folder, *prompt_file;
    enum policy policy;
    uint32_t seed;
    int episodes, jobs, max_decisions;
    float epsilon, mix, temperature;
    bool packed;
    int cover;           /* frames; 0 = all of the episodes */
    struct buf rom;
    volatile bool *stop; /* set by Ctrl-C */
};

/* What one worker holds. */
struct worker {
    struct emulator *emulator;
    struct qvl_model *model;
    struct agent *agent;
};
/* Opens emulator, model (when the policy needs one; one thread) and agent with these subscribers. */
int worker_open(const struct record_settings *s, const struct agent_events *events, bool draw_all, struct worker *w, struct err *err);
void worker_close(struct worker *w);

/* Both return 0 or a negative code. */
int dataset_record_episodes(struct record_settings *s, struct err *err);
int dataset_record_cover(struct record_settings *s, struct err *err);

#endif
