/* The API's endpoints over the bundled model: shapes that clients rely on (each was broken in some server), values against the
 * engine's own, and refusals that name the field. */
#include "test.h"

#include <math.h>

#include "base/base64.h"
#include "serve_server.h"
#include "record/png_file.h"

static struct qvl_model *model;
static struct serve_server server;

static struct reply post(const char *path, const char *body) { return reply_to(server.port, "POST", path, body); }

#define SAY "\"messages\":[{\"role\":\"user\",\"content\":\"Which way?\"}],\"temperature\":0"
static struct reply chat(const char *more) {
    char body[4096];
    snprintf(body, sizeof body, "{" SAY ",%s}", more);
    return post("/v1/chat/completions", body);
}

static int setup(void **state) {
    (void)state;
    serve_start(&server, &(struct http_options){0}, &(struct api_options){.image_pixels = 100000, .images = 3});
    return 0;
}
static int teardown(void **state) {
    (void)state;
    serve_stop(&server);
    qvl_unload(model);
    return 0;
}

/* Comes first: the model is loaded here. */
static void test_loading(void **state) {
    (void)state;
    static const char *const posts[] = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"};
    struct reply r = reply_to(server.port, "GET", "/health", NULL);
    assert_int_equal(r.status, 503);
    assert_string_equal(text_at(r.json, "error.message"), "Loading model");
    reply_free(&r);
    r = reply_to(server.port, "GET", "/v1/models", NULL);
    assert_int_equal(r.status, 503);
    reply_free(&r);
    for (size_t i = 0; i < sizeof posts / sizeof *posts; i++) {
        r = post(posts[i], "{}");
        assert_int_equal(r.status, 503);
        assert_string_equal(answer_header(&r.raw, "retry-after"), "1");
        reply_free(&r);
    }
    assert_int_equal((int)metric(server.port, "pmd_ready"), 0);
    model = serve_load();
    api_ready(server.api, model);
    r = reply_to(server.port, "GET", "/health", NULL);
    assert_int_equal(r.status, 200);
    assert_string_equal(r.raw.body.data, "{\"status\":\"ok\"}");
    reply_free(&r);
}

static void test_models(void **state) {
    (void)state;
    struct reply r = reply_to(server.port, "GET", "/v1/models", NULL);
    assert_string_equal(text_at(r.json, "object"), "list");
    assert_string_equal(text_at(r.json, "data.0.id"), "tinywoods");
    assert_string_equal(text_at(r.json, "data.0.object"), "model");
    assert_int_equal(number_at(r.json, "data.0.meta.n_vocab"), 640);
    assert_non_null(strstr(r.raw.body.data, "\"multimodal\""));
    reply_free(&r);
    r = reply_to(server.port, "GET", "/v1/models/tinywoods", NULL);
    assert_string_equal(text_at(r.json, "id"), "tinywoods");
    reply_free(&r);
    r = reply_to(server.port, "GET", "/v1/models/gpt-4", NULL);
    assert_int_equal(r.status, 404);
    reply_free(&r);
}

static void test_chat(void **state) {
    (void)state;
    struct reply r = chat("\"max_tokens\":5"), again = chat("\"max_completion_tokens\":5,\"model\":\"tinywoods\",\"unknown_field\":1");
    assert_int_equal(r.status, 200);
    assert_string_equal(text_at(r.json, "object"), "chat.completion");
    assert_string_equal(text_at(r.json, "choices.0.message.role"), "assistant");
    assert_string_equal(text_at(r.json, "choices.0.finish_reason"), "length");
    assert_int_equal(number_at(r.json, "usage.completion_tokens"), 5);
    assert_int_equal(number_at(r.json, "usage.total_tokens"), number_at(r.json, "usage.prompt_tokens") + 5);
    assert_true(!strncmp(text_at(r.json, "id"), "chatcmpl-", 9) && strcmp(text_at(r.json, "id"), text_at(again.json, "id")));
    assert_true(strncmp(answer_header(&r.raw, "x-request-id"), "req-", 4) == 0);
    assert_string_equal(text_at(again.json, "choices.0.message.content"), text_at(r.json, "choices.0.message.content"));
    assert_int_equal(number_at(again.json, "usage.prompt_tokens_details.cached_tokens"), number_at(r.json, "usage.prompt_tokens") - 1);
    reply_free(&r);
    reply_free(&again);
}

