/* `pmd-agent score` and `pmd-agent chat` as a user calls them: exit status, what goes to standard output. */
#include <unistd.h>

#include "app/commands.h"
#include "base/buf.h"
#include "base/file.h"
#include "golden_session.h"

/* Runs a command with standard output and error in files and input from text; returns its status. */
static int run(int (*command)(int, char **), const char *const *words, const char *input, struct buf *out,
               struct buf *complaints) {
    char in_path[] = "/tmp/qvl-in-XXXXXX", out_path[] = "/tmp/qvl-out-XXXXXX", err_path[] = "/tmp/qvl-err-XXXXXX";
    int fds[3] = {mkstemp(in_path), mkstemp(out_path), mkstemp(err_path)}, saved[3];
    char *argv[32];
    int argc = 0;
    struct err err = {0};
    while (words[argc]) argv[argc] = (char *)words[argc], argc++;
    argv[argc] = NULL;
    if (input) assert_int_equal(write(fds[0], input, strlen(input)), strlen(input));
    lseek(fds[0], 0, SEEK_SET);
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 3; i++) {
        saved[i] = dup(i);
        dup2(fds[i], i);
        close(fds[i]);
    }
    clearerr(stdin);
    int status = command(argc, argv);
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 3; i++) {
        dup2(saved[i], i);
        close(saved[i]);
    }
    buf_clear(out);
    buf_clear(complaints);
    buf_str(out, "");
    buf_str(complaints, "");
    assert_int_equal(file_read(out_path, 1 << 28, out, &err), 0);
    assert_int_equal(file_read(err_path, 1 << 28, complaints, &err), 0);
    unlink(in_path);
    unlink(out_path);
    unlink(err_path);
    return status;
}

static void score_prints_json(void **state) {
    (void)state;
    struct buf out = {0}, complaints = {0};
    struct arena arena = {0};
    struct err err = {0};
    struct golden g;
    golden_open(&g, "tiny-a", "text");
    const char *text = json_as_string(json_get(json_get(g.messages->items[0], "content")->items[0], "text"), NULL);
    const char *words[] = {"score", "--model", "tests/golden/tiny-a", "--f32", "--top=3", "--kv-mib", "8", text, NULL};
    assert_int_equal(run(cmd_score, words, NULL, &out, &complaints), 0);
    assert_string_equal(complaints.data, "");
    const struct json *j = json_parse(out.data, out.len, "score", &arena, &err);
    if (!j) fail_msg("%s", err.message);
    const struct tensor *ids = golden_need(&g, "input_ids");
    const struct json *list = json_get(j, "ids"), *logprobs = json_get(j, "logprobs"), *top = json_get(j, "top");
    assert_int_equal(list->count, ids->shape[0]);
    assert_int_equal(logprobs->count, ids->shape[0]);
    assert_int_equal(top->count, ids->shape[0]);
    for (uint32_t i = 0; i < list->count; i++) {
        assert_int_equal(list->items[i]->integer, ((const int32_t *)ids->data)[i]);
        if (i == 0) {
            assert_int_equal(logprobs->items[0]->type, JSON_NULL);
            assert_int_equal(top->items[0]->count, 0);
            continue;
        }
        assert_int_equal(top->items[i]->count, 3);
        double before = 0;
        for (int k = 0; k < 3; k++) {
            double l = json_as_number(json_get(top->items[i]->items[k], "logprob"), 1);
            assert_true(l <= before);
            before = l;
        }
    }
    /* The same prompt as raw text: its special tokens are parsed. */
    buf_clear(&out);
    const char *raw[] = {"score", "--model", "tests/golden/tiny-a", "--f32", "--raw", NULL};
    struct buf prompt = {0};
    buf_printf(&prompt, "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n", text);
    assert_int_equal(run(cmd_score, raw, prompt.data, &out, &complaints), 0);
    const struct json *same = json_parse(out.data, out.len, "score", &arena, &err);
    assert_non_null(same);
    assert_int_equal(json_get(same, "ids")->count, list->count);
    for (uint32_t i = 1; i < list->count; i++)
        assert_true(json_get(same, "logprobs")->items[i]->number == logprobs->items[i]->number);
    buf_free(&prompt);
    buf_free(&out);
    buf_free(&complaints);
    arena_free(&arena);
    golden_close(&g);
}

