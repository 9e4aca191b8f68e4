#include "engine/session.h"

#include <math.h>
#include <stdlib.h>

static int session_make(struct qvl_model *m, struct qvl_session **out, struct err *err) {
    *out = calloc(1, sizeof **out);
    if (!*out) return err_set(err, ERR_MEMORY, "out of memory for a session");
    (*out)->m = m;
    __atomic_add_fetch(&m->sessions, 1, __ATOMIC_RELAXED);
    return 0;
}

int qvl_session_new(struct qvl_model *m, struct qvl_session **out, struct err *err) {
    return session_make(replica_for_session(m), out, err);
}

struct qvl_model *session_model(const struct qvl_session *s) { return s->m; }

static void item_free(struct session_item *item) {
    for (int i = 0; i < item->part_count; i++) {
        free(item->parts[i].text);
        visual_drop(item->parts[i].visual);
    }
    free(item->parts);
    free(item->reasoning);
    free(item->ids);
    free(item->reply);
}

static void changed(struct qvl_session *s) {
    prompt_free(&s->prompt);
    s->built = false;
}

void qvl_session_clear(struct qvl_session *s) {
    for (int i = 0; i < s->count; i++) item_free(&s->items[i]);
    s->count = 0;
    changed(s);
}

void qvl_session_free(struct qvl_session *s) {
    if (!s) return;
    qvl_session_clear(s);
    free(s->items);
    __atomic_sub_fetch(&s->m->sessions, 1, __ATOMIC_RELAXED);
    free(s);
}

static int add_item(struct qvl_session *s, struct session_item *item, struct err *err) {
    if (s->count == s->capacity) {
        int want = s->capacity ? s->capacity * 2 : 8;
        struct session_item *more = realloc(s->items, (size_t)want * sizeof *more);
        if (!more) {
            item_free(item);
            return err_set(err, ERR_MEMORY, "out of memory for a message");
        }
        s->items = more;
        s->capacity = want;
    }
    s->items[s->count++] = *item;
    changed(s);
    return 0;
}

static char *copy_bytes(const char *text, size_t n) {
    char *copy = malloc(n + 1);
    if (!copy) return NULL;
    memcpy(copy, text, n);
    copy[n] = 0;
    return copy;
}

static int copy_item(struct session_item *to, const struct session_item *from, struct err *err) {
    *to = (struct session_item){.raw = from->raw, .role = from->role};
    to->parts = calloc((size_t)from->part_count + 1, sizeof *to->parts);
    bool ok = to->parts != NULL;
    for (int i = 0; ok && i < from->part_count; i++, to->part_count++) {
        to->parts[i] = from->parts[i];
        if (from->parts[i].text) ok = (to->parts[i].text = copy_bytes(from->parts[i].text, from->parts[i].text_len)) != NULL;
        if (from->parts[i].visual) visual_hold(from->parts[i].visual);
    }
    if (ok && from->reasoning) ok = (to->reasoning = strdup(from->reasoning)) != NULL;
    if (ok && from->ids) {
        ok = (to->ids = malloc(from->id_count * sizeof *to->ids)) != NULL;
        if (ok) memcpy(to->ids, from->ids, from->id_count * sizeof *to->ids);
        to->id_count = from->id_count;
    }
    if (ok && from->reply) {
        ok = (to->reply = malloc((from->reply_count + 1) * sizeof *to->reply)) != NULL;
        if (ok) memcpy(to->reply, from->reply, from->reply_count * sizeof *to->reply);
        to->reply_count = from->reply_count, to->reply_content = from->reply_content;
    }
    if (ok) return 0;
    item_free(to);
    return err_set(err, ERR_MEMORY, "out of memory for a copy of a session");
}

int qvl_session_fork(const struct qvl_session *s, struct qvl_session **out, struct err *err) {
    int r = session_make(s->m, out, err);
    for (int i = 0; !r && i < s->count; i++) {
        struct session_item item;
        r = copy_item(&item, &s->items[i], err);
        if (!r) r = add_item(*out, &item, err);
    }
    if (r && *out) {
        qvl_session_free(*out);
        *out = NULL;
    }
    return r;
}

/* ---- appending ---- */

