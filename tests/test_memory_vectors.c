/* Vectors: arithmetic, silos and their fusion, exact search, the index file against exact search, and all that may be wrong with the file. */
#include "test.h"

#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../bench/vector_data.h"
#include "base/file.h"
#include "memory/faiss_shim.h"
#include "memory/silo.h"
#include "memory/vector_index.h"
#include "memory/vector_math.h"

static char folder[] = "/tmp/pmd-test-vectors-XXXXXX";
static char path[200];

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/index-1.ivf", folder);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    char command[200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

/* ---- arithmetic -------------------------------------------------------------------------------------------------------------------- */

static void every_variant_multiplies_alike(void **state) {
    (void)state;
    static const char *const names[] = {"c", "avx2", "avx512"};
    static float q[2100], rows[7 * 2100], out[7];
    uint64_t random = 1;
    data_normals(&random, q, 2100, 1);
    data_normals(&random, rows, 7 * 2100, 1);
    const char *best = vector_kernels();
    int tried = 0;
    for (int v = 0; v < 3; v++) {
        if (!vector_limit(names[v])) continue;
        tried++;
        assert_string_equal(vector_kernels(), names[v]);
        for (size_t n = 1; n < 2100; n = n < 70 ? n + 1 : n * 3 + 1) {
            vector_dots(q, rows, 7, n, out);
            for (size_t r = 0; r < 7; r++) {
                double sum = 0, size = 0;
                for (size_t i = 0; i < n; i++) sum += (double)q[i] * rows[r * n + i], size += fabs((double)q[i] * rows[r * n + i]);
                assert_true(fabs(out[r] - sum) <= 2e-6 * size + 1e-12);
                static uint8_t codes[2100];
                float coded;
                double by_code = 0, size_by_code = 0;
                for (size_t i = 0; i < n; i++) {
                    codes[i] = (uint8_t)(i * 37 + r);
                    by_code += (double)q[i] * codes[i], size_by_code += fabs((double)q[i] * codes[i]);
                }
                vector_code_dots(q, codes, 1, n, &coded);
                assert_true(fabs(coded - by_code) <= 2e-6 * size_by_code + 1e-12);
                assert_true(fabs(vector_dot(q, rows + r * n, n) - sum) <= 2e-6 * size + 1e-12);
            }
        }
    }
    assert_true(tried >= 1);
    assert_false(vector_limit("sse9"));
    assert_true(vector_limit(best));
}

static void only_real_vectors_are_normalised(void **state) {
    (void)state;
    float v[3] = {3, 0, 4}, zero[2] = {0, 0}, bad[2] = {1, NAN}, infinite[2] = {INFINITY, 1};
    assert_true(vector_normalise(v, 3));
    assert_float_equal(v[0], 0.6f, 1e-6f);
    assert_float_equal(v[2], 0.8f, 1e-6f);
    assert_false(vector_normalise(zero, 2));
    assert_false(vector_normalise(bad, 2));
    assert_false(vector_normalise(infinite, 2));
}

/* ---- silos --------------------------------------------------------------------------------------------------------------------------- */

static void silo_s_holds_every_2_to_the_s_th(void **state) {
    (void)state;
    int members[SILO_COUNT] = {0};
    for (uint32_t n = 1; n <= 1024; n++) {
        int level = silo_level(n);
        for (int s = 0; s < SILO_COUNT; s++) {
            bool member = s <= level;
            assert_int_equal(member, n % (1u << s) == 0);
            members[s] += member;
        }
    }
    for (int s = 0; s < SILO_COUNT; s++) assert_int_equal(members[s], 1024 >> s);
    assert_int_equal(silo_level(0), 0);
}

static void a_list_keeps_the_best_in_order(void **state) {
    (void)state;
    struct silo_top t = {0};
    for (int i = 0; i < 100; i++) silo_top_add(&t, i, (float)(i * 37 % 100));
    assert_int_equal(t.count, SILO_TOP);
    for (int i = 0; i < SILO_TOP; i++) assert_float_equal(t.hit[i].similarity, (float)(99 - i), 0);
    struct silo_top equal = {0};
    for (int i = 1; i <= 3; i++) silo_top_add(&equal, i, 0.5f);
    assert_int_equal(equal.hit[0].id, 3); /* the newer first */
}

