/* The engine's own promises: the same answer with and without reuse, at any number of threads and sequences; what is cached;
 * constrained answers; sampling; stop strings; refusals in sentences. */
#include <pthread.h>

#include "base/utf8.h"
#include "engine/room.h"
#include "engine/session.h"
#include "golden_session.h"
#include "made_checkpoint.h"

static const struct qvl_options small = {.threads = 2, .kv_bytes = 32 << 20};

static struct qvl_result generate(struct qvl_session *s, struct qvl_generate g) {
    struct err err = {0};
    struct qvl_result r;
    if (qvl_generate(s, &g, &r, &err)) fail_msg("%s", err.message);
    return r;
}

static void same_tokens(const struct qvl_result *a, const struct qvl_result *b) {
    assert_int_equal(a->token_count, b->token_count);
    for (size_t i = 0; i < a->token_count; i++) {
        assert_int_equal(a->tokens[i].id, b->tokens[i].id);
        assert_memory_equal(&a->tokens[i].logprob, &b->tokens[i].logprob, sizeof(float)); /* to the last bit */
    }
}

static const struct qvl_generate greedy16 = {.sampling.greedy = true, .max_tokens = 16, .no_append = true};

/* Every case, fresh and again: the second time all but the last token comes from the cache, and nothing differs. */
static void reuse_changes_nothing(void **state) {
    (void)state;
    static const char *const cases[] = {"text", "image", "images", "boundary", "video"};
    struct qvl_model *m = golden_model("tiny-a", &small);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct golden g;
        golden_open(&g, "tiny-a", cases[i]);
        struct qvl_session *s = golden_session(m, &g);
        kv_forget(&m->kv);
        struct qvl_result first = generate(s, greedy16);
        assert_int_equal(first.cached_tokens, 0);
        int64_t forwards = m->kv.miss_tokens;
        struct qvl_result again = generate(s, greedy16);
        assert_int_equal(again.cached_tokens, again.prompt_tokens - 1);
        assert_true(again.image_seconds == 0);
        assert_true(again.prefill_seconds == 0 && again.prefill_seconds < first.prefill_seconds); /* not even a forward pass */
        assert_int_equal(m->kv.miss_tokens - forwards, 1);
        same_tokens(&first, &again);
        kv_forget(&m->kv);
        struct qvl_result third = generate(s, greedy16);
        same_tokens(&first, &third);
        qvl_result_free(&first);
        qvl_result_free(&again);
        qvl_result_free(&third);
        qvl_session_free(s);
        golden_close(&g);
    }
    qvl_unload(m);
}

/* A conversation that grows turn by turn equals the same messages given at once to a fresh model. */
static void turns_equal_one_prompt(void **state) {
    (void)state;
    struct err err = {0};
    struct golden g;
    golden_open(&g, "tiny-a", "image");
    struct qvl_model *m = golden_model("tiny-a", &small);
    struct qvl_session *s = golden_session(m, &g);
    struct qvl_generate q = greedy16;
    q.no_append = false;
    for (int turn = 0; turn < 4; turn++) {
        struct qvl_result r = generate(s, q), fresh;
        struct qvl_session *fork;
        assert_int_equal(qvl_session_message(s, QVL_USER, &(struct qvl_part){.text = "go on, what is north?"}, 1, &err), 0);
        assert_int_equal(qvl_session_fork(s, &fork, &err), 0);
        struct qvl_result warm = generate(fork, greedy16);
        assert_true(warm.cached_tokens > r.prompt_tokens / 2);
        struct qvl_model *other = golden_model("tiny-a", &small);
        int32_t *ids;
        size_t count;
        assert_int_equal(qvl_session_ids(fork, &ids, &count, &err), 0);
        fork->m = other; /* the same messages on a model that has seen nothing */
        fresh = generate(fork, greedy16);
        fork->m = m;
        assert_int_equal(fresh.cached_tokens, 0);
        same_tokens(&warm, &fresh);
        free(ids);
        qvl_session_free(fork);
        qvl_unload(other);
        qvl_result_free(&r);
        qvl_result_free(&warm);
        qvl_result_free(&fresh);
    }
    qvl_session_free(s);
    qvl_unload(m);
    golden_close(&g);
}

