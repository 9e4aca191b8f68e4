/* `play` with other minds than the engine: a server (real requests to a process on loopback that behaves and misbehaves) and a script
 * (a mock, which every output must call one). */
#include "test.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>

#include "openai_server.h"

#include "app/commands.h"
#include "app/mock_model.h"
#include "app/openai_answer.h"
#include "app/openai_model.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "record/png_file.h"

static struct openai_server server;
static char url[128];
static uint8_t picture[FRAME_PIXELS * 3];

static int start(void **state) {
    (void)state;
    unsetenv("OPENAI_API_KEY"), unsetenv("OPENAI_BASE_URL"), unsetenv("MODEL_BACKEND");
    for (int i = 0; i < FRAME_PIXELS; i++) memset(picture + 3 * i, i / FRAME_WIDTH, 3);
    return openai_server_start(&server);
}
static int stop(void **state) {
    (void)state;
    openai_server_stop(&server);
    return 0;
}

static const char *url_of(const char *mode) {
    server.seen->posts = server.seen->keys = 0;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/%s/v1/", server.port, mode);
    return url;
}

static struct openai_model *open_mode(const char *mode, bool no_stream, double timeout_s) {
    struct openai_options o = {.base_url = url_of(mode), .model = "m\"1", .no_stream = no_stream, .timeout_s = timeout_s};
    struct openai_model *m;
    struct err err = {0};
    if (openai_model_open(&o, &m, &err)) fail_msg("%s: %s", mode, err.message);
    return m;
}

static char heard[4096];
static void hear(void *user, const char *text, size_t n) {
    (void)user;
    snprintf(heard + strlen(heard), sizeof heard - strlen(heard), "%.*s", (int)n, text);
}

/* Asks once, with EAT and WAIT to choose from. */
static struct answer ask_once(struct openai_model *m) {
    static const struct agent_events events[] = {{.token = hear}, {0}};
    struct answerer by = openai_model_answerer(m);
    struct ask_options o = {.system = "Play \"well\".", .greedy = true, .events = events, .answerer = &by};
    struct asker *a;
    struct answer r;
    bool offered[ACTION_COUNT] = {[ACTION_EAT] = true, [ACTION_WAIT] = true};
    assert_int_equal(asker_new(NULL, &o, &a, NULL), 0);
    *heard = 0;
    asker_ask(a, picture, "what\nnow?", offered, 7, 1, &r);
    asker_free(a);
    return r;
}

static struct answer ask_mode(const char *mode, bool no_stream, double timeout_s) {
    struct openai_model *m = open_mode(mode, no_stream, timeout_s);
    struct answer r = ask_once(m);
    openai_model_close(m);
    return r;
}

static size_t base64_decode(const char *text, size_t n, uint8_t *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t bytes = 0;
    uint32_t v = 0;
    for (size_t i = 0; i < n && text[i] != '='; i++) {
        v = v << 6 | (uint32_t)(strchr(digits, text[i]) - digits);
        if (i % 4) out[bytes++] = (uint8_t)(v >> (6 - 2 * (i % 4)));
    }
    return bytes;
}

