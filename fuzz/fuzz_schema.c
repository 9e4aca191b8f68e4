/* A JSON schema from anywhere: if it compiles, a walk through the masks never meets a dead end and masks agree with accept. */
#include <stdlib.h>
#include <string.h>

#include "text/constraint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct tokenizer *t;
    struct err err;
    struct grammar *g;
    if (!t && tokenizer_open("tests/golden/text", &t, &err)) abort();
    if (grammar_compile((const char *)data, size, t, &g, &err)) return 0;
    int32_t vocab = tokenizer_vocab(t);
    uint32_t *mask = calloc(((size_t)vocab + 31) / 32, sizeof *mask);
    struct constraint_state *s = constraint_new(g);
    uint32_t random = (uint32_t)size * 2654435761u + 1;
    for (int step = 0; step < 12 && s; step++) {
        bool done;
        const char *forced;
        constraint_forced(s, &forced);
        int count = constraint_mask(s, mask, &done);
        if (count < 0 || (count == 0 && !done)) abort();
        if (count == 0) break;
        random = random * 1664525u + 1013904223u;
        int want = (int)(random >> 8) % count;
        int32_t id = 0;
        for (; id < vocab; id++)
            if (mask[id / 32] >> (id % 32) & 1 && want-- == 0) break;
        if (constraint_accept(s, id)) abort();
    }
    constraint_free(s);
    free(mask);
    grammar_free(g);
    return 0;
}
