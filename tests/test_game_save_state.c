/* Save state files (raw, PNG, broken) and the command that prints them. */
#include "test.h"

#include <unistd.h>
#include <zlib.h>

#include "app/commands.h"
#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "memory_image.h"

enum { STATE_BYTES = 0x61000 };
static struct image image;
static struct world w, direct;
static uint8_t state_bytes[STATE_BYTES];

/* An mGBA state of image, by the sheet's section 1. */
static void make_state(const char *title, const char *code) {
    memset(state_bytes, 0, sizeof state_bytes);
    memcpy(state_bytes, "\x07\x00\x00\x01", 4);
    for (int i = 0; i < 12 && title[i]; i++) state_bytes[0x10 + i] = (uint8_t)title[i];
    for (int i = 0; i < 4 && code[i]; i++) state_bytes[0x1C + i] = (uint8_t)code[i];
    memcpy(state_bytes + 0x19000, image.iwram, sizeof image.iwram);
    memcpy(state_bytes + 0x21000, image.ewram, sizeof image.ewram);
}

static void png_chunk(struct buf *b, const char *type, const void *data, uint32_t n) {
    uint8_t head[8] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    memcpy(head + 4, type, 4);
    uint32_t crc = (uint32_t)crc32(crc32(0, head + 4, 4), n ? data : (const void *)"", n);
    buf_append(b, head, 8);
    if (n) buf_append(b, data, n);
    buf_append(b, (uint8_t[]){(uint8_t)(crc >> 24), (uint8_t)(crc >> 16), (uint8_t)(crc >> 8), (uint8_t)crc}, 4);
}
/* The chunks before and after gbAs are what mGBA writes around it; their contents do not matter here. */
static void make_png(struct buf *b, size_t payload) {
    uLongf n = compressBound((uLong)payload);
    uint8_t *z = malloc(n);
    compress(z, &n, state_bytes, (uLong)payload);
    buf_append(b, "\x89PNG\r\n\x1A\n", 8);
    png_chunk(b, "IHDR", "\0\0\0\xF0\0\0\0\xA0\x08\x02\0\0\0", 13);
    png_chunk(b, "IDAT", "no picture", 10);
    png_chunk(b, "gbAs", z, (uint32_t)n);
    png_chunk(b, "IEND", NULL, 0);
    free(z);
}

static int decode_file(const void *file, size_t bytes, struct err *err) {
    struct buf owned = {0};
    struct memory_view memory;
    char title[13], code[5];
    int status = save_state_read(file, bytes, &owned, &memory, title, code, err);
    if (!status) world_decode(&memory, title, code, &w);
    buf_free(&owned);
    return status;
}
static void expect_error(const void *file, size_t bytes, const char *word) {
    struct err err = {0};
    assert_true(decode_file(file, bytes, &err) < 0);
    if (!strstr(err.message, word)) fail_msg("expected '%s' in: %s", word, err.message);
}

static void test_raw_and_png(void **state) {
    (void)state;
    struct err err = {0};
    image_dungeon(&image);
    image_decode(&image, &direct);
    make_state("POKE DUNGEON", "B24E");
    if (decode_file(state_bytes, sizeof state_bytes, &err)) fail_msg("%s", err.message);
    assert_memory_equal(&w, &direct, sizeof w);
    uint8_t *longer = calloc(1, STATE_BYTES + 5000); /* with extensions behind it */
    memcpy(longer, state_bytes, STATE_BYTES);
    assert_int_equal(decode_file(longer, STATE_BYTES + 5000, &err), 0);
    assert_memory_equal(&w, &direct, sizeof w);
    free(longer);
    struct buf png = {0};
    make_png(&png, STATE_BYTES);
    if (decode_file(png.data, png.len, &err)) fail_msg("%s", err.message);
    assert_memory_equal(&w, &direct, sizeof w);
    buf_free(&png);
}

