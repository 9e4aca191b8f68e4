/* floor.c: the shape of a floor. Rooms stand in a grid of two columns and two or three rows of cells in the left half of
 * the map. A random tree over neighbouring cells connects them all, some more neighbours get a corridor too. A
 * corridor leaves a room at an exit, bends once in the gap between the two cells and never runs along a foreign room;
 * two corridors may cross. There are no dead ends.
 */
#include "game.h"

enum { CELLS_MAX = CELL_COLUMNS * 3, LINKS_MAX = 12 };

struct link { s8 from, to; u8 down, used; };

static int cell_rows, cell_h;
static s8 cell_room[CELLS_MAX];     /* room index, -1 none */

struct tile *tile_at(int x, int y)
{
    return &D->tiles[y][x];
}

int tile_in_map(int x, int y)
{
    return x >= 0 && y >= 0 && x < MAP_W && y < MAP_H;
}

IWRAM_CODE static void clear_map(void)
{
    for (int y = 0; y < MAP_H; y++)
        for (int x = 0; x < MAP_W; x++) {
            struct tile *tile = &dungeon_memory.tiles[y][x];
            u32 *words = (u32 *)(void *)tile;

            for (u32 i = 0; i < sizeof *tile / 4; i++)
                words[i] = 0;
            tile->room = ROOM_NONE;
            if (x == 0 || y == 0 || x == MAP_W - 1 || y == MAP_H - 1)
                tile->terrain = TERRAIN_BORDER;
            D->tile_pointers[y][x] = tile;
        }
}

static void clear_rooms(void)
{
    for (int i = 0; i < 32; i++) {
        D->rooms[i] = (struct room){ .min_x = 9999, .min_y = 9999, .end_x = -9999, .end_y = -9999 };
        D->room_exit_counts[i] = 0;
    }
}

static void dig(int x, int y, int room)
{
    struct tile *tile = tile_at(x, y);

    tile->terrain = (u16)((tile->terrain & ~TERRAIN_KIND) | TERRAIN_FLOOR);
    if (room != ROOM_NONE)
        tile->room = (u8)room;
}

/* A room keeps one tile to the left and above and two to the right and below free in its cell: gaps of three. */
static void place_room(int index, int cell)
{
    struct room *room = &D->rooms[index];
    int x0 = 1 + cell % CELL_COLUMNS * CELL_W, y0 = 1 + cell / CELL_COLUMNS * cell_h;
    int w = rng_range(ROOM_W_MIN, ROOM_W_MAX), h = rng_range(ROOM_H_MIN, ROOM_H_MAX);

    room->exists = 1;
    room->min_x = (s16)(x0 + rng_range(1, CELL_W - 2 - w));
    room->min_y = (s16)(y0 + rng_range(1, cell_h - 2 - h));
    room->end_x = (s16)(room->min_x + w);
    room->end_y = (s16)(room->min_y + h);
    room->light_left = (u32)((room->min_x - 1) * TILE_PX);
    room->light_top = (u32)((room->min_y - 1) * TILE_PX);
    room->light_right = (u32)((room->end_x + 1) * TILE_PX);
    room->light_bottom = (u32)((room->end_y + 1) * TILE_PX);
    for (int y = room->min_y; y < room->end_y; y++)
        for (int x = room->min_x; x < room->end_x; x++)
            dig(x, y, index);
}

static void add_exit(int room, int x, int y)
{
    if (tile_at(x, y)->terrain & TERRAIN_EXIT)
        return;
    tile_at(x, y)->terrain |= TERRAIN_EXIT;
    D->room_exits[room][D->room_exit_counts[room]][0] = (s16)x;
    D->room_exits[room][D->room_exit_counts[room]][1] = (s16)y;
    D->room_exit_counts[room]++;
}

static void dig_line(int x0, int y0, int x1, int y1)
{
    int dx = (x1 > x0) - (x1 < x0), dy = (y1 > y0) - (y1 < y0);

    for (;;) {
        dig(x0, y0, ROOM_NONE);
        if (x0 == x1 && y0 == y1)
            break;
        x0 += dx;
        y0 += dy;
    }
}

static void connect(int from, int to, int down)
{
    const struct room *a = &D->rooms[from], *b = &D->rooms[to];

    if (!down) {                            /* b to the right */
        int ya = rng_range(a->min_y, a->end_y - 1), yb = rng_range(b->min_y, b->end_y - 1);
        int bend = rng_range(a->end_x + 1, b->min_x - 2);

        add_exit(from, a->end_x - 1, ya);
        add_exit(to, b->min_x, yb);
        dig_line(a->end_x, ya, bend, ya);
        dig_line(bend, ya, bend, yb);
        dig_line(bend, yb, b->min_x - 1, yb);
    } else {                                /* b below */
        int xa = rng_range(a->min_x, a->end_x - 1), xb = rng_range(b->min_x, b->end_x - 1);
        int bend = rng_range(a->end_y + 1, b->min_y - 2);

        add_exit(from, xa, a->end_y - 1);
        add_exit(to, xb, b->min_y);
        dig_line(xa, a->end_y, xa, bend);
        dig_line(xa, bend, xb, bend);
        dig_line(xb, bend, xb, b->min_y - 1);
    }
}