static void chat_answers(void **state) {
    (void)state;
    struct buf out = {0}, complaints = {0};
    const char *words[] = {"chat",     "--model", "tests/golden/tiny-a", "--greedy", "--max-tokens", "8",
                           "--kv-mib", "8",       "What do you see?",    NULL};
    assert_int_equal(run(cmd_chat, words, NULL, &out, &complaints), 0);
    assert_true(out.len > 1);
    assert_non_null(strstr(complaints.data, "memory plan (estimate)"));
    assert_non_null(strstr(complaints.data, "tok/s"));
    assert_non_null(strstr(complaints.data, "GB/s"));
    struct buf first = {0};
    buf_append(&first, out.data, out.len);
    const char *held[] = {"chat", "--model", "tests/golden/tiny-a", "--greedy", "--max-tokens", "8", "--weights", "memory", "What do you see?", NULL};
    assert_int_equal(run(cmd_chat, held, NULL, &out, &complaints), 0);
    assert_non_null(strstr(complaints.data, "of them in memory"));
    assert_non_null(strstr(complaints.data, "of weights are in memory, after"));
    assert_int_equal(out.len, first.len);
    assert_memory_equal(out.data, first.data, first.len);
    /* A conversation: the first answer is the same; a mistake is said and the next line is read. */
    const char *talk[] = {"chat", "--model", "tests/golden/tiny-a", "--greedy", "--quiet", "--max-tokens", "8", NULL};
    int status = run(cmd_chat, talk, "What do you see?\n/image /no/such/file\nand now?\n/clear\nWhat do you see?\n/quit\n", &out,
                     &complaints);
    assert_int_equal(status, 1); /* not a terminal: a failure shows in the status */
    assert_non_null(strstr(complaints.data, "/no/such/file"));
    assert_true(out.len > 2 * first.len);
    assert_memory_equal(out.data, first.data, first.len);
    assert_memory_equal(out.data + out.len - first.len, first.data, first.len);
    buf_free(&first);
    buf_free(&out);
    buf_free(&complaints);
}

static void wrong_usage(void **state) {
    (void)state;
    struct buf out = {0}, complaints = {0};
    const struct { int (*command)(int, char **); const char *words[8]; int status; const char *says; } cases[] = {
        {cmd_score, {"score", "hello"}, 1, "--model"},
        {cmd_score, {"score", "--model", "tests/golden/none", "hello"}, 1, "tests/golden/none"},
        {cmd_score, {"score", "--model"}, 2, "needs a value"},
        {cmd_score, {"score", "--top", "21"}, 2, "0 to 20"},
        {cmd_score, {"score", "--frobnicate"}, 2, "--frobnicate"},
        {cmd_chat, {"chat", "--temperature", "hot"}, 2, "hot"},
        {cmd_chat, {"chat", "--model", "tests/golden/tiny-a", "--context", "999999", "hello"}, 1, "4096"},
        {cmd_chat, {"chat", "--model", "tests/golden/tiny-a", "--image", "Makefile", "hello"}, 1, "PNG or JPEG"},
        {cmd_chat, {"chat", "one", "two"}, 2, "two"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(run(cases[i].command, cases[i].words, NULL, &out, &complaints), cases[i].status);
        if (!strstr(complaints.data, cases[i].says)) fail_msg("expected '%s' in: %s", cases[i].says, complaints.data);
        assert_int_equal(out.len, 0);
    }
    const char *help[] = {"chat", "--help", NULL};
    assert_int_equal(run(cmd_chat, help, NULL, &out, &complaints), 0);
    assert_non_null(strstr(out.data, "usage: pmd-agent chat"));
    buf_free(&out);
    buf_free(&complaints);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(score_prints_json), cmocka_unit_test(chat_answers),
                                       cmocka_unit_test(wrong_usage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
