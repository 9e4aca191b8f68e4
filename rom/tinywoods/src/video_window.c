/* video_window.c: HUD row, dialogue box, message strip and menus. Each part keeps a key of what it shows; the canvas is
 * written only when the key changes, and a dialogue being printed only gets its new letters. */
#include "video.h"
#include "video_parts.h"

enum {
    BOX_X = 8, BOX_Y = 120, BOX_W = 224, BOX_H = 40, TEXT_X = 20, TEXT_Y = 124, TEXT_END = 228, LINE_H = 11, BOX_LINES = 3,
    BAR_X = 144, BAR_W = 52, BELLY_X = 202
};

static u32 hud_key, menu_key, strip_key;
static u8 box_kind, menu_on, hud_on;    /* box_kind: 0 none, 1 dialogue, 2 strip */
static u8 menu_row_first, menu_row_last;

void windows_forget(void)
{
    hud_key = menu_key = strip_key = 0;
    box_kind = menu_on = hud_on = 0;
    fill_box(FILL_HUD, 0, 0, 0, 0);
    fill_box(FILL_BOX, 0, 0, 0, 0);
    fill_box(FILL_MENU, 0, 0, 0, 0);
    fill_box(FILL_INFO, 0, 0, 0, 0);
}

/* ---- HUD ---- */

static void number(int x, int value, int columns, int ink)      /* right-aligned in 8-pixel columns */
{
    for (int i = columns - 1; i >= 0; i--) {
        canvas_letter(x + 8 * i + 1, 0, '0' + value % 10, ink);
        value /= 10;
        if (!value)
            break;
    }
}

static void hud_letters(int x, const char *text, int ink)
{
    for (; *text; text++, x += 8)
        canvas_letter(x + 1, 0, *text, ink);
}

void hud_draw(struct dungeon *d, int shown)
{
    const struct entity *target = shown ? d->camera_target : 0;
    const struct entity_info *info = target && target->type == ENTITY_MONSTER ? target->data : 0;
    int belly, bar, ink;
    u32 key;

    if (!info) {
        if (hud_on) {
            canvas_clear(0, 0, CANVAS_COLS, 1);
            fill_box(FILL_HUD, 0, 0, 0, 0);
            hud_on = 0;
            hud_key = 0;
        }
        return;
    }
    belly = info->belly[0] + (info->belly[1] > 0);
    key = (u32)info->hp ^ (u32)info->max_hp << 10 ^ (u32)belly << 20 ^ (u32)info->level << 24 ^ (u32)d->floor << 28 ^ 0x80000000u;
    if (hud_on && key == hud_key)
        return;
    hud_key = key;
    hud_on = 1;
    canvas_clear(0, 0, CANVAS_COLS, 1);
    fill_box(FILL_HUD, 0, 0, 240, 8);
    ink = info->hp * 4 <= info->max_hp ? INK_RED : info->hp * 2 <= info->max_hp ? INK_YELLOW : INK_WHITE;
    hud_letters(8, "B", INK_WHITE);
    number(16, d->floor, d->floor > 9 ? 2 : 1, INK_WHITE);
    hud_letters(d->floor > 9 ? 32 : 24, "F", INK_WHITE);
    hud_letters(40, "Lv", INK_CYAN);
    number(56, info->level, 2, INK_WHITE);
    hud_letters(76, "HP", INK_CYAN);
    number(88, info->hp < 0 ? 0 : info->hp, 3, ink);
    hud_letters(112, "/", INK_WHITE);
    number(118, info->max_hp, 3, INK_WHITE);
    bar = info->max_hp > BAR_W - 2 ? info->hp * (BAR_W - 2) / info->max_hp : info->hp;
    canvas_rect(BAR_X, 1, info->max_hp > BAR_W - 2 ? BAR_W : info->max_hp + 2, 6, INK_SHADOW);
    canvas_rect(BAR_X + 1, 2, info->max_hp > BAR_W - 2 ? BAR_W - 2 : info->max_hp, 4, INK_GREY);
    if (bar > 0)
        canvas_rect(BAR_X + 1, 2, bar, 4, ink == INK_WHITE ? INK_GREEN : ink);
    canvas_rect(BELLY_X + 1, 2, 7, 5, INK_RED);                /* a small apple stands for the belly */
    canvas_rect(BELLY_X + 2, 1, 5, 7, INK_RED);
    canvas_rect(BELLY_X + 2, 3, 1, 2, INK_WHITE);
    canvas_rect(BELLY_X + 5, 0, 2, 1, INK_GREEN);
    number(BELLY_X + 10, belly, 3, belly < 10 ? INK_RED : belly < 20 ? INK_YELLOW : INK_WHITE);
}