static void the_question_is_what_servers_expect(void **state) {
    (void)state;
    struct answer r = ask_mode("good", false, 0);
    answer_free(&r);
    struct arena arena = {0};
    struct err err = {0};
    const struct json *root = json_parse(server.seen->body, strlen(server.seen->body), "request", &arena, &err);
    if (!root) fail_msg("%s", err.message);
    assert_string_equal(json_as_string(json_get(root, "model"), ""), "m\"1");
    const struct json *messages = json_get(root, "messages");
    assert_int_equal(messages->count, 2);
    assert_string_equal(json_as_string(json_get(messages->items[0], "role"), ""), "system");
    assert_string_equal(json_as_string(json_get(messages->items[0], "content"), ""), "Play \"well\".");
    const struct json *parts = json_get(messages->items[1], "content");
    assert_int_equal(parts->count, 2);
    assert_string_equal(json_as_string(json_get(parts->items[1], "text"), ""), "what\nnow?");
    const struct json *uri = json_get(json_get(parts->items[0], "image_url"), "url");
    static const char head[] = "data:image/png;base64,";
    assert_memory_equal(uri->string, head, strlen(head));
    static uint8_t png[1 << 18], rgb[sizeof picture];
    size_t n = base64_decode(uri->string + strlen(head), uri->count - strlen(head), png);
    assert_int_equal((uri->count - strlen(head)) % 4, 0);
    assert_int_equal(png_decode(png, n, FRAME_WIDTH, FRAME_HEIGHT, rgb, "data URI", &err), 0);
    assert_memory_equal(rgb, picture, sizeof picture);
    const struct json *format = json_get(root, "response_format"), *schema = json_get(json_get(format, "json_schema"), "schema");
    assert_string_equal(json_as_string(json_get(format, "type"), ""), "json_schema");
    const struct json *names = json_get(json_get(json_get(schema, "properties"), "action"), "enum");
    assert_int_equal(names->count, 2);
    assert_string_equal(names->items[0]->string, "eat");
    assert_true(json_as_bool(json_get(root, "stream"), false));
    assert_true(json_as_bool(json_get(json_get(root, "stream_options"), "include_usage"), false));
    assert_true(json_as_bool(json_get(root, "logprobs"), false));
    assert_true(json_as_number(json_get(root, "temperature"), 1) == 0);
    arena_free(&arena);
}

static void a_stream_in_tiny_pieces_is_put_together(void **state) {
    (void)state;
    struct answer r = ask_mode("good", false, 0);
    assert_int_equal(r.action, ACTION_EAT);
    assert_string_equal(r.text, "{\"action\": \"eat\"}");
    assert_string_equal(heard, r.text);
    assert_true(fabsf(r.confidence - 0.125f) < 1e-6f); /* of "eat" alone */
    assert_int_equal(r.cached_tokens, 100);
    assert_int_equal(r.computed_tokens, 29);
    assert_true(r.prefill_ms > 0 && r.generate_ms >= 0 && r.total_ms >= r.prefill_ms);
    assert_string_equal(r.reason, "");
    answer_free(&r);
}

static void an_answer_in_one_piece_is_as_good(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) { /* not asked for a stream; asked, but not given */
        struct answer r = ask_mode(i ? "plain" : "good", i == 0, 0);
        assert_int_equal(r.action, ACTION_EAT);
        assert_true(r.confidence == 0); /* not known */
        assert_int_equal(r.computed_tokens, 29);
        assert_int_equal(strstr(server.seen->body, "\"stream\"") != NULL, i);
        answer_free(&r);
    }
}

static void a_busy_server_is_asked_again_when_it_says(void **state) {
    (void)state;
    double begin = clock_seconds();
    struct answer r = ask_mode("busy", false, 0);
    assert_int_equal(r.action, ACTION_EAT);
    assert_int_equal(server.seen->posts, 2);
    assert_true(clock_seconds() - begin >= 0.9);
    answer_free(&r);
}

static void log_probabilities_are_left_out_where_they_are_refused(void **state) {
    (void)state;
    struct openai_model *m = open_mode("old", false, 0);
    for (int i = 0; i < 2; i++) {
        struct answer r = ask_once(m);
        assert_int_equal(r.action, ACTION_EAT);
        assert_int_equal(server.seen->posts, 2 + i);
        answer_free(&r);
    }
    openai_model_close(m);
}

