#include "record/key_set.h"

#include <stdlib.h>

static uint64_t half(const char *hex) {
    uint64_t v = 0;
    for (int i = 0; i < 16; i++) v = v << 4 | (uint64_t)(hex[i] <= '9' ? hex[i] - '0' : hex[i] - 'a' + 10);
    return v;
}

static int place(uint64_t (*slots)[2], size_t cap, uint64_t a, uint64_t b) {
    for (size_t i = (size_t)a & (cap - 1);; i = (i + 1) & (cap - 1)) {
        if (slots[i][0] == a && slots[i][1] == b) return 0;
        if (slots[i][0] || slots[i][1]) continue;
        slots[i][0] = a, slots[i][1] = b;
        return 1;
    }
}

int key_set_add(struct key_set *s, const char hex[33]) {
    if (2 * (s->count + 1) > s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 1024;
        uint64_t (*slots)[2] = calloc(cap, sizeof *slots);
        if (!slots) return -1;
        for (size_t i = 0; i < s->cap; i++) {
            if (s->slots[i][0] || s->slots[i][1]) place(slots, cap, s->slots[i][0], s->slots[i][1]);
        }
        free(s->slots);
        s->slots = slots;
        s->cap = cap;
    }
    uint64_t a = half(hex), b = half(hex + 16);
    if (!a && !b) a = 1; /* the empty mark itself is no key */
    int added = place(s->slots, s->cap, a, b);
    s->count += (size_t)added;
    return added;
}

void key_set_free(struct key_set *s) {
    free(s->slots);
    *s = (struct key_set){0};
}
