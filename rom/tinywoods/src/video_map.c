/* video_map.c: the minimap in the top right corner, two pixels for each map tile of the left 28 columns. It shows what the
 * player has been shown: revealed floor, orange where it ends and the unknown begins, the stairs and items on it, and the foes
 * that can be seen from where the leader stands (same room, or within two tiles). Nothing blinks. */
#include "video_parts.h"

enum { MAP_X = 180, MAP_Y = 12, COLUMNS = 28, NEAR = 2 };
enum { DOT_NONE, DOT_ITEM, DOT_PARTNER, DOT_FOE };

static u32 drawn_key;
static u8 on, full_on;

void map_forget(void)
{
    on = full_on = 0;
    fill_box(FILL_MENU, 0, 0, 0, 0);
    fill_box(FILL_MAP, 0, 0, 0, 0);
}

static int revealed(const struct dungeon *d, int x, int y)
{
    return x >= 0 && y >= 0 && x < COLUMNS && y < MAP_H && d->tiles[y][x].visibility & SEEN_REVEALED;
}

static const struct entity *leader_of(const struct dungeon *d)
{
    for (int i = 0; i < TEAM_MAX; i++) {
        const struct entity *who = &d->team_entities[i];

        if (who->type == ENTITY_MONSTER && d->team_info[i].is_leader)
            return who;
    }
    return 0;
}

static int foe_seen(const struct dungeon *d, const struct entity *from, const struct entity *foe)
{
    int dx = foe->x - from->x, dy = foe->y - from->y;

    if (!foe->visible || !revealed(d, foe->x, foe->y))
        return 0;
    if (from->room != ROOM_NONE && d->tiles[foe->y][foe->x].room == from->room)
        return 1;
    return dx >= -NEAR && dx <= NEAR && dy >= -NEAR && dy <= NEAR;
}

static u32 key_of(const struct dungeon *d, const struct entity *from)
{
    u32 key = d->floor_seed ^ (u32)d->floor << 24 ^ (u32)d->awaiting_player << 30 ^ d->stairs_known;

    for (int i = 0; i < ACTIVE_MAX && d->active[i]; i++) {
        const struct entity *who = d->active[i];

        key = key * 16777619u ^ ((u32)who->x | (u32)who->y << 8 | who->type << 16 | (u32)who->visible << 20);
    }
    for (int i = 0; i < d->item_count && i < ITEM_MAX; i++)
        key = key * 31 + (d->item_entities[i].type ? (u32)d->item_entities[i].x + 1 : 0);
    return key ^ ((u32)from->x | (u32)from->y << 8) * 0x9E3779B1u;
}

/* What is drawn of the ground, two canvas pixels a byte. It is brought up to date around the leader (sight in a corridor
 * is two tiles), and all of it when a room was discovered: reading the whole map each turn would cost too much. */
static union { u32 words[MAP_H][8]; u8 bytes[MAP_H][32]; } lines HEAP_BSS;
static u32 known_rooms;

static IWRAM_CODE u8 ground_ink(const struct dungeon *d, int x, int y)
{
    const struct tile *tile = &d->tiles[y][x];

    if (!(tile->visibility & SEEN_REVEALED) || (tile->terrain & TERRAIN_KIND) == TERRAIN_WALL)
        return 0;
    /* The border of the map is wall: every floor tile has four neighbours inside it. */
    if (!(tile[1].visibility & tile[-1].visibility & tile[MAP_W].visibility & tile[-MAP_W].visibility & SEEN_REVEALED))
        return INK_ORANGE * 0x11;
    return (tile->room == ROOM_NONE ? INK_MAP_PATH : INK_MAP_ROOM) * 0x11;
}

static IWRAM_CODE void ground_read(const struct dungeon *d, int x0, int y0, int x1, int y1)
{
    x0 = x0 < 0 ? 0 : x0, y0 = y0 < 0 ? 0 : y0;
    x1 = x1 > COLUMNS - 1 ? COLUMNS - 1 : x1, y1 = y1 > MAP_H - 1 ? MAP_H - 1 : y1;
    for (int y = y0; y <= y1; y++)
        for (int x = x0; x <= x1; x++)
            lines.bytes[y][x + 2] = ground_ink(d, x, y);
}

static IWRAM_CODE void ground_show(void)    /* the map starts in the middle of a hardware tile: eight tiles a row */
{
    for (int py = MAP_Y; py < MAP_Y + 2 * MAP_H; py++) {
        u32 *word = &CANVAS[((py >> 3) * CANVAS_COLS + MAP_X / 8) * 8 + (py & 7)];
        const u32 *line = lines.words[(py - MAP_Y) >> 1];

        for (int i = 0; i < 8; i++)
            word[i * 8] = line[i];
    }
}

