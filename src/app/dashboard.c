#include "app/dashboard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/file.h"
#include "record/run.h"
#include "serve/api.h"

enum { DRAIN_SECONDS = 10 }; /* for requests under way when the games are over */
enum { KEY_FRAME_BYTES = 256 << 10 };

static const double WORLD_SECONDS = 0.15;

struct player { /* one game */
    struct dashboard *board;
    int number, episode;
    struct control *control;
    bool pieces; /* the answer under way comes token by token */
    /* The map while something is done: as observed, then kept up to date here. Nothing that is decided on. */
    struct world world;
    struct world_seen seen;
    double world_due;
    uint8_t rgb[FRAME_PIXELS * 3];
};

struct dashboard {
    struct dash *dash;
    struct qvl_model *model;
    struct api *api; /* NULL: the model is not offered to others */
    int games;
    struct player players[];
};

/* ---- what the page asks for: service thread ---- */

static void on_pause(void *user, bool paused) {
    struct dashboard *d = user;
    for (int i = 0; i < d->games; i++) control_pause(d->players[i].control, paused);
}

static void on_step(void *user) {
    struct dashboard *d = user;
    for (int i = 0; i < d->games; i++) control_step(d->players[i].control);
}

static void on_speed(void *user, double times) {
    struct dashboard *d = user;
    for (int i = 0; i < d->games; i++) control_speed(d->players[i].control, times);
}

static void on_take_over(void *user, int game, bool on) { control_take_over(((struct dashboard *)user)->players[game].control, on); }
static void on_keys(void *user, int game, uint32_t keys) { control_keys(((struct dashboard *)user)->players[game].control, keys); }
static void on_note(void *user, int game, const char *text) { control_note(((struct dashboard *)user)->players[game].control, text); }

/* Each level is asked for what the one above did not have. */
static void put_engine(struct qvl_model *model, struct buf *out) {
    struct qvl_stats q;
    struct qvl_info info;
    qvl_model_stats(model, &q);
    qvl_model_info(model, &info);
    long long device = q.prefix_hit_tokens - q.host_hit_tokens - q.disk_hit_tokens, host = q.host_hit_tokens, disk = q.disk_hit_tokens, miss = q.prefix_miss_tokens;
    buf_printf(out, ",\"cache\":{\"prefix_hit_tokens\":%lld,\"prefix_miss_tokens\":%lld,\"prefix_evictions\":%lld,\"images_encoded\":%lld,\"images_reused\":%lld,"
               "\"pages_used\":%d,\"pages_total\":%d,\"page_tokens\":%d,\"levels\":[{\"name\":\"prompt pages, device\",\"hits\":%lld,\"misses\":%lld}",
               (long long)q.prefix_hit_tokens, miss, (long long)q.prefix_evictions, (long long)q.images_encoded, (long long)q.images_reused, q.pages_used,
               q.pages_total, q.page_tokens, device, host + disk + miss);
    if (q.host_pages || host) buf_printf(out, ",{\"name\":\"prompt pages, host memory\",\"hits\":%lld,\"misses\":%lld}", host, disk + miss);
    if (q.disk_files || disk) buf_printf(out, ",{\"name\":\"prompt pages, disk\",\"hits\":%lld,\"misses\":%lld}", disk, miss);
    buf_printf(out, "]},\"memory\":{\"weights\":%zu,\"engine\":%zu,\"images\":%zu,\"host_pages\":%zu,\"disk_pages\":%llu}", info.weight_bytes, info.memory_bytes,
               q.image_cache_bytes, q.host_bytes, (unsigned long long)q.disk_bytes);
}

static void on_status(void *user, struct buf *out) {
    struct dashboard *d = user;
    struct control_state s;
    control_read(d->players[0].control, &s);
    buf_printf(out, "\"paused\":%s,\"speed\":%g,\"control\":[", s.paused ? "true" : "false", s.speed);
    for (int i = 0; i < d->games; i++) {
        control_read(d->players[i].control, &s);
        buf_printf(out, "%s{\"human\":%s,\"note\":", i ? "," : "", s.human ? "true" : "false");
        buf_json_string(out, s.note, strlen(s.note));
        buf_char(out, '}');
    }
    buf_char(out, ']');
    if (d->model) put_engine(d->model, out);
}

/* ---- what the agent publishes: the game's thread ---- */

