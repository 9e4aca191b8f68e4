#include "memory/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "memory/silo.h"
#include "memory/store_room.h"

#define STEP_OF "(SELECT id FROM step WHERE run=?1 AND episode=?2 AND number=?3)"

static const char *const sql[QUERY_COUNT] = {
    [Q_RUN_ADD] = "INSERT INTO run(name, folder, started_at, game, rom_hash, policy, model) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(name) DO NOTHING",
    [Q_RUN_FIND] = "SELECT id, started_at IS ?2, folder IS ?3, folder FROM run WHERE name=?1",
    [Q_STEP] = "INSERT INTO step(run, episode, number, seed, first_frame, frame_hash, state_hash, picture_hash, scene, floor, hp, max_hp, level, belly, x, y,"
               " foes, bag, action, decided_by, note, new_tile) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,"
               " ?20, ?21, ?22) ON CONFLICT(run, episode, number) DO NOTHING",
    [Q_KEYFRAME] = "INSERT INTO keyframe(step, ordinal, causes, picture) VALUES(?1, ?2, ?3, ?4)",
    [Q_EPISODE_END] = "INSERT INTO episode(run, number, steps, outcome) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET steps=?3, outcome=?4",
    [Q_SPACE_ADD] = "INSERT INTO space(model, identity, kind, game, dims) VALUES(?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
    [Q_SPACE_FIND] = "SELECT id FROM space WHERE identity=?1 AND kind=?2 AND game=?3 AND dims=?4",
    [Q_EMBEDDING] = "INSERT INTO embedding(space, keyframe, vector) VALUES(?1, ?2, ?3)",
    [Q_EMBEDDINGS] = "SELECT keyframe, ordinal, vector FROM embedding JOIN keyframe ON keyframe.id=keyframe WHERE space=?1 AND keyframe>?2 ORDER BY keyframe",
    [Q_HAS_PICTURE] = "SELECT 1 FROM step JOIN keyframe ON keyframe.step=step.id JOIN embedding ON embedding.keyframe=keyframe.id AND space=?1"
                      " WHERE frame_hash=?2 LIMIT 1",
    [Q_EMBEDDING_COUNT] = "SELECT count(*) FROM embedding WHERE space=?1 AND keyframe<=?2",
    [Q_STEP_AT] = "SELECT hp, floor FROM step WHERE run=?1 AND episode=?2 AND number=?3",
    [Q_AFTER] = "SELECT hp, floor, new_tile FROM step WHERE run=?1 AND episode=?2 AND number>?3 AND number<=?3+?4 ORDER BY number",
    [Q_END] = "SELECT steps, outcome FROM episode WHERE run=?1 AND number=?2",
    [Q_MEMORY] = "SELECT step.run, episode, step.number, seed, floor, hp, max_hp, foes, causes, run.name, run.folder, scene, action, picture FROM keyframe"
                 " JOIN step ON step.id=keyframe.step JOIN run ON run.id=step.run WHERE keyframe.id=?1",
    [Q_NEWEST] = "SELECT keyframe.id FROM step JOIN keyframe ON keyframe.step=step.id WHERE run=?1 AND episode=?2 ORDER BY number DESC LIMIT ?3",
    [Q_RECALL] = "INSERT INTO recall(step, rank, keyframe, score, similarity, silos) VALUES(" STEP_OF ", ?4, ?5, ?6, ?7, ?8)",
    [Q_RECALLED] = "SELECT rank, keyframe, score, similarity, silos FROM recall WHERE step=" STEP_OF " ORDER BY rank LIMIT ?4",
    [Q_KEYFRAME_AT] = "SELECT keyframe.id FROM run JOIN step ON step.run=run.id JOIN keyframe ON keyframe.step=step.id WHERE name=?1 AND episode=?2 AND number=?3",
    [Q_DUE] = "SELECT recall.id, s.number, s.action IS k.action FROM recall JOIN step s ON s.id=recall.step JOIN keyframe ON keyframe.id=recall.keyframe"
              " JOIN step k ON k.id=keyframe.step WHERE followed IS NULL AND s.run=?1 AND s.episode=?2 AND s.number<=?3",
    [Q_JUDGE] = "UPDATE recall SET followed=?2, good=?3, hp_change=?4, floors=?5, new_tiles=?6 WHERE id=?1",
};

