/* Plots as SVG text. Colours are names of the page's style sheet, so that they fit light and dark. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/report.h"

enum { WIDTH = 1000, LEFT = 48, RIGHT = 8, TOP = 22, LIFE_HEIGHT = 190, TIMES_HEIGHT = 150, MOST_BARS = 320 };

static double x_of(uint32_t i, uint32_t count) {
    return count < 2 ? WIDTH / 2.0 : LEFT + (double)(WIDTH - LEFT - RIGHT) * i / (count - 1);
}

static void open_svg(struct buf *b, int height, const char *label) {
    buf_printf(b, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">", WIDTH, height, label);
}

/* ---- HP and belly ---- */

static void floor_bands(struct buf *b, const struct dash_row *rows, uint32_t count, int bottom) {
    for (uint32_t start = 0, i = 1; i <= count; i++) {
        if (i < count && rows[i].floor == rows[start].floor && rows[i].episode == rows[start].episode) continue;
        double left = start ? (x_of(start, count) + x_of(start - 1, count)) / 2 : LEFT, right = i < count ? (x_of(i, count) + x_of(i - 1, count)) / 2 : WIDTH - RIGHT;
        if (rows[start].floor % 2) buf_printf(b, "<rect x=\"%.1f\" y=\"0\" width=\"%.1f\" height=\"%d\" fill=\"var(--band)\"/>", left, right - left, bottom);
        if (rows[start].floor && right - left > 34) buf_printf(b, "<text x=\"%.1f\" y=\"14\">B%dF</text>", left + 6, rows[start].floor);
        start = i;
    }
}

static void life_line(struct buf *b, const struct dash_row *rows, uint32_t count, int bottom, bool hp) {
    bool open = false;
    buf_printf(b, "<path fill=\"none\" stroke=\"var(--%s)\" stroke-width=\"2\" stroke-linejoin=\"round\" d=\"", hp ? "hp" : "belly");
    uint32_t stride = count / (2 * WIDTH) + 1;
    for (uint32_t i = 0; i < count; i += stride) {
        const struct dash_row *r = &rows[i];
        double share = r->max_hp <= 0 ? -1 : hp ? (double)r->hp / r->max_hp : r->belly / 100.0;
        if (share > 1) share = 1;
        if (share >= 0) buf_printf(b, "%c%.1f %.1f", open ? 'L' : 'M', x_of(i, count), bottom - share * (bottom - TOP));
        open = share >= 0;
    }
    buf_str(b, "\"/>");
}

void plot_life(struct buf *b, const struct dash_row *rows, uint32_t count) {
    int bottom = LIFE_HEIGHT - 20;
    open_svg(b, LIFE_HEIGHT, "HP and belly over the steps, floors as bands");
    floor_bands(b, rows, count, bottom);
    for (int i = 0; i <= 2; i++) {
        int y = bottom - i * (bottom - TOP) / 2;
        buf_printf(b, "<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"var(--line)\"/><text x=\"%d\" y=\"%d\" text-anchor=\"end\">%d %%</text>", LEFT,
                   WIDTH - RIGHT, y, y, LEFT - 6, y + 4, 50 * i);
    }
    life_line(b, rows, count, bottom, false);
    life_line(b, rows, count, bottom, true);
    buf_printf(b, "<text x=\"%d\" y=\"%d\">step %u</text><text x=\"%d\" y=\"%d\" text-anchor=\"end\">step %u</text></svg>", LEFT, LIFE_HEIGHT - 4, rows[0].step,
               WIDTH - RIGHT, LIFE_HEIGHT - 4, rows[count - 1].step);
    buf_str(b, "<ul class=\"key\"><li><svg viewBox=\"0 0 12 12\"><rect y=\"4\" width=\"12\" height=\"3\" fill=\"var(--hp)\"/></svg>HP</li>"
               "<li><svg viewBox=\"0 0 12 12\"><rect y=\"4\" width=\"12\" height=\"3\" fill=\"var(--belly)\"/></svg>belly</li></ul>");
}

/* ---- time ---- */

