/* video_fill.c: the translucent ground of windows, HUD and minimap. Boxes are multiples of four pixels: a fill tile has one bit
 * for each of its quarters, so boxes need not stand on tile borders. */
#include "video_parts.h"

static struct { u8 x, y, w, h; } boxes[FILL_COUNT];
static u8 dirty;

void fill_box(enum fill which, int x, int y, int w, int h)
{
    if (!w)
        x = y = h = 0;
    x >>= 2, y >>= 2, w >>= 2, h >>= 2;
    if (boxes[which].x == x && boxes[which].y == y && boxes[which].w == w && boxes[which].h == h)
        return;
    boxes[which].x = (u8)x;
    boxes[which].y = (u8)y;
    boxes[which].w = (u8)w;
    boxes[which].h = (u8)h;
    dirty = 1;
}

static IWRAM_CODE void rebuild(void)
{
    volatile u32 *map = (volatile u32 *)MAP_FILL;

    for (int i = 0; i < 32 * 20 / 2; i++)
        map[i] = (FILL_TILE) * 0x10001u;
    for (int i = 0; i < FILL_COUNT; i++)
        for (int y = boxes[i].y; y < boxes[i].y + boxes[i].h; y++)
            for (int x = boxes[i].x; x < boxes[i].x + boxes[i].w; x++) {
                volatile u16 *cell = &MAP_FILL[(y >> 1) * 32 + (x >> 1)];

                *cell = (u16)((*cell & 0xFFF) | 1 << ((y & 1) * 2 + (x & 1)) | (i == FILL_MAP ? 14 : 13) << 12);
            }
}

void fill_flush(void)
{
    if (dirty)
        rebuild();
    dirty = 0;
}
