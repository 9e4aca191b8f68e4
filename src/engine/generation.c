#include "engine/generation.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/utf8.h"

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
    memset(x->mask, 0, (size_t)(x->m->config->text.vocab + 31) / 32 * sizeof *x->mask); /* thoughts may have ids above the vocabulary; a constraint's mask ends with it */
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
    if ((r = sampler_accept(&x->sampler, id, err))) return r;
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
            if (i + 1 == list.count && constraint_may_extend(x->constraint, list.ids[i])) break; /* then the choice between them is the model's */
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

/* ---- the steps ---- */

static bool cancelled(struct generation *x) {
    if (x->g->cancel && __atomic_load_n(x->g->cancel, __ATOMIC_RELAXED)) x->cancelled = true;
    return x->cancelled;
}

/* Flushes what is left of the text. */
static int end_text(struct generation *x, struct err *err) {
    struct buf *text = x->thinking ? &x->thought : &x->answer;
    if (!x->stopped) take_utf8(&x->pending, text, true);
    stream(x, text, true);
    return text->failed ? err_set(err, ERR_MEMORY, "out of memory for the answer") : 0;
}

int generation_next(struct generation *x, bool *done, struct err *err) {
    int r = 0;
    x->finish = QVL_FINISH_STOP;
    *done = false;
    while (!r && !x->ended && !x->stopped) {
        if (cancelled(x)) x->finish = QVL_FINISH_CANCELLED;
        else if (full(x)) x->finish = QVL_FINISH_LENGTH;
        if (x->finish != QVL_FINISH_STOP) break;
        const uint32_t *mask = NULL;
        if (x->thinking && x->g->think_tokens > 0 && x->think_count >= x->g->think_tokens) {
            r = close_thinking(x, err);
            continue;
        }
        if (x->constraint) {
            if (x->break_due) r = force_text(x, "\n\n", false, err), x->break_due = false;
            if (!r) r = run_forced(x, &x->ended, err);
            if (r || x->ended || full(x) || x->cancelled) continue;
            mask = x->mask;
        } else if (x->thinking && x->g->json_schema) {
            mask = no_end_mask(x);
        }
        int top = x->g->top_logprobs < 0 ? 0 : x->g->top_logprobs > PICK_TOP_MOST ? PICK_TOP_MOST : x->g->top_logprobs;
        x->pick = sampler_request(&x->sampler, mask, top);
        return 0;
    }
    if (r) return r;
    *done = true;
    return end_text(x, err);
}

bool generation_ready(const struct generation *x) {
    return x->device_picked || (x->sequence.logits_known && x->sequence.computed == x->sequence.prompt.count);
}

bool generation_cancelled(struct generation *x) { return cancelled(x); }

/* The end of the prompt also leaves its logits, for whoever sends the same prompt again. */
int generation_prepare(struct generation *x, int64_t most, struct err *err) {
    struct sequence *s = &x->sequence;
    int r = sequence_prepare(s, sequence_next(s, most), &x->pass, err);
    if (r || x->pass.upto < s->prompt.count) return r;
    const struct backend *b = x->m->backend;
    struct span *span = &x->pass.span;
    x->pick.row = x->last_row = span->count - 1;
    if (b->can_pick && b->can_pick(x->m->device, &x->pick)) {
        span->picks = &x->pick;
        span->picked = &x->picked;
        span->pick_count = 1;
    }
    if (!span->pick_count || !x->prefilled) {
        if ((r = sequence_own_logits(s, err))) {
            sequence_commit(s, &x->pass, false, 0);
            return r;
        }
        span->logits_rows = &x->last_row;
        span->logits_count = 1;
        span->logits = s->logits->values;
    }
    return 0;
}

void generation_commit(struct generation *x, bool done, double seconds) {
    struct sequence *s = &x->sequence;
    bool logits = x->pass.span.logits_count > 0;
    sequence_commit(s, &x->pass, done, seconds);
    if (!done || s->computed < s->prompt.count) return;
    s->logits_known = logits;
    x->device_picked = x->pass.span.pick_count > 0;
    if (!x->prefilled) sequence_publish(s, s->prompt.count, s->logits);
}

/* A row that the cache keeps is ranked once: the choices of everyone who has the same prompt then look at 64 numbers. */
static void pick_here(struct generation *x, void *work) {
    struct logits_row *row = x->sequence.logits;
    int vocab = x->m->config->text.vocab;
    struct pick_ranked first;
    pthread_mutex_lock(&x->m->lock);
    bool ranked = row->ranked, shared = row->refs > 1;
    double norm = row->norm;
    pthread_mutex_unlock(&x->m->lock);
    if (!ranked && shared) {
        pick_rank(row->values, vocab, norm, &first);
        pthread_mutex_lock(&x->m->lock);
        if (!row->ranked) row->first = first, row->ranked = true;
        pthread_mutex_unlock(&x->m->lock);
        ranked = true;
    }
    if (!ranked || !pick_from_ranked(&row->first, &x->pick, &x->picked)) pick_from_logits(row->values, vocab, &x->pick, work, &x->picked);
}