/* ---- dialogue and strip ---- */

static const char *printed;     /* text up to here is on the canvas */
static s16 pen_x, pen_line;
static int pen_ink;
static u8 arrow_on;

static void box_open(int kind)
{
    canvas_clear(BOX_X / 8, BOX_Y / 8, BOX_W / 8, BOX_H / 8);
    if (!kind) {
        fill_box(FILL_BOX, 0, 0, 0, 0);
    } else {
        fill_box(FILL_BOX, BOX_X, BOX_Y, BOX_W, BOX_H);
        canvas_frame(BOX_X, BOX_Y, BOX_W, BOX_H);
    }
    box_kind = (u8)kind;
    arrow_on = 0;
    pen_x = TEXT_X;
    pen_line = 0;
    pen_ink = INK_WHITE;
}

/* Pixels up to the next space: a word that does not fit starts a new line. */
static int word_width(const char *text)
{
    int width = 0, ink = 0, code;

    while (*text != ' ' && (code = letter_next(&text, &ink, 0)) != LETTER_END && code != LETTER_NEWLINE && code != LETTER_PAGE)
        width += letter_width(code);
    return width;
}

static void new_line(void)
{
    pen_x = TEXT_X;
    if (++pen_line >= BOX_LINES) {
        int ink = pen_ink;

        box_open(box_kind);
        pen_ink = ink;
    }
}

static void print_until(const char *end)
{
    while (printed < end) {
        const char *next = printed;
        int code, after_space = printed == G_DIALOGUE_TEXT || printed[-1] == ' ';

        code = letter_next(&next, &pen_ink, INK_WHITE);
        if (code == LETTER_END || next > end)
            break;
        if (code == LETTER_PAGE)
            box_open(box_kind);
        else if (code == LETTER_NEWLINE && (printed[0] != '\n' || pen_x > TEXT_X || pen_line))
            new_line();
        if (code >= 32 && after_space && pen_x > TEXT_X && pen_x + word_width(printed) > TEXT_END)
            new_line();
        if (code >= 32 && !(code == ' ' && pen_x == TEXT_X))
            canvas_letter(pen_x, TEXT_Y + LINE_H * pen_line, code, pen_ink);
        else if (code == LETTER_ELLIPSIS)
            canvas_text(pen_x, TEXT_Y + LINE_H * pen_line, "...", pen_ink);
        if (!(code == ' ' && pen_x == TEXT_X))
            pen_x = (s16)(pen_x + letter_width(code));
        printed = next;
    }
}

static void arrow(int on)
{
    if (on == arrow_on)
        return;
    arrow_on = (u8)on;
    for (int i = 0; i < 4; i++)
        canvas_rect(112 + i, 155 + i, 8 - 2 * i, 1, on ? INK_YELLOW : i < 2 ? INK_NONE : i == 2 ? INK_FRAME : INK_FRAME);
    if (!on) {
        canvas_rect(112, 155, 8, 2, INK_NONE);
        canvas_rect(112, 157, 8, 2, INK_FRAME);
    }
}

static void dialogue_draw(void)
{
    const char *start = G_DIALOGUE_TEXT, *next = G_DIALOGUE_NEXT;
    int state = G_DIALOGUE_STATE;

    if (next < start || next > start + 1000)
        return;
    if (box_kind != 1 || next < printed) {
        box_open(1);
        printed = start;
    }
    print_until(next);
    arrow(state >= DIALOGUE_WAIT_MID && state <= DIALOGUE_WAIT_END && (G_DUNGEON_FRAMES & 32) == 0);
}

static void strip_draw(const struct dungeon *d)
{
    int first = d->strip_read, line = 0;
    u32 key = 1;

    if (d->strip_write - first > BOX_LINES)
        first = d->strip_write - BOX_LINES;
    if (first < 0)
        return;
    for (int i = first; i < d->strip_write; i++)
        key = text_hash(key, d->strip_lines[i % STRIP_LINES]);
    if (box_kind == 2 && key == strip_key)
        return;
    strip_key = key;
    box_open(2);
    for (int i = first; i < d->strip_write; i++)
        canvas_text(TEXT_X, TEXT_Y + LINE_H * line++, d->strip_lines[i % STRIP_LINES], INK_WHITE);
}

