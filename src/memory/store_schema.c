/* The schema and how it grew. PRAGMA user_version holds the version; each entry of `steps` brings it up by one, in one transaction, so a
 * killed migration leaves the old version whole. application_id tells the file from other SQLite files. */
#include <stdio.h>

#include "memory/store_room.h"

enum { APPLICATION_ID = 0x504D444D /* "PMDM" */ };

static const char *const steps[STORE_VERSION] = {
    /* 1: runs and their steps */
    "CREATE TABLE run(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, folder TEXT, started_at TEXT, game TEXT, rom_hash TEXT, policy TEXT, model TEXT);"
    "CREATE TABLE step(id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, episode INTEGER NOT NULL, number INTEGER NOT NULL,"
    " seed INTEGER, first_frame INTEGER, frame_hash TEXT, state_hash TEXT, scene TEXT, floor INTEGER, hp INTEGER, max_hp INTEGER, level INTEGER,"
    " belly INTEGER, x INTEGER, y INTEGER, action TEXT, decided_by TEXT, UNIQUE(run, episode, number));"
    "CREATE TABLE episode(run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, number INTEGER NOT NULL, steps INTEGER, outcome TEXT,"
    " PRIMARY KEY(run, number)) WITHOUT ROWID;",
    /* 2: keyframes and embeddings; what they are told by. Numbers of keyframes are never used twice: an index holds them. */
    "ALTER TABLE step ADD COLUMN picture_hash INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE step ADD COLUMN foes INTEGER NOT NULL DEFAULT -1;"
    "ALTER TABLE step ADD COLUMN bag INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE step ADD COLUMN new_tile INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE keyframe(id INTEGER PRIMARY KEY AUTOINCREMENT, step INTEGER NOT NULL UNIQUE REFERENCES step ON DELETE CASCADE,"
    " ordinal INTEGER NOT NULL, causes INTEGER NOT NULL, picture TEXT);"
    "CREATE TABLE space(id INTEGER PRIMARY KEY, model TEXT, identity TEXT NOT NULL, kind TEXT NOT NULL, game TEXT NOT NULL, dims INTEGER NOT NULL,"
    " UNIQUE(identity, kind, game, dims));"
    "CREATE TABLE embedding(space INTEGER NOT NULL REFERENCES space, keyframe INTEGER NOT NULL REFERENCES keyframe ON DELETE CASCADE, vector BLOB NOT NULL,"
    " PRIMARY KEY(space, keyframe));"
    "CREATE INDEX embedding_keyframe ON embedding(keyframe);"
    "CREATE INDEX step_frame ON step(frame_hash);"
    "CREATE TABLE store(identity BLOB NOT NULL);"
    "INSERT INTO store VALUES(randomblob(16));",
    /* 3: notes, what was recalled and whether it helped */
    "ALTER TABLE step ADD COLUMN note TEXT;"
    "CREATE TABLE recall(id INTEGER PRIMARY KEY, step INTEGER NOT NULL REFERENCES step ON DELETE CASCADE, rank INTEGER NOT NULL,"
    " keyframe INTEGER NOT NULL REFERENCES keyframe ON DELETE CASCADE, score REAL, similarity REAL, silos INTEGER,"
    " followed INTEGER, good INTEGER, hp_change INTEGER, floors INTEGER, new_tiles INTEGER, UNIQUE(step, rank));"
    "CREATE INDEX recall_keyframe ON recall(keyframe);"
    "CREATE INDEX recall_open ON recall(step) WHERE followed IS NULL;",
};

static int read_number(struct store *s, const char *pragma, int *out, struct err *err) {
    sqlite3_stmt *q;
    if (sqlite3_prepare_v2(s->db, pragma, -1, &q, NULL) != SQLITE_OK) return store_fail(s, "reading its version", err);
    int code = sqlite3_step(q) == SQLITE_ROW ? 0 : store_fail(s, "reading its version", err);
    if (!code) *out = sqlite3_column_int(q, 0);
    sqlite3_finalize(q);
    return code;
}

static int execute(struct store *s, const char *sql, const char *doing, struct err *err) {
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_fail(s, doing, err);
}

/* From version to version + 1. Another process may have done it in the meantime: looked at again inside the transaction. */
static int one_step(struct store *s, int version, struct err *err) {
    int now = 0;
    char set[100];
    if (execute(s, "BEGIN IMMEDIATE", "bringing its schema up to date", err)) return err->code;
    int code = read_number(s, "PRAGMA user_version", &now, err);
    if (!code && now == version) {
        snprintf(set, sizeof set, "PRAGMA application_id=%d;PRAGMA user_version=%d", APPLICATION_ID, version + 1);
        code = execute(s, steps[version], "bringing its schema up to date", err);
        if (!code) code = execute(s, set, "bringing its schema up to date", err);
    }
    if (!code) return execute(s, "COMMIT", "bringing its schema up to date", err);
    sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return code;
}

int store_migrate(struct store *s, struct err *err) {
    int version = 0, application = 0, tables = 0;
    if (read_number(s, "PRAGMA user_version", &version, err) || read_number(s, "PRAGMA application_id", &application, err) ||
        read_number(s, "SELECT count(*) FROM sqlite_master", &tables, err)) {
        return err->code;
    }
    if (tables && application != APPLICATION_ID) return err_set(err, ERR_FORMAT, "%s: a database of another program", s->path);
    if (version > STORE_VERSION) {
        return err_set(err, ERR_FORMAT, "%s: version %d of the store's schema; this program knows up to %d: use a newer pmd-agent, or another folder with --memory",
                       s->path, version, STORE_VERSION);
    }
    if (version < STORE_VERSION && sqlite3_db_readonly(s->db, "main") == 1) {
        return err_set(err, ERR_STATE, "%s: version %d of the store's schema must be brought to %d, but the file can only be read", s->path, version, STORE_VERSION);
    }
    for (; version < STORE_VERSION; version++) {
        if (one_step(s, version, err)) return err->code;
    }
    return 0;
}
