/* Questions to the store: counts, spaces, steps by filter, and the checks. */
#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "memory/store_room.h"

int store_verify(struct store *s, struct err *err) {
    sqlite3_stmt *q;
    if (sqlite3_prepare_v2(s->db, "PRAGMA integrity_check(1)", -1, &q, NULL) != SQLITE_OK) return store_fail(s, "checking", err);
    int got = sqlite3_step(q), code = 0;
    const char *said = got == SQLITE_ROW ? (const char *)sqlite3_column_text(q, 0) : NULL;
    if (!said) code = store_fail(s, "checking", err);
    else if (strcmp(said, "ok")) code = err_set(err, ERR_FORMAT, "%s: damaged: %s: delete the file and run `pmd-agent memory rebuild`", s->path, said);
    sqlite3_finalize(q);
    if (code) return code;
    if (sqlite3_prepare_v2(s->db, "PRAGMA foreign_key_check", -1, &q, NULL) != SQLITE_OK) return store_fail(s, "checking", err);
    got = sqlite3_step(q);
    if (got == SQLITE_ROW) {
        code = err_set(err, ERR_FORMAT, "%s: row %lld of table %s refers to a row of %s that is not there", s->path, (long long)sqlite3_column_int64(q, 1),
                       (const char *)sqlite3_column_text(q, 0), (const char *)sqlite3_column_text(q, 2));
    } else if (got != SQLITE_DONE) {
        code = store_fail(s, "checking", err);
    }
    sqlite3_finalize(q);
    return code;
}

int store_counts(struct store *s, struct store_counts *out, struct err *err) {
    static const char question[] =
        "SELECT (SELECT count(*) FROM run), (SELECT count(*) FROM episode), (SELECT count(*) FROM step), (SELECT count(*) FROM keyframe),"
        " (SELECT count(*) FROM space), (SELECT count(*) FROM embedding), (SELECT count(*) FROM recall),"
        " (SELECT count(*) FROM recall WHERE followed IS NOT NULL), (SELECT count(*) FROM recall WHERE followed),"
        " (SELECT count(*) FROM recall WHERE followed AND good), (SELECT count(*) FROM recall WHERE followed=0 AND good)";
    sqlite3_stmt *q;
    *out = (struct store_counts){0};
    if (sqlite3_prepare_v2(s->db, question, -1, &q, NULL) != SQLITE_OK) return store_fail(s, "counting", err);
    int code = sqlite3_step(q) == SQLITE_ROW ? 0 : store_fail(s, "counting", err);
    int64_t *const fields[] = {&out->runs, &out->episodes, &out->steps, &out->keyframes, &out->spaces, &out->embeddings, &out->recalls, &out->judged,
                               &out->followed, &out->followed_good, &out->other_good};
    for (int i = 0; !code && i < 11; i++) *fields[i] = sqlite3_column_int64(q, i);
    sqlite3_finalize(q);
    return code;
}

static const char *column(sqlite3_stmt *q, int i) {
    const char *t = (const char *)sqlite3_column_text(q, i);
    return t ? t : "";
}

