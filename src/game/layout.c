/* The layout tables. The home-brew dungeon keeps the real game's layout on purpose, so both rows share one map. */
#include "game/layout.h"

#include <string.h>

static const struct memory_map red_usa = {
    .at = {.main_mode = 0x0203B03C, .dungeon = 0x0203B418, .floor_live = 0x0203B40C, .dungeon_frames = 0x0202EDCC,
           .window_mode = 0x0202EDD0, .story = 0x02000A88, .title_menu = 0x0203B348, .ground_text = 0x03001B64,
           .dialogue_state = 0x0202E744, .dialogue_text = 0x0202E798, .dialogue_next = 0x0202E794, .dialogue_flags = 0x0202E77C,
           .speaker = 0x0202E5D8, .choices = 0x0202EC14, .choice_cursor = 0x0202EBEC, .menu = 0x0202EE10,
           .action_rows = 0x0202EE44, .action_count = 0x0202EE6C, .inventory = 0x0203B460},
    .story = {.bytes = 0x400, .start_mode = 134},
    .menu = {.bytes = 0x34, .cursor = 0x18, .page = 0x1E},
    .inventory = {.bytes = 0x268, .bag = 0, .money = 0x260},
    .dungeon = {.bytes = 0x1CEDC, .awaiting_player = 0xF, .log_next = 0x16, .id = 0x644, .floor = 0x645, .has_bag = 0x65B,
                .wind_turns = 0x666, .floor_seed = 0x680, .tiles = 0x3A18, .stairs = 0xE21C, .weather = 0xE264, .rooms = 0x104C4,
                .team = 0x1357C, .wild = 0x1358C, .items = 0x1361C, .traps = 0x1371C, .camera_pixel = 0x181F0,
                .visibility_range = 0x18209, .lit = 0x1820C, .log = 0x1C070, .exit_reason = 0x1CE98 + 0x14, .floor_limit = 0x1CEC8},
    .tile = {.bytes = 24, .flags = 0, .visibility = 4, .room = 9, .passable = 0xA},
    .room = {.bytes = 0x1C, .exists = 0, .discovered = 1, .min_x = 2, .min_y = 4, .end_x = 6, .end_y = 8},
    .entity = {.bytes = 0x74, .type = 0, .at = 4, .visible = 0x20, .spawn_id = 0x26, .data = 0x70},
    .info = {.bytes = 0x208, .species = 2, .shown = 4, .enemy = 6, .leader = 7, .shopkeeper = 8, .level = 9, .iq = 0xC, .hp = 0xE,
             .max_hp = 0x10, .exp = 0x18, .facing = 0x46, .held = 0x60, .behavior = 0xA4, .moves = 0x118, .belly = 0x13C,
             .max_belly = 0x140},
    .log_line = {.bytes = 0x40, .used = 0, .new_group = 1, .first_line = 2, .text = 3, .text_bytes = 60},
    .dialogue_bytes = 1000,
    .speaker_bytes = 80,
};

const struct status_slot status_slots[STATUS_SLOTS] = {
    {0xA8, 0xA9, false, {NULL, "sleep", "sleepless", "nightmare", "yawning", "napping"}},
    {0xAC, 0xAD, false, {NULL, "burn", "poisoned", "badly_poisoned", "paralysis"}},
    {0xB0, 0xB8, false, {NULL, "frozen", "shadow_hold", "wrap", "wrapped", "ingrain", "petrified", "constriction"}},
    {0xBC, 0xBD, false, {NULL, "cringe", "confused", "paused", "cowering", "taunted", "encore", "infatuated"}},
    {0xC0, 0xC1, false, {NULL, "bide", "solarbeam", "sky_attack", "razor_wind", "focus_punch", "skull_bash", "flying", "bouncing",
                         "diving", "digging", "charging", "enraged"}},
    {0xC4, 0xC5, false, {NULL, "reflect", "safeguard", "light_screen", "counter", "magic_coat", "wish", "protect", "mirror_coat",
                         "enduring", "mini_counter", "mirror_move", "conversion2", "vital_throw", "mist"}},
    {0xC8, 0xCB, false, {NULL, "cursed", "decoy", "snatch"}},
    {0xD0, 0xD9, false, {NULL, "leech_seed", "destiny_bond"}},
    {0xDC, 0xDD, false, {NULL, "sure_shot", "whiffer", "set_damage", "focus_energy"}},
    {0xE0, 0, false, {NULL, "long_toss", "pierce"}},
    {0xE4, 0xE5, false, {NULL, "invisible", "transformed", "mobile"}},
    {0xE8, 0xE9, false, {NULL, "blinker", "cross_eyed", "eyedrops"}},
    {0xEC, 0xED, false, {NULL, "muzzled"}},
    {0xFA, 0, true, {NULL, "terrified"}},
    {0xFD, 0, true, {NULL, "perish_song"}},
};

static const struct game_layout games[] = {
    {"POKE DUNGEON", "B24E", "Pokemon Mystery Dungeon: Red Rescue Team (USA)", &red_usa, &names_red, false},
    {"TINY WOODS", "TWDE", "Tiny Woods (bundled)", &red_usa, &names_tinywoods, true},
};

const struct game_layout *game_layout_find(const char *title, const char *code, const char **why) {
    *why = "this game has no layout table; supported are POKE DUNGEON (B24E) and TINY WOODS (TWDE)";
    for (size_t i = 0; i < sizeof games / sizeof *games; i++) {
        if (!strcmp(title, games[i].title) && !strcmp(code, games[i].code)) return &games[i];
        if (!strncmp(code, games[i].code, 3) && strcmp(code, games[i].code)) *why = "another region's version: its addresses differ; supported is the USA one";
        else if (!strcmp(code, games[i].code)) *why = "the title in the header does not fit its game code";
    }
    return NULL;
}

static const char *name_of(const char *const *names, int count, int id, const char *otherwise) {
    return id >= 0 && id < count && names[id] ? names[id] : otherwise;
}

#define NAME(list, id, otherwise) (g ? name_of(g->names->list##s, g->names->list##_count, id, otherwise) : otherwise)
const char *game_species_name(const struct game_layout *g, int id) {
    return g ? name_of(g->names->species, g->names->species_count, id, "unknown") : "unknown";
}
const char *game_item_name(const struct game_layout *g, int id) { return NAME(item, id, "unknown item"); }
const char *game_move_name(const struct game_layout *g, int id) { return NAME(move, id, "unknown move"); }
const char *game_trap_name(const struct game_layout *g, int id) { return NAME(trap, id, "unknown trap"); }
const char *game_dungeon_name(const struct game_layout *g, int id) { return NAME(dungeon, id, "unknown dungeon"); }
/* Menu words and money amounts belong to the shared numbering, not to one game. */
const char *game_action_name(const struct game_layout *g, int id) {
    (void)g;
    return name_of(names_red.actions, names_red.action_count, id, "unknown action");
}

enum item_use game_item_use(const struct game_layout *g, int item) {
    return g && item >= 0 && item < g->names->item_count ? (enum item_use)g->names->item_use[item] : ITEM_USE_NONE;
}

const char *game_status_name(int slot, int value) {
    if (slot < 0 || slot >= STATUS_SLOTS || value <= 0) return "none";
    int v = status_slots[slot].count_only ? 1 : value;
    return v < 16 && status_slots[slot].names[v] ? status_slots[slot].names[v] : "unknown";
}
