/* What stands and lies on the floor. Slots always hold a pointer (sheet, 2.3); whether one is used is said by the entity's type.
 * An entity whose values no game could hold is left out and named in `unread`. */
#include "game/decode.h"

enum { ENTITY_MONSTER = 1, ENTITY_TRAP = 2, ENTITY_ITEM = 3 };
enum { MOVE_BYTES = 8, MOVE_EXISTS = 1, MOVE_SET = 8, ITEM_BYTES = 4, ITEM_EXISTS = 1, ITEM_SHOP = 2, BEHAVIOR_CLIENT = 1 };

struct slot {
    const uint8_t *entity, *data;
    struct point at;
};

/* Follows slot i of a list to an entity of the wanted type and to its data. False: unused, or unreadable (noted). */
static bool follow(struct decoder *d, const char *what, uint32_t list, int i, uint32_t type, uint32_t data_bytes, struct slot *s) {
    const struct memory_map *map = d->map;
    uint32_t address = ram_u32(d->dungeon + list + 4 * (uint32_t)i);
    if (!address) return false;
    s->entity = ram_struct(d->memory, address, map->entity.bytes);
    if (!s->entity) {
        decode_note(d->out, "%s %d: pointer 0x%08X is not to an entity in EWRAM", what, i, address);
        return false;
    }
    uint32_t found = ram_u32(s->entity + map->entity.type);
    if (found == 0) return false;
    if (found != type) {
        decode_note(d->out, "%s %d: entity of type %u, expected %u", what, i, found, type);
        return false;
    }
    uint32_t data = ram_u32(s->entity + map->entity.data);
    s->data = ram_struct(d->memory, data, data_bytes);
    s->at = ram_point(s->entity + map->entity.at);
    if (!s->data) {
        decode_note(d->out, "%s %d: data pointer 0x%08X is unaligned or outside EWRAM", what, i, data);
        return false;
    }
    if (!on_map(s->at)) {
        decode_note(d->out, "%s %d: tile (%d, %d) is off the map", what, i, s->at.x, s->at.y);
        return false;
    }
    return true;
}

/* Belly as the game shows it: the whole part, one more when a thousandth is left. */
static int shown_belly(const uint8_t *p) { return ram_s16(p) + (ram_s16(p + 2) > 0); }

static bool decode_monster(struct decoder *d, const char *what, uint32_t list, int i, bool team, struct monster *m) {
    const struct memory_map *map = d->map;
    struct world *w = d->out;
    struct slot s;
    if (!follow(d, what, list, i, ENTITY_MONSTER, map->info.bytes, &s)) return false;
    const uint8_t *p = s.data;
    memset(m, 0, sizeof *m);
    m->species = ram_s16(p + map->info.shown);
    if (m->species <= 0 || m->species >= SPECIES_COUNT) m->species = ram_s16(p + map->info.species);
    m->level = p[map->info.level];
    m->hp = ram_s16(p + map->info.hp);
    m->max_hp = ram_s16(p + map->info.max_hp);
    m->at = s.at;
    m->facing = p[map->info.facing];
    if (m->species <= 0 || m->species >= SPECIES_COUNT || m->level > 100 || m->hp < 0 || m->hp > 9999 || m->max_hp < 1 ||
        m->max_hp > 9999 || m->facing > 7) {
        decode_note(w, "%s %d: species %d, level %d, HP %d/%d, facing %d cannot be", what, i, m->species, m->level, m->hp, m->max_hp,
                    m->facing);
        return false;
    }
    m->enemy = p[map->info.enemy] != 0;
    m->leader = p[map->info.leader] != 0;
    m->shopkeeper = p[map->info.shopkeeper] != 0;
    m->client = p[map->info.behavior] == BEHAVIOR_CLIENT;
    m->spawn_id = ram_u16(s.entity + map->entity.spawn_id);
    m->visible = s.entity[map->entity.visible] != 0;
    for (int k = 0; k < MAX_MOVES; k++) {
        const uint8_t *q = p + map->info.moves + MOVE_BYTES * k;
        struct move move = {ram_u16(q + 2), q[4], (q[0] & MOVE_SET) != 0};
        if (q[0] & MOVE_EXISTS && move.id < MOVE_ID_COUNT) m->moves[m->move_count++] = move;
        else if (q[0] & MOVE_EXISTS) decode_note(w, "%s %d: move id %d, the game has %d", what, i, move.id, MOVE_ID_COUNT);
    }
    for (int k = 0; k < STATUS_SLOTS; k++) {
        uint8_t value = p[status_slots[k].value];
        if (!value) continue;
        uint8_t turns = status_slots[k].count_only ? value : status_slots[k].turns ? p[status_slots[k].turns] : 0;
        if (k == STATUS_INVISIBLE_SLOT && value == STATUS_INVISIBLE && !team) m->visible = false;
        m->statuses[m->status_count++] = (struct status){(uint8_t)k, value, turns};
    }
    const uint8_t *held = p + map->info.held;
    if (held[0] & ITEM_EXISTS && held[2] < ITEM_ID_COUNT) m->held = (struct held){held[2], held[1]};
    if (team) {
        m->belly = shown_belly(p + map->info.belly);
        m->max_belly = shown_belly(p + map->info.max_belly);
        m->exp = ram_s32(p + map->info.exp);
        m->iq = ram_s16(p + map->info.iq);
    }
    return true;
}

