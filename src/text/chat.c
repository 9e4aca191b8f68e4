/* Conversations to token ids (facts §6).
 *
 * The templates are text, tokenised as a whole by Hugging Face: "user\nHello" between two control tokens is one run, and the
 * cut between template and content is no token boundary. So a run is gathered in a buffer, whoever its parts come from,
 * and tokenised as ordinary text when a control token of the template ends it. Control tokens are only ever added by this file:
 * what users, tools and tool descriptions say cannot become one. Assistant messages, which models write, may carry
 * <tool_call> and <think> marks: they have no power over turns. */
#include "text/chat.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/parts.h"
#include "text/python_json.h"

enum { TEMPLATE_LIMIT = 4 << 20, MAX_PADS = 1 << 24 };

struct writer {
    const struct tokenizer *t;
    const struct chat_options *options;
    struct token_list *out;
    struct buf run; /* ordinary text not yet tokenised */
    int images, videos;
    struct err *err;
    int code;
};

static void flush(struct writer *w) {
    if (!w->code && w->run.failed) w->code = err_set(w->err, ERR_MEMORY, "chat: out of memory");
    if (!w->code && w->run.len) w->code = tokenizer_encode(w->t, w->run.data, w->run.len, false, w->out, w->err);
    buf_clear(&w->run);
}

static void add_ids(struct writer *w, int32_t id, int64_t count) {
    flush(w);
    for (int64_t i = 0; i < count && !w->code; i++)
        if (token_list_add(w->out, id)) w->code = err_set(w->err, ERR_MEMORY, "chat: out of memory");
}

/* A control token of the template; a vocabulary without it gets its text, as Hugging Face does. */
static void control(struct writer *w, const char *text) {
    int32_t id = tokenizer_added_id(w->t, text);
    if (id < 0) buf_str(&w->run, text);
    else add_ids(w, id, 1);
}

static void literal(struct writer *w, const char *text, size_t n) { buf_append(&w->run, text, n); }
static void say(struct writer *w, const char *text) { buf_str(&w->run, text); }

/* Text in which some marks count as tokens. */
static void marked(struct writer *w, const char *text, size_t n) {
    static const char *const marks[] = {"<tool_call>", "</tool_call>",    "<think>",
                                        "</think>",    "<tool_response>", "</tool_response>"};
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] != '<') continue;
        for (size_t m = 0; m < sizeof marks / sizeof *marks; m++) {
            size_t len = strlen(marks[m]);
            if (len > n - i || memcmp(text + i, marks[m], len) != 0) continue;
            literal(w, text + at, i - at);
            control(w, marks[m]);
            at = i + len;
            i = at - 1;
            break;
        }
    }
    literal(w, text + at, n - at);
}

static void pads(struct writer *w, const char *token, int64_t count) {
    int32_t id = tokenizer_added_id(w->t, token);
    if (id < 0) {
        w->code = err_set(w->err, ERR_MISSING, "chat: expected the token %s in the vocabulary for an image or video, found none",
                          token);
    } else if (count < 1 || count > MAX_PADS) {
        w->code = err_set(w->err, ERR_ARGUMENT, "chat: expected 1 to %d tokens for an image or video group, found %" PRId64,
                          MAX_PADS, count);
    } else {
        control(w, "<|vision_start|>");
        add_ids(w, id, count);
        control(w, "<|vision_end|>");
    }
}

static void write_visual(struct writer *w, const struct chat_part *p) {
    bool image = p->kind == CHAT_IMAGE;
    int number = image ? ++w->images : ++w->videos;
    if (w->options->add_vision_id) buf_printf(&w->run, "%s %d: ", image ? "Picture" : "Video", number);
    if (image) {
        pads(w, "<|image_pad|>", p->tokens);
        return;
    }
    for (int g = 0; g < p->groups && !w->code; g++) {
        buf_printf(&w->run, "<%.1f seconds>", p->group_seconds[g]);
        pads(w, "<|video_pad|>", p->tokens);
    }
}

static void write_content(struct writer *w, const struct chat_message *m) {
    for (int i = 0; i < m->part_count && !w->code; i++) {
        const struct chat_part *p = &m->parts[i];
        if (p->kind == CHAT_TEXT) literal(w, p->text, p->text_len);
        else write_visual(w, p);
    }
}

/* ---- assistant turns ---------------------------------------------------------------------------------------------------- */

struct slice {
    const char *text;
    size_t n;
};

static struct slice strip_newlines(struct slice s, bool left, bool right) {
    while (left && s.n && *s.text == '\n') s.text++, s.n--;
    while (right && s.n && s.text[s.n - 1] == '\n') s.n--;
    return s;
}

static const char *find(struct slice s, const char *what, bool last) {
    const char *found = NULL;
    size_t len = strlen(what);
    for (size_t i = 0; i + len <= s.n; i++) {
        if (memcmp(s.text + i, what, len) != 0) continue;
        found = s.text + i;
        if (!last) break;
    }
    return found;
}

