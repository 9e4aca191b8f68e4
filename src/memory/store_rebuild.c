/* Making the store again: everything of runs goes, and comes again from their records; vectors that cannot be had again without the
 * model are put by meanwhile. */
#include "memory/store_room.h"

static int execute(struct store *s, const char *text, const char *doing, struct err *err) {
    return sqlite3_exec(s->db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_fail(s, doing, err);
}

int store_forget_runs(struct store *s, bool keep_vectors, struct err *err) {
    if (execute(s, "DROP TABLE IF EXISTS temp.kept; CREATE TEMP TABLE kept(run TEXT, started_at TEXT, episode, number, frame_hash TEXT, space, vector)",
                "putting vectors by", err)) {
        return err->code;
    }
    if (keep_vectors && execute(s, "INSERT INTO kept SELECT name, started_at, episode, number, frame_hash, space, vector FROM embedding"
                                " JOIN keyframe ON keyframe.id=keyframe JOIN step ON step.id=step JOIN run ON run.id=run", "putting vectors by", err)) {
        return err->code;
    }
    return execute(s, "DELETE FROM recall; DELETE FROM embedding; DELETE FROM keyframe; DELETE FROM step; DELETE FROM episode; DELETE FROM run",
                   "forgetting runs", err);
}

int store_restore_vectors(struct store *s, int64_t *kept, int64_t *lost, struct err *err) {
    sqlite3_stmt *q;
    *kept = *lost = 0;
    if (execute(s, "INSERT INTO embedding(space, keyframe, vector) SELECT space, keyframe.id, vector FROM kept JOIN run ON run.name=kept.run AND"
                " run.started_at IS kept.started_at JOIN step ON step.run=run.id AND step.episode=kept.episode AND step.number=kept.number AND"
                " step.frame_hash IS kept.frame_hash JOIN keyframe ON keyframe.step=step.id WHERE true ON CONFLICT DO NOTHING", "restoring vectors", err)) {
        return err->code;
    }
    *kept = sqlite3_changes(s->db);
    if (sqlite3_prepare_v2(s->db, "SELECT count(*) FROM kept", -1, &q, NULL) != SQLITE_OK) return store_fail(s, "restoring vectors", err);
    if (sqlite3_step(q) == SQLITE_ROW) *lost = sqlite3_column_int64(q, 0) - *kept;
    sqlite3_finalize(q);
    return execute(s, "DROP TABLE temp.kept", "restoring vectors", err);
}