static int copy_frame(const uint8_t *rgb, int width, int height, struct image *out, struct err *err) {
    *out = (struct image){0};
    if (width < 1 || height < 1 || (int64_t)width * height > image_max_pixels)
        return err_set(err, ERR_ARGUMENT, "picture of %d x %d: expected 1 to %lld pixels", width, height,
                       (long long)image_max_pixels);
    size_t bytes = (size_t)width * (size_t)height * 3;
    *out = (struct image){.width = width, .height = height, .rgb = malloc(bytes)};
    if (!out->rgb) return err_set(err, ERR_MEMORY, "out of memory for a picture of %d x %d", width, height);
    memcpy(out->rgb, rgb, bytes);
    return 0;
}

static int video_part(struct qvl_model *m, const struct qvl_part *p, struct visual **out, struct err *err) {
    if (p->frame_count < 1 || p->frame_count > 1 << 16 || !(p->fps >= 0) || isinf(p->fps))
        return err_set(err, ERR_ARGUMENT,
                       "video of %d frames at %g frames per second: expected 1 to 65536 frames and a finite rate", p->frame_count,
                       p->fps);
    struct image *frames = calloc((size_t)p->frame_count, sizeof *frames);
    if (!frames) return err_set(err, ERR_MEMORY, "out of memory for %d frames", p->frame_count);
    int r = 0, n = 0;
    for (; !r && n < p->frame_count; n++) r = copy_frame(p->frames[n], p->width, p->height, &frames[n], err);
    if (r) for (int i = 0; i < n; i++) image_free(&frames[i]);
    else r = visual_new(m, frames, n, true, p->fps > 0 ? p->fps : 24, out, err);
    free(frames);
    return r;
}

static int picture_part(struct qvl_model *m, const struct qvl_part *p, struct visual **out, struct err *err) {
    struct image image = {0};
    int r = p->rgb ? copy_frame(p->rgb, p->width, p->height, &image, err)
                   : image_decode(p->encoded, p->encoded_bytes, image_max_pixels, &image, err);
    return r ? r : visual_new(m, &image, 1, false, 0, out, err);
}

static int visual_part(struct qvl_model *m, const struct qvl_part *p, struct visual **out, struct err *err) {
    return p->frames ? video_part(m, p, out, err) : picture_part(m, p, out, err);
}

int qvl_session_message(struct qvl_session *s, enum qvl_role role, const struct qvl_part *parts, int count, struct err *err) {
    if (role < QVL_SYSTEM || role > QVL_TOOL || count < 0)
        return err_set(err, ERR_ARGUMENT, "message with role %d and %d parts: expected a role of enum qvl_role", role, count);
    struct session_item item = {.role = role, .parts = calloc((size_t)count + 1, sizeof *item.parts)};
    if (!item.parts) return err_set(err, ERR_MEMORY, "out of memory for a message of %d parts", count);
    for (int i = 0; i < count; i++) {
        struct session_part *to = &item.parts[i];
        int r = 0;
        if (parts[i].text) {
            to->text_len = strlen(parts[i].text);
            if (!(to->text = copy_bytes(parts[i].text, to->text_len)))
                r = err_set(err, ERR_MEMORY, "out of memory for a message");
        } else if (parts[i].rgb || parts[i].encoded || parts[i].frames) {
            to->kind = PART_VISUAL;
            r = visual_part(s->m, &parts[i], &to->visual, err);
        } else {
            r = err_set(err, ERR_ARGUMENT, "part %d of a message has neither text nor picture", i + 1);
        }
        item.part_count++;
        if (r) {
            item_free(&item);
            return r;
        }
    }
    return add_item(s, &item, err);
}

int qvl_session_raw_ids(struct qvl_session *s, const int32_t *ids, size_t count, struct err *err) {
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= s->m->config->text.vocab)
            return err_set(err, ERR_ARGUMENT, "token id %d at %zu: expected 0 to %d (vocab_size of the model)", ids[i], i,
                           s->m->config->text.vocab - 1);
    struct session_item item = {.raw = true, .ids = malloc((count + 1) * sizeof *ids), .id_count = count};
    if (!item.ids) return err_set(err, ERR_MEMORY, "out of memory for %zu tokens", count);
    if (count) memcpy(item.ids, ids, count * sizeof *ids);
    return add_item(s, &item, err);
}

