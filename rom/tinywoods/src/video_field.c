/* video_field.c: terrain on BG3. A map tile is 3 x 3 hardware tiles; the 32 x 32 hardware map is a window that wraps
 * around, of which only the columns and rows that scroll in are written. Which picture a map tile has is worked out
 * once a floor and kept in tile.graphic. */
#include "video_parts.h"
#include "art_data.h"

enum { COLS = 31, ROWS = 21, FAR = 0x7FFF };

static int drawn_col = FAR, drawn_row;      /* first hardware column and row of the window */
static u32 drawn_seed;
static u8 drawn_floor;
static s16 scroll_x, scroll_y;

void field_forget(void)
{
    drawn_col = FAR;
}

static int wall_at(const struct dungeon *d, int x, int y)
{
    return x < 0 || y < 0 || x >= MAP_W || y >= MAP_H || (d->tiles[y][x].terrain & TERRAIN_KIND) == TERRAIN_WALL;
}

static u32 mix(int x, int y)
{
    u32 h = (u32)x * 0x9E3779B1u ^ (u32)y * 0x85EBCA77u;

    return (h ^ h >> 13) * 0xC2B2AE3Du >> 16;
}

static u8 graphic_of(const struct dungeon *d, int x, int y)
{
    const struct tile *tile = &d->tiles[y][x];
    int open;

    if (tile->terrain & TERRAIN_STAIRS)
        return ART_STAIRS;
    if ((tile->terrain & TERRAIN_KIND) != TERRAIN_WALL)
        return (u8)(tile->room == ROOM_NONE ? ART_PATH + mix(x, y) % ART_PATH_N : ART_GRASS + mix(x, y) % ART_GRASS_N);
    open = 15 ^ (wall_at(d, x, y - 1) | wall_at(d, x + 1, y) << 1 | wall_at(d, x, y + 1) << 2 | wall_at(d, x - 1, y) << 3);
    return (u8)(open ? ART_WALL + (u32)open : ART_DEEP + mix(x, y) % ART_DEEP_N);
}

static void graphics_of_floor(struct dungeon *d)
{
    for (int y = 0; y < MAP_H; y++)
        for (int x = 0; x < MAP_W; x++)
            d->tiles[y][x].graphic = graphic_of(d, x, y);
}

static IWRAM_CODE void cells(const struct dungeon *d, int col, int row, int cols, int rows)
{
    for (int y = row; y < row + rows; y++) {
        u32 ty = (u32)(y + 3072) / 3, sub_y = (u32)(y + 3072) - ty * 3;

        for (int x = col; x < col + cols; x++) {
            u32 tx = (u32)(x + 3072) / 3, sub_x = (u32)(x + 3072) - tx * 3, graphic;

            if (tx - 1024 < MAP_W && ty - 1024 < MAP_H)
                graphic = d->tiles[ty - 1024][tx - 1024].graphic;
            else
                graphic = ART_DEEP + (tx + ty) % ART_DEEP_N;
            MAP_FIELD[(y & 31) * 32 + (x & 31)] =
                (u16)((graphic * 9 + sub_y * 3 + sub_x) | (graphic == ART_STAIRS ? 1 << 12 : 0));
        }
    }
}

void field_draw(struct dungeon *d)
{
    int col = d->camera_x >> 3, row = d->camera_y >> 3, dx = col - drawn_col, dy = row - drawn_row;

    if (drawn_col == FAR || drawn_seed != d->floor_seed || drawn_floor != d->floor) {
        graphics_of_floor(d);
        sprites_floor(d);
        drawn_seed = d->floor_seed;
        drawn_floor = d->floor;
        dx = FAR;
    }
    if (dx < -8 || dx > 8 || dy < -8 || dy > 8) {
        cells(d, col, row, COLS, ROWS);
    } else {
        if (dx)
            cells(d, dx > 0 ? drawn_col + COLS : col, row, dx > 0 ? dx : -dx, ROWS);
        if (dy)
            cells(d, col, dy > 0 ? drawn_row + ROWS : row, COLS, dy > 0 ? dy : -dy);
    }
    drawn_col = col;
    drawn_row = row;
    if (scroll_x != d->camera_x || scroll_y != d->camera_y || dx == FAR) {
        scroll_x = d->camera_x;
        scroll_y = d->camera_y;
        REG16(0x0400001C) = (u16)(scroll_x & 511);
        REG16(0x0400001E) = (u16)(scroll_y & 511);
    }
}

/* The clearing behind the title (kind 0) and the result (kind 1): ten by seven map tiles of forest. */
void scene_terrain(int kind)
{
    static const char rows[7][11] = {
        "##########", "##########", "##########", "###....###", "##......##", "##......##", "##########"
    };

    for (int y = 0; y < 21; y++)
        for (int x = 0; x < 31; x++) {
            int tx = x / 3, ty = y / 3, g = ART_DEEP + (int)(mix(tx, ty) & 1);

            if (tx < 10 && rows[ty][tx] == '.') {
                g = ART_GRASS + (int)(mix(tx, ty + kind) % ART_GRASS_N);
            } else if (tx < 10) {
                int open = (ty > 0 && rows[ty - 1][tx] == '.') | (tx < 9 && rows[ty][tx + 1] == '.') << 1 |
                           (ty < 6 && rows[ty + 1][tx] == '.') << 2 | (tx > 0 && rows[ty][tx - 1] == '.') << 3;
                if (open)
                    g = ART_WALL + open;
            }
            MAP_FIELD[y * 32 + x] = (u16)(g * 9 + y % 3 * 3 + x % 3);
        }
    REG16(0x0400001C) = 0;
    REG16(0x0400001E) = 0;
    field_forget();
}