int store_fail(struct store *s, const char *doing, struct err *err) {
    int code = sqlite3_errcode(s->db) & 0xFF;
    bool damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
    return err_set(err, damaged ? ERR_FORMAT : ERR_IO, "%s: %s: %s%s", s->path, doing, sqlite3_errmsg(s->db),
                   damaged ? "; the store is damaged: delete the file and run `pmd-agent memory rebuild`" : "");
}

sqlite3_stmt *store_query(struct store *s, enum query q, struct err *err) {
    if (!s->queries[q] && sqlite3_prepare_v3(s->db, sql[q], -1, SQLITE_PREPARE_PERSISTENT, &s->queries[q], NULL) != SQLITE_OK) {
        return store_fail(s, "preparing a query", err), NULL;
    }
    sqlite3_reset(s->queries[q]);
    sqlite3_clear_bindings(s->queries[q]);
    return s->queries[q];
}

int store_run_query(struct store *s, sqlite3_stmt *q, const char *doing, struct err *err) {
    int code = sqlite3_step(q) == SQLITE_DONE ? 0 : store_fail(s, doing, err);
    sqlite3_reset(q);
    return code;
}

static int execute(struct store *s, const char *text, const char *doing, struct err *err) {
    return sqlite3_exec(s->db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_fail(s, doing, err);
}

/* ---- opening ------------------------------------------------------------------------------------------------------------------- */

static int read_identity(struct store *s, struct err *err) {
    sqlite3_stmt *q;
    if (sqlite3_prepare_v2(s->db, "SELECT identity FROM store", -1, &q, NULL) != SQLITE_OK) return store_fail(s, "reading its identity", err);
    int code = sqlite3_step(q) == SQLITE_ROW && sqlite3_column_bytes(q, 0) == sizeof s->identity ? 0 : store_fail(s, "reading its identity", err);
    if (!code) memcpy(s->identity, sqlite3_column_blob(q, 0), sizeof s->identity);
    sqlite3_finalize(q);
    return code;
}

int store_open(const char *path, bool read_only, struct store **out, struct err *err) {
    struct err local;
    if (!err) err = &local;
    *out = NULL;
    if (read_only && !file_exists(path)) return err_set(err, ERR_MISSING, "%s: no such store (play with --memory, or run `pmd-agent memory rebuild`)", path);
    struct store *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(path))) {
        free(s);
        return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    }
    int flags = (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE) | SQLITE_OPEN_NOMUTEX;
    int code = sqlite3_open_v2(path, &s->db, flags, NULL) == SQLITE_OK ? 0 : s->db ? store_fail(s, "opening", err) : err_set(err, ERR_MEMORY, "out of memory");
    if (!code) {
        sqlite3_busy_timeout(s->db, 10000);
        code = execute(s, "PRAGMA foreign_keys=ON", "opening", err);
    }
    if (!code && !read_only) code = execute(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL", "switching to WAL", err);
    if (!code) code = store_migrate(s, err);
    if (!code) code = read_identity(s, err);
    if (code) {
        store_close(s);
        return code;
    }
    *out = s;
    return 0;
}

void store_close(struct store *s) {
    if (!s) return;
    for (int i = 0; i < QUERY_COUNT; i++) sqlite3_finalize(s->queries[i]);
    sqlite3_close(s->db);
    free(s->path);
    free(s);
}

const char *store_path(const struct store *s) { return s->path; }
void store_identity(const struct store *s, uint64_t out[2]) { memcpy(out, s->identity, sizeof s->identity); }

