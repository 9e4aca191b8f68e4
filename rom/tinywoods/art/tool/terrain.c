/* terrain.c: the ground.  Grass and paths are light and quiet, so that whatever stands on them is seen first; walls are
 * dark blue-green tree tops, drawn as overlapping round bushes that draw back from open sides, with trunks below. */
#include <math.h>
#include <string.h>

#include "art.h"

enum {
    C_LEAF = 1, C_TRUNK_DARK = 6, C_TRUNK = 7, C_SHADOW = 8, C_GRASS_DARK = 9, C_GRASS = 10, C_GRASS_LIGHT = 11,
    C_PATH_DARK = 12, C_PATH = 13, C_PATH_LIGHT = 14, C_FLOWER = 15
};
enum { OPEN_N = 1, OPEN_E = 2, OPEN_S = 4, OPEN_W = 8 };

const uint32_t terrain_palette[16] = {
    0x000000, 0x06202C, 0x0C3440, 0x144C4C, 0x206454, 0x388460, 0x3C281C, 0x6C4C34,
    0x84A064, 0xAAC476, 0xBAD286, 0xC8DE96, 0xC2AE7C, 0xD0BC8A, 0xDCCA9A, 0xFFF8E8
};
const uint32_t stairs_palette[16] = {
    0x000000, 0x081048, 0x1838A0, 0x2868E8, 0x40A8FF, 0x70E8FF, 0xB8FFFF, 0xFFFFFF,
    0xFFE040, 0xF0A000, 0x0A0828, 0x84A064, 0xAAC476, 0xBAD286, 0xC8DE96, 0xFFF8C0
};

static void grass(int variant, uint8_t p[META][META])
{
    for (int y = 0; y < META; y++)
        for (int x = 0; x < META; x++) {
            uint32_t h = art_hash((uint32_t)x, (uint32_t)y, 10u + (uint32_t)variant);

            p[y][x] = C_GRASS;
            if (h % 41 == 0)
                p[y][x] = C_GRASS_LIGHT;
            if ((x == META - 1 || y == META - 1) && ((x + y) & 1))
                p[y][x] = C_GRASS_DARK;                     /* a faint dotted line between tiles: distances can be counted */
        }
    static const int tuft[4][2] = { { 5, 7 }, { 14, 15 }, { 17, 5 }, { 8, 18 } };
    for (int i = 0; i <= variant % 3; i++) {
        int x = tuft[(variant + i) % 4][0], y = tuft[(variant + i) % 4][1];

        p[y][x] = p[y - 1][x] = p[y][x + 2] = p[y - 1][x + 3] = p[y][x + 1] = C_GRASS_DARK;
    }
    if (variant == 3) {
        p[11][7] = p[9][7] = p[10][6] = p[10][8] = C_FLOWER;
        p[10][7] = C_PATH_DARK;
        p[12][7] = C_SHADOW;
    }
}

static void path(int variant, uint8_t p[META][META])
{
    for (int y = 0; y < META; y++)
        for (int x = 0; x < META; x++) {
            uint32_t h = art_hash((uint32_t)x, (uint32_t)y, 30u + (uint32_t)variant);

            p[y][x] = C_PATH;
            if (h % 23 == 0)
                p[y][x] = C_PATH_DARK;
            if (h % 29 == 1)
                p[y][x] = C_PATH_LIGHT;
            if ((x == META - 1 || y == META - 1) && ((x + y) & 1))
                p[y][x] = C_PATH_DARK;
        }
}

struct bush { double x, y; };

/* Where the four bushes of a tile stand: moved inwards from open sides. */
static struct bush bush_at(int column, int row, int mask)
{
    struct bush b = { 6 + 12 * column, 6 + 12 * row };

    if (column == 0 && mask & OPEN_W)
        b.x = 8;
    if (column == 1 && mask & OPEN_E)
        b.x = 16;
    if (row == 0 && mask & OPEN_N)
        b.y = 8;
    if (mask & OPEN_S)
        b.y = row == 0 ? 4.5 + 2 * (mask & OPEN_N) : row == 1 ? 9.5 + (mask & OPEN_N) : b.y;
    return b;
}