int store_spaces(struct store *s, int (*visit)(void *user, const struct store_space_row *row), void *user, struct err *err) {
    sqlite3_stmt *q;
    static const char question[] = "SELECT id, dims, model, identity, kind, game, (SELECT count(*) FROM embedding WHERE space=space.id) FROM space ORDER BY id";
    if (sqlite3_prepare_v2(s->db, question, -1, &q, NULL) != SQLITE_OK) return store_fail(s, "reading vector spaces", err);
    int got, stop = 0;
    while (!stop && (got = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_space_row row = {.id = sqlite3_column_int64(q, 0), .dims = sqlite3_column_int(q, 1), .vectors = sqlite3_column_int64(q, 6)};
        snprintf(row.model, sizeof row.model, "%s", column(q, 2));
        snprintf(row.identity, sizeof row.identity, "%s", column(q, 3));
        snprintf(row.kind, sizeof row.kind, "%s", column(q, 4));
        snprintf(row.game, sizeof row.game, "%s", column(q, 5));
        stop = visit(user, &row);
    }
    int code = stop || got == SQLITE_DONE ? 0 : store_fail(s, "reading vector spaces", err);
    sqlite3_finalize(q);
    return code;
}

int store_find(struct store *s, const struct store_filter *f, int (*visit)(void *user, const struct store_found *row), void *user, struct err *err) {
    static const char question[] =
        "SELECT run.name, scene, action, decided_by, note, picture, outcome, step.episode, floor, hp, max_hp, step.number, seed, causes FROM step"
        " JOIN run ON run.id=step.run LEFT JOIN keyframe ON keyframe.step=step.id LEFT JOIN episode ON episode.run=step.run AND episode.number=step.episode"
        " WHERE (?1 IS NULL OR run.name=?1) AND (?2 IS NULL OR scene=?2) AND (?3 IS NULL OR action=?3) AND (?4 IS NULL OR outcome=?4)"
        " AND (?5<0 OR floor=?5) AND (?6<0 OR step.episode=?6) AND (?7=0 OR causes IS NOT NULL) ORDER BY step.id DESC LIMIT ?8";
    sqlite3_stmt *q;
    if (sqlite3_prepare_v2(s->db, question, -1, &q, NULL) != SQLITE_OK) return store_fail(s, "searching", err);
    const char *const texts[] = {f->run, f->scene, f->action, f->outcome};
    for (int i = 0; i < 4; i++) sqlite3_bind_text(q, i + 1, texts[i], -1, SQLITE_STATIC);
    sqlite3_bind_int(q, 5, f->floor);
    sqlite3_bind_int(q, 6, f->episode);
    sqlite3_bind_int(q, 7, f->keyframes);
    sqlite3_bind_int(q, 8, f->limit > 0 ? f->limit : -1);
    int got = SQLITE_DONE, stop = 0;
    while (!stop && (got = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_found row = {.run = column(q, 0), .scene = column(q, 1), .action = column(q, 2), .decided_by = column(q, 3), .note = column(q, 4),
                                  .picture = column(q, 5), .outcome = column(q, 6), .episode = sqlite3_column_int(q, 7), .floor = sqlite3_column_int(q, 8),
                                  .hp = sqlite3_column_int(q, 9), .max_hp = sqlite3_column_int(q, 10), .number = (uint32_t)sqlite3_column_int64(q, 11),
                                  .seed = (uint32_t)sqlite3_column_int64(q, 12), .causes = (unsigned)sqlite3_column_int(q, 13)};
        stop = visit(user, &row);
    }
    int code = stop || got == SQLITE_DONE ? 0 : store_fail(s, "searching", err);
    sqlite3_finalize(q);
    return code;
}

/* Every row of a question into the hash: types, lengths and bytes. */
static int hash_rows(struct store *s, const char *question, XXH3_state_t *state, struct err *err) {
    sqlite3_stmt *q;
    if (sqlite3_prepare_v2(s->db, question, -1, &q, NULL) != SQLITE_OK) return store_fail(s, "hashing", err);
    int got;
    while ((got = sqlite3_step(q)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(q); i++) {
            int32_t head[2] = {sqlite3_column_type(q, i), 0};
            const void *data = sqlite3_column_blob(q, i); /* numbers as text */
            head[1] = sqlite3_column_bytes(q, i);
            XXH3_128bits_update(state, head, sizeof head);
            if (head[1]) XXH3_128bits_update(state, data, (size_t)head[1]);
        }
    }
    int code = got == SQLITE_DONE ? 0 : store_fail(s, "hashing", err);
    sqlite3_finalize(q);
    return code;
}

int store_fingerprint(struct store *s, char out[33], struct err *err) {
    static const char *const questions[] = {
        "SELECT name, started_at, game, rom_hash, policy, model FROM run ORDER BY name",
        "SELECT name, e.number, steps, outcome FROM episode e JOIN run ON run.id=e.run ORDER BY name, e.number",
        "SELECT name, episode, number, seed, first_frame, frame_hash, state_hash, picture_hash, scene, floor, hp, max_hp, level, belly, x, y, foes, bag, action,"
        " decided_by, note, new_tile, ordinal, causes, picture FROM step JOIN run ON run.id=run LEFT JOIN keyframe ON step=step.id ORDER BY name, episode, number",
        "SELECT identity, kind, space.game, dims, name, episode, number, vector FROM embedding JOIN space ON space.id=space JOIN keyframe ON keyframe.id=keyframe"
        " JOIN step ON step.id=step JOIN run ON run.id=run ORDER BY identity, kind, space.game, dims, name, episode, number",
        "SELECT a.name, s.episode, s.number, rank, b.name, k.episode, k.number, score, similarity, silos, followed, good, hp_change, floors, new_tiles FROM recall"
        " JOIN step s ON s.id=recall.step JOIN run a ON a.id=s.run JOIN keyframe ON keyframe.id=recall.keyframe JOIN step k ON k.id=keyframe.step"
        " JOIN run b ON b.id=k.run ORDER BY a.name, s.episode, s.number, rank",
    };
    XXH3_state_t *state = XXH3_createState();
    if (!state) return err_set(err, ERR_MEMORY, "out of memory");
    XXH3_128bits_reset(state);
    int code = 0;
    for (size_t i = 0; i < sizeof questions / sizeof *questions && !code; i++) code = hash_rows(s, questions[i], state, err);
    XXH128_hash_t h = XXH3_128bits_digest(state);
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
    XXH3_freeState(state);
    return code;
}
