/* Names by id. Written by tools/make_names.py from the tables of `tinywoods`; do not edit. */
#include "game/layout.h"

static const char *const species[311] = {
    [27] = "Mudkit", [152] = "Moss", [191] = "Thornling", [277] = "Fen", [310] = "Gloomcap",
};

static const char *const items[197] = {
    [1] = "Thorn Dart", [55] = "Dew Berry", [82] = "Apple", [105] = "Coins", [196] = "Doze Orb",
};

static const char *const moves[252] = {
    [94] = "Sun Rest", [135] = "Sap", [154] = "Ram", [182] = "Spore Puff", [213] = "Mud Fling", [224] = "Glare", [250] = "Swat",
    [251] = "Leaf Edge",
};

static const char *const traps[17] = {
    [6] = "Warp Ring", [10] = "Tar Patch", [16] = "Burr Trap",
};

static const char *const dungeons[1] = {
    "Tiny Woods",
};

static const char *const actions[1] = {
    NULL,
};

static const uint8_t item_use[197] = {
    [1] = 3, [55] = 2, [82] = 1, [196] = 4,
};

static const uint8_t dungeon_floors[1] = {
    0,
};

static const uint16_t money[] = {
    0,
};

const struct game_names names_tinywoods = {
    .species_count = 311, .item_count = 197, .move_count = 252, .trap_count = 17, .dungeon_count = 1, .action_count = 0,
    .money_count = 0, .species = species, .items = items, .moves = moves, .traps = traps,
    .dungeons = dungeons, .actions = actions, .item_use = item_use, .dungeon_floors = dungeon_floors, .money = money,
};
