/* video_parts.h: what the files of the picture share.  See video.h for the idea.
 *
 * Video memory: 0x06000000 terrain tiles; 0x06004000 the canvas: 30 x 20 tiles, one for each cell of the screen, so that
 * BG0 is a bitmap on which text and boxes are drawn by pixels; 0x06008C00 the 16 fill tiles of BG1 (one bit for each
 * 4 x 4 quarter); maps from 0x0600C000. Palettes: 0 terrain, 1 stairs, 12 canvas, 13 and 14 fills. */
#ifndef TINYWOODS_VIDEO_PARTS_H
#define TINYWOODS_VIDEO_PARTS_H

#include "layout.h"
#include "platform.h"

enum { SCREEN_W = 240, SCREEN_H = 160, CANVAS_COLS = 30, CANVAS_ROWS = 20 };

enum ink {  /* colours of the canvas palette */
    INK_NONE, INK_WHITE, INK_SHADOW, INK_FRAME, INK_FRAME_DARK, INK_RED, INK_GREEN, INK_CYAN, INK_YELLOW, INK_ORANGE,
    INK_MAP_ROOM, INK_MAP_PATH, INK_BLUE, INK_GREY, INK_LEAF, INK_BAR
};

/* video_canvas.c: pixels and letters on BG0 */
void canvas_clear(int col, int row, int cols, int rows);                    /* in tiles */
void canvas_rect(int x, int y, int w, int h, int ink);
void canvas_letter(int x, int y, int code, int ink);                        /* with a drop shadow; code from letter_next */
int letter_width(int code);
void canvas_frame(int x, int y, int w, int h);                              /* window border, two pixels, round corners */
void canvas_big(int x, int y, int scale, const char *text, int ink, int ink_low);
int canvas_text(int x, int y, const char *text, int ink);                   /* returns the x behind the text */
int text_width(const char *text);
u32 text_hash(u32 hash, const char *text);

/* One step through a text: a letter (32..127), or one of these. */
enum { LETTER_END = 0, LETTER_SKIP = 1, LETTER_NEWLINE = 2, LETTER_PAGE = 3, LETTER_GAP = 4, LETTER_ELLIPSIS = 5 };
int letter_next(const char **text, int *ink, int plain_ink);

/* video_fill.c: translucent boxes on BG1, in units of four pixels */
enum fill { FILL_HUD, FILL_MAP, FILL_BOX, FILL_MENU, FILL_INFO, FILL_COUNT };
void fill_box(enum fill which, int x, int y, int w, int h);                 /* w = 0: no box */
void fill_flush(void);

/* video_field.c, video_sprites.c, video_map.c, video_window.c, video_scene.c */
void field_forget(void);                                                    /* the terrain must be drawn anew */
void field_draw(struct dungeon *d);
void scene_terrain(int kind);                                               /* BG3 of the title and the result */
void sprites_load(void);
void sprites_floor(const struct dungeon *d);
void sprites_draw(struct dungeon *d);
void sprites_none(void);
void sprites_title(int result);
void map_draw(struct dungeon *d, int shown);
void map_full_draw(struct dungeon *d, int shown);                           /* the SELECT map of the whole floor */
void map_forget(void);
void hud_draw(struct dungeon *d, int shown);
void box_draw(struct dungeon *d, int shown);                                /* dialogue or message strip */
void menu_draw(int shown);
void windows_forget(void);
void scene_draw(void);                                                      /* title, card, result */
void scene_forget(void);

#define VRAM          0x06000000
#define TERRAIN_TILES ((volatile u32 *)0x06000000)
#define CANVAS        ((u32 *)0x06004000)
#define FILL_TILES    ((volatile u32 *)0x06008C00)
#define FILL_TILE     96                                                    /* its number from 0x06008000 */
#define MAP_TEXT      ((volatile u16 *)0x0600C000)
#define MAP_FILL      ((volatile u16 *)0x0600C800)
#define MAP_FIELD     ((volatile u16 *)0x0600D000)
#define BG_PALETTE    ((volatile u16 *)0x05000000)
#define OBJ_PALETTE   ((volatile u16 *)0x05000200)
#define OAM           ((volatile u32 *)0x07000000)
#define OBJ_TILES     ((volatile u32 *)0x06010000)

#endif
