/* Where things lie in RAM, one table per layout, and which game uses which table and which names. The decoder contains no address
 * of its own. Source of every number: the project's sheet on the game's memory (`pmd-red`); sizes are part of it, because
 * everything is checked against them before it is read. Private to this room. */
#ifndef GAME_LAYOUT_H
#define GAME_LAYOUT_H

#include <stdint.h>

#include "game/world.h"

/* Entity, EntityInfo, Tile ... have the same shape in every version; globals move. All offsets are in bytes. */
struct memory_map {
    struct { /* addresses */
        uint32_t main_mode, dungeon, floor_live, dungeon_frames, window_mode, story, title_menu, ground_text;
        uint32_t dialogue_state, dialogue_text, dialogue_next, dialogue_flags, speaker, choices, choice_cursor;
        uint32_t menu, action_rows, action_count, inventory;
    } at;
    struct { uint32_t bytes, start_mode; } story;
    struct { uint32_t bytes, cursor, page; } menu;
    struct { uint32_t bytes, bag, money; } inventory;
    struct {
        uint32_t bytes, awaiting_player, log_next, id, floor, has_bag, wind_turns, floor_seed;
        uint32_t tiles, stairs, weather, rooms, team, wild, items, traps, camera_pixel, visibility_range, lit;
        uint32_t log, exit_reason, floor_limit;
    } dungeon;
    struct { uint32_t bytes, flags, visibility, room, passable; } tile;
    struct { uint32_t bytes, exists, discovered, min_x, min_y, end_x, end_y; } room;
    struct { uint32_t bytes, type, at, visible, spawn_id, data; } entity;
    struct {
        uint32_t bytes, species, shown, enemy, leader, shopkeeper, level, iq, hp, max_hp, exp, facing, held, behavior;
        uint32_t moves, belly, max_belly;
    } info;
    struct { uint32_t bytes, used, new_group, first_line, text, text_bytes; } log_line;
    uint32_t dialogue_bytes, speaker_bytes;
};

/* Status slots of EntityInfo, in the order of struct status.slot. turns 0: the slot counts none. count_only: the byte at `value`
 * is itself a number of turns. */
struct status_slot {
    uint16_t value, turns;
    bool count_only;
    const char *names[16];
};
enum { STATUS_SLOTS = 15, STATUS_INVISIBLE_SLOT = 10, STATUS_INVISIBLE = 1 };
extern const struct status_slot status_slots[STATUS_SLOTS];

struct game_names {
    int species_count, item_count, move_count, trap_count, dungeon_count, action_count, money_count;
    const char *const *species, *const *items, *const *moves, *const *traps, *const *dungeons, *const *actions; /* NULL: no such id */
    const uint8_t *item_use; /* enum item_use */
    const uint8_t *dungeon_floors;
    const uint16_t *money; /* amount by quantity index */
};
extern const struct game_names names_red, names_tinywoods;

struct game_layout {
    const char *title, *code, *name;
    const struct memory_map *map;
    const struct game_names *names;
    bool bag_always; /* the bag does not depend on the toolbox flag */
};
/* NULL when the game is not supported; *why then says what was found. */
const struct game_layout *game_layout_find(const char *title, const char *code, const char **why);

enum { SPECIES_COUNT = 424, ITEM_ID_COUNT = 240, MOVE_ID_COUNT = 430, TRAP_ID_COUNT = 20, ITEM_MONEY = 105, ACTION_ID_STAIRS = 38 };

#endif
