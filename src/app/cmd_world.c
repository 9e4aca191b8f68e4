/* pmd-agent world: what the game's memory in a save state means. Needs no ROM and no emulator. */
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "base/file.h"
#include "game/world.h"

enum { MAX_STATE_BYTES = 64 << 20 };

static const char help[] =
    "usage: pmd-agent world FILE [--json]\n\n"
    "Decodes an mGBA save state (raw, or a PNG made by mGBA) of a supported game and prints the world in it:\n"
    "  Pokemon Mystery Dungeon: Red Rescue Team (USA)   B24E\n"
    "  Tiny Woods (bundled)                             TWDE\n\n"
    "  --json   one JSON object: game{title,code,supported}, state, dungeon{id,name,floor}, leader (index into team),\n"
    "           team[], foes[], items[], bag[], traps[], stairs{x,y}, rooms[], terrain (32 strings of 56: # wall or border,\n"
    "           . floor, ~ liquid, > stairs), seen (32 strings of digits: 1 shown on the map + 2 seen), dialogue{state,text},\n"
    "           message_log[], money, addresses{key: hex}, unread[] (what could not be read, and why)\n\n"
    "states: title, ground, dialogue, dialogue_wait, choice, loading, field, stairs, menu, history, animation, unreadable\n"
    "exit status: 0 decoded, 1 not readable or not a supported game (what is known is printed all the same), 2 wrong usage\n";

int cmd_world(int argc, char **argv) {
    const char *path = NULL;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return fputs(help, stdout), 0;
        if (!strcmp(argv[i], "--json")) {
            json = true;
        } else if ((argv[i][0] == '-' && argv[i][1]) || path) {
            fprintf(stderr, "pmd-agent world: %s '%s' (--help explains)\n", path ? "one file at a time; not needed:" : "no option", argv[i]);
            return 2;
        } else {
            path = argv[i];
        }
    }
    if (!path) {
        fputs(help, stderr);
        return 2;
    }
    struct err err = {0};
    struct buf file = {0}, owned = {0}, out = {0};
    struct memory_view memory;
    char title[13], code[5];
    int status = 1;
    if (file_read(path, MAX_STATE_BYTES, &file, &err) ||
        (save_state_read(file.data, file.len, &owned, &memory, title, code, &err) && err_context(&err, "%s", path))) {
        fprintf(stderr, "pmd-agent world: %s\n", err.message);
        goto end;
    }
    static struct world world;
    world_decode(&memory, title, code, &world);
    if (json) world_print_json(&world, &out);
    else world_print_text(&world, &out);
    if (out.failed || fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout)) {
        fputs("pmd-agent world: the output could not be written\n", stderr);
        goto end;
    }
    status = world.layout && world.state != STATE_UNREADABLE ? 0 : 1;
    if (status) {
        fprintf(stderr, "pmd-agent world: %s: not readable: %s\n", path, world.unread_count ? world.unread[0] : "no reason known");
    }
end:
    buf_free(&file);
    buf_free(&owned);
    buf_free(&out);
    return status;
}