int store_begin(struct store *s, struct err *err) { return execute(s, "BEGIN IMMEDIATE", "beginning to write", err); }
int store_commit(struct store *s, struct err *err) { return execute(s, "COMMIT", "writing", err); }
void store_rollback(struct store *s) {
    if (!sqlite3_get_autocommit(s->db)) sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
}

int store_savepoint(struct store *s, struct err *err) { return execute(s, "SAVEPOINT one", "beginning to write", err); }
int store_savepoint_keep(struct store *s, struct err *err) { return execute(s, "RELEASE one", "writing", err); }
int store_savepoint_undo(struct store *s, struct err *err) { return execute(s, "ROLLBACK TO one; RELEASE one", "undoing", err); }
bool store_in_transaction(const struct store *s) { return !sqlite3_get_autocommit(s->db); }

/* ---- runs and steps --------------------------------------------------------------------------------------------------------------- */

static void text(sqlite3_stmt *q, int at, const char *value) { sqlite3_bind_text(q, at, value, -1, SQLITE_STATIC); }

/* The number in the first row of a look-up. */
static int find_id(struct store *s, sqlite3_stmt *q, const char *doing, int64_t *id, struct err *err) {
    int code = sqlite3_step(q) == SQLITE_ROW ? 0 : store_fail(s, doing, err);
    if (!code) *id = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    return code;
}

/* 1: *id is the run's; 0: there is none; another run of that name as store_run_add says. */
static int find_run(struct store *s, const struct store_run *run, int64_t *id, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_RUN_FIND, err);
    if (!q) return err->code;
    text(q, 1, run->name);
    text(q, 2, run->started_at);
    text(q, 3, run->folder);
    int got = sqlite3_step(q), code = got == SQLITE_ROW;
    bool same_run = false, same_folder = false;
    if (got == SQLITE_ROW) {
        *id = sqlite3_column_int64(q, 0);
        same_run = sqlite3_column_int(q, 1);
        same_folder = sqlite3_column_int(q, 2);
        const char *folder = (const char *)sqlite3_column_text(q, 3);
        if (!same_run && !same_folder) {
            code = err_set(err, ERR_STATE, "%s: a run called %s is remembered already, from %s: give the run another folder name", s->path, run->name,
                           folder ? folder : "elsewhere");
        }
    } else if (got != SQLITE_DONE) {
        code = store_fail(s, "looking for a run", err);
    }
    sqlite3_reset(q);
    if (code == 1 && !same_run) code = store_run_remove(s, *id, err);
    return code;
}

int store_run_add(struct store *s, const struct store_run *run, int64_t *id, struct err *err) {
    int found = find_run(s, run, id, err);
    if (found) return found < 0 ? found : 0;
    sqlite3_stmt *q = store_query(s, Q_RUN_ADD, err);
    if (!q) return err->code;
    const char *const values[] = {run->name, run->folder, run->started_at, run->game, run->rom_hash, run->policy, run->model};
    for (int i = 0; i < 7; i++) text(q, i + 1, values[i]);
    if (store_run_query(s, q, "adding a run", err)) return err->code;
    found = find_run(s, run, id, err); /* another process may have added it in the same moment */
    return found < 0 ? found : found == 1 ? 0 : err_set(err, ERR_STATE, "%s: the run %s was removed in this moment", s->path, run->name);
}

int store_run_remove(struct store *s, int64_t run, struct err *err) {
    char command[80];
    snprintf(command, sizeof command, "DELETE FROM run WHERE id=%lld", (long long)run);
    return execute(s, command, "removing a run", err);
}

/* Of the step just added. */
static int add_keyframe(struct store *s, const struct store_step *t, int64_t *keyframe, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_KEYFRAME, err);
    if (!q) return err->code;
    sqlite3_bind_int64(q, 1, sqlite3_last_insert_rowid(s->db));
    sqlite3_bind_int64(q, 2, t->ordinal);
    sqlite3_bind_int(q, 3, (int)t->causes);
    text(q, 4, t->picture);
    int code = store_run_query(s, q, "adding a keyframe", err);
    *keyframe = sqlite3_last_insert_rowid(s->db);
    return code;
}

