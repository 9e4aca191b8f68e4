/* Memory from play to rebuild, with the bundled dungeon and model: what play adds step by step is what rebuild makes of the run; a run
 * that goes on; scratchpad and recalled lines; runs that were tampered with. */
#include "test.h"

#include <sqlite3.h>
#include <unistd.h>

#include "agent/home.h"
#include "agent/recall.h"
#include "app/commands.h"
#include "app/memory_runs.h"
#include "base/file.h"
#include "memory/store.h"

static char folder[] = "/tmp/pmd-test-memory-XXXXXX";
static char memory[200], run_a[200], run_b[200], again[200];
static struct err err;

static int set_up(void **state) {
    (void)state;
    unsetenv("MODEL_BACKEND");
    if (!mkdtemp(folder)) return -1;
    snprintf(memory, sizeof memory, "%s/memory", folder);
    snprintf(again, sizeof again, "%s/again", folder);
    snprintf(run_a, sizeof run_a, "%s/runs/a", folder);
    snprintf(run_b, sizeof run_b, "%s/runs/b", folder);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    char command[200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

/* Runs a command; standard output and error are kept in out. */
static int run(struct buf *out, int (*command)(int, char **), const char *const *args) {
    char *argv[32];
    int argc = 0;
    for (; args[argc]; argc++) argv[argc] = (char *)args[argc];
    argv[argc] = NULL;
    char name[] = "/tmp/pmd-test-memory-out-XXXXXX";
    int file = mkstemp(name);
    fflush(stdout), fflush(stderr);
    int old[2] = {dup(1), dup(2)};
    dup2(file, 1), dup2(file, 2);
    int code = command(argc, argv);
    fflush(stdout), fflush(stderr);
    for (int i = 0; i < 2; i++) dup2(old[i], i + 1), close(old[i]);
    close(file);
    buf_clear(out);
    buf_str(out, "");
    file_read(name, 1 << 22, out, NULL);
    unlink(name);
    unsetenv("MODEL_BACKEND");
    return code;
}
#define PLAY(out, ...) run(out, cmd_play, (const char *const[]){"play", __VA_ARGS__, NULL})
#define MEMORY(out, ...) run(out, cmd_memory, (const char *const[]){"memory", __VA_ARGS__, NULL})

static void fingerprint(const char *in, char out[33]) {
    char path[300];
    struct store *s;
    snprintf(path, sizeof path, "%s/memory.sqlite", in);
    if (store_open(path, false, &s, &err) || store_fingerprint(s, out, &err) || store_verify(s, &err)) fail_msg("%s", err.message);
    store_close(s);
}

static struct store_counts counts(const char *in) {
    char path[300];
    struct store *s;
    struct store_counts c;
    snprintf(path, sizeof path, "%s/memory.sqlite", in);
    if (store_open(path, true, &s, &err) || store_counts(s, &c, &err)) fail_msg("%s", err.message);
    store_close(s);
    return c;
}

static bool there(void) {
    char path[4096];
    return file_exists(home_file(HOME_ROM, path, sizeof path)) && file_exists(home_file(HOME_MODEL "/model.safetensors", path, sizeof path));
}

static void rebuilding_gives_what_playing_gave(void **state) {
    (void)state;
    if (!there()) skip_because("no ROM or bundled model");
    struct buf out = {0};
    char played[33], made[33];
    if (PLAY(&out, "--memory", memory, "--record", run_a, "--max-decisions", "50", "--seed", "5")) fail_msg("%s", out.data);
    if (PLAY(&out, "--memory", memory, "--record", run_b, "--max-decisions", "30", "--episodes", "2", "--seed", "5")) fail_msg("%s", out.data);
    struct store_counts c = counts(memory);
    assert_int_equal(c.runs, 2);
    assert_int_equal(c.steps, 50 + 30 + 30);
    assert_true(c.keyframes > 10 && c.keyframes < c.steps / 2);
    assert_true(c.embeddings > 5 && c.embeddings < c.keyframes); /* run b began like run a: the same pictures are embedded once */
    assert_true(c.recalls > 20);
    assert_int_equal(c.judged, c.recalls);
    fingerprint(memory, played);

    char runs[200];
    snprintf(runs, sizeof runs, "%s/runs", folder);
    if (MEMORY(&out, "rebuild", "--memory", again, "--runs", runs, "--model", "bundled")) fail_msg("%s", out.data);
    fingerprint(again, made);
    assert_string_equal(made, played); /* embeddings too: made from the pictures that the run kept */
    if (MEMORY(&out, "rebuild", "--memory", memory, "--runs", runs)) fail_msg("%s", out.data); /* in place, embeddings kept */
    assert_non_null(strstr(out.data, "0 made"));
    fingerprint(memory, made);
    assert_string_equal(made, played);
    assert_int_equal(MEMORY(&out, "rebuild", "--memory", memory, "--runs", runs, "--fresh"), 0);
    assert_int_equal(counts(memory).embeddings, 0);
    assert_int_equal(MEMORY(&out, "rebuild", "--memory", memory, "--runs", runs, "--model", "bundled"), 0);
    fingerprint(memory, made);
    assert_string_equal(made, played);
    buf_free(&out);
}

static void questions_are_answered(void **state) {
    (void)state;
    if (!there()) skip_because("no ROM or bundled model");
    struct buf out = {0};
    assert_int_equal(MEMORY(&out, "search", "--memory", memory, "--run", "a", "--keyframes", "--limit", "2"), 0);
    assert_non_null(strstr(out.data, "a e1 s"));
    assert_non_null(strstr(out.data, "keyframe: "));
    assert_null(strstr(out.data, "b e1"));
    char picture[300] = "";
    char *name = strstr(out.data, "frames/");
    assert_non_null(name);
    snprintf(picture, sizeof picture, "%s/%.*s", run_a, (int)strcspn(name, "\n "), name);
    assert_int_equal(MEMORY(&out, "search", "--memory", memory, "--scene", "nowhere"), 0);
    assert_non_null(strstr(out.data, "nothing fits"));
    if (MEMORY(&out, "search", "--memory", memory, "--like", picture)) fail_msg("%s", out.data);
    assert_int_equal(strncmp(out.data, "1.000", 5), 0); /* it finds itself */
    assert_int_equal(MEMORY(&out, "search", "--memory", memory, "--like", picture, "--embed", "last"), 1);
    assert_non_null(strstr(out.data, "no embeddings (last)"));
    assert_int_equal(MEMORY(&out, "search", "--memory", memory, "--like", "/nonexistent.png"), 1);
    assert_non_null(strstr(out.data, "/nonexistent.png"));
    assert_int_equal(MEMORY(&out, "stats", "--memory", memory), 0);
    assert_non_null(strstr(out.data, "2 runs"));
    assert_int_equal(MEMORY(&out, "stats", "--memory", memory, "--json"), 0);
    struct arena a = {0};
    const struct json *j = json_parse(out.data, out.len, "stats", &a, &err);
    assert_non_null(j);
    assert_int_equal(json_as_integer(json_get(j, "steps"), 0), 110);
    arena_free(&a);
    assert_int_equal(MEMORY(&out, "verify", "--memory", memory), 0);
    assert_non_null(strstr(out.data, "whole"));
    assert_int_equal(MEMORY(&out, "stats", "--memory", "/nonexistent"), 1);
    assert_non_null(strstr(out.data, "no such store"));
    assert_int_equal(MEMORY(&out, "forget"), 2);
    assert_int_equal(MEMORY(&out, "search", "--limit", "many"), 2);
    assert_int_equal(MEMORY(&out, "rebuild", "--embed", "smell"), 2);
    assert_int_equal(PLAY(&out, "--embed", "smell"), 2);
    assert_int_equal(MEMORY(&out, "rebuild", "--memory", again, "--runs", "/nonexistent"), 1);
    assert_int_equal(MEMORY(&out, "--help"), 0);
    assert_non_null(strstr(out.data, "usage"));
    buf_free(&out);
}

/* Thoughts need a model that thinks: said, not silently something else. */
static void a_model_that_does_not_think_has_no_thoughts(void **state) {
    (void)state;
    if (!there()) skip_because("no ROM or bundled model");
    struct buf out = {0};
    assert_int_equal(PLAY(&out, "--memory", memory, "--embed", "thought", "--no-record", "--max-decisions", "3"), 1);
    assert_non_null(strstr(out.data, "does not think"));
    buf_free(&out);
}

/* As after a kill in the second episode, with the store two steps behind the run: gone on with, it is the store of the run played at once. */
static void a_run_that_goes_on_remembers(void **state) {
    (void)state;
    if (!there()) skip_because("no ROM or bundled model");
    struct buf out = {0};
    char whole[33], made[33], run_c[200], command[900], other[200], path[300];
    snprintf(run_c, sizeof run_c, "%s/late/c", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    if (PLAY(&out, "--memory", other, "--record", run_c, "--max-decisions", "40", "--seed", "9", "--episodes", "2")) fail_msg("%s", out.data);
    fingerprint(other, whole);
    snprintf(command, sizeof command, "cd '%s' && rm -f summary.json && head -n 65 trajectory.jsonl > t && mv t trajectory.jsonl && head -n 3 episodes.jsonl > t && mv t episodes.jsonl",
             run_c);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/memory.sqlite", other);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA foreign_keys=ON; DELETE FROM step WHERE episode=2 AND number>23; DELETE FROM episode WHERE number=2", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    fingerprint(other, made);
    assert_string_not_equal(made, whole);
    if (PLAY(&out, "--resume", run_c)) fail_msg("%s", out.data);
    assert_int_equal(counts(other).steps, 80);
    fingerprint(other, made);
    assert_string_equal(made, whole);
    buf_free(&out);
}

/* Games that are played at the same time remember each other, so no order of runs has all that was recalled before it. */
static void games_that_remember_each_other(void **state) {
    (void)state;
    if (!there()) skip_because("no ROM or bundled model");
    struct buf out = {0};
    char both[200], made[200], runs[200];
    snprintf(both, sizeof both, "%s/both", folder);
    snprintf(made, sizeof made, "%s/made", folder);
    snprintf(runs, sizeof runs, "%s/side-by-side", folder);
    char run_d[300];
    snprintf(run_d, sizeof run_d, "%s/d", runs);
    if (PLAY(&out, "--memory", both, "--record", run_d, "--games", "2", "--episodes", "2", "--max-decisions", "40", "--seed", "21", "--threads", "1")) fail_msg("%s", out.data);
    struct store_counts played = counts(both);
    assert_int_equal(played.runs, 2);
    char path[300];
    int crossed[2];
    static const char *const ways[2] = {"<", ">"};
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/memory.sqlite", both);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    for (int i = 0; i < 2; i++) {
        char query[300];
        sqlite3_stmt *q;
        snprintf(query, sizeof query, "SELECT count(*) FROM recall JOIN step s ON s.id=recall.step JOIN keyframe k ON k.id=recall.keyframe JOIN step t ON t.id=k.step WHERE s.run %s t.run", ways[i]);
        assert_int_equal(sqlite3_prepare_v2(db, query, -1, &q, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(q), SQLITE_ROW);
        crossed[i] = sqlite3_column_int(q, 0);
        sqlite3_finalize(q);
    }
    sqlite3_close(db);
    assert_true(crossed[0] > 0 && crossed[1] > 0);
    if (MEMORY(&out, "rebuild", "--memory", made, "--runs", runs, "--model", "bundled")) fail_msg("%s", out.data);
    assert_null(strstr(out.data, "are of runs that are gone"));
    struct store_counts again = counts(made);
    assert_int_equal(again.steps, played.steps);
    assert_int_equal(again.keyframes, played.keyframes);
    assert_int_equal(again.embeddings, played.embeddings);
    assert_int_equal(again.recalls, played.recalls);
    assert_int_equal(again.judged, played.judged);
    assert_int_equal(again.followed_good, played.followed_good);
    assert_int_equal(again.other_good, played.other_good);
    buf_free(&out);
}

static void tampered_runs_are_named_and_left_out(void **state) {
    (void)state;
    if (!there()) skip_because("no ROM or bundled model");
    struct buf out = {0}, text = {0};
    char path[300], before[33], after[33], runs[200];
    snprintf(runs, sizeof runs, "%s/runs", folder);
    snprintf(path, sizeof path, "%s/trajectory.jsonl", run_b);
    assert_int_equal(file_read(path, 1 << 24, &text, &err), 0);
    assert_int_equal(MEMORY(&out, "rebuild", "--memory", memory, "--runs", run_a), 0);
    fingerprint(memory, before);
    char *spot = strstr(text.data + text.len / 2, "\"hp\":");
    assert_non_null(spot);
    spot[5] = '9';
    assert_int_equal(file_replace(path, text.data, text.len, &err), 0);
    assert_int_equal(MEMORY(&out, "rebuild", "--memory", memory, "--runs", runs), 1);
    assert_non_null(strstr(out.data, "left out: "));
    assert_non_null(strstr(out.data, path));
    fingerprint(memory, after); /* run a is in, nothing of b */
    assert_string_equal(before, after);
    buf_free(&out);
    buf_free(&text);
}

/* ---- lines ------------------------------------------------------------------------------------------------------------------------------ */

static int take(const char *json, struct store_step *out) {
    static struct arena a;
    arena_free(&a);
    struct err parse;
    const struct json *j = json_parse(json, strlen(json), "line", &a, &parse);
    if (!j) fail_msg("%s", parse.message);
    static struct run_line line;
    line = (struct run_line){.episode = 1, .step = 3, .json = j, .frame_hash = "f", .state_hash = "s", .action = "eat", .scene = "field"};
    return store_step_of_line(&line, out, &err);
}

static void hostile_lines_are_refused_by_field(void **state) {
    (void)state;
    static const struct { const char *json, *field; } bad[] = {
        {"{\"hp\":\"many\"}", "hp"}, {"{\"hp\":1e99}", "hp"}, {"{\"floor\":2.5}", "floor"}, {"{\"hp\":99999999999999}", "hp"},
        {"{\"position\":[1]}", "position"}, {"{\"position\":\"here\"}", "position"}, {"{\"position\":[1,99999999]}", "position"},
        {"{\"bag\":{}}", "bag"}, {"{\"bag\":[[1,2,3]]}", "bag"}, {"{\"bag\":[[1,999]]}", "bag"}, {"{\"bag\":[[-1,2]]}", "bag"}, {"{\"bag\":[1]}", "bag"},
        {"{\"bag\":[[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1],[1,1]]}", "bag"},
        {"{\"picture_hash\":\"xyz\"}", "picture_hash"}, {"{\"picture_hash\":\"12345678123456789\"}", "picture_hash"}, {"{\"picture_hash\":7}", "picture_hash"},
        {"{\"note\":[]}", "note"}, {"{\"note\":\"a\\u0000b\"}", "note"}, {"{\"picture\":3}", "picture"},
    };
    struct store_step s;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(take(bad[i].json, &s), ERR_FORMAT);
        char expected[60];
        snprintf(expected, sizeof expected, "step 3 of episode 1: field %s:", bad[i].field);
        if (!strstr(err.message, expected)) fail_msg("%s: %s", bad[i].json, err.message);
    }
    assert_int_equal(take("{}", &s), 0); /* a run of an older program */
    assert_int_equal(s.hp, -1);
    assert_int_equal(s.foes, -1);
    assert_int_equal(s.bag, 0);
    assert_int_equal(s.picture_hash, 0);
    assert_int_equal(take("{\"hp\":12,\"bag\":[],\"position\":[3,4],\"picture_hash\":\"00000000000000ff\",\"note\":\"n\"}", &s), 0);
    assert_int_equal(s.hp, 12);
    assert_int_equal(s.x, 3);
    assert_int_equal(s.picture_hash, 255);
    assert_true(s.bag != 0); /* an empty bag is not an unknown one */
    assert_string_equal(s.note, "n");
}

/* ---- the loop, without a model -------------------------------------------------------------------------------------------------------------- */

static void notes_come_back_with_where_they_were_written(void **state) {
    (void)state;
    struct recall *r;
    struct recall_options o = {.scratchpad = true};
    assert_int_equal(recall_new(&o, &r, &err), 0);
    struct agent_events e = recall_events(r);
    static struct world_seen seen;
    static struct memory_lines lines;
    memset(&seen, 0, sizeof seen);
    memset(&lines, 0, sizeof lines);
    seen.now.leader = -1, seen.now.floor = 2;
    struct step s = {.number = 1, .seen = &seen, .scene = "field", .action = "eat", .note = "north:\ndead end"};
    e.episode_begun(e.user, 1, NULL);
    recall_tell(r, &s, &lines);
    assert_int_equal(lines.count, 0);
    e.step_done(e.user, &s);
    s.number = 2, s.note = NULL;
    recall_tell(r, &s, &lines);
    assert_int_equal(lines.count, 1);
    assert_string_equal(lines.lines[0].text, "note: \"north:\\ndead end\"");
    assert_string_equal(lines.lines[0].from, "scratchpad, floor 2, step 1");
    assert_int_equal(lines.keyframe, 0);
    /* a resumed run has them too */
    struct recall *resumed;
    assert_int_equal(recall_new(&o, &resumed, &err), 0);
    struct arena a = {0};
    static struct run_line line;
    const char text[] = "{\"floor\":3,\"note\":\"trap east\"}";
    line = (struct run_line){.episode = 1, .step = 9, .json = json_parse(text, strlen(text), "line", &a, &err), .frame_hash = "f", .state_hash = "s", .scene = "field"};
    assert_int_equal(recall_resume(resumed, &line, &err), 0);
    assert_int_equal(recall_scratchpad(resumed)->count, 1);
    assert_string_equal(recall_scratchpad(resumed)->line[0].text, "trap east");
    assert_int_equal(recall_scratchpad(resumed)->line[0].floor, 3);
    assert_int_equal(recall_scratchpad(resumed)->line[0].step, 9);
    e.episode_begun(e.user, 2, NULL); /* another dungeon: another page */
    s.number = 1;
    memset(&lines, 0, sizeof lines);
    recall_tell(r, &s, &lines);
    assert_int_equal(lines.count, 0);
    arena_free(&a);
    recall_free(resumed);
    recall_free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_lines_are_refused_by_field),
        cmocka_unit_test(notes_come_back_with_where_they_were_written),
        cmocka_unit_test(rebuilding_gives_what_playing_gave),
        cmocka_unit_test(questions_are_answered),
        cmocka_unit_test(a_model_that_does_not_think_has_no_thoughts),
        cmocka_unit_test(a_run_that_goes_on_remembers),
        cmocka_unit_test(games_that_remember_each_other),
        cmocka_unit_test(tampered_runs_are_named_and_left_out),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
