/* Continuing a session. The loop alternates between what is forced (think budget, the bytes that a schema leaves no choice
 * about) and what is chosen. Forced tokens cost no forward pass of their own: they wait and are computed together with
 * whatever comes before the next choice, the prompt included; those behind the last choice are never computed. */
#include <math.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "engine/session.h"

struct generation {
    struct qvl_model *m;
    const struct qvl_generate *g;
    struct sequence sequence;
    struct sampler sampler;
    struct grammar *grammar;
    struct constraint_state *constraint; /* NULL until the answer begins, or without a schema */
    uint32_t *mask;                      /* (vocab bits) */
    bool thinking;                       /* inside the think block */
    int think_count;
    struct qvl_token *tokens;
    size_t count, capacity;
    int64_t prompt_tokens;               /* without what is forced at the start of the answer */
    bool prefilled;                      /* the prompt is computed and published */
    double prefill_seconds;
    struct buf pending;                  /* bytes of an incomplete UTF-8 sequence */
    struct buf thought, answer;          /* decoded so far: valid UTF-8 */
    bool skip_newlines;                  /* those that the template puts between think block and answer */
    size_t streamed;                     /* bytes of the current one handed to on_text */
    bool cancelled, stopped;
    enum qvl_finish finish;
};

/* ---- text ---- */

/* Moves whole sequences from pending to text; what can never become one turns into U+FFFD. */
static void take_utf8(struct buf *pending, struct buf *text, bool final) {
    size_t at = 0;
    while (at < pending->len) {
        int n = utf8_length(pending->data + at, pending->len - at);
        if (n == 0 && !final) break;
        if (n > 0) buf_append(text, pending->data + at, (size_t)n);
        else buf_str(text, "\xef\xbf\xbd");
        at += n > 0 ? (size_t)n : n == 0 ? pending->len - at : 1;
    }
    if (at == 0) return;
    memmove(pending->data, pending->data + at, pending->len - at);
    pending->len -= at;
}

/* Hands out what is certain: nothing that may turn out to begin a stop string. */
static void stream(struct generation *x, struct buf *text, bool final) {
    size_t end = text->len;
    if (!final) {
        for (int i = 0; i < x->g->stop_count && !x->thinking; i++) {
            size_t n = strlen(x->g->stop[i]);
            for (size_t k = n < end - x->streamed ? n : end - x->streamed; k > 0; k--)
                if (!memcmp(text->data + end - k, x->g->stop[i], k)) {
                    end -= k;
                    break;
                }
        }
    }
    if (end <= x->streamed) return;
    size_t from = x->streamed;
    x->streamed = end;
    if (x->g->on_text && !x->cancelled && x->g->on_text(x->g->user, text->data + from, end - from, x->thinking))
        x->cancelled = true;
}

/* Cuts the answer at the first stop string. */
static void look_for_stop(struct generation *x) {
    char *first = NULL;
    for (int i = 0; i < x->g->stop_count && x->answer.len; i++) {
        if (!x->g->stop[i][0]) continue;
        char *at = memmem(x->answer.data, x->answer.len, x->g->stop[i], strlen(x->g->stop[i]));
        if (at && (!first || at < first)) first = at;
    }
    if (!first) return;
    x->answer.len = (size_t)(first - x->answer.data);
    *first = 0;
    x->stopped = true;
}

static int begin_answer(struct generation *x, struct err *err) {
    if (x->thinking) {
        take_utf8(&x->pending, &x->thought, true);
        stream(x, &x->thought, true);
        x->skip_newlines = true;
    }
    x->thinking = false;
    x->streamed = 0;
    if (!x->g->json_schema) return 0;
    x->constraint = constraint_new(x->grammar);
    return x->constraint ? 0 : err_set(err, ERR_MEMORY, "out of memory for a constraint");
}

/* Decodes one more token into the text; </think> ends the think block. */
static int take_text(struct generation *x, int32_t id, struct err *err) {
    if (x->thinking && id == x->m->think_end) return begin_answer(x, err);
    struct buf *text = x->thinking ? &x->thought : &x->answer;
    if (tokenizer_piece(x->m->tokenizer, id, &(size_t){0})) { /* ids above the vocabulary have no text */
        int r = tokenizer_decode(x->m->tokenizer, &id, 1, true, &x->pending, err);
        if (r) return r;
        take_utf8(&x->pending, text, false);
    }
    if (x->skip_newlines && !x->thinking && text->len) {
        size_t skip = 0;
        while (skip < text->len && text->data[skip] == '\n') skip++;
        memmove(text->data, text->data + skip, text->len - skip);
        text->len -= skip;
        text->data[text->len] = 0;
        x->skip_newlines = text->len == 0;
    }
    if (text->failed || x->pending.failed) return err_set(err, ERR_MEMORY, "out of memory for the answer");
    if (!x->thinking) look_for_stop(x);
    stream(x, text, x->stopped);
    return 0;
}

