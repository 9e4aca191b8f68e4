/* floor_populate.c: what lies and lives on a floor: start, stairs, wild monsters, items, traps, and the tables that the
 * layout keeps about them.
 */
#include "game.h"

static const struct { s16 species; u8 weight_shallow, weight_deep; } foe_weights[] = {
    { SPECIES_THORNLING, 45, 30 }, { SPECIES_MUDKIT, 35, 35 }, { SPECIES_GLOOMCAP, 20, 35 },
};
enum { FOE_KINDS = sizeof foe_weights / sizeof foe_weights[0] };

static const struct { u8 item, weight; } item_weights[] = {
    { ITEM_MONEY, 30 }, { ITEM_BERRY, 24 }, { ITEM_APPLE, 22 }, { ITEM_DART, 16 }, { ITEM_ORB, 8 },
};
enum { ITEM_KINDS = sizeof item_weights / sizeof item_weights[0] };

static const u8 trap_kinds[] = { TRAP_CHESTNUT, TRAP_SLOW, TRAP_WARP };

static int weight_of(int kind)
{
    return D->floor >= FLOORS ? foe_weights[kind].weight_deep : foe_weights[kind].weight_shallow;
}

static void fill_spawn_table(void)
{
    int sum = 0;

    for (int i = 0; i < FOE_KINDS; i++) {
        int level = species_rules(foe_weights[i].species)->level;

        sum += weight_of(i) * 100;
        D->spawn_table[i].species_level = (u16)(foe_weights[i].species | level << 9);
        D->spawn_table[i].odds[0] = D->spawn_table[i].odds[1] = (s16)sum;
    }
    D->spawn_table_count = FOE_KINDS;
}

/* Categories of the shared tables: 0 thrown, 2 berries, 3 food, 6 money, 9 orbs. */
static void fill_item_odds(void)
{
    static const u8 category[ITEM_KINDS] = { 6, 2, 3, 0, 9 };
    struct item_odds *odds = &D->item_odds[0];
    int sum = 0;

    for (int i = 0; i < 12; i++) {
        for (int k = 0; k < ITEM_KINDS; k++)
            if (category[k] == i)
                sum += item_weights[k].weight * 100;
        odds->category[i] = (s16)sum;
    }
    for (int i = 0; i < 240; i++)
        odds->item[i] = 0;
    for (int k = 0; k < ITEM_KINDS; k++)
        odds->item[item_weights[k].item] = 10000;   /* one item in each category */
}

int floor_random_room_tile(int room, int *x, int *y, int avoid_room)
{
    int rooms = D->floor_properties[1];

    for (int tries = 0; tries < 64; tries++) {
        int r = room >= 0 ? room : (int)rng_below((u32)rooms);
        const struct room *box = &D->rooms[r];

        *x = rng_range(box->min_x, box->end_x - 1);
        *y = rng_range(box->min_y, box->end_y - 1);
        if (r != avoid_room && !tile_at(*x, *y)->object && !tile_at(*x, *y)->monster &&
            !(tile_at(*x, *y)->terrain & (TERRAIN_STAIRS | TERRAIN_EXIT)))
            return 1;
    }
    return 0;
}

static int draw_foe(void)
{
    int draw = (int)rng_below(10000);

    for (int i = 0; i < FOE_KINDS; i++)
        if (draw < D->spawn_table[i].odds[0])
            return foe_weights[i].species;
    return foe_weights[0].species;
}

static void add_active(struct entity *who)
{
    for (int i = 0; i < ACTIVE_MAX; i++)
        if (!D->active[i]) {
            D->active[i] = who;
            return;
        }
}

static void foe_create(struct entity *who, int x, int y)
{
    struct entity_info *info = who->data;
    const struct species_rules *rules = species_rules(draw_foe());
    const struct move_rules *move = move_rules(rules->move);

    monster_reset(info, rules->species, rules->level, rules->hp, rules->atk, rules->def);
    info->is_enemy = 1;
    info->joined_at[0] = DUNGEON_ID;
    info->joined_at[1] = D->floor;
    info->moves[0] = (struct move){ MOVE_EXISTS | MOVE_AI, 0, rules->move, move->pp, 0, { 0, 0 } };
    info->tactic = 2;
    info->ai_target_x = info->ai_target_y = -1;
    *who = (struct entity){ .type = ENTITY_MONSTER, .visible = 1, .data = info };
    who->x = who->y = -1;
    who->spawn_id = D->next_spawn_id++;
    monster_put(who, x, y);
    who->prev_x = who->x;
    who->prev_y = who->y;
    monster_face(who, (int)rng_below(8));
    entity_stand(who);
    who->animation[0] = who->animation[1] = POSE_STAND;
    add_active(who);
    D->species_sprites[rules->species] = rules;
}