int store_step(struct store *s, const struct store_step *t, int64_t *keyframe, struct err *err) {
    *keyframe = 0;
    sqlite3_stmt *q = store_query(s, Q_STEP, err);
    if (!q) return err->code;
    const int64_t numbers[] = {t->run, t->episode, t->number, t->seed, (int64_t)t->first_frame};
    for (int i = 0; i < 5; i++) sqlite3_bind_int64(q, i + 1, numbers[i]);
    text(q, 6, t->frame_hash);
    text(q, 7, t->state_hash);
    sqlite3_bind_int64(q, 8, (int64_t)t->picture_hash);
    text(q, 9, t->scene);
    const int small[] = {t->floor, t->hp, t->max_hp, t->level, t->belly, t->x, t->y, t->foes};
    for (int i = 0; i < 8; i++) sqlite3_bind_int(q, 10 + i, small[i]);
    sqlite3_bind_int64(q, 18, (int64_t)t->bag);
    text(q, 19, t->action);
    text(q, 20, t->decided_by);
    text(q, 21, t->note);
    sqlite3_bind_int(q, 22, t->new_tile);
    bool own = t->causes && sqlite3_get_autocommit(s->db); /* step and keyframe are there together or not at all */
    if (own && store_begin(s, err)) return err->code;
    int code = store_run_query(s, q, "adding a step", err);
    bool added = !code && sqlite3_changes(s->db) == 1;
    if (added && t->causes) code = add_keyframe(s, t, keyframe, err);
    if (!code && own) code = store_commit(s, err);
    if (code && own) store_rollback(s);
    if (code) *keyframe = 0;
    return code ? code : added;
}

int store_episode_end(struct store *s, int64_t run, int episode, uint32_t steps, const char *outcome, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_EPISODE_END, err);
    if (!q) return err->code;
    sqlite3_bind_int64(q, 1, run);
    sqlite3_bind_int(q, 2, episode);
    sqlite3_bind_int64(q, 3, steps);
    text(q, 4, outcome);
    return store_run_query(s, q, "ending an episode", err);
}

/* ---- spaces and embeddings --------------------------------------------------------------------------------------------------------- */

int store_space_find(struct store *s, const struct store_space *space, int64_t *id, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_SPACE_FIND, err);
    *id = 0;
    if (!q) return err->code;
    const char *const values[] = {space->identity, space->kind, space->game};
    for (int i = 0; i < 3; i++) text(q, i + 1, values[i]);
    sqlite3_bind_int(q, 4, space->dims);
    int got = sqlite3_step(q);
    if (got == SQLITE_ROW) *id = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    return got == SQLITE_ROW || got == SQLITE_DONE ? 0 : store_fail(s, "looking for a vector space", err);
}

int store_space_add(struct store *s, const struct store_space *space, int64_t *id, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_SPACE_ADD, err);
    if (!q) return err->code;
    const char *const values[] = {space->model, space->identity, space->kind, space->game};
    for (int i = 0; i < 4; i++) text(q, i + 1, values[i]);
    sqlite3_bind_int(q, 5, space->dims);
    if (store_run_query(s, q, "adding a vector space", err)) return err->code;
    return store_space_find(s, space, id, err);
}

int store_embedding(struct store *s, int64_t space, int64_t keyframe, const float *vector, int dims, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_EMBEDDING, err);
    if (!q) return err->code;
    sqlite3_bind_int64(q, 1, space);
    sqlite3_bind_int64(q, 2, keyframe);
    sqlite3_bind_blob(q, 3, vector, dims * (int)sizeof *vector, SQLITE_STATIC);
    return store_run_query(s, q, "adding an embedding", err);
}