/* ---- tokens ---- */

static struct qvl_token *add_token(struct generation *x, struct err *err) {
    if (x->count == x->capacity) {
        size_t want = x->capacity ? x->capacity * 2 : 32;
        struct qvl_token *more = realloc(x->tokens, want * sizeof *more);
        if (!more) {
            err_set(err, ERR_MEMORY, "out of memory for the answer");
            return NULL;
        }
        x->tokens = more;
        x->capacity = want;
    }
    struct qvl_token *t = &x->tokens[x->count++];
    *t = (struct qvl_token){0};
    return t;
}

static void announce(const struct generation *x, const struct qvl_token *t) {
    if (x->g->on_token) x->g->on_token(x->g->user, t, x->thinking);
}

static bool is_end(const struct qvl_model *m, int32_t id) {
    for (int i = 0; i < m->eos_count; i++)
        if (m->eos[i] == id) return true;
    return false;
}

static bool full(const struct generation *x) {
    return (x->g->max_tokens > 0 && x->count >= (size_t)x->g->max_tokens) || x->sequence.prompt.count >= x->m->context;
}

/* A token without a choice: it joins the sequence and is computed when somebody needs what follows. */
static int force(struct generation *x, int32_t id, struct err *err) {
    int r = sequence_append(&x->sequence, &id, 1, err);
    struct qvl_token *t = r ? NULL : add_token(x, err);
    if (!t) return r ? r : ERR_MEMORY;
    t->id = id;
    t->forced = true;
    sampler_accept(&x->sampler, id);
    announce(x, t);
    return take_text(x, id, err);
}

static int force_text(struct generation *x, const char *text, bool special, struct err *err) {
    struct token_list list = {0};
    int r = tokenizer_encode(x->m->tokenizer, text, strlen(text), special, &list, err);
    for (size_t i = 0; !r && i < list.count && !full(x) && !x->cancelled; i++) r = force(x, list.ids[i], err);
    token_list_free(&list);
    return r;
}

/* May a longer token than `id` begin with the same bytes here? Then the choice between them is the model's. */
static bool may_extend(const struct generation *x, int32_t id) {
    size_t n, k;
    const char *piece = tokenizer_piece(x->m->tokenizer, id, &n);
    for (int32_t i = 0; i < x->m->config->text.vocab; i++) {
        if (!(x->mask[i >> 5] >> (i & 31) & 1) || i == id) continue;
        const char *other = tokenizer_piece(x->m->tokenizer, i, &k);
        if (other && k > n && !memcmp(other, piece, n)) return true;
    }
    return false;
}

/* Takes every token that the schema forces. *done: the document is complete. Leaves the mask of the next choice. */
static int run_forced(struct generation *x, bool *done, struct err *err) {
    int r = 0;
    *done = false;
    while (!r && !full(x) && !x->cancelled) {
        const char *bytes;
        size_t n = constraint_forced(x->constraint, &bytes);
        struct token_list list = {0};
        if (n > 0) r = tokenizer_encode(x->m->tokenizer, bytes, n, false, &list, err);
        bool moved = false;
        for (size_t i = 0; !r && i < list.count && !full(x); i++) {
            if (i + 1 == list.count) {
                bool end;
                constraint_mask(x->constraint, x->mask, &end);
                if (may_extend(x, list.ids[i])) break;
            }
            if (constraint_accept(x->constraint, list.ids[i])) break; /* not how this schema spells it: let the mask decide */
            moved = true;
            r = force(x, list.ids[i], err);
        }
        token_list_free(&list);
        if (r || moved) continue;
        int allowed = constraint_mask(x->constraint, x->mask, done);
        if (*done || allowed == 0) {
            *done = true;
            return 0;
        }
        if (allowed > 1) return 0;
        int32_t only = 0;
        while (!(x->mask[only >> 5] >> (only & 31) & 1)) only++;
        if (constraint_accept(x->constraint, only))
            return err_set(err, ERR_STATE, "the constraint refused its only token %d", only);
        r = force(x, only, err);
    }
    return r;
}

