/* Whole-machine states and the cartridge save.
 *
 * A state is an mGBA state file: the machine (0x61000 bytes, see mgba/internal/gba/serialize.h), then mGBA's extension table:
 * entries of 16 bytes (u32 tag, s32 size, s64 offset from the start), ended by a zero entry, then their data. Ours holds
 *   2 SAVEDATA      the cartridge save (absent while the game has not touched it)
 *   4 RTC           the clock source: s32 type, s32 0, s64 value
 *   0x102 CREATOR   "pmd-agent xxh3 " and 16 hex digits: XXH3-64 of the machine and the save, so that damage is noticed
 * mGBA reads such a file; states that mGBA wrote (raw ones) are read here too, without the checksum.
 * A state is valid if and only if it has the machine's size, a version not newer than the library's, the title, code and checksum of
 * the running ROM, extensions that lie inside the file, and a right checksum when it carries one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/file.h"
#include "emulator/internal.h"

enum { ENTRY_BYTES = 16, MAX_EXTENSION = 1 << 20, AT_VERSION = 0, AT_CRC = 8, AT_TITLE = 0x10, IDENTITY_BYTES = 16 };

static const char creator[] = "pmd-agent xxh3 ";
enum { CREATOR_BYTES = sizeof creator - 1 + 16 };

struct extension {
    const uint8_t *data;
    size_t bytes;
};

static uint32_t u32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }
static uint64_t u64(const uint8_t *p) { return u32(p) | (uint64_t)u32(p + 4) << 32; }
static void put32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i);
}

static void write_creator(char out[CREATOR_BYTES + 1], const uint8_t *machine, size_t bytes, const void *save, size_t save_bytes) {
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, machine, bytes);
    if (save_bytes) XXH3_64bits_update(&state, save, save_bytes);
    snprintf(out, CREATOR_BYTES + 1, "%s%016llx", creator, (unsigned long long)XXH3_64bits_digest(&state));
}

int core_state_save(struct emulator *e, struct buf *out, struct err *err) {
    struct mCore *core = e->core;
    size_t machine_bytes = core->stateSize(core), start = out->len;
    void *save = NULL;
    size_t save_bytes = core->savedataClone(core, &save);
    struct { uint32_t tag; const void *data; size_t bytes; } parts[3];
    int count = 0;
    uint8_t rtc[16] = {0};
    char made_by[CREATOR_BYTES + 1];
    if (!buf_reserve(out, machine_bytes + 4 * ENTRY_BYTES + save_bytes + sizeof rtc + sizeof made_by)) goto memory;
    memset(out->data + start, 0, machine_bytes); /* the core leaves reserved bytes as they are */
    if (!core->saveState(core, out->data + start)) {
        free(save);
        return err_set(err, ERR_STATE, "the emulator did not give its state");
    }
    out->len += machine_bytes;
    write_creator(made_by, (uint8_t *)out->data + start, machine_bytes, save, save_bytes);
    put32(rtc, (uint32_t)core->rtc.override);
    for (int i = 0; i < 8; i++) rtc[8 + i] = (uint8_t)((uint64_t)core->rtc.value >> 8 * i);

    if (save_bytes) parts[count].tag = EXTDATA_SAVEDATA, parts[count].data = save, parts[count++].bytes = save_bytes;
    parts[count].tag = EXTDATA_RTC, parts[count].data = rtc, parts[count++].bytes = sizeof rtc;
    parts[count].tag = EXTDATA_META_CREATOR, parts[count].data = made_by, parts[count++].bytes = CREATOR_BYTES;
    size_t offset = machine_bytes + (size_t)(count + 1) * ENTRY_BYTES;
    for (int i = 0; i < count; i++) {
        uint8_t entry[ENTRY_BYTES] = {0};
        put32(entry, parts[i].tag);
        put32(entry + 4, (uint32_t)parts[i].bytes);
        put32(entry + 8, (uint32_t)offset);
        buf_append(out, entry, sizeof entry);
        offset += parts[i].bytes;
    }
    buf_append(out, (uint8_t[ENTRY_BYTES]){0}, ENTRY_BYTES);
    for (int i = 0; i < count; i++) buf_append(out, parts[i].data, parts[i].bytes);
    if (out->failed) goto memory;
    free(save);
    return 0;
memory:
    free(save);
    return err_set(err, ERR_MEMORY, "out of memory for a save state");
}

static int read_extensions(const uint8_t *p, size_t bytes, size_t at, struct extension *save, struct extension *rtc,
                           struct extension *made_by, struct err *err) {
    if (at == bytes) return 0; /* a bare machine */
    for (;; at += ENTRY_BYTES) {
        if (bytes - at < ENTRY_BYTES) {
            return err_set(err, ERR_FORMAT, "save state: the extension table at offset %zu is cut off after %zu bytes", at, bytes);
        }
        uint32_t tag = u32(p + at), size = u32(p + at + 4);
        uint64_t offset = u64(p + at + 8);
        if (tag == EXTDATA_NONE) return 0;
        if (offset > bytes || size > bytes - offset || size > MAX_EXTENSION) {
            return err_set(err, ERR_FORMAT, "save state: extension %u has %u bytes at offset %llu, the file has %zu", tag, size,
                           (unsigned long long)offset, bytes);
        }
        struct extension *to = tag == EXTDATA_SAVEDATA ? save : tag == EXTDATA_RTC ? rtc : tag == EXTDATA_META_CREATOR ? made_by : NULL;
        if (to) *to = (struct extension){p + offset, size};
    }
}

