#include "engine/sequence.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/spill.h"

enum { PAGE = BACKEND_PAGE_TOKENS };

struct hash128 sequence_page_key(const struct sequence *s, int64_t full, int n) {
    struct hash128 parts[1 + PAGE];
    parts[0] = s->chain[full];
    memcpy(parts + 1, s->prompt.keys + full * PAGE, (size_t)n * sizeof *parts);
    return hash_bytes(parts, (size_t)(1 + n) * sizeof *parts, 0);
}

struct hash128 sequence_end_key(const struct sequence *s, int64_t n) {
    int64_t full = (n - 1) / PAGE;
    return sequence_page_key(s, full, (int)(n - full * PAGE));
}

int sequence_reserve(struct sequence *s, int64_t tokens, struct err *err) {
    int64_t need = (tokens + PAGE - 1) / PAGE;
    if (need <= s->page_capacity) return 0;
    int64_t want = need + need / 4 + 8;
    int32_t *pages = realloc(s->pages, (size_t)want * sizeof *pages);
    if (pages) s->pages = pages;
    struct hash128 *chain = realloc(s->chain, (size_t)(want + 1) * sizeof *chain);
    if (chain) s->chain = chain;
    if (!pages || !chain) return err_set(err, ERR_MEMORY, "out of memory for a sequence of %lld tokens", (long long)tokens);
    s->page_capacity = (int)want;
    return 0;
}

int sequence_open(struct sequence *s, struct qvl_model *m, struct prompt *prompt, struct err *err) {
    *s = (struct sequence){.m = m, .prompt = *prompt};
    *prompt = (struct prompt){0};
    s->held = calloc((size_t)s->prompt.visual_count + 1, sizeof *s->held);
    int r = s->held ? sequence_reserve(s, s->prompt.count + 2 * PAGE, err)
                                 : err_set(err, ERR_MEMORY, "out of memory for a sequence");
    if (!r) s->chain[0] = m->identity;
    return r;
}

void sequence_rewind(struct sequence *s, int64_t length) {
    if (length >= s->computed) return;
    int keep = (int)((length + PAGE - 1) / PAGE);
    pthread_mutex_lock(&s->m->lock);
    while (s->page_count > keep) {
        int32_t page = s->pages[--s->page_count];
        if (s->m->kv.pages[page].writer == s) s->m->kv.pages[page].writer = NULL;
        kv_page_drop(&s->m->kv, page);
    }
    /* What is behind `length` in the last page may be published: from now on that page is nobody's to write. */
    if (s->page_count > 0) s->m->kv.pages[s->pages[s->page_count - 1]].writer = NULL;
    pthread_mutex_unlock(&s->m->lock);
    s->computed = length;
    s->logits_known = false;
}

int sequence_append(struct sequence *s, const int32_t *ids, int64_t count, struct err *err) {
    if (s->prompt.count + count > s->m->context)
        return err_set(err, ERR_LIMIT, "%lld tokens exceed the context of %lld tokens", (long long)(s->prompt.count + count),
                       (long long)s->m->context);
    return prompt_append(&s->prompt, ids, count, err);
}

/* Pages for slots up to `upto`, all writable from s->computed on: a shared page is copied. */
static int make_room(struct sequence *s, int64_t upto, struct err *err) {
    int r = sequence_reserve(s, upto + PAGE, err);
    if (r) return r;
    struct kv_store *kv = &s->m->kv;
    int first = (int)(s->computed / PAGE), copy_from = -1;
    /* Mostly there is room in a page of our own, and nobody else changes whose it is: no need to queue for the lock between two steps. */
    if (first < s->page_count && upto <= (int64_t)s->page_count * PAGE && kv->pages[s->pages[first]].writer == s) return 0;
    pthread_mutex_lock(&s->m->lock);
    if (first < s->page_count && kv->pages[s->pages[first]].writer != s) {
        int32_t own = kv_page_take(kv, s);
        if (own >= 0) {
            copy_from = s->pages[first];
            s->pages[first] = own;
        } else {
            r = -1;
        }
    }
    while (!r && (int64_t)s->page_count * PAGE < upto) {
        int32_t page = kv_page_take(kv, s);
        if (page < 0) r = -1;
        else s->pages[s->page_count++] = page;
    }
    int32_t used = kv->pages_used, limit = kv->page_limit;
    pthread_mutex_unlock(&s->m->lock);
    if (copy_from >= 0) {
        int tokens = (int)(s->computed % PAGE);
        if (tokens && !r) r = s->m->backend->page_copy(s->m->device, s->pages[first], copy_from, tokens, err) ? -2 : 0;
        pthread_mutex_lock(&s->m->lock);
        kv_page_drop(kv, copy_from);
        pthread_mutex_unlock(&s->m->lock);
    }
    if (r == -1)
        return err_set(err, ERR_LIMIT,
                       "no room for the keys and values of %lld tokens: %d of %d pages of %d tokens are in use (%zu bytes each)",
                       (long long)upto, used, limit, PAGE, s->m->backend->page_bytes(s->m->device));
    return r ? ERR_STATE : 0;
}