static void on_begun(void *user, uint32_t seed, struct emulator *e) {
    struct player *p = user;
    char details[64];
    (void)e;
    p->episode++;
    snprintf(details, sizeof details, "{\"episode\":%d,\"seed\":%u}", p->episode, seed);
    dash_episode(p->board->dash, p->number, "begun", details);
}

static void on_observed(void *user, const struct step *s) {
    struct player *p = user;
    if (dash_looks(p->board->dash, p->number) < 2) return;
    p->seen = *s->seen;
    p->world_due = 0;
    dash_world(p->board->dash, p->number, s->world, s->seen);
}

static void show_world(struct player *p, struct emulator *e) {
    double now = clock_seconds();
    if (now < p->world_due) return;
    if (p->world_due > 0) {
        struct memory_view memory;
        const struct rom_header *header = emulator_header(e);
        emulator_memory(e, &memory);
        world_decode(&memory, header->title, header->code, &p->world);
        world_seen_update(&p->seen, &p->world);
        dash_world(p->board->dash, p->number, &p->world, &p->seen);
    }
    p->world_due = now + WORLD_SECONDS;
}

static void on_acted(void *user, struct emulator *e) {
    struct player *p = user;
    int looks = dash_looks(p->board->dash, p->number);
    control_draw(p->control, looks > 0);
    uint64_t frame = looks ? emulator_frame(e, p->rgb) : 0;
    if (frame) dash_picture(p->board->dash, p->number, p->rgb, frame);
    if (looks == 2) show_world(p, e);
}

static void on_token(void *user, const char *text, size_t n) {
    struct player *p = user;
    if (!p->pieces) dash_token(p->board->dash, p->number, text, n, -1, false);
}

static void on_piece(void *user, const char *text, size_t n, float probability, bool forced) {
    struct player *p = user;
    p->pieces = true;
    dash_token(p->board->dash, p->number, text, n, probability, forced);
}

static void put_plan(struct buf *b, const struct plan *plan) {
    buf_str(b, "{\"skill\":");
    buf_json_string(b, plan->skill, strlen(plan->skill));
    buf_printf(b, ",\"goal\":[%d,%d],\"path\":[", plan->goal.x, plan->goal.y);
    for (int i = 0; i < plan->count && i < MAX_PLAN; i++) buf_printf(b, i ? ",[%d,%d]" : "[%d,%d]", plan->path[i].x, plan->path[i].y);
    buf_str(b, "]}");
}

static void on_planned(void *user, const struct plan *plan) {
    struct player *p = user;
    if (!dash_looks(p->board->dash, p->number)) return;
    struct buf b = {0};
    put_plan(&b, plan);
    if (!b.failed) dash_episode(p->board->dash, p->number, "planned", b.data);
    buf_free(&b);
}

static void take_row(const struct step *s, int episode, struct dash_row *row) {
    const struct world *w = s->seen ? &s->seen->now : s->world;
    *row = (struct dash_row){.episode = (uint32_t)episode, .step = s->number, .confidence = s->confidence, .total_ms = (float)s->total_ms,
                             .ask_ms = (float)s->ask_ms, .image_ms = (float)s->image_ms, .prefill_ms = (float)s->prefill_ms,
                             .generate_ms = (float)s->generate_ms, .emulator_ms = (float)s->emulator_ms, .prompt_tokens = s->prompt_token_count,
                             .cached_tokens = (int32_t)s->cached_tokens, .answer_tokens = s->answer_token_count};
    if (w) row->floor = (int16_t)w->floor;
    if (w && w->leader >= 0 && w->leader < w->team_count) {
        const struct monster *m = &w->team[w->leader];
        row->hp = m->hp, row->max_hp = m->max_hp, row->belly = (int16_t)m->belly;
    }
    snprintf(row->decided_by, sizeof row->decided_by, "%s", decided_by_name[s->decided_by]);
    snprintf(row->action, sizeof row->action, "%s", s->action ? s->action : "");
}

/* The picture of a memory, where one was kept and still is. */
static void put_picture(struct buf *b, const char *path) {
    struct buf png = {0};
    if (*path && !file_read(path, KEY_FRAME_BYTES, &png, NULL)) {
        buf_str(b, ",\"picture\":\"data:image/png;base64,");
        base64_encode(png.data, png.len, b);
        buf_char(b, '"');
    }
    buf_free(&png);
}