static int far_enough(int x, int y)
{
    const struct entity *who = leader();
    int dx = x > who->x ? x - who->x : who->x - x, dy = y > who->y ? y - who->y : who->y - y;

    return (dx > dy ? dx : dy) >= RESPAWN_MIN_DISTANCE;
}

int spawn_foe(int away_from_leader)
{
    int alive = 0, slot = -1, x, y;
    int avoid = leader()->room;

    for (int i = WILD_MAX - 1; i >= 0; i--) {
        alive += is_monster(D->wild[i]);
        if (!is_monster(D->wild[i]))
            slot = i;
    }
    if (slot < 0 || alive >= FOES_ALIVE_MAX)
        return 0;
    for (int tries = 0; tries < 8; tries++)
        if (floor_random_room_tile(-1, &x, &y, avoid) && (!away_from_leader || far_enough(x, y))) {
            foe_create(D->wild[slot], x, y);
            return 1;
        }
    return 0;
}

static void place_items(void)
{
    int count = rng_range(ITEMS_MIN, ITEMS_MAX), x, y;

    for (int i = 0; i < count; i++) {
        int draw = (int)rng_below(100), kind = 0;
        struct item item = { ITEM_EXISTS, 0, 0, 0 };

        while (draw >= item_weights[kind].weight)
            draw -= item_weights[kind++].weight;
        item.id = item_weights[kind].item;
        if (item.id == ITEM_MONEY)
            item.quantity = (u8)rng_below(MONEY_INDEX_MAX + 1);
        else if (item.id == ITEM_DART)
            item.quantity = (u8)rng_range(2, 4);
        if (!floor_random_room_tile(-1, &x, &y, -1))
            continue;
        D->item_data[i] = item;
        object_put(ENTITY_ITEM, i, x, y);
    }
}

static void place_traps(int start_room)
{
    int count = rng_range(TRAPS_MIN, TRAPS_MAX), x, y;

    for (int i = 0; i < count; i++) {
        int kind = trap_kinds[rng_below(sizeof trap_kinds)], hidden = rng_percent(TRAP_HIDDEN_PERCENT);

        if (!floor_random_room_tile(-1, &x, &y, start_room))
            continue;
        D->trap_data[i] = (struct trap){ (u8)kind, 0, { 0, 0 } };
        object_put(ENTITY_TRAP, i, x, y)->visible = (u8)!hidden;
    }
    for (int i = 0; i < 20; i++)
        D->trap_odds[i] = (u16)(i < TRAP_WARP ? 0 : i < TRAP_SLOW ? 3333 : i < TRAP_CHESTNUT ? 6666 : 10000);
}

void floor_populate(void)
{
    int rooms = D->floor_properties[1], start = (int)rng_below((u32)rooms);
    int stairs = (start + 1 + (int)rng_below((u32)(rooms - 1))) % rooms, x, y;
    const struct room *box = &D->rooms[stairs];

    /* Small rooms may be full of exits: the stairs then take the middle tile, which never is one. */
    if (!floor_random_room_tile(stairs, &x, &y, -1)) {
        x = (box->min_x + box->end_x) / 2;
        y = (box->min_y + box->end_y) / 2;
    }
    D->stairs_x = (s16)x;
    D->stairs_y = (s16)y;
    tile_at(x, y)->terrain |= TERRAIN_STAIRS;
    box = &D->rooms[start];
    if (!floor_random_room_tile(start, &x, &y, -1)) {
        x = (box->min_x + box->end_x) / 2;
        y = (box->min_y + box->end_y) / 2;
    }
    D->spawn_x = (s16)x;
    D->spawn_y = (s16)y;
    fill_spawn_table();
    fill_item_odds();
    team_enter_floor(x, y);
    place_items();
    place_traps(start);
    for (int i = rng_range(FOES_START_MIN, FOES_START_MAX); i > 0; i--)
        spawn_foe(1);
}