static int gather_visual(struct sequence *s, int64_t from, int64_t upto, struct visual_rows *v, struct err *err) {
    int first = -1;
    bool several = false;
    int64_t rows = 0, hidden = s->m->config->text.hidden;
    for (int64_t i = from; i < upto; i++) {
        int at = s->prompt.visual_index[i];
        if (at < 0) continue;
        rows++;
        if (first < 0) first = at;
        several = several || at != first;
        if (s->held[at]) continue;
        int r = features_get(s->m, s->prompt.visuals[at], &s->held[at], &s->image_seconds, err);
        if (r) return r;
    }
    *v = (struct visual_rows){0};
    if (rows == 0) return 0;
    v->levels = s->held[first]->levels;
    if (!several) {
        for (int l = 0; l < v->levels; l++) v->level[l] = s->held[first]->values + l * s->held[first]->tokens * hidden;
        v->row = s->prompt.visual_row + from;
        v->pinned = s->held[first]->pinned;
        return 0;
    }
    v->row = malloc((size_t)(upto - from) * sizeof *v->row);
    v->values = malloc((size_t)(v->levels * rows * hidden) * sizeof *v->values);
    if (!v->row || !v->values) {
        free(v->row);
        free(v->values);
        return err_set(err, ERR_MEMORY, "out of memory for the features of %lld picture tokens", (long long)rows);
    }
    int32_t next = 0;
    for (int64_t i = from; i < upto; i++) {
        int at = s->prompt.visual_index[i];
        v->row[i - from] = at < 0 ? -1 : next;
        if (at < 0) continue;
        const struct vision_features *f = s->held[at];
        for (int l = 0; l < v->levels; l++)
            memcpy(v->values + (l * rows + next) * hidden, f->values + (l * f->tokens + s->prompt.visual_row[i]) * hidden,
                   (size_t)hidden * sizeof(float));
        next++;
    }
    for (int l = 0; l < v->levels; l++) v->level[l] = v->values + l * rows * hidden;
    return 0;
}

int sequence_prepare(struct sequence *s, int64_t upto, struct sequence_pass *p, struct err *err) {
    *p = (struct sequence_pass){.upto = upto};
    int r = make_room(s, upto, err);
    if (!r) r = gather_visual(s, s->computed, upto, &p->visual, err);
    if (r) return r;
    p->span = (struct span){
        .ids = s->prompt.ids + s->computed, .count = (int)(upto - s->computed), .first = s->computed,
        .positions = s->prompt.positions + 3 * s->computed, .pages = s->pages, .page_count = s->page_count,
        .visual_row = p->visual.row, .visual_levels = p->visual.level, .levels = p->visual.levels, .visual_pinned = p->visual.pinned};
    return 0;
}

void sequence_commit(struct sequence *s, struct sequence_pass *p, bool done, double seconds) {
    if (p->visual.values) {
        free(p->visual.values);
        free(p->visual.row);
    }
    p->visual = (struct visual_rows){0};
    s->forward_seconds += seconds;
    s->forwards++;
    if (!done) return;
    if (s->m->spill) spill_note_compute(s->m->spill, p->upto - s->computed, seconds);
    int64_t full = s->computed / PAGE;
    s->computed = p->upto;
    s->logits_known = false;
    if ((full + 1) * PAGE > p->upto) return;
    pthread_mutex_lock(&s->m->lock);
    for (; (full + 1) * PAGE <= p->upto; full++) {
        s->chain[full + 1] = sequence_page_key(s, full, PAGE);
        kv_publish(&s->m->kv, s->chain[full + 1], s->pages[full], PAGE, NULL);
    }
    pthread_mutex_unlock(&s->m->lock);
}