/* Separates the think block that a Thinking model's own output carries (facts §6.4). */
static struct slice split_reasoning(struct slice *content) {
    struct slice reasoning = {"", 0};
    const char *first = find(*content, "</think>", false), *last = find(*content, "</think>", true);
    if (!first) return reasoning;
    reasoning = strip_newlines((struct slice){content->text, (size_t)(first - content->text)}, false, true);
    const char *open = find(reasoning, "<think>", true);
    if (open) reasoning = (struct slice){open + 7, (size_t)(reasoning.text + reasoning.n - open - 7)};
    reasoning = strip_newlines(reasoning, true, false);
    const char *rest = last + 8;
    *content = strip_newlines((struct slice){rest, (size_t)(content->text + content->n - rest)}, true, false);
    return reasoning;
}

/* The model's own tokens from `from` on. */
static void repeat(struct writer *w, const struct chat_message *m, size_t from) {
    flush(w);
    for (size_t i = from; i < m->reply_count && !w->code; i++)
        if (token_list_add(w->out, m->reply[i])) w->code = err_set(w->err, ERR_MEMORY, "chat: out of memory");
}

static void write_assistant(struct writer *w, const struct chat_message *m, bool after_query, bool final) {
    struct buf flat = {0};
    for (int i = 0; i < m->part_count; i++) {
        if (m->parts[i].kind == CHAT_TEXT) buf_append(&flat, m->parts[i].text, m->parts[i].text_len);
        else w->code = err_set(w->err, ERR_ARGUMENT, "chat: expected text in an assistant message, found an image or video");
    }
    struct slice content = {flat.data ? flat.data : "", flat.len},
                 reasoning = {m->reasoning ? m->reasoning : "", m->reasoning ? strlen(m->reasoning) : 0};
    if (flat.failed) w->code = err_set(w->err, ERR_MEMORY, "chat: out of memory");
    if (w->options->format == CHAT_THINKING) {
        if (!m->reasoning) reasoning = split_reasoning(&content);
        if (after_query && (final || reasoning.n)) {
            reasoning = strip_newlines(reasoning, true, true);
            content = strip_newlines(content, true, false);
            control(w, "<think>");
            say(w, "\n");
            if (m->reply && m->reply_content <= m->reply_count) {
                repeat(w, m, 0);
                buf_free(&flat);
                return;
            }
            marked(w, reasoning.text, reasoning.n);
            say(w, "\n");
            control(w, "</think>");
            say(w, "\n\n");
        }
    }
    if (m->reply && m->reply_content <= m->reply_count) repeat(w, m, m->reply_content);
    else marked(w, content.text, content.n);
    buf_free(&flat);
}

/* ---- turns -------------------------------------------------------------------------------------------------------------- */

static void open_turn(struct writer *w, const char *role) {
    control(w, "<|im_start|>");
    say(w, role);
    say(w, "\n");
}

static void close_turn(struct writer *w) {
    control(w, "<|im_end|>");
    say(w, "\n");
}

static void write_tools(struct writer *w, const struct chat_message *system) {
    struct arena arena = {0};
    const struct json *tools = json_parse(w->options->tools_json, strlen(w->options->tools_json), "tools", &arena, w->err);
    if (!tools) w->code = ERR_FORMAT;
    else if (tools->type != JSON_ARRAY)
        w->code = err_set(w->err, ERR_FORMAT, "tools: expected a JSON array of function signatures, found another value");
    open_turn(w, "system");
    if (system) {
        write_content(w, system);
        say(w, "\n\n");
    }
    say(w, "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
           "signatures within "
           "<tools></tools> XML tags:\n<tools>");
    for (uint32_t i = 0; !w->code && i < tools->count; i++) {
        say(w, "\n");
        python_json(&w->run, tools->items[i]);
    }
    static const char after[] =
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "
        "<args-json-object>}\n</tool_call>";
    marked(w, after, sizeof after - 1);
    close_turn(w);
    arena_free(&arena);
}

/* Whether the rendered content is wrapped in <tool_response> marks: then it is no question of the user's. */
static bool is_tool_response(const struct chat_message *m) {
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    if (m->part_count == 0) return false;
    const struct chat_part *first = &m->parts[0], *last = &m->parts[m->part_count - 1];
    return first->kind == CHAT_TEXT && last->kind == CHAT_TEXT && first->text_len >= sizeof open - 1 &&
           last->text_len >= sizeof close - 1 && memcmp(first->text, open, sizeof open - 1) == 0 &&
           memcmp(last->text + last->text_len - (sizeof close - 1), close, sizeof close - 1) == 0;
}

static int last_query(const struct chat_message *messages, int count) {
    for (int i = count - 1; i >= 0; i--)
        if (messages[i].role == CHAT_USER && !is_tool_response(&messages[i])) return i;
    return count - 1;
}