/* One token chosen by the model. *end: it ended the answer. */
static int choose(struct generation *x, const uint32_t *mask, bool *end, struct err *err) {
    struct sequence *s = &x->sequence;
    int vocab = x->m->config->text.vocab;
    int r = 0;
    if (!s->logits_known || s->computed < s->prompt.count) r = sequence_run(s, x->prefilled ? 0 : s->prompt.count, err);
    if (r) return r;
    if (!x->prefilled) {
        sequence_publish(s, x->prompt_tokens);
        x->prefill_seconds = s->forward_seconds;
        x->prefilled = true;
    }
    struct qvl_token *t = add_token(x, err);
    if (!t) return ERR_MEMORY;
    for (int i = 0; i < x->g->bias_count; i++) s->logits[x->g->bias[i].id] += x->g->bias[i].bias; /* published before this */
    int32_t id = sampler_pick(&x->sampler, s->logits, mask);
    if (id < 0)
        return err_set(err, ERR_STATE, "the model's output holds no number for any allowed token (NaN in the checkpoint?)");
    int top = x->g->top_logprobs < 0 ? 0 : x->g->top_logprobs > 20 ? 20 : x->g->top_logprobs;
    logprobs_of(s->logits, vocab, mask, id, top, t);
    sampler_accept(&x->sampler, id);
    *end = is_end(x->m, id);
    if (*end) return 0;
    if (x->constraint && constraint_accept(x->constraint, id))
        return err_set(err, ERR_STATE, "the constraint refused token %d that it had allowed", id);
    if ((r = sequence_append(s, &id, 1, err))) return r;
    if (x->thinking) x->think_count++;
    announce(x, t);
    return take_text(x, id, err);
}

/* Everything but the end tokens, for thinking that must be followed by an answer. */
static const uint32_t *no_end_mask(struct generation *x) {
    int words = (x->m->config->text.vocab + 31) / 32;
    memset(x->mask, 0xff, (size_t)words * sizeof *x->mask);
    for (int i = 0; i < x->m->eos_count; i++) x->mask[x->m->eos[i] >> 5] &= ~(1u << (x->m->eos[i] & 31));
    return x->mask;
}

static int close_thinking(struct generation *x, struct err *err) {
    if (x->thought.len && x->thought.data[x->thought.len - 1] != '\n') {
        int r = force_text(x, "\n", false, err);
        if (r) return r;
    }
    return full(x) ? 0 : force(x, x->m->think_end, err);
}

static int run(struct generation *x, double start, double *first, struct err *err) {
    bool end = false, was_thinking = x->thinking;
    int r = 0;
    x->finish = QVL_FINISH_STOP;
    while (!r && !end && !x->stopped) {
        if (x->g->cancel && __atomic_load_n(x->g->cancel, __ATOMIC_RELAXED)) x->cancelled = true;
        if (x->cancelled) x->finish = QVL_FINISH_CANCELLED;
        else if (full(x)) x->finish = QVL_FINISH_LENGTH;
        if (x->finish != QVL_FINISH_STOP) break;
        const uint32_t *mask = NULL;
        if (x->thinking && x->g->think_tokens > 0 && x->think_count >= x->g->think_tokens) {
            r = close_thinking(x, err);
            continue;
        }
        if (x->constraint) {
            if (was_thinking) r = force_text(x, "\n\n", false, err), was_thinking = false;
            if (!r) r = run_forced(x, &end, err);
            if (r || end || full(x) || x->cancelled) continue;
            mask = x->mask;
        } else if (x->thinking && x->g->json_schema) {
            mask = no_end_mask(x);
        }
        r = choose(x, mask, &end, err);
        if (r == ERR_CANCELLED) r = 0, x->cancelled = true;
        if (*first == 0) *first = clock_seconds() - start;
    }
    if (r) return r;
    struct buf *text = x->thinking ? &x->thought : &x->answer;
    if (!x->stopped) take_utf8(&x->pending, text, true);
    stream(x, text, true);
    return text->failed ? err_set(err, ERR_MEMORY, "out of memory for the answer") : 0;
}

static char *take_string(struct buf *b, bool trim) {
    while (trim && b->len && b->data[b->len - 1] == '\n') b->data[--b->len] = 0;
    char *text = b->data ? b->data : calloc(1, 1);
    *b = (struct buf){0};
    return text;
}

