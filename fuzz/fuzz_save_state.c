/* Save state files: raw, PNG, and what looks like them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "game/world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct world world;
    static uint8_t raw[0x61000];
    struct buf owned = {0};
    struct memory_view memory;
    char title[13], code[5];
    struct err err = {0};
    const void *file = data;
    size_t bytes = size;
    if (size && data[0] == 'r') { /* a raw state of the right size, with these bytes at its front and the rest of them as RAM */
        memset(raw, 0, sizeof raw);
        for (size_t i = 1; i < size; i++) raw[i < 0x40 ? i - 1 : 0x21000 + (i * 0x1F3) % 0x40000] = data[i];
        file = raw, bytes = sizeof raw;
    }
    if (!save_state_read(file, bytes, &owned, &memory, title, code, &err)) {
        world_decode(&memory, title, code, &world);
        buf_clear(&owned);
    }
    buf_free(&owned);
    return 0;
}
