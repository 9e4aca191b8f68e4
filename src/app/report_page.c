/* The page of a report. Every word from the run goes through html_text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/report.h"
#include "base/utf8.h"
#include "record/png_file.h"

__asm__(".pushsection .rodata\n"
        "report_style: .incbin \"web/report.css\"\n"
        "report_style_end: .byte 0\n"
        ".popsection\n");
extern const char report_style[], report_style_end[];

enum { TABLE_ROWS = 600, TRAIL = 4000, EPISODE_PICTURES = 12 };

struct page {
    struct run_player *player;
    const struct report_options *o;
    struct buf *out;
    struct err *err;
};

/* ---- text and pictures ------------------------------------------------------------------------------------------------------------- */

static void html_text(struct buf *b, const char *s) {
    for (size_t left = strlen(s); left;) {
        int n = utf8_length(s, left);
        if (n <= 0) buf_str(b, "\xEF\xBF\xBD"), n = 1;
        else if (*s == '&') buf_str(b, "&amp;");
        else if (*s == '<') buf_str(b, "&lt;");
        else if (*s == '>') buf_str(b, "&gt;");
        else if (*s == '"') buf_str(b, "&quot;");
        else if (*s == '\'') buf_str(b, "&#39;");
        else if ((unsigned char)*s >= 32 || *s == '\n') buf_append(b, s, (size_t)n);
        s += n;
        left -= (size_t)n;
    }
}

static void element(struct buf *b, const char *open, const char *text, const char *close) {
    buf_str(b, open);
    html_text(b, text ? text : "");
    buf_str(b, close);
}

static void base64(struct buf *b, const uint8_t *data, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)data[i] << 16 | (i + 1 < n ? (uint32_t)data[i + 1] << 8 : 0) | (i + 2 < n ? data[i + 2] : 0);
        buf_char(b, digits[v >> 18]);
        buf_char(b, digits[v >> 12 & 63]);
        buf_char(b, i + 1 < n ? digits[v >> 6 & 63] : '=');
        buf_char(b, i + 2 < n ? digits[v & 63] : '=');
    }
}

static int picture(struct page *g, const char *title, const char *text) {
    const uint8_t *rgb = run_player_picture(g->player);
    struct buf png = {0};
    if (!rgb) return 0;
    int code = png_encode(rgb, FRAME_WIDTH, FRAME_HEIGHT, 6, &png, g->err);
    if (!code) {
        buf_str(g->out, "<li><img width=\"240\" height=\"160\" src=\"data:image/png;base64,");
        base64(g->out, (const uint8_t *)png.data, png.len);
        element(g->out, "\" alt=\"", title, "\">");
        element(g->out, "<b>", title, "</b>");
        html_text(g->out, text);
        buf_str(g->out, "</li>");
    }
    buf_free(&png);
    return code;
}

static void spell_action(const char *action, char *out, size_t cap) {
    snprintf(out, cap, "%s", action);
    for (char *p = out; *p; p++) {
        if (*p == '_') *p = ' ';
    }
}

