/* The dashboard's server side: the page, pictures, steps, commands, and clients that mean no good. */
#include "test.h"

#include <stdatomic.h>
#include <zlib.h>

#include "base/arena.h"
#include "base/json.h"
#include "emulator/emulator.h"
#include "serve/dash_room.h"
#include "ws_client.h"

/* What the commands were called with. */
struct asked {
    atomic_int pauses, resumes, steps, taken, handed_back, game, keys, seek, notes;
    _Atomic double speed;
    char note[400];
};
static void on_pause(void *u, bool paused) { atomic_fetch_add(paused ? &((struct asked *)u)->pauses : &((struct asked *)u)->resumes, 1); }
static void on_step(void *u) { atomic_fetch_add(&((struct asked *)u)->steps, 1); }
static void on_speed(void *u, double times) { ((struct asked *)u)->speed = times; }
static void on_take(void *u, int game, bool on) {
    struct asked *a = u;
    a->game = game;
    atomic_fetch_add(on ? &a->taken : &a->handed_back, 1);
}
static void on_keys(void *u, int game, uint32_t keys) {
    struct asked *a = u;
    a->game = game;
    a->keys = (int)keys;
}
static void on_note(void *u, int game, const char *text) {
    struct asked *a = u;
    (void)game;
    snprintf(a->note, sizeof a->note, "%s", text);
    atomic_fetch_add(&a->notes, 1);
}
static void on_seek(void *u, int game, uint32_t index) { ((struct asked *)u)->seek = (int)index + game; }
static void on_status(void *u, struct buf *out) { (void)u, buf_str(out, "\"paused\":false,\"speed\":2"); }

static struct dash *open_dash(struct asked *a, int games) {
    struct dash *d;
    struct err err = {0};
    struct dash_options o = {.any_port = true, .games = games, .title = "a \"title\"", .about = "{\"run\":\"runs/x\"}"};
    if (a) o.commands = (struct dash_commands){a, on_pause, on_step, on_speed, on_take, on_keys, on_note, on_seek, on_status};
    if (dash_open(&o, &d, &err)) fail_msg("%s", err.message);
    return d;
}
static int port_of(const struct dash *d) { return atoi(strrchr(dash_url(d), ':') + 1); }

static void say(int fd, const char *text) { ws_send(fd, false, text, strlen(text)); }

/* The next text message of this type; the others are left out. */
static const struct json *wait_for(int fd, const char *type, struct buf *text, struct arena *a) {
    for (;;) {
        int op = ws_receive(fd, text);
        if (op < 0) fail_msg("no message of type %s came", type);
        if (op != 1) continue;
        struct err err = {0};
        const struct json *j = json_parse(text->data, text->len, "message", a, &err);
        if (!j) fail_msg("%s in %s", err.message, text->data);
        if (!strcmp(json_as_string(json_get(j, "type"), ""), type)) return j;
    }
}

/* What a refused command was refused with. */
static void expect_refusal(int fd, const char *message, const char *why) {
    struct buf text = {0};
    struct arena a = {0};
    say(fd, message);
    const char *said = json_as_string(json_get(wait_for(fd, "refused", &text, &a), "why"), "");
    if (!strstr(said, why)) fail_msg("%s: refused with \"%s\", expected \"%s\"", message, said, why);
    buf_free(&text);
    arena_free(&a);
}

static void wait_until(const atomic_int *value, int wanted) {
    for (int i = 0; i < 500 && *value != wanted; i++) usleep(10000);
    assert_int_equal(*value, wanted);
}

static void inflate_to(const void *data, size_t n, int bits, uint8_t *out, size_t cap, size_t *got) {
    z_stream z = {.next_in = (Bytef *)data, .avail_in = (uInt)n, .next_out = out, .avail_out = (uInt)cap};
    assert_int_equal(inflateInit2(&z, bits), Z_OK);
    assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
    *got = z.total_out;
    inflateEnd(&z);
}

static struct dash_row some_row(void) {
    struct dash_row row = {.episode = 1, .step = 1, .floor = 2, .hp = 30, .max_hp = 34, .belly = 60, .confidence = 0.5f};
    strcpy(row.decided_by, "model");
    strcpy(row.action, "walk_north");
    return row;
}

