/* Our state files and mGBA's own functions for them: each reads what the other wrote. */
#include "test.h"

#include <dlfcn.h>

#include "emulator/internal.h"
#include "game/world.h"
#include "tiny_rom.h"

static bool (*load_named)(struct mCore *core, struct VFile *file, int flags);
static bool (*save_named)(struct mCore *core, struct VFile *file, int flags);
static struct emulator *a, *b;
static struct err err;

static int setup(void **state) {
    (void)state;
    uint8_t rom[TINY_ROM_BYTES];
    tiny_rom_write(rom, "TINY WOODS", "TWDE"); /* a supported identity; its memory is no dungeon, which is fine here */
    if (emulator_open(rom, sizeof rom, NULL, &a, &err) || emulator_open(rom, sizeof rom, NULL, &b, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    void *library = dlopen("libmgba.so.0.10", RTLD_LAZY);
    *(void **)&load_named = dlsym(library, "mCoreLoadStateNamed");
    *(void **)&save_named = dlsym(library, "mCoreSaveStateNamed");
    return load_named && save_named ? 0 : -1;
}
static int teardown(void **state) {
    (void)state;
    emulator_close(a);
    emulator_close(b);
    return 0;
}

static void assert_same_machine(void) {
    char one[33], two[33];
    emulator_run(a, KEY_A, 50, false);
    emulator_run(b, KEY_A, 50, false);
    emulator_state_hash(a, one);
    emulator_state_hash(b, two);
    assert_string_equal(one, two);
    struct buf s[2] = {{0}, {0}};
    assert_int_equal(emulator_state_save(a, &s[0], &err), 0);
    assert_int_equal(emulator_state_save(b, &s[1], &err), 0);
    assert_int_equal(s[0].len, s[1].len); /* the cartridge save included */
    assert_memory_equal(s[0].data + 0x61000, s[1].data + 0x61000, 40);
    buf_free(&s[0]);
    buf_free(&s[1]);
}

static void test_mgba_reads_ours(void **state) {
    (void)state;
    struct buf s = {0};
    emulator_run(a, 0, 30, false);
    emulator_run(a, KEY_B, 5, true); /* touches the cartridge save */
    assert_int_equal(emulator_state_save(a, &s, &err), 0);
    struct VFile *file = a->lib->file_mem_chunk(s.data, s.len);
    assert_true(load_named(b->core, file, SAVESTATE_ALL));
    file->close(file);
    assert_same_machine();
    buf_free(&s);
}

static void test_we_read_mgbas(void **state) {
    (void)state;
    for (int flags = 0; flags <= SAVESTATE_ALL; flags++) {
        emulator_run(a, KEY_RIGHT, 7, true);
        struct VFile *file = a->lib->file_mem_chunk(NULL, 0);
        assert_true(save_named(a->core, file, flags));
        size_t n = (size_t)file->size(file);
        char *bytes = malloc(n);
        file->seek(file, 0, SEEK_SET);
        assert_int_equal(file->read(file, bytes, n), n);
        file->close(file);
        /* The decoder reads both forms; the emulator only the raw one. */
        struct buf owned = {0};
        struct memory_view memory;
        char title[13], code[5];
        if (save_state_read(bytes, n, &owned, &memory, title, code, &err)) fail_msg("flags %d: %s", flags, err.message);
        assert_string_equal(title, "TINY WOODS");
        assert_string_equal(code, "TWDE");
        assert_memory_equal(memory.ewram, a->ewram, 0x40000);
        assert_memory_equal(memory.iwram, a->iwram, 0x8000);
        if (flags & SAVESTATE_SCREENSHOT) {
            assert_true(emulator_state_load(b, bytes, n, &err) < 0);
            assert_non_null(strstr(err.message, "PNG"));
            assert_int_equal(emulator_state_load(b, owned.data, owned.len, &err), 0); /* what was in the PNG */
        } else {
            if (emulator_state_load(b, bytes, n, &err)) fail_msg("flags %d: %s", flags, err.message);
            if (flags & SAVESTATE_SAVEDATA) assert_same_machine();
        }
        buf_free(&owned);
        free(bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mgba_reads_ours), cmocka_unit_test(test_we_read_mgbas)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
