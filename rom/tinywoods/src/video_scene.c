/* video_scene.c: title, floor card and result: the screens without a dungeon. */
#include "video.h"
#include "video_parts.h"

static u32 drawn_key;

void scene_forget(void)
{
    drawn_key = 0;
}

static void centred(int y, const char *text, int ink)
{
    canvas_text((SCREEN_W - text_width(text)) / 2, y, text, ink);
}

static void title(void)
{
    canvas_big(27, 14, 4, "Tiny Woods", INK_YELLOW, INK_ORANGE);
    centred(56, "a little mystery dungeon", INK_WHITE);
    if (view.text_count) {
        for (int i = 0; i < view.text_count && i < VIEW_TEXT_LINES; i++)
            centred(78 + 11 * i, view.text[i], INK_WHITE);
    }
    fill_box(FILL_BOX, 40, 136, 160, 24);
    centred(138, "press START", INK_YELLOW);
    centred(148, "home-brew: own code, own art", INK_WHITE);
}

static void card(void)
{
    int count = view.text_count < VIEW_TEXT_LINES ? view.text_count : VIEW_TEXT_LINES;

    if (count)
        canvas_big((SCREEN_W - 2 * text_width(view.text[0])) / 2, 54, 2, view.text[0], INK_YELLOW, INK_ORANGE);
    for (int i = 1; i < count; i++)
        centred(66 + 16 * i, view.text[i], INK_WHITE);
}

static void result(void)
{
    int count = view.text_count < VIEW_TEXT_LINES ? view.text_count : VIEW_TEXT_LINES, h = (16 * count + 20 + 3) & ~3;

    fill_box(FILL_BOX, 20, 16, 200, h);
    canvas_frame(20, 16, 200, h);
    for (int i = 0; i < count; i++)
        centred(24 + 16 * i + (i ? 4 : 0), view.text[i], i ? INK_WHITE : INK_YELLOW);
}

void scene_draw(void)
{
    u32 key = view.screen;

    for (int i = 0; i < view.text_count && i < VIEW_TEXT_LINES; i++)
        key = text_hash(key, view.text[i]);
    key |= 0x80000000u;
    if (key == drawn_key)
        return;
    drawn_key = key;
    canvas_clear(0, 0, CANVAS_COLS, CANVAS_ROWS);
    fill_box(FILL_BOX, 0, 0, 0, 0);
    sprites_none();
    if (view.screen == VIEW_CARD) {
        card();
        return;
    }
    scene_terrain(view.screen == VIEW_RESULT);
    if (view.screen == VIEW_TITLE) {
        sprites_title(0);
        title();
    } else {
        sprites_title(1);
        result();
    }
}
