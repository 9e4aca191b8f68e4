/* team.c: Fen, who leads, and Moss, who follows: their birth at the start of a run, their place on each floor, and what
 * they learn. The persistent copies (roster, dungeon team) keep names and the values of the last floor change.
 */
#include "game.h"

static void set_name(char *to, const char *name)
{
    int i = 0;

    for (; i < 10 && name[i]; i++)
        to[i] = name[i];
    for (; i < 10; i++)
        to[i] = 0;
}

static void give_move(struct entity_info *info, int slot, int move, int flags)
{
    info->moves[slot] = (struct move){ (u8)(MOVE_EXISTS | MOVE_AI | flags), 0, (u16)move, move_rules(move)->pp, 0,
                                       { 0, 0 } };
}

static void create(int slot, int species, int level, int hp, int atk, int def)
{
    struct entity *who = &D->team_entities[slot];
    struct entity_info *info = &D->team_info[slot];

    monster_reset(info, species, level, hp, atk, def);
    info->is_leader = slot == 0;
    info->team_index = (u8)slot;
    info->joined_at[0] = slot == 0 ? 64 : 65;
    info->belly[0] = slot == 0 ? BELLY_START : BELLY_MAX;
    *who = (struct entity){ .type = ENTITY_MONSTER, .visible = 1, .data = info };
    who->x = who->y = -1;
}

void team_create(void)
{
    create(0, SPECIES_FEN, LEADER_LEVEL, LEADER_HP, LEADER_ATK, LEADER_DEF);
    give_move(&D->team_info[0], 0, MOVE_ID_RAM, MOVE_SET);
    give_move(&D->team_info[0], 1, MOVE_ID_LEAF, 0);
    give_move(&D->team_info[0], 2, MOVE_ID_REST, 0);
    give_move(&D->team_info[0], 3, MOVE_ID_GLARE, 0);
    create(1, SPECIES_MOSS, PARTNER_LEVEL, PARTNER_HP, PARTNER_ATK, PARTNER_DEF);
    give_move(&D->team_info[1], 0, MOVE_ID_SWAT, 0);
    team_copy_back();
    set_name(G_TEAM_NAME, "Woodlings");
    bag_clear();
    bag_add((struct item){ ITEM_EXISTS, 0, ITEM_APPLE, 0 });
    for (int i = 0; i < BAG_BERRIES; i++)
        bag_add((struct item){ ITEM_EXISTS, 0, ITEM_BERRY, 0 });
    bag_add((struct item){ ITEM_EXISTS | ITEM_SET, BAG_DARTS, ITEM_DART, 0 });
}

void team_copy_back(void)
{
    for (int i = 0; i < 2; i++) {
        const struct entity_info *info = &D->team_info[i];
        struct dungeon_mon *mon = &G_DUNGEON_TEAM[i];
        struct roster_mon *entry = &G_ROSTER[i];

        *mon = (struct dungeon_mon){ .flags = 3, .is_leader = info->is_leader, .level = info->level,
            .met_at = { info->joined_at[0], 0 }, .iq = info->iq, .roster_slot = (s16)i, .team_slot = (s16)i,
            .species = info->species, .hp = info->hp, .max_hp = info->max_hp,
            .stats = { info->atk, info->sp_atk, info->def, info->sp_def }, .exp = info->exp,
            .belly = { info->belly[0], info->belly[1] }, .max_belly = { info->max_belly[0], 0 } };
        *entry = (struct roster_mon){ .flags = 3, .is_leader = info->is_leader, .level = info->level,
            .met_at = { info->joined_at[0], 0 }, .species = info->species, .iq = info->iq, .hp = info->max_hp,
            .stats = { info->atk, info->sp_atk, info->def, info->sp_def }, .exp = info->exp };
        for (int m = 0; m < 4; m++)
            mon->moves[m] = entry->moves[m] = info->moves[m];
        set_name(mon->name, monster_name(info));
        set_name(entry->name, monster_name(info));
        G_TEAM[i] = *entry;
    }
}

static int free_beside(int x, int y, int *nx, int *ny)
{
    for (int dir = 0; dir < 8; dir++)
        if (tile_at(x, y)->walkable[0] >> dir & 1 && !tile_at(x + dir_dx[dir], y + dir_dy[dir])->monster) {
            *nx = x + dir_dx[dir];
            *ny = y + dir_dy[dir];
            return 1;
        }
    return 0;
}

void team_enter_floor(int x, int y)
{
    for (int i = 0; i < 2; i++) {
        struct entity *who = D->team[i];

        if (!is_monster(who) || (i && !free_beside(D->spawn_x, D->spawn_y, &x, &y)))
            continue;
        who->x = who->y = -1;
        who->spawn_id = D->next_spawn_id++;
        monster_put(who, x, y);
        who->prev_x = who->x;
        who->prev_y = who->y;
        monster_face(who, DIR_S);
        entity_stand(who);
        who->animation[0] = who->animation[1] = POSE_STAND;
        info_of(who)->speed_stage = 1;
        info_of(who)->speed_down[0] = 0;
        info_of(who)->ai_target_x = info_of(who)->ai_target_y = -1;
        D->active[i] = who;
        D->species_sprites[info_of(who)->species] = species_rules(info_of(who)->species);
    }
    D->camera_target = leader();
    camera_update();
}

void level_up_check(struct entity *who)
{
    struct entity_info *info = info_of(who);

    while (info->level < LEVEL_MAX && info->exp >= exp_for_level(info->level + 1)) {
        info->level++;
        info->max_hp += LEVEL_UP_HP;
        info->hp += LEVEL_UP_HP;
        info->atk += LEVEL_UP_ATK;
        info->sp_atk = info->atk;
        info->def += LEVEL_UP_DEF;
        info->sp_def = info->def;
        message("%s reached level %d!", monster_name(info), info->level);
    }
}
