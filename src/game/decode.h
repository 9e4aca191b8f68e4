/* How the decoder is cut: world_decode finds the game's state and calls these for the parts. Private to this room. */
#ifndef GAME_DECODE_H
#define GAME_DECODE_H

#include "game/layout.h"
#include "game/ram.h"

struct decoder {
    const struct memory_view *memory;
    const struct game_layout *game;
    const struct memory_map *map;
    const uint8_t *dungeon; /* map->dungeon.bytes of them, or NULL */
    struct world *out;
};

/* Adds to out->unread; the last entry says when there was more. */
void decode_note(struct world *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The floor: tiles, rooms, stairs, camera. */
void decode_floor(struct decoder *d);
/* Team, wild monsters, floor items, traps. */
void decode_entities(struct decoder *d);
/* Bag and money. */
void decode_bag(struct decoder *d);
/* Dialogue, choices, menu, message log. */
void decode_dialogue(struct decoder *d);
void decode_menu(struct decoder *d);
void decode_log(struct decoder *d);

#endif
