/* The remote emulator against mGBA's own script host: the same game bit for bit, connections that break, and peers that lie. */
#include "test.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>

#include "agent/agent.h"
#include "base/clock.h"
#include "base/file.h"
#include "mgba_script_host.h"

#define ROM "rom/tinywoods/tinywoods.gba"

static struct buf rom;
static struct emulator *local, *far;
static pid_t host;
static int port;

static int connect_host(void) {
    struct err err;
    for (int i = 0; i < 200; i++) { /* until the host has started */
        if (!emulator_connect("127.0.0.1", port, rom.data, rom.len, &far, &err)) return 0;
        nanosleep(&(struct timespec){0, 50 * 1000 * 1000}, NULL);
    }
    fprintf(stderr, "%s\n", err.message);
    return -1;
}

static int setup(void **state) {
    (void)state;
    struct err err = {0};
    port = 20000 + getpid() % 20000;
    if (file_read(ROM, 1 << 25, &rom, &err)) return -1;
    host = host_start(ROM, port);
    if (emulator_open(rom.data, rom.len, NULL, &local, &err)) return fprintf(stderr, "%s\n", err.message), -1;
    return connect_host();
}
static int teardown(void **state) {
    (void)state;
    emulator_close(far);
    emulator_close(local);
    kill(host, SIGKILL);
    waitpid(host, NULL, 0);
    buf_free(&rom);
    return 0;
}

static void assert_alike(const char *when) {
    char a[33], b[33];
    static uint8_t one[FRAME_PIXELS * 3], two[FRAME_PIXELS * 3];
    struct err err = {0};
    if (emulator_failed(far, &err)) fail_msg("%s: %s", when, err.message);
    emulator_state_hash(local, a);
    emulator_state_hash(far, b);
    if (strcmp(a, b)) fail_msg("%s: the memory is %s, there %s", when, a, b);
    assert_int_equal(emulator_frame_number(local), emulator_frame_number(far));
    uint64_t n = emulator_frame(local, one), m = emulator_frame(far, two);
    assert_int_equal(n, m);
    if (n && memcmp(one, two, sizeof one)) fail_msg("%s: the pictures differ", when);
}

static void both(uint32_t keys, int frames, bool draw) {
    emulator_run(local, keys, frames, draw);
    emulator_run(far, keys, frames, draw);
}

static void the_same_game(void **state) {
    (void)state;
    emulator_reset(local), emulator_reset(far);
    assert_alike("reset");
    both(0, 40, true);
    assert_alike("title");
    emulator_write32(local, 0x0203B458, 77), emulator_write32(far, 0x0203B458, 77);
    assert_alike("a word written, before any frame");
    static const uint32_t keys[] = {KEY_START, 0, KEY_A, 0, KEY_RIGHT, KEY_DOWN | KEY_B, KEY_L | KEY_A, 0};
    for (int i = 0; i < 64; i++) {
        both(keys[i % 8], 1 + i % 9, i % 3 == 0);
        assert_alike("playing");
    }
    both(0, 1, true);
    assert_alike("the last picture");
}

static void states_travel(void **state) {
    (void)state;
    struct buf here = {0}, there = {0};
    struct err err = {0};
    both(KEY_A, 20, true);
    if (emulator_state_save(far, &there, &err)) fail_msg("%s", err.message);
    assert_int_equal(emulator_state_save(local, &here, &err), 0);
    both(KEY_LEFT, 30, false);
    if (emulator_state_load(local, there.data, there.len, &err)) fail_msg("%s", err.message); /* each reads what the other wrote */
    if (emulator_state_load(far, here.data, here.len, &err)) fail_msg("%s", err.message);
    both(KEY_A, 10, true);
    assert_alike("after the states");
    assert_int_equal(emulator_state_load(far, "rubbish", 7, &err), ERR_STATE);
    both(0, 10, true);
    assert_alike("after a refused state");
    assert_int_not_equal(emulator_save_cartridge(far, &err), 0);
    buf_free(&here), buf_free(&there);
}

/* ---- the agent does not notice -------------------------------------------------------------------------------------------------- */

static void note_step(void *user, const struct step *s) {
    buf_printf(user, "%u %llu %s %s %s %d\n", s->number, (unsigned long long)s->first_frame, s->frame_hash, s->state_hash, s->action, s->press_count);
}