static int space_dims(struct store *s, int64_t space, int *dims, struct err *err) {
    char query[80];
    sqlite3_stmt *q;
    snprintf(query, sizeof query, "SELECT dims FROM space WHERE id=%lld", (long long)space);
    if (sqlite3_prepare_v2(s->db, query, -1, &q, NULL) != SQLITE_OK) return store_fail(s, "looking for a vector space", err);
    int code = sqlite3_step(q) == SQLITE_ROW ? 0 : err_set(err, ERR_MISSING, "%s: no vector space %lld", s->path, (long long)space);
    if (!code) *dims = sqlite3_column_int(q, 0);
    sqlite3_finalize(q);
    return code;
}

int store_embeddings(struct store *s, int64_t space, int64_t after, int (*visit)(void *user, int64_t keyframe, int level, const float *v, struct err *err),
                     void *user, struct err *err) {
    int dims = 0, got = 0, code = space_dims(s, space, &dims, err);
    sqlite3_stmt *q = code ? NULL : store_query(s, Q_EMBEDDINGS, err);
    if (!q) return err->code;
    sqlite3_bind_int64(q, 1, space);
    sqlite3_bind_int64(q, 2, after);
    while (!code && (got = sqlite3_step(q)) == SQLITE_ROW) {
        int64_t keyframe = sqlite3_column_int64(q, 0);
        const void *v = sqlite3_column_blob(q, 2);
        if (!v || sqlite3_column_bytes(q, 2) != dims * (int)sizeof(float)) {
            code = err_set(err, ERR_FORMAT, "%s: the embedding of keyframe %lld has %d bytes, expected %d: run `pmd-agent memory rebuild`", s->path,
                           (long long)keyframe, sqlite3_column_bytes(q, 2), dims * (int)sizeof(float));
        } else {
            code = visit(user, keyframe, silo_level((uint32_t)sqlite3_column_int64(q, 1)), v, err);
        }
    }
    if (!code && got != SQLITE_DONE) code = store_fail(s, "reading embeddings", err);
    sqlite3_reset(q);
    return code;
}

int store_has_picture(struct store *s, int64_t space, const char *frame_hash, bool *known, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_HAS_PICTURE, err);
    if (!q) return err->code;
    sqlite3_bind_int64(q, 1, space);
    text(q, 2, frame_hash);
    int got = sqlite3_step(q);
    *known = got == SQLITE_ROW;
    int code = got == SQLITE_ROW || got == SQLITE_DONE ? 0 : store_fail(s, "looking for a picture", err);
    sqlite3_reset(q);
    return code;
}

int store_embedding_count(struct store *s, int64_t space, int64_t upto, int64_t *count, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_EMBEDDING_COUNT, err);
    if (!q) return err->code;
    sqlite3_bind_int64(q, 1, space);
    sqlite3_bind_int64(q, 2, upto);
    return find_id(s, q, "counting embeddings", count, err);
}

/* ---- what came of it ---------------------------------------------------------------------------------------------------------------- */

static void bind_step(sqlite3_stmt *q, int64_t run, int episode, uint32_t number) {
    sqlite3_bind_int64(q, 1, run);
    sqlite3_bind_int(q, 2, episode);
    sqlite3_bind_int64(q, 3, number);
}

/* hp below 0: not known at that step (a menu, the end). */
static int add_steps(struct store *s, sqlite3_stmt *q, int hp, int floor, struct store_outcome *out, struct err *err) {
    int got;
    while ((got = sqlite3_step(q)) == SQLITE_ROW) {
        int now = sqlite3_column_int(q, 0);
        out->steps++;
        if (hp >= 0 && now >= 0) out->hp_change = now - hp;
        if (sqlite3_column_int(q, 1) > 0 && floor > 0) out->floors = sqlite3_column_int(q, 1) - floor;
        out->new_tiles += sqlite3_column_int(q, 2);
    }
    sqlite3_reset(q);
    return got == SQLITE_DONE ? 0 : store_fail(s, "reading what followed a step", err);
}