static void threads_change_nothing(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, "tiny-b", "boundary");
    struct qvl_result first = {0};
    for (int threads = 1; threads <= 4; threads++) {
        struct qvl_options o = small;
        o.threads = threads;
        struct qvl_model *m = golden_model("tiny-b", &o);
        struct qvl_session *s = golden_session(m, &g);
        struct qvl_result r = generate(s, greedy16);
        if (threads == 1) {
            first = r;
        } else {
            same_tokens(&first, &r);
            qvl_result_free(&r);
        }
        qvl_session_free(s);
        qvl_unload(m);
    }
    qvl_result_free(&first);
    golden_close(&g);
}

struct player {
    struct qvl_model *m;
    const struct golden *g;
    int index;
    struct qvl_result result;
    pthread_t thread;
};

static struct qvl_session *player_session(const struct player *p) {
    struct err err = {0};
    char text[64];
    struct qvl_session *s = golden_session(p->m, p->g);
    snprintf(text, sizeof text, "game %d of %d, where to?", p->index % 7, p->index);
    if (qvl_session_message(s, QVL_USER, &(struct qvl_part){.text = text}, 1, &err)) fail_msg("%s", err.message);
    return s;
}

static void *play(void *context) {
    struct player *p = context;
    struct qvl_session *s = player_session(p);
    p->result = generate(s, greedy16);
    qvl_session_free(s);
    return NULL;
}

/* Many sequences from many threads at once: each gets the answer it would get alone, also when new ones are gathered and waiters stay awake as
 * beside a GPU. */
static void batching_changes_nothing(void **state) {
    (void)state;
    enum { PLAYERS = 12 };
    struct golden g;
    golden_open(&g, "tiny-a", "image");
    struct player alone[PLAYERS], together[PLAYERS];
    for (int i = 0; i < PLAYERS; i++) {
        alone[i] = (struct player){.m = golden_model("tiny-a", &small), .g = &g, .index = i};
        play(&alone[i]);
        qvl_unload(alone[i].m);
    }
    struct qvl_model *m = golden_model("tiny-a", &small);
    for (int round = 0; round < 6; round++) {
        m->turns.gather = round >= 3;
        m->turns.awake_most = round >= 3 ? 4 : 0;
        qvl_model_forget(m); /* pictures, too: they are encoded again */
        for (int i = 0; i < PLAYERS; i++) {
            together[i] = (struct player){.m = m, .g = &g, .index = i};
            assert_int_equal(pthread_create(&together[i].thread, NULL, play, &together[i]), 0);
        }
        for (int i = 0; i < PLAYERS; i++) {
            pthread_join(together[i].thread, NULL);
            same_tokens(&alone[i].result, &together[i].result);
            qvl_result_free(&together[i].result);
        }
        kv_forget(&m->kv);
    }
    assert_int_equal(m->kv.pages_used, 0);
    for (int i = 0; i < PLAYERS; i++) qvl_result_free(&alone[i].result);
    qvl_unload(m);
    golden_close(&g);
}

/* Pages for two prompts only: the cache gives way, answers stay. */
static void small_budget(void **state) {
    (void)state;
    struct golden g[2];
    golden_open(&g[0], "tiny-a", "images");
    golden_open(&g[1], "tiny-a", "video");
    struct qvl_model *big = golden_model("tiny-a", &small);
    size_t page = big->backend->page_bytes(big->device);
    struct qvl_options o = small;
    o.kv_bytes = page * 5;
    struct qvl_model *m = golden_model("tiny-a", &o);
    assert_int_equal(m->kv.page_limit, 5);
    for (int i = 0; i < 6; i++) {
        struct qvl_session *a = golden_session(big, &g[i % 2]), *b = golden_session(m, &g[i % 2]);
        struct qvl_result want = generate(a, greedy16), r = generate(b, greedy16);
        same_tokens(&want, &r);
        assert_true(m->kv.pages_used <= 5);
        qvl_result_free(&want);
        qvl_result_free(&r);
        qvl_session_free(a);
        qvl_session_free(b);
    }
    assert_true(m->kv.evicted > 0);
    /* A prompt beyond the budget is refused with numbers. */
    struct golden long_one;
    golden_open(&long_one, "tiny-a", "boundary");
    struct qvl_session *s = golden_session(m, &long_one);
    struct qvl_result r;
    struct err err = {0};
    assert_int_equal(qvl_generate(s, &greedy16, &r, &err), ERR_LIMIT);
    assert_non_null(strstr(err.message, "575 tokens"));
    qvl_session_free(s);
    golden_close(&long_one);
    qvl_unload(m);
    qvl_unload(big);
    golden_close(&g[0]);
    golden_close(&g[1]);
}