int qvl_session_raw(struct qvl_session *s, const char *text, size_t n, bool special, struct err *err) {
    struct token_list list = {0};
    int r = tokenizer_encode(s->m->tokenizer, text, n, special, &list, err);
    if (!r) r = qvl_session_raw_ids(s, list.ids, list.count, err);
    token_list_free(&list);
    return r;
}

int qvl_session_raw_picture(struct qvl_session *s, const struct qvl_part *part, struct err *err) {
    struct session_item item = {.raw = true, .parts = calloc(1, sizeof *item.parts), .part_count = 1};
    if (!item.parts) return err_set(err, ERR_MEMORY, "out of memory for a picture");
    item.parts->kind = PART_VISUAL;
    int r = visual_part(s->m, part, &item.parts->visual, err);
    if (r) {
        item_free(&item);
        return r;
    }
    return add_item(s, &item, err);
}

static bool ends_answer(const struct qvl_model *m, int32_t id) {
    for (int i = 0; i < m->eos_count; i++)
        if (m->eos[i] == id) return true;
    return false;
}

static bool all_newlines(const struct qvl_model *m, int32_t id) {
    size_t n;
    const char *piece = tokenizer_piece(m->tokenizer, id, &n);
    for (size_t i = 0; piece && i < n; i++)
        if (piece[i] != '\n') return false;
    return piece != NULL;
}

static bool begins_with_newline(const struct qvl_model *m, int32_t id) {
    size_t n;
    const char *piece = tokenizer_piece(m->tokenizer, id, &n);
    return piece && n && piece[0] == '\n';
}

/* Where the answer begins: the template drops the think block of earlier turns with the newlines behind it. */
static size_t answer_begins(const struct qvl_model *m, const struct session_item *item) {
    size_t at = 0;
    while (at < item->reply_count && item->reply[at] != m->think_end) at++;
    if (at == item->reply_count) return SIZE_MAX; /* cut off while thinking */
    at++;
    while (at < item->reply_count && all_newlines(m, item->reply[at])) at++;
    return at < item->reply_count && begins_with_newline(m, item->reply[at]) ? SIZE_MAX : at;
}

/* The tokens of a reply for item; none when a control token is among them, which text could not say. thought: with a think block. */
static int keep_reply(const struct qvl_model *m, struct session_item *item, const int32_t *ids, size_t count, bool thought, struct err *err) {
    if (count && ends_answer(m, ids[count - 1])) count--;
    for (size_t i = 0; i < count; i++)
        if (ends_answer(m, ids[i]) || (ids[i] != m->think_end && tokenizer_is_special(m->tokenizer, ids[i]))) return 0;
    item->reply = malloc((count + 1) * sizeof *item->reply);
    if (!item->reply) return err_set(err, ERR_MEMORY, "out of memory for a message");
    if (count) memcpy(item->reply, ids, count * sizeof *ids);
    item->reply_count = count;
    item->reply_content = thought ? answer_begins(m, item) : 0;
    return 0;
}

int session_answer(struct qvl_session *s, const struct qvl_result *r, bool exact, struct err *err) {
    int code = qvl_session_message(s, QVL_ASSISTANT, &(struct qvl_part){.text = r->text}, 1, err);
    if (code) return code;
    struct session_item *item = &s->items[s->count - 1];
    if (r->thinking && !(item->reasoning = strdup(r->thinking))) return err_set(err, ERR_MEMORY, "out of memory for a message");
    if (!exact) return 0;
    int32_t *ids = malloc((r->token_count + 1) * sizeof *ids);
    if (!ids) return err_set(err, ERR_MEMORY, "out of memory for a message");
    for (size_t i = 0; i < r->token_count; i++) ids[i] = r->tokens[i].id;
    code = keep_reply(s->m, item, ids, r->token_count, r->thinking, err);
    free(ids);
    return code;
}

