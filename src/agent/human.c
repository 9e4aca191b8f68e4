#include "agent/human.h"

#include <stdio.h>
#include <string.h>

enum { DONE_FRAMES = 10, LONGEST_FRAMES = 600 /* ten seconds of play */ };

static void name_keys(uint32_t keys, char *words, size_t cap) {
    static const char *const names[] = {"A", "B", "SELECT", "START", "RIGHT", "LEFT", "UP", "DOWN", "R", "L"};
    size_t n = (size_t)snprintf(words, cap, keys ? "pressed" : "nothing was pressed");
    for (int i = 0; i < 10 && n < cap; i++) {
        if (keys >> i & 1) n += (size_t)snprintf(words + n, cap - n, " %s", names[i]);
    }
}

bool human_act(struct hands *h, struct control *c, char *words, size_t cap) {
    uint32_t pressed = 0;
    int released = 0, count;
    const struct key_press *script = control_take_script(c, &count);
    for (int i = 0; script && i < count; i++) {
        pressed |= script[i].keys;
        hands_run(h, script[i].keys, script[i].frames, true);
    }
    if (script) return name_keys(pressed, words, cap), true;
    for (int i = 0; i < LONGEST_FRAMES && control_human(c); i++) {
        uint32_t keys = control_held(c);
        if (!hands_run(h, keys, 1, true) || hands_stopped(h) || hands_outcome(h) != OUTCOME_NONE) break;
        pressed |= keys;
        released = keys ? 0 : released + 1;
        if (pressed && released >= DONE_FRAMES && scene_of(&h->world) != SCENE_NONE) break;
    }
    name_keys(pressed, words, cap);
    return false;
}