static void ranks_are_fused(void **state) {
    (void)state;
    struct silo_lists l = {0};
    struct fused out[FUSED_MAX];
    /* 7: first in silo 0, second in silo 1. 5: second and first. 9: only third in silo 0. 4: near in time only. */
    silo_top_add(&l.silo[0], 7, 0.9f), silo_top_add(&l.silo[0], 5, 0.8f), silo_top_add(&l.silo[0], 9, 0.7f);
    silo_top_add(&l.silo[1], 5, 0.8f), silo_top_add(&l.silo[1], 7, 0.6f);
    for (int i = 0; i < 7; i++) silo_top_add(&l.silo[1], 100 + i, 0.1f);
    silo_top_add(&l.silo[2], 8, 0.7f); /* the only one there: no choice, no say */
    l.near.hit[l.near.count++].id = 4;
    l.near.hit[l.near.count++].id = 7;
    assert_int_equal(silo_fuse(&l, out), 4 + 6); /* of silo 1 the first eight */
    assert_int_equal(out[0].id, 7);
    assert_float_equal(out[0].score, 1.0f / 61 + 1.0f / 62 + 1.0f / 62, 1e-7f);
    assert_int_equal(out[0].silos, 1 | 2 | 128);
    assert_int_equal(out[1].id, 5);
    assert_float_equal(out[1].score, 1.0f / 62 + 1.0f / 61, 1e-7f);
    assert_float_equal(out[1].similarity, 0.8f, 0);
    assert_int_equal(out[2].id, 4);
    assert_float_equal(out[2].score, 1.0f / 61, 1e-7f);
    assert_float_equal(out[2].similarity, 0, 0);
    assert_int_equal(out[2].silos, 128);
    for (int i = 0; i < 10; i++) assert_int_not_equal(out[i].id, 8);
    assert_int_equal(out[3].score >= out[4].score, 1);
    int nine = 3;
    while (nine < 9 && out[nine].id != 9) nine++;
    assert_float_equal(out[nine].score, 1.0f / 63, 1e-7f); /* third in one list, like the third of silo 1 */
    assert_int_equal(out[nine].silos, 1);
    memset(&l, 0, sizeof l);
    assert_int_equal(silo_fuse(&l, out), 0);
}

/* ---- the index ------------------------------------------------------------------------------------------------------------------------ */

enum { DIMS = 48, COUNT = 6000, QUERIES = 60 };
static float vectors[COUNT][DIMS], queries[QUERIES][DIMS];

static void make_vectors(void) {
    struct vector_data d;
    assert_int_equal(data_open(&d, DIMS, 60, 8, 0.4f, 0.1f, 7), 0);
    for (int i = 0; i < COUNT; i++) data_vector(&d, vectors[i]);
    for (int i = 0; i < QUERIES; i++) data_vector(&d, queries[i]);
    data_close(&d);
}

static struct vector_index *open_index(const char *file, size_t exact_bytes, uint64_t space) {
    struct vector_index *x;
    struct err err;
    struct vector_index_options o = {.path = file, .dims = DIMS, .space = {space, 9}, .exact_bytes = exact_bytes};
    if (vector_index_new(&o, &x, &err)) fail_msg("%s", err.message);
    return x;
}

static void add(struct vector_index *x, int from, int upto) {
    struct err err;
    for (int i = from; i < upto; i++) {
        int64_t keyframe = i + 1;
        if (vector_index_add(x, vector_id(keyframe, silo_level((uint32_t)keyframe)), vectors[i], &err)) fail_msg("%s", err.message);
    }
}

/* Every silo's list by looking at every vector. */
static void brute(const float *q, int count, int64_t before, struct silo_lists *l) {
    memset(l, 0, sizeof *l);
    for (int i = 0; i < count; i++) {
        if (!before || i + 1 < before) silo_lists_add(l, i + 1, silo_level((uint32_t)i + 1), vector_dot(q, vectors[i], DIMS));
    }
}

static void same_lists(const struct silo_lists *a, const struct silo_lists *b) {
    for (int s = 0; s < SILO_COUNT; s++) {
        assert_int_equal(a->silo[s].count, b->silo[s].count);
        for (int i = 0; i < a->silo[s].count; i++) assert_float_equal(a->silo[s].hit[i].similarity, b->silo[s].hit[i].similarity, 1e-5f);
    }
}

static double recall(const struct vector_index *x, int count) {
    double sum = 0;
    for (int i = 0; i < QUERIES; i++) {
        struct silo_lists found, truth;
        vector_index_search(x, queries[i], 0, &found);
        brute(queries[i], count, 0, &truth);
        for (int k = 0; k < 10; k++) {
            for (int j = 0; j < found.silo[0].count && j < 10; j++) sum += found.silo[0].hit[j].id == truth.silo[0].hit[k].id;
        }
    }
    return sum / (10 * QUERIES);
}

