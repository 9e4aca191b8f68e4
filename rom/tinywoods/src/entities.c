/* entities.c: monsters, items and traps as the layout keeps them: pools that never hold NULL, a pointer on each tile,
 * and a packed list of the monsters alive. The type says whether a slot is in use.
 */
#include "game.h"

struct dungeon dungeon_memory __attribute__((section(".dungeon")));

const s8 dir_dx[8] = { 0, 1, 1, 1, 0, -1, -1, -1 };
const s8 dir_dy[8] = { 1, 1, 0, -1, -1, -1, 0, 1 };

struct entity_info *info_of(const struct entity *who)
{
    return who->data;
}

int is_monster(const struct entity *who)
{
    return who->type == ENTITY_MONSTER;
}

struct entity *leader(void)
{
    struct entity *who = D->team[0];

    for (int i = 0; i < TEAM_MAX; i++)
        if (is_monster(D->team[i]) && info_of(D->team[i])->is_leader)
            who = D->team[i];
    G_LEADER = who;
    return who;
}

void entity_stand(struct entity *who)
{
    who->px = (24 * who->x + (is_monster(who) ? 12 : 4)) * 256;
    who->py = (24 * who->y + (is_monster(who) ? 16 : 4)) * 256;
    who->prev_px = who->px;
    who->prev_py = who->py;
    if (is_monster(who)) {
        info_of(who)->pixel_int[0] = (s16)(who->px >> 8);
        info_of(who)->pixel_int[1] = (s16)(who->py >> 8);
    }
}

void monster_put(struct entity *who, int x, int y)
{
    if (tile_in_map(who->x, who->y) && tile_at(who->x, who->y)->monster == who)
        tile_at(who->x, who->y)->monster = 0;
    who->prev_x = who->x;
    who->prev_y = who->y;
    who->x = (s16)x;
    who->y = (s16)y;
    who->room = tile_at(x, y)->room;
    tile_at(x, y)->monster = who;
    if (info_of(who)->is_leader) {
        G_LEADER_TILE[0] = (s16)x;
        G_LEADER_TILE[1] = (s16)y;
        G_MINIMAP_DOT[0] = (s16)x;
        G_MINIMAP_DOT[1] = (s16)y;
    }
}

void monster_remove(struct entity *who)
{
    int to = 0;

    if (tile_at(who->x, who->y)->monster == who)
        tile_at(who->x, who->y)->monster = 0;
    who->type = ENTITY_NONE;
    who->visible = 0;
    for (int i = 0; i < ACTIVE_MAX; i++)
        if (D->active[i] && D->active[i] != who)
            D->active[to++] = D->active[i];
    while (to < ACTIVE_MAX)
        D->active[to++] = 0;
}

void monster_face(struct entity *who, int dir)
{
    info_of(who)->direction = (u8)dir;
    who->sprite_direction[0] = who->sprite_direction[1] = (u8)dir;
}

int step_legal(const struct entity *who, int dir)
{
    return tile_at(who->x, who->y)->walkable[0] >> dir & 1;
}

int step_free(const struct entity *who, int dir)
{
    return step_legal(who, dir) && !tile_at(who->x + dir_dx[dir], who->y + dir_dy[dir])->monster;
}

int direction_to(int dx, int dy)
{
    dx = (dx > 0) - (dx < 0);
    dy = (dy > 0) - (dy < 0);
    for (int dir = 0; dir < 8; dir++)
        if (dir_dx[dir] == dx && dir_dy[dir] == dy)
            return dir;
    return DIR_S;
}

int distance(const struct entity *a, const struct entity *b)
{
    int dx = a->x > b->x ? a->x - b->x : b->x - a->x, dy = a->y > b->y ? a->y - b->y : b->y - a->y;

    return dx > dy ? dx : dy;
}

struct entity *monster_ahead(const struct entity *who, int dir)
{
    return step_legal(who, dir) ? tile_at(who->x + dir_dx[dir], who->y + dir_dy[dir])->monster : 0;
}

struct entity *object_put(int type, int index, int x, int y)
{
    struct entity *object = type == ENTITY_ITEM ? D->items[index] : D->traps[index];

    object->type = (u32)type;
    object->x = object->prev_x = (s16)x;
    object->y = object->prev_y = (s16)y;
    object->visible = 1;
    object->room = tile_at(x, y)->room;
    entity_stand(object);
    tile_at(x, y)->object = object;
    if (type == ENTITY_ITEM && index >= D->item_count)
        D->item_count = (s16)(index + 1);
    return object;
}

void object_remove(struct entity *object)
{
    if (tile_at(object->x, object->y)->object == object)
        tile_at(object->x, object->y)->object = 0;
    if (object->type == ENTITY_ITEM)
        ((struct item *)object->data)->flags = 0;
    object->type = ENTITY_NONE;
    object->visible = 0;
    while (D->item_count > 0 && D->items[D->item_count - 1]->type != ENTITY_ITEM)
        D->item_count--;
}

/* Every slot gets its entity and its data: pointers are never NULL. The team's slots survive a floor. */
void pools_reset(void)
{
    for (int i = 0; i < TEAM_MAX; i++) {
        D->team[i] = &D->team_entities[i];
        D->team[i]->data = &D->team_info[i];
    }
    for (int i = 0; i < WILD_MAX; i++) {
        D->wild[i] = &D->wild_entities[i];
        D->wild[i]->type = ENTITY_NONE;
        D->wild[i]->data = &D->wild_info[i];
    }
    for (int i = 0; i < ITEM_MAX; i++) {
        D->items[i] = &D->item_entities[i];
        D->items[i]->type = ENTITY_NONE;
        D->items[i]->data = &D->item_data[i];
        D->item_data[i] = (struct item){ 0 };
    }
    for (int i = 0; i < TRAP_MAX; i++) {
        D->traps[i] = &D->trap_entities[i];
        D->traps[i]->type = ENTITY_NONE;
        D->traps[i]->data = &D->trap_data[i];
        D->trap_data[i] = (struct trap){ 0 };
    }
    for (int i = 0; i < ACTIVE_MAX; i++)
        D->active[i] = 0;
    D->item_count = 0;
}

void monster_reset(struct entity_info *info, int species, int level, int hp, int atk, int def)
{
    const struct species_rules *rules = species_rules(species);

    *info = (struct entity_info){ 0 };
    info->species = info->apparent_species = (s16)species;
    info->level = (u8)level;
    info->iq = 1;
    info->hp = info->max_hp = (s16)hp;
    info->atk = info->sp_atk = (u8)atk;
    info->def = info->sp_def = (u8)def;
    info->exp = exp_for_level(level);
    info->types[0] = rules->types[0];
    info->types[1] = rules->types[1];
    for (int i = 0; i < 2; i++) {
        info->atk_stages[i] = info->def_stages[i] = info->hit_stages[i] = 10;
        info->atk_mult[i] = info->def_mult[i] = 0x100;
    }
    info->speed_stage = 1;
    info->ai_objective = 3;
    info->belly[0] = info->max_belly[0] = BELLY_MAX;
}
