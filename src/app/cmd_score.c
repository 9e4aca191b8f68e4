/* pmd-agent score: what a checkpoint thinks of a text, token by token, as JSON for comparison with other engines. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/commands.h"
#include "app/model_options.h"
#include "base/buf.h"
#include "base/file.h"

static const char help[] =
    "usage: pmd-agent score --model ID|DIR [--image FILE]... [--raw] [--top K] [TEXT]\n"
    "\n"
    "Prints one JSON object: ids (the prompt's tokens), logprobs (of each token given those before it; the first is null) and\n"
    "top (the K most likely tokens at each position, most likely first). Without TEXT, it is read from standard input.\n"
    "\n"
    "  --image FILE       a PNG or JPEG before the text; --raw: for the next <|image_pad|> in the text\n"
    "  --raw              the text as it is: no chat template, special tokens parsed\n"
    "  --top K            0 to 20, default 0\n";

enum { MAX_IMAGES = 64 };
static const size_t image_limit = (size_t)256 << 20, text_limit = (size_t)64 << 20;

struct options {
    struct model_options model;
    const char *images[MAX_IMAGES], *text;
    int image_count, top;
    bool raw;
};

static int parse_options(int argc, char **argv, struct options *o) {
    for (int i = 1; i < argc; i++) {
        const char *v;
        double number;
        int r = model_options_take(&o->model, "score", argc, argv, &i);
        if (r < 0) return -1;
        if (r > 0) continue;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return printf("%s%s", help, model_options_help), 1;
        if (!strcmp(argv[i], "--raw")) {
            o->raw = true;
        } else if ((r = option_value("score", "--image", argc, argv, &i, &v))) {
            if (r < 0) return -1;
            if (o->image_count == MAX_IMAGES) return fprintf(stderr, "pmd-agent score: at most %d pictures\n", MAX_IMAGES), -1;
            o->images[o->image_count++] = v;
        } else if ((r = option_value("score", "--top", argc, argv, &i, &v))) {
            if (r < 0 || option_number("score", "--top", v, 0, 20, &number)) return -1;
            o->top = (int)number;
        } else if (argv[i][0] == '-' && argv[i][1]) {
            return fprintf(stderr, "pmd-agent score: unknown option '%s'\n\n%s%s", argv[i], help, model_options_help), -1;
        } else if (o->text) {
            return fprintf(stderr, "pmd-agent score: one text is expected; a second one is '%s'\n", argv[i]), -1;
        } else {
            o->text = argv[i];
        }
    }
    return 0;
}

static int read_stdin(struct buf *out, struct err *err) {
    char block[65536];
    size_t n;
    while ((n = fread(block, 1, sizeof block, stdin)) > 0) {
        buf_append(out, block, n);
        if (out->len > text_limit) return err_set(err, ERR_LIMIT, "standard input: more than %zu bytes of text", text_limit);
    }
    buf_str(out, "");
    return out->failed ? err_set(err, ERR_MEMORY, "out of memory for the text") : 0;
}

static int fill(struct qvl_session *s, const struct options *o, const struct buf *text, struct err *err) {
    struct buf files[MAX_IMAGES] = {0};
    struct qvl_part parts[MAX_IMAGES + 1] = {0};
    int r = 0;
    for (int i = 0; !r && i < o->image_count; i++) {
        r = file_read(o->images[i], image_limit, &files[i], err);
        parts[i] = (struct qvl_part){.encoded = files[i].data, .encoded_bytes = files[i].len};
        if (!r && o->raw) r = qvl_session_raw_picture(s, &parts[i], err);
    }
    parts[o->image_count].text = text->data ? text->data : "";
    if (!r && o->raw) r = qvl_session_raw(s, parts[o->image_count].text, text->len, true, err);
    if (!r && !o->raw) r = qvl_session_message(s, QVL_USER, parts, o->image_count + 1, err);
    for (int i = 0; i < o->image_count; i++) buf_free(&files[i]);
    return r;
}

static void print(const struct qvl_token *tokens, size_t count, struct buf *out) {
    buf_str(out, "{\"ids\":[");
    for (size_t i = 0; i < count; i++) buf_printf(out, "%s%d", i ? "," : "", tokens[i].id);
    buf_str(out, "],\"logprobs\":[");
    for (size_t i = 0; i < count; i++) {
        if (i) buf_char(out, ',');
        buf_json_number(out, i ? (double)tokens[i].logprob : NAN);
    }
    buf_str(out, "],\"top\":[");
    for (size_t i = 0; i < count; i++) {
        buf_str(out, i ? ",[" : "[");
        for (int k = 0; k < tokens[i].top_count; k++) {
            buf_printf(out, "%s{\"id\":%d,\"logprob\":", k ? "," : "", tokens[i].top_id[k]);
            buf_json_number(out, (double)tokens[i].top_logprob[k]);
            buf_char(out, '}');
        }
        buf_char(out, ']');
    }
    buf_str(out, "]}\n");
}

int cmd_score(int argc, char **argv) {
    struct options o = {0};
    int r = parse_options(argc, argv, &o);
    if (r) return r < 0 ? 2 : 0;
    struct qvl_model *m;
    if (model_options_open(&o.model, "score", true, &m)) return 1;
    struct err err = {0};
    struct buf text = {0}, out = {0};
    struct qvl_session *s = NULL;
    struct qvl_token *tokens = NULL;
    size_t count = 0;
    if (o.text) buf_str(&text, o.text);
    else r = read_stdin(&text, &err);
    if (!r) r = qvl_session_new(m, &s, &err);
    if (!r) r = fill(s, &o, &text, &err);
    if (!r) r = qvl_score(s, o.top, &tokens, &count, &err);
    if (!r) print(tokens, count, &out);
    if (!r && (out.failed || fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout)))
        r = err_set(&err, ERR_IO, "standard output: cannot write the result");
    if (r) fprintf(stderr, "pmd-agent score: %s\n", err.message);
    free(tokens);
    buf_free(&text);
    buf_free(&out);
    qvl_session_free(s);
    qvl_unload(m);
    return r ? 1 : 0;
}
