/* names.h: the words for ids, and the numbers of each kind of creature, item and move. */
#ifndef TINYWOODS_NAMES_H
#define TINYWOODS_NAMES_H

#include "layout.h"

struct species_rules {
    s16 species;
    const char *name;
    u8 types[2];
    u8 level, hp, atk, def, exp;    /* of a foe; the team's own numbers are in rules.h */
    u16 move;                       /* what a foe uses now and then */
};
enum move_range { RANGE_FRONT, RANGE_LINE, RANGE_SELF, RANGE_ROOM };
struct move_rules {
    u16 id;
    const char *name, *info;
    u8 pp, range, hit_percent;
    s8 power;                       /* added to the plain damage */
};
struct item_rules {
    u8 id;
    const char *name, *info;
    u8 use;                         /* enum action: eat, orb, throw */
};

const struct species_rules *species_rules(int species);
const struct move_rules *move_rules(int move);
const struct item_rules *item_rules(int item);
const char *trap_name(int trap);
const char *monster_name(const struct entity_info *who);
u32 exp_for_level(int level);       /* total experience at which that level is reached */
s32 money_amount(int index);        /* the real game's money table, first rows */

#endif
