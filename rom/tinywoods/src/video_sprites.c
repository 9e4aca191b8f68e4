/* video_sprites.c: creatures, items, traps and small marks as hardware sprites. All pictures are loaded once; a frame only
 * decides places. A shadow of OAM in fast RAM keeps unchanged entries from being written again. */
#include "video.h"
#include "video_parts.h"
#include "art_data.h"
#include "rules.h"

enum {
    TILE_CREATURE = 0, TILE_ICON = ART_CREATURES * ART_VIEWS * ART_POSES * 16, TILE_SLEEP = TILE_ICON + ART_ICONS * 4,
    TILE_ARROWS = TILE_SLEEP + 1, TILE_PIP = TILE_SLEEP + 4
};
enum { PALETTE_ICON = 5, PALETTE_FLASH = 15 };
enum { PRIORITY = 2 << 10, SHAPE_WIDE = 1 << 14, FLIP = 1 << 12, FLIP_DOWN = 1 << 13, SIZE_16 = 1 << 14, SIZE_32 = 2 << 14, HIDDEN = 0x200 };

static struct { u32 place, look; } shadow[128];
static int used, used_before;
static u8 trap_slots;       /* traps of this floor lie in the slots below this */

static void load(volatile u32 *to, const unsigned int *from, int words)
{
    while (words--)
        *to++ = *from++;
}

void sprites_load(void)
{
    const unsigned short *creature[] = { art_creature_palette_0, art_creature_palette_1, art_creature_palette_2,
                                         art_creature_palette_3, art_creature_palette_4 };

    load(OBJ_TILES + TILE_CREATURE * 8, art_creature_tiles, ART_CREATURES * ART_VIEWS * ART_POSES * 16 * 8);
    load(OBJ_TILES + TILE_ICON * 8, art_icon_tiles, ART_ICON_TILES * 8);
    load(OBJ_TILES + TILE_PIP * 8, art_pip_tiles, ART_PIP_TILES * 8);
    for (int i = 0; i < 16; i++) {
        for (int c = 0; c < ART_CREATURES; c++)
            OBJ_PALETTE[c * 16 + i] = creature[c][i];
        OBJ_PALETTE[PALETTE_ICON * 16 + i] = art_icon_palette[i];
        OBJ_PALETTE[PALETTE_FLASH * 16 + i] = i == 1 ? 0x001F : 0x7FFF;
    }
    for (int i = 0; i < 128; i++) {
        shadow[i].place = HIDDEN;
        shadow[i].look = 0;
        OAM[2 * i] = HIDDEN;
        OAM[2 * i + 1] = 0;
    }
}

static IWRAM_CODE void put(int x, int y, u32 shape, u32 size, u32 look)
{
    u32 place = ((u32)y & 255) | shape | ((u32)x & 511) << 16 | size << 16;

    if (used >= 128)
        return;
    if (shadow[used].place != place || shadow[used].look != look) {
        shadow[used].place = place;
        shadow[used].look = look;
        OAM[2 * used] = place;
        OAM[2 * used + 1] = look;
    }
    used++;
}

static void finish(void)
{
    for (int i = used; i < used_before; i++) {
        shadow[i].place = HIDDEN;
        OAM[2 * i] = HIDDEN;
    }
    used_before = used;
}

static int creature_of(const struct entity_info *info)
{
    switch (info->apparent_species) {
    case SPECIES_FEN: return 0;
    case SPECIES_MOSS: return 1;
    case SPECIES_THORNLING: return 2;
    case SPECIES_MUDKIT: return 3;
    case SPECIES_GLOOMCAP: return 4;
    default: return info->is_enemy ? 2 : info->is_leader ? 0 : 1;
    }
}

static void creature(int x, int y, int kind, int direction, int pose, int palette)
{
    int dir = direction & 7, view_index = dir <= 4 ? dir : 8 - dir;

    put(x - 16, y - 27, 0, SIZE_32 | (dir > 4 ? FLIP : 0),
        (u32)(TILE_CREATURE + ((kind * ART_VIEWS + view_index) * ART_POSES + pose) * 16) | PRIORITY | (u32)palette << 12);
}

static void monster(const struct entity *who, int x, int y)
{
    const struct entity_info *info = who->data;
    int kind = creature_of(info), animation = who->animation[1], pose = 0, flash;

    if (animation == POSE_WALK)
        pose = ((who->px >> 8) + (who->py >> 8)) >> 3 & 1;
    else if (animation == POSE_ATTACK)
        pose = 1;
    flash = animation == POSE_HURT || (view.hit_frames && view.hit_spawn_id == who->spawn_id);
    creature(x, y - (who->height >> 8), kind, who->sprite_direction[0], pose, flash ? PALETTE_FLASH : kind);
}

static void marks(const struct entity *who, int x, int y)
{
    const struct entity_info *info = who->data;

    if (info->hp < info->max_hp && info->hp > 0 && info->max_hp > 0 && !info->is_leader) {
        int lit = 1 + (info->hp * 13 - 1) / info->max_hp;

        put(x - 8, y + 1, SHAPE_WIDE, 0, (u32)(TILE_PIP + (lit < 14 ? lit : 14) * 2) | PRIORITY | PALETTE_ICON << 12);
    }
    if (info->status[0])
        put(x + 5, y - 27, 0, 0, TILE_SLEEP | PRIORITY | PALETTE_ICON << 12);
}

