/* Teacher-forced scoring and embeddings: the prompt as it is, row by row. */
#include <math.h>
#include <stdlib.h>

#include "backend/pick.h"
#include "engine/sequence.h"
#include "engine/session.h"

static int open_copy(struct qvl_session *s, struct sequence *out, struct err *err) {
    const struct prompt *built;
    struct prompt copy = {0};
    int r = session_prompt(s, &built, err);
    if (!r) r = prompt_copy(&copy, built, err);
    if (!r) r = sequence_open(out, s->m, &copy, err);
    prompt_free(&copy);
    return r;
}

int qvl_score(struct qvl_session *s, int top_k, struct qvl_token **tokens, size_t *count, struct err *err) {
    struct sequence q = {0};
    *tokens = NULL;
    *count = 0;
    if (top_k < 0 || top_k > 20) return err_set(err, ERR_ARGUMENT, "score: %d alternatives asked for, expected 0 to 20", top_k);
    int64_t vocab = s->m->config->text.vocab, chunk = ((int64_t)1 << 24) / vocab; /* rows whose logits fit 64 MiB */
    if (chunk < 1) chunk = 1;
    if (chunk > PREFILL_CHUNK) chunk = PREFILL_CHUNK;
    int r = open_copy(s, &q, err);
    int64_t n = r ? 0 : q.prompt.count;
    struct qvl_token *list = calloc((size_t)n + 1, sizeof *list);
    float *logits = malloc((size_t)(chunk * vocab) * sizeof *logits);
    if (!r && (!list || !logits)) r = err_set(err, ERR_MEMORY, "out of memory for the scores of %lld tokens", (long long)n);
    if (!r) list[0] = (struct qvl_token){.id = q.prompt.ids[0], .logprob = 0, .forced = true};
    while (!r && q.computed < n) {
        int64_t from = q.computed, upto = from + chunk < n ? from + chunk : n;
        int rows[PREFILL_CHUNK];
        for (int i = 0; i < upto - from; i++) rows[i] = i;
        r = sequence_step(&q, upto, rows, (int)(upto - from), logits, NULL, err);
        for (int64_t i = from; !r && i < upto && i + 1 < n; i++) {
            struct picked p;
            pick_score(logits + (i - from) * vocab, (int)vocab, q.prompt.ids[i + 1], top_k, &p);
            token_from_pick(&list[i + 1], &p);
        }
    }
    turns_goodbye(s->m);
    sequence_close(&q);
    free(logits);
    if (r) {
        free(list);
        return r;
    }
    *tokens = list;
    *count = (size_t)n;
    return 0;
}

/* How many tokens must be computed so that the last of them is the one whose hidden state is the embedding. */
static int64_t embed_length(const struct qvl_model *m, const struct prompt *p, enum qvl_embedding kind) {
    if (kind == QVL_EMBED_LAST || kind == QVL_EMBED_IMAGE) return p->count;
    for (int64_t i = p->count - 1; i >= 0; i--) {
        if (kind == QVL_EMBED_THOUGHT && p->ids[i] == m->think_end) return i;
        for (int k = 0; kind == QVL_EMBED_EOS && k < m->eos_count; k++)
            if (p->ids[i] == m->eos[k]) return i + 1;
    }
    return 0;
}

/* The mean over the visual rows. */
static int embed_image(struct sequence *q, float *rows, float *out, struct err *err) {
    int64_t hidden = q->m->config->text.hidden, images = 0;
    double *total = calloc((size_t)hidden, sizeof *total);
    if (!total) return err_set(err, ERR_MEMORY, "out of memory for an embedding");
    int r = 0;
    while (!r && q->computed < q->prompt.count) {
        int64_t from = q->computed, upto = (from / PREFILL_CHUNK + 1) * PREFILL_CHUNK;
        if (upto > q->prompt.count) upto = q->prompt.count;
        r = sequence_step(q, upto, NULL, 0, NULL, rows, err);
        for (int64_t i = from; !r && i < upto; i++) {
            if (q->prompt.visual_index[i] < 0) continue;
            images++;
            for (int64_t k = 0; k < hidden; k++) total[k] += rows[(i - from) * hidden + k];
        }
    }
    if (!r && images == 0) r = err_set(err, ERR_ARGUMENT, "embedding of the picture: the session has none");
    for (int64_t k = 0; !r && k < hidden; k++) out[k] = (float)(total[k] / (double)images);
    free(total);
    return r;
}

static int embed_row(struct sequence *q, int64_t length, float *rows, float *out, struct err *err) {
    int64_t hidden = q->m->config->text.hidden;
    int r = sequence_match(q, err);
    if (!r && q->computed >= length) sequence_rewind(q, length - 1); /* known: one row tells its hidden state */
    while (!r && q->computed < length) {
        int64_t from = q->computed, upto = (from / PREFILL_CHUNK + 1) * PREFILL_CHUNK;
        if (upto > length) upto = length;
        r = sequence_step(q, upto, NULL, 0, NULL, upto == length ? rows : NULL, err);
        if (!r && upto == length) memcpy(out, rows + (upto - from - 1) * hidden, (size_t)hidden * sizeof *out);
    }
    return r;
}

int qvl_embed(struct qvl_session *s, enum qvl_embedding kind, float **out, int *size, struct err *err) {
    struct sequence q = {0};
    int64_t hidden = s->m->config->text.hidden, length = 0;
    *out = NULL;
    *size = 0;
    if (kind < QVL_EMBED_LAST || kind > QVL_EMBED_THOUGHT)
        return err_set(err, ERR_ARGUMENT, "embedding of unknown kind %d", kind);
    int r = open_copy(s, &q, err);
    float *rows = malloc((size_t)(PREFILL_CHUNK * hidden) * sizeof *rows), *result = calloc((size_t)hidden, sizeof *result);
    if (!r && (!rows || !result)) r = err_set(err, ERR_MEMORY, "out of memory for an embedding");
    if (!r && (length = embed_length(s->m, &q.prompt, kind)) == 0)
        r = err_set(err, ERR_ARGUMENT, "embedding: the session has no %s",
                    kind == QVL_EMBED_EOS ? "end token" : "thoughts before a </think>");
    if (!r) r = kind == QVL_EMBED_IMAGE ? embed_image(&q, rows, result, err) : embed_row(&q, length, rows, result, err);
    turns_goodbye(s->m);
    sequence_close(&q);
    free(rows);
    if (r) {
        free(result);
        return r;
    }
    *out = result;
    *size = (int)hidden;
    return 0;
}