static void few_vectors_are_searched_exactly(void **state) {
    (void)state;
    make_vectors();
    struct vector_index *x = open_index(NULL, 0, 1);
    struct silo_lists found, truth;
    vector_index_search(x, queries[0], 0, &found); /* an empty one */
    assert_int_equal(found.silo[0].count, 0);
    add(x, 0, 1300);
    for (int i = 0; i < QUERIES; i++) {
        vector_index_search(x, queries[i], 0, &found);
        brute(queries[i], 1300, 0, &truth);
        same_lists(&found, &truth);
        vector_index_search(x, queries[i], 700, &found);
        brute(queries[i], 1300, 700, &truth);
        same_lists(&found, &truth);
    }
    assert_false(vector_index_wants_file(x)); /* it has no file */
    vector_index_free(x);
}

static void need_faiss(void) {
    struct err err;
    if (!faiss_library(&err)) skip_because("%s", err.message);
}

static void the_file_finds_what_an_exact_search_finds(void **state) {
    (void)state;
    need_faiss();
    make_vectors();
    struct err err;
    char note[600];
    int64_t upto;
    struct vector_index_stats stats;
    struct vector_index *x = open_index(path, 100 * 1024, 1);
    assert_int_equal(vector_index_open_file(x, &upto, note), 0);
    assert_string_equal(note, "");
    add(x, 0, 5000);
    assert_true(vector_index_wants_file(x));
    if (vector_index_rebuild(x, 2, &err)) fail_msg("%s", err.message);
    vector_index_stats(x, &stats);
    assert_int_equal(stats.in_file, 5000);
    assert_int_equal(stats.vectors, 5000);
    assert_true(stats.lists > 8 && stats.probes < stats.lists / 2);
    assert_false(vector_index_wants_file(x));
    assert_true(recall(x, 5000) >= 0.95);
    add(x, 5000, COUNT); /* beside the file */
    assert_true(recall(x, COUNT) >= 0.95);
    vector_index_free(x);

    x = open_index(path, 100 * 1024, 1); /* another process */
    assert_int_equal(vector_index_open_file(x, &upto, note), 1);
    assert_int_equal(upto, 5000);
    add(x, 5000, COUNT);
    assert_true(recall(x, COUNT) >= 0.95);
    if (vector_index_rebuild(x, 1, &err)) fail_msg("%s", err.message); /* file and tail together */
    vector_index_stats(x, &stats);
    assert_int_equal(stats.in_file, COUNT);
    assert_true(recall(x, COUNT) >= 0.95);
    vector_index_free(x);
}

/* The scan of the mapped lists against FAISS's own search over the same lists. */
static void the_scan_agrees_with_faiss(void **state) {
    (void)state;
    need_faiss();
    make_vectors();
    struct err err;
    struct vector_index *x = open_index(path, 1, 1);
    add(x, 0, COUNT);
    if (vector_index_rebuild(x, 2, &err)) fail_msg("%s", err.message);
    struct vector_index_stats stats;
    vector_index_stats(x, &stats);
    FILE *f = fopen(path, "rb");
    int64_t start;
    assert_int_equal(fseek(f, 56, SEEK_SET), 0);
    assert_int_equal(fread(&start, sizeof start, 1, f), 1);
    assert_int_equal(fseek(f, start, SEEK_SET), 0);
    struct faiss_index *index;
    struct faiss_view view;
    char message[FAISS_MESSAGE];
    const struct faiss_shim *shim = faiss_library(NULL);
    if (shim->open(f, &index, &view, message)) fail_msg("%s", message);
    fclose(f);
    assert_int_equal(view.lists, stats.lists);
    for (int i = 0; i < QUERIES; i++) {
        float products[10];
        int64_t ids[10];
        struct silo_lists found;
        assert_int_equal(shim->search(index, queries[i], 10, stats.probes, products, ids, message), 0);
        vector_index_search(x, queries[i], 0, &found);
        for (int k = 0; k < 10; k++) assert_float_equal(found.silo[0].hit[k].similarity, products[k], 2e-5f);
    }
    const float *rows;
    const int64_t *ids;
    assert_true(shim->list(index, 0, &rows, &ids) >= 0);
    assert_int_equal((uintptr_t)rows % 64, 0);
    shim->close(index);
    vector_index_free(x);
}

static void exceptions_stay_in_the_shim(void **state) {
    (void)state;
    need_faiss();
    const struct faiss_shim *shim = faiss_library(NULL);
    char message[FAISS_MESSAGE] = "";
    struct faiss_index *index;
    struct faiss_view view;
    char text[] = "this is no index of FAISS at all";
    FILE *f = fmemopen(text, sizeof text, "rb");
    assert_int_equal(shim->open(f, &index, &view, message), -1);
    assert_true(*message);
    assert_null(index);
    fclose(f);
}

