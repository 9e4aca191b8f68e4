/* What the prefix cache knows of a prompt: pages on the device first, then what the levels below can bring there. */
#include <stdlib.h>

#include "engine/sequence.h"
#include "engine/spill.h"

enum { PAGE = BACKEND_PAGE_TOKENS };

static void add_known(struct sequence *s, int32_t page, struct hash128 key) {
    s->pages[s->page_count++] = page;
    s->chain[s->page_count] = key;
    s->computed += PAGE;
}

/* Full pages that are on the device. The lock is held. */
static void match_device(struct sequence *s) {
    while (s->computed + PAGE <= s->prompt.count) {
        struct hash128 key = sequence_page_key(s, s->page_count, PAGE);
        struct kv_entry *e = kv_find(&s->m->kv, key);
        if (!e) return;
        kv_page_hold(&s->m->kv, e->page);
        add_known(s, e->page, key);
    }
}

/* Where is this page, if anywhere? What is found on the device or the host is held. The lock is held. */
static bool find_page(struct qvl_model *m, struct hash128 key, int tokens, struct known_page *out) {
    *out = (struct known_page){.key = key, .tokens = tokens, .page = -1};
    const struct kv_entry *e = kv_find(&m->kv, key);
    const struct host_entry *h = e ? NULL : host_pages_find(&m->spill->host, key);
    if (e) kv_page_hold(&m->kv, out->page = e->page);
    else if (h) host_blob_hold(out->blob = h->blob);
    else return out->on_disk = m->spill->has_folder && spill_folder_find(&m->spill->folder, key, &out->place);
    return true;
}

/* What the levels together know behind the pages that the sequence has: full pages, then perhaps one that is not full. */
static int find_below(struct sequence *s, struct known_page *list) {
    struct qvl_model *m = s->m;
    int64_t n = s->prompt.count, at = s->computed;
    int count = 0, full = s->page_count;
    pthread_mutex_lock(&m->lock);
    for (; at + PAGE <= n; at += PAGE, count++, full++) {
        struct hash128 key = sequence_page_key(s, full, PAGE);
        if (!find_page(m, key, PAGE, &list[count])) break;
        s->chain[full + 1] = key;
    }
    for (int k = n - at < PAGE ? (int)(n - at) : PAGE - 1; k > 0; k--)
        if (find_page(m, sequence_page_key(s, full, k), k, &list[count])) {
            count++;
            break;
        }
    pthread_mutex_unlock(&m->lock);
    return count;
}

/* Cuts the list before its first page on disk when computing them is faster. */
static int judge(struct sequence *s, const struct known_page *list, int count) {
    int64_t tokens = 0;
    uint64_t bytes = 0;
    int first = -1;
    for (int i = 0; i < count; i++) {
        if (first < 0 && list[i].on_disk) first = i;
        if (first >= 0) tokens += list[i].tokens;
        if (list[i].on_disk) bytes += s->m->spill->folder.shape.page_bytes;
    }
    return first < 0 || spill_worth(s->m->spill, tokens, bytes) ? count : first;
}

/* Brings what the levels below know onto the device: full pages join the sequence, one that is not full is only published. */
static void match_below(struct sequence *s) {
    struct known_page *list = calloc((size_t)(s->prompt.count / PAGE) + 2, sizeof *list);
    if (!list) return; /* then it is computed */
    int count = find_below(s, list), keep = judge(s, list, count), i = 0;
    spill_let_go(s->m->spill, list + keep, count - keep);
    keep = spill_restore(s->m->spill, list, keep);
    while (i < keep && list[i].tokens == PAGE) {
        add_known(s, list[i].page, list[i].key);
        i++;
    }
    spill_let_go(s->m->spill, list + i, keep - i);
    if (keep < count || s->computed + PAGE <= s->prompt.count) spill_missed(s->m->spill);
    free(list);
}

/* A prompt that is known to its end may have its logits below. */
static void match_logits(struct sequence *s) {
    struct qvl_model *m = s->m;
    int64_t n = s->prompt.count;
    if (n == 0 || (n - 1) / PAGE > s->page_count) return;
    struct hash128 key = sequence_end_key(s, n);
    struct spill_place place;
    pthread_mutex_lock(&m->lock);
    const struct kv_entry *e = kv_peek(&m->kv, key);
    bool wanted = e && !e->logits;
    struct logits_row *row = wanted ? logits_row_take(&m->kv.rows) : NULL;
    const struct host_entry *h = row ? host_pages_find(&m->spill->host, key) : NULL;
    if (h && h->logits) {
        memcpy(row->values, h->logits, (size_t)m->config->text.vocab * sizeof *h->logits);
        kv_publish(&m->kv, key, e->page, e->tokens, row);
        wanted = false;
    }
    pthread_mutex_unlock(&m->lock);
    bool read = wanted && row && m->spill->has_folder && spill_folder_find(&m->spill->folder, key, &place) &&
                spill_read_logits(m->spill, &place, row->values);
    pthread_mutex_lock(&m->lock);
    e = kv_peek(&m->kv, key);
    if (read && e) kv_publish(&m->kv, key, e->page, e->tokens, row);
    logits_row_drop(&m->kv.rows, row);
    pthread_mutex_unlock(&m->lock);
}

/* The longest beginning of the page behind the full ones. The lock is held. */
static void match_tail(struct sequence *s) {
    struct kv_store *kv = &s->m->kv;
    int64_t left = s->prompt.count - s->computed;
    for (int k = left < PAGE ? (int)left : PAGE - 1; k > 0; k--) {
        struct kv_entry *tail = kv_find(kv, sequence_page_key(s, s->page_count, k));
        if (!tail) continue;
        kv_page_hold(kv, tail->page);
        s->pages[s->page_count++] = tail->page;
        s->computed += k;
        return;
    }
}

int sequence_match(struct sequence *s, struct err *err) {
    int64_t n = s->prompt.count;
    int r = sequence_reserve(s, n + PAGE, err);
    if (r) return r;
    sequence_rewind(s, 0);
    struct kv_store *kv = &s->m->kv;
    pthread_mutex_lock(&s->m->lock);
    match_device(s);
    pthread_mutex_unlock(&s->m->lock);
    if (s->m->spill) {
        match_below(s);
        match_logits(s);
    }
    pthread_mutex_lock(&s->m->lock);
    match_tail(s);
    /* Parents more recent than children: what is dropped first is then always the end of a chain. */
    for (int i = s->page_count - 1; i > 0; i--)
        if ((int64_t)i * PAGE <= s->computed) kv_find(kv, s->chain[i]);
    s->reused = s->computed;
    if (s->computed == n && n > 0) {
        const struct kv_entry *e = kv_peek(kv, sequence_end_key(s, n));
        if (e && e->logits) {
            logits_row_drop(&kv->rows, s->logits);
            logits_row_hold(s->logits = e->logits);
            s->logits_known = true;
        } else {
            s->computed--; /* the last token is computed again for its logits */
        }
        s->reused = n - 1;
    }
    kv->hit_tokens += s->reused - s->counted_hits;
    kv->miss_tokens += n - s->reused - s->counted_misses;
    s->counted_hits = s->reused;
    s->counted_misses = n - s->reused;
    pthread_mutex_unlock(&s->m->lock);
    return 0;
}