/* Prompts with random common beginnings, cut anywhere, from several threads on few pages: pages are shared, copied and dropped in
 * every order, and each answer equals that of a model which has seen nothing. */
enum { RANDOM_PROMPTS = 60, RANDOM_THREADS = 3 };
struct random_prompt {
    int32_t ids[300];
    size_t count;
    struct qvl_result alone;
};
struct random_player {
    struct qvl_model *m;
    struct random_prompt *prompts;
    uint32_t state;
    pthread_t thread;
};

static uint32_t random_next(uint32_t *state) { return (*state = *state * 1664525u + 1013904223u) >> 8; }

static struct qvl_result answer_ids(struct qvl_model *m, const struct random_prompt *p) {
    struct err err = {0};
    struct qvl_session *s;
    assert_int_equal(qvl_session_new(m, &s, &err), 0);
    if (qvl_session_raw_ids(s, p->ids, p->count, &err)) fail_msg("%s", err.message);
    struct qvl_result r =
        generate(s, (struct qvl_generate){.sampling.greedy = true, .max_tokens = 1 + (int)(p->count % 7), .no_append = true});
    qvl_session_free(s);
    return r;
}

static void *play_random(void *context) {
    struct random_player *p = context;
    for (int i = 0; i < 2 * RANDOM_PROMPTS; i++) {
        const struct random_prompt *q = &p->prompts[random_next(&p->state) % RANDOM_PROMPTS];
        struct qvl_result r = answer_ids(p->m, q);
        same_tokens(&q->alone, &r);
        qvl_result_free(&r);
    }
    return NULL;
}

static void random_reuse(void **state) {
    (void)state;
    static struct random_prompt prompts[RANDOM_PROMPTS];
    struct random_player players[RANDOM_THREADS];
    uint32_t seed = 7;
    struct qvl_model *fresh = golden_model("tiny-c", &small);
    for (int i = 0; i < RANDOM_PROMPTS; i++) {
        struct random_prompt *p = &prompts[i];
        size_t keep = 0;
        if (i > 0) { /* begin like an earlier one */
            const struct random_prompt *old = &prompts[random_next(&seed) % (uint32_t)i];
            keep = random_next(&seed) % (uint32_t)(old->count + 1);
            memcpy(p->ids, old->ids, keep * sizeof *p->ids);
        }
        p->count = keep + 1 + random_next(&seed) % 90;
        if (p->count > 300) p->count = 300;
        for (size_t k = keep; k < p->count; k++) p->ids[k] = (int32_t)(random_next(&seed) % 320);
        kv_forget(&fresh->kv);
        p->alone = answer_ids(fresh, p);
    }
    struct qvl_options o = small;
    o.kv_bytes = fresh->backend->page_bytes(fresh->device) * 40; /* three prompts of 10 pages, copies, and little else */
    struct qvl_model *m = golden_model("tiny-c", &o);
    for (int i = 0; i < RANDOM_THREADS; i++) {
        players[i] = (struct random_player){.m = m, .prompts = prompts, .state = (uint32_t)i + 1};
        assert_int_equal(pthread_create(&players[i].thread, NULL, play_random, &players[i]), 0);
    }
    for (int i = 0; i < RANDOM_THREADS; i++) pthread_join(players[i].thread, NULL);
    fprintf(stderr, "  %lld tokens from the cache, %lld computed, %lld entries dropped\n", (long long)m->kv.hit_tokens,
            (long long)m->kv.miss_tokens, (long long)m->kv.evicted);
    assert_true(m->kv.hit_tokens > 0 && m->kv.evicted > 0);
    kv_forget(&m->kv);
    assert_int_equal(m->kv.pages_used, 0); /* every reference was given back */
    for (int i = 0; i < RANDOM_PROMPTS; i++) qvl_result_free(&prompts[i].alone);
    qvl_unload(m);
    qvl_unload(fresh);
}

