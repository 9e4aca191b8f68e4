#include "app/run_game.h"

#include <limits.h>
#include <string.h>

#include "agent/home.h"
#include "base/file.h"
#include "record/hash.h"

enum { ROM_LIMIT = 64 << 20 };

int run_game_open(const struct run_info *info, const char *rom_path, struct emulator **out, struct err *err) {
    char bundled[PATH_MAX];
    if (!rom_path) rom_path = info->rom_path;
    if (rom_path && rom_path == info->rom_path && !file_exists(rom_path)) rom_path = home_file(HOME_ROM, bundled, sizeof bundled); /* the hash decides */
    if (!rom_path) return err_set(err, ERR_ARGUMENT, "the run does not say where its ROM (%s, %s) is: name it with --rom", info->rom_title, info->rom_code);
    struct buf rom = {0};
    char hash[33];
    int code = file_read(rom_path, ROM_LIMIT, &rom, err);
    if (code == ERR_MISSING) err_context(err, "the ROM of the run (name it with --rom)");
    if (!code) {
        hash_hex(rom.data, rom.len, NULL, 0, hash);
        if (strcmp(hash, info->rom_hash) != 0) {
            code = err_set(err, ERR_FORMAT, "%s: not the ROM of this run: hash %s, expected %s (%s, %s)", rom_path, hash, info->rom_hash, info->rom_title,
                           info->rom_code);
        }
    }
    if (!code) code = emulator_open(rom.data, rom.len, NULL, out, err);
    buf_free(&rom);
    return code;
}