static void test_broken_files(void **state) {
    (void)state;
    struct err err = {0};
    image_dungeon(&image);
    make_state("POKE DUNGEON", "B24E");
    expect_error("", 0, "0 bytes");
    for (size_t n = 1; n < STATE_BYTES; n += 9973) expect_error(state_bytes, n, "whole one");
    expect_error(state_bytes, STATE_BYTES - 1, "whole one");
    state_bytes[0] = 8;
    expect_error(state_bytes, STATE_BYTES, "newer");
    state_bytes[3] = 0;
    expect_error(state_bytes, STATE_BYTES, "not an mGBA state");
    make_state("POKE DUNGEON", "B24E");

    struct buf png = {0}, small = {0};
    make_png(&png, STATE_BYTES);
    for (size_t n = 8; n + 12 < png.len; n += 31) assert_true(decode_file(png.data, n, &err) < 0);
    expect_error(png.data, 60, "gbAs");
    png.data[200] ^= 1;
    expect_error(png.data, png.len, "checksum");
    png.data[200] ^= 1;
    make_png(&small, STATE_BYTES - 1);
    expect_error(small.data, small.len, "fewer");
    small.len = 0;
    buf_append(&small, "\x89PNG\r\n\x1A\n", 8);
    png_chunk(&small, "IHDR", "\0\0\0\xF0\0\0\0\xA0\x08\x02\0\0\0", 13);
    png_chunk(&small, "IEND", NULL, 0);
    expect_error(small.data, small.len, "no gbAs chunk");
    small.len = 8;
    png_chunk(&small, "gbAs", "not zlib", 8);
    expect_error(small.data, small.len, "damaged");
    small.len = 8;
    buf_append(&small, "\xFF\xFF\xFF\xFFgbAs1234", 12); /* a length beyond the file */
    expect_error(small.data, small.len, "remain");
    /* A bomb: much more than a state. */
    uLongf n = compressBound(64 << 20);
    uint8_t *zeros = calloc(1, 64 << 20), *z = malloc(n);
    compress(z, &n, zeros, 64 << 20);
    small.len = 8;
    png_chunk(&small, "gbAs", z, (uint32_t)n);
    expect_error(small.data, small.len, "more");
    free(zeros);
    free(z);

    uint8_t rom[0x400] = {0, 0, 0, 0xEA};
    rom[0xB2] = 0x96;
    expect_error(rom, sizeof rom, "ROM, not a save state");
    buf_free(&png);
    buf_free(&small);
}

/* ---- the command ----------------------------------------------------------------------------------------------------- */

/* Runs `pmd-agent world ...` in this process; what it prints lands in out and errors. */
static int world_command(const char *file, const char *option, struct buf *out, struct buf *errors) {
    char path[2][32] = {"/tmp/pmd-out-XXXXXX", "/tmp/pmd-err-XXXXXX"};
    int saved[2], fd[2], status;
    struct err err = {0};
    fflush(stdout), fflush(stderr);
    for (int i = 0; i < 2; i++) {
        fd[i] = mkstemp(path[i]);
        saved[i] = dup(i + 1);
        dup2(fd[i], i + 1);
    }
    char *argv[] = {"world", (char *)file, (char *)option, NULL};
    status = cmd_world(option ? 3 : file ? 2 : 1, argv);
    fflush(stdout), fflush(stderr);
    for (int i = 0; i < 2; i++) {
        dup2(saved[i], i + 1);
        close(saved[i]), close(fd[i]);
        struct buf *to = i ? errors : out;
        buf_clear(to);
        file_read(path[i], 1 << 20, to, &err);
        buf_char(to, 0);
        unlink(path[i]);
    }
    return status;
}

static void test_command(void **state) {
    (void)state;
    char path[] = "/tmp/pmd-state-XXXXXX";
    close(mkstemp(path));
    struct buf out = {0}, errors = {0};
    struct err err = {0};
    image_dungeon(&image);
    make_state("POKE DUNGEON", "B24E");
    assert_int_equal(file_replace(path, state_bytes, STATE_BYTES, &err), 0);
    assert_int_equal(world_command(path, NULL, &out, &errors), 0);
    assert_string_equal(errors.data, "");
    assert_non_null(strstr(out.data, "state: field"));
    assert_non_null(strstr(out.data, "Pikachu"));
    assert_int_equal(world_command(path, "--json", &out, &errors), 0);
    struct arena a = {0};
    const struct json *j = json_parse(out.data, out.len - 1, "output", &a, &err);
    if (!j) fail_msg("%s", err.message);
    assert_string_equal(json_as_string(json_get(j, "state"), ""), "field");
    arena_free(&a);

    /* Not supported: what is known is printed, the reason too, and the status is not zero. */
    make_state("POKE DUNGEON", "B24P");
    assert_int_equal(file_replace(path, state_bytes, STATE_BYTES, &err), 0);
    assert_int_equal(world_command(path, "--json", &out, &errors), 1);
    assert_non_null(strstr(out.data, "\"supported\":false"));
    assert_non_null(strstr(errors.data, "region"));
    assert_int_equal(file_replace(path, state_bytes, 1000, &err), 0);
    assert_int_equal(world_command(path, NULL, &out, &errors), 1);
    assert_string_equal(out.data, "");
    assert_non_null(strstr(errors.data, path));
    unlink(path);
    assert_int_equal(world_command(path, NULL, &out, &errors), 1);
    assert_non_null(strstr(errors.data, path));
    assert_int_equal(world_command(NULL, NULL, &out, &errors), 2);
    assert_int_equal(world_command(path, "--nonsense", &out, &errors), 2);
    assert_int_equal(world_command("--help", NULL, &out, &errors), 0);
    assert_non_null(strstr(out.data, "usage:"));
    buf_free(&out);
    buf_free(&errors);
}

