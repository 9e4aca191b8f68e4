/* What the bytes mean: the state of the dungeon game as plain data, filled from RAM by a decoder that is driven by one layout
 * table per game version (facts: pmd-red.md). No pointer, index or length from RAM is trusted: what cannot be read is listed in
 * `unread`, with the reason. */
#ifndef GAME_WORLD_H
#define GAME_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "emulator/emulator.h" /* struct memory_view */

enum { MAP_WIDTH = 56, MAP_HEIGHT = 32, MAX_TEAM = 4, MAX_WILD = 16, MAX_FLOOR_ITEMS = 64, MAX_BAG = 20, MAX_TRAPS = 64,
       MAX_ROOMS = 32, MAX_LOG = 20, MAX_MOVES = 4, MAX_MENU_ROWS = 10, MAX_STATUSES = 16, MAX_UNREAD = 16,
       MAX_CHOICES = 8 };

/* Directions as in the game: 0 S, 1 SE, 2 E, 3 NE, 4 N, 5 NW, 6 W, 7 SW; y grows downward. */
extern const int8_t direction_dx[8], direction_dy[8];
extern const char *const direction_name[8]; /* "S", "SE", ... */

enum game_state { /* §2.5, in the order of the test */
    STATE_UNREADABLE, STATE_TITLE, STATE_GROUND, STATE_DIALOGUE, STATE_DIALOGUE_WAIT, STATE_CHOICE, STATE_LOADING, STATE_FIELD,
    STATE_STAIRS, STATE_MENU, STATE_HISTORY, STATE_ANIMATION,
};
extern const char *const game_state_name[]; /* "title", "dialogue_wait", "field", ... */

struct point { int16_t x, y; };
struct move { uint16_t id; uint8_t pp; bool set; };
struct held { uint8_t id, quantity; };
struct status { uint8_t slot, value, turns; }; /* game_status_name tells what it is */

struct monster {
    int16_t species; /* the shown one */
    int16_t level, hp, max_hp;
    struct point at;
    uint8_t facing; /* direction */
    bool enemy, leader, shopkeeper, client;
    bool visible; /* false: fainting, or made invisible: nobody sees it */
    uint16_t spawn_id;
    int move_count;
    struct move moves[MAX_MOVES];
    int status_count;
    struct status statuses[MAX_STATUSES];
    struct held held;
    /* team members only */
    int belly, max_belly; /* as displayed */
    int32_t exp;
    int16_t iq;
};

struct floor_item { uint8_t id; int quantity; struct point at; bool shop; }; /* money (id 105): quantity is the amount */
struct bag_item { uint8_t id, quantity, flags; };
struct floor_trap { uint8_t id; struct point at; bool visible; };
/* end = last + 1. A tile's room is the index in world.rooms; a number without a room has end_x = 0. */
struct room { bool discovered; int16_t min_x, min_y, end_x, end_y; };

enum tile_flag { TILE_KIND = 3, TILE_EXIT = 8, TILE_BORDER = 0x10, TILE_SHOP = 0x20, TILE_STAIRS = 0x200 };
enum tile_kind { TILE_WALL = 0, TILE_FLOOR = 1, TILE_LIQUID = 2 };
struct tile {
    uint16_t flags;
    uint8_t visibility; /* bit 0 revealed, bit 1 seen */
    uint8_t room;       /* 255 corridor or wall */
    uint8_t passable;   /* bit d: a regular walker may step in direction d, corner rule included */
};

struct world {
    const struct game_layout *layout; /* which game version; NULL when not supported */
    char title[13], code[5];
    enum game_state state;
    int dungeon, floor; /* floor 1 = first */
    int floors;         /* of this dungeon, 0 unknown */
    int turn_limit_left;
    bool lit, floor_live, awaiting_player;
    uint8_t visibility_range, weather;
    uint16_t exit_reason; /* of the dungeon's exit summary; >= 550 = success */
    int16_t story_start_mode; /* 9 won, 12 lost (U) */
    uint32_t floor_seed, dungeon_frames;

    int team_count, foe_count, item_count, bag_count, trap_count, room_count, leader; /* leader: index into team, -1 none */
    struct monster team[MAX_TEAM], foes[MAX_WILD];
    struct floor_item items[MAX_FLOOR_ITEMS];
    struct bag_item bag[MAX_BAG];
    struct floor_trap traps[MAX_TRAPS];
    struct room rooms[MAX_ROOMS];
    int32_t money;
    bool has_bag;
    struct point stairs; /* -1, -1 unknown */
    struct point camera_pixel;
    struct tile tiles[MAP_HEIGHT][MAP_WIDTH];

    int dialogue_state;
    bool dialogue_waits;
    char dialogue_text[2048]; /* UTF-8, only the part already printed on the present page */
    char speaker[128];       /* who says it, empty when nobody is named */
    int choice_count, choice_cursor; /* STATE_CHOICE, with the texts where the ROM is at hand */
    char choices[MAX_CHOICES][64];
    int window_mode, menu_cursor, menu_page, action_count;
    struct { uint16_t action; uint8_t item; bool selectable; } actions[MAX_MENU_ROWS];
    int log_count;
    char log[MAX_LOG][256]; /* UTF-8, oldest first */