static void test_stream(void **state) {
    (void)state;
    static const struct json *e[MAX_EVENTS];
    bool done;
    struct reply whole = chat("\"max_tokens\":9"), r = chat("\"max_tokens\":9,\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    assert_int_equal(r.status, 200);
    assert_string_equal(answer_header(&r.raw, "content-type"), "text/event-stream; charset=utf-8");
    int n = stream_events(&r, e, &done);
    assert_true(done && n >= 4);
    struct buf text = {0};
    for (int i = 0; i < n; i++) {
        assert_string_equal(text_at(e[i], "object"), "chat.completion.chunk");
        assert_string_equal(text_at(e[i], "id"), text_at(e[0], "id"));
        if (i == n - 1) break;
        const struct json *finish = json_at(e[i], "choices.0.finish_reason"), *usage = json_get(e[i], "usage");
        assert_true(usage && usage->type == JSON_NULL);
        assert_non_null(finish);                                       /* never missing */
        if (i < n - 2) assert_int_equal(finish->type, JSON_NULL);      /* never "" before the end */
        else assert_string_equal(finish->string, "length");
        if (i == n - 2) assert_int_equal(json_at(e[i], "choices.0.delta")->count, 0);
        const struct json *role = json_at(e[i], "choices.0.delta.role");
        assert_int_equal(role != NULL, i == 0);
        buf_str(&text, json_as_string(json_at(e[i], "choices.0.delta.content"), ""));
    }
    assert_string_equal(text.data, text_at(whole.json, "choices.0.message.content"));
    assert_int_equal(json_get(e[n - 1], "choices")->count, 0);
    assert_int_equal(number_at(e[n - 1], "usage.completion_tokens"), 9);
    assert_true(number_at(e[n - 1], "usage.prompt_tokens_details.cached_tokens") > 0);
    buf_free(&text);
    reply_free(&r);
    r = chat("\"max_tokens\":9,\"stream\":true");
    n = stream_events(&r, e, &done);
    assert_true(done && json_get(e[n - 1], "choices")->count == 1 && !json_get(e[0], "usage"));
    reply_free(&r);
    reply_free(&whole);
}

static void test_stream_of_many(void **state) {
    (void)state;
    static const struct json *e[MAX_EVENTS];
    bool done;
    struct buf text[3] = {0};
    int ends[3] = {0};
    /* Hot enough that the answers differ however sure the bundled weights are. */
    struct reply r = {0}, whole = post("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":12,\"n\":3,\"seed\":5,\"temperature\":20}");
    r = post("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":12,\"n\":3,\"seed\":5,\"temperature\":20,\"stream\":true}");
    int n = stream_events(&r, e, &done);
    for (int i = 0; i < n; i++) {
        long k = number_at(e[i], "choices.0.index");
        assert_true(k >= 0 && k < 3 && !ends[k]);
        buf_str(&text[k], json_as_string(json_at(e[i], "choices.0.delta.content"), ""));
        ends[k] = json_at(e[i], "choices.0.finish_reason")->type == JSON_STRING;
    }
    for (int k = 0; k < 3; k++) {
        char path[60];
        snprintf(path, sizeof path, "choices.%d.message.content", k);
        assert_true(ends[k]);
        assert_string_equal(text[k].data, text_at(whole.json, path));
        buf_free(&text[k]);
    }
    assert_string_not_equal(text_at(whole.json, "choices.0.message.content"), text_at(whole.json, "choices.1.message.content"));
    assert_int_equal(number_at(whole.json, "usage.completion_tokens"), 36);
    reply_free(&whole);
    reply_free(&r);
}

static void test_logprobs(void **state) {
    (void)state;
    struct reply r = chat("\"max_tokens\":6,\"logprobs\":true,\"top_logprobs\":3");
    const struct json *content = json_at(r.json, "choices.0.logprobs.content");
    assert_int_equal(content->count, 6);
    struct buf text = {0};
    for (uint32_t i = 0; i < content->count; i++) {
        const struct json *t = content->items[i], *bytes = json_get(t, "bytes"), *top = json_get(t, "top_logprobs");
        assert_int_equal(top->count, 3);
        assert_string_equal(text_at(top->items[0], "token"), text_at(t, "token")); /* greedy */
        assert_true(json_as_number(json_get(t, "logprob"), 1) <= 0);
        double sum = 0;
        for (uint32_t k = 0; k < 3; k++) sum += exp(json_as_number(json_get(top->items[k], "logprob"), 0));
        assert_true(sum <= 1.0001);
        for (uint32_t k = 0; k < bytes->count; k++) buf_char(&text, (char)bytes->items[k]->integer);
    }
    assert_string_equal(text.data, text_at(r.json, "choices.0.message.content"));
    buf_free(&text);
    reply_free(&r);
    r = chat("\"max_tokens\":2");
    assert_int_equal(json_at(r.json, "choices.0.logprobs")->type, JSON_NULL);
    reply_free(&r);
}

static void test_stop_and_bias(void **state) {
    (void)state;
    struct reply r = chat("\"max_tokens\":30,\"logit_bias\":{\"40\":100}"), t = post("/detokenize", "{\"tokens\":[40]}");
    const char *one = text_at(t.json, "content"), *all = text_at(r.json, "choices.0.message.content");
    assert_int_equal(strlen(all), 30 * strlen(one));
    for (int i = 0; i < 30; i++) assert_memory_equal(all + (size_t)i * strlen(one), one, strlen(one));
    reply_free(&r);
    r = chat("\"max_tokens\":5,\"logit_bias\":{\"40\":-100}");
    assert_null(strstr(text_at(r.json, "choices.0.message.content"), one));
    reply_free(&r);
    reply_free(&t);
    r = chat("\"max_tokens\":30,\"stop\":[\"no such\",\"}\\\"}\"]"); /* the model says "}"}"}... */
    assert_string_equal(text_at(r.json, "choices.0.message.content"), "\"");
    assert_string_equal(text_at(r.json, "choices.0.finish_reason"), "stop");
    reply_free(&r);
}

static void test_schema(void **state) {
    (void)state;
#define SCHEMA(s) "\"max_tokens\":200,\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"strict\":true,\"schema\":" s "}}"
    struct err err;
    struct arena arena = {0};
    struct reply r = chat(SCHEMA("{\"type\":\"object\",\"properties\":{\"action\":{\"enum\":[\"wait\",\"walk_north\"]},\"sure\":{\"type\":\"boolean\"}},"
                                 "\"required\":[\"action\",\"sure\"],\"additionalProperties\":false}"));
    assert_int_equal(r.status, 200);
    const char *text = text_at(r.json, "choices.0.message.content");
    const struct json *j = json_parse(text, strlen(text), "answer", &arena, &err);
    assert_non_null(j);
    assert_true(!strcmp(text_at(j, "action"), "wait") || !strcmp(text_at(j, "action"), "walk_north"));
    assert_int_equal(json_get(j, "sure")->type, JSON_BOOL);
    assert_string_equal(text_at(r.json, "choices.0.finish_reason"), "stop");
    arena_free(&arena);
    reply_free(&r);
    static const char *const refused[][2] = { /* by the keyword's name, never ignored */
        {"patternProperties", SCHEMA("{\"type\":\"object\",\"patternProperties\":{}}")},
        {"not", SCHEMA("{\"not\":{}}")},
        {"if", SCHEMA("{\"type\":\"object\",\"properties\":{\"a\":{\"if\":{}}}}")},
        {"json_object", "\"response_format\":{\"type\":\"json_object\"}"},
        {"schema", "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\"}}"},
        {"grammar", "\"response_format\":{\"type\":\"grammar\"}"}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        r = chat(refused[i][1]);
        if (r.status != 400 || !strstr(text_at(r.json, "error.message"), refused[i][0]))
            fail_msg("%s: %d %s", refused[i][0], r.status, r.raw.body.data);
        assert_string_equal(text_at(r.json, "error.param"), "response_format");
        reply_free(&r);
    }
}

/* ---- pictures ---- */

static void picture_uri(struct buf *out, int width, int height, int shade) {
    struct buf png = {0};
    uint8_t *rgb = malloc((size_t)width * (size_t)height * 3);
    struct err err;
    for (int i = 0; i < width * height * 3; i++) rgb[i] = (uint8_t)(i * 7 / width + shade);
    assert_int_equal(png_encode(rgb, width, height, 6, &png, &err), 0);
    buf_str(out, "data:image/png;base64,");
    base64_encode(png.data, png.len, out);
    buf_free(&png);
    free(rgb);
}

static struct reply chat_with_pictures(const char *const *urls, int count, const char *url_form) {
    struct buf b = {0};
    buf_str(&b, "{\"max_tokens\":4,\"temperature\":0,\"logprobs\":true,\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"What?\"}");
    for (int i = 0; i < count; i++) {
        buf_str(&b, ",{\"type\":\"image_url\",\"image_url\":");
        buf_printf(&b, url_form, urls[i]);
        buf_char(&b, '}');
    }
    buf_str(&b, "]}]}");
    struct reply r = post("/v1/chat/completions", b.data);
    buf_free(&b);
    return r;
}
static const char object_form[] = "{\"url\":\"%s\",\"detail\":\"low\"}", string_form[] = "\"%s\"";

static void test_pictures(void **state) {
    (void)state;
    struct buf a = {0}, b = {0}, large = {0};
    picture_uri(&a, 240, 160, 0);
    picture_uri(&b, 240, 160, 9);
    picture_uri(&large, 400, 300, 0);
    const char *urls[] = {a.data, b.data, a.data, b.data};
    struct reply none = chat_with_pictures(NULL, 0, object_form), one = chat_with_pictures(urls, 1, object_form),
                 same = chat_with_pictures(urls, 1, string_form), two = chat_with_pictures(urls, 2, object_form),
                 other = chat_with_pictures(urls + 1, 1, object_form);
    long added = number_at(one.json, "usage.prompt_tokens") - number_at(none.json, "usage.prompt_tokens");
    assert_int_equal(one.status, 200);
    assert_true(added > 10);
    assert_int_equal(number_at(two.json, "usage.prompt_tokens") - number_at(one.json, "usage.prompt_tokens"), added);
    const struct json *p = json_at(one.json, "choices.0.logprobs.content.0.logprob"), *q = json_at(same.json, "choices.0.logprobs.content.0.logprob"),
                      *d = json_at(other.json, "choices.0.logprobs.content.0.logprob");
    assert_true(p->number == q->number && p->number != d->number); /* seen, and not taken for another */
    reply_free(&none);
    reply_free(&one);
    reply_free(&same);
    reply_free(&two);
    reply_free(&other);

    const char *big[] = {large.data};
    struct reply r = chat_with_pictures(big, 1, object_form); /* 120,000 pixels */
    assert_int_equal(r.status, 400);
    assert_non_null(strstr(text_at(r.json, "error.message"), "pixels"));
    reply_free(&r);
    r = chat_with_pictures(urls, 3, object_form); /* each fits, all together do not */
    assert_int_equal(r.status, 400);
    assert_string_equal(text_at(r.json, "error.param"), "messages[1].content[3]");
    reply_free(&r);
    r = chat_with_pictures(urls, 4, object_form);
    assert_int_equal(r.status, 400);
    reply_free(&r);
    static const char *const bad[][2] = {
        {"data:image/png;base64,####", "base64"}, {"data:image/png;base64,AAAA", "PNG or JPEG"}, {"data:image/png;base64,", "base64"},
        {"data:image/png,AAAA", "base64"}, {"data:image/gif;base64,R0lGODlhAQABAAAAACw=", "GIF"}, {"file:///etc/passwd", "data URI"},
        {"FILE:///etc/passwd", "data URI"}, {"ftp://127.0.0.1/x.png", "data URI"}, {"http://127.0.0.1/x.png", "switched off"},
        {"https://example.org/x.png", "switched off"}, {"", "data URI"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r = chat_with_pictures(bad[i], 1, object_form);
        if (r.status != 400 || !strstr(text_at(r.json, "error.message"), bad[i][1])) fail_msg("%s: %d %s", bad[i][0], r.status, r.raw.body.data);
        assert_string_equal(text_at(r.json, "error.param"), "messages[1].content[1]");
        reply_free(&r);
    }
    buf_free(&a);
    buf_free(&b);
    buf_free(&large);
}

/* ---- bad requests ---- */

static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *body, *param; int status; } cases[] = {
        {"", NULL, 400}, {"[]", NULL, 400}, {"{\"a\":", NULL, 400}, {"{\"a\":1,\"a\":2}", NULL, 400}, {"{\"a\":NaN}", NULL, 400},
        {"{\"a\":\"\xff\"}", NULL, 400}, {"{}", "messages", 400}, {"{\"messages\":[]}", "messages", 400}, {"{\"messages\":[1]}", "messages[0]", 400},
        {"{\"messages\":[{\"role\":\"root\",\"content\":\"x\"}]}", "messages[0]", 400},
        {"{\"messages\":[{\"role\":\"user\"}]}", "messages[0]", 400},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"audio\"}]}]}", "messages[0].content[0]", 400},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}", "messages[0]", 400},
        {"{" SAY ",\"model\":\"other\"}", "model", 404}, {"{" SAY ",\"model\":7}", "model", 400},
        {"{\"temperature\":-0.1}", "temperature", 400}, {"{\"temperature\":1e999}", "temperature", 400}, {"{\"temperature\":\"hot\"}", "temperature", 400},
        {"{\"top_p\":1.5}", "top_p", 400}, {"{\"top_k\":-2}", "top_k", 400}, {"{\"n\":0}", "n", 400}, {"{\"n\":17}", "n", 400}, {"{\"n\":1.5}", "n", 400},
        {"{\"n\":99999999999999999999}", "n", 400}, {"{\"max_tokens\":-1}", "max_tokens", 400}, {"{\"max_tokens\":0}", "max_tokens", 400},
        {"{\"max_tokens\":1e300}", "max_tokens", 400}, {"{\"seed\":\"x\"}", "seed", 400}, {"{\"stream\":\"yes\"}", "stream", 400},
        {"{\"stream_options\":{\"include_usage\":true}}", "stream_options", 400}, {"{\"stop\":[\"\"]}", "stop", 400}, {"{\"stop\":5}", "stop", 400},
        {"{\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\",\"13\",\"14\",\"15\",\"16\",\"17\"]}", "stop", 400},
        {"{\"logit_bias\":{\"640\":1}}", "logit_bias", 400}, {"{\"logit_bias\":{\"-1\":1}}", "logit_bias", 400}, {"{\"logit_bias\":{\"x\":1}}", "logit_bias", 400},
        {"{\"logit_bias\":{\"1\":101}}", "logit_bias", 400}, {"{\"logit_bias\":[1]}", "logit_bias", 400}, {"{\"logprobs\":1}", "logprobs", 400},
        {"{\"top_logprobs\":2}", "top_logprobs", 400}, {"{\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", 400},
        {"{\"tools\":[{\"type\":\"function\"}]}", "tools", 400}, {"{\"guided_regex\":\"a*\"}", "guided_regex", 400}, {"{\"best_of\":2}", "best_of", 400},
        {"{\"repetition_penalty\":0}", "repetition_penalty", 400}, {"{\"presence_penalty\":1e9}", "presence_penalty", 400}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct reply r = post("/v1/chat/completions", cases[i].body);
        if (r.status != cases[i].status) fail_msg("%s: %d %s", cases[i].body, r.status, r.raw.body.data);
        assert_string_equal(text_at(r.json, "error.type"), "invalid_request_error");
        assert_int_equal(number_at(r.json, "error.code"), cases[i].status);
        const struct json *param = json_at(r.json, "error.param");
        if (cases[i].param ? param->type != JSON_STRING || strcmp(param->string, cases[i].param) : param->type != JSON_NULL)
            fail_msg("%s: %s", cases[i].body, r.raw.body.data);
        reply_free(&r);
    }
}