/* What the step's line does not say: it would be the same on every line, or is told by others. */
static void put_more(struct buf *b, const struct step *s) {
    if (s->system) buf_str(b, ",\"system\":"), buf_json_string(b, s->system, strlen(s->system));
    if (s->plan) buf_str(b, ",\"plan\":"), put_plan(b, s->plan);
    int count = s->recalled ? s->recalled->count : 0;
    for (int i = 0; i < count && i < MEMORY_LINES; i++) {
        const struct memory_line *l = &s->recalled->lines[i];
        buf_str(b, i ? ",{\"text\":" : ",\"memory\":[{\"text\":");
        buf_json_string(b, l->text, strlen(l->text));
        buf_str(b, ",\"from\":");
        buf_json_string(b, l->from, strlen(l->from));
        if (l->similarity > 0) buf_printf(b, ",\"similarity\":%.3f", (double)l->similarity);
        put_picture(b, l->picture);
        buf_char(b, '}');
    }
    if (count > 0) buf_char(b, ']');
    buf_char(b, '}');
}

static void on_step_done(void *user, const struct step *s) {
    struct player *p = user;
    struct dash_row row;
    struct buf line = {0};
    p->pieces = false;
    take_row(s, p->episode, &row);
    run_step_json(&line, p->episode, s);
    if (!line.failed) line.len--, put_more(&line, s); /* inside its last brace */
    if (!line.failed) dash_step(p->board->dash, p->number, &row, line.data, s->world, s->seen, s->frame);
    buf_free(&line);
}

static void on_done(void *user, const struct episode_result *r) {
    struct player *p = user;
    struct buf b = {0};
    buf_printf(&b, "{\"seed\":%u,\"outcome\":\"%s\",\"floor\":%d,\"turns\":%d,\"decisions\":%d,\"cause\":", r->seed, outcome_name[r->outcome], r->floor_reached,
               r->turns, r->decisions);
    buf_json_string(&b, r->cause, strlen(r->cause));
    buf_char(&b, '}');
    if (!b.failed) dash_episode(p->board->dash, p->number, "done", b.data);
    buf_free(&b);
}

struct agent_events dashboard_events(struct dashboard *d, int game) {
    return (struct agent_events){.user = &d->players[game], .episode_begun = on_begun, .observed = on_observed, .token = on_token, .piece = on_piece, .planned = on_planned, .acted = on_acted,
                                 .step_done = on_step_done, .episode_done = on_done};
}

bool dashboard_looks(const struct dashboard *d, int game) { return dash_looks(d->dash, game) > 0; }

/* ---- opening and closing ---- */

int dashboard_open(const struct dashboard_options *o, struct dashboard **out, struct err *err) {
    *out = NULL;
    if (o->games > DASH_GAMES) return err_set(err, ERR_LIMIT, "the dashboard shows at most %d games, not %d", DASH_GAMES, o->games);
    struct dashboard *d = calloc(1, sizeof *d + (size_t)o->games * sizeof *d->players);
    if (!d) return err_set(err, ERR_MEMORY, "out of memory for the dashboard");
    d->model = o->model;
    for (; d->games < o->games; d->games++) d->players[d->games] = (struct player){.board = d, .number = d->games, .control = o->controls[d->games]};
    struct dash_options dash = {.port = o->port, .port_tries = o->port_tries, .shared = o->serves, .games = o->games, .title = o->title, .about = o->about,
                                .commands = {.user = d, .pause = on_pause, .step = on_step, .speed = on_speed, .take_over = on_take_over,
                                             .keys = on_keys, .note = o->notes ? on_note : NULL, .status = on_status}};
    int code = dash_open(&dash, &d->dash, err);
    if (code) {
        dashboard_close(d);
        return code;
    }
    *out = d;
    return 0;
}

void dashboard_close(struct dashboard *d) {
    if (!d) return;
    if (d->api) api_drain(d->api, DRAIN_SECONDS);
    api_stop(d->api);
    dash_close(d->dash);
    api_free(d->api);
    free(d);
}

int dashboard_serve(struct dashboard *d, const char *model_name, struct err *err) {
    if (!d->model) return err_set(err, ERR_ARGUMENT, "--serve offers the model that plays, and in this process none does");
    int code = api_start(dash_server(d->dash), &(struct api_options){.model_name = model_name}, &d->api, err);
    if (!code) api_ready(d->api, d->model);
    return code;
}

const char *dashboard_url(const struct dashboard *d) { return dash_url(d->dash); }
