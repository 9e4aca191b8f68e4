/* Teacher-forced scoring and embeddings: the prompt as it is, row by row. */
#include <math.h>
#include <stdlib.h>

#include "engine/sampler.h"
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
        for (int64_t i = from; !r && i < upto && i + 1 < n; i++)
            logprobs_of(logits + (i - from) * vocab, (int)vocab, NULL, q.prompt.ids[i + 1], top_k, &list[i + 1]);
    }
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

int qvl_embed(struct qvl_session *s, enum qvl_embedding kind, float **out, int *size, struct err *err) {
    struct sequence q = {0};
    int64_t hidden = s->m->config->text.hidden, images = 0;
    *out = NULL;
    *size = 0;
    int r = open_copy(s, &q, err);
    float *rows = malloc((size_t)(PREFILL_CHUNK * hidden) * sizeof *rows), *sum = calloc((size_t)hidden, sizeof *sum);
    double *total = calloc((size_t)hidden, sizeof *total);
    if (!r && (!rows || !sum || !total)) r = err_set(err, ERR_MEMORY, "out of memory for an embedding");
    if (!r && kind == QVL_EMBED_LAST) {
        r = sequence_match(&q, err);
        if (!r && q.computed == q.prompt.count) q.computed--; /* known in full: one row tells its hidden state */
    }
    while (!r && q.computed < q.prompt.count) {
        int64_t from = q.computed, upto = (from / PREFILL_CHUNK + 1) * PREFILL_CHUNK;
        if (upto > q.prompt.count) upto = q.prompt.count;
        bool wanted = kind == QVL_EMBED_IMAGE || upto == q.prompt.count;
        r = sequence_step(&q, upto, NULL, 0, NULL, wanted ? rows : NULL, err);
        for (int64_t i = from; !r && kind == QVL_EMBED_IMAGE && i < upto; i++) {
            if (q.prompt.visual_index[i] < 0) continue;
            images++;
            for (int64_t k = 0; k < hidden; k++) total[k] += rows[(i - from) * hidden + k];
        }
        if (!r && kind == QVL_EMBED_LAST && upto == q.prompt.count)
            memcpy(sum, rows + (upto - from - 1) * hidden, (size_t)hidden * sizeof *sum);
    }
    if (!r && kind == QVL_EMBED_IMAGE && images == 0) r = err_set(err, ERR_ARGUMENT, "embedding of the picture: the session has none");
    for (int64_t k = 0; !r && kind == QVL_EMBED_IMAGE && k < hidden; k++) sum[k] = (float)(total[k] / (double)images);
    sequence_close(&q);
    free(rows);
    free(total);
    if (r) {
        free(sum);
        return r;
    }
    *out = sum;
    *size = (int)hidden;
    return 0;
}