int store_outcome(struct store *s, int64_t run, int episode, uint32_t from, struct store_outcome *out, struct err *err) {
    *out = (struct store_outcome){0};
    sqlite3_stmt *q = store_query(s, Q_STEP_AT, err);
    if (!q) return err->code;
    bind_step(q, run, episode, from);
    if (sqlite3_step(q) != SQLITE_ROW) return sqlite3_reset(q), err_set(err, ERR_MISSING, "%s: no step %u of episode %d", s->path, from, episode);
    int hp = sqlite3_column_int(q, 0), floor = sqlite3_column_int(q, 1);
    sqlite3_reset(q);
    if (!(q = store_query(s, Q_AFTER, err))) return err->code;
    bind_step(q, run, episode, from);
    sqlite3_bind_int(q, 4, OUTCOME_STEPS);
    if (add_steps(s, q, hp, floor, out, err)) return err->code;
    if (!(q = store_query(s, Q_END, err))) return err->code;
    sqlite3_bind_int64(q, 1, run);
    sqlite3_bind_int(q, 2, episode);
    if (sqlite3_step(q) == SQLITE_ROW && sqlite3_column_int64(q, 0) <= (int64_t)from + OUTCOME_STEPS) {
        const char *name = (const char *)sqlite3_column_text(q, 1);
        out->ended = true;
        snprintf(out->outcome, sizeof out->outcome, "%s", name ? name : "");
    }
    sqlite3_reset(q);
    return 0;
}

static void take(char *out, size_t cap, sqlite3_stmt *q, int column) {
    const char *value = (const char *)sqlite3_column_text(q, column);
    snprintf(out, cap, "%s", value ? value : "");
}

int store_memory(struct store *s, int64_t keyframe, struct store_memory *m, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_MEMORY, err);
    if (!q) return err->code;
    sqlite3_bind_int64(q, 1, keyframe);
    int got = sqlite3_step(q);
    if (got != SQLITE_ROW) {
        sqlite3_reset(q);
        return got == SQLITE_DONE ? err_set(err, ERR_MISSING, "%s: no keyframe %lld", s->path, (long long)keyframe) : store_fail(s, "reading a keyframe", err);
    }
    *m = (struct store_memory){.keyframe = keyframe, .run = sqlite3_column_int64(q, 0), .episode = sqlite3_column_int(q, 1),
                               .number = (uint32_t)sqlite3_column_int64(q, 2), .seed = (uint32_t)sqlite3_column_int64(q, 3),
                               .floor = sqlite3_column_int(q, 4), .hp = sqlite3_column_int(q, 5), .max_hp = sqlite3_column_int(q, 6),
                               .foes = sqlite3_column_int(q, 7), .causes = (unsigned)sqlite3_column_int(q, 8)};
    take(m->run_name, sizeof m->run_name, q, 9);
    take(m->run_folder, sizeof m->run_folder, q, 10);
    take(m->scene, sizeof m->scene, q, 11);
    take(m->action, sizeof m->action, q, 12);
    take(m->picture, sizeof m->picture, q, 13);
    sqlite3_reset(q);
    return store_outcome(s, m->run, m->episode, m->number, &m->after, err);
}

int store_newest_keyframes(struct store *s, int64_t run, int episode, int64_t *out, int max, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_NEWEST, err);
    if (!q) return err->code;
    bind_step(q, run, episode, (uint32_t)max);
    int n = 0, got;
    while ((got = sqlite3_step(q)) == SQLITE_ROW && n < max) out[n++] = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    return got == SQLITE_ROW || got == SQLITE_DONE ? n : store_fail(s, "reading keyframes", err);
}

int store_recall(struct store *s, const struct store_recall *r, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_RECALL, err);
    if (!q) return err->code;
    bind_step(q, r->run, r->episode, r->number);
    sqlite3_bind_int(q, 4, r->rank);
    sqlite3_bind_int64(q, 5, r->keyframe);
    sqlite3_bind_double(q, 6, (double)r->score);
    sqlite3_bind_double(q, 7, (double)r->similarity);
    sqlite3_bind_int(q, 8, (int)r->silos);
    return store_run_query(s, q, "recording what was recalled", err);
}