static double play(struct emulator *e, struct buf *trace) {
    struct agent_events events[] = {{.user = trace, .step_done = note_step}, {0}};
    struct agent_options o = {.policy = POLICY_ORACLE, .max_decisions = 30, .events = events};
    struct agent *a;
    struct err err = {0};
    struct episode_result r;
    double start = clock_seconds();
    assert_int_equal(agent_new(e, &o, &a, &err), 0);
    if (agent_play_episode(a, 5, &r, &err)) fail_msg("%s", err.message);
    agent_free(a);
    return clock_seconds() - start;
}

static void the_agent_plays_the_same(void **state) {
    (void)state;
    struct buf one = {0}, two = {0};
    double here = play(local, &one), there = play(far, &two);
    assert_string_equal(one.data, two.data);
    printf("# 30 decisions: %.2f s in process, %.2f s remote\n", here, there);
    double start = clock_seconds();
    for (int i = 0; i < 100; i++) emulator_run(far, 0, 1, true);
    printf("# %.2f ms a round trip of one frame, picture and changed memory\n", (clock_seconds() - start) * 10);
    emulator_run(local, 0, 100, true);
    buf_free(&one), buf_free(&two);
}

/* ---- connections that break ----------------------------------------------------------------------------------------------------- */

static void reconnects_to_the_same_frame(void **state) {
    (void)state;
    emulator_close(far);
    int fd = dup(0); /* the lowest free number: the socket's */
    close(fd);
    assert_int_equal(connect_host(), 0);
    emulator_reset(local), emulator_reset(far);
    for (int i = 0; i < 5; i++) {
        both(KEY_A, 7, true);
        shutdown(fd, SHUT_RDWR);
        emulator_write32(local, 0x02000100, 99 + (uint32_t)i), emulator_write32(far, 0x02000100, 99 + (uint32_t)i);
        both(KEY_START, 3, true); /* needs a new connection */
        assert_alike("after a broken connection");
    }
    struct buf saved = {0};
    struct err err = {0};
    shutdown(fd, SHUT_RDWR);
    if (emulator_state_save(far, &saved, &err)) fail_msg("%s", err.message);
    assert_true(saved.len > 0x61000);
    buf_free(&saved);
    /* A host that is gone for good is an error, said once and kept; nothing runs any more. */
    kill(host, SIGKILL);
    waitpid(host, NULL, 0);
    uint64_t before = emulator_frame_number(far);
    emulator_run(far, 0, 5, true);
    assert_int_equal(emulator_failed(far, &err), ERR_NETWORK);
    assert_non_null(strstr(err.message, "127.0.0.1"));
    assert_int_equal(emulator_frame_number(far), before);
    assert_int_equal(emulator_state_save(far, &saved, &err), ERR_NETWORK);
    host = host_start(ROM, port);
    emulator_close(far);
    assert_int_equal(connect_host(), 0);
}

static void another_rom(void **state) {
    (void)state;
    struct buf other = {0};
    struct emulator *e;
    struct err err;
    buf_append(&other, rom.data, rom.len);
    other.data[other.len - 1] ^= 1;
    assert_int_equal(emulator_connect("127.0.0.1", port, other.data, other.len, &e, &err), ERR_FORMAT);
    assert_non_null(strstr(err.message, "another ROM"));
    assert_int_equal(emulator_connect("127.0.0.1", 1, rom.data, rom.len, &e, &err), ERR_NETWORK);
    assert_non_null(strstr(err.message, "remote.lua"));
    assert_int_equal(emulator_connect("no such host.invalid", 9, rom.data, rom.len, &e, &err), ERR_NETWORK);
    assert_int_equal(emulator_connect("127.0.0.1", 70000, rom.data, rom.len, &e, &err), ERR_ARGUMENT);
    buf_free(&other);
}

/* ---- peers that lie ------------------------------------------------------------------------------------------------------------- */

struct liar {
    int listener;
    int lie; /* which */
    uint32_t crc;
};
enum { LIES = 11 };

static void number(struct buf *b, uint32_t v, int bytes) {
    for (int i = 0; i < bytes; i++) buf_char(b, (char)(v >> 8 * i));
}