int generation_choose(struct generation *x, void *work, struct err *err) {
    struct sequence *s = &x->sequence;
    if (!x->prefilled) {
        sequence_publish(s, x->prompt_tokens, NULL);
        x->prefill_seconds = s->forward_seconds;
        x->prefilled = true;
    }
    if (!x->device_picked) pick_here(x, work);
    else if (s->logits_known && x->picked.id >= 0 && !x->pick.mask && !x->pick.adjust_count) { /* a log-probability tells the norm */
        pthread_mutex_lock(&x->m->lock);
        if (isnan(s->logits->norm)) s->logits->norm = (double)s->logits->values[x->picked.id] - (double)x->picked.logprob;
        pthread_mutex_unlock(&x->m->lock);
    }
    x->device_picked = false;
    s->logits_known = false; /* of the token before the next one */
    int32_t id = x->picked.id;
    if (id < 0)
        return err_set(err, ERR_STATE, "the model's output holds no number for any allowed token (NaN in the checkpoint?)");
    struct qvl_token *t = add_token(x, err);
    if (!t) return ERR_MEMORY;
    token_from_pick(t, &x->picked);
    if (x->first_seconds == 0) x->first_seconds = clock_seconds() - x->start;
    int r = sampler_accept(&x->sampler, id, err);
    if (r) return r;
    x->ended = is_end(x->m, id) && !x->g->ignore_end;
    if (x->ended) return 0;
    if (x->constraint && constraint_accept(x->constraint, id))
        return err_set(err, ERR_STATE, "the constraint refused token %d that it had allowed", id);
    if ((r = sequence_append(s, &id, 1, err))) return r;
    if (x->thinking) x->think_count++;
    announce(x, t);
    return take_text(x, id, err);
}

/* ---- beginning and end ---- */

static int check(const struct qvl_model *m, const struct qvl_generate *g, struct err *err) {
    for (int i = 0; i < g->stop_count; i++)
        if (!g->stop[i]) return err_set(err, ERR_ARGUMENT, "stop string %d is missing", i);
    for (int i = 0; i < g->bias_count; i++)
        if (g->bias[i].id < 0 || g->bias[i].id >= m->config->text.vocab || !isfinite(g->bias[i].bias))
            return err_set(err, ERR_ARGUMENT, "bias %g of token %d: expected a finite number and an id from 0 to %d",
                           (double)g->bias[i].bias, g->bias[i].id, m->config->text.vocab - 1);
    return 0;
}

static int prepare(struct generation *x, struct err *err) {
    const struct prompt *built;
    struct prompt copy = {0};
    int r = session_prompt(x->session, &built, err);
    if (r) return r;
    if (built->count >= x->m->context)
        return err_set(err, ERR_LIMIT, "the prompt has %lld tokens and the context %lld: no room for an answer",
                       (long long)built->count, (long long)x->m->context);
    int vocab = x->m->config->text.vocab;
    x->mask = calloc((size_t)(vocab + 31) / 32, sizeof *x->mask);
    if (!x->mask) return err_set(err, ERR_MEMORY, "out of memory for an answer");
    if (x->g->json_schema && (r = grammar_get(x->m, x->g->json_schema, &x->grammar, err))) return r;
    if ((r = sampler_init(&x->sampler, &x->g->sampling, &x->m->config->sampling, vocab, built->ids, built->count, err))) return r;
    for (int i = 0; !r && i < x->g->bias_count; i++)
        r = sampler_bias(&x->sampler, vocab, x->g->bias[i].id, x->g->bias[i].bias, err);
    if (!r) r = prompt_copy(&copy, built, err);
    if (!r) r = sequence_open(&x->sequence, x->m, &copy, err);
    prompt_free(&copy);
    return r;
}

int generation_open(struct generation *x, struct qvl_session *s, const struct qvl_generate *g, double start, struct err *err) {
    bool done;
    *x = (struct generation){.m = s->m, .session = s, .g = g, .start = start};
    int r = check(x->m, g, err);
    if (!r) r = prepare(x, err);
    if (r) return r;
    bool raw = s->count && s->items[s->count - 1].raw;
    x->thinks = x->thinking = x->break_due = x->m->format == CHAT_THINKING && x->m->think_end >= 0 && !raw;
    x->prompt_tokens = x->sequence.prompt.count;
    /* What a schema forces at the start belongs to the prompt: it is looked up and computed with it. */
    if (!x->thinking) r = begin_answer(x, err);
    if (!r && x->constraint) r = run_forced(x, &done, err);
    return r;
}

static char *take_string(struct buf *b, bool trim) {
    while (trim && b->len && b->data[b->len - 1] == '\n') b->data[--b->len] = 0;
    char *text = b->data ? b->data : calloc(1, 1);
    *b = (struct buf){0};
    return text;
}

/* The think block loses the newlines around it, as the template drops them. */
int generation_result(struct generation *x, struct qvl_result *out, struct err *err) {
    int64_t reused = x->sequence.reused;
    *out = (struct qvl_result){
        .thinking = x->thinks ? take_string(&x->thought, true) : NULL,
        .text = take_string(&x->answer, false),
        .tokens = x->tokens,
        .token_count = x->count,
        .finish = x->finish,
        .prompt_tokens = x->prompt_tokens,
        .cached_tokens = reused < x->prompt_tokens ? reused : x->prompt_tokens - 1,
        .image_seconds = x->sequence.image_seconds,
        .prefill_seconds = x->prefill_seconds,
        .decode_seconds = x->sequence.forward_seconds - x->prefill_seconds,
        .first_token_seconds = x->first_seconds > 0 ? x->first_seconds : clock_seconds() - x->start};
    x->tokens = NULL;
    int r = out->text && (!x->thinks || out->thinking) ? 0 : err_set(err, ERR_MEMORY, "out of memory for the answer");
    if (!r && !x->g->no_append) r = session_answer(x->session, out, !x->stopped, err);
    if (r) qvl_result_free(out);
    return r;
}

void generation_close(struct generation *x) {
    sequence_close(&x->sequence);
    sampler_free(&x->sampler);
    constraint_free(x->constraint);
    if (x->grammar) grammar_put(x->m, x->grammar);
    free(x->mask);
    free(x->tokens);
    buf_free(&x->pending);
    buf_free(&x->thought);
    buf_free(&x->answer);
    *x = (struct generation){0};
}
