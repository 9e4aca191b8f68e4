/* rules.h: every number of the game in one place. Its idea: balance is tuned here and nowhere else; changing one
 * of these makes it another game, so all recorded baselines must be run again (see README.md).
 */
#ifndef TINYWOODS_RULES_H
#define TINYWOODS_RULES_H

/* Who and what: ids are numbers of the shared tables, names are in names.json and names.c. */
enum species { SPECIES_FEN = 252, SPECIES_MOSS = 155, SPECIES_THORNLING = 191, SPECIES_MUDKIT = 283, SPECIES_GLOOMCAP = 310 };
enum item_id {
    ITEM_SEED_DART = 1,     /* thrown, stacks */
    ITEM_BERRY = 55,
    ITEM_APPLE = 82,
    ITEM_MONEY = 105,
    ITEM_ORB = 196          /* ids 192.. are orbs */
};
enum move_id { MOVE_ID_NONE = 0 };
enum trap_id { TRAP_ID_WARP = 6, TRAP_ID_SLOW = 10, TRAP_ID_CHESTNUT = 16 };

#endif