static const char *const schema =
    "{\"type\":\"object\",\"properties\":{\"action\":{\"enum\":[\"north\",\"south\",\"attack\",\"wait\"]}},"
    "\"required\":[\"action\"],\"additionalProperties\":false}";

static void constrained(void **state) {
    (void)state;
    static const char *const models[] = {"tiny-a", "tiny-b"}; /* Instruct, Thinking */
    for (int k = 0; k < 2; k++) {
        struct golden g;
        golden_open(&g, models[k], "image");
        struct qvl_model *m = golden_model(models[k], &small);
        struct qvl_session *s = golden_session(m, &g);
        struct qvl_generate q = {.json_schema = schema, .no_append = true, .top_logprobs = 4, .think_tokens = 9};
        bool seen[4] = {0};
        for (int i = 0; i < 24; i++) {
            q.sampling = (struct qvl_sampling){.temperature = 60, .top_k = 1000, .top_p = 1, .seed = (uint64_t)i};
            struct qvl_result r = generate(s, q);
            int which = !strcmp(r.text, "{\"action\":\"north\"}") ? 0 : !strcmp(r.text, "{\"action\":\"south\"}") ? 1
                        : !strcmp(r.text, "{\"action\":\"attack\"}") ? 2 : !strcmp(r.text, "{\"action\":\"wait\"}") ? 3 : -1;
            if (which < 0) fail_msg("answer %s", r.text);
            seen[which] = true;
            assert_int_equal(r.finish, QVL_FINISH_STOP);
            assert_int_equal(r.thinking != NULL, k == 1);
            int choices = 0;
            for (size_t t = 0; t < r.token_count; t++) choices += !r.tokens[t].forced;
            assert_true(choices >= 1);
            if (k == 0) assert_true(r.tokens[0].forced); /* {"action":" leaves no choice */
            if (i > 0) assert_int_equal(r.cached_tokens, r.prompt_tokens - 1);
            qvl_result_free(&r);
        }
        assert_true(seen[0] + seen[1] + seen[2] + seen[3] >= 2);
        struct err err = {0};
        struct qvl_result r;
        q.json_schema = "{\"type\":";
        assert_true(qvl_generate(s, &q, &r, &err) < 0);
        assert_true(err.message[0] != 0);
        qvl_session_free(s);
        qvl_unload(m);
        golden_close(&g);
    }
}

static void sampling(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, "tiny-a", "text");
    struct qvl_model *m = golden_model("tiny-a", &small);
    struct qvl_session *s = golden_session(m, &g);
    struct qvl_generate q = {.max_tokens = 12, .no_append = true};
    struct qvl_result want = generate(s, greedy16);
    /* top-k 1, a tiny top-p and min-p 1 are all greedy. */
    const struct qvl_sampling same[] = {{.top_k = 1}, {.top_p = 1e-6f}, {.min_p = 1.0f}, {.temperature = 1e-4f}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        q.sampling = same[i];
        struct qvl_result r = generate(s, q);
        for (size_t t = 0; t < r.token_count; t++) assert_int_equal(r.tokens[t].id, want.tokens[t].id);
        qvl_result_free(&r);
    }
    /* The same seed gives the same tokens, another seed others. */
    q.sampling = (struct qvl_sampling){.temperature = 30, .top_k = 500, .top_p = 1, .seed = 7};
    struct qvl_result a = generate(s, q), b = generate(s, q);
    same_tokens(&a, &b);
    q.sampling.seed = 8;
    struct qvl_result c = generate(s, q);
    bool differs = a.token_count != c.token_count;
    for (size_t t = 0; !differs && t < a.token_count; t++) differs = a.tokens[t].id != c.tokens[t].id;
    assert_true(differs);
    /* A strong repetition penalty: no token twice. */
    q.sampling = (struct qvl_sampling){.greedy = true, .presence_penalty = 1000};
    struct qvl_result p = generate(s, q);
    for (size_t t = 0; t < p.token_count; t++)
        for (size_t u = 0; u < t; u++) assert_int_not_equal(p.tokens[t].id, p.tokens[u].id);
    /* Nonsense is refused. */
    struct err err = {0};
    struct qvl_result r;
    q.sampling = (struct qvl_sampling){.top_p = 3};
    assert_int_equal(qvl_generate(s, &q, &r, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "top_p 3"));
    qvl_result_free(&want);
    qvl_result_free(&a);
    qvl_result_free(&b);
    qvl_result_free(&c);
    qvl_result_free(&p);
    qvl_session_free(s);
    qvl_unload(m);
    golden_close(&g);
}

