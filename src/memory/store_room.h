/* The store's inside. Private to store*.c. */
#ifndef MEMORY_STORE_ROOM_H
#define MEMORY_STORE_ROOM_H

#include <sqlite3.h>

#include "memory/store.h"

enum query {
    Q_RUN_ADD, Q_RUN_FIND, Q_STEP, Q_KEYFRAME, Q_EPISODE_END, Q_SPACE_ADD, Q_SPACE_FIND, Q_EMBEDDING, Q_EMBEDDINGS, Q_HAS_PICTURE, Q_EMBEDDING_COUNT,
    Q_STEP_AT, Q_AFTER, Q_END, Q_MEMORY, Q_NEWEST, Q_RECALL, Q_RECALLED, Q_KEYFRAME_AT, Q_DUE, Q_JUDGE, QUERY_COUNT
};

struct store {
    sqlite3 *db;
    char *path;
    uint64_t identity[2];
    sqlite3_stmt *queries[QUERY_COUNT]; /* prepared at their first use */
};

enum { STORE_VERSION = 3 };
/* Brings the schema to STORE_VERSION. */
int store_migrate(struct store *s, struct err *err);

/* err from SQLite's last error: "FILE: doing: reason". */
int store_fail(struct store *s, const char *doing, struct err *err);
/* The statement, reset and unbound; NULL on error. */
sqlite3_stmt *store_query(struct store *s, enum query q, struct err *err);
/* Steps a statement that gives no rows. */
int store_run_query(struct store *s, sqlite3_stmt *q, const char *doing, struct err *err);

#endif