int store_recalled(struct store *s, int64_t run, int episode, uint32_t number, struct store_recall *out, int max, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_RECALLED, err);
    if (!q) return err->code;
    bind_step(q, run, episode, number);
    sqlite3_bind_int(q, 4, max);
    int n = 0, got;
    while ((got = sqlite3_step(q)) == SQLITE_ROW && n < max) {
        out[n++] = (struct store_recall){run, episode, number, sqlite3_column_int(q, 0), sqlite3_column_int64(q, 1), (float)sqlite3_column_double(q, 2),
                                         (float)sqlite3_column_double(q, 3), (unsigned)sqlite3_column_int(q, 4)};
    }
    sqlite3_reset(q);
    return got == SQLITE_ROW || got == SQLITE_DONE ? n : store_fail(s, "reading what was recalled", err);
}

int store_keyframe_at(struct store *s, const char *run, int episode, uint32_t number, int64_t *keyframe, struct err *err) {
    sqlite3_stmt *q = store_query(s, Q_KEYFRAME_AT, err);
    *keyframe = 0;
    if (!q) return err->code;
    text(q, 1, run);
    sqlite3_bind_int(q, 2, episode);
    sqlite3_bind_int64(q, 3, number);
    int got = sqlite3_step(q);
    if (got == SQLITE_ROW) *keyframe = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    return got == SQLITE_ROW || got == SQLITE_DONE ? 0 : store_fail(s, "looking for a keyframe", err);
}

static int judge_one(struct store *s, int64_t id, bool followed, const struct store_outcome *o, struct err *err) {
    bool cleared = o->ended && !strcmp(o->outcome, "cleared"), bad_end = o->ended && !cleared;
    bool good = cleared || (!bad_end && o->hp_change >= 0 && (o->new_tiles > 0 || o->floors > 0));
    sqlite3_stmt *q = store_query(s, Q_JUDGE, err);
    if (!q) return err->code;
    sqlite3_bind_int64(q, 1, id);
    const int values[] = {followed, good, o->hp_change, o->floors, o->new_tiles};
    for (int i = 0; i < 5; i++) sqlite3_bind_int(q, i + 2, values[i]);
    return store_run_query(s, q, "judging a memory", err);
}

int store_judge(struct store *s, int64_t run, int episode, uint32_t number, bool ended, struct err *err) {
    enum { DUE = 64 };
    struct { int64_t id; uint32_t number; bool followed; } due[DUE];
    int64_t upto = ended ? number : (int64_t)number - OUTCOME_STEPS;
    for (int count = DUE; count == DUE;) { /* the rows are changed below: read first */
        sqlite3_stmt *q = store_query(s, Q_DUE, err);
        if (!q) return err->code;
        sqlite3_bind_int64(q, 1, run);
        sqlite3_bind_int(q, 2, episode);
        sqlite3_bind_int64(q, 3, upto);
        int got = SQLITE_DONE;
        for (count = 0; count < DUE && (got = sqlite3_step(q)) == SQLITE_ROW; count++) {
            due[count].id = sqlite3_column_int64(q, 0);
            due[count].number = (uint32_t)sqlite3_column_int64(q, 1);
            due[count].followed = sqlite3_column_int(q, 2);
        }
        if (got != SQLITE_ROW && got != SQLITE_DONE) return sqlite3_reset(q), store_fail(s, "looking for memories to judge", err);
        sqlite3_reset(q);
        for (int i = 0; i < count; i++) {
            struct store_outcome o;
            if (store_outcome(s, run, episode, due[i].number, &o, err) || judge_one(s, due[i].id, due[i].followed, &o, err)) return err->code;
        }
    }
    return 0;
}