/* Gives the result its texts; the think block loses the newlines around it, as the template drops them. */
static int finish(struct generation *x, bool thinking_model, struct qvl_result *out, struct err *err) {
    if (thinking_model) out->thinking = take_string(&x->thought, true);
    out->text = take_string(&x->answer, false);
    out->tokens = x->tokens;
    out->token_count = x->count;
    x->tokens = NULL;
    out->finish = x->finish;
    if (!out->text || (thinking_model && !out->thinking)) return err_set(err, ERR_MEMORY, "out of memory for the answer");
    return 0;
}

static void release(struct generation *x) {
    sequence_close(&x->sequence);
    sampler_free(&x->sampler);
    constraint_free(x->constraint);
    if (x->grammar) grammar_put(x->m, x->grammar);
    free(x->mask);
    free(x->tokens);
    buf_free(&x->pending);
    buf_free(&x->thought);
    buf_free(&x->answer);
}

static int prepare(struct generation *x, struct qvl_session *s, struct err *err) {
    const struct prompt *built;
    struct prompt copy;
    int r = session_prompt(s, &built, err);
    if (r) return r;
    copy = (struct prompt){0};
    if (built->count >= x->m->context)
        return err_set(err, ERR_LIMIT, "the prompt has %lld tokens and the context %lld: no room for an answer",
                       (long long)built->count, (long long)x->m->context);
    int vocab = x->m->config->text.vocab;
    x->mask = calloc((size_t)(vocab + 31) / 32, sizeof *x->mask);
    if (!x->mask) return err_set(err, ERR_MEMORY, "out of memory for an answer");
    if (x->g->json_schema && (r = grammar_get(x->m, x->g->json_schema, &x->grammar, err))) return r;
    if ((r = sampler_init(&x->sampler, &x->g->sampling, &x->m->config->sampling, vocab, built->ids, built->count, err))) return r;
    r = prompt_copy(&copy, built, err);
    if (!r) r = sequence_open(&x->sequence, x->m, &copy, err);
    prompt_free(&copy);
    return r;
}

int qvl_generate(struct qvl_session *s, const struct qvl_generate *g, struct qvl_result *out, struct err *err) {
    struct generation x = {.m = s->m, .g = g};
    double start = clock_seconds(), first = 0;
    memset(out, 0, sizeof *out);
    for (int i = 0; i < g->stop_count; i++)
        if (!g->stop[i]) return err_set(err, ERR_ARGUMENT, "stop string %d is missing", i);
    for (int i = 0; i < g->bias_count; i++)
        if (g->bias[i].id < 0 || g->bias[i].id >= s->m->config->text.vocab || !isfinite(g->bias[i].bias))
            return err_set(err, ERR_ARGUMENT, "bias %g of token %d: expected a finite number and an id from 0 to %d",
                           (double)g->bias[i].bias, g->bias[i].id, s->m->config->text.vocab - 1);
    int r = prepare(&x, s, err);
    bool raw = s->count && s->items[s->count - 1].raw, done;
    bool thinking = x.thinking = s->m->format == CHAT_THINKING && s->m->think_end >= 0 && !raw;
    if (!r) x.prompt_tokens = x.sequence.prompt.count;
    /* What a schema forces at the start belongs to the prompt: it is looked up and computed with it. */
    if (!r && !thinking) r = begin_answer(&x, err);
    if (!r && x.constraint) r = run_forced(&x, &done, err);
    x.sequence.cancel = g->cancel;
    if (!r) r = sequence_match(&x.sequence, err);
    int64_t reused = x.sequence.reused;
    if (!r) r = run(&x, start, &first, err);
    if (!r) r = finish(&x, thinking, out, err);
    if (!r) {
        out->prompt_tokens = x.prompt_tokens;
        out->cached_tokens = reused < x.prompt_tokens ? reused : x.prompt_tokens - 1;
        out->image_seconds = x.sequence.image_seconds;
        out->prefill_seconds = x.prefill_seconds;
        out->decode_seconds = x.sequence.forward_seconds - x.prefill_seconds;
        out->first_token_seconds = first > 0 ? first : clock_seconds() - start;
    }
    if (!r && !g->no_append) r = session_answer(s, out->text, out->thinking, err);
    release(&x);
    if (r) qvl_result_free(out);
    return r;
}

void qvl_result_free(struct qvl_result *r) {
    free(r->text);
    free(r->thinking);
    free(r->tokens);
    memset(r, 0, sizeof *r);
}