int64_t sequence_next(const struct sequence *s, int64_t most) {
    int64_t upto = (s->computed / PREFILL_CHUNK + 1) * PREFILL_CHUNK;
    if (!s->m->fixed_cuts) upto = most > PAGE ? (s->computed + most) / PAGE * PAGE : s->computed + 1;
    return upto < s->prompt.count ? upto : s->prompt.count;
}

int sequence_step(struct sequence *s, int64_t upto, const int *rows, int row_count, float *logits, float *hidden,
                  struct err *err) {
    struct sequence_pass p;
    int r = sequence_prepare(s, upto, &p, err);
    if (r) return r;
    p.span.logits_rows = rows;
    p.span.logits_count = row_count;
    p.span.logits = logits;
    p.span.hidden = hidden;
    double start = clock_seconds();
    r = batch_forward(s->m, &p.span, 1, err);
    sequence_commit(s, &p, r == 0, clock_seconds() - start);
    return r;
}

int sequence_own_logits(struct sequence *s, struct err *err) {
    struct logits_rows *rows = &s->m->kv.rows;
    if (s->logits && __atomic_load_n(&s->logits->refs, __ATOMIC_ACQUIRE) == 1) { /* and nobody else can come to it */
        s->logits->ranked = false;
        s->logits->norm = NAN;
        return 0;
    }
    pthread_mutex_lock(&s->m->lock);
    logits_row_drop(rows, s->logits);
    s->logits = logits_row_take(rows);
    pthread_mutex_unlock(&s->m->lock);
    return s->logits ? 0 : err_set(err, ERR_MEMORY, "out of memory for a row of logits");
}

void sequence_publish(struct sequence *s, int64_t n, struct logits_row *logits) {
    if (n <= 0 || n > s->computed) return;
    int64_t full = (n - 1) / PAGE;
    if (n % PAGE && s->end_count < SEQUENCE_ENDS) s->ends[s->end_count++] = n;
    pthread_mutex_lock(&s->m->lock);
    kv_publish(&s->m->kv, sequence_end_key(s, n), s->pages[full], (int)(n - full * PAGE), logits);
    pthread_mutex_unlock(&s->m->lock);
}

/* Names page by page: lengths inside a page, then the page in full. */
static void offer(struct sequence *s) {
    int64_t pages = (s->computed + PAGE - 1) / PAGE;
    struct page_name *names = s->m->spill && pages ? malloc((size_t)(pages + SEQUENCE_ENDS) * sizeof *names) : NULL;
    size_t count = 0;
    if (!names) return;
    for (int64_t i = 0; i < pages; i++) {
        for (int k = 0; k < s->end_count; k++)
            if ((s->ends[k] - 1) / PAGE == i && s->ends[k] <= s->computed)
                names[count++] = (struct page_name){sequence_end_key(s, s->ends[k]), (int)(s->ends[k] - i * PAGE)};
        if ((i + 1) * PAGE <= s->computed) names[count++] = (struct page_name){s->chain[i + 1], PAGE};
    }
    spill_offer(s->m->spill, names, count);
    free(names);
}

void sequence_close(struct sequence *s) {
    if (!s->m) return;
    sequence_publish(s, s->computed, NULL);
    pthread_mutex_lock(&s->m->lock);
    for (int i = 0; i < s->page_count; i++)
        if (s->m->kv.pages[s->pages[i]].writer == s) s->m->kv.pages[s->pages[i]].writer = NULL;
    pthread_mutex_unlock(&s->m->lock);
    offer(s); /* nobody writes to the pages any more */
    pthread_mutex_lock(&s->m->lock);
    for (int i = s->page_count - 1; i >= 0; i--) kv_page_drop(&s->m->kv, s->pages[i]);
    logits_row_drop(&s->m->kv.rows, s->logits);
    pthread_mutex_unlock(&s->m->lock);
    for (int i = 0; i < s->prompt.visual_count; i++)
        if (s->held && s->held[i]) features_put(s->m, s->held[i]);
    free(s->held);
    free(s->pages);
    free(s->chain);
    prompt_free(&s->prompt);
    *s = (struct sequence){0};
}
