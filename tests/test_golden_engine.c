/* The whole engine against Hugging Face transformers: from messages and pictures to tokens (exact), positions (exact), resized
 * pixels (exact), log-probabilities (fp32, 1e-4) and greedy answers. */
#include "checkpoint/checkpoint.h"
#include "engine/session.h"
#include "golden_session.h"

static const char *const models[] = {"tiny-a", "tiny-b", "tiny-c", "tiny-fp8", "tiny-nf4", "tiny-nf4-plain"};
static const char *const cases[] = {"text", "image", "images", "boundary", "video"};

static void check_prompt(const struct golden *g, struct qvl_session *s) {
    struct err err = {0};
    const struct prompt *p;
    if (session_prompt(s, &p, &err)) fail_msg("%s: %s", g->path, err.message);
    const struct tensor *ids = golden_need(g, "input_ids"), *positions = golden_need(g, "positions");
    const int32_t *want = ids->data;
    for (int64_t i = 0; i < p->count && i < ids->shape[0]; i++)
        if (p->ids[i] != want[i]) fail_msg("%s: token %lld is %d, expected %d", g->path, (long long)i, p->ids[i], want[i]);
    assert_int_equal(p->count, ids->shape[0]);
    assert_memory_equal(p->positions, positions->data, positions->bytes);
    assert_int_equal(p->next_position - p->count, *(const int32_t *)golden_need(g, "rope_delta")->data);
}

/* Every picture's grid and pixels, as the preprocessor of transformers makes them. */
static void check_pixels(const struct golden *g, const struct qvl_session *s) {
    const struct tensor *grid = golden_find(g, "grid");
    if (!grid) return;
    const struct tensor *pixels = golden_need(g, "pixels");
    const uint8_t *want = pixels->data;
    const int32_t *thw = grid->data;
    for (int i = 0; i < s->count; i++)
        for (int k = 0; k < s->items[i].part_count; k++) {
            const struct visual *v = s->items[i].parts[k].visual;
            if (!v) continue;
            struct err err = {0};
            struct patches p;
            int r = v->video ? video_patches(v->frames, v->frame_count, s->m->config, RESAMPLE_TORCHVISION, &p, &err)
                             : image_patches(&v->frames[0], s->m->config, RESAMPLE_TORCHVISION, &p, &err);
            if (r) fail_msg("%s", err.message);
            assert_int_equal(p.grid_t, thw[0]);
            assert_int_equal(p.grid_h, thw[1]);
            assert_int_equal(p.grid_w, thw[2]);
            assert_int_equal(v->grid_t, thw[0]);
            assert_int_equal(v->grid_h, thw[1]);
            assert_int_equal(v->grid_w, thw[2]);
            for (int64_t n = 0; n < p.count * p.width; n++)
                if (lrintf(p.values[n] * 127.5f + 127.5f) != want[n])
                    fail_msg("%s: pixel value %lld is %.3f, expected %d", g->path, (long long)n,
                             (double)(p.values[n] * 127.5f + 127.5f), want[n]);
            want += p.count * p.width;
            thw += 3;
            patches_free(&p);
        }
    assert_true(want == (const uint8_t *)pixels->data + pixels->bytes);
}

/* log softmax of the reference's logits at the next token, against qvl_score. */
static double check_scores(const struct golden *g, struct qvl_session *s) {
    struct err err = {0};
    struct qvl_token *tokens;
    size_t count;
    if (qvl_score(s, 5, &tokens, &count, &err)) fail_msg("%s: %s", g->path, err.message);
    const struct tensor *ids = golden_need(g, "input_ids"), *logits = golden_need(g, "logits");
    int64_t n = ids->shape[0], rows = logits->shape[0], vocab = logits->shape[1];
    assert_int_equal(count, n);
    double worst = 0;
    for (int64_t i = n - rows; i + 1 < n; i++) {
        const float *row = (const float *)logits->data + (i - (n - rows)) * vocab;
        double most = row[0], sum = 0;
        for (int64_t k = 0; k < vocab; k++) most = row[k] > most ? row[k] : most;
        for (int64_t k = 0; k < vocab; k++) sum += exp(row[k] - most);
        double want = row[((const int32_t *)ids->data)[i + 1]] - most - log(sum);
        worst = fmax(worst, fabs(want - tokens[i + 1].logprob));
        assert_int_equal(tokens[i + 1].top_count, 5);
        assert_true(fabs(row[tokens[i + 1].top_id[0]] - most) < 1e-3);
    }
    free(tokens);
    return worst;
}

static void check_greedy(const struct golden *g, struct qvl_session *s) {
    struct err err = {0};
    const struct tensor *want = golden_need(g, "greedy");
    struct qvl_generate q = {.sampling.greedy = true, .max_tokens = (int)want->shape[0], .no_append = true};
    struct qvl_result r;
    if (qvl_generate(s, &q, &r, &err)) fail_msg("%s: %s", g->path, err.message);
    for (size_t i = 0; i < r.token_count; i++) assert_int_equal(r.tokens[i].id, ((const int32_t *)want->data)[i]);
    assert_true(r.token_count == (size_t)want->shape[0] || r.finish == QVL_FINISH_STOP);
    qvl_result_free(&r);
}

static void matches_transformers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct qvl_model *m = golden_model(models[i], &(struct qvl_options){.f32 = true, .threads = 2, .kv_bytes = 64 << 20});
        for (size_t j = 0; j < sizeof cases / sizeof *cases; j++) {
            if (!golden_exists(models[i], cases[j])) continue;
            struct golden g;
            golden_open(&g, models[i], cases[j]);
            struct qvl_session *s = golden_session(m, &g);
            check_prompt(&g, s);
            check_pixels(&g, s);
            double worst = check_scores(&g, s);
            fprintf(stderr, "  %-15s %-9s log-probabilities within %.1e\n", models[i], cases[j], worst);
            assert_true(worst < 1e-4);
            check_greedy(&g, s);
            qvl_session_free(s);
            golden_close(&g);
        }
        qvl_unload(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(matches_transformers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