    uint32_t address_dungeon;
    int unread_count;
    char unread[MAX_UNREAD][96];
};

/* Decodes memory. Always fills out (state STATE_UNREADABLE with the reason in unread when nothing can be made of it) and takes
 * at most about 20 µs. header: title and code of the game (from the ROM or a save state). */
void world_decode(const struct memory_view *memory, const char *title, const char *code, struct world *out);

/* What a player at the screen could know, and what he has seen before on this floor: the only thing prompts, skills, the fair
 * oracle and path finding may use. Kept across steps: call world_seen_update after every decode. */
struct world_seen {
    /* A world with everything unknown removed, sorted by place. Unrevealed tiles are walls (flags 0, room 255, visibility 0), and
     * `passable` is worked out from known tiles only. Foes: those in sight, without what no screen shows (level, HP, moves, held
     * item, turns of a status are 0), spawn_id a number in the order of meeting. Items, traps and the stairs stay once seen, until
     * their tile is seen empty. Turn limit, seeds, frame counter, exit reason, addresses and `unread` are 0. */
    struct world now;
    int floor_serial;                        /* counts floors entered; memory is cleared on a new floor */
    uint16_t visits[MAP_HEIGHT][MAP_WIDTH];  /* how often the leader stood here */
    uint32_t last_visit[MAP_HEIGHT][MAP_WIDTH]; /* step number of the last visit, 0 never */
    uint32_t step;                           /* field decisions on this floor: updates in STATE_FIELD, one per frame at most */
    uint16_t last_dungeon_floor;
    uint32_t last_floor_seed, last_frame;
    int met_count;
    uint16_t met[256]; /* spawn ids in the order of meeting */
};
void world_seen_reset(struct world_seen *seen);
void world_seen_update(struct world_seen *seen, const struct world *world);

/* Path finding on what was seen: 8 directions, corner rule, known traps avoided, allies may be swapped, foes block.
 * distance from every tile to the nearest of the goals (breadth first), 0xFFFF unreachable. */
struct distance_field { uint16_t steps[MAP_HEIGHT][MAP_WIDTH]; };
struct path_options { bool avoid_traps, foes_block; };
void path_distances(const struct world *seen, const struct point *goals, int count, const struct path_options *o,
                    struct distance_field *out);
/* Best direction from a tile down the field (ties: the smallest change from `prefer`), -1 when there is none. */
int path_step(const struct world *seen, const struct distance_field *field, struct point from, int prefer, const struct path_options *o);
/* The same with turns: walking on costs 1 a step, and a change of direction path_turn_cost more (by eighths of a circle). cost[y][x][f]: from
 * that tile, facing f, to the nearest goal. Following it never goes to and fro. */
extern const uint8_t path_turn_cost[5];
struct walk_field { uint16_t cost[MAP_HEIGHT][MAP_WIDTH][8]; };
void path_walk(const struct world *seen, const struct point *goals, int count, const struct path_options *o, struct walk_field *out);
/* Best direction from a tile, facing `facing`; -1 when no goal can be reached. */
int path_walk_step(const struct world *seen, const struct walk_field *field, struct point from, int facing);
/* Seconds that the two searches above took on this thread since the last call: where a decision's time goes. */
double path_seconds(void);
/* May the leader step from `from` in direction d (terrain and corner rule only)? */
bool tile_step_allowed(const struct world *w, struct point from, int d);
/* May a melee attack from `from` reach direction d (corner rule)? */
bool tile_attack_allowed(const struct world *w, struct point from, int d);

/* Names by game version: the real game's ids are facts; the home-brew ROM has its own names and effects. Never NULL. */
const char *game_species_name(const struct game_layout *g, int species);
const char *game_item_name(const struct game_layout *g, int item);
const char *game_move_name(const struct game_layout *g, int move);
const char *game_trap_name(const struct game_layout *g, int trap);
const char *game_dungeon_name(const struct game_layout *g, int dungeon);
const char *game_action_name(const struct game_layout *g, int action); /* menu word: "Proceed", ... */
const char *game_status_name(int slot, int value); /* "sleep", "burn", ...; "none" for value 0 */
enum item_use { ITEM_USE_NONE, ITEM_USE_FOOD, ITEM_USE_HEAL, ITEM_USE_THROW, ITEM_USE_OTHER };
enum item_use game_item_use(const struct game_layout *g, int item);

/* Decodes the game's text encoding to UTF-8 (escapes, icons, colour codes dropped, #P as a line break). Returns bytes written
 * without the NUL; out is always NUL-terminated and valid UTF-8. */
size_t game_text_decode(const uint8_t *bytes, size_t n, char *out, size_t cap);

/* Prints a world as text with a map, or as one JSON object (keys: issue "make play", point 5). */
void world_print_text(const struct world *w, struct buf *out);
void world_print_json(const struct world *w, struct buf *out);

/* Reads the memory blocks and the game's identity out of an mGBA save state (raw, or PNG with the gbAs chunk). owned keeps the
 * bytes that memory points into. */
int save_state_read(const void *file, size_t bytes, struct buf *owned, struct memory_view *memory, char title[13], char code[5],
                    struct err *err);

#endif