static void the_page_is_whole_small_and_closed(void **state) {
    (void)state;
    struct dash *d = open_dash(NULL, 1);
    size_t total = 0;
    for (int i = 0; i < dash_asset_count; i++) {
        struct buf head = {0}, body = {0}, nothing = {0};
        static uint8_t plain[1 << 20];
        size_t n;
        assert_int_equal(http_get(port_of(d), dash_assets[i].path, "", &head, &body), 200);
        buf_char(&head, 0);
        total += body.len + head.len;
        inflate_to(body.data, body.len, 31, plain, sizeof plain - 1, &n);
        plain[n] = 0;
        assert_true(n > 100);
        assert_non_null(strstr(head.data, "content-security-policy: default-src 'none'; script-src 'self'"));
        /* No other host, and nothing that would read text as markup. */
        static const char *const bad[] = {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://", "new Function"};
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            if (strstr((char *)plain, bad[k])) fail_msg("%s holds %s", dash_assets[i].path, bad[k]);
        }
        char *etag = strstr(head.data, "etag: \""), again[80];
        assert_non_null(etag);
        snprintf(again, sizeof again, "If-None-Match: %.*s\r\n", (int)strcspn(etag + 6, "\r"), etag + 6);
        assert_int_equal(http_get(port_of(d), dash_assets[i].path, again, NULL, &nothing), 304);
        assert_int_equal(nothing.len, 0);
        buf_free(&head);
        buf_free(&body);
        buf_free(&nothing);
    }
    assert_true(total <= 200 * 1024);
    assert_int_equal(http_get(port_of(d), "/../etc/passwd", "", NULL, NULL), 404);
    dash_close(d);
}

static void a_taken_port_gives_the_next(void **state) {
    (void)state;
    struct dash *a = open_dash(NULL, 1), *b, *none;
    struct err err = {0};
    int port = port_of(a);
    struct dash_options next = {.port = port, .port_tries = 20}, only = {.port = port};
    assert_int_equal(dash_open(&next, &b, &err), 0);
    assert_true(port_of(b) > port && port_of(b) < port + 20);
    assert_int_not_equal(dash_open(&only, &none, &err), 0);
    assert_null(none);
    char number[16];
    snprintf(number, sizeof number, "%d", port);
    assert_non_null(strstr(err.message, number));
    dash_close(a);
    dash_close(b);
}

static void pictures_come_back_bit_for_bit(void **state) {
    (void)state;
    static uint8_t rgb[FRAME_PIXELS * 3], raw[3 * 256 + FRAME_PIXELS * 3];
    for (int kind = 1; kind <= 2; kind++) {
        struct buf packed = {0};
        for (int i = 0; i < FRAME_PIXELS * 3; i++) rgb[i] = (uint8_t)(kind == 1 ? (i / 3 * 7) % 200 : rand());
        dash_pack_picture(rgb, 3, 0x12345678, &packed);
        const uint8_t *p = (const uint8_t *)packed.data;
        assert_int_equal(p[0], kind);
        assert_int_equal(p[1], 3);
        assert_int_equal(p[4] | p[5] << 8 | p[6] << 16 | p[7] << 24, 0x12345678);
        size_t n, colours = (size_t)(p[2] | p[3] << 8);
        inflate_to(p + 8, packed.len - 8, 15, raw, sizeof raw, &n);
        assert_int_equal(n, kind == 1 ? 3 * colours + FRAME_PIXELS : FRAME_PIXELS * 3);
        for (int i = 0; i < FRAME_PIXELS; i++) {
            assert_memory_equal(rgb + 3 * i, kind == 1 ? raw + 3 * raw[3 * colours + (size_t)i] : raw + 3 * i, 3);
        }
        buf_free(&packed);
    }
}

static void who_looks_is_greeted_and_shown(void **state) {
    (void)state;
    struct asked asked = {0};
    struct dash *d = open_dash(&asked, 1);
    static uint8_t rgb[FRAME_PIXELS * 3];
    struct buf text = {0};
    struct arena a = {0};
    assert_int_equal(dash_looks(d, 0), 0);
    dash_picture(d, 0, rgb, 7);
    assert_int_equal(d->games[0].sent, 0); /* nobody looks: nothing is packed */
    int fd = ws_open(port_of(d), "/live");
    const struct json *m = wait_for(fd, "hello", &text, &a);
    assert_string_equal(json_as_string(json_get(m, "title"), ""), "a \"title\"");
    assert_int_equal(json_get(m, "can")->count, 6);
    assert_string_equal(json_as_string(json_get(json_get(m, "about"), "run"), ""), "runs/x");
    wait_for(fd, "status", &text, &a);
    assert_int_equal(dash_looks(d, 0), 2);
    rgb[0] = 9;
    dash_picture(d, 0, rgb, 8);
    assert_int_equal(ws_receive(fd, &text), 2);
    assert_int_equal(text.data[0], 1);
    usleep(20000);
    dash_picture(d, 0, rgb, 9);
    assert_int_equal(ws_receive(fd, &text), 2);
    assert_int_equal(text.len, 8); /* as before */
    struct dash_row row = some_row();
    dash_step(d, 0, &row, "{\"episode\":1,\"step\":1,\"action\":\"walk_north\"}", NULL, NULL, rgb);
    m = wait_for(fd, "step", &text, &a);
    assert_int_equal(json_as_integer(json_get(m, "index"), -1), 0);
    assert_string_equal(json_as_string(json_get(m, "action"), ""), "walk_north");
    say(fd, "{\"do\":\"watch\",\"game\":-2}"); /* the page is hidden */
    for (int i = 0; i < 200 && dash_looks(d, 0); i++) usleep(10000);
    assert_int_equal(dash_looks(d, 0), 0);
    close(fd);
    buf_free(&text);
    arena_free(&a);
    dash_close(d);
}