int qvl_session_reply(struct qvl_session *s, const char *text, const int32_t *ids, size_t count, struct err *err) {
    for (size_t i = 0; ids && i < count; i++)
        if (ids[i] < 0 || ids[i] >= s->m->config->text.vocab)
            return err_set(err, ERR_ARGUMENT, "token id %d at %zu of a reply: expected 0 to %d (vocab_size of the model)", ids[i], i, s->m->config->text.vocab - 1);
    int code = qvl_session_message(s, QVL_ASSISTANT, &(struct qvl_part){.text = text}, 1, err);
    if (code || !ids) return code;
    bool thought = false;
    for (size_t i = 0; i < count; i++) thought |= s->m->think_end >= 0 && ids[i] == s->m->think_end;
    return keep_reply(s->m, &s->items[s->count - 1], ids, count, thought, err);
}

/* ---- tokens ---- */

static const enum chat_role chat_roles[] = {[QVL_SYSTEM] = CHAT_SYSTEM, [QVL_USER] = CHAT_USER, [QVL_ASSISTANT] = CHAT_ASSISTANT,
                                            [QVL_TOOL] = CHAT_TOOL};

/* Timestamps of a video's groups: the mean of the first and the last frame of each (facts §5.4; frames are already sampled). */
static double *group_seconds(const struct qvl_model *m, const struct visual *v) {
    double *seconds = malloc((size_t)v->grid_t * sizeof *seconds);
    int per = m->config->vision.temporal_patch;
    for (int g = 0; seconds && g < v->grid_t; g++) {
        int first = g * per, last = first + per - 1;
        if (last >= v->frame_count) last = v->frame_count - 1;
        if (first >= v->frame_count) first = v->frame_count - 1;
        seconds[g] = (first / v->fps + last / v->fps) / 2;
    }
    return seconds;
}

/* Items [from, to), all messages, through the chat format. */
static int encode_messages(struct qvl_session *s, int from, int to, bool open_answer, struct token_list *out, struct err *err) {
    int parts = 0, count = to - from;
    for (int i = from; i < to; i++) parts += s->items[i].part_count;
    struct chat_message *messages = calloc((size_t)count + 1, sizeof *messages);
    struct chat_part *list = calloc((size_t)parts + 1, sizeof *list);
    double **seconds = calloc((size_t)parts + 1, sizeof(double *));
    int r = messages && list && seconds ? 0 : err_set(err, ERR_MEMORY, "out of memory for %d messages", count);
    int at = 0;
    for (int i = from; !r && i < to; i++) {
        const struct session_item *item = &s->items[i];
        messages[i - from] = (struct chat_message){
            .role = chat_roles[item->role], .parts = list + at, .part_count = item->part_count, .reasoning = item->reasoning,
            .reply = item->reply, .reply_count = item->reply_count, .reply_content = item->reply_content};
        for (int k = 0; !r && k < item->part_count; k++, at++) {
            const struct session_part *p = &item->parts[k];
            const struct visual *v = p->visual;
            if (p->kind == PART_TEXT) list[at] = (struct chat_part){.kind = CHAT_TEXT, .text = p->text, .text_len = p->text_len};
            else if (!v->video) list[at] = (struct chat_part){.kind = CHAT_IMAGE, .tokens = v->tokens};
            else if (!(seconds[at] = group_seconds(s->m, v))) r = err_set(err, ERR_MEMORY, "out of memory for a video");
            else
                list[at] = (struct chat_part){.kind = CHAT_VIDEO, .tokens = v->tokens / v->grid_t, .groups = v->grid_t,
                                              .group_seconds = seconds[at]};
        }
    }
    struct chat_options options = {.format = s->m->format, .add_generation_prompt = open_answer};
    if (!r) r = chat_encode(s->m->tokenizer, &options, messages, count, out, err);
    for (int i = 0; seconds && i < parts; i++) free(seconds[i]);
    free(seconds);
    free(list);
    free(messages);
    return r;
}

static int add_run(struct token_list *out, const int32_t *ids, size_t count) {
    if (out->count + count > out->cap) {
        size_t cap = out->count + count > out->cap * 2 ? out->count + count : out->cap * 2;
        int32_t *more = realloc(out->ids, cap * sizeof *more);
        if (!more) return -1;
        out->ids = more, out->cap = cap;
    }
    memcpy(out->ids + out->count, ids, count * sizeof *ids);
    out->count += count;
    return 0;
}