static void bush_draw(struct bush b, uint8_t p[META][META], int salt)
{
    double radius = 7.9;

    for (int y = 0; y < META; y++)
        for (int x = 0; x < META; x++) {
            double dx = (x + .5 - b.x) / radius, dy = (y + .5 - b.y) / (radius - .4), d = sqrt(dx * dx + dy * dy);

            if (d > 1)
                continue;
            uint32_t h = art_hash((uint32_t)(x + 100), (uint32_t)(y + 100), 50u + (uint32_t)salt);
            double light = (salt ? .46 : .58) - .34 * dx - .50 * dy - .34 * d * d + ((double)(h % 8) - 3.5) * .035;
            int step = (int)(light * 5.2);

            if (step > 4)
                step = 4;
            if (step < 1)
                step = 1;
            if (d > .9 && dx + dy > -.2)
                step = 0;
            p[y][x] = (uint8_t)(C_LEAF + step);
        }
}

static void wall(int mask, int variant, uint8_t p[META][META])
{
    for (int y = 0; y < META; y++)
        for (int x = 0; x < META; x++)
            p[y][x] = mask ? C_GRASS : C_LEAF;
    if (mask & OPEN_S) {
        int x0 = mask & OPEN_W ? 3 : 0, x1 = mask & OPEN_E ? 20 : 23;

        for (int y = 12; y < META; y++)
            for (int x = x0; x <= x1; x++) {
                int k = x % 12;

                if (y >= 22)
                    p[y][x] = C_SHADOW;
                else
                    p[y][x] = k >= 4 && k <= 8 ? (k <= 5 ? C_TRUNK : C_TRUNK_DARK) : C_LEAF;
            }
    }
    if (mask)                                              /* leaves behind the bushes close the gaps between them */
        for (int y = mask & OPEN_N ? 6 : 0; y < (mask & OPEN_S ? 14 : META); y++)
            for (int x = mask & OPEN_W ? 5 : 0; x < (mask & OPEN_E ? 19 : META); x++)
                p[y][x] = C_LEAF;
    for (int row = -1; row <= 2; row++)
        for (int column = -1; column <= 2; column++) {
            int outside_row = row < 0 || row > 1, outside_column = column < 0 || column > 1;
            struct bush b = bush_at(column, row, outside_row || outside_column ? 0 : mask);

            if ((row < 0 && mask & OPEN_N) || (row > 1 && mask & OPEN_S) || (column < 0 && mask & OPEN_W) ||
                (column > 1 && mask & OPEN_E))
                continue;
            if (outside_row && !outside_column)
                b.x = bush_at(column, 0, mask).x;
            if (outside_column && !outside_row)
                b.y = bush_at(0, row, mask).y;
            bush_draw(b, p, variant);
        }
}

/* A stone stair going down: the brightest and bluest thing of a floor. */
static void stairs(uint8_t p[META][META])
{
    for (int y = 0; y < META; y++)
        for (int x = 0; x < META; x++) {
            p[y][x] = 13;
            if (x >= 1 && x <= 22 && y >= 1 && y <= 22)
                p[y][x] = 1;
            if (x >= 2 && x <= 21 && y >= 2 && y <= 21)
                p[y][x] = x == 2 || x == 21 || y == 2 ? 8 : 10;
            if (x >= 3 && x <= 20 && y >= 3 && y <= 21) {
                int step = (y - 3) / 4;                     /* 0 far and dark … 4 near and white */

                p[y][x] = (uint8_t)((y - 3) % 4 == 3 ? 1 : step == 0 ? 2 : step == 1 ? 3 : step == 2 ? 4 : step == 3 ? 5 : 7);
                if ((y - 3) % 4 == 0 && step < 4 && step > 0)
                    p[y][x]++;
            }
        }
}

void terrain_draw(int meta, uint8_t pixel[META][META])
{
    if (meta < META_PATH)
        grass(meta - META_GRASS, pixel);
    else if (meta < META_STAIRS)
        path(meta - META_PATH, pixel);
    else if (meta == META_STAIRS)
        stairs(pixel);
    else if (meta < META_DEEP)
        wall(meta - META_WALL, 0, pixel);
    else
        wall(0, 1 + meta - META_DEEP, pixel);
}
