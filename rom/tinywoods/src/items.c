/* items.c: the bag, and what can be done with the things in it. Money goes to the purse at once; darts stack. */
#include "game.h"

enum { STACK_MAX = 99, MONEY_MAX = 99999 };

void bag_clear(void)
{
    *G_INVENTORY = (struct inventory){ 0 };
    G_INVENTORY_REF = G_INVENTORY;
}

int bag_count(void)
{
    int n = 0;

    while (n < BAG_MAX && G_INVENTORY->bag[n].flags & ITEM_EXISTS)
        n++;
    return n;
}

int bag_add(struct item item)
{
    int n = bag_count();

    for (int i = 0; i < n && item.id == ITEM_DART; i++) {
        struct item *have = &G_INVENTORY->bag[i];

        if (have->id == ITEM_DART && have->quantity + item.quantity <= STACK_MAX) {
            have->quantity += item.quantity;
            return 1;
        }
    }
    if (n == BAG_MAX)
        return 0;
    G_INVENTORY->bag[n] = item;
    return 1;
}

static void bag_remove(int slot)
{
    for (; slot + 1 < BAG_MAX; slot++)
        G_INVENTORY->bag[slot] = G_INVENTORY->bag[slot + 1];
    G_INVENTORY->bag[BAG_MAX - 1] = (struct item){ 0 };
}

int item_set_slot(void)
{
    for (int i = 0; i < bag_count(); i++)
        if (G_INVENTORY->bag[i].flags & ITEM_SET)
            return i;
    return -1;
}

void item_name(char *out, int size, struct item item)
{
    if (item.id == ITEM_MONEY)
        text_format(out, size, "%d Coins", (int)money_amount(item.quantity));
    else if (item.id == ITEM_DART)
        text_format(out, size, "%d %s%s", item.quantity, item_rules(item.id)->name, item.quantity == 1 ? "" : "s");
    else
        text_format(out, size, "%s", item_rules(item.id)->name);
}

static void pick_up(struct entity *object)
{
    struct item item = *(struct item *)object->data;
    char name[40];

    item_name(name, sizeof name, item);
    if (item.id == ITEM_MONEY) {
        s32 money = G_INVENTORY->money + money_amount(item.quantity);

        G_INVENTORY->money = money > MONEY_MAX ? MONEY_MAX : money;
    } else if (!bag_add(item)) {
        message("The bag is full: %s stays here.", name);
        return;
    }
    object_remove(object);
    message("%s picked up %s.", monster_name(info_of(leader())), name);
}

int item_pick_up_here(void)
{
    struct entity *object = tile_at(leader()->x, leader()->y)->object;

    if (!object || object->type != ENTITY_ITEM)
        return 0;
    info_of(leader())->action = ACTION_PICK_UP;
    pick_up(object);
    return 1;
}

void step_on_tile(struct entity *who, int take)
{
    struct tile *tile = tile_at(who->x, who->y);
    struct entity *object = tile->object;
    char name[40];

    if (tile->terrain & TERRAIN_STAIRS)
        D->stairs_prompt_pending = 1;
    if (!object)
        return;
    animate_walks(4);
    if (object->type == ENTITY_TRAP) {
        trap_trigger(who, object);
    } else if (take) {
        pick_up(object);
    } else {
        item_name(name, sizeof name, *(struct item *)object->data);
        message("%s stepped on %s.", monster_name(info_of(who)), name);
    }
}

static void eat(struct item item)
{
    struct entity *who = leader();
    struct entity_info *info = info_of(who);
    int more = item.id == ITEM_APPLE ? APPLE_BELLY : FOOD_SIDE_BELLY;

    info->belly[0] = (s16)(info->belly[0] + more);
    if (info->belly[0] >= info->max_belly[0]) {
        info->belly[0] = info->max_belly[0];
        info->belly[1] = 0;
    }
    info->belly_empty = 0;
    D->hunger_alert = 0;
    if (item.id == ITEM_BERRY) {
        if (info->hp == info->max_hp) {
            info->max_hp += BERRY_EMPTY_HP;
            message("Max HP rose by %d.", BERRY_EMPTY_HP);
        }
        heal(who, BERRY_HP);
        message("%s got HP back.", monster_name(info));
    } else {
        message("%s's belly is fuller.", monster_name(info));
    }
}

