/* The film of a report: the game, made again from the record, with a strip below that says who decided what. */
#include <stdio.h>
#include <string.h>

#include "app/report.h"
#include "record/caption.h"
#include "record/video.h"

enum { STRIP = 80, SCALE = 2, LINE = 24, MARGIN = 10, PAPER = 0x161e1a, INK = 0xe8eee9, SOFT = 0x9fada4, GREEN = 0x7fd39a, GOLD = 0xe3b04f, RED = 0xef8175, TRACK = 0x2a362f };

struct film {
    struct video *video;
    struct err *err;
    int code;
    uint64_t frames, most;
};

static bool film_frame(void *user, const uint8_t *rgb, uint64_t number) {
    struct film *f = user;
    (void)number;
    f->code = video_add_picture(f->video, rgb, ++f->frames, f->err);
    return f->code == 0 && f->frames < f->most;
}

static void bar(struct canvas *c, int x, int y, int width, double share, uint32_t colour) {
    caption_fill(c, x, y, width, 8, TRACK);
    caption_fill(c, x, y, (int)(width * (share < 0 ? 0 : share > 1 ? 1 : share)), 8, colour);
}

/* Three lines: where and how the leader is, what is done, why. */
static void draw_strip(struct video *v, const struct run_player *p, uint32_t index, const char *reason) {
    const struct dash_row *r = run_player_row(p, index);
    struct canvas c;
    char text[160];
    video_strip(v, &c);
    caption_fill(&c, 0, 0, c.width, c.height, PAPER);
    if (r->floor) snprintf(text, sizeof text, "B%dF  step %u", r->floor, r->step);
    else snprintf(text, sizeof text, "step %u", r->step);
    int x = caption_draw(&c, MARGIN, 8, SCALE, INK, text);
    if (r->max_hp > 0) {
        snprintf(text, sizeof text, "HP %d/%d", r->hp, r->max_hp);
        x = caption_draw(&c, x + 20, 8, SCALE, SOFT, text);
        bar(&c, x + 6, 12, 70, (double)r->hp / r->max_hp, r->hp * 4 < r->max_hp ? RED : GREEN);
        x = caption_draw(&c, x + 90, 8, SCALE, SOFT, "belly");
        bar(&c, x + 6, 12, 50, r->belly / 100.0, GOLD);
    }
    snprintf(text, sizeof text, "%s: %s", r->decided_by, r->action);
    for (char *q = text; *q; q++) {
        if (*q == '_') *q = ' ';
    }
    bool model = !strcmp(r->decided_by, "model");
    x = caption_draw(&c, MARGIN, 8 + LINE, SCALE, model ? GREEN : GOLD, text);
    if (r->confidence > 0) {
        snprintf(text, sizeof text, "%.0f %% sure", 100 * (double)r->confidence);
        caption_draw(&c, x + 16, 8 + LINE, SCALE, SOFT, text);
    }
    caption_draw(&c, MARGIN, 8 + 2 * LINE, SCALE, SOFT, reason);
}

static int film_step(struct film *f, struct run_player *p, uint32_t index, bool *arrived) {
    struct buf line = {0};
    struct arena arena = {0};
    int code = run_player_line(p, index, &line, f->err);
    const struct json *j = code ? NULL : json_parse(line.data, line.len, "step", &arena, f->err);
    if (!code && !j) code = f->err->code;
    if (!code) draw_strip(f->video, p, index, json_as_string(json_get(j, "reason"), ""));
    if (!code) code = run_player_play(p, film_frame, f, arrived, f->err);
    buf_free(&line);
    arena_free(&arena);
    return code ? code : f->code;
}

int report_film(struct run_player *p, const struct report_options *o, const char *path, bool *cut, struct err *err) {
    struct film f = {.err = err, .most = (uint64_t)(o->film_minutes * 60 * 16777216.0 / 280896)};
    int code = video_open_captioned(path, STRIP, &f.video, err);
    if (code) return code;
    uint32_t n = run_player_steps(p), i = 0;
    bool arrived = false;
    for (; i < n && !code && f.frames < f.most; i++) {
        if (!arrived) code = run_player_go(p, i, err);
        if (!code) code = film_step(&f, p, i, &arrived);
    }
    *cut = i < n || f.frames >= f.most;
    struct err later = {0};
    int close_code = video_close(f.video, code == 0, &later);
    if (!code && close_code) code = close_code, *err = later;
    return code;
}