static int collect_links(struct link *links)
{
    int n = 0;

    for (int cell = 0; cell < cell_rows * CELL_COLUMNS; cell++) {
        if (cell_room[cell] < 0)
            continue;
        if (cell % CELL_COLUMNS + 1 < CELL_COLUMNS && cell_room[cell + 1] >= 0)
            links[n++] = (struct link){ cell_room[cell], cell_room[cell + 1], 0, 0 };
        if (cell / CELL_COLUMNS + 1 < cell_rows && cell_room[cell + CELL_COLUMNS] >= 0)
            links[n++] = (struct link){ cell_room[cell], cell_room[cell + CELL_COLUMNS], 1, 0 };
    }
    return n;
}

static void connect_all(int rooms)
{
    struct link links[LINKS_MAX];
    int count = collect_links(links);
    u32 reached = 1;

    while (reached != (1u << rooms) - 1) {  /* the cells form a connected grid, so this ends */
        struct link *link = &links[rng_below((u32)count)];

        if ((reached >> link->from & 1) == (reached >> link->to & 1))
            continue;
        reached |= 1u << link->from | 1u << link->to;
        link->used = 1;
        connect(link->from, link->to, link->down);
    }
    for (int i = 0; i < count; i++)
        if (!links[i].used && rng_percent(EXTRA_CORRIDOR_PERCENT))
            connect(links[i].from, links[i].to, links[i].down);
}

/* Bit d of walkable: the target is open and, for a diagonal, both orthogonal neighbours too (no cutting of corners).
 * There is no liquid, so the first three classes agree; ghosts (class 3) cross everything but the border. Runs in fast
 * RAM: 1620 tiles with 8 neighbours would take half a second from the cartridge.
 */
IWRAM_CODE static void fill_walkable(void)
{
    for (int y = 1; y < MAP_H - 1; y++)
        for (int x = 1; x < MAP_W - 1; x++) {
            struct tile *tile = &dungeon_memory.tiles[y][x];
            const struct tile *up = tile - MAP_W, *down = tile + MAP_W;
            u32 s = down->terrain & TERRAIN_KIND, e = tile[1].terrain & TERRAIN_KIND;
            u32 n = up->terrain & TERRAIN_KIND, w = tile[-1].terrain & TERRAIN_KIND, bits = 0, ghost = 0xFF;

            bits |= s ? 1u << DIR_S : 0;
            bits |= e ? 1u << DIR_E : 0;
            bits |= n ? 1u << DIR_N : 0;
            bits |= w ? 1u << DIR_W : 0;
            bits |= s && e && down[1].terrain & TERRAIN_KIND ? 1u << DIR_SE : 0;
            bits |= n && e && up[1].terrain & TERRAIN_KIND ? 1u << DIR_NE : 0;
            bits |= n && w && up[-1].terrain & TERRAIN_KIND ? 1u << DIR_NW : 0;
            bits |= s && w && down[-1].terrain & TERRAIN_KIND ? 1u << DIR_SW : 0;
            if (y == 1)
                ghost &= ~(1u << DIR_NW | 1u << DIR_N | 1u << DIR_NE);
            if (y == MAP_H - 2)
                ghost &= ~(1u << DIR_SW | 1u << DIR_S | 1u << DIR_SE);
            if (x == 1)
                ghost &= ~(1u << DIR_NW | 1u << DIR_W | 1u << DIR_SW);
            if (x == MAP_W - 2)
                ghost &= ~(1u << DIR_NE | 1u << DIR_E | 1u << DIR_SE);
            tile->walkable[0] = tile->walkable[1] = tile->walkable[2] = (u8)bits;
            tile->walkable[3] = (u8)ghost;
        }
}

static int place_rooms(void)
{
    int cells, empty = -1, rooms = 0;

    cell_rows = rng_percent(THREE_ROWS_PERCENT) ? 3 : 2;
    cell_h = cell_rows == 3 ? CELL_H_OF_3_ROWS : CELL_H_OF_2_ROWS;
    cells = cell_rows * CELL_COLUMNS;
    if (cell_rows == 3 && rng_percent(EMPTY_CELL_PERCENT))
        empty = (int)rng_below((u32)cells);
    for (int cell = 0; cell < cells; cell++) {
        cell_room[cell] = (s8)(cell == empty ? -1 : rooms);
        if (cell != empty)
            place_room(rooms++, cell);
    }
    return rooms;
}

void floor_generate(void)
{
    int rooms;

    clear_map();
    clear_rooms();
    rooms = place_rooms();
    connect_all(rooms);
    fill_walkable();
    D->floor_properties[0] = 1;             /* small layout */
    D->floor_properties[1] = (u8)rooms;
    D->floor_properties[17] = D->floor;
}