static void commands_reach_the_source(void **state) {
    (void)state;
    struct asked asked = {0};
    struct dash *d = open_dash(&asked, 1);
    struct dash_row row = some_row();
    dash_add_row(d, 0, &row);
    int fd = ws_open(port_of(d), "/live"), other = ws_open(port_of(d), "/live");
    say(fd, "{\"do\":\"pause\"}");
    wait_until(&asked.pauses, 1);
    say(fd, "{\"do\":\"resume\"}");
    wait_until(&asked.resumes, 1);
    say(fd, "{\"do\":\"step\"}");
    wait_until(&asked.steps, 1);
    say(fd, "{\"do\":\"seek\",\"index\":0}");
    expect_refusal(fd, "{\"do\":\"keys\",\"keys\":1}", "take over first");
    say(fd, "{\"do\":\"take_over\",\"on\":true}");
    wait_until(&asked.taken, 1);
    expect_refusal(other, "{\"do\":\"take_over\",\"on\":true}", "somebody else");
    expect_refusal(other, "{\"do\":\"take_over\",\"on\":false}", "not yours");
    expect_refusal(other, "{\"do\":\"keys\",\"keys\":1}", "take over first");
    say(fd, "{\"do\":\"keys\",\"keys\":65}");
    wait_until(&asked.keys, 65);
    say(fd, "{\"do\":\"speed\",\"times\":0.5}");
    say(fd, "{\"do\":\"note\",\"text\":\"go\\nnorth \\u001b[2J now\"}");
    wait_until(&asked.notes, 1);
    assert_true(asked.speed == 0.5);
    assert_string_equal(asked.note, "go north  [2J now"); /* one line, no control characters */
    close(fd); /* whoever drives and leaves hands back */
    wait_until(&asked.handed_back, 1);
    wait_until(&asked.keys, 0);
    say(other, "{\"do\":\"take_over\",\"on\":true}");
    wait_until(&asked.taken, 2);
    close(other);
    dash_close(d);
}