static void what_is_no_answer_becomes_a_fallback_with_its_reason(void **state) {
    (void)state;
    static const struct { const char *mode, *reason; } cases[] = {
        {"garbage", "the server's answer"}, {"cut", "the server's answer"},   {"short", "broke off"},      {"dance", "names no action: dance"},
        {"stall", "not complete after 1"},  {"oops", "reports: out of memory"}, {"flood", "longer than"}, {"limit", "cut off at the limit"},
        {"null", "no text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct answer r = ask_mode(cases[i].mode, false, 1);
        if (r.action != -1 || r.give_up || !strstr(r.reason, cases[i].reason)) {
            fail_msg("%s: action %d, give up %d, reason: %s", cases[i].mode, r.action, r.give_up, r.reason);
        }
        assert_int_equal(server.seen->posts, 1);
        answer_free(&r);
    }
}

static void a_first_question_that_is_not_taken_ends_the_run(void **state) {
    (void)state;
    static const struct { const char *mode, *reason; int posts; } cases[] = {
        {"broken", "HTTP 500: kaputt", 3}, {"silent", "no answer within 1 s", 1}, {"moved", "not followed", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct answer r = ask_mode(cases[i].mode, false, 1);
        if (r.action != -1 || !r.give_up || !strstr(r.reason, cases[i].reason) || strchr(r.reason, 27)) {
            fail_msg("%s: action %d, give up %d, reason: %s", cases[i].mode, r.action, r.give_up, r.reason);
        }
        assert_int_equal(server.seen->posts, cases[i].posts);
        answer_free(&r);
    }
}

static void a_server_that_breaks_later_gives_fallbacks_for_a_while(void **state) {
    (void)state;
    struct openai_model *m = open_mode("later", false, 0);
    struct answer r = ask_once(m);
    assert_int_equal(r.action, ACTION_EAT);
    answer_free(&r);
    r = ask_once(m);
    assert_int_equal(r.action, -1);
    assert_false(r.give_up);
    assert_non_null(strstr(r.reason, "HTTP 500"));
    answer_free(&r);
    openai_model_close(m);
}

static void opening_finds_out_what_is_wrong(void **state) {
    (void)state;
    struct openai_model *m;
    struct err err = {0};
    struct openai_options o = {.base_url = url_of("plain")};
    assert_int_equal(openai_model_open(&o, &m, &err), 0); /* takes the first that is listed */
    assert_string_equal(openai_model_name(m), "tiny-vl");
    openai_model_close(m);
    o = (struct openai_options){.base_url = url_of("nolist"), .model = "x"};
    assert_int_equal(openai_model_open(&o, &m, &err), 0);
    openai_model_close(m);
    static const struct { const char *url, *mode, *words; } cases[] = {
        {NULL, "nolist", "404"},  {NULL, "empty", "--model"},           {NULL, "denied", "OPENAI_API_KEY is not set"},
        {"ftp://x/v1", "", "ftp"}, {"http://me:pw@127.0.0.1/v1", "", "user name"}, {"http://127.0.0.1:9/v1", "", "connect"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        o = (struct openai_options){.base_url = cases[i].url ? cases[i].url : url_of(cases[i].mode)};
        assert_true(openai_model_open(&o, &m, &err) < 0);
        assert_null(m);
        if (!strstr(err.message, cases[i].words)) fail_msg("expected '%s' in: %s", cases[i].words, err.message);
    }
    setenv("OPENAI_BASE_URL", url_of("denied"), 1); /* the key is sent, and hidden where the server repeats it */
    setenv("OPENAI_API_KEY", "sk-secret77", 1);
    o = (struct openai_options){0};
    assert_true(openai_model_open(&o, &m, &err) < 0);
    assert_int_equal(server.seen->keys, 1);
    assert_null(strstr(err.message, "secret77"));
    assert_non_null(strstr(err.message, "bad key ***"));
    setenv("OPENAI_API_KEY", "a\r\nX-Evil: 1", 1);
    assert_true(openai_model_open(&o, &m, &err) < 0);
    assert_int_equal(server.seen->keys, 1);
    unsetenv("OPENAI_BASE_URL"), unsetenv("OPENAI_API_KEY");
}

static void *ask_ten(void *m) {
    int *right = calloc(1, sizeof *right);
    for (int i = 0; i < 10; i++) {
        struct answerer by = openai_model_answerer(m);
        struct question q = {.system = "s", .prompt = "p", .rgb = picture, .schema = "{\"enum\":[\"eat\"]}", .greedy = true};
        struct answer r = {0};
        struct err err = {0};
        *right += by.answer(by.user, &q, &r, &err) == 0 && r.text && strstr(r.text, "eat");
        answer_free(&r);
    }
    return right;
}

static void many_threads_may_ask(void **state) {
    (void)state;
    struct openai_model *m = open_mode("good", false, 0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, ask_ten, m), 0);
    for (int i = 0; i < 4; i++) {
        void *right;
        pthread_join(threads[i], &right);
        assert_int_equal(*(int *)right, 10);
        free(right);
    }
    openai_model_close(m);
}

/* ---- the command ------------------------------------------------------------------------------------------------------------------ */

/* Runs `pmd-agent play` with these arguments; its output (fd 1) or error output (fd 2) is kept in out. */
static int play(struct buf *out, int fd, const char *const *args) {
    char *argv[32] = {"play"};
    int argc = 1;
    for (; args[argc - 1]; argc++) argv[argc] = (char *)args[argc - 1];
    char name[] = "/tmp/test_agent_remote_XXXXXX";
    int file = mkstemp(name);
    fflush(stdout), fflush(stderr);
    int old = dup(fd);
    dup2(file, fd);
    int code = cmd_play(argc, argv);
    fflush(stdout), fflush(stderr);
    dup2(old, fd);
    close(old), close(file);
    buf_clear(out);
    assert_int_equal(file_read(name, 1 << 20, out, NULL), 0);
    unlink(name);
    unsetenv("MODEL_BACKEND"); /* the command keeps its choice there */
    return code;
}
#define PLAY(out, fd, ...) play(out, fd, (const char *const[]){__VA_ARGS__, NULL})

static void read_into(struct buf *out, const char *folder, const char *name) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    buf_clear(out);
    assert_int_equal(file_read(path, 1 << 22, out, NULL), 0);
}

static void remove_run(const char *folder) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

static void a_mock_plays_and_every_output_says_so(void **state) {
    (void)state;
    char folder[] = "/tmp/test_agent_mock_XXXXXX", script[300], run[300];
    assert_non_null(mkdtemp(folder));
    snprintf(script, sizeof script, "%s/script.txt", folder);
    snprintf(run, sizeof run, "%s/run", folder);
    static const char text[] = "# title, dialogue, then the field\nnext\nnext\n\nwalk_north\nwait\neat\n";
    assert_int_equal(file_replace(script, text, strlen(text), NULL), 0);
    struct buf out = {0};
    assert_int_equal(PLAY(&out, 1, "--mock-script", script, "--max-decisions", "6", "--record", run), 0);
    assert_non_null(strstr(out.data, "episode 1: seed 1000000, mock: script")); /* the line when it begins */
    assert_non_null(strstr(strstr(out.data, "6 decisions by model"), "(mock: script")); /* the summary */
    read_into(&out, run, "run.json");
    assert_non_null(strstr(out.data, "\"model\":\"mock: script "));
    assert_non_null(strstr(out.data, "\"mock\":true"));
    read_into(&out, run, "summary.json");
    assert_non_null(strstr(out.data, "\"model\":\"mock: script "));
    read_into(&out, run, "trajectory.jsonl");
    int lines = 0, named = 0;
    for (char *line = out.data; *line; line = strchr(line, '\n') + 1) {
        *strchr(line, '\n') = 0;
        lines++, named += strstr(line, "\"reason\":\"mock: ") != NULL;
        line[strlen(line)] = '\n';
    }
    assert_int_equal(lines, 6);
    assert_int_equal(named, 6);
    setenv("MODEL_BACKEND", "mock", 1);
    assert_int_equal(PLAY(&out, 1, "--mock-script", script, "--max-decisions", "3", "--no-record", "--json"), 0);
    assert_non_null(strstr(out.data, "\"model\":\"mock: script "));
    assert_non_null(strstr(out.data, "\"decided_by\":{\"model\":3,"));
    buf_free(&out);
    remove_run(folder);
}

static void a_mock_may_choose_skills(void **state) {
    (void)state;
    char folder[] = "/tmp/test_agent_skills_XXXXXX", script[300];
    struct buf out = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(script, sizeof script, "%s/script.txt", folder);
    static const char text[] = "skill next\nskill next\nskill explore\nskill go_to 0 0\nskill dance\n";
    assert_int_equal(file_replace(script, text, strlen(text), NULL), 0);
    assert_int_equal(PLAY(&out, 1, "--mock-script", script, "--act", "skills", "--prompt", "configs/prompts/hub.txt", "--max-decisions", "10", "--no-record", "--json"), 0);
    assert_non_null(strstr(out.data, "\"decided_by\":{\"model\":"));
    assert_non_null(strstr(out.data, "\"skills\":{\"next\":{"));
    assert_non_null(strstr(out.data, "\"explore\":{\"used\":"));
    assert_null(strstr(out.data, "\"refused\":0,")); /* rock is no goal, and dancing no skill */
    assert_int_equal(PLAY(&out, 2, "--without", "legs"), 2);
    assert_int_equal(PLAY(&out, 2, "--act", "well"), 2);
    assert_int_equal(PLAY(&out, 2, "--see", "all"), 2);
    assert_int_equal(PLAY(&out, 2, "--upscale", "9"), 2);
    assert_int_equal(PLAY(&out, 2, "--policy", "oracle", "--act", "skills"), 2);
    unlink(script);
    rmdir(folder);
    buf_free(&out);
}

/* Models that know language get the words of hub.txt and choose skills. */
static void a_server_is_asked_for_skills(void **state) {
    (void)state;
    struct buf out = {0};
    setenv("MODEL_BACKEND", "openai", 1);
    assert_int_equal(PLAY(&out, 2, "--server", url_of("good"), "--model", "x", "--max-decisions", "4", "--no-record", "--json"), 0);
    unsetenv("MODEL_BACKEND");
    assert_non_null(strstr(server.seen->body, "\\\"skill\\\"") ? server.seen->body : strstr(server.seen->body, "\"skill\""));
    assert_non_null(strstr(server.seen->body, "Goal: find the stairs"));
    assert_non_null(strstr(server.seen->body, "\"note\""));
    /* The fourth question is the last of a conversation: three turns with their pictures and replies before it. */
    struct arena arena = {0};
    struct err err;
    const struct json *body = json_parse(server.seen->body, strlen(server.seen->body), "body", &arena, &err), *messages = json_get(body, "messages");
    if (!body) fail_msg("%s", err.message);
    assert_true(messages->count >= 8 && messages->count % 2 == 0);
    for (uint32_t i = 0; i < messages->count; i++) {
        const struct json *m = messages->items[i], *content = json_get(m, "content");
        assert_string_equal(json_as_string(json_get(m, "role"), ""), !i ? "system" : i % 2 ? "user" : "assistant");
        if (i && i % 2 == 0) assert_non_null(strstr(json_as_string(content, ""), "\"action\""));
        if (i == 1) assert_string_equal(json_as_string(json_get(content->items[0], "type"), ""), "image_url");
    }
    arena_free(&arena);
    setenv("MODEL_BACKEND", "openai", 1);
    assert_int_equal(PLAY(&out, 2, "--server", url_of("good"), "--model", "x", "--max-decisions", "3", "--no-record", "--json", "--history", "0"), 0);
    unsetenv("MODEL_BACKEND");
    assert_null(strstr(server.seen->body, "\"assistant\""));
    buf_free(&out);
}

static void a_bad_script_is_named(void **state) {
    (void)state;
    char path[] = "/tmp/test_agent_script_XXXXXX";
    close(mkstemp(path));
    struct mock_model *m;
    struct err err = {0};
    assert_true(mock_model_open(path, &m, &err) < 0);
    assert_non_null(strstr(err.message, "no action in it"));
    assert_int_equal(file_replace(path, "eat\nfly\n", 8, NULL), 0);
    assert_true(mock_model_open(path, &m, &err) < 0);
    assert_non_null(strstr(err.message, "'fly' is no action"));
    assert_true(mock_model_open("/nonexistent/script", &m, &err) < 0);
    unlink(path);
}

static void a_server_plays(void **state) {
    (void)state;
    char folder[] = "/tmp/test_agent_server_XXXXXX", run[300];
    assert_non_null(mkdtemp(folder));
    snprintf(run, sizeof run, "%s/run", folder);
    struct buf out = {0};
    setenv("OPENAI_API_KEY", "sk-secret77", 1);
    assert_int_equal(PLAY(&out, 1, "--server", url_of("good"), "--act", "steps", "--without", "all", "--max-decisions", "5", "--record", run, "--json"), 0);
    unsetenv("OPENAI_API_KEY");
    assert_non_null(strstr(out.data, "\"model\":\"tiny-vl\""));
    assert_non_null(strstr(out.data, "\"decided_by\":{\"model\":5,\"fallback\":0"));
    assert_int_equal(server.seen->posts, 5);
    assert_int_equal(server.seen->keys, 6);
    read_into(&out, run, "run.json");
    assert_non_null(strstr(out.data, "\"backend\":\"openai\",\"server\":\"http://127.0.0.1"));
    assert_null(strstr(out.data, "secret77"));
    remove_run(folder);
    setenv("MODEL_BACKEND", "openai", 1);
    setenv("OPENAI_BASE_URL", url_of("dance"), 1);
    assert_int_equal(PLAY(&out, 1, "--model", "x", "--no-stream", "--act", "steps", "--without", "all", "--max-decisions", "3", "--no-record", "--json"), 0);
    assert_non_null(strstr(out.data, "\"decided_by\":{\"model\":0,\"fallback\":3"));
    unsetenv("OPENAI_BASE_URL");
    buf_free(&out);
}

static void without_a_server_there_is_no_game(void **state) {
    (void)state;
    struct buf out = {0};
    assert_int_equal(PLAY(&out, 2, "--server", "http://127.0.0.1:9/v1", "--no-record"), 1);
    assert_non_null(strstr(out.data, "http://127.0.0.1:9/v1"));
    assert_int_equal(PLAY(&out, 2, "--server", url_of("broken"), "--no-record", "--json"), 1); /* there, but takes no question */
    assert_non_null(strstr(out.data, "HTTP 500: kaputt"));
    buf_free(&out);
}

static void wrong_options_are_refused(void **state) {
    (void)state;
    struct buf out = {0};
    assert_int_equal(PLAY(&out, 2, "--backend", "cloud"), 2);
    assert_int_equal(PLAY(&out, 2, "--backend", "mock"), 2);
    assert_int_equal(PLAY(&out, 2, "--backend", "hf", "--server", "http://x"), 2);
    assert_int_equal(PLAY(&out, 2, "--mock-script", "x", "--model", "y"), 2);
    assert_int_equal(PLAY(&out, 2, "--mock-script", "x", "--server", "y"), 2);
    assert_int_equal(PLAY(&out, 2, "--server-timeout", "0", "--server", "y"), 2);
    setenv("MODEL_BACKEND", "cloud", 1);
    assert_int_equal(PLAY(&out, 2, "--no-record"), 2);
    assert_non_null(strstr(out.data, "MODEL_BACKEND cloud: expected hf, local, openai or mock"));
    setenv("MODEL_BACKEND", "local", 1);
    assert_int_equal(PLAY(&out, 2, "--model", "owner/name", "--no-record"), 1);
    assert_non_null(strstr(out.data, "MODEL_BACKEND=local takes folders"));
    assert_int_equal(PLAY(&out, 1, "--backend", "local", "--model", "tinywoods-vl", "--max-decisions", "1", "--no-record", "--threads", "1"), 0);
    buf_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_question_is_what_servers_expect),
        cmocka_unit_test(a_stream_in_tiny_pieces_is_put_together),
        cmocka_unit_test(an_answer_in_one_piece_is_as_good),
        cmocka_unit_test(a_busy_server_is_asked_again_when_it_says),
        cmocka_unit_test(log_probabilities_are_left_out_where_they_are_refused),
        cmocka_unit_test(what_is_no_answer_becomes_a_fallback_with_its_reason),
        cmocka_unit_test(a_first_question_that_is_not_taken_ends_the_run),
        cmocka_unit_test(a_server_that_breaks_later_gives_fallbacks_for_a_while),
        cmocka_unit_test(opening_finds_out_what_is_wrong),
        cmocka_unit_test(many_threads_may_ask),
        cmocka_unit_test(a_mock_plays_and_every_output_says_so),
        cmocka_unit_test(a_mock_may_choose_skills), cmocka_unit_test(a_server_is_asked_for_skills),
        cmocka_unit_test(a_bad_script_is_named),
        cmocka_unit_test(a_server_plays),
        cmocka_unit_test(without_a_server_there_is_no_game),
        cmocka_unit_test(wrong_options_are_refused),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