const char *const split_name[SPLIT_PARTS] = {"picture", "prompt", "answer", "emulator", "rest"};

void split_of(const struct dash_row *r, double ms[SPLIT_PARTS]) {
    ms[SPLIT_IMAGE] = (double)r->image_ms, ms[SPLIT_PROMPT] = (double)r->prefill_ms, ms[SPLIT_ANSWER] = (double)r->generate_ms;
    ms[SPLIT_EMULATOR] = (double)r->emulator_ms;
    double rest = (double)r->total_ms - ms[SPLIT_IMAGE] - ms[SPLIT_PROMPT] - ms[SPLIT_ANSWER] - ms[SPLIT_EMULATOR];
    ms[SPLIT_REST] = rest > 0 ? rest : 0;
}

static void split_key(struct buf *b, const double ms[SPLIT_PARTS], double total) {
    buf_str(b, "<ul class=\"key\">");
    for (int i = 0; i < SPLIT_PARTS; i++) {
        if (ms[i] <= 0) continue;
        buf_printf(b, "<li><svg viewBox=\"0 0 12 12\"><rect width=\"12\" height=\"12\" rx=\"3\" fill=\"var(--c%d)\"/></svg>%s %.1f %%, %.2f ms a step</li>", i,
                   split_name[i], 100 * ms[i] / total, ms[i]);
    }
    buf_str(b, "</ul>");
}

void plot_split(struct buf *b, const struct dash_row *rows, uint32_t count) {
    double ms[SPLIT_PARTS] = {0}, one[SPLIT_PARTS], total = 0, x = 0;
    for (uint32_t i = 0; i < count; i++) {
        split_of(&rows[i], one);
        for (int k = 0; k < SPLIT_PARTS; k++) ms[k] += one[k] / count;
    }
    for (int k = 0; k < SPLIT_PARTS; k++) total += ms[k];
    if (total <= 0) return;
    open_svg(b, 26, "Where the time of a step goes, on the average");
    for (int k = 0; k < SPLIT_PARTS; k++) {
        double w = WIDTH * ms[k] / total;
        if (w > 0) buf_printf(b, "<rect x=\"%.2f\" width=\"%.2f\" height=\"26\" fill=\"var(--c%d)\"/>", x, w, k);
        x += w;
    }
    buf_str(b, "</svg>");
    split_key(b, ms, total);
}

void plot_times(struct buf *b, const struct dash_row *rows, uint32_t count) {
    uint32_t per = (count + MOST_BARS - 1) / MOST_BARS, bars = (count + per - 1) / per;
    double most = 0, *ms = calloc((size_t)bars * SPLIT_PARTS, sizeof *ms), one[SPLIT_PARTS];
    if (!ms) {
        b->failed = true;
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t in_bar = i / per == bars - 1 ? count - (bars - 1) * per : per;
        split_of(&rows[i], one);
        for (int k = 0; k < SPLIT_PARTS; k++) ms[i / per * SPLIT_PARTS + (uint32_t)k] += one[k] / in_bar;
    }
    for (uint32_t i = 0; i < bars; i++) {
        double sum = 0;
        for (int k = 0; k < SPLIT_PARTS; k++) sum += ms[i * SPLIT_PARTS + (uint32_t)k];
        if (sum > most) most = sum;
    }
    int bottom = TIMES_HEIGHT - 20;
    double width = (double)(WIDTH - LEFT - RIGHT) / bars;
    open_svg(b, TIMES_HEIGHT, "Milliseconds of each decision");
    buf_printf(b, "<text x=\"%d\" y=\"14\">%.1f ms at most%s</text>", LEFT, most, per > 1 ? " (mean of neighbours)" : "");
    for (uint32_t i = 0; i < bars && most > 0; i++) {
        double y = bottom;
        for (int k = 0; k < SPLIT_PARTS; k++) {
            double h = ms[i * SPLIT_PARTS + (uint32_t)k] / most * (bottom - TOP);
            if (h < 0.05) continue;
            y -= h;
            buf_printf(b, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"var(--c%d)\"/>", LEFT + i * width, y, width > 2 ? width - 1 : width, h, k);
        }
    }
    buf_printf(b, "<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"var(--line)\"/></svg>", LEFT, WIDTH - RIGHT, bottom, bottom);
    free(ms);
}