/* ---- the bundled game ------------------------------------------------------------------------------------------------ */

/* A state saved by the emulator decodes to what the running game's memory decodes to; and the game passes through its states. */
static void test_bundled_game(void **state) {
    (void)state;
    static const char path[] = "rom/tinywoods/tinywoods.gba";
    struct buf rom = {0}, saved = {0};
    struct err err = {0};
    struct emulator *e = NULL;
    bool passed[STATE_ANIMATION + 1] = {false};
    if (!file_exists(path)) skip_because("%s is not there", path);
    if (file_read(path, 32 << 20, &rom, &err) || emulator_open(rom.data, rom.len, NULL, &e, &err)) fail_msg("%s", err.message);
    struct memory_view m;
    emulator_memory(e, &m);
    for (int i = 0; i < 900 && !passed[STATE_FIELD]; i++) {
        world_decode(&m, emulator_header(e)->title, emulator_header(e)->code, &direct);
        passed[direct.state] = true;
        uint32_t keys = direct.state == STATE_TITLE ? KEY_START : direct.state == STATE_DIALOGUE_WAIT ? KEY_A : 0;
        emulator_run(e, i % 8 < 4 ? keys : 0, 1, false);
    }
    assert_true(passed[STATE_TITLE] && passed[STATE_LOADING] && passed[STATE_DIALOGUE_WAIT] && passed[STATE_FIELD]);
    assert_false(passed[STATE_UNREADABLE]);
    world_decode(&m, emulator_header(e)->title, emulator_header(e)->code, &direct);
    for (int i = 0; i < direct.unread_count; i++) fail_msg("%s", direct.unread[i]);
    assert_int_equal(direct.team_count, 2);
    assert_int_equal(direct.floor, 1);
    assert_int_equal(direct.floors, 3);
    assert_true(direct.stairs.x > 0);
    /* The game's own passable bits follow the corner rule that world_seen works out for itself. */
    for (int y = 1; y < MAP_HEIGHT - 1; y++) {
        for (int x = 1; x < MAP_WIDTH - 1; x++) {
            for (int d = 0; d < 8; d++) {
                struct point p = {(int16_t)x, (int16_t)y};
                int kind = direct.tiles[y + direction_dy[d]][x + direction_dx[d]].flags & TILE_KIND;
                if ((direct.tiles[y][x].flags & TILE_KIND) != TILE_FLOOR || kind == TILE_LIQUID) continue;
                assert_int_equal(tile_step_allowed(&direct, p, d), kind == TILE_FLOOR && tile_attack_allowed(&direct, p, d));
            }
        }
    }
    assert_int_equal(emulator_state_save(e, &saved, &err), 0);
    if (decode_file(saved.data, saved.len, &err)) fail_msg("%s", err.message);
    assert_memory_equal(&w, &direct, sizeof w);

    /* B tapped: the main menu, then closed again. */
    emulator_run(e, KEY_B, 5, false);
    emulator_run(e, 0, 20, false);
    world_decode(&m, emulator_header(e)->title, emulator_header(e)->code, &direct);
    assert_int_equal(direct.state, STATE_MENU);
    emulator_close(e);
    buf_free(&rom);
    buf_free(&saved);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raw_and_png), cmocka_unit_test(test_broken_files), cmocka_unit_test(test_command),
        cmocka_unit_test(test_bundled_game),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