/* Arrows about the leader: the way faced while turning on the spot, or the four diagonals while R is held. */
static void arrows(const struct dungeon *d, int x, int y)
{
    static const s8 dx[8] = { 0, 1, 1, 1, 0, -1, -1, -1 }, dy[8] = { 1, 1, 0, -1, -1, -1, 0, 1 };
    const struct entity *who = d->camera_target;

    for (int dir = 0; dir < 8; dir++) {
        int tile = dir & 1 ? 2 : dir == DIR_E || dir == DIR_W, wanted = d->turn_grid ? dir == who->sprite_direction[0] : dir & 1;

        if (wanted)
            put(x - 4 + 17 * dx[dir], y - 8 + 17 * dy[dir], 0, (dx[dir] < 0 ? FLIP : 0) | (dy[dir] > 0 ? FLIP_DOWN : 0),
                (u32)(TILE_ARROWS + tile) | PRIORITY | PALETTE_ICON << 12);
    }
}

static int icon_of_item(int id)
{
    switch (id) {
    case ITEM_DART: return ART_DART;
    case ITEM_BERRY: return ART_BERRY;
    case ITEM_APPLE: return ART_APPLE;
    case ITEM_ORB: return ART_ORB;
    default: return ART_COINS;
    }
}

static int icon_of_trap(int id)
{
    return id == TRAP_WARP ? ART_WARP : id == TRAP_SLOW ? ART_TAR : ART_BURR;
}

static void object(const struct entity *thing, int camera_x, int camera_y, int icon)
{
    int x = (thing->px >> 8) - camera_x, y = (thing->py >> 8) - camera_y;

    if (x > -16 && x < SCREEN_W && y > -16 && y < SCREEN_H)
        put(x, y, 0, SIZE_16, (u32)(TILE_ICON + icon * 4) | PRIORITY | PALETTE_ICON << 12);
}

static void item(const struct dungeon *d, int slot)
{
    if (d->item_entities[slot].type == ENTITY_ITEM && d->item_entities[slot].visible)
        object(&d->item_entities[slot], d->camera_x, d->camera_y, icon_of_item(d->item_data[slot].id));
}

static void objects(const struct dungeon *d)
{
    for (int i = 0; i < d->item_count && i < ITEM_MAX - 1; i++)
        item(d, i);
    item(d, ITEM_MAX - 1);                          /* a thrown thing flies in the last slot */
    for (int i = 0; i < trap_slots; i++)
        if (d->trap_entities[i].type == ENTITY_TRAP && d->trap_entities[i].visible)
            object(&d->trap_entities[i], d->camera_x, d->camera_y, icon_of_trap(d->trap_data[i].id));
}

/* Traps are laid when a floor is made, never later: empty slots behind the last one need no look in each frame. */
void sprites_floor(const struct dungeon *d)
{
    trap_slots = TRAP_MAX;
    while (trap_slots && d->trap_entities[trap_slots - 1].type != ENTITY_TRAP)
        trap_slots--;
}

/* The nearer a creature stands to the viewer, the lower its sprite number: it covers what is behind it. */
void sprites_draw(struct dungeon *d)
{
    const struct entity *on_screen[ACTIVE_MAX];
    int count = 0;

    used = 0;
    if ((d->turn_grid || G_DIAGONAL_MODE) && d->camera_target)
        arrows(d, (d->camera_target->px >> 8) - d->camera_x, (d->camera_target->py >> 8) - d->camera_y);
    for (int i = 0; i < ACTIVE_MAX && d->active[i]; i++) {
        const struct entity *who = d->active[i];
        int x = (who->px >> 8) - d->camera_x, y = (who->py >> 8) - d->camera_y, at = count;

        if (who->type != ENTITY_MONSTER || !who->visible || x < -16 || x > SCREEN_W + 16 || y < -8 || y > SCREEN_H + 28)
            continue;
        for (; at > 0 && on_screen[at - 1]->py < who->py; at--)
            on_screen[at] = on_screen[at - 1];
        on_screen[at] = who;
        count++;
    }
    for (int i = 0; i < count; i++)
        marks(on_screen[i], (on_screen[i]->px >> 8) - d->camera_x, (on_screen[i]->py >> 8) - d->camera_y);
    for (int i = 0; i < count; i++)
        monster(on_screen[i], (on_screen[i]->px >> 8) - d->camera_x, (on_screen[i]->py >> 8) - d->camera_y);
    objects(d);
    finish();
}

void sprites_none(void)
{
    used = 0;
    finish();
}

void sprites_title(int result)
{
    used = 0;
    if (!result) {
        creature(104, 134, 0, DIR_SE, 0, 0);
        creature(136, 134, 1, DIR_SW, 0, 1);
        creature(74, 128, 2, DIR_E, 0, 2);
        creature(168, 128, 4, DIR_W, 0, 4);
        put(112, 100, 0, SIZE_16, (TILE_ICON + ART_APPLE * 4) | PRIORITY | PALETTE_ICON << 12);
    } else {
        creature(104, 136, 0, DIR_S, 0, 0);
        creature(136, 136, 1, DIR_S, 0, 1);
    }
    finish();
}
