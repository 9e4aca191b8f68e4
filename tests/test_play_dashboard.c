/* `play` with a dashboard and `view`, as processes: what they print, offer and obey, and that they end when told to. */
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "app/commands.h"
#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "ws_client.h"

static char folder[] = "/tmp/pmd-test-board-XXXXXX", run[64], out_path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(run, sizeof run, "%s/run", folder);
    snprintf(out_path, sizeof out_path, "%s/out", folder);
    return 0;
}
static int remove_folder(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

/* A sub-command in a process of its own; what it says goes to out_path. argv ends with NULL. */
static pid_t start(int (*command)(int, char **), char **argv) {
    int count = 0;
    while (argv[count]) count++;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(out_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        int status = command(count, argv);
        fflush(NULL);
        _exit(status);
    }
    assert_true(child > 0);
    return child;
}

static void said(struct buf *text) {
    buf_clear(text);
    file_read(out_path, 1 << 20, text, NULL);
    buf_char(text, 0);
}

/* The port of the address that it prints. */
static int wait_for_port(void) {
    struct buf text = {0};
    for (int i = 0; i < 300; i++) {
        usleep(50000);
        said(&text);
        const char *url = strstr(text.data, "http://127.0.0.1:");
        if (url && strchr(url + 17, '/')) {
            int port = atoi(url + 17);
            buf_free(&text);
            return port;
        }
    }
    fail_msg("no address was printed: %s", text.data);
    return 0;
}

static int end_of(pid_t child) {
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* The next text message of a type; pictures that come before are counted. */
static const struct json *wait_for(int fd, const char *type, struct buf *text, struct arena *a, int *pictures) {
    for (;;) {
        int op = ws_receive(fd, text);
        if (op < 0) fail_msg("no message of type %s came", type);
        if (op == 2 && pictures) ++*pictures;
        if (op != 1) continue;
        const struct json *j = json_parse(text->data, text->len, "message", a, NULL);
        assert_non_null(j);
        if (!strcmp(json_as_string(json_get(j, "type"), ""), type)) return j;
    }
}

static void say(int fd, const char *text) { ws_send(fd, false, text, strlen(text)); }

static void a_game_is_watched_and_taken_over(void **state) {
    (void)state;
    char *argv[] = {"play", "--policy", "oracle", "--seed", "7", "--dashboard", "--speed", "1", "--record", run, "--episodes", "3", NULL};
    pid_t child = start(cmd_play, argv);
    int port = wait_for_port(), fd = ws_open(port, "/live"), pictures = 0;
    struct buf text = {0};
    struct arena a = {0};
    const struct json *m = wait_for(fd, "hello", &text, &a, NULL);
    assert_int_equal(json_get(m, "can")->count, 4); /* no note: no model reads it; no seek: not recorded */
    assert_string_equal(json_as_string(json_get(json_get(m, "about"), "run"), ""), run);
    for (int i = 0; i < 5; i++) m = wait_for(fd, "step", &text, &a, &pictures);
    assert_true(pictures > 10);
    assert_string_equal(json_as_string(json_get(m, "decided_by"), ""), "oracle");
    const struct json *world = json_get(m, "world");
    assert_non_null(world);
    assert_true(json_get(world, "team")->count >= 1);
    say(fd, "{\"do\":\"take_over\",\"on\":true}");
    say(fd, "{\"do\":\"keys\",\"keys\":64}");
    usleep(300000);
    say(fd, "{\"do\":\"keys\",\"keys\":0}");
    do m = wait_for(fd, "step", &text, &a, NULL);
    while (strcmp(json_as_string(json_get(m, "decided_by"), ""), "human"));
    assert_string_equal(json_as_string(json_get(m, "action"), ""), "keys");
    assert_non_null(strstr(json_as_string(json_get(m, "reason"), ""), "UP"));
    close(fd);
    usleep(300000);
    kill(child, SIGTERM);
    assert_int_equal(end_of(child), 130);
    char *again[] = {"replay", "--episode", "1", run, NULL};
    child = start(cmd_replay, again);
    end_of(child);
    said(&text);
    assert_non_null(strstr(text.data, "identical"));
    assert_null(strstr(text.data, "mismatch"));
    buf_free(&text);
    arena_free(&a);
}

/* The first game tells the second what it saw there, and shows it. */
static void memories_come_with_their_pictures(void **state) {
    (void)state;
    char memory[80], record[80];
    snprintf(memory, sizeof memory, "%s/memory", folder);
    snprintf(record, sizeof record, "%s/remembered", folder);
    char *argv[] = {"play", "--seed", "7", "--dashboard", "--speed", "0", "--record", record, "--memory", memory, "--episodes", "2", "--threads", "2",
                    "--max-decisions", "60", NULL};
    pid_t child = start(cmd_play, argv);
    int port = wait_for_port(), fd = ws_open(port, "/live");
    struct buf text = {0};
    struct arena a = {0};
    const char *picture = "";
    while (!*picture) {
        const struct json *hits = json_get(wait_for(fd, "step", &text, &a, NULL), "memory");
        for (uint32_t i = 0; hits && i < hits->count && !*picture; i++) picture = json_as_string(json_get(hits->items[i], "picture"), "");
    }
    assert_int_equal(strncmp(picture, "data:image/png;base64,iVBORw0KGgo", 33), 0); /* a PNG's first bytes */
    close(fd);
    kill(child, SIGTERM);
    end_of(child);
    buf_free(&text);
    arena_free(&a);
}

static void a_recorded_run_is_viewed(void **state) { /* the one of the test before */
    (void)state;
    char *argv[] = {"view", run, NULL};
    pid_t child = start(cmd_view, argv);
    int port = wait_for_port();
    struct buf body = {0}, text = {0};
    struct arena a = {0};
    assert_int_equal(http_get(port, "/api/history?game=0", "", NULL, &body), 200);
    const struct json *m = json_parse(body.data, body.len, "history", &a, NULL);
    int64_t count = json_as_integer(json_get(m, "count"), 0);
    assert_true(count > 5);
    buf_clear(&body);
    assert_int_equal(http_get(port, "/api/step?game=0&index=4", "", NULL, &body), 200);
    m = json_parse(body.data, body.len, "step", &a, NULL);
    assert_int_equal(json_as_integer(json_get(m, "step"), 0), 5);
    assert_true(json_get(json_get(m, "world"), "ground")->count > 0);
    assert_int_equal(http_get(port, "/api/picture?game=0&index=4", "", NULL, NULL), 200);
    int fd = ws_open(port, "/live"), pictures = 0;
    m = wait_for(fd, "hello", &text, &a, NULL);
    assert_true(json_as_bool(json_get(m, "recorded"), false));
    say(fd, "{\"do\":\"seek\",\"index\":3}");
    say(fd, "{\"do\":\"resume\"}");
    m = wait_for(fd, "step", &text, &a, &pictures);
    assert_int_equal(json_as_integer(json_get(m, "index"), -1), 3);
    m = wait_for(fd, "step", &text, &a, &pictures);
    assert_int_equal(json_as_integer(json_get(m, "index"), -1), 4);
    assert_true(pictures >= 1);
    say(fd, "{\"do\":\"take_over\",\"on\":true}");
    assert_non_null(strstr(json_as_string(json_get(wait_for(fd, "refused", &text, &a, NULL), "why"), ""), "not offered"));
    kill(child, SIGTERM);
    assert_int_equal(end_of(child), 0);
    close(fd);
    buf_free(&body);
    buf_free(&text);
    arena_free(&a);
}

static void it_is_quiet_unless_asked_for(void **state) {
    (void)state;
    struct buf text = {0};
    char *json[] = {"play", "--policy", "oracle", "--max-decisions", "5", "--no-record", "--json", NULL};
    assert_int_equal(end_of(start(cmd_play, json)), 0);
    said(&text);
    assert_null(strstr(text.data, "dashboard"));
    char *lines[] = {"play", "--policy", "oracle", "--max-decisions", "5", "--no-record", NULL}; /* no terminal */
    assert_int_equal(end_of(start(cmd_play, lines)), 0);
    said(&text);
    assert_null(strstr(text.data, "dashboard"));
    buf_free(&text);
}

static void a_taken_port_that_was_asked_for_is_an_error(void **state) {
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof at;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    char port[16];
    struct buf text = {0};
    snprintf(port, sizeof port, "%d", ntohs(at.sin_port));
    char *play[] = {"play", "--policy", "oracle", "--no-record", "--dashboard-port", port, NULL}, *view[] = {"view", run, "--port", port, NULL};
    assert_int_equal(end_of(start(cmd_play, play)), 1);
    said(&text);
    assert_non_null(strstr(text.data, port));
    assert_int_equal(end_of(start(cmd_view, view)), 1);
    said(&text);
    assert_non_null(strstr(text.data, port));
    char *wrong[] = {"view", run, "--port", "99999", NULL}, *missing[] = {"view", "/nonexistent", NULL};
    assert_int_equal(end_of(start(cmd_view, wrong)), 2);
    assert_int_equal(end_of(start(cmd_view, missing)), 1);
    close(fd);
    buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_game_is_watched_and_taken_over), cmocka_unit_test(memories_come_with_their_pictures),
                                       cmocka_unit_test(a_recorded_run_is_viewed), cmocka_unit_test(it_is_quiet_unless_asked_for),
                                       cmocka_unit_test(a_taken_port_that_was_asked_for_is_an_error)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