static void doze(void)
{
    struct entity *who = leader();
    int found = 0;

    for (int i = 0; i < WILD_MAX; i++) {
        struct entity *foe = D->wild[i];

        if (!is_monster(foe) || (distance(who, foe) > 2 && (who->room == ROOM_NONE || foe->room != who->room)))
            continue;
        put_to_sleep(foe, ORB_SLEEP_TURNS);
        message("%s fell asleep.", monster_name(info_of(foe)));
        found = 1;
    }
    if (!found)
        message("But nobody was there.");
}

int item_use(int slot)
{
    struct item item = G_INVENTORY->bag[slot];
    const struct item_rules *rules = item_rules(item.id);

    if (rules->use == ACTION_THROW)
        return item_throw(slot);
    bag_remove(slot);
    info_of(leader())->action = rules->use;
    message("%s %s the %s.", monster_name(info_of(leader())), rules->use == ACTION_EAT ? "ate" : "used", rules->name);
    frames(10);
    if (rules->use == ACTION_EAT)
        eat(item);
    else
        doze();
    return 1;
}

/* A thing that flew too far or missed lies on the last free tile of its way, or is lost. */
static void land(struct item item, int x, int y)
{
    if (tile_at(x, y)->object || tile_at(x, y)->terrain & TERRAIN_STAIRS)
        return;
    for (int i = 0; i < ITEM_MAX - 1; i++)
        if (D->items[i]->type == ENTITY_NONE) {
            D->item_data[i] = item;
            object_put(ENTITY_ITEM, i, x, y);
            return;
        }
}

int item_throw(int slot)
{
    struct entity *who = leader(), *target = 0;
    struct item *stack = &G_INVENTORY->bag[slot], one = *stack;
    int dir = info_of(who)->direction, x = who->x, y = who->y, tiles = 0, hit;

    one.flags = ITEM_EXISTS;
    if (one.id == ITEM_DART)
        one.quantity = 1;
    if (one.id == ITEM_DART && stack->quantity > 1)
        stack->quantity--;
    else
        bag_remove(slot);
    info_of(who)->action = ACTION_THROW;
    message("%s threw the %s.", monster_name(info_of(who)), item_rules(one.id)->name);
    while (!target && tiles < THROW_RANGE && tile_at(x, y)->walkable[0] >> dir & 1) {
        x += dir_dx[dir];
        y += dir_dy[dir];
        tiles++;
        if (tile_at(x, y)->monster && foe_of(who, tile_at(x, y)->monster))
            target = tile_at(x, y)->monster;
    }
    hit = target && rng_percent(THROW_HIT_PERCENT);
    animate_attack(who);
    animate_throw(who, one.id, dir, tiles);
    if (!hit) {
        if (target)
            message("It missed %s.", monster_name(info_of(target)));
        land(one, x, y);
    } else if (one.id == ITEM_DART) {
        info_of(target)->exp_class = 1;
        message("%s took %d damage!", monster_name(info_of(target)), DART_DAMAGE);
        hurt(target, DART_DAMAGE, who, 0);
    } else {
        message("%s took 1 damage.", monster_name(info_of(target)));
        hurt(target, 1, who, 0);
    }
    return 1;
}

int item_place(int slot)
{
    struct entity *who = leader();
    struct item item = G_INVENTORY->bag[slot];
    char name[40];

    item.flags = ITEM_EXISTS;
    if (tile_at(who->x, who->y)->object || tile_at(who->x, who->y)->terrain & TERRAIN_STAIRS) {
        message("There is no room on the ground.");
        return 0;
    }
    bag_remove(slot);
    info_of(who)->action = ACTION_PLACE;
    item_name(name, sizeof name, item);
    land(item, who->x, who->y);
    message("%s put down %s.", monster_name(info_of(who)), name);
    return 1;
}