static void hostile_messages_change_nothing(void **state) {
    (void)state;
    struct asked asked = {.seek = -5};
    struct dash *d = open_dash(&asked, 1);
    struct buf deep = {0};
    int fd = ws_open(port_of(d), "/live");
    for (int i = 0; i < 2000; i++) buf_char(&deep, '[');
    static const struct { const char *message, *why; } list[] = {
        {"", "message"}, {"{", "message"}, {"[]", "do"}, {"\"pause\"", "do"}, {"{\"do\":7}", "do"}, {"{\"do\":\"reboot\"}", "no such command"},
        {"{\"do\":\"speed\",\"times\":1e999}", "number"}, {"{\"do\":\"speed\",\"times\":-1}", "speed"}, {"{\"do\":\"speed\",\"times\":\"fast\"}", "speed"},
        {"{\"do\":\"keys\",\"keys\":99999999999999999999}", "take over"}, {"{\"do\":\"take_over\",\"on\":\"yes\"}", "true or false"},
        {"{\"do\":\"take_over\"}", "true or false"}, {"{\"do\":\"watch\",\"game\":1}", "not among"}, {"{\"do\":\"watch\",\"game\":-3}", "not among"},
        {"{\"do\":\"watch\",\"game\":4294967296}", "not among"}, {"{\"do\":\"seek\",\"index\":0}", "no such step"}, {"{\"do\":\"seek\",\"index\":-1}", "no such step"},
        {"{\"do\":\"note\",\"text\":[1]}", "string"}, {"{\"do\":\"note\"}", "string"}, {"{\"do\":\"step\",\"do\":\"pause\"}", "message"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) expect_refusal(fd, list[i].message, list[i].why);
    expect_refusal(fd, deep.data, "message");
    struct buf note = {0};
    buf_str(&note, "{\"do\":\"note\",\"text\":\"");
    for (int i = 0; i < 301; i++) buf_char(&note, 'x');
    buf_str(&note, "\"}");
    expect_refusal(fd, note.data, "at most 300");
    ws_send(fd, true, "\0\1\2", 3);
    struct buf text = {0};
    struct arena a = {0};
    assert_string_equal(json_as_string(json_get(wait_for(fd, "refused", &text, &a), "why"), ""), "messages are text");
    assert_int_equal(asked.pauses + asked.resumes + asked.steps + asked.taken + asked.handed_back + asked.notes + asked.keys, 0);
    assert_int_equal(asked.seek, -5);
    buf_clear(&deep);
    for (int i = 0; i < 5000; i++) buf_char(&deep, ' '); /* longer than a message may be: the connection ends, the server does not */
    ws_send(fd, false, deep.data, deep.len);
    for (int op = 0; op >= 0 && op != 8;) op = ws_receive(fd, &text);
    close(fd);
    fd = ws_open(port_of(d), "/live");
    wait_for(fd, "hello", &text, &a);
    close(fd);
    buf_free(&text);
    buf_free(&deep);
    buf_free(&note);
    arena_free(&a);
    dash_close(d);
}

static void hostile_text_stays_text(void **state) {
    (void)state;
    struct buf b = {0};
    struct arena a = {0};
    static struct world w;
    w = (struct world){.leader = -1, .floor_live = true, .floor = 1, .stairs = {-1, -1}, .log_count = 1};
    strcpy(w.log[0], "</script><img src=x onerror=alert(1)> \xff\xfe \"quoted\" \x01");
    dash_put_step(&b, 0, 5, "{\"reason\":\"\\u003cb\\u003e\",\"chain\":\"x\"}\n", &w, NULL);
    struct err err = {0};
    const struct json *m = json_parse(b.data, b.len, "step", &a, &err);
    if (!m) fail_msg("%s", err.message);
    const struct json *log = json_get(json_get(m, "world"), "log");
    assert_non_null(strstr(log->items[0]->string, "</script><img src=x onerror=alert(1)>"));
    assert_string_equal(json_as_string(json_get(m, "reason"), ""), "<b>");
    assert_int_equal(json_get(json_get(m, "world"), "ground")->count, MAP_WIDTH * MAP_HEIGHT);
    buf_free(&b);
    arena_free(&a);
}

static void history_is_kept_within_bounds(void **state) {
    (void)state;
    struct dash *d = open_dash(NULL, 2);
    static uint8_t rgb[FRAME_PIXELS * 3];
    struct buf body = {0};
    struct arena a = {0};
    int port = port_of(d);
    assert_int_equal(http_get(port, "/api/step?game=0&index=0", "", NULL, NULL), 404);
    for (uint32_t i = 1; i <= DASH_KEPT + 8; i++) {
        struct dash_row row = some_row();
        char json[40];
        row.step = i;
        snprintf(json, sizeof json, "{\"step\":%u}", i);
        dash_step(d, 1, &row, json, NULL, NULL, rgb);
    }
    assert_int_equal(http_get(port, "/api/history?game=1&from=10", "", NULL, &body), 200);
    const struct json *m = json_parse(body.data, body.len, "history", &a, NULL);
    assert_int_equal(json_as_integer(json_get(m, "count"), 0), DASH_KEPT + 8);
    assert_int_equal(json_get(m, "rows")->count, DASH_KEPT - 2);
    assert_int_equal(json_get(m, "columns")->count, json_get(m, "rows")->items[0]->count);
    buf_clear(&body);
    assert_int_equal(http_get(port, "/api/step?game=1&index=519", "", NULL, &body), 200);
    assert_int_equal(json_as_integer(json_get(json_parse(body.data, body.len, "step", &a, NULL), "step"), 0), 520);
    assert_int_equal(http_get(port, "/api/picture?game=1&index=519", "", NULL, NULL), 200);
    assert_int_equal(http_get(port, "/api/step?game=1&index=3", "", NULL, NULL), 404); /* no longer kept */
    static const char *const bad[] = {"/api/step?game=1&index=520", "/api/step?game=2&index=0", "/api/step?game=1", "/api/step?game=1&index=-1",
                                      "/api/step?game=x&index=1", "/api/history?game=1&from=99999999999999999999", "/api/picture?game=-1&index=0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(http_get(port, bad[i], "", NULL, NULL), 400);
    buf_free(&body);
    arena_free(&a);
    dash_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_is_whole_small_and_closed), cmocka_unit_test(a_taken_port_gives_the_next),
        cmocka_unit_test(pictures_come_back_bit_for_bit),     cmocka_unit_test(who_looks_is_greeted_and_shown),
        cmocka_unit_test(commands_reach_the_source),          cmocka_unit_test(hostile_messages_change_nothing),
        cmocka_unit_test(hostile_text_stays_text),            cmocka_unit_test(history_is_kept_within_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