struct listener {
    struct buf text;
    int stop_after, calls;
};
static int listen_to(void *user, const char *text, size_t n, bool thinking) {
    (void)thinking;
    struct listener *l = user;
    buf_append(&l->text, text, n);
    return l->stop_after && ++l->calls >= l->stop_after;
}

static void streaming_and_stopping(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, "tiny-a", "text");
    struct qvl_model *m = golden_model("tiny-a", &small);
    struct qvl_session *s = golden_session(m, &g);
    struct listener l = {0};
    struct qvl_generate q = greedy16;
    q.on_text = listen_to;
    q.user = &l;
    struct qvl_result r = generate(s, q);
    assert_string_equal(l.text.data, r.text); /* what was streamed is the answer */
    assert_true(utf8_valid_prefix(r.text, strlen(r.text)) == strlen(r.text));
    assert_true(strlen(r.text) > 6);
    /* A stop string from the middle of the answer ends it there, and nothing of it is streamed. */
    char stop[4] = {0};
    size_t middle = strlen(r.text) / 2;
    while (middle > 0 && (r.text[middle] & 0xc0) == 0x80) middle--;
    memcpy(stop, r.text + middle, (size_t)utf8_length(r.text + middle, 4));
    size_t first = (size_t)(strstr(r.text, stop) - r.text);
    const char *stops[] = {"never there", stop};
    q.stop = stops;
    q.stop_count = 2;
    buf_clear(&l.text);
    buf_str(&l.text, "");
    struct qvl_result cut = generate(s, q);
    assert_int_equal(strlen(cut.text), first);
    assert_memory_equal(cut.text, r.text, first);
    assert_int_equal(l.text.len, first);
    assert_int_equal(cut.finish, QVL_FINISH_STOP);
    /* The listener may end it. */
    q.stop_count = 0;
    l.stop_after = 2;
    struct qvl_result cancelled = generate(s, q);
    assert_int_equal(cancelled.finish, QVL_FINISH_CANCELLED);
    assert_true(cancelled.token_count < r.token_count);
    qvl_result_free(&r);
    qvl_result_free(&cut);
    qvl_result_free(&cancelled);
    buf_free(&l.text);
    qvl_session_free(s);
    qvl_unload(m);
    golden_close(&g);
}

static void think_budget(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, "tiny-b", "text");
    struct qvl_model *m = golden_model("tiny-b", &small);
    struct qvl_session *s = golden_session(m, &g);
    struct qvl_generate q = {.sampling.greedy = true, .max_tokens = 24, .think_tokens = 5, .no_append = true};
    struct qvl_result r = generate(s, q);
    int end = -1;
    for (size_t i = 0; i < r.token_count && end < 0; i++)
        if (r.tokens[i].id == m->think_end) end = (int)i;
    assert_true(end >= 0 && end <= 6);
    assert_non_null(r.thinking);
    qvl_result_free(&r);
    qvl_session_free(s);
    qvl_unload(m);
    golden_close(&g);
}

/* A model has rows for more tokens than its tokenizer knows (151,936 and 151,669). A thought may hold any; the answer behind it only what its
 * schema allows. */
