/* names.c: our own words for the ids of the shared tables (names.json is the same table for programs that look on). */
#include "game.h"

static const struct species_rules species_table[] = {
    { SPECIES_FEN, "Fen", { 4, 0 }, LEADER_LEVEL, LEADER_HP, LEADER_ATK, LEADER_DEF, 0, MOVE_ID_RAM },
    { SPECIES_MOSS, "Moss", { 4, 0 }, PARTNER_LEVEL, PARTNER_HP, PARTNER_ATK, PARTNER_DEF, 0, MOVE_ID_SWAT },
    { SPECIES_THORNLING, "Thornling", { 4, 0 }, 3, 9, 10, 6, 24, MOVE_ID_SAP },
    { SPECIES_MUDKIT, "Mudkit", { 9, 0 }, 3, 11, 10, 6, 28, MOVE_ID_MUD },
    { SPECIES_GLOOMCAP, "Gloomcap", { 4, 8 }, 4, 12, 10, 6, 32, MOVE_ID_SPORE },
};

static const struct move_rules move_table[] = {
    { MOVE_ID_RAM, "Ram", "A hard push with the head.", 20, RANGE_FRONT, 95, 4 },
    { MOVE_ID_LEAF, "Leaf Edge", "A leaf that flies straight on.", 12, RANGE_LINE, 90, 2 },
    { MOVE_ID_REST, "Sun Rest", "Gives back some of your HP.", 6, RANGE_SELF, 100, 0 },
    { MOVE_ID_GLARE, "Glare", "Weakens all foes of the room.", 10, RANGE_ROOM, 100, 0 },
    { MOVE_ID_SWAT, "Swat", "A quick slap.", 20, RANGE_FRONT, 95, 3 },
    { MOVE_ID_SAP, "Sap", "Drinks a little strength.", 18, RANGE_FRONT, 90, 1 },
    { MOVE_ID_MUD, "Mud Fling", "Wet mud at short range.", 16, RANGE_FRONT, 90, 1 },
    { MOVE_ID_SPORE, "Spore Puff", "A dusty puff.", 15, RANGE_FRONT, 90, 1 },
};

static const struct item_rules item_table[] = {
    { ITEM_DART, "Thorn Dart", "Throw it: it hurts the first\nfoe in its way.", ACTION_THROW },
    { ITEM_BERRY, "Dew Berry", "Eat it to get 60 HP back.", ACTION_EAT },
    { ITEM_APPLE, "Apple", "Eat it to fill the belly by 50.", ACTION_EAT },
    { ITEM_ORB, "Doze Orb", "Use it: all foes of the room\nfall asleep.", ACTION_ORB },
    { ITEM_MONEY, "Coins", "Money.", ACTION_NONE },
};

static const u8 money_rows[MONEY_INDEX_MAX + 1] = { 4, 6, 10, 14, 22, 26, 34, 38 };

const struct species_rules *species_rules(int species)
{
    for (u32 i = 0; i < sizeof species_table / sizeof species_table[0]; i++)
        if (species_table[i].species == species)
            return &species_table[i];
    return &species_table[0];
}

const struct move_rules *move_rules(int move)
{
    for (u32 i = 0; i < sizeof move_table / sizeof move_table[0]; i++)
        if (move_table[i].id == move)
            return &move_table[i];
    return &move_table[0];
}

const struct item_rules *item_rules(int item)
{
    for (u32 i = 0; i < sizeof item_table / sizeof item_table[0]; i++)
        if (item_table[i].id == item)
            return &item_table[i];
    return &item_table[0];
}

const char *trap_name(int trap)
{
    return trap == TRAP_WARP ? "Warp Ring" : trap == TRAP_SLOW ? "Tar Patch" : "Burr Trap";
}

const char *monster_name(const struct entity_info *who)
{
    return species_rules(who->species)->name;
}

u32 exp_for_level(int level)
{
    return (u32)(10 * (level - 1) * (level - 1));
}

s32 money_amount(int index)
{
    return index < 0 || index > MONEY_INDEX_MAX ? 0 : money_rows[index];
}
