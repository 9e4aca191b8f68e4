/* video.c: loads the pictures and decides, frame by frame, which parts are on the screen. */
#include "video.h"
#include "video_parts.h"
#include "art_data.h"

enum { FULL = 31, BG0_ON = 0x100, BG1_ON = 0x200, BG3_ON = 0x800, OBJ_ON = 0x1000, OBJ_LINEAR = 0x40 };
enum { BLEND_FILL = 0x3842, BLEND_DARKEN = 0x00FF, WEIGHT_FILL = 11, WEIGHT_BEHIND = 7 };
#define REG_BLDCNT   REG16(0x04000050)
#define REG_BLDALPHA REG16(0x04000052)
#define REG_BLDY     REG16(0x04000054)
#define RGB(hex) ((u16)(((hex) >> 19 & 31) | ((hex) >> 11 & 31) << 5 | ((hex) >> 3 & 31) << 10))

struct view view;
static u8 screen_before, brightness_before;
static u16 display;

static const u16 canvas_palette[16] = {
    0, RGB(0xFFFFFF), RGB(0x100C18), RGB(0x78A0FF), RGB(0x283878), RGB(0xFF4038), RGB(0x50E050), RGB(0x40F0FF),
    RGB(0xFFE848), RGB(0xFF9020), RGB(0xF0F0D8), RGB(0xD0B080), RGB(0x4078FF), RGB(0x585868), RGB(0x206040), RGB(0x303040)
};

static void palettes(void)
{
    for (int i = 0; i < 16; i++) {
        BG_PALETTE[i] = art_terrain_palette[i];
        BG_PALETTE[16 + i] = art_stairs_palette[i];
        BG_PALETTE[12 * 16 + i] = canvas_palette[i];
        BG_PALETTE[13 * 16 + i] = RGB(0x101840);
        BG_PALETTE[14 * 16 + i] = RGB(0x041410);
    }
    BG_PALETTE[0] = 0;
}

void video_init(void)
{
    display = 0;
    REG_DISPCNT = 0;
    palettes();
    for (int i = 0; i < ART_METAS * 9 * 8; i++)
        TERRAIN_TILES[i] = art_terrain_tiles[i];
    for (int mask = 0; mask < 16; mask++)
        for (int y = 0; y < 8; y++) {
            int bits = mask >> (y < 4 ? 0 : 2);

            FILL_TILES[mask * 8 + y] = (bits & 1 ? 0x1111u : 0) | (bits & 2 ? 0x11110000u : 0);
        }
    for (int i = 0; i < 32 * 32; i++) {
        int x = i % 32, y = i / 32;

        MAP_TEXT[i] = (u16)(12 << 12 | (x < CANVAS_COLS && y < CANVAS_ROWS ? y * CANVAS_COLS + x : 0));
        MAP_FILL[i] = FILL_TILE;
        MAP_FIELD[i] = 0;
    }
    canvas_clear(0, 0, CANVAS_COLS, CANVAS_ROWS);
    sprites_load();
    REG16(0x04000008) = 0 | 1 << 2 | 24 << 8;       /* BG0: priority 0, tiles from 0x4000 */
    REG16(0x0400000A) = 1 | 2 << 2 | 25 << 8;       /* BG1: priority 1, tiles from 0x8000 */
    REG16(0x0400000E) = 3 | 0 << 2 | 26 << 8;       /* BG3: priority 3 */
    REG_BLDALPHA = WEIGHT_FILL | WEIGHT_BEHIND << 8;
    brightness_before = 255;
    screen_before = 255;
}

static void forget_all(void)
{
    canvas_clear(0, 0, CANVAS_COLS, CANVAS_ROWS);
    windows_forget();
    map_forget();
    field_forget();
    scene_forget();
    fill_box(FILL_BOX, 0, 0, 0, 0);
}

static void show(u16 layers)
{
    if (layers != display) {
        display = layers;
        REG_DISPCNT = layers;
    }
}

static u16 apply_brightness(int level)
{
    if (level != brightness_before) {
        brightness_before = (u8)level;
        REG_BLDCNT = level == FULL ? BLEND_FILL : BLEND_DARKEN;
        REG_BLDY = (u16)((FULL - level) * 16 / FULL);
    }
    return level == FULL ? BG1_ON : 0;              /* fills need the blender, which a fade keeps busy */
}

static void field_frame(struct dungeon *d)
{
    int mode = G_WINDOW_MODE, talking = G_DIALOGUE_STATE != DIALOGUE_NONE, blank = mode == WINDOW_BLANK || mode == 5;
    int menu = view.menu_shown && !blank, full = d->map_mode && !menu && !talking && !blank,
        box = !blank && (talking || (!menu && !full));
    int map = !menu && !full && !talking && !d->hud_hidden && G_OPTIONS->minimap && (mode == WINDOW_FIELD_MAP || mode == WINDOW_STRIP);

    field_draw(d);
    sprites_draw(d);
    if (!menu)                      /* what goes is wiped before what comes is drawn: they share the canvas */
        menu_draw(0);
    if (!box)
        box_draw(d, 0);
    if (!full)
        map_full_draw(d, 0);
    map_draw(d, map);
    if (full)
        map_full_draw(d, 1);
    if (menu)
        menu_draw(1);
    if (box)
        box_draw(d, 1);
    hud_draw(d, !d->hud_hidden && !blank);
}

void video_frame(void)
{
    struct dungeon *d = G_DUNGEON;
    int level = G_BRIGHTNESS, kind = view.screen;
    u16 fills;

    level = level < 0 ? 0 : level > FULL ? FULL : level;
    if (kind == VIEW_FIELD && !d)
        kind = VIEW_BLACK;
    if (kind != screen_before) {
        forget_all();
        if (kind == VIEW_BLACK)
            sprites_none();
        screen_before = (u8)kind;
    }
    if (kind == VIEW_BLACK || level == 0) {
        if (level == 0 && kind == VIEW_FIELD)
            field_forget();                         /* the logic may be building the next floor */
        show(OBJ_LINEAR);
        return;
    }
    fills = apply_brightness(level);
    if (kind == VIEW_FIELD)
        field_frame(d);
    else
        scene_draw();
    fill_flush();
    show((u16)(OBJ_LINEAR | BG0_ON | fills | (kind == VIEW_CARD ? 0 : BG3_ON | OBJ_ON)));
}