static void answers_behind_thoughts_are_words(void **state) {
    (void)state;
    struct err err = {0};
    struct scratch folder;
    made_checkpoint(MADE_BF16, folder.folder);
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char from[80];
        snprintf(from, sizeof from, "tests/golden/tiny-b/%s", files[i]);
        struct buf b = read_whole(from);
        scratch_write(&folder, files[i], b.data, b.len);
        buf_free(&b);
    }
    char path[80];
    snprintf(path, sizeof path, "%s/config.json", folder.folder);
    struct buf config = read_whole(path);
    static const char *const ids[][2] = {{"500", "336"}, {"501", "337"}, {"498", "333"}, {"499", "334"}}; /* as this tokenizer has them */
    for (int i = 0; i < 4; i++) memcpy(strstr(config.data, ids[i][0]), ids[i][1], 3);
    scratch_write(&folder, "config.json", config.data, config.len);
    buf_free(&config);
    struct qvl_model *m;
    struct qvl_session *s;
    if (qvl_load(folder.folder, &small, &m, &err) || qvl_session_new(m, &s, &err)) fail_msg("%s", err.message);
    assert_int_equal(m->config->text.vocab, MADE_VOCAB);
    assert_true(MADE_VOCAB / 32 > (tokenizer_vocab(m->tokenizer) + 31) / 32); /* a mask of the model's is longer than one of the tokenizer's */
    if (qvl_session_message(s, QVL_USER, &(struct qvl_part){.text = "where to?"}, 1, &err)) fail_msg("%s", err.message);
    int above = 0;
    for (int i = 0; i < 30; i++) {
        struct qvl_generate q = {.json_schema = schema, .no_append = true, .think_tokens = 9, .sampling = {.temperature = 60, .top_k = 1000, .top_p = 1, .seed = (uint64_t)i}};
        struct qvl_result r = generate(s, q);
        assert_memory_equal(r.text, "{\"action\":\"", 11);
        for (size_t t = 0; t < r.token_count; t++) above += r.tokens[t].id >= tokenizer_vocab(m->tokenizer);
        qvl_result_free(&r);
    }
    assert_true(above > 0); /* in the thoughts: the case is there */
    qvl_session_free(s);
    qvl_unload(m);
    made_remove(folder.folder);
}

static void embeddings(void **state) {
    (void)state;
    struct err err = {0};
    struct golden g;
    golden_open(&g, "tiny-a", "image");
    struct qvl_model *m = golden_model("tiny-a", &(struct qvl_options){.f32 = true, .threads = 2, .kv_bytes = 32 << 20});
    struct qvl_session *s = golden_session(m, &g);
    const struct tensor *norm = golden_need(&g, "text.norm"), *ids = golden_need(&g, "input_ids");
    int64_t n = norm->shape[0], d = norm->shape[1];
    float *last, *image, want[512] = {0};
    int size;
    for (int twice = 0; twice < 2; twice++) { /* the second time from the cache */
        if (qvl_embed(s, QVL_EMBED_LAST, &last, &size, &err)) fail_msg("%s", err.message);
        assert_int_equal(size, d);
        assert_true(relative_distance(last, (const float *)norm->data + (n - 1) * d, (size_t)d) < 1e-4);
        free(last);
    }
    /* The last end token stands before the newline and the generation prompt. */
    int64_t end = n - 1;
    while (((const int32_t *)ids->data)[end] != m->eos[0] && end > 0) end--;
    if (qvl_embed(s, QVL_EMBED_EOS, &last, &size, &err)) fail_msg("%s", err.message);
    assert_true(end > 0 && relative_distance(last, (const float *)norm->data + end * d, (size_t)d) < 1e-4);
    free(last);
    assert_int_equal(qvl_embed(s, QVL_EMBED_THOUGHT, &last, &size, &err), ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "</think>"));
    if (qvl_embed(s, QVL_EMBED_IMAGE, &image, &size, &err)) fail_msg("%s", err.message);
    int count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (((const int32_t *)ids->data)[i] != m->config->image_token) continue;
        count++;
        for (int64_t k = 0; k < d; k++) want[k] += ((const float *)norm->data)[i * d + k];
    }
    for (int64_t k = 0; k < d; k++) want[k] /= (float)count;
    assert_true(relative_distance(image, want, (size_t)d) < 1e-4);
    free(image);
    qvl_session_clear(s);
    assert_int_equal(qvl_session_message(s, QVL_USER, &(struct qvl_part){.text = "no picture"}, 1, &err), 0);
    assert_int_equal(qvl_embed(s, QVL_EMBED_IMAGE, &image, &size, &err), ERR_ARGUMENT);
    qvl_session_free(s);
    qvl_unload(m);
    golden_close(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reuse_changes_nothing),
        cmocka_unit_test(turns_equal_one_prompt),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(batching_changes_nothing),
        cmocka_unit_test(small_budget),
        cmocka_unit_test(random_reuse),
        cmocka_unit_test(constrained),
        cmocka_unit_test(sampling),
        cmocka_unit_test(streaming_and_stopping),
        cmocka_unit_test(think_budget), cmocka_unit_test(answers_behind_thoughts_are_words),
        cmocka_unit_test(embeddings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