static void ground(const struct dungeon *d, const struct entity *from, int all)
{
    u32 rooms = d->floor_seed << 8;

    for (int i = 0; i < 8; i++)
        rooms |= (u32)(d->rooms[i].discovered != 0) << i;
    if (all || rooms != known_rooms || d->all_revealed)
        ground_read(d, 0, 0, COLUMNS, MAP_H);
    else
        ground_read(d, from->x - NEAR - 1, from->y - NEAR - 1, from->x + NEAR + 1, from->y + NEAR + 1);
    known_rooms = rooms;
    ground_show();
}

static void dot(int x, int y, int size, int ink)
{
    int grow = (size - 2) / 2;

    canvas_rect(MAP_X + 2 * x - grow, MAP_Y + 2 * y - grow, size, size, ink);
}

void map_draw(struct dungeon *d, int shown)
{
    const struct entity *from = shown ? leader_of(d) : 0;
    u32 key;

    if (!from) {
        if (on) {
            canvas_clear(22, 1, 8, 9);
            fill_box(FILL_MAP, 0, 0, 0, 0);
        }
        on = 0;
        return;
    }
    key = key_of(d, from);
    if (on && key == drawn_key)
        return;
    fill_box(FILL_MAP, MAP_X, MAP_Y, 2 * COLUMNS, 2 * MAP_H);
    ground(d, from, !on);
    for (int y = 1; y < MAP_H - 1; y++)
        for (int x = 1; x < COLUMNS; x++)
            if (lines.bytes[y][x + 2] == INK_ORANGE * 0x11)
                dot(x, y, 4, INK_ORANGE);
    on = 1;
    drawn_key = key;
    if (revealed(d, d->stairs_x, d->stairs_y))
        dot(d->stairs_x, d->stairs_y, 4, INK_CYAN);
    for (int i = 0; i < d->item_count && i < ITEM_MAX; i++) {
        const struct entity *item = &d->item_entities[i];

        if (item->type == ENTITY_ITEM && item->visible && revealed(d, item->x, item->y))
            dot(item->x, item->y, 2, INK_BLUE);
    }
    for (int i = 0; i < ACTIVE_MAX && d->active[i]; i++) {
        const struct entity *who = d->active[i];
        const struct entity_info *info = who->data;

        if (who->type != ENTITY_MONSTER || who == from)
            continue;
        if (!info->is_enemy)
            dot(who->x, who->y, 2, INK_GREEN);
        else if (foe_seen(d, from, who))
            dot(who->x, who->y, 4, INK_RED);
    }
    dot(from->x, from->y, 4, INK_YELLOW);
}

/* The map of the SELECT button: four pixels a tile over the whole screen, drawn once when it opens. */
void map_full_draw(struct dungeon *d, int shown)
{
    const struct entity *from = leader_of(d);

    if (!shown || !from) {
        if (full_on) {
            canvas_clear(0, 1, CANVAS_COLS, 16);
            fill_box(FILL_MENU, 0, 0, 0, 0);
        }
        full_on = 0;
        return;
    }
    if (full_on == 1 + G_MINIMAP_DOTS)              /* A on this map hides and shows the other monsters */
        return;
    if (full_on)
        canvas_clear(0, 1, CANVAS_COLS, 16);
    full_on = (u8)(1 + G_MINIMAP_DOTS);
    fill_box(FILL_MENU, 4, 8, 232, 124);
    for (int y = 2; y < MAP_H; y++)
        for (int x = 0; x < MAP_W; x++) {
            const struct tile *tile = &d->tiles[y][x];

            if (tile->visibility & SEEN_REVEALED && (tile->terrain & TERRAIN_KIND) != TERRAIN_WALL)
                canvas_rect(8 + 4 * x, 4 * y, 4, 4, tile->terrain & TERRAIN_STAIRS ? INK_CYAN : tile->room == ROOM_NONE ? INK_MAP_PATH
                                                                                                                        : INK_MAP_ROOM);
        }
    for (int i = 0; i < d->item_count && i < ITEM_MAX; i++)
        if (d->item_entities[i].type == ENTITY_ITEM && revealed(d, d->item_entities[i].x, d->item_entities[i].y))
            canvas_rect(9 + 4 * d->item_entities[i].x, 4 * d->item_entities[i].y + 1, 2, 2, INK_BLUE);
    for (int i = 0; i < ACTIVE_MAX && d->active[i]; i++) {
        const struct entity *who = d->active[i];
        const struct entity_info *info = who->data;

        if (who->type != ENTITY_MONSTER || (G_MINIMAP_DOTS && who != from))
            continue;
        if (!info->is_enemy || foe_seen(d, from, who))
            canvas_rect(8 + 4 * who->x, 4 * who->y, 4, 4, who == from ? INK_YELLOW : info->is_enemy ? INK_RED : INK_GREEN);
    }
}
