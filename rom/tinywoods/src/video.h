/* The picture of Tiny Woods.
 *
 * The idea: the picture is a function of the game's RAM.  Terrain, monsters, items, traps, stairs, the HUD row, the
 * message strip, the dialogue box and the minimap are drawn from the fixed addresses of layout.h; the few things which
 * the real game keeps nowhere in RAM (what a title card says, the words of a menu) are handed over in `view`.
 * The logic never touches VRAM, OAM, palettes or display registers.
 *
 * Layers (mode 0): BG0 text, HUD, frames and minimap; BG1 translucent fill below windows and minimap; BG3 terrain;
 * sprites between BG3 and BG1.  A frame in which nothing changed writes nothing to VRAM. */
#ifndef TINYWOODS_VIDEO_H
#define TINYWOODS_VIDEO_H

enum view_screen {
    VIEW_BLACK,   /* nothing at all */
    VIEW_TITLE,   /* logo, "press START", the home-brew note; text[] is shown below the logo if count > 0 */
    VIEW_CARD,    /* black screen with text[] centred: dungeon and floor name */
    VIEW_FIELD,   /* the dungeon, drawn from RAM; menus and boxes on top */
    VIEW_RESULT   /* framed text[] over a forest picture: how the run ended; text[0] is the heading */
};

#define VIEW_TEXT_LINES 5
#define VIEW_MENU_ROWS 10
#define VIEW_INFO_LINES 6

/* All strings are NUL-ended, owned by the logic, in the game's text encoding (#C colours, ~hh bytes); NULL = empty.
 * The logic may change them in any frame, in place too: video_frame compares contents. */
struct view {
    unsigned char screen;                  /* enum view_screen */
    unsigned char text_count;              /* lines of text[] in use: title, card, result */
    unsigned char menu_shown;              /* 1: draw the menu box (field; choice, stairs prompt, main menu, items …) */
    unsigned char menu_rows;               /* rows in use */
    unsigned char menu_cursor;             /* row of the arrow; 255 = no arrow (message history, status page) */
    unsigned char info_count;              /* lines of the second, small box; 0 = no box */
    unsigned char menu_right;              /* 1: small menu at the right above the dialogue box (Yes/No, stairs) */
    unsigned char hit_frames;              /* > 0: the monster hit_spawn_id flashes; the logic counts it down */
    unsigned short hit_spawn_id;           /* Entity + 0x26 of the monster being hit */
    const char *text[VIEW_TEXT_LINES];
    const char *menu_title;                /* NULL = no title line */
    const char *menu_row[VIEW_MENU_ROWS];  /* up to 24 characters each; a row "" stays blank */
    const char *info_line[VIEW_INFO_LINES];
};
extern struct view view;

/* Load palettes, tiles and sprites, clear the maps, set the display registers.  Once, after RAM is cleared. */
void video_init(void);

/* Bring the picture up to date.  Call once per VBlank, after the logic of that frame.  Reads brightness at 0x0202EDC8
 * (0 black … 31 full).  The dungeon pointer may be NULL; then the field is black. */
void video_frame(void);

#endif
