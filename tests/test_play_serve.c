/* `pmd-agent play --serve`: the game goes on while others ask the same model through the API on the dashboard's address. */
#include "test.h"

#include <signal.h>
#include <sys/wait.h>

#include "app/commands.h"
#include "serve_server.h"

static void become_play(const char *const *words, int fd) {
    char *argv[32];
    int argc = 0;
    for (; words[argc]; argc++) argv[argc] = (char *)words[argc];
    argv[argc] = NULL;
    dup2(fd, 1);
    dup2(fd, 2);
    int status = cmd_play(argc, argv);
    fflush(NULL);
    _exit(status);
}

/* Starts play; *text: what it says up to this word. */
static pid_t start(const char *const *words, const char *word, struct buf *text, int *fd) {
    int ends[2];
    char piece[1000];
    if (pipe(ends)) abort();
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) become_play(words, ends[1]);
    close(ends[1]);
    for (ssize_t n; !(text->data && strstr(text->data, word)) && (n = read(ends[0], piece, sizeof piece)) > 0;) buf_append(text, piece, (size_t)n);
    *fd = ends[0];
    return pid;
}

static void test_one_engine(void **state) {
    (void)state;
    struct buf text = {0};
    char piece[1000];
    int fd, status;
    pid_t pid = start((const char *const[]){"play", "--serve", "--seed", "1000000", "--episodes", "50", "--no-record", "--json", "--speed", "0", NULL}, "(model '",
                      &text, &fd);
    const char *at = text.data ? strstr(text.data, "API: http://127.0.0.1:") : NULL;
    if (!at) fail_msg("%s", text.data ? text.data : "it said nothing");
    int port = atoi(at + 22);
    struct reply r = reply_to(port, "GET", "/health", NULL);
    assert_int_equal(r.status, 200);
    reply_free(&r);
    /* The agent's questions fill the cache that the requests use. */
    double before = -1, after = 0;
    for (int i = 0; i < 400 && (before < 0 || after <= before); i++) {
        after = metric(port, "pmd_images_encoded_total");
        if (before < 0) before = after;
        usleep(20000);
    }
    assert_true(after > before);
    assert_int_equal((int)metric(port, "pmd_prompt_tokens_total"), 0); /* none of it through the API */
    for (int i = 0; i < 3; i++) {
        r = reply_to(port, "POST", "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"Which way?\"}],\"max_tokens\":4,\"temperature\":0}");
        assert_int_equal(r.status, 200);
        assert_int_equal(number_at(r.json, "usage.completion_tokens"), 4);
        if (i) assert_true(number_at(r.json, "usage.prompt_tokens_details.cached_tokens") > 0);
        reply_free(&r);
    }
    struct http_answer page = http_ask(port, "GET", "/", NULL, NULL); /* the dashboard is there too */
    assert_int_equal(page.status, 200);
    answer_free(&page);
    kill(pid, SIGTERM);
    while (read(fd, piece, sizeof piece) > 0) {}
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
    close(fd);
    buf_free(&text);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *words[8]; const char *sentence; int status; } cases[] = {
        {{"play", "--serve", "--no-dashboard"}, "--serve", 2},
        {{"play", "--serve", "--policy", "oracle", "--no-record"}, "in this process none does", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf text = {0};
        int fd, status;
        pid_t pid = start(cases[i].words, "\1", &text, &fd);
        waitpid(pid, &status, 0);
        if (!text.data || !strstr(text.data, cases[i].sentence)) fail_msg("%s", text.data ? text.data : "");
        assert_int_equal(WEXITSTATUS(status), cases[i].status);
        close(fd);
        buf_free(&text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_engine), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("play_serve", tests, NULL, NULL);
}