/* ---- map ---- */

static bool known_open(const struct world *w, int x, int y) {
    if (x < 0 || y < 0 || x >= MAP_WIDTH || y >= MAP_HEIGHT) return false;
    const struct tile *t = &w->tiles[y][x];
    return t->visibility && (t->flags & TILE_KIND) != TILE_WALL && !(t->flags & TILE_BORDER);
}

static bool beside_open(const struct world *w, int x, int y) {
    for (int d = 0; d < 8; d++) {
        if (known_open(w, x + direction_dx[d], y + direction_dy[d])) return true;
    }
    return false;
}

/* Neighbours of the same kind in one rectangle. */
static void map_rows(struct buf *b, const struct world *w) {
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0, next; x < MAP_WIDTH; x = next) {
            int kind = known_open(w, x, y) ? (w->tiles[y][x].flags & TILE_KIND) : beside_open(w, x, y) ? 0 : -1;
            for (next = x + 1; next < MAP_WIDTH; next++) {
                int other = known_open(w, next, y) ? (w->tiles[y][next].flags & TILE_KIND) : beside_open(w, next, y) ? 0 : -1;
                if (other != kind) break;
            }
            if (kind < 0) continue;
            buf_printf(b, "<rect x=\"%d\" y=\"%d\" width=\"%d.02\" height=\"1.02\" fill=\"var(--%s)\"/>", x, y, next - x, kind == 0 ? "wall" : kind == TILE_LIQUID ? "water" : "floor");
        }
    }
}

void plot_map(struct buf *b, const struct world_seen *seen, const struct point *trail, int count) {
    const struct world *k = &seen->now;
    int left = MAP_WIDTH, top = MAP_HEIGHT, right = 0, bottom = 0;
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) {
            if (!known_open(k, x, y)) continue;
            if (x < left) left = x;
            if (x > right) right = x;
            if (y < top) top = y;
            if (y > bottom) bottom = y;
        }
    }
    if (right < left) return;
    buf_printf(b, "<svg viewBox=\"%d %d %d %d\" role=\"img\" aria-label=\"Map of the floor with the way walked\">", left - 2, top - 2, right - left + 5, bottom - top + 5);
    map_rows(b, k);
    if (k->stairs.x >= 0) buf_printf(b, "<path d=\"M%d %dv-.33h.33v-.33h.34v-.34h.33v1z\" fill=\"var(--text)\"/>", k->stairs.x, k->stairs.y + 1);
    for (int i = 0; i < k->item_count; i++) {
        buf_printf(b, "<rect x=\"%.2f\" y=\"%.2f\" width=\".6\" height=\".6\" rx=\".15\" fill=\"var(--item)\"/>", k->items[i].at.x + 0.2, k->items[i].at.y + 0.2);
    }
    buf_str(b, "<path fill=\"none\" stroke=\"var(--accent)\" stroke-width=\".22\" stroke-linejoin=\"round\" stroke-linecap=\"round\" d=\"");
    for (int i = 0; i < count; i++) {
        bool jump = i && (abs(trail[i].x - trail[i - 1].x) > 2 || abs(trail[i].y - trail[i - 1].y) > 2);
        buf_printf(b, "%c%.1f %.1f", i && !jump ? 'L' : 'M', trail[i].x + 0.5, trail[i].y + 0.5);
    }
    buf_str(b, "\"/>");
    if (count) {
        buf_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\".34\" fill=\"var(--card)\" stroke=\"var(--accent)\" stroke-width=\".16\"/>", trail[0].x + 0.5, trail[0].y + 0.5);
        buf_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\".5\" fill=\"var(--accent)\"/>", trail[count - 1].x + 0.5, trail[count - 1].y + 0.5);
    }
    buf_str(b, "</svg>");
}
