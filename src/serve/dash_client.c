/* Clients: who looks at what, and what they ask for. Messages of a client are JSON objects {"do": NAME, ...}; one that makes no sense
 * is answered with {"type":"refused","why"} and changes nothing. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/utf8.h"
#include "serve/dash_room.h"

static struct dash_client *find(struct dash *d, uint64_t id) {
    for (int i = 0; i < DASH_CLIENTS; i++) {
        if (d->clients[i].id == id) return &d->clients[i];
    }
    return NULL;
}

static void count_looks(struct dash *d) {
    for (int g = 0; g < d->options.games; g++) {
        int looks = 0;
        for (int i = 0; i < DASH_CLIENTS; i++) {
            const struct dash_client *c = &d->clients[i];
            if (!c->id) continue;
            if (c->game == g) looks = 2;
            else if (c->game == WALL && !looks) looks = 1;
        }
        atomic_store(&d->games[g].looks, looks);
    }
}

void dash_send_lookers(struct dash *d, int game, bool binary, int stream, const void *data, size_t bytes, bool wall_too) {
    for (int i = 0; i < DASH_CLIENTS; i++) {
        const struct dash_client *c = &d->clients[i];
        if (c->id && (c->game == game || (wall_too && c->game == WALL))) http_ws_send(d->live, c->id, binary, stream, data, bytes);
    }
}

static void put_commands(struct buf *b, const struct dash_commands *c) {
    const struct { const char *name; bool there; } list[] = {{"pause", c->pause}, {"step", c->step}, {"speed", c->speed}, {"take_over", c->take_over && c->keys},
                                                             {"note", c->note}, {"seek", c->seek}};
    buf_str(b, ",\"can\":[");
    for (size_t i = 0, n = 0; i < sizeof list / sizeof *list; i++) {
        if (list[i].there) buf_printf(b, "%s\"%s\"", n++ ? "," : "", list[i].name);
    }
    buf_char(b, ']');
}

/* What a client needs to begin: which page this is, what may be asked, and the newest picture and step of each game. */
static void greet(struct dash *d, uint64_t id) {
    struct buf b = {0};
    buf_printf(&b, "{\"type\":\"hello\",\"recorded\":%s,\"games\":%d,\"client\":%llu,\"title\":", d->options.recorded ? "true" : "false", d->options.games, (unsigned long long)id);
    buf_json_string(&b, d->title, strlen(d->title));
    put_commands(&b, &d->options.commands);
    buf_str(&b, ",\"about\":");
    buf_str(&b, d->about ? d->about : "null");
    buf_char(&b, '}');
    if (!b.failed) http_ws_send(d->live, id, false, 0, b.data, b.len);
    buf_clear(&b);
    dash_put_status(d, &b);
    if (!b.failed) http_ws_send(d->live, id, false, 0, b.data, b.len);
    buf_free(&b);
}

static void show_now(struct dash *d, uint64_t id, int game) {
    struct dash_game *g = &d->games[game];
    if (g->last_valid) http_ws_send(d->live, id, true, game + 1, g->packed.data, g->packed.len);
    struct dash_kept *k = g->kept && g->count ? &g->kept[(g->count - 1) % d->kept] : NULL;
    if (!k || !k->json.len || k->index != g->count - 1) return;
    if (!g->last_valid && k->picture.len) http_ws_send(d->live, id, true, game + 1, k->picture.data, k->picture.len);
    http_ws_send(d->live, id, false, STEP_STREAM + game, k->json.data, k->json.len);
}

void dash_client_opened(void *user, uint64_t client, const struct http_request *request) {
    struct dash *d = user;
    (void)request;
    pthread_mutex_lock(&d->lock);
    struct dash_client *c = find(d, 0);
    if (c) {
        *c = (struct dash_client){client, d->options.games > 1 ? WALL : 0};
        count_looks(d);
        greet(d, client);
        for (int g = 0; g < d->options.games; g++) show_now(d, client, g);
    }
    pthread_mutex_unlock(&d->lock);
    if (!c) http_ws_close(d->live, client, 1013);
}

static void hand_back(struct dash *d) {
    const struct dash_commands *c = &d->options.commands;
    d->driver = 0;
    if (c->keys) c->keys(c->user, d->driven, 0);
    if (c->take_over) c->take_over(c->user, d->driven, false);
}

void dash_client_closed(void *user, uint64_t client) {
    struct dash *d = user;
    pthread_mutex_lock(&d->lock);
    struct dash_client *c = find(d, client);
    if (c) *c = (struct dash_client){0};
    count_looks(d);
    bool drove = d->driver == client;
    if (drove) hand_back(d); /* nobody is at the keys: the agent goes on */
    pthread_mutex_unlock(&d->lock);
    if (drove) dash_status(d, true);
}

/* ---- messages; lock held; NULL or why not ---- */

static const char *do_watch(struct dash *d, struct dash_client *c, const struct json *m) {
    int64_t game = json_as_integer(json_get(m, "game"), -100);
    if (game < NOBODY || game >= d->options.games) return "watch: game is not among the games shown";
    c->game = (int)game;
    count_looks(d);
    if (game >= 0) show_now(d, c->id, (int)game);
    return NULL;
}

