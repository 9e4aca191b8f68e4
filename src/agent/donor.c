/* The picture of another seed (PICTURE_OTHER_SEED): a second agent plays a dungeon of its own, and the model is shown that one. */
#include "agent/room.h"

#include <string.h>

enum { DONOR_TRIES = 40 };
static const uint32_t donor_seed = 0x9E3779B9;

int donor_new(struct agent *a, struct err *err) {
    struct emulator *e;
    const struct memory_view *m = &a->hands.memory;
    if (!m->rom) return err_set(err, ERR_STATE, "the picture of another seed needs the ROM in memory");
    int code = emulator_open(m->rom, m->rom_bytes, NULL, &e, err);
    if (code) return code;
    struct agent_options o = {.policy = POLICY_ORACLE, .stop = a->options.stop};
    if ((code = agent_new(e, &o, &a->donor, err))) {
        emulator_close(e);
        return code;
    }
    a->donor->own_emulator = e;
    return 0;
}

const uint8_t *donor_picture(struct agent *a, bool field) {
    struct agent *d = a->donor;
    struct err err = {0};
    double before = d->hands.emulator_seconds;
    for (int i = 0; i < DONOR_TRIES && !hands_stopped(&a->hands); i++) {
        if (!d->step.number || a->donor_outcome != OUTCOME_NONE) {
            if (episode_begin(d, (a->seed ^ donor_seed) + d->donor_runs++, &err)) break;
            before = d->hands.emulator_seconds;
        }
        if (episode_step(d, &a->donor_outcome, &err)) break;
        if (!field || !strcmp(d->step.scene, scene_name[SCENE_FIELD])) break;
    }
    a->hands.emulator_seconds += d->hands.emulator_seconds - before;
    return d->picture;
}
