/* `pmd-agent serve` as a process: it says where it listens, answers while it loads, drains on SIGTERM, and tells what is wrong. */
#include "test.h"

#include <signal.h>
#include <sys/wait.h>

#include "app/commands.h"
#include "base/clock.h"
#include "serve_server.h"

struct child {
    pid_t pid;
    int fd, port; /* fd: its standard error */
    struct buf text;
};

static void child_start(struct child *c, const char *const *words) {
    int ends[2];
    *c = (struct child){0};
    if (pipe(ends)) abort();
    fflush(NULL);
    if ((c->pid = fork()) == 0) { /* no thread runs here yet */
        char *argv[32];
        int argc = 0;
        for (; words[argc]; argc++) argv[argc] = (char *)words[argc];
        argv[argc] = NULL;
        dup2(ends[1], 2);
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        int status = cmd_serve(argc, argv);
        fflush(NULL);
        _exit(status);
    }
    close(ends[1]);
    c->fd = ends[0];
}

/* Reads what the child says until this word. */
static bool child_says(struct child *c, const char *word) {
    char piece[1000];
    while (!c->text.data || !strstr(c->text.data, word)) {
        ssize_t n = read(c->fd, piece, sizeof piece);
        if (n <= 0) return false;
        buf_append(&c->text, piece, (size_t)n);
    }
    const char *at = strstr(c->text.data, "http://127.0.0.1:");
    c->port = at ? atoi(at + 17) : 0;
    return true;
}

static int child_end(struct child *c) {
    int status;
    child_says(c, "\1"); /* to its end */
    waitpid(c->pid, &status, 0);
    close(c->fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Runs serve to its end and looks for a sentence in what it says. */
static void refused(const char *const *words, int status, const char *sentence) {
    struct child c;
    child_start(&c, words);
    int got = child_end(&c);
    if (got != status || !c.text.data || !strstr(c.text.data, sentence)) fail_msg("status %d, said: %s", got, c.text.data ? c.text.data : "");
    buf_free(&c.text);
}
#define REFUSED(status, sentence, ...) refused((const char *const[]){"serve", __VA_ARGS__, NULL}, status, sentence)

static void test_serves_and_drains(void **state) {
    (void)state;
    struct child c;
    char path[] = "/tmp/serve-keys-XXXXXX";
    int fd = mkstemp(path);
    assert_true(write(fd, "# keys\nfirst\nsecond\n", 20) == 20);
    close(fd);
    child_start(&c, (const char *const[]){"serve", "--model", SERVE_MODEL, "--port", "0", "--alias", "woods", "--api-key-file", path, "--kv-mib", "16", NULL});
    assert_true(child_says(&c, "listening on "));
    assert_true(child_says(&c, "ready: "));
    struct reply r = reply_to(c.port, "GET", "/v1/models", NULL);
    assert_int_equal(r.status, 401);
    reply_free(&r);
    struct http_client s = client_open(c.port);
    static const char body[] = "{\"model\":\"woods\",\"prompt\":\"walk\",\"logit_bias\":{\"40\":100},\"max_tokens\":1000,\"stream\":true}";
    char request[400];
    snprintf(request, sizeof request, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer second\r\nContent-Length: %zu\r\n\r\n%s",
             sizeof body - 1, body);
    client_say(&s, request);
    assert_true(client_have(&s, 500));
    kill(c.pid, SIGTERM);
    struct http_answer a = client_answer(&s, false);
    assert_int_equal(a.status, 200);
    assert_true(a.complete && strstr(a.body.data, "data: [DONE]"));
    assert_int_equal(child_end(&c), 0);
    assert_non_null(strstr(c.text.data, "draining: 1 requests under way"));
    assert_null(strstr(c.text.data, "second")); /* keys are not printed */
    answer_free(&a);
    client_close(&s);
    buf_free(&c.text);
    unlink(path);
}

static void test_stops_at_once_when_idle(void **state) {
    (void)state;
    struct child c;
    child_start(&c, (const char *const[]){"serve", "--model", SERVE_MODEL, "--port", "0", "--kv-mib", "16", NULL});
    assert_true(child_says(&c, "ready: "));
    struct http_client idle = client_open(c.port);
    double start = clock_seconds();
    kill(c.pid, SIGINT);
    assert_int_equal(child_end(&c), 130);
    assert_true(clock_seconds() - start < 3);
    client_close(&idle);
    buf_free(&c.text);
}

static void test_refusals(void **state) {
    (void)state;
    struct child c;
    REFUSED(2, "--model ID|DIR is needed", "--port", "0");
    REFUSED(2, "unknown option '--modle'", "--modle", "x");
    REFUSED(2, "--port", "--model", SERVE_MODEL, "--port", "70000");
    REFUSED(2, "an API key is empty", "--model", SERVE_MODEL, "--api-key", "");
    REFUSED(2, "/no/such/file", "--model", SERVE_MODEL, "--api-key-file", "/no/such/file");
    REFUSED(1, "'example.org' is no IP address", "--model", SERVE_MODEL, "--host", "example.org");
    REFUSED(1, "tests/golden/vision", "--model", "tests/golden/vision", "--port", "0"); /* a folder without a checkpoint */
    REFUSED(0, "usage: pmd-agent serve", "--help");
    child_start(&c, (const char *const[]){"serve", "--model", SERVE_MODEL, "--port", "0", "--kv-mib", "16", NULL});
    assert_true(child_says(&c, "ready: "));
    char port[16];
    snprintf(port, sizeof port, "%d", c.port);
    REFUSED(1, "Address already in use", "--model", SERVE_MODEL, "--port", port);
    kill(c.pid, SIGTERM);
    assert_int_equal(child_end(&c), 0);
    buf_free(&c.text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serves_and_drains),
        cmocka_unit_test(test_stops_at_once_when_idle),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("serve_command", tests, NULL, NULL);
}
