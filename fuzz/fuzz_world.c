/* The decoder on any memory: first 8 bytes choose game and seeds, the rest is poked over a plausible floor or taken as memory.
 * Whatever comes out must print as JSON and serve path finding. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "game/world.h"

static uint8_t ewram[0x40000], iwram[0x8000];
static struct world world;
static struct world_seen seen;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct { const char *title, *code; } games[] = {{"POKE DUNGEON", "B24E"}, {"TINY WOODS", "TWDE"}, {"OTHER", "XXXX"}};
    if (size < 8) return 0;
    uint32_t dungeon = 0x02001000u + (data[1] & 0x80 ? (uint32_t)data[2] << 10 : 0);
    memset(ewram, data[1] & 1 ? data[3] : 0, sizeof ewram);
    memset(iwram, 0, sizeof iwram);
    ewram[0x3B03C] = data[1] & 2 ? 1 : data[4], ewram[0x3B40C] = 1;
    memset(ewram + 0x3B03D, 0, 3);
    memset(ewram + 0x2E744, 0, 4);
    ewram[0x2E744] = data[5];
    memcpy(ewram + 0x3B418, &dungeon, 4);
    for (size_t i = 8; i + 4 <= size; i += 4) { /* each 4 bytes: 18 bits of address, 14 bits of value */
        uint32_t v;
        memcpy(&v, data + i, 4);
        uint32_t at = v & 0x3FFFE;
        ewram[at] = (uint8_t)(v >> 18), ewram[at + 1] = (uint8_t)(v >> 26);
    }
    struct memory_view view = {.ewram = ewram, .iwram = iwram};
    world_decode(&view, games[data[0] % 3].title, games[data[0] % 3].code, &world);
    world_seen_update(&seen, &world);
    struct buf out = {0};
    world_print_json(&world, &out);
    world_print_text(&world, &out);
    world_print_text(&seen.now, &out);
    buf_free(&out);
    struct distance_field field;
    struct path_options o = {true, true};
    struct point from = {(int16_t)(data[6] - 100), (int16_t)(data[7] - 100)};
    path_distances(&world, &world.stairs, 1, &o, &field);
    path_step(&world, &field, from, data[6] % 8, &o);
    path_distances(&seen.now, &from, 1, &o, &field);
    path_step(&seen.now, &field, world.stairs, -1, &o);
    return 0;
}
