/* pmd-agent tokenize: text to token ids and back, one line at a time, so that other programs can ask what the model sees. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/commands.h"
#include "base/json.h"
#include "text/tokenizer.h"

static const char help[] =
    "usage: pmd-agent tokenize --model DIR [--literal] [--json] [--decode [--skip-special]] < LINES\n"
    "\n"
    "Reads lines from standard input and prints one line for each: a JSON array of token ids.\n"
    "Special tokens in the text (<|im_start|> ...) are parsed as Hugging Face tokenizers does.\n"
    "\n"
    "  --model DIR      folder with a tokenizer.json\n"
    "  --literal        special tokens in the text are ordinary text (as for user input in chats)\n"
    "  --json           each line is a JSON string (so that it can hold line breaks); --decode prints such\n"
    "  --decode         the other way: each line is a JSON array of ids, its text is printed\n"
    "  --skip-special   --decode leaves out tokens marked special\n";

struct options {
    const char *model;
    bool literal, json, decode, skip_special;
};

static int parse_options(int argc, char **argv, struct options *o) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return fputs(help, stdout), 1;
        if (!strcmp(argv[i], "--model") && i + 1 < argc) o->model = argv[++i];
        else if (!strncmp(argv[i], "--model=", 8)) o->model = argv[i] + 8;
        else if (!strcmp(argv[i], "--literal")) o->literal = true;
        else if (!strcmp(argv[i], "--json")) o->json = true;
        else if (!strcmp(argv[i], "--decode")) o->decode = true;
        else if (!strcmp(argv[i], "--skip-special")) o->skip_special = true;
        else return fprintf(stderr, "pmd-agent tokenize: unknown option '%s'\n\n%s", argv[i], help), -1;
    }
    if (!o->model) return fprintf(stderr, "pmd-agent tokenize: --model DIR is needed\n\n%s", help), -1;
    return 0;
}

static int encode_line(const struct tokenizer *t, const struct options *o, const char *line, size_t n, struct buf *out,
                       struct err *err) {
    struct arena arena = {0};
    struct token_list ids = {0};
    int code = 0;
    if (o->json) {
        const struct json *v = json_parse(line, n, "line", &arena, err);
        if (!v) code = err->code;
        else if (v->type != JSON_STRING) code = err_set(err, ERR_ARGUMENT, "expected a JSON string, found another value");
        else line = v->string, n = v->count;
    }
    if (!code) code = tokenizer_encode(t, line, n, !o->literal, &ids, err);
    buf_char(out, '[');
    for (size_t i = 0; i < ids.count && !code; i++) buf_printf(out, "%s%" PRId32, i ? ", " : "", ids.ids[i]);
    buf_char(out, ']');
    token_list_free(&ids);
    arena_free(&arena);
    return code;
}

static int decode_line(const struct tokenizer *t, const struct options *o, const char *line, size_t n, struct buf *out,
                       struct err *err) {
    struct arena arena = {0};
    struct token_list ids = {0};
    struct buf text = {0};
    const struct json *v = json_parse(line, n, "line", &arena, err);
    int code = v ? 0 : err->code;
    if (v && v->type != JSON_ARRAY) code = err_set(err, ERR_ARGUMENT, "expected a JSON array of ids, found another value");
    for (uint32_t i = 0; !code && i < v->count; i++) {
        int64_t id = json_as_integer(v->items[i], -1);
        if (id < 0 || id > INT32_MAX)
            code = err_set(err, ERR_ARGUMENT, "element %" PRIu32 ": expected a token id, found another value", i);
        else if (token_list_add(&ids, (int32_t)id)) code = err_set(err, ERR_MEMORY, "out of memory");
    }
    if (!code) code = tokenizer_decode(t, ids.ids, ids.count, o->skip_special, &text, err);
    if (!code && o->json) buf_json_string(out, text.data ? text.data : "", text.len);
    else if (!code) buf_append(out, text.data, text.len);
    buf_free(&text);
    token_list_free(&ids);
    arena_free(&arena);
    return code;
}

int cmd_tokenize(int argc, char **argv) {
    struct options o = {0};
    int parsed = parse_options(argc, argv, &o);
    if (parsed) return parsed > 0 ? 0 : 2;
    struct err err = {0};
    struct tokenizer *t;
    if (tokenizer_open(o.model, &t, &err)) return fprintf(stderr, "pmd-agent tokenize: %s\n", err.message), 1;
    char *line = NULL;
    size_t cap = 0, number = 0;
    ssize_t n;
    int code = 0;
    struct buf out = {0};
    while (!code && (n = getline(&line, &cap, stdin)) >= 0) {
        number++;
        if (n && line[n - 1] == '\n') n--;
        buf_clear(&out);
        code = (o.decode ? decode_line : encode_line)(t, &o, line, (size_t)n, &out, &err);
        if (!code && out.failed) code = err_set(&err, ERR_MEMORY, "out of memory");
        buf_char(&out, '\n');
        if (!code && fwrite(out.data, 1, out.len, stdout) != out.len)
            code = err_set(&err, ERR_IO, "cannot write: %s", strerror(errno));
    }
    if (!code && ferror(stdin)) code = err_set(&err, ERR_IO, "cannot read: %s", strerror(errno));
    if (!code && fflush(stdout) != 0) code = err_set(&err, ERR_IO, "cannot write: %s", strerror(errno));
    if (code) fflush(stdout), fprintf(stderr, "pmd-agent tokenize: line %zu: %s\n", number, err.message);
    buf_free(&out);
    free(line);
    tokenizer_close(t);
    return code ? 1 : 0;
}