static void decode_item(struct decoder *d, int i) {
    struct world *w = d->out;
    struct slot s;
    if (!follow(d, "item", d->map->dungeon.items, i, ENTITY_ITEM, ITEM_BYTES, &s)) return;
    uint8_t flags = s.data[0], quantity = s.data[1], id = s.data[2];
    if (!(flags & ITEM_EXISTS)) return;
    if (id >= ITEM_ID_COUNT || (id == ITEM_MONEY && quantity >= names_red.money_count)) {
        decode_note(w, "item %d: id %d, quantity %d cannot be", i, id, quantity);
        return;
    }
    struct floor_item *to = &w->items[w->item_count++];
    to->id = id;
    to->quantity = id == ITEM_MONEY ? names_red.money[quantity] : quantity;
    to->at = s.at;
    to->shop = (flags & ITEM_SHOP) != 0;
}

static void decode_trap(struct decoder *d, int i) {
    struct world *w = d->out;
    struct slot s;
    if (!follow(d, "trap", d->map->dungeon.traps, i, ENTITY_TRAP, ITEM_BYTES, &s)) return;
    if (s.data[0] >= TRAP_ID_COUNT) {
        decode_note(w, "trap %d: id %d, the game has %d", i, s.data[0], TRAP_ID_COUNT);
        return;
    }
    struct floor_trap *to = &w->traps[w->trap_count++];
    to->id = s.data[0];
    to->at = s.at;
    to->visible = s.entity[d->map->entity.visible] != 0;
}

void decode_entities(struct decoder *d) {
    struct world *w = d->out;
    for (int i = 0; i < MAX_TEAM; i++) {
        if (!decode_monster(d, "team", d->map->dungeon.team, i, true, &w->team[w->team_count])) continue;
        if (w->team[w->team_count].leader && w->leader < 0) w->leader = w->team_count;
        w->team_count++;
    }
    for (int i = 0; i < MAX_WILD; i++) {
        w->foe_count += decode_monster(d, "wild", d->map->dungeon.wild, i, false, &w->foes[w->foe_count]);
    }
    for (int i = 0; i < MAX_FLOOR_ITEMS; i++) decode_item(d, i);
    for (int i = 0; i < MAX_TRAPS; i++) decode_trap(d, i);
    if (w->leader < 0) decode_note(w, "team: no leader on the floor");
}

void decode_bag(struct decoder *d) {
    const struct memory_map *map = d->map;
    struct world *w = d->out;
    const uint8_t *ref = ram_at(d->memory, map->at.inventory, 4);
    uint32_t address = ref ? ram_u32(ref) : 0;
    if (!address) return; /* before the game has started */
    const uint8_t *p = ram_struct(d->memory, address, map->inventory.bytes);
    if (!p) {
        decode_note(w, "bag: pointer 0x%08X is unaligned or outside EWRAM", address);
        return;
    }
    w->money = ram_s32(p + map->inventory.money);
    if (w->money < 0 || w->money > 99999) {
        decode_note(w, "money: %d, expected 0 to 99999", w->money);
        w->money = 0;
    }
    for (int i = 0; i < MAX_BAG; i++) {
        const uint8_t *q = p + map->inventory.bag + ITEM_BYTES * i;
        if (!(q[0] & ITEM_EXISTS)) continue;
        if (q[2] >= ITEM_ID_COUNT) decode_note(w, "bag slot %d: item id %d, the game has %d", i, q[2], ITEM_ID_COUNT);
        else w->bag[w->bag_count++] = (struct bag_item){q[2], q[1], q[0]};
    }
}