static void write_bytes(const char *file, const struct buf *b, size_t n) {
    FILE *f = fopen(file, "wb");
    assert_int_equal(fwrite(b->data, 1, n, f), n);
    fclose(f);
}

static void a_file_that_is_not_valid_is_dropped_and_made_again(void **state) {
    (void)state;
    need_faiss();
    make_vectors();
    struct err err;
    struct buf good = {0};
    char note[600];
    int64_t upto;
    struct vector_index *x = open_index(path, 1, 1);
    add(x, 0, 1000);
    if (vector_index_rebuild(x, 1, &err)) fail_msg("%s", err.message);
    vector_index_free(x);
    assert_int_equal(file_read(path, 64 << 20, &good, &err), 0);
    /* a byte flipped at many places, and the file cut at many lengths */
    for (int i = 0; i < 60; i++) {
        size_t at = i < 30 ? (size_t)i * 5 : (size_t)i * (good.len / 60);
        bool inside_padding = false;
        for (int cut = 0; cut < 2; cut++) {
            good.data[at] ^= cut ? 0 : 0x10;
            write_bytes(path, &good, cut ? at : good.len);
            good.data[at] ^= cut ? 0 : 0x10;
            x = open_index(path, 1, 1);
            int used = vector_index_open_file(x, &upto, note);
            inside_padding = !cut && at >= 112 && at < 128; /* not hashed, and not read */
            if (!inside_padding) {
                assert_int_equal(used, 0);
                assert_non_null(strstr(note, "not a valid index"));
                assert_false(file_exists(path));
            }
            vector_index_free(x);
        }
    }
    write_bytes(path, &good, good.len);
    x = open_index(path, 1, 2); /* of another space */
    assert_int_equal(vector_index_open_file(x, &upto, note), 0);
    assert_non_null(strstr(note, "another store, model or game"));
    add(x, 0, 1000);
    if (vector_index_rebuild(x, 1, &err)) fail_msg("%s", err.message);
    assert_true(recall(x, 1000) >= 0.95);
    vector_index_free(x);
    buf_free(&good);
}

static void a_file_that_cannot_be_written_is_an_error(void **state) {
    (void)state;
    need_faiss();
    make_vectors();
    struct err err;
    struct vector_index *x = open_index("/nonexistent/folder/index.ivf", 1, 1);
    add(x, 0, 200);
    assert_int_equal(vector_index_rebuild(x, 1, &err), ERR_IO);
    assert_non_null(strstr(err.message, "/nonexistent/folder/index.ivf"));
    struct silo_lists found, truth; /* and nothing is lost */
    vector_index_search(x, queries[0], 0, &found);
    brute(queries[0], 200, 0, &truth);
    same_lists(&found, &truth);
    vector_index_free(x);
}

/* In a process of its own: the library is looked for once. */
static void without_faiss_the_search_goes_on_exactly(void **state) {
    (void)state;
    make_vectors();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("PMD_FAISS_LIBRARY", "/nonexistent/libpmd-faiss.so", 1);
        struct err err;
        struct silo_lists found, truth;
        struct vector_index *x = open_index(path, 1, 1);
        add(x, 0, 2000);
        bool ok = vector_index_rebuild(x, 1, &err) == ERR_MISSING && strstr(err.message, "FAISS") && strstr(err.message, "libfaiss-dev");
        vector_index_search(x, queries[3], 0, &found);
        brute(queries[3], 2000, 0, &truth);
        for (int k = 0; k < 10; k++) ok = ok && found.silo[0].hit[k].id == truth.silo[0].hit[k].id;
        vector_index_free(x);
        _exit(ok ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
    /* first: this one forks, and OpenMP's threads do not survive that */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_faiss_the_search_goes_on_exactly),
        cmocka_unit_test(every_variant_multiplies_alike),
        cmocka_unit_test(only_real_vectors_are_normalised),
        cmocka_unit_test(silo_s_holds_every_2_to_the_s_th),
        cmocka_unit_test(a_list_keeps_the_best_in_order),
        cmocka_unit_test(ranks_are_fused),
        cmocka_unit_test(few_vectors_are_searched_exactly),
        cmocka_unit_test(the_file_finds_what_an_exact_search_finds),
        cmocka_unit_test(the_scan_agrees_with_faiss),
        cmocka_unit_test(exceptions_stay_in_the_shim),
        cmocka_unit_test(a_file_that_is_not_valid_is_dropped_and_made_again),
        cmocka_unit_test(a_file_that_cannot_be_written_is_an_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
