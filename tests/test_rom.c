/* The bundled game: the committed image is what the sources build; its floors are sound; what happens does not depend on how
 * long the player waits; wild button mashing never breaks what the layout promises. Runs on the emulator room. */
#include "base/file.h"
#include "emulator/emulator.h"
#include "test.h"

#define ROM_PATH "rom/tinywoods/tinywoods.gba"

enum { MAP_W = 56, MAP_H = 32, TILES = 0x3A18, TILE_BYTES = 24, EWRAM_BASE = 0x02000000 };
static const int dx[8] = { 0, 1, 1, 1, 0, -1, -1, -1 }, dy[8] = { 1, 1, 0, -1, -1, -1, 0, 1 };

static struct file_map rom;

struct game {
    struct emulator *emulator;
    struct memory_view memory;
};

static uint32_t read32(const struct game *g, uint32_t address)
{
    const uint8_t *p = g->memory.ewram + (address - EWRAM_BASE);

    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int read16(const struct game *g, uint32_t address)
{
    const uint8_t *p = g->memory.ewram + (address - EWRAM_BASE);

    return (int16_t)(p[0] | p[1] << 8);
}

static int read8(const struct game *g, uint32_t address) { return g->memory.ewram[address - EWRAM_BASE]; }
static uint32_t dungeon(const struct game *g) { return read32(g, 0x0203B418); }
static void run(struct game *g, uint32_t keys, int frames) { emulator_run(g->emulator, keys, frames, false); }

static int dialogue_waits(const struct game *g)
{
    uint32_t state = read32(g, 0x0202E744);

    return state >= 7 && state <= 9;
}

static int field_waits(const struct game *g)
{
    uint32_t mode = read32(g, 0x0202EDD0);

    return dungeon(g) && read32(g, 0x0202E744) == 0 && read8(g, 0x0203B40C) && read8(g, dungeon(g) + 0xF) && mode <= 3;
}

static void open_game(struct game *g, uint32_t seed)
{
    struct err err = { 0 };

    assert_int_equal(emulator_open(rom.data, rom.bytes, NULL, &g->emulator, &err), 0);
    for (int i = 0; i < 300 && (!g->memory.ewram || !read32(g, 0x0203B348)); i++) {
        run(g, 0, 1);
        emulator_memory(g->emulator, &g->memory);
    }
    assert_int_not_equal(read32(g, 0x0203B348), 0);
    run(g, 0, 15);
    emulator_write32(g->emulator, 0x0203B458, seed);
    run(g, KEY_A, 3);
}

static void to_dialogue(struct game *g)
{
    for (int i = 0; i < 600 && !dialogue_waits(g); i++)
        run(g, 0, 1);
    assert_true(dialogue_waits(g));
}

static void to_field(struct game *g)
{
    for (int i = 0; i < 900 && !field_waits(g); i++) {
        if (dialogue_waits(g))
            run(g, KEY_A, 2);
        run(g, 0, 1);
    }
    assert_true(field_waits(g));
}

static int terrain(const struct game *g, int x, int y)
{
    return read16(g, dungeon(g) + TILES + (uint32_t)(TILE_BYTES * (y * MAP_W + x))) & 0xFFFF;
}

static int open_tile(const struct game *g, int x, int y) { return (terrain(g, x, y) & 3) == 1; }

static int walkable(const struct game *g, int x, int y)
{
    return read8(g, dungeon(g) + TILES + (uint32_t)(TILE_BYTES * (y * MAP_W + x)) + 0xA);
}

/* Masks follow the corner rule, everything open can be reached from the leader, the one stairs tile is where it should be. */
static void check_floor(const struct game *g)
{
    static uint8_t seen[MAP_H][MAP_W];
    int queue[MAP_W * MAP_H], head = 0, tail = 0, stairs = 0, open = 0;
    int x = read16(g, 0x0202EE0C), y = read16(g, 0x0202EE0E);

    memset(seen, 0, sizeof seen);
    seen[y][x] = 1;
    queue[tail++] = y * MAP_W + x;
    while (head < tail) {
        int at = queue[head++], bits = walkable(g, at % MAP_W, at / MAP_W);

        for (int d = 0; d < 8; d++) {
            int nx = at % MAP_W + dx[d], ny = at / MAP_W + dy[d];

            if (!(bits >> d & 1) || seen[ny][nx])
                continue;
            seen[ny][nx] = 1;
            queue[tail++] = ny * MAP_W + nx;
        }
    }
    for (y = 0; y < MAP_H; y++)
        for (x = 0; x < MAP_W; x++) {
            int border = x == 0 || y == 0 || x == MAP_W - 1 || y == MAP_H - 1, bits = 0;

            assert_int_equal(!!(terrain(g, x, y) & 0x10), border);
            assert_int_equal(seen[y][x], open_tile(g, x, y));
            open += seen[y][x];
            if (terrain(g, x, y) & 0x200) {
                stairs++;
                assert_int_equal(read16(g, dungeon(g) + 0xE21C), x);
                assert_int_equal(read16(g, dungeon(g) + 0xE21E), y);
            }
            if (border)
                continue;
            for (int d = 0; d < 8; d++)
                if (open_tile(g, x + dx[d], y + dy[d]) &&
                    (!(d & 1) || (open_tile(g, x + dx[d], y) && open_tile(g, x, y + dy[d]))))
                    bits |= 1 << d;
            assert_int_equal(walkable(g, x, y), bits);
        }
    assert_int_equal(stairs, 1);
    assert_in_range(open, 50, 450);
}

/* What the layout promises at any moment of a live floor. */
static void check_invariants(const struct game *g)
{
    uint32_t d = dungeon(g);
    int monsters = 0, on_tiles = 0, active = 0;

    assert_true(read32(g, 0x0202E744) <= 11);
    if (!d || !read8(g, 0x0203B40C))
        return;
    for (uint32_t i = 0; i < 20; i++) {
        uint32_t entity = read32(g, d + 0x1357C + 4 * i), info = read32(g, entity + 0x70);

        assert_int_equal(entity, d + 0x1381C + 0x74 * i);
        assert_int_equal(info, d + 0x69C + 0x208 * i);
        active += read32(g, d + 0x135CC + 4 * i) != 0;
        if (read32(g, entity) != 1)
            continue;
        monsters++;
        assert_true(open_tile(g, read16(g, entity + 4), read16(g, entity + 6)));
        assert_in_range(read16(g, info + 0xE), 0, read16(g, info + 0x10));
    }
    for (uint32_t i = 0; i < MAP_W * MAP_H; i++)
        on_tiles += read32(g, d + TILES + TILE_BYTES * i + 0x10) != 0;
    for (uint32_t i = 0; i < 64; i++) {
        assert_int_equal(read32(g, d + 0x1361C + 4 * i), d + 0x1412C + 0x74 * i);
        assert_int_equal(read32(g, d + 0x1371C + 4 * i), d + 0x15E2C + 0x74 * i);
    }
    assert_int_equal(active, monsters);
    assert_int_equal(on_tiles, monsters);
}

static void header_names_the_game(void **state)
{
    struct rom_header header;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(rom_header_read(rom.data, rom.bytes, &header, &err), 0);
    assert_string_equal(header.title, "TINY WOODS");
    assert_string_equal(header.code, "TWDE");
    assert_string_equal(header.maker, "PA");
}

static void image_is_what_the_sources_build(void **state)
{
    struct err err = { 0 };
    char version[32] = "";
    struct file_map built;
    FILE *pipe = popen("arm-none-eabi-gcc -dumpfullversion 2>/dev/null", "r");

    (void)state;
    if (pipe && fgets(version, sizeof version, pipe))
        version[strcspn(version, "\n")] = 0;
    if (pipe)
        pclose(pipe);
    if (!version[0])
        skip_because("arm-none-eabi-gcc is not installed");
    if (strcmp(version, "12.2.1"))
        skip_because("arm-none-eabi-gcc is %s, the image was built with 12.2.1", version);
    assert_int_equal(system("make -s rom ROM_BUILD=build/rom-test ROM_IMAGE=build/rom-test/tinywoods.gba >/dev/null"), 0);
    assert_int_equal(file_map_open("build/rom-test/tinywoods.gba", &built, &err), 0);
    assert_int_equal(built.bytes, rom.bytes);
    assert_memory_equal(built.data, rom.data, rom.bytes);
    file_map_close(&built);
}

/* Every "name" of names.json, and every plain name of its species, is a string of the image. */
static void names_are_those_of_the_image(void **state)
{
    struct file_map names;
    struct err err = { 0 };
    const char *at, *end;
    int found = 0;

    (void)state;
    assert_int_equal(file_map_open("rom/tinywoods/names.json", &names, &err), 0);
    end = (const char *)names.data + names.bytes;
    for (at = names.data; (at = memmem(at, (size_t)(end - at), "\": ", 3)) != NULL;) {
        char name[64];
        size_t length = 0;
        int by_name;

        by_name = at - (const char *)names.data > 5 && !memcmp(at - 5, "\"name", 5);
        at += 3;
        if (*at != '"' || !(by_name || (at[-4] >= '0' && at[-4] <= '9')))
            continue;
        for (at++; at < end && *at != '"' && length < sizeof name - 1; at++)
            name[length++] = *at;
        name[length++] = 0;
        if (!memmem(rom.data, rom.bytes, name, length))
            fail_msg("\"%s\" of names.json is not in the image", name);
        found++;
    }
    assert_int_equal(found, 5 + 5 + 8 + 3 + 1);
    file_map_close(&names);
}

/* Poking "stairs prompt pending" takes us down without a walk. */
static void floors_are_sound(void **state)
{
    int seeds = slow_tests() ? 300 : 12;

    (void)state;
    for (int seed = 1; seed <= seeds; seed++) {
        struct game g = { 0 };

        open_game(&g, (uint32_t)seed * 104729u);
        for (int floor = 1; floor <= 3; floor++) {
            to_dialogue(&g);
            assert_int_equal(read8(&g, dungeon(&g) + 0x645), floor);
            check_floor(&g);
            check_invariants(&g);
            to_field(&g);
            emulator_write32(g.emulator, dungeon(&g), read32(&g, dungeon(&g)) | 0x100);
            run(&g, 0, 5);
            assert_int_equal(read16(&g, 0x0202EE44), 38);
            run(&g, KEY_A, 3);
            run(&g, 0, 40);
        }
        for (int i = 0; i < 100 && dungeon(&g); i++)
            run(&g, 0, 1);
        assert_int_equal(read8(&g, 0x02000A88 + 134), 9);
        emulator_close(g.emulator);
    }
}

/* The same keys at every waiting moment, once at once and once after a pause: same draws, same tiles, same HP. */
static void waiting_changes_nothing(void **state)
{
    static const uint32_t keys[] = { KEY_RIGHT, KEY_DOWN, KEY_A, KEY_LEFT, KEY_DOWN, KEY_UP, KEY_A | KEY_B, KEY_A };
    struct game g[2] = { { 0 }, { 0 } };

    (void)state;
    for (int k = 0; k < 2; k++) {
        open_game(&g[k], 4242);
        for (int i = 0; i < 60; i++) {
            to_field(&g[k]);
            run(&g[k], 0, k ? 13 + i % 7 : 2);
            run(&g[k], keys[i % 8], 1);
            run(&g[k], 0, 1);
        }
        to_field(&g[k]);
    }
    assert_int_equal(read32(&g[0], 0x0203B454), read32(&g[1], 0x0203B454));
    assert_memory_equal(g[0].memory.ewram + dungeon(&g[0]) - EWRAM_BASE + TILES,
                        g[1].memory.ewram + dungeon(&g[1]) - EWRAM_BASE + TILES, TILE_BYTES * MAP_W * MAP_H);
    assert_memory_equal(g[0].memory.ewram + dungeon(&g[0]) - EWRAM_BASE + 0x69C,
                        g[1].memory.ewram + dungeon(&g[1]) - EWRAM_BASE + 0x69C, 20 * 0x208);
    emulator_close(g[0].emulator);
    emulator_close(g[1].emulator);
}

static void mashing_breaks_nothing(void **state)
{
    int frames = slow_tests() ? 200000 : 6000;
    uint32_t random = 12345;

    (void)state;
    for (uint32_t seed = 1; seed <= 3; seed++) {
        struct game g = { 0 };

        open_game(&g, seed);
        for (int i = 0; i < frames / 3; i++) {
            random = random * 1664525u + 1013904223u;
            run(&g, random >> 22 & (random >> 12 & 0x3FF), 1 + (int)(random >> 8 & 3));
            run(&g, 0, 1);
            if (i % 8 == 0)
                check_invariants(&g);
        }
        emulator_close(g.emulator);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_names_the_game), cmocka_unit_test(image_is_what_the_sources_build),
        cmocka_unit_test(names_are_those_of_the_image), cmocka_unit_test(floors_are_sound), cmocka_unit_test(waiting_changes_nothing),
        cmocka_unit_test(mashing_breaks_nothing),
    };
    struct err err = { 0 };
    int failed;

    if (file_map_open(ROM_PATH, &rom, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    file_map_close(&rom);
    return failed;
}
