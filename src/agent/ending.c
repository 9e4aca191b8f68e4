#include "agent/ending.h"

#include <stdio.h>
#include <stdlib.h>

#include "agent/scene.h"

/* Exit reasons of the game (pmd-red-names.json, exit_reasons) in few words; NULL: a foe, or one of the rarer ones. */
static const char *reason_words(int reason) {
    switch (reason) {
    case 509: case 510: return "fainted from recoil";
    case 518: return "fainted from spikes";
    case 520: return "fainted from a burn";
    case 522: return "fainted from poison";
    case 525: return "fainted from leech seed";
    case 529: return "fainted from hunger";
    case 530: case 534: return "fainted in an explosion";
    case 531: case 532: return "fainted in a trap";
    case 539: return "gave up";
    case 542: return "blown out by the wind";
    case 543: return "the partner fainted";
    case 544: return "fainted in the weather";
    case 546: return "the client fainted";
    default: return NULL;
    }
}

void ending_cause(const struct world *w, enum outcome outcome, int floor, char *out, size_t cap) {
    const char *words = reason_words(w->exit_reason);
    const struct monster *l = world_leader(w), *foe = NULL;
    for (int i = 0; l && i < w->foe_count; i++) {
        const struct monster *f = &w->foes[i];
        if (abs(f->at.x - l->at.x) <= 1 && abs(f->at.y - l->at.y) <= 1 && !foe) foe = f;
    }
    if (words) snprintf(out, cap, "%s on floor %d", words, floor);
    else if (outcome == OUTCOME_FAINTED && foe) snprintf(out, cap, "fainted to %.40s on floor %d", game_species_name(w->layout, foe->species), floor);
    else if (outcome == OUTCOME_FAINTED) snprintf(out, cap, "fainted on floor %d", floor);
    else snprintf(out, cap, "lost on floor %d (exit reason %d)", floor, w->exit_reason);
}
