/* Frames, waiting, and the end of an episode. The macros are in macros.c. */
#include "agent/hands.h"

#include <string.h>

#include "agent/control.h"
#include "base/clock.h"

void hands_open(struct hands *h, struct emulator *e, const struct agent_options *o) {
    *h = (struct hands){.e = e, .events = o->events, .draw_all = o->draw_all, .control = o->control, .stop = o->stop};
    const struct rom_header *header = emulator_header(e);
    memcpy(h->title, header->title, sizeof h->title);
    memcpy(h->code, header->code, sizeof h->code);
    emulator_memory(e, &h->memory);
}

void hands_begin(struct hands *h) {
    h->entered = h->presses_full = false;
    h->turns = h->floor = h->turn_limit_left = 0;
    h->frames = 0;
    h->emulator_seconds = h->decode_seconds = h->watch_seconds = 0;
    h->step = NULL;
}

static bool record_press(struct hands *h, uint32_t keys, int frames) {
    struct step *s = h->step;
    if (!s) return true;
    struct key_press *last = s->press_count ? &s->presses[s->press_count - 1] : NULL;
    if (last && last->keys == keys && last->frames + frames <= UINT16_MAX) {
        last->frames = (uint16_t)(last->frames + frames);
        return true;
    }
    if (s->press_count == MAX_STEP_PRESSES) {
        h->presses_full = true;
        return false;
    }
    s->presses[s->press_count++] = (struct key_press){(uint16_t)keys, (uint16_t)frames};
    return true;
}

static void decode(struct hands *h) {
    double start = clock_seconds();
    struct world *w = &h->world;
    world_decode(&h->memory, h->title, h->code, w);
    h->decode_seconds += clock_seconds() - start;
    if (!w->floor_live) return;
    h->entered = true;
    if (w->floor == h->floor && w->turn_limit_left < h->turn_limit_left) h->turns += h->turn_limit_left - w->turn_limit_left;
    h->floor = w->floor;
    h->turn_limit_left = w->turn_limit_left;
}

bool hands_run(struct hands *h, uint32_t keys, int frames, bool draw) {
    if (h->presses_full || !record_press(h, keys, frames)) return false;
    bool watched = h->draw_all || control_draws(h->control);
    int stride = watched ? 1 : frames;
    for (int done = 0; done < frames; done += stride) {
        double start = clock_seconds();
        emulator_run(h->e, keys, stride, watched || draw);
        double done_at = clock_seconds();
        h->emulator_seconds += done_at - start;
        for (const struct agent_events *v = h->events; subscriber(v); v++) {
            if (v->acted) v->acted(v->user, h->e);
        }
        h->watch_seconds += clock_seconds() - done_at;
    }
    h->frames += (uint64_t)frames;
    decode(h);
    return true;
}

enum outcome hands_outcome(const struct hands *h) {
    const struct world *w = &h->world;
    if (!h->entered || w->state == STATE_UNREADABLE) return OUTCOME_NONE;
    const struct monster *l = world_leader(w);
    if (w->exit_reason >= 550 && w->exit_reason < 600) return OUTCOME_CLEARED;
    if (w->exit_reason >= 500) return l && l->hp > 0 ? OUTCOME_LOST : OUTCOME_FAINTED;
    if (w->floor_live) return OUTCOME_NONE;
    if (w->story_start_mode == 9) return OUTCOME_CLEARED;
    if (w->story_start_mode == 12 || w->state == STATE_TITLE || w->state == STATE_GROUND) return OUTCOME_LOST;
    return OUTCOME_NONE;
}

bool hands_stopped(const struct hands *h) { return h->stop && *h->stop; }

/* The stairs prompt opens a few frames after the step: on the stairs the field counts only when it stays for so long. */
enum { STAIRS_FRAMES = 14, WAIT_STRIDE = 2, SETTLE_FRAMES = 3 };

/* A wish to stop waits for this too: a step that was cut short could not be lived again (record/run_resume.c). */
bool hands_ready(struct hands *h) {
    int on_stairs = 0;
    for (int waited = 0; waited < READY_LIMIT; waited += WAIT_STRIDE) {
        const struct world *w = &h->world;
        if (hands_outcome(h) != OUTCOME_NONE || h->presses_full) return true;
        enum scene scene = scene_of(w);
        const struct monster *l = world_leader(w);
        bool ready = scene != SCENE_NONE;
        if (scene == SCENE_FIELD && l && l->at.x == w->stairs.x && l->at.y == w->stairs.y && on_stairs < STAIRS_FRAMES) {
            on_stairs += WAIT_STRIDE;
            ready = false;
        }
        if (ready) {
            /* The picture of the decision, once the last sprite stands still; the scene must outlive it. */
            if (!hands_run(h, 0, SETTLE_FRAMES, true)) return true;
            if (scene_of(&h->world) == scene) return true;
            continue;
        }
        if (!hands_run(h, 0, WAIT_STRIDE, false)) return true;
    }
    return false;
}