static void write_tool_result(struct writer *w, const struct chat_message *messages, int count, int i) {
    if (i == 0 || messages[i - 1].role != CHAT_TOOL) {
        control(w, "<|im_start|>");
        say(w, "user");
    }
    say(w, "\n");
    control(w, "<tool_response>");
    say(w, "\n");
    write_content(w, &messages[i]);
    say(w, "\n");
    control(w, "</tool_response>");
    if (i == count - 1 || messages[i + 1].role != CHAT_TOOL) close_turn(w);
}

static void write_message(struct writer *w, const struct chat_message *messages, int count, int i, int query) {
    const struct chat_message *m = &messages[i];
    bool thinking = w->options->format == CHAT_THINKING;
    switch (m->role) {
    case CHAT_SYSTEM:
        if (i == 0 ? w->options->tools_json != NULL : !thinking)
            return; /* in the tools turn already; the Instruct template drops it */
        open_turn(w, "system");
        write_content(w, m);
        close_turn(w);
        return;
    case CHAT_USER:
        open_turn(w, "user");
        write_content(w, m);
        close_turn(w);
        return;
    case CHAT_ASSISTANT:
        open_turn(w, "assistant");
        write_assistant(w, m, i > query, i == count - 1);
        close_turn(w);
        return;
    case CHAT_TOOL: write_tool_result(w, messages, count, i); return;
    }
    w->code = err_set(w->err, ERR_ARGUMENT, "chat: message %d: expected a role, found %d", i, (int)m->role);
}

int chat_encode(const struct tokenizer *t, const struct chat_options *options, const struct chat_message *messages, int count,
                struct token_list *out, struct err *err) {
    struct writer w = {.t = t, .options = options, .out = out, .err = err};
    size_t before = out->count;
    if (options->tools_json) write_tools(&w, count && messages[0].role == CHAT_SYSTEM ? &messages[0] : NULL);
    int query = last_query(messages, count);
    for (int i = 0; i < count && !w.code; i++) write_message(&w, messages, count, i, query);
    if (options->add_generation_prompt && !w.code) {
        open_turn(&w, "assistant");
        if (options->format == CHAT_THINKING) {
            control(&w, "<think>");
            say(&w, "\n");
        }
    }
    flush(&w);
    buf_free(&w.run);
    if (w.code) out->count = before;
    return w.code;
}

/* ---- which template ----------------------------------------------------------------------------------------------------- */

/* Thinking iff what follows add_generation_prompt opens a think block and does not close it in the same string (the text
 * models' templates write an empty, closed block there on request). */
static int judge(const char *template, const char *path, enum chat_format *out, struct err *err) {
    const char *tail = NULL;
    for (const char *p = template; (p = strstr(p, "add_generation_prompt")) != NULL; p++) tail = p;
    if (!tail || !strstr(template, "<|im_start|>"))
        return err_set(err, ERR_FORMAT,
                       "%s: expected a chat template with <|im_start|> turns and add_generation_prompt, found another one", path);
    *out = CHAT_INSTRUCT;
    for (const char *p = tail; (p = strstr(p, "<think>")) != NULL; p++) {
        const char *close = strstr(p, "</think>"), *end = strpbrk(p, "'\"");
        if (!close || (end && close > end)) *out = CHAT_THINKING;
    }
    return 0;
}

static int judge_json(const char *path, enum chat_format *out, bool *found, struct err *err) {
    struct arena arena = {0};
    const struct json *root = json_parse_file(path, TEMPLATE_LIMIT, &arena, err), *v = json_get(root, "chat_template");
    int code = root ? 0 : ERR_FORMAT;
    /* Several named templates: the default one counts. */
    for (uint32_t i = 0; v && v->type == JSON_ARRAY && i < v->count; i++)
        if (strcmp(json_as_string(json_get(v->items[i], "name"), ""), "default") == 0) {
            v = json_get(v->items[i], "template");
            break;
        }
    *found = v && v->type == JSON_STRING;
    if (*found) code = judge(v->string, path, out, err);
    arena_free(&arena);
    return code;
}

int chat_detect_format(const char *folder, enum chat_format *out, struct err *err) {
    static const char *const names[] = {"chat_template.jinja", "chat_template.json", "tokenizer_config.json"};
    for (int i = 0; i < 3; i++) {
        char path[PATH_MAX];
        int n = snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (n < 0 || (size_t)n >= sizeof path)
            return err_set(err, ERR_ARGUMENT, "model folder: path longer than %d bytes", PATH_MAX);
        if (!file_exists(path)) continue;
        bool found = true;
        int code;
        if (i == 0) {
            struct buf text = {0};
            code = file_read(path, TEMPLATE_LIMIT, &text, err);
            if (!code) code = judge(text.data ? text.data : "", path, out, err);
            buf_free(&text);
        } else {
            code = judge_json(path, out, &found, err);
        }
        if (code || found) return code;
    }
    return err_set(err, ERR_MISSING,
                   "%s: expected a chat template in chat_template.jinja, chat_template.json or tokenizer_config.json, found none",
                   folder);
}