static void test_greedy_documents(void **state) {
    (void)state;
    struct buf b = {0};
    for (int i = 0; i < 100000; i++) buf_char(&b, '[');
    struct reply r = post("/v1/chat/completions", b.data);
    assert_int_equal(r.status, 400);
    assert_non_null(strstr(text_at(r.json, "error.message"), "deeper than 128"));
    reply_free(&r);
    buf_clear(&b);
    buf_str(&b, "{\"prompt\":[0"); /* 4 MB that would be a tree of 112 MB */
    for (int i = 0; i < 2000000; i++) buf_str(&b, ",0");
    buf_str(&b, "]}");
    r = post("/v1/completions", b.data);
    assert_int_equal(r.status, 413);
    reply_free(&r);
    buf_clear(&b);
    buf_str(&b, "{\"max_tokens\":1,\"prompt\":\"");
    for (int i = 0; i < 30000; i++) buf_str(&b, "walk ");
    buf_str(&b, "\"}");
    r = post("/v1/completions", b.data);
    assert_int_equal(r.status, 400);
    if (!strstr(text_at(r.json, "error.message"), "4096")) fail_msg("%s", r.raw.body.data);
    reply_free(&r);
    buf_free(&b);
}

/* ---- completions, embeddings, tokens ---- */

static void test_completions(void **state) {
    (void)state;
    static const struct json *e[MAX_EVENTS];
    bool done;
    struct reply r = post("/v1/completions", "{\"prompt\":\"walk\",\"temperature\":0,\"max_tokens\":6}"),
                 s = post("/v1/completions", "{\"prompt\":\"walk\",\"temperature\":0,\"max_tokens\":6,\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    assert_string_equal(text_at(r.json, "object"), "text_completion");
    assert_string_equal(text_at(r.json, "choices.0.finish_reason"), "length");
    int n = stream_events(&s, e, &done);
    struct buf text = {0};
    for (int i = 0; i < n - 1; i++) buf_str(&text, text_at(e[i], "choices.0.text"));
    assert_true(done);
    assert_string_equal(text.data, text_at(r.json, "choices.0.text"));
    assert_int_equal(number_at(e[n - 1], "usage.completion_tokens"), 6);
    buf_free(&text);
    reply_free(&s);
    struct reply many = post("/v1/completions", "{\"prompt\":[\"eat\",\"walk\"],\"n\":2,\"temperature\":0,\"max_tokens\":6}");
    assert_int_equal(json_get(many.json, "choices")->count, 4);
    assert_int_equal(number_at(many.json, "choices.3.index"), 3);
    assert_string_equal(text_at(many.json, "choices.2.text"), text_at(r.json, "choices.0.text"));
    reply_free(&many);
    reply_free(&r);
    static const char *const bad[] = {"{\"prompt\":[]}", "{\"prompt\":[[]]}", "{\"prompt\":[1.5]}", "{\"prompt\":[-1]}", "{\"prompt\":[640]}", "{\"prompt\":\"\"}", "{}",
                                      "{\"prompt\":[1,\"a\"]}", "{\"prompt\":{}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r = post("/v1/completions", bad[i]);
        if (r.status != 400) fail_msg("%s: %d", bad[i], r.status);
        assert_string_equal(text_at(r.json, "error.param"), "prompt");
        reply_free(&r);
    }
    r = post("/v1/completions", "{\"prompt\":\"a\",\"echo\":true,\"stream\":true}");
    assert_string_equal(text_at(r.json, "error.param"), "echo");
    reply_free(&r);
    r = post("/v1/completions", "{\"prompt\":\"a\",\"suffix\":\"b\"}");
    assert_string_equal(text_at(r.json, "error.param"), "suffix");
    reply_free(&r);
}

/* What lm-eval sums up: log-probabilities of the prompt's own tokens, equal to the engine's. */
static void test_echo(void **state) {
    (void)state;
    static const int32_t ids[] = {40, 41, 42, 43, 44};
    struct qvl_session *s;
    struct qvl_token *scored;
    size_t count;
    struct err err;
    assert_int_equal(qvl_session_new(model, &s, &err), 0);
    assert_int_equal(qvl_session_raw_ids(s, ids, 5, &err), 0);
    assert_int_equal(qvl_score(s, 2, &scored, &count, &err), 0);
    for (int generated = 0; generated <= 1; generated++) {
        char body[200];
        snprintf(body, sizeof body, "{\"prompt\":[40,41,42,43,44],\"echo\":true,\"logprobs\":2,\"max_tokens\":%d,\"temperature\":0}", generated);
        struct reply r = post("/v1/completions", body);
        const struct json *l = json_at(r.json, "choices.0.logprobs"), *values = json_get(l, "token_logprobs"), *offsets = json_get(l, "text_offset");
        assert_int_equal(values->count, 5 + generated);
        assert_int_equal(json_get(l, "tokens")->count, 5 + generated);
        assert_int_equal(json_get(l, "top_logprobs")->count, 5 + generated);
        assert_int_equal(values->items[0]->type, JSON_NULL);
        size_t offset = 0;
        for (int i = 0; i < 5; i++) {
            if (i) assert_float_equal(values->items[i]->number, scored[i].logprob, 1e-6);
            if (i) assert_true(json_at(l, "top_logprobs")->items[i]->count >= 1);
            assert_int_equal(offsets->items[i]->integer, offset);
            offset += strlen(json_get(l, "tokens")->items[i]->string);
        }
        assert_int_equal(number_at(r.json, "usage.prompt_tokens"), 5);
        reply_free(&r);
    }
    free(scored);
    qvl_session_free(s);
}

static void test_embeddings(void **state) {
    (void)state;
    struct reply r = post("/v1/embeddings", "{\"input\":[\"walk east\",\"eat\"],\"model\":\"tinywoods\"}"),
                 b = post("/v1/embeddings", "{\"input\":\"walk east\",\"encoding_format\":\"base64\"}");
    const struct json *v = json_at(r.json, "data.0.embedding"), *w = json_at(r.json, "data.1.embedding");
    double length = 0, dot = 0;
    assert_int_equal(v->count, 256);
    for (uint32_t i = 0; i < v->count; i++) {
        length += json_as_number(v->items[i], 0) * json_as_number(v->items[i], 0);
        dot += json_as_number(v->items[i], 0) * json_as_number(w->items[i], 0);
    }
    assert_float_equal(length, 1, 1e-4);
    assert_true(dot < 0.9999);
    float first;
    struct buf text = {0};
    for (uint32_t i = 0; i < 256; i++) {
        first = (float)json_as_number(v->items[i], 0);
        buf_append(&text, &first, sizeof first);
    }
    struct buf encoded = {0};
    base64_encode(text.data, text.len, &encoded);
    assert_string_equal(text_at(b.json, "data.0.embedding"), encoded.data);
    buf_free(&text);
    buf_free(&encoded);
    reply_free(&r);
    reply_free(&b);
    static const char *const bad[][2] = {{"{\"input\":[]}", "input"}, {"{\"input\":\"\"}", "input"}, {"{\"input\":[\"a\",5]}", "input"},
                                         {"{\"input\":[700]}", "input"}, {"{\"input\":\"a\",\"dimensions\":3}", "dimensions"},
                                         {"{\"input\":\"a\",\"encoding_format\":\"int8\"}", "encoding_format"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r = post("/v1/embeddings", bad[i][0]);
        if (r.status != 400) fail_msg("%s: %d", bad[i][0], r.status);
        assert_string_equal(text_at(r.json, "error.param"), bad[i][1]);
        reply_free(&r);
    }
}

static void test_tokens(void **state) {
    (void)state;
    struct reply r = post("/tokenize", "{\"content\":\"walk east, \\u00e9\\u732b\"}");
    struct buf b = {0};
    const struct json *ids = json_get(r.json, "tokens");
    assert_int_equal(number_at(r.json, "count"), ids->count);
    buf_str(&b, "{\"tokens\":[");
    for (uint32_t i = 0; i < ids->count; i++) buf_printf(&b, "%s%lld", i ? "," : "", (long long)ids->items[i]->integer);
    buf_str(&b, "]}");
    reply_free(&r);
    r = post("/detokenize", b.data);
    assert_string_equal(text_at(r.json, "content"), "walk east, \xc3\xa9\xe7\x8c\xab");
    reply_free(&r);
    buf_free(&b);
    r = post("/tokenize", "{\"messages\":[{\"role\":\"user\",\"content\":\"Which way?\"}]}");
    struct reply c = chat("\"max_tokens\":1");
    assert_int_equal(number_at(r.json, "count"), number_at(c.json, "usage.prompt_tokens"));
    reply_free(&c);
    reply_free(&r);
    r = post("/detokenize", "{\"tokens\":[640]}");
    assert_int_equal(r.status, 400);
    reply_free(&r);
    r = post("/tokenize", "{}");
    assert_int_equal(r.status, 400);
    reply_free(&r);
}

static void test_metrics(void **state) {
    (void)state;
    struct http_answer a = http_ask(server.port, "GET", "/metrics", NULL, NULL);
    static const char *const names[] = {
        "pmd_requests_total{endpoint=\"chat_completions\",result=\"ok\"}", "pmd_time_to_first_token_seconds_bucket{le=\"+Inf\"}",
        "pmd_inter_token_seconds_count", "pmd_request_seconds_sum", "pmd_requests_running", "pmd_requests_waiting", "pmd_kv_cache_usage_ratio",
        "pmd_prefix_cache_hit_tokens_total", "pmd_prefix_cache_evictions_total", "pmd_image_cache_hits_total", "pmd_model_loads_total",
        "pmd_host_cache_bytes", "pmd_disk_cache_hit_tokens_total", "pmd_disk_cache_drops_total{reason=\"damaged\"}",
        "pmd_model_memory_bytes", "pmd_resident_bytes", "prompt_tokens_total", "tokens_predicted_total", "prompt_tokens_seconds",
        "predicted_tokens_seconds", "kv_cache_usage_ratio", "requests_processing", "requests_deferred", "num_requests_running",
        "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries", "prefix_cache_hits", "time_to_first_token_seconds_count"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char line[120];
        snprintf(line, sizeof line, "\n%s ", names[i]);
        if (!strstr(a.body.data, line)) fail_msg("%s is missing", names[i]);
    }
    answer_free(&a);
    double before = metric(server.port, "pmd_generated_tokens_total"), prompt = metric(server.port, "pmd_prompt_tokens_total");
    struct reply r = chat("\"max_tokens\":7");
    assert_float_equal(metric(server.port, "pmd_generated_tokens_total") - before, 7, 0.01);
    assert_float_equal(metric(server.port, "pmd_prompt_tokens_total") - prompt, number_at(r.json, "usage.prompt_tokens"), 0.01);
    for (int i = 0; i < 100 && metric(server.port, "pmd_requests_running") > 0; i++) usleep(5000); /* the answer comes a moment before */
    assert_int_equal((int)metric(server.port, "pmd_requests_running"), 0);
    reply_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loading),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_stream_of_many),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_stop_and_bias),
        cmocka_unit_test(test_schema),
        cmocka_unit_test(test_pictures),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_greedy_documents),
        cmocka_unit_test(test_completions),
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_metrics),
    };
    return cmocka_run_group_tests_name("serve", tests, setup, teardown);
}