static const char *do_take_over(struct dash *d, struct dash_client *c, const struct json *m) {
    const struct json *on = json_get(m, "on");
    const struct dash_commands *o = &d->options.commands;
    if (!o->take_over || !o->keys) return "take_over: not offered here";
    if (!on || on->type != JSON_BOOL) return "take_over: on must be true or false";
    if (on->boolean && d->driver && d->driver != c->id) return "take_over: somebody else has the keys";
    if (!on->boolean && d->driver != c->id) return "take_over: the keys are not yours to hand back";
    if (!on->boolean) return hand_back(d), NULL;
    if (c->game < 0) return "take_over: look at one game first";
    if (d->driver) hand_back(d);
    d->driver = c->id;
    d->driven = c->game;
    o->take_over(o->user, c->game, true);
    return NULL;
}

static const char *do_keys(struct dash *d, struct dash_client *c, const struct json *m) {
    int64_t keys = json_as_integer(json_get(m, "keys"), -1);
    if (d->driver != c->id) return "keys: take over first";
    if (keys < 0 || keys > 0x3FF) return "keys: expected a number from 0 to 1023";
    d->options.commands.keys(d->options.commands.user, d->driven, (uint32_t)keys);
    return NULL;
}

static const char *do_speed(struct dash *d, const struct json *m) {
    double times = json_as_number(json_get(m, "times"), -1);
    if (!d->options.commands.speed) return "speed: not offered here";
    if (!isfinite(times) || times < 0 || times > 1000) return "speed: expected a number from 0 to 1000";
    d->options.commands.speed(d->options.commands.user, times);
    return NULL;
}

static const char *do_note(struct dash *d, struct dash_client *c, const struct json *m) {
    const struct json *text = json_get(m, "text");
    if (!d->options.commands.note) return "note: not offered here";
    if (!text || text->type != JSON_STRING) return "note: text must be a string";
    if (c->game < 0) return "note: look at one game first";
    if (text->count > DASH_NOTE) return "note: at most 300 bytes";
    char line[DASH_NOTE + 1];
    for (uint32_t i = 0; i <= text->count; i++) { /* one line: a note must not look like another part of the prompt */
        unsigned char ch = (unsigned char)text->string[i];
        line[i] = i == text->count ? 0 : ch < 32 || ch == 127 ? ' ' : (char)ch;
    }
    d->options.commands.note(d->options.commands.user, c->game, line);
    return NULL;
}

static const char *do_seek(struct dash *d, struct dash_client *c, const struct json *m) {
    int64_t index = json_as_integer(json_get(m, "index"), -1);
    if (!d->options.commands.seek) return "seek: not offered here";
    if (c->game < 0) return "seek: look at one game first";
    if (index < 0 || index >= d->games[c->game].count) return "seek: there is no such step";
    d->options.commands.seek(d->options.commands.user, c->game, (uint32_t)index);
    return NULL;
}

static const char *take(struct dash *d, struct dash_client *c, const struct json *m, bool *changed) {
    const char *what = json_as_string(json_get(m, "do"), NULL);
    const struct dash_commands *o = &d->options.commands;
    if (!what) return "a message is an object with a text \"do\"";
    *changed = strcmp(what, "watch") && strcmp(what, "keys");
    if (!strcmp(what, "watch")) return do_watch(d, c, m);
    if (!strcmp(what, "keys")) return do_keys(d, c, m);
    if (!strcmp(what, "take_over")) return do_take_over(d, c, m);
    if (!strcmp(what, "speed")) return do_speed(d, m);
    if (!strcmp(what, "note")) return do_note(d, c, m);
    if (!strcmp(what, "seek")) return do_seek(d, c, m);
    if (!strcmp(what, "pause") || !strcmp(what, "resume")) {
        if (!o->pause) return "pause: not offered here";
        return o->pause(o->user, *what == 'p'), NULL;
    }
    if (!strcmp(what, "step")) {
        if (!o->step) return "step: not offered here";
        return o->step(o->user), NULL;
    }
    return "do: no such command";
}

static void refuse(struct dash *d, uint64_t client, const char *why) {
    struct buf b = {0};
    buf_str(&b, "{\"type\":\"refused\",\"why\":");
    buf_json_string(&b, why, strlen(why));
    buf_char(&b, '}');
    if (!b.failed) http_ws_send(d->live, client, false, 0, b.data, b.len);
    buf_free(&b);
}

void dash_client_message(void *user, uint64_t client, const char *data, size_t bytes, bool binary) {
    struct dash *d = user;
    struct arena arena = {0};
    struct err err = {0};
    bool changed = false;
    const struct json *m = binary ? NULL : json_parse(data, bytes, "message", &arena, &err);
    pthread_mutex_lock(&d->lock);
    struct dash_client *c = find(d, client);
    const char *why = binary ? "messages are text" : !m ? err.message : c ? take(d, c, m, &changed) : NULL;
    pthread_mutex_unlock(&d->lock);
    if (why) refuse(d, client, why);
    else if (changed) dash_status(d, true);
    arena_free(&arena);
}