/* Checks everything that can be checked before the core is touched. now: the running machine's own state. */
static int check_state(const uint8_t *p, size_t bytes, const uint8_t *now, size_t machine_bytes, struct extension *save,
                       struct extension *rtc, struct err *err) {
    if (bytes >= 8 && !memcmp(p, "\x89PNG\r\n\x1A\n", 8)) {
        return err_set(err, ERR_FORMAT, "save state: this is a PNG; the emulator loads raw states (the machine inside a PNG is one)");
    }
    if (bytes < machine_bytes) {
        return err_set(err, ERR_FORMAT, "save state: %zu bytes, a whole state has at least %zu", bytes, machine_bytes);
    }
    uint32_t version = u32(p + AT_VERSION), known = u32(now + AT_VERSION);
    if (version >> 24 != known >> 24) {
        return err_set(err, ERR_FORMAT, "save state: version word 0x%08X, expected 0x%08X: not an mGBA state", version, known);
    }
    if (version > known) {
        return err_set(err, ERR_FORMAT, "save state: version 0x%08X is newer than this emulator's 0x%08X", version, known);
    }
    if (memcmp(p + AT_TITLE, now + AT_TITLE, IDENTITY_BYTES) || u32(p + AT_CRC) != u32(now + AT_CRC)) {
        return err_set(err, ERR_FORMAT, "save state: made with another ROM (title, code or checksum differ: %08X, running %08X)",
                       u32(p + AT_CRC), u32(now + AT_CRC));
    }
    struct extension made_by = {0};
    int code = read_extensions(p, bytes, machine_bytes, save, rtc, &made_by, err);
    if (code) return code;
    if (rtc->bytes && rtc->bytes != 16) return err_set(err, ERR_FORMAT, "save state: clock of %zu bytes, expected 16", rtc->bytes);
    if (made_by.bytes == CREATOR_BYTES && !memcmp(made_by.data, creator, sizeof creator - 1)) {
        char expected[CREATOR_BYTES + 1];
        write_creator(expected, p, machine_bytes, save->data, save->bytes);
        if (memcmp(expected, made_by.data, CREATOR_BYTES)) return err_set(err, ERR_FORMAT, "save state: damaged (checksum differs)");
    }
    return 0;
}

/* The cartridge save of the state; a state without one is from before the game touched it, when it was as loaded. */
static bool restore_save(struct emulator *e, struct extension save) {
    struct mCore *core = e->core;
    if (save.bytes) return core->savedataRestore(core, save.data, save.bytes, true);
    void *present = NULL;
    size_t bytes = core->savedataClone(core, &present);
    if (!bytes) return true;
    memset(present, 0xFF, bytes);
    if (e->save_start.len) memcpy(present, e->save_start.data, e->save_start.len < bytes ? e->save_start.len : bytes);
    bool ok = core->savedataRestore(core, present, bytes, true);
    free(present);
    return ok;
}

int core_state_load(struct emulator *e, const void *state, size_t bytes, struct err *err) {
    struct mCore *core = e->core;
    const uint8_t *p = state;
    size_t machine_bytes = core->stateSize(core);
    uint8_t *now = calloc(1, machine_bytes);
    uint8_t *copy = malloc(machine_bytes); /* aligned, and not the caller's to change meanwhile */
    void *save_now = NULL;
    size_t save_now_bytes = 0;
    int code;
    if (!now || !copy) {
        code = err_set(err, ERR_MEMORY, "out of memory for a save state");
        goto end;
    }
    core->saveState(core, now);
    struct extension save = {0}, rtc = {0};
    if ((code = check_state(p, bytes, now, machine_bytes, &save, &rtc, err))) goto end;
    save_now_bytes = core->savedataClone(core, &save_now);
    memcpy(copy, p, machine_bytes);
    if (!core->loadState(core, copy) || !restore_save(e, save)) {
        core->loadState(core, now);
        if (save_now_bytes) core->savedataRestore(core, save_now, save_now_bytes, true);
        code = err_set(err, ERR_FORMAT, "save state: the emulator refuses its contents");
        goto end;
    }
    /* A wall clock in a foreign state would make runs differ; only a fixed time is taken over. */
    if (rtc.bytes == 16 && u32(rtc.data) == RTC_FIXED) core->rtc.value = (int64_t)u64(rtc.data + 8);
    e->frames = 0;
    frame_publish(&e->exchange, NULL, 0);
end:
    free(now);
    free(copy);
    free(save_now);
    return code;
}

int core_save_cartridge(struct emulator *e, struct err *err) {
    if (!e->save_path) return err_set(err, ERR_STATE, "this game was started without a cartridge save");
    void *save = NULL;
    size_t bytes = e->core->savedataClone(e->core, &save);
    if (!bytes) return 0; /* the game has not touched its save: the file, if any, is as it was */
    int code = file_replace(e->save_path, save, bytes, err);
    free(save);
    return code;
}
