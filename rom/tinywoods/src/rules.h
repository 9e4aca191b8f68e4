/* rules.h: every number of the game in one place. Its idea: balance is tuned here and nowhere else. Changing any
 * of these makes it another game, so all recorded baselines must be run again (see README.md).
 */
#ifndef TINYWOODS_RULES_H
#define TINYWOODS_RULES_H

/* Who and what: ids are numbers of the shared tables; our names for them are in names.c and names.json. */
enum species { SPECIES_THORNLING = 191, SPECIES_FEN = 277, SPECIES_MOSS = 152, SPECIES_MUDKIT = 27, SPECIES_GLOOMCAP = 310 };
enum item_id { ITEM_DART = 1, ITEM_BERRY = 55, ITEM_APPLE = 82, ITEM_MONEY = 105, ITEM_ORB = 196 };
enum move_id {
    MOVE_ID_RAM = 154, MOVE_ID_LEAF = 251, MOVE_ID_REST = 94, MOVE_ID_GLARE = 224,
    MOVE_ID_SWAT = 250, MOVE_ID_SAP = 135, MOVE_ID_MUD = 213, MOVE_ID_SPORE = 182
};
enum trap_id { TRAP_WARP = 6, TRAP_SLOW = 10, TRAP_CHESTNUT = 16 };

enum {
    DUNGEON_ID = 0, FLOORS = 3, TURN_LIMIT = 500,
    WIND_WARNING_1 = 100, WIND_WARNING_2 = 50, WIND_WARNING_3 = 20,   /* turns left when a message comes */

    /* Floors: 2 columns of cells in the left half, 2 or 3 rows; one cell may stay empty with 3 rows. */
    CELL_COLUMNS = 2, CELL_W = 13, CELL_H_OF_3_ROWS = 10, CELL_H_OF_2_ROWS = 13,
    THREE_ROWS_PERCENT = 60, EMPTY_CELL_PERCENT = 40,
    ROOM_W_MIN = 4, ROOM_W_MAX = 8, ROOM_H_MIN = 3, ROOM_H_MAX = 6,
    EXTRA_CORRIDOR_PERCENT = 50,          /* for each pair of neighbour rooms that the tree left unconnected */

    FOES_START_MIN = 2, FOES_START_MAX = 3, FOES_ALIVE_MAX = 4, RESPAWN_TURNS = 36, RESPAWN_MIN_DISTANCE = 6,
    ITEMS_MIN = 3, ITEMS_MAX = 4, TRAPS_MIN = 1, TRAPS_MAX = 2, TRAP_HIDDEN_PERCENT = 50,
    MONEY_INDEX_MAX = 7,                  /* index into the money table: piles of 4..38 */

    /* The team */
    LEADER_LEVEL = 5, LEADER_HP = 45, LEADER_ATK = 13, LEADER_DEF = 6,
    PARTNER_LEVEL = 5, PARTNER_HP = 40, PARTNER_ATK = 12, PARTNER_DEF = 6,
    LEVEL_UP_HP = 4, LEVEL_UP_ATK = 1, LEVEL_UP_DEF = 1, LEVEL_MAX = 20,
    BELLY_START = 50, BELLY_MAX = 100,
    BAG_APPLES = 1, BAG_BERRIES = 2, BAG_DARTS = 3,

    /* Fights: damage = attack - defence + move power, +-1, at least 1 */
    HIT_PERCENT = 92, FOE_HIT_PERCENT = 82, THROW_HIT_PERCENT = 90,
    FOE_MOVE_PERCENT = 25,                /* chance that a foe uses its move instead of the plain attack */
    CHASE_RADIUS = 3,

    APPLE_BELLY = 50, BERRY_HP = 60, BERRY_EMPTY_HP = 2, DART_DAMAGE = 9, ORB_SLEEP_TURNS = 6,
    FOOD_SIDE_BELLY = 5,                  /* what a berry adds to the belly */
    THROW_RANGE = 10,
    CHESTNUT_DAMAGE = 5, SLOW_TURNS = 8,
    REST_HP = 20, GLARE_STAGE = 2
};

#endif