void box_draw(struct dungeon *d, int shown)
{
    if (shown && G_DIALOGUE_STATE != DIALOGUE_NONE)
        dialogue_draw();
    else if (shown && d && G_WINDOW_MODE == WINDOW_STRIP && d->strip_frames_left)
        strip_draw(d);
    else if (box_kind)
        box_open(0);
}

/* ---- menus ---- */

static u32 key_of_menu(void)
{
    u32 key = 2166136261u;

    key = text_hash(key, view.menu_title) + view.menu_rows + ((u32)view.menu_right << 8);
    for (int i = 0; i < view.menu_rows && i < VIEW_MENU_ROWS; i++)
        key = text_hash(key, view.menu_row[i]);
    key = key * 31 + view.menu_cursor;
    for (int i = 0; i < view.info_count && i < VIEW_INFO_LINES; i++)
        key = text_hash(key, view.info_line[i]);
    return key | 1;
}

static int widest(const char *const *lines, int count)
{
    int most = 0;

    for (int i = 0; i < count; i++) {
        int w = text_width(lines[i]);

        most = w > most ? w : most;
    }
    return most;
}

static void frame_and_fill(enum fill which, int x, int y, int w, int h)
{
    fill_box(which, x, y, w, h);
    canvas_frame(x, y, w, h);
}

static void menu_wipe(void)
{
    if (menu_row_last > menu_row_first)
        canvas_clear(0, menu_row_first, CANVAS_COLS, menu_row_last - menu_row_first);
    fill_box(FILL_MENU, 0, 0, 0, 0);
    fill_box(FILL_INFO, 0, 0, 0, 0);
    menu_on = 0;
}

static void cursor_draw(int x, int y)
{
    for (int i = 0; i < 7; i++)
        canvas_rect(x, y + i, i < 4 ? i + 2 : 8 - i, 1, INK_YELLOW);
}

void menu_draw(int shown)
{
    int rows = view.menu_rows < VIEW_MENU_ROWS ? view.menu_rows : VIEW_MENU_ROWS, titled = view.menu_title && *view.menu_title;
    int infos = view.info_count < VIEW_INFO_LINES ? view.info_count : VIEW_INFO_LINES;
    int w, h, x, y, iw, ih, ix, iy, bottom;
    u32 key;

    if (!shown || !view.menu_shown) {
        if (menu_on)
            menu_wipe();
        return;
    }
    key = key_of_menu();
    if (menu_on && key == menu_key)
        return;
    if (menu_on)
        menu_wipe();
    menu_on = 1;
    menu_key = key;

    w = widest(view.menu_row, rows) + 14;
    if (titled && text_width(view.menu_title) > w)
        w = text_width(view.menu_title);
    w = (w + 16 + 3) & ~3;
    if (w > 232)
        w = 232;
    h = (rows * LINE_H + (titled ? 14 : 0) + 10 + 3) & ~3;
    x = view.menu_right ? 232 - w : 8;
    y = view.menu_right ? (h <= 104 ? 116 - h : 12) : 12;
    if (rows || titled) {
        int top = y + 6;

        frame_and_fill(FILL_MENU, x, y, w, h);
        if (titled) {
            canvas_text(x + 8, top, view.menu_title, INK_YELLOW);
            canvas_rect(x + 6, top + 10, w - 12, 1, INK_FRAME);
            top += 14;
        }
        for (int i = 0; i < rows; i++) {
            canvas_text(x + 18, top + LINE_H * i, view.menu_row[i], INK_WHITE);
            if (i == view.menu_cursor)
                cursor_draw(x + 8, top + LINE_H * i);
        }
    } else {
        h = 0;
    }
    bottom = y + h;
    if (infos) {
        iw = (widest(view.info_line, infos) + 20 + 3) & ~3;
        ih = (infos * LINE_H + 8 + 3) & ~3;
        if (iw > 232)
            iw = 232;
        ix = 8;
        iy = 156 - ih;
        if (iy < bottom) {              /* no room below: to the right */
            ix = x + w + 4;
            iy = y;
            if (ix + iw > 236)
                iw = (236 - ix) & ~3;
        }
        if (iw >= 16) {
            frame_and_fill(FILL_INFO, ix, iy, iw, ih);
            for (int i = 0; i < infos; i++)
                canvas_text(ix + 10, iy + 5 + LINE_H * i, view.info_line[i], INK_WHITE);
            bottom = iy + ih > bottom ? iy + ih : bottom;
        }
    }
    menu_row_first = (u8)(y >> 3);
    menu_row_last = (u8)((bottom + 7) >> 3);
    if (menu_row_last > CANVAS_ROWS)
        menu_row_last = CANVAS_ROWS;
}
