/* The store: its schema's versions, damaged and foreign files, kill -9 while it is written to, what follows a step, keyframes, and the
 * scratchpad. */
#include "test.h"

#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "memory/keyframe.h"
#include "memory/memory.h"
#include "memory/scratchpad.h"
#include "memory/store.h"

static char folder[] = "/tmp/pmd-test-store-XXXXXX";
static struct err err;

static int set_up(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}
static int tear_down(void **state) {
    (void)state;
    char command[200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *file_of(const char *name) {
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static struct store *open_store(const char *name) {
    struct store *s;
    if (store_open(file_of(name), false, &s, &err)) fail_msg("%s", err.message);
    return s;
}

static int64_t add_run(struct store *s, const char *name) {
    struct store_run run = {.name = name, .folder = "/runs/x", .started_at = "2026-01-01T00:00:00.000Z", .game = "TWDE", .policy = "model"};
    int64_t id = 0;
    if (store_run_add(s, &run, &id, &err)) fail_msg("%s", err.message);
    return id;
}

static void hash_of(uint32_t number, char out[33]) { snprintf(out, 33, "%032x", number); }

/* A plain field step that can be changed by the caller. */
static struct store_step field(int64_t run, uint32_t number, char hash[33]) {
    hash_of(number, hash);
    return (struct store_step){.run = run, .episode = 1, .number = number, .seed = 7, .first_frame = number * 60, .frame_hash = hash, .state_hash = hash,
                               .picture_hash = 1, .scene = "field", .floor = 1, .hp = 30, .max_hp = 40, .level = 5, .belly = 100, .x = (int)number % 50, .y = 3,
                               .foes = 0, .bag = 5, .action = "walk_north", .decided_by = "model"};
}

static int64_t put(struct store *s, const struct store_step *step) {
    int64_t keyframe;
    if (store_step(s, step, &keyframe, &err) != 1) fail_msg("step %u: %s", step->number, err.message);
    return keyframe;
}

/* ---- versions and files ------------------------------------------------------------------------------------------------------------- */

/* A store as the first version wrote it. */
static void make_version_1(const char *path) {
    static const char schema[] =
        "CREATE TABLE run(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, folder TEXT, started_at TEXT, game TEXT, rom_hash TEXT, policy TEXT, model TEXT);"
        "CREATE TABLE step(id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, episode INTEGER NOT NULL, number INTEGER NOT NULL,"
        " seed INTEGER, first_frame INTEGER, frame_hash TEXT, state_hash TEXT, scene TEXT, floor INTEGER, hp INTEGER, max_hp INTEGER, level INTEGER,"
        " belly INTEGER, x INTEGER, y INTEGER, action TEXT, decided_by TEXT, UNIQUE(run, episode, number));"
        "CREATE TABLE episode(run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, number INTEGER NOT NULL, steps INTEGER, outcome TEXT,"
        " PRIMARY KEY(run, number)) WITHOUT ROWID;"
        "INSERT INTO run VALUES(1, 'old', '/runs/old', '2025-01-01', 'TWDE', 'h', 'model', 'm');"
        "INSERT INTO step VALUES(1, 1, 1, 1, 7, 60, 'f', 's', 'field', 2, 11, 22, 5, 90, 4, 5, 'eat', 'model');"
        "INSERT INTO episode VALUES(1, 1, 1, 'fainted');"
        "PRAGMA application_id=1347241037; PRAGMA user_version=1;";
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, schema, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static int one_found(void *user, const struct store_found *f) {
    int *count = user;
    ++*count;
    assert_string_equal(f->run, "old");
    assert_string_equal(f->action, "eat");
    assert_string_equal(f->outcome, "fainted");
    assert_int_equal(f->hp, 11);
    return 0;
}

static void an_old_version_is_brought_up_to_date(void **state) {
    (void)state;
    int count = 0;
    int64_t keyframe;
    make_version_1(file_of("v1.sqlite"));
    struct store *s;
    assert_int_equal(store_open(file_of("v1.sqlite"), true, &s, &err), ERR_STATE); /* not when it may only be read */
    assert_non_null(strstr(err.message, "version 1"));
    s = open_store("v1.sqlite");
    struct store_filter f = {.scene = "field", .floor = 2, .episode = -1};
    assert_int_equal(store_find(s, &f, one_found, &count, &err), 0);
    assert_int_equal(count, 1);
    char hash[33];
    struct store_step next = field(1, 2, hash); /* and it takes what the present version writes */
    next.causes = KEYFRAME_FIRST, next.ordinal = 1, next.note = "north is a dead end";
    assert_int_equal(store_step(s, &next, &keyframe, &err), 1);
    assert_true(keyframe > 0);
    assert_int_equal(store_verify(s, &err), 0);
    store_close(s);
    s = open_store("v1.sqlite"); /* a second time there is nothing to do */
    store_close(s);
}

static void execute_on(const char *path, const char *sql) {
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) fail_msg("%s", sqlite3_errmsg(db));
    sqlite3_close(db);
}

static void newer_foreign_and_damaged_files_are_refused(void **state) {
    (void)state;
    struct store *s = open_store("new.sqlite");
    store_close(s);
    execute_on(file_of("new.sqlite"), "PRAGMA user_version=99");
    assert_int_equal(store_open(file_of("new.sqlite"), false, &s, &err), ERR_FORMAT);
    assert_non_null(strstr(err.message, "new.sqlite: version 99"));
    assert_null(s);

    execute_on(file_of("foreign.sqlite"), "CREATE TABLE other(x)");
    assert_int_equal(store_open(file_of("foreign.sqlite"), false, &s, &err), ERR_FORMAT);
    assert_non_null(strstr(err.message, "another program"));

    static const char text[] = "This is a letter, not a database. It is long enough to be looked at as one, since SQLite reads a hundred bytes of head.";
    assert_int_equal(file_replace(file_of("letter.sqlite"), text, sizeof text, &err), 0);
    assert_int_equal(store_open(file_of("letter.sqlite"), false, &s, &err), ERR_FORMAT);
    assert_non_null(strstr(err.message, "letter.sqlite"));
    assert_non_null(strstr(err.message, "memory rebuild"));

    assert_int_equal(store_open(file_of("none.sqlite"), true, &s, &err), ERR_MISSING);
    assert_int_equal(store_open("/nonexistent/folder/m.sqlite", false, &s, &err), ERR_IO);
    assert_non_null(strstr(err.message, "/nonexistent/folder/m.sqlite"));
}

/* Pages of the file overwritten: whatever is then asked of it, an error names the file; nothing crashes. */
static void a_damaged_page_is_named(void **state) {
    (void)state;
    struct store *s = open_store("damaged.sqlite");
    int64_t run = add_run(s, "a");
    char hash[33];
    assert_int_equal(store_begin(s, &err), 0);
    for (uint32_t i = 1; i <= 2000; i++) {
        struct store_step step = field(run, i, hash);
        put(s, &step);
    }
    assert_int_equal(store_commit(s, &err), 0);
    store_close(s);
    char path[300];
    snprintf(path, sizeof path, "%s", file_of("damaged.sqlite"));
    FILE *f = fopen(path, "r+b");
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    for (long at = 5 * 4096; at < size; at += 3 * 4096) {
        fseek(f, at, SEEK_SET);
        for (int i = 0; i < 64; i++) fputc(0xA5, f);
    }
    fclose(f);
    int code = store_open(path, false, &s, &err);
    if (!code) code = store_verify(s, &err);
    store_close(s);
    assert_int_equal(code, ERR_FORMAT);
    assert_non_null(strstr(err.message, path));
}

/* ---- kill -9 -------------------------------------------------------------------------------------------------------------------------- */

/* The child writes steps and tells each that is done; killed at any moment, all it told are there, and no half of a keyframe. */
static void a_killed_writer_loses_no_step_it_has_told(void **state) {
    (void)state;
    for (int round = 0; round < 12; round++) {
        int told[2];
        assert_int_equal(pipe(told), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct store *s = open_store("killed.sqlite");
            char name[20], hash[33];
            snprintf(name, sizeof name, "run%d", round);
            int64_t run = add_run(s, name), keyframe;
            for (uint32_t i = 1;; i++) {
                struct store_step step = field(run, i, hash);
                if (i % 3 == 0) step.causes = KEYFRAME_PICTURE, step.ordinal = i / 3;
                if (store_step(s, &step, &keyframe, &err) != 1 || write(told[1], &i, sizeof i) != sizeof i) _exit(1);
            }
        }
        close(told[1]);
        uint32_t last = 0, n;
        for (int i = 0; i < 20 + round * 37 && read(told[0], &n, sizeof n) == sizeof n; i++) last = n;
        kill(child, SIGKILL);
        while (read(told[0], &n, sizeof n) == sizeof n) last = n;
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        close(told[0]);

        struct store *s = open_store("killed.sqlite");
        char name[20];
        snprintf(name, sizeof name, "run%d", round);
        int64_t run = add_run(s, name);
        assert_int_equal(store_verify(s, &err), 0);
        struct store_outcome o;
        int64_t keyframe;
        for (uint32_t i = 1; i <= last; i++) {
            if (store_outcome(s, run, 1, i, &o, &err)) fail_msg("round %d: %s", round, err.message);
            if (i % 3) continue;
            assert_int_equal(store_keyframe_at(s, name, 1, i, &keyframe, &err), 0);
            assert_true(keyframe > 0);
        }
        assert_true(last > 10);
        store_close(s);
    }
}

/* ---- steps and what came of them --------------------------------------------------------------------------------------------------------- */

static void what_follows_a_step_is_told(void **state) {
    (void)state;
    struct store *s = open_store("outcome.sqlite");
    int64_t run = add_run(s, "a"), keyframe;
    char hash[33];
    for (uint32_t i = 1; i <= 12; i++) {
        struct store_step step = field(run, i, hash);
        step.hp = i == 12 ? -1 : 30 - (int)i; /* the last is a menu: no HP on it */
        step.floor = i < 10 ? 1 : 2;
        step.new_tile = i % 2;
        put(s, &step);
    }
    struct store_outcome o;
    assert_int_equal(store_outcome(s, run, 1, 2, &o, &err), 0); /* steps 3..10 */
    assert_int_equal(o.steps, OUTCOME_STEPS);
    assert_int_equal(o.hp_change, -8);
    assert_int_equal(o.floors, 1);
    assert_int_equal(o.new_tiles, 4);
    assert_false(o.ended);
    assert_int_equal(store_outcome(s, run, 1, 9, &o, &err), 0);
    assert_int_equal(o.steps, 3);
    assert_int_equal(o.hp_change, -2);
    assert_int_equal(store_episode_end(s, run, 1, 12, "fainted", &err), 0);
    assert_int_equal(store_outcome(s, run, 1, 9, &o, &err), 0);
    assert_true(o.ended);
    assert_string_equal(o.outcome, "fainted");
    assert_int_equal(store_outcome(s, run, 1, 3, &o, &err), 0);
    assert_false(o.ended); /* it ended later than eight steps on */
    assert_int_equal(store_outcome(s, run, 1, 99, &o, &err), ERR_MISSING);
    struct store_step again = field(run, 5, hash);
    assert_int_equal(store_step(s, &again, &keyframe, &err), 0); /* there already */
    store_close(s);
}

/* Two memories told at step 2: one is followed, one is not; hp stays, new tiles come: good. At step 20 HP is lost: not good. */
static void memories_are_judged(void **state) {
    (void)state;
    struct store *s = open_store("judged.sqlite");
    int64_t run = add_run(s, "past"), now = add_run(s, "now");
    char hash[33];
    struct store_step step = field(run, 1, hash);
    step.causes = KEYFRAME_FIRST, step.ordinal = 1, step.action = "hit_north";
    int64_t hit = put(s, &step);
    step = field(run, 2, hash);
    step.causes = KEYFRAME_PICTURE, step.ordinal = 2, step.action = "eat";
    int64_t ate = put(s, &step);
    struct store_counts c;
    for (uint32_t i = 1; i <= 30; i++) {
        step = field(now, i, hash);
        step.action = i == 2 || i == 20 ? "hit_north" : "walk_east";
        step.hp = i > 22 ? 20 : 30;
        step.new_tile = true;
        put(s, &step);
        if (i == 2 || i == 20) {
            struct store_recall r = {now, 1, i, 1, hit, 0.1f, 0.9f, 1};
            assert_int_equal(store_recall(s, &r, &err), 0);
            r.rank = 2, r.keyframe = ate;
            assert_int_equal(store_recall(s, &r, &err), 0);
        }
        assert_int_equal(store_judge(s, now, 1, i, false, &err), 0);
        assert_int_equal(store_counts(s, &c, &err), 0);
        assert_int_equal(c.judged, i < 10 ? 0 : i < 28 ? 2 : 4);
    }
    assert_int_equal(c.recalls, 4);
    assert_int_equal(c.followed, 2);
    assert_int_equal(c.followed_good, 1);
    assert_int_equal(c.other_good, 1);
    struct store_recall told[4];
    assert_int_equal(store_recalled(s, now, 1, 20, told, 4, &err), 2);
    assert_int_equal(told[0].keyframe, hit);
    assert_float_equal(told[1].similarity, 0.9f, 0);
    /* at the end of an episode the rest is judged, with the steps that there were */
    step = field(now, 31, hash);
    put(s, &step);
    struct store_recall last = {now, 1, 31, 1, hit, 0.1f, 0.9f, 1};
    assert_int_equal(store_recall(s, &last, &err), 0);
    assert_int_equal(store_episode_end(s, now, 1, 31, "cleared", &err), 0);
    assert_int_equal(store_judge(s, now, 1, 31, true, &err), 0);
    assert_int_equal(store_counts(s, &c, &err), 0);
    assert_int_equal(c.judged, 5);
    assert_int_equal(c.other_good, 2); /* cleared is good */
    /* a run that goes takes with it what hangs on it */
    assert_int_equal(store_run_remove(s, run, &err), 0);
    assert_int_equal(store_counts(s, &c, &err), 0);
    assert_int_equal(c.recalls, 0);
    assert_int_equal(store_verify(s, &err), 0);
    store_close(s);
}

static void runs_are_told_apart_by_when_they_began(void **state) {
    (void)state;
    struct store *s = open_store("runs.sqlite");
    int64_t a = add_run(s, "a"), again = add_run(s, "a"), other;
    assert_int_equal(a, again);
    char hash[33];
    struct store_step step = field(a, 1, hash);
    put(s, &step);
    struct store_run newer = {.name = "a", .folder = "/runs/x", .started_at = "2026-02-02"}; /* the folder was recorded anew */
    assert_int_equal(store_run_add(s, &newer, &other, &err), 0);
    struct store_counts c;
    assert_int_equal(store_counts(s, &c, &err), 0);
    assert_int_equal(c.runs, 1);
    assert_int_equal(c.steps, 0);
    newer.folder = "/elsewhere/a", newer.started_at = "2026-03-03";
    assert_int_equal(store_run_add(s, &newer, &other, &err), ERR_STATE);
    assert_non_null(strstr(err.message, "another folder name"));
    store_close(s);
}

/* ---- spaces, duplicates, recall through the memory ------------------------------------------------------------------------------------------ */

static struct memory *open_memory(const char *name, const char *identity, const char *kind) {
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    struct store_space space = {"a model", identity, kind, "TWDE", 4};
    struct memory_options o = {.folder = path, .space = &space};
    struct memory *m;
    if (memory_open(&o, &m, &err)) fail_msg("%s", err.message);
    return m;
}

static void step_with_vector(struct memory *m, int64_t run, uint32_t number, float x, float y) {
    char hash[33];
    float v[4] = {x, y, 0, 0};
    struct store_step step = field(run, number, hash);
    step.causes = KEYFRAME_PICTURE, step.ordinal = number;
    if (memory_step(m, &step, v, NULL, 0, &err)) fail_msg("%s", err.message);
}

static void vectors_of_other_models_and_kinds_are_not_mixed(void **state) {
    (void)state;
    struct vector_index_stats stats;
    struct memory_told told[4];
    int count;
    float q[4] = {1, 0, 0, 0};
    struct store_run run = {.name = "r", .started_at = "1"};
    int64_t id;
    struct memory *m = open_memory("mixed", "one", "image");
    assert_int_equal(memory_run_add(m, &run, &id, &err), 0);
    for (uint32_t i = 1; i <= 10; i++) step_with_vector(m, id, i, i == 4 ? 1 : 0, i == 4 ? 0 : 1);
    step_with_vector(m, id, 11, 1, 0);
    memory_index_stats(m, &stats);
    assert_int_equal(stats.vectors, 11);
    assert_int_equal(memory_recall(m, q, 0, 0, told, 2, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_int_equal(told[0].memory.number, 11); /* equally like it: the newer first */
    assert_int_equal(told[1].memory.number, 4);
    assert_string_equal(told[0].memory.run_name, "r");
    memory_close(m);
    m = open_memory("mixed", "two", "image");
    memory_index_stats(m, &stats);
    assert_int_equal(stats.vectors, 0);
    memory_close(m);
    m = open_memory("mixed", "one", "last");
    memory_index_stats(m, &stats);
    assert_int_equal(stats.vectors, 0);
    memory_close(m);
    m = open_memory("mixed", "one", "image");
    memory_index_stats(m, &stats);
    assert_int_equal(stats.vectors, 11);
    memory_close(m);
}

static void the_same_picture_is_embedded_once(void **state) {
    (void)state;
    struct vector_index_stats stats;
    struct store_run run = {.name = "r", .started_at = "1"}, other = {.name = "s", .started_at = "2"};
    int64_t first, second;
    struct memory *m = open_memory("twice", "one", "image");
    assert_int_equal(memory_run_add(m, &run, &first, &err), 0);
    assert_int_equal(memory_run_add(m, &other, &second, &err), 0);
    step_with_vector(m, first, 1, 1, 0);
    step_with_vector(m, second, 1, 1, 0); /* frame_hash is that of the number */
    step_with_vector(m, second, 2, 1, 0);
    step_with_vector(m, second, 2, 1, 0); /* lived again */
    memory_index_stats(m, &stats);
    assert_int_equal(stats.vectors, 2);
    memory_close(m);
}

/* What is nearest in time comes from the present episode, less the two newest keyframes. */
static void near_memories_are_of_this_episode(void **state) {
    (void)state;
    struct store_run run = {.name = "r", .started_at = "1"};
    struct memory_told told[8];
    int64_t id;
    int count;
    struct memory *m = open_memory("near", "one", "image");
    assert_int_equal(memory_run_add(m, &run, &id, &err), 0);
    for (uint32_t i = 1; i <= 9; i++) step_with_vector(m, id, i, 1, 0);
    assert_int_equal(memory_recall(m, NULL, id, 1, told, 8, &count, &err), 0);
    assert_int_equal(count, NEAR_SHOWN);
    for (int i = 0; i < count; i++) {
        assert_int_equal(told[i].memory.number, 9 - NEAR_LEFT_OUT - i);
        assert_int_equal(told[i].silos, 128);
    }
    assert_int_equal(memory_recall(m, NULL, id, 2, told, 8, &count, &err), 0);
    assert_int_equal(count, 0);
    memory_close(m);
}

/* ---- keyframes --------------------------------------------------------------------------------------------------------------------------- */

static unsigned next(struct keyframe_track *t, struct store_step *s, uint32_t number) {
    static char hash[33];
    s->number = number;
    hash_of(number, hash);
    s->frame_hash = hash;
    keyframe_track_step(t, s);
    return s->causes;
}

static void keyframes_are_changes(void **state) {
    (void)state;
    struct keyframe_track t = {0};
    char hash[33];
    struct store_step s = field(1, 1, hash);
    s.picture_hash = 0xFF00;
    assert_int_equal(next(&t, &s, 1), KEYFRAME_FIRST);
    assert_int_equal(s.ordinal, 1);
    assert_int_equal(next(&t, &s, 2), 0);
    assert_int_equal(s.ordinal, 0);
    s.scene = "dialogue";
    assert_int_equal(next(&t, &s, 3), KEYFRAME_SCENE);
    s.scene = "field", s.foes = 2, s.picture_hash = 0xFF0F;
    assert_int_equal(next(&t, &s, 4), KEYFRAME_SCENE | KEYFRAME_FIGHT);
    s.foes = 1;
    assert_int_equal(next(&t, &s, 5), 0); /* fewer foes are no change */
    s.bag = 77;
    assert_int_equal(next(&t, &s, 6), KEYFRAME_INVENTORY);
    s.floor = 2;
    assert_int_equal(next(&t, &s, 7), KEYFRAME_FLOOR);
    s.picture_hash ^= (UINT64_C(1) << (PICTURE_CHANGED - 1)) - 1;
    assert_int_equal(next(&t, &s, 8), 0);
    s.picture_hash ^= UINT64_C(1) << 63;
    assert_int_equal(next(&t, &s, 9), KEYFRAME_PICTURE);
    assert_int_equal(s.ordinal, 6);
    s.episode = 2, s.floor = 1, s.bag = 123;
    assert_int_equal(next(&t, &s, 50), KEYFRAME_FIRST);
    s.episode = 3;
    assert_int_equal(next(&t, &s, 50), 0); /* begins with a picture that is known */
}

static void duplicates_are_no_keyframes(void **state) {
    (void)state;
    struct keyframe_track t = {0};
    char hash[33];
    struct store_step s = field(1, 1, hash);
    uint64_t here = 0xABCDEF, there = ~here;
    s.picture_hash = here;
    assert_int_equal(next(&t, &s, 1), KEYFRAME_FIRST);
    s.picture_hash = there;
    assert_int_equal(next(&t, &s, 2), KEYFRAME_PICTURE);
    s.picture_hash = here ^ 3; /* back where it was: two bits of 64 differ */
    assert_int_equal(next(&t, &s, 3), 0);
    s.bag = 99; /* the same place with something new in the bag */
    assert_int_equal(next(&t, &s, 4), KEYFRAME_INVENTORY);
    s.picture_hash = there, s.bag = 5;
    assert_int_equal(next(&t, &s, 5), 0);
    assert_int_equal(t.ordinal, 3);
}

static void new_tiles_are_counted_by_floor(void **state) {
    (void)state;
    struct keyframe_track t = {0};
    char hash[33];
    struct store_step s = field(1, 1, hash);
    static const struct { int floor, x, y; bool first; } walk[] = {{1, 3, 3, true}, {1, 4, 3, true}, {1, 3, 3, false}, {2, 3, 3, true}, {2, 3, 3, false},
                                                                    {2, -1, -1, false}, {2, 900, 3, false}, {2, 63, 63, true}};
    for (size_t i = 0; i < sizeof walk / sizeof *walk; i++) {
        s.floor = walk[i].floor, s.x = walk[i].x, s.y = walk[i].y;
        next(&t, &s, (uint32_t)i + 1);
        assert_int_equal(s.new_tile, walk[i].first);
    }
}

/* ---- the scratchpad ----------------------------------------------------------------------------------------------------------------------- */

static void the_scratchpad_is_bounded(void **state) {
    (void)state;
    struct scratchpad p = {0};
    char note[40], long_note[1000];
    for (uint32_t i = 1; i <= 20; i++) {
        snprintf(note, sizeof note, "note %u", i);
        assert_int_equal(scratchpad_write(&p, note, 2, i), SCRATCHPAD_ADDED);
    }
    assert_int_equal(p.count, SCRATCHPAD_LINES);
    assert_string_equal(p.line[0].text, "note 15");
    assert_int_equal(p.line[SCRATCHPAD_LINES - 1].step, 20);
    assert_int_equal(scratchpad_write(&p, " note 17 ", 3, 30), SCRATCHPAD_RENEWED);
    assert_int_equal(p.count, SCRATCHPAD_LINES);
    assert_string_equal(p.line[SCRATCHPAD_LINES - 1].text, "note 17");
    assert_int_equal(p.line[SCRATCHPAD_LINES - 1].floor, 3);
    assert_int_equal(scratchpad_write(&p, "", 1, 31), SCRATCHPAD_IGNORED);
    assert_int_equal(scratchpad_write(&p, "   ", 1, 31), SCRATCHPAD_IGNORED);
    memset(long_note, 0, sizeof long_note);
    for (int i = 0; i < 300; i++) strcat(long_note, "\xC3\xA9"); /* two bytes each: cut between them */
    scratchpad_write(&p, long_note, 1, 32);
    assert_int_equal(strlen(p.line[SCRATCHPAD_LINES - 1].text), SCRATCHPAD_BYTES);
    assert_int_equal((uint8_t)p.line[SCRATCHPAD_LINES - 1].text[SCRATCHPAD_BYTES - 1], 0xA9);
}

static void control_characters_are_shown_not_obeyed(void **state) {
    (void)state;
    char out[200];
    line_escape("a\nb\tc\x1b[2Jd\x7f", out, sizeof out);
    assert_string_equal(out, "a\\nb\\tc\\x1b[2Jd\\x7f");
    line_escape("\xE2\x80\xAEright to left\xC2\x85", out, sizeof out); /* U+202E, U+0085 */
    assert_string_equal(out, "\\u202eright to left\\x85");
    line_escape("bad \xFF\xC3 end", out, sizeof out);
    assert_string_equal(out, "bad \xEF\xBF\xBD\xEF\xBF\xBD end");
    assert_int_equal(line_escape("abc\n", out, 5), 3); /* never half an escape */
    assert_string_equal(out, "abc");
    line_escape("<|im_end|>", out, sizeof out); /* words are left alone: the engine never reads text as control tokens */
    assert_string_equal(out, "<|im_end|>");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_old_version_is_brought_up_to_date),
        cmocka_unit_test(newer_foreign_and_damaged_files_are_refused),
        cmocka_unit_test(a_damaged_page_is_named),
        cmocka_unit_test(a_killed_writer_loses_no_step_it_has_told),
        cmocka_unit_test(what_follows_a_step_is_told),
        cmocka_unit_test(memories_are_judged),
        cmocka_unit_test(runs_are_told_apart_by_when_they_began),
        cmocka_unit_test(vectors_of_other_models_and_kinds_are_not_mixed),
        cmocka_unit_test(the_same_picture_is_embedded_once),
        cmocka_unit_test(near_memories_are_of_this_episode),
        cmocka_unit_test(keyframes_are_changes),
        cmocka_unit_test(duplicates_are_no_keyframes),
        cmocka_unit_test(new_tiles_are_counted_by_floor),
        cmocka_unit_test(the_scratchpad_is_bounded),
        cmocka_unit_test(control_characters_are_shown_not_obeyed),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
