/* A machine without libmgba: a sentence that names the package, no crash, and everything that needs no emulator still works. */
#include "test.h"

#include "emulator/emulator.h"
#include "tiny_rom.h"

/* Stands in for the system's functions in this program. */
void *dlopen(const char *name, int flags);
char *dlerror(void);
void *dlopen(const char *name, int flags) {
    (void)name, (void)flags;
    return NULL;
}
char *dlerror(void) { return "libmgba.so.0.10: cannot open shared object file: No such file or directory"; }

static void test_missing_library(void **state) {
    (void)state;
    uint8_t rom[TINY_ROM_BYTES];
    tiny_rom_write(rom, "TINY ROM", "ATST");
    for (int again = 0; again < 2; again++) {
        struct emulator *e = (void *)1;
        struct err err = {0};
        assert_int_equal(emulator_open(rom, sizeof rom, NULL, &e, &err), ERR_MISSING);
        assert_null(e);
        assert_non_null(strstr(err.message, "libmgba0.10"));
        assert_non_null(strstr(err.message, "install"));
    }
    struct rom_header header; /* needs no library */
    assert_int_equal(rom_header_read(rom, sizeof rom, &header, NULL), 0);
    assert_string_equal(header.title, "TINY ROM");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_missing_library)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
