/* Messages of a chat request into a session: text, and pictures as data URIs or (where allowed) URLs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "serve/api_room.h"
#include "vision/image.h"

enum { MAX_MESSAGES = 4096, MAX_PARTS = 1024 };
static const size_t image_limit = (size_t)64 << 20;

struct reader {
    struct api *a;
    struct api_job *job;
    struct api_fault *f;
    int images;
    int64_t pixels; /* left for this request */
    char where[60]; /* "messages[3].content[1]" */
};

static int read_role(const struct json *m, enum qvl_role *out, struct reader *r) {
    static const struct { const char *name; enum qvl_role role; } roles[] = {
        {"system", QVL_SYSTEM}, {"developer", QVL_SYSTEM}, {"user", QVL_USER}, {"assistant", QVL_ASSISTANT}, {"tool", QVL_TOOL}};
    const char *name = json_as_string(json_get(m, "role"), "");
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(roles[i].name, name)) return *out = roles[i].role, 0;
    return api_fail(r->f, 400, r->where, "%s.role is '%.40s', expected system, developer, user, assistant or tool", r->where, name);
}

static int read_text(const struct json *v, const char **out, struct reader *r) {
    if (!v || v->type != JSON_STRING) return api_fail(r->f, 400, r->where, "%s has no text", r->where);
    if (strlen(v->string) != v->count) return api_fail(r->f, 400, r->where, "%s: the text holds a NUL", r->where);
    *out = v->string;
    return 0;
}

/* "data:image/png;base64,..." or a URL into bytes, which are checked to be a picture of bearable size. */
static int read_image(const struct json *part, struct buf *out, struct reader *r) {
    const struct json *image = json_get(part, "image_url");
    const char *url = json_as_string(image && image->type == JSON_OBJECT ? json_get(image, "url") : image, NULL);
    struct err err = {0};
    if (!url) return api_fail(r->f, 400, r->where, "%s: 'image_url' needs a 'url'", r->where);
    if (++r->images > r->a->options.images)
        return api_fail(r->f, 400, r->where, "%s: more than %d pictures in one request", r->where, r->a->options.images);
    if (!strncasecmp(url, "data:", 5)) {
        const char *comma = strchr(url, ',');
        if (!comma || comma - url < 12 || strncasecmp(comma - 7, ";base64", 7))
            return api_fail(r->f, 400, r->where, "%s: expected 'data:image/...;base64,...'", r->where);
        if (base64_decode(comma + 1, strlen(comma + 1), out) || out->len == 0)
            return api_fail(r->f, 400, r->where, "%s: the data URI holds no valid base64", r->where);
    } else if (!strncasecmp(url, "http://", 7) || !strncasecmp(url, "https://", 8)) {
        if (!r->a->options.fetch_images)
            return api_fail(r->f, 400, r->where, "%s: pictures by http(s) are switched off here (serve --fetch-images); send a data URI",
                            r->where);
        if (image_fetch(url, image_limit, &r->job->cancel, out, &err))
            return api_fail(r->f, 400, r->where, "%s: %s", r->where, err.message);
    } else
        return api_fail(r->f, 400, r->where, "%s: 'image_url' must be a data URI or an http(s) URL", r->where);
    return 0;
}

static int read_part(const struct json *part, struct qvl_part *out, struct buf *file, struct image *image, struct reader *r) {
    const char *type = json_as_string(json_get(part, "type"), "");
    struct err err = {0};
    if (!strcmp(type, "text") || !strcmp(type, "input_text")) return read_text(json_get(part, "text"), &out->text, r);
    if (!strcmp(type, "refusal")) return read_text(json_get(part, "refusal"), &out->text, r);
    if (strcmp(type, "image_url"))
        return api_fail(r->f, 400, r->where, "%s.type is '%.40s', expected text or image_url", r->where, type);
    if (read_image(part, file, r)) return -1;
    /* Decoded here, under this server's own limit on pixels, so that the error names the part. */
    int64_t width = 0, height = 0;
    int code = image_size(file->data, file->len, r->pixels, &width, &height, &err);
    if (!code && api_take_pixels(r->job, width * height, r->f)) return -1;
    r->pixels -= width * height;
    if (code || image_decode(file->data, file->len, r->a->options.image_pixels, image, &err))
        return api_fail(r->f, err.code == ERR_MEMORY ? 500 : 400, r->where, "%s: %s", r->where, err.message);
    buf_free(file);
    *out = (struct qvl_part){.rgb = image->rgb, .width = image->width, .height = image->height};
    return 0;
}

static int read_message(const struct json *m, struct qvl_session *s, struct reader *r) {
    const struct json *content = json_get(m, "content");
    enum qvl_role role = QVL_USER;
    struct err err = {0};
    if (m->type != JSON_OBJECT) return api_fail(r->f, 400, r->where, "%s is no object", r->where);
    if (read_role(m, &role, r)) return -1;
    const struct json *calls = json_get(m, "tool_calls");
    if (calls && calls->type == JSON_ARRAY && calls->count)
        return api_fail(r->f, 400, r->where, "%s: 'tool_calls' are not supported by this server", r->where);
    uint32_t count = content && content->type == JSON_ARRAY ? content->count : 1;
    if (count > MAX_PARTS) return api_fail(r->f, 400, r->where, "%s has %u parts, at most %d are taken", r->where, count, MAX_PARTS);
    struct qvl_part *parts = calloc(count + 1, sizeof *parts);
    struct buf *files = calloc(count + 1, sizeof *files);
    struct image *images = calloc(count + 1, sizeof *images);
    int result = parts && files && images ? 0 : api_fail(r->f, 500, NULL, "out of memory for a message");
    if (result) {
        /* nothing was read */
    } else if (!content || content->type == JSON_NULL) {
        if (role != QVL_ASSISTANT) result = api_fail(r->f, 400, r->where, "%s has no content", r->where);
        parts[0].text = "";
    } else if (content->type == JSON_STRING) {
        result = read_text(content, &parts[0].text, r);
    } else if (content->type == JSON_ARRAY) {
        size_t base = strlen(r->where);
        for (uint32_t i = 0; !result && i < count; i++) {
            snprintf(r->where + base, sizeof r->where - base, ".content[%u]", i);
            result = read_part(content->items[i], &parts[i], &files[i], &images[i], r);
        }
        if (!result) r->where[base] = 0;
    } else
        result = api_fail(r->f, 400, r->where, "%s.content is neither a string nor a list", r->where);
    if (!result && qvl_session_message(s, role, parts, (int)count, &err)) result = api_fail_engine(r->f, r->where, &err);
    for (uint32_t i = 0; files && images && i < count; i++) {
        buf_free(&files[i]);
        image_free(&images[i]);
    }
    free(parts);
    free(files);
    free(images);
    return result;
}

int api_read_messages(struct api_job *job, const struct json *body, struct qvl_session *s, struct api_fault *f) {
    const struct json *list = json_get(body, "messages");
    struct reader r = {.a = job->a, .job = job, .f = f, .pixels = job->a->options.image_pixels};
    if (!list || list->type != JSON_ARRAY || list->count == 0)
        return api_fail(f, 400, "messages", "'messages' must be a list of at least one message");
    if (list->count > MAX_MESSAGES)
        return api_fail(f, 400, "messages", "'messages' has %u messages, at most %d are taken", list->count, MAX_MESSAGES);
    for (uint32_t i = 0; i < list->count; i++) {
        snprintf(r.where, sizeof r.where, "messages[%u]", i);
        if (read_message(list->items[i], s, &r)) return -1;
    }
    return 0;
}