/* ---- the head ------------------------------------------------------------------------------------------------------------------------ */

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void figure(struct buf *b, const char *text, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void figure(struct buf *b, const char *text, const char *format, ...) {
    char value[64];
    va_list list;
    va_start(list, format);
    vsnprintf(value, sizeof value, format, list);
    va_end(list);
    element(b, "<li><b>", value, "</b>");
    element(b, "<span>", text, "</span></li>");
}

static void put_figures(struct page *g, const struct run_episode *episodes, int count) {
    struct buf *b = g->out;
    uint32_t n = run_player_steps(g->player);
    float *ms = malloc(n * sizeof *ms);
    double total = 0, asked = 0, sure = 0, tokens = 0, ask_ms = 0;
    int cleared = 0, ended = 0;
    long long turns = 0;
    for (int i = 0; i < count; i++) {
        ended += episodes[i].ended;
        if (!episodes[i].ended || strcmp(episodes[i].outcome, "cleared")) continue;
        cleared++;
        turns += json_as_integer(json_get(episodes[i].end, "turns"), 0);
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct dash_row *r = run_player_row(g->player, i);
        if (ms) ms[i] = r->total_ms;
        total += (double)r->total_ms;
        ask_ms += (double)r->ask_ms;
        tokens += r->answer_tokens;
        if (!strcmp(r->decided_by, "model")) asked++, sure += (double)r->confidence;
    }
    buf_str(b, "<ul class=\"figures\">");
    if (count == 1 && ended) {
        char outcome[64];
        spell_action(episodes[0].outcome, outcome, sizeof outcome);
        figure(b, *episodes[0].cause ? episodes[0].cause : "outcome", "%s", outcome);
    } else {
        figure(b, "dungeons cleared", "%d of %d", cleared, ended);
    }
    if (cleared) figure(b, cleared > 1 ? "turns, on the average of those" : "turns", "%.0f", (double)turns / cleared);
    figure(b, "decisions", "%u", n);
    if (asked > 0) figure(b, "mean confidence of the model", "%.0f %%", 100 * sure / asked);
    if (tokens > 0) figure(b, "tokens answered", "%.0f", tokens);
    if (total > 0) figure(b, "of the time in the model", "%.1f %%", 100 * ask_ms / total);
    if (ms && n) {
        qsort(ms, n, sizeof *ms, compare);
        figure(b, "a decision, median", "%.1f ms", (double)ms[n / 2]);
        figure(b, "a decision, 95 % are below", "%.1f ms", (double)ms[(uint64_t)n * 95 / 100]);
    }
    buf_str(b, "</ul>");
    free(ms);
}

static void put_fact(struct buf *b, const char *name, const char *value) {
    if (!value || !*value) return;
    element(b, "<dt>", name, "</dt>");
    element(b, "<dd>", value, "</dd>");
}

/* Members of a JSON object that are words or numbers. */
static void put_members(struct buf *b, const struct json *o) {
    for (uint32_t i = 0; o && o->type == JSON_OBJECT && i < o->count; i++) {
        const struct json *v = o->members[i].value;
        char number[40], name[64];
        spell_action(o->members[i].key, name, sizeof name);
        if (v->type == JSON_STRING) put_fact(b, name, v->string);
        if (v->type == JSON_BOOL) put_fact(b, name, v->boolean ? "yes" : "no");
        if (v->type == JSON_NUMBER) snprintf(number, sizeof number, "%.12g", json_as_number(v, 0)), put_fact(b, name, number);
    }
}

static void put_head(struct page *g, const char *film) {
    struct buf *b = g->out;
    const struct run_reader *r = run_player_reader(g->player);
    const struct run_info *info = run_reader_info(r);
    const struct run_episode *episodes;
    int count = run_reader_episodes(r, &episodes);
    const char *name = info->model ? info->model : info->policy;
    buf_str(b, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
               "<meta name=\"color-scheme\" content=\"light dark\">"
               "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src 'self'\"><title>");
    html_text(b, name);
    buf_str(b, ": report of a run</title><style>");
    buf_append(b, report_style, (size_t)(report_style_end - report_style));
    buf_str(b, "</style></head><body><main>");
    element(b, "<h1>", name, "</h1>");
    element(b, "<p class=\"soft\">Report of the run ", g->o->folder, "");
    element(b, ", begun ", info->started_at, info->finished ? "" : "; it was cut off or is still being played");
    buf_str(b, "</p>");
    put_figures(g, episodes, count);
    if (film) {
        element(b, "<p><a href=\"", film, "\">");
        element(b, "The film: ", film, "</a></p>");
    }
    buf_str(b, "<details><summary>Model, settings, game</summary><div class=\"card\"><dl>");
    put_fact(b, "policy", info->policy);
    put_fact(b, "model", info->model);
    put_members(b, json_get(info->json, "model_detail"));
    put_members(b, json_get(info->json, "settings"));
    put_fact(b, "game", info->rom_title);
    put_fact(b, "ROM, XXH3-128", info->rom_hash);
    buf_str(b, "</dl></div></details>");
}

static void put_episode_table(struct page *g) {
    struct buf *b = g->out;
    const struct run_episode *episodes;
    int count = run_reader_episodes(run_player_reader(g->player), &episodes);
    if (count < 2) return;
    buf_str(b, "<h2>Episodes</h2><div class=\"card\"><table><tr><th>#</th><th class=\"n\">seed</th><th>outcome</th><th>cause</th><th class=\"n\">floor</th><th class=\"n\">turns</th><th class=\"n\">decisions</th></tr>");
    for (int i = 0; i < count; i++) {
        const struct run_episode *e = &episodes[i];
        buf_printf(b, "<tr><td>%d</td><td class=\"n\">%u</td>", e->number, e->seed);
        element(b, "<td>", e->ended ? e->outcome : "no end on record", "</td>");
        element(b, "<td class=\"why\">", e->ended ? e->cause : "", "</td>");
        buf_printf(b, "<td class=\"n\">%lld</td><td class=\"n\">%lld</td><td class=\"n\">%lld</td></tr>", (long long)json_as_integer(json_get(e->end, "floor_reached"), 0),
                   (long long)json_as_integer(json_get(e->end, "turns"), 0), (long long)json_as_integer(json_get(e->end, "decisions"), 0));
    }
    buf_str(b, "</table></div>");
}

/* ---- an episode ----------------------------------------------------------------------------------------------------------------------- */

static bool leader_at(const struct run_player *p, struct point *at) {
    const struct world *w = run_player_world(p);
    if (!w || !w->floor_live || w->leader < 0 || w->leader >= w->team_count) return false;
    *at = w->team[w->leader].at;
    return true;
}

/* Maps of the floors, with the way walked on each. */
static int put_floors(struct page *g, uint32_t first, uint32_t end) {
    struct buf *b = g->out;
    struct point *trail = malloc(TRAIL * sizeof *trail);
    if (!trail) return err_set(g->err, ERR_MEMORY, "out of memory");
    int code = 0, count = 0;
    uint32_t start = first;
    buf_str(b, "<h3>Floors: what was seen, and the way</h3><div class=\"floors\">");
    for (uint32_t i = first; i < end && !code; i++) {
        struct point at;
        if ((code = run_player_go(g->player, i, g->err))) break;
        if (count < TRAIL && leader_at(g->player, &at) && (!count || at.x != trail[count - 1].x || at.y != trail[count - 1].y)) trail[count++] = at;
        int floor = run_player_row(g->player, i)->floor;
        bool last = i + 1 == end || run_player_row(g->player, i + 1)->floor != floor;
        if (!last) continue;
        if (count > 1 && floor) {
            buf_printf(b, "<div class=\"card\"><b>B%dF</b> <span class=\"soft\">%u decisions</span>", floor, i + 1 - start);
            plot_map(b, run_player_seen(g->player), trail, count);
            buf_str(b, "</div>");
        }
        count = 0;
        start = i + 1;
    }
    buf_str(b, "</div>");
    free(trail);
    return code;
}

static bool keep_every(void *user, const uint8_t *rgb, uint64_t number) {
    (void)user, (void)rgb, (void)number;
    return true;
}

/* The first picture of each floor, the one with the fewest HP, and the last of all. */
static int put_key_frames(struct page *g, uint32_t first, uint32_t end, const struct run_episode *e) {
    char title[80], text[120], action[40];
    uint32_t worst = end;
    int code = 0, shown = 0;
    buf_str(g->out, "<h3>Key frames</h3><ul class=\"frames\">");
    for (uint32_t i = first; i < end; i++) {
        const struct dash_row *r = run_player_row(g->player, i);
        if (r->max_hp > 0 && r->hp < r->max_hp && (worst == end || r->hp < run_player_row(g->player, worst)->hp)) worst = i;
    }
    for (uint32_t i = first; i < end && !code && shown < EPISODE_PICTURES; i++) {
        const struct dash_row *r = run_player_row(g->player, i);
        bool fresh = i == first || r->floor != run_player_row(g->player, i - 1)->floor;
        if (!fresh && i != worst) continue;
        if (fresh && !r->floor) snprintf(title, sizeof title, "The start");
        else if (fresh) snprintf(title, sizeof title, "First sight of B%dF", r->floor);
        else snprintf(title, sizeof title, "Fewest HP: %d of %d", r->hp, r->max_hp);
        spell_action(r->action, action, sizeof action);
        snprintf(text, sizeof text, "step %u: %s, decided by %s", r->step, action, r->decided_by);
        if (!(code = run_player_go(g->player, i, g->err))) code = picture(g, title, text);
        shown++;
    }
    if (!code && run_player_has_game(g->player) && end > first) {
        bool arrived;
        code = run_player_go(g->player, end - 1, g->err);
        if (!code) code = run_player_play(g->player, keep_every, NULL, &arrived, g->err);
        snprintf(title, sizeof title, "The end: %s", e->ended ? e->outcome : "no end on record");
        if (!code) code = picture(g, title, e->ended ? e->cause : "");
    }
    buf_str(g->out, "</ul>");
    return code;
}

static int put_decisions(struct page *g, uint32_t first, uint32_t end) {
    struct buf *b = g->out, line = {0};
    struct arena arena = {0};
    uint32_t shown = end - first < TABLE_ROWS ? end - first : TABLE_ROWS;
    int code = 0;
    buf_printf(b, "<details><summary>%u decisions</summary><div class=\"card\"><table><tr><th class=\"n\">step</th><th>floor</th><th class=\"n\">HP</th><th class=\"n\">belly</th>"
               "<th>action</th><th>decided by</th><th class=\"n\">sure</th><th class=\"n\">ms</th><th>why</th></tr>", end - first);
    for (uint32_t i = first; i < first + shown && !code; i++) {
        const struct dash_row *r = run_player_row(g->player, i);
        char action[40];
        buf_clear(&line);
        if ((code = run_player_line(g->player, i, &line, g->err))) break;
        const struct json *j = json_parse(line.data, line.len, "step", &arena, g->err);
        if (!j && (code = g->err->code)) break;
        spell_action(r->action, action, sizeof action);
        buf_printf(b, "<tr><td class=\"n\">%u</td><td>%s%.0d</td><td class=\"n\">%d</td><td class=\"n\">%d</td>", r->step, r->floor ? "B" : "", r->floor, r->hp, r->belly);
        element(b, "<td>", action, "</td>");
        element(b, "<td>", r->decided_by, "</td>");
        if (r->confidence > 0) buf_printf(b, "<td class=\"n\">%.0f %%</td>", 100 * (double)r->confidence);
        else buf_str(b, "<td></td>");
        buf_printf(b, "<td class=\"n\">%.1f</td>", (double)r->total_ms);
        element(b, "<td class=\"why\">", json_as_string(json_get(j, "reason"), ""), "</td></tr>");
        arena_free(&arena);
    }
    buf_str(b, "</table>");
    if (shown < end - first) buf_printf(b, "<p class=\"soft\">The first %u of %u are shown; all are in trajectory.jsonl.</p>", shown, end - first);
    buf_str(b, "</div></details>");
    buf_free(&line);
    arena_free(&arena);
    return code;
}

/* The first prompt that a model was asked on a floor, as a sample. */
static int put_sample(struct page *g, uint32_t first, uint32_t end) {
    struct buf line = {0};
    struct arena arena = {0};
    int code = 0;
    for (uint32_t i = first; i < end && !code; i++) {
        const struct dash_row *r = run_player_row(g->player, i);
        if (!r->prompt_tokens || !r->floor || r->step < 10) continue;
        if ((code = run_player_line(g->player, i, &line, g->err))) break;
        const struct json *j = json_parse(line.data, line.len, "step", &arena, g->err);
        if (!j) break;
        buf_printf(g->out, "<details><summary>A prompt and its answer (step %u)</summary>", r->step);
        element(g->out, "<pre>", json_as_string(json_get(j, "prompt"), ""), "</pre>");
        element(g->out, "<pre>", json_as_string(json_get(j, "answer"), ""), "</pre></details>");
        break;
    }
    buf_free(&line);
    arena_free(&arena);
    return code;
}

static void put_deciders(struct buf *b, const struct dash_row *rows, uint32_t count) {
    struct { const char *name; uint32_t n; } who[16];
    int kinds = 0;
    for (uint32_t i = 0; i < count; i++) {
        int k = 0;
        while (k < kinds && strcmp(who[k].name, rows[i].decided_by)) k++;
        if (k == 16) continue;
        if (k == kinds) who[kinds].name = rows[i].decided_by, who[kinds++].n = 0;
        who[k].n++;
    }
    buf_str(b, "<p>Decided by ");
    for (int k = 0; k < kinds; k++) {
        if (k) buf_str(b, ", ");
        html_text(b, who[k].name);
        buf_printf(b, " %u", who[k].n);
    }
    buf_str(b, ".</p>");
}

static int put_episode(struct page *g, const struct run_episode *e, uint32_t first, uint32_t end) {
    struct buf *b = g->out;
    const struct dash_row *rows = run_player_row(g->player, first);
    char outcome[64] = "no end on record";
    if (e->ended) spell_action(e->outcome, outcome, sizeof outcome);
    buf_printf(b, "<h2>Episode %d, seed %u: ", e->number, e->seed);
    html_text(b, outcome);
    buf_str(b, "</h2>");
    if (e->ended && *e->cause) element(b, "<p>", e->cause, "</p>");
    put_deciders(b, rows, end - first);
    buf_str(b, "<h3>HP and belly</h3><div class=\"card\">");
    plot_life(b, rows, end - first);
    buf_str(b, "</div>");
    int code = put_key_frames(g, first, end, e);
    if (!code && run_player_has_game(g->player)) code = put_floors(g, first, end);
    buf_str(b, "<h3>Where the time goes</h3><div class=\"card\">");
    plot_split(b, rows, end - first);
    plot_times(b, rows, end - first);
    buf_str(b, "</div>");
    if (!code) code = put_sample(g, first, end);
    return code ? code : put_decisions(g, first, end);
}

int report_page(struct run_player *p, const struct report_options *o, const char *film, struct buf *out, struct err *err) {
    struct page g = {p, o, out, err};
    const struct run_episode *episodes;
    int count = run_reader_episodes(run_player_reader(p), &episodes), code = 0;
    uint32_t n = run_player_steps(p), shown = 0;
    put_head(&g, film);
    put_episode_table(&g);
    for (uint32_t first = 0, end; first < n && !code && shown < o->episodes; first = end, shown++) {
        uint32_t number = run_player_row(p, first)->episode;
        for (end = first + 1; end < n && run_player_row(p, end)->episode == number;) end++;
        if (number >= 1 && number <= (uint32_t)count) code = put_episode(&g, &episodes[number - 1], first, end);
    }
    if ((int)shown < count) buf_printf(out, "<p class=\"soft\">Shown in full: the first %u of %d episodes.</p>", shown, count);
    if (!run_player_has_game(p)) buf_str(out, "<p class=\"soft\">Made without the emulator: key frames as recorded, no maps.</p>");
    buf_str(out, "<p class=\"soft\">Made by pmd-agent report from the record alone; every figure above was measured in this run.</p></main></body></html>\n");
    return code ? code : out->failed ? err_set(err, ERR_MEMORY, "out of memory for the report") : 0;
}