/* Raw tokens; one picture token stands for the whole next raw picture, as in the texts that transformers' processors take. */
static int encode_raw(const struct qvl_session *s, const struct session_item *item, int *next_raw, struct token_list *out,
                      struct err *err) {
    const int32_t picture = s->m->config->image_token;
    int r = 0;
    for (size_t i = 0; !r && i < item->id_count;) {
        size_t text = i;
        while (i < item->id_count && item->ids[i] != picture) i++;
        if (i > text) r = add_run(out, item->ids + text, i - text);
        if (i == item->id_count) break;
        int64_t repeat = 1;
        while (*next_raw < s->count && !(s->items[*next_raw].raw && s->items[*next_raw].part_count)) ++*next_raw;
        if (*next_raw < s->count) repeat = s->items[(*next_raw)++].parts->visual->tokens;
        for (int64_t k = 0; !r && k < repeat; k++) r = token_list_add(out, picture);
        i++;
    }
    return r ? err_set(err, ERR_MEMORY, "out of memory for a prompt") : 0;
}

/* Pictures in the order in which their tokens stand: those of messages where they are, raw ones where raw text names them. */
static int collect_visuals(const struct qvl_session *s, struct visual ***out, int *count, struct err *err) {
    int total = 0, raw = 0;
    for (int i = 0; i < s->count; i++) total += s->items[i].part_count;
    struct visual **list = calloc((size_t)total + 1, sizeof(struct visual *));
    if (!list) return err_set(err, ERR_MEMORY, "out of memory for a prompt");
    *count = 0;
    for (int i = 0; i < s->count; i++) {
        const struct session_item *item = &s->items[i];
        for (int k = 0; k < item->part_count && !item->raw; k++)
            if (item->parts[k].visual) list[(*count)++] = item->parts[k].visual;
        for (size_t k = 0; k < item->id_count; k++) {
            if (item->ids[k] != s->m->config->image_token) continue;
            while (raw < s->count && !(s->items[raw].raw && s->items[raw].part_count)) raw++;
            if (raw < s->count) list[(*count)++] = s->items[raw++].parts->visual;
        }
    }
    while (raw < s->count && !(s->items[raw].raw && s->items[raw].part_count)) raw++;
    *out = list;
    if (raw == s->count) return 0;
    free(list);
    *out = NULL;
    return err_set(err, ERR_ARGUMENT, "a picture was attached to raw text that has no picture token for it");
}

int session_prompt(struct qvl_session *s, const struct prompt **out, struct err *err) {
    *out = &s->prompt;
    if (s->built) return 0;
    struct token_list ids = {0};
    struct visual **visuals = NULL;
    int visual_count = 0, next_raw = 0, r = 0;
    for (int i = 0; !r && i < s->count;) {
        if (s->items[i].raw) {
            r = encode_raw(s, &s->items[i++], &next_raw, &ids, err);
            continue;
        }
        int to = i;
        while (to < s->count && !s->items[to].raw) to++;
        r = encode_messages(s, i, to, to == s->count, &ids, err);
        i = to;
    }
    if (!r && ids.count == 0) r = err_set(err, ERR_ARGUMENT, "the session is empty: append a message or text first");
    if (!r && (int64_t)ids.count > s->m->context)
        r = err_set(err, ERR_LIMIT, "the prompt has %zu tokens, the context is %lld tokens", ids.count, (long long)s->m->context);
    if (!r) r = collect_visuals(s, &visuals, &visual_count, err);
    if (!r) r = prompt_build(&s->prompt, s->m, ids.ids, (int64_t)ids.count, visuals, visual_count, err);
    free(visuals);
    token_list_free(&ids);
    if (r) prompt_free(&s->prompt);
    s->built = r == 0;
    return r;
}

int qvl_session_ids(struct qvl_session *s, int32_t **ids, size_t *count, struct err *err) {
    const struct prompt *p;
    *ids = NULL;
    *count = 0;
    int r = session_prompt(s, &p, err);
    if (r) return r;
    *ids = malloc((size_t)p->count * sizeof **ids);
    if (!*ids) return err_set(err, ERR_MEMORY, "out of memory for %lld tokens", (long long)p->count);
    memcpy(*ids, p->ids, (size_t)p->count * sizeof **ids);
    *count = (size_t)p->count;
    return 0;
}