static void lie_about_run(struct buf *b, int lie) {
    struct buf body = {0};
    static const char zeros[8200];
    number(&body, 0, 4); /* frame */
    if (lie == 0) number(&body, 65535, 2);                                             /* pages that do not come */
    if (lie == 1) number(&body, 1, 2), number(&body, 72, 2), buf_append(&body, zeros, 4096), number(&body, 0, 4);   /* beyond the memory */
    if (lie == 2) number(&body, 1, 2), number(&body, 71, 2), buf_append(&body, zeros, 100);   /* half a page */
    if (lie == 3) number(&body, 0, 2), number(&body, 0xFFFFFFFF, 4);                          /* a picture of 4 GiB */
    if (lie == 4) number(&body, 0, 2), number(&body, 8, 4), buf_append(&body, "\x89PNG\r\n\x1a\n", 8); /* none */
    if (lie == 5) body.len = 3;                                                               /* nearly nothing */
    if (lie == 6) number(&body, 0, 2), number(&body, 0, 4), buf_append(&body, zeros, 50);     /* more than it says */
    number(b, (uint32_t)body.len + 5, 4), number(b, 2, 4), buf_char(b, 0), buf_append(b, body.data, body.len);
    buf_free(&body);
}

static void *liar_main(void *user) {
    struct liar *l = user;
    for (;;) { /* connections: they may come again */
        int fd = accept(l->listener, NULL, NULL);
        if (fd < 0) return NULL;
        struct buf b = {0};
        char request[512];
        if (recv(fd, request, sizeof request, 0) > 0) {
            if (l->lie == 7) number(&b, 0xFFFFFFFF, 4), number(&b, 1, 4), buf_char(&b, 0);    /* a reply of 4 GiB */
            else if (l->lie == 8) number(&b, 5, 4), number(&b, 77, 4), buf_char(&b, 0);       /* to another request */
            else if (l->lie == 9) number(&b, 0, 4), number(&b, 1, 4), buf_char(&b, 0);        /* shorter than its head */
            else if (l->lie == 10) number(&b, 20, 4), number(&b, 1, 4), buf_char(&b, 1), buf_append(&b, "\x1b[2Jno\n\xff\x01 way at all", 15);
            else {
                number(&b, 33, 4), number(&b, 1, 4), buf_char(&b, 0);
                number(&b, 1, 4), number(&b, 0, 4), number(&b, l->crc, 4), buf_append(&b, "TWDETINY WOODS  ", 16);
                send(fd, b.data, b.len, MSG_NOSIGNAL);
                buf_clear(&b);
                if (recv(fd, request, sizeof request, 0) > 0) lie_about_run(&b, l->lie);
            }
            if (b.len) send(fd, b.data, b.len, MSG_NOSIGNAL);
        }
        buf_free(&b);
        shutdown(fd, SHUT_WR);
        while (recv(fd, request, sizeof request, 0) > 0) { /* until the other side has gone too */
        }
        close(fd);
    }
}

static void lies_are_refused(void **state) {
    (void)state;
    struct liar l = {.listener = socket(AF_INET, SOCK_STREAM, 0), .crc = emulator_header(local)->crc32};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    assert_int_equal(bind(l.listener, (struct sockaddr *)&a, n) | listen(l.listener, 4) | getsockname(l.listener, (struct sockaddr *)&a, &n), 0);
    pthread_t thread;
    pthread_create(&thread, NULL, liar_main, &l);
    for (l.lie = 0; l.lie < LIES; l.lie++) {
        struct emulator *e = NULL;
        struct err err = {0};
        int code = emulator_connect("127.0.0.1", ntohs(a.sin_port), rom.data, rom.len, &e, &err);
        if (!code && l.lie == 4) { /* a run without a picture asks for none: ask */
            emulator_close(e);
            continue;
        }
        if (!code) fail_msg("lie %d was believed", l.lie);
        assert_int_equal(code, l.lie == 10 ? ERR_STATE : ERR_FORMAT);
        for (const char *c = err.message; *c; c++) assert_in_range((unsigned char)*c, ' ', '~');
    }
    shutdown(l.listener, SHUT_RDWR);
    close(l.listener);
    pthread_join(thread, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_game),
        cmocka_unit_test(states_travel),
        cmocka_unit_test(the_agent_plays_the_same),
        cmocka_unit_test(reconnects_to_the_same_frame),
        cmocka_unit_test(another_rom),
        cmocka_unit_test(lies_are_refused),
    };
    void *lib = dlopen("libmgba.so.0.10", RTLD_LAZY);
    if (!file_exists(ROM) || !lib || !dlsym(lib, "mScriptContextAttachSocket")) {
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) printf("ok %zu # SKIP\n", i + 1);
        fprintf(stderr, "SKIPPED test_emulator_remote: %s\n", file_exists(ROM) ? "libmgba has no script host" : ROM " is missing");
        return 0;
    }
    return cmocka_run_group_tests(tests, setup, teardown);
}
