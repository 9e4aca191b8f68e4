/* Spill files, their folder and its ledger, without a model: the format to the byte, every way in which a file can be bad, every
 * call that can fail, budgets and clocks. */
#include <sys/file.h>

#include "disk_faults.h"
#include "engine/spill_folder.h"
#include "engine/spill_ledger.h"

enum { PAGE_BYTES = 5000, VOCAB = 1100 };
static const struct spill_shape shape = {.identity = {0x1111222233334444, 0x5555666677778888}, .page_bytes = PAGE_BYTES,
                                         .page_tokens = 32, .vocab = VOCAB};

static struct hash128 key_of(uint64_t n) { return (struct hash128){n * 0x9e3779b97f4a7c15u, n}; }

/* `pages` pages of keys first, first + 1, ...; the last also ends a prompt of 7 tokens with its logits. */
static void pack_fill(struct spill_pack *p, const struct spill_shape *s, int pages, uint64_t first) {
    struct err err = {0};
    float logits[VOCAB];
    if (spill_pack_init(p, s, 1 << 20, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < pages; i++) {
        memset(spill_pack_next_page(p), (int)(first + (uint64_t)i), PAGE_BYTES);
        p->page_count++;
        if (i + 1 == pages) {
            for (int k = 0; k < VOCAB; k++) logits[k] = (float)k;
            assert_true(spill_pack_key(p, key_of(first + 1000), (uint32_t)i, 7, logits));
        }
        assert_true(spill_pack_key(p, key_of(first + (uint64_t)i), (uint32_t)i, 32, NULL));
    }
}

static void write_file(const struct test_folder *f, const struct spill_shape *s, int pages, uint64_t first, char name[SPILL_NAME]) {
    struct spill_pack p;
    struct err err = {0};
    enum qvl_spill_drop reason;
    pack_fill(&p, s, pages, first);
    spill_pack_name(&p, name);
    if (spill_pack_write(&p, &disk_calls_system, f->path, name, &reason, &err)) fail_msg("%s", err.message);
    spill_pack_free(&p);
}

static char *slurp(const struct test_folder *f, const char *name, size_t *bytes) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*bytes);
    assert_int_equal(fread(data, 1, *bytes, file), *bytes);
    fclose(file);
    return data;
}

static void spit(const struct test_folder *f, const char *name, const void *data, size_t bytes) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    fclose(file);
}

/* 0 or -1 with the reason. */
static int read_table(const struct test_folder *f, const char *name, struct spill_table *t, enum qvl_spill_drop *reason) {
    char path[400];
    struct err err = {0};
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    int r = spill_table_read(&disk_calls_system, fd, path, t, reason, &err);
    close(fd);
    if (r) assert_true(strstr(err.message, name) != NULL); /* the sentence names the file */
    return r;
}

static uint32_t u32(const char *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static uint64_t u64(const char *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* ---- the format ---- */

/* Read by the offsets of the specification alone. */
static void bytes_as_specified(void **state) {
    (void)state;
    struct test_folder f;
    char name[SPILL_NAME];
    size_t bytes;
    folder_make(&f);
    write_file(&f, &shape, 3, 10, name);
    assert_int_equal(strlen(name), 35);
    char *d = slurp(&f, name, &bytes);
    assert_memory_equal(d, "PMDKV1\r\n", 8);
    assert_int_equal(u32(d + 8), 1);
    assert_int_equal(u32(d + 12), 4096);
    assert_true(u64(d + 32) == shape.identity.low && u64(d + 40) == shape.identity.high);
    assert_int_equal(u64(d + 48), bytes);
    assert_int_equal(u32(d + 56), 5000);
    assert_int_equal(u32(d + 60), 8192);
    assert_int_equal(u32(d + 64), 32);
    assert_int_equal(u32(d + 68), VOCAB);
    assert_int_equal(u32(d + 72), 8192);
    assert_int_equal(u32(d + 76), 3);
    assert_int_equal(u32(d + 80), 4);
    assert_int_equal(u32(d + 84), 1);
    assert_int_equal(u64(d + 88), 0);
    assert_int_equal(bytes, 4096 + 3 * 8192 + 8192);
    for (int i = 0; i < 3; i++) {
        struct hash128 sum = hash_bytes(d + 4096 + i * 8192, 8192, 0);
        assert_true(u64(d + 96 + 16 * i) == sum.low && u64(d + 104 + 16 * i) == sum.high);
        assert_int_equal(d[4096 + i * 8192 + 4999], 10 + i);
        assert_int_equal(d[4096 + i * 8192 + 5000], 0);
    }
    struct hash128 sum = hash_bytes(d + 4096 + 3 * 8192, 8192, 0);
    assert_true(u64(d + 144) == sum.low && u64(d + 152) == sum.high);
    const char *key = d + 160 + 2 * 32; /* third key: the prompt's end inside page 2 */
    assert_true(u64(key) == key_of(1010).low && u64(key + 8) == 1010);
    assert_int_equal(u32(key + 16), 2);
    assert_int_equal(u32(key + 20), 7);
    assert_int_equal(u32(key + 24), 0);
    assert_int_equal(u32(d + 160 + 24), 0xffffffff);
    for (size_t i = 160 + 4 * 32; i < 4096; i++) assert_int_equal(d[i], 0);
    char copy[4096];
    memcpy(copy, d, 4096);
    memset(copy + 16, 0, 16);
    sum = hash_bytes(copy, 4096, 0);
    assert_true(u64(d + 16) == sum.low && u64(d + 24) == sum.high);
    free(d);
    folder_remove(&f);
}

/* Every bit of header and tables: none may change unnoticed, and none may crash. */
static void every_bit_counts(void **state) {
    (void)state;
    struct test_folder f;
    char name[SPILL_NAME];
    size_t bytes;
    folder_make(&f);
    write_file(&f, &shape, 3, 10, name);
    char *d = slurp(&f, name, &bytes);
    char path[400];
    snprintf(path, sizeof path, "%s/%s", f.path, name);
    int fd = open(path, O_RDWR);
    long seen[QVL_SPILL_DROPS] = {0};
    for (int at = 0; at < 160 + 4 * 32 + 8; at++)
        for (int bit = 0; bit < 8; bit++) {
            char flipped = (char)(d[at] ^ 1 << bit);
            struct spill_table t;
            enum qvl_spill_drop reason = QVL_SPILL_DROPS;
            assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
            assert_int_equal(read_table(&f, name, &t, &reason), -1);
            assert_true(reason == (at < 8 ? QVL_SPILL_FOREIGN : reason == QVL_SPILL_NEWER ? QVL_SPILL_NEWER : QVL_SPILL_DAMAGED));
            assert_true(reason != QVL_SPILL_NEWER || (at >= 8 && at < 12));
            assert_null(t.header);
            seen[reason]++;
            assert_int_equal(pwrite(fd, &d[at], 1, at), 1);
        }
    assert_true(seen[QVL_SPILL_FOREIGN] == 64 && seen[QVL_SPILL_NEWER] >= 28 && seen[QVL_SPILL_DAMAGED] > 1000);
    close(fd);
    for (size_t n = 0; n < bytes; n += n < 5000 ? 97 : 4096) { /* cut */
        struct spill_table t;
        enum qvl_spill_drop reason = QVL_SPILL_DROPS;
        spit(&f, name, d, n);
        assert_int_equal(read_table(&f, name, &t, &reason), -1);
        assert_int_equal(reason, QVL_SPILL_TRUNCATED);
    }
    char *longer = calloc(1, bytes + 1);
    memcpy(longer, d, bytes);
    spit(&f, name, longer, bytes + 1);
    struct spill_table t;
    enum qvl_spill_drop reason = QVL_SPILL_DROPS;
    assert_int_equal(read_table(&f, name, &t, &reason), -1);
    assert_int_equal(reason, QVL_SPILL_DAMAGED);
    spit(&f, name, d, bytes);
    assert_int_equal(read_table(&f, name, &t, &reason), 0);
    spill_table_free(&t);
    free(longer);
    free(d);
    folder_remove(&f);
}

/* Fields that contradict each other under a checksum that fits: made by hand, not by accident. */
static void forged_fields(void **state) {
    (void)state;
    static const struct {
        int at;
        uint32_t value;
    } forged[] = {{12, 8192}, {12, 0},  {12, 0xfffff000}, {56, 0},  {56, 0xffffffff}, {60, 4096},         {64, 0},     {68, 0},
                  {68, 1u << 30}, {72, 4096}, {76, 0},    {76, 4},  {76, 0xffffffff}, {80, 0},            {80, 5},     {80, 0xffffffff},
                  {84, 2},  {84, 0xffffffff}, {48, 1},    {160 + 16, 3}, {160 + 20, 0}, {160 + 20, 33},   {160 + 24, 1}, {160 + 24, 0x80000000}};
    struct test_folder f;
    char name[SPILL_NAME];
    size_t bytes;
    folder_make(&f);
    write_file(&f, &shape, 3, 10, name);
    char *d = slurp(&f, name, &bytes);
    for (size_t i = 0; i < sizeof forged / sizeof *forged; i++) {
        struct spill_table t;
        enum qvl_spill_drop reason = QVL_SPILL_DROPS;
        char *copy = malloc(bytes);
        memcpy(copy, d, bytes);
        memcpy(copy + forged[i].at, &forged[i].value, 4);
        memset(copy + 16, 0, 16);
        struct hash128 sum = hash_bytes(copy, 4096, 0);
        memcpy(copy + 16, &sum, 16);
        spit(&f, name, copy, bytes);
        if (read_table(&f, name, &t, &reason) == 0) fail_msg("field at %d = %u was believed", forged[i].at, forged[i].value);
        assert_true(reason == QVL_SPILL_DAMAGED || reason == QVL_SPILL_TRUNCATED);
        free(copy);
    }
    free(d);
    folder_remove(&f);
}

/* Each call that writing makes fails once: an error, its reason, and nothing left but what could not be removed. */
static void writing_fails(void **state) {
    (void)state;
    static const enum fault_kind kinds[] = {FAULT_OPEN, FAULT_WRITE, FAULT_FSYNC, FAULT_RENAME};
    struct test_folder f;
    char name[SPILL_NAME];
    struct spill_pack p;
    folder_make(&f);
    pack_fill(&p, &shape, 3, 10);
    spill_pack_name(&p, name);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        int failures = 0;
        for (long n = 0;; n++) {
            struct err err = {0};
            enum qvl_spill_drop reason = QVL_SPILL_DROPS;
            fault_arm(kinds[k], n, n % 2 ? ENOSPC : EIO);
            int r = spill_pack_write(&p, &fault_disk, f.path, name, &reason, &err);
            bool hit = fault.hit;
            fault_disarm();
            if (!hit) {
                assert_int_equal(r, 0);
                break;
            }
            failures++;
            assert_int_equal(r, -1);
            assert_true(reason == QVL_SPILL_WRITE || reason == QVL_SPILL_FSYNC);
            if (kinds[k] == FAULT_FSYNC) assert_int_equal(reason, QVL_SPILL_FSYNC);
            assert_true(strstr(err.message, f.path) && strstr(err.message, n % 2 ? "No space" : "Input/output"));
            assert_int_equal(folder_count(&f, "", NULL), 0);
        }
        assert_true(failures >= 1);
        folder_clear(&f);
    }
    spill_pack_free(&p);
    folder_remove(&f);
}

/* ---- the folder ---- */

static char told[4000];
static void listen(void *user, const char *text) {
    (void)user;
    strncat(told, text, sizeof told - strlen(told) - 2);
    strcat(told, "\n");
}

static void folder_open(struct spill_folder *s, const struct test_folder *f, uint64_t budget) {
    struct err err = {0};
    told[0] = 0;
    if (spill_folder_open(s, f->path, &shape, budget, &fault_disk, listen, NULL, &err)) fail_msg("%s", err.message);
}

static bool knows(struct spill_folder *s, uint64_t key) {
    struct spill_place place;
    return spill_folder_find(s, key_of(key), &place);
}

static void scanning(void **state) {
    (void)state;
    struct test_folder f;
    struct spill_folder s;
    struct spill_place place;
    struct spill_shape other = shape;
    char good[SPILL_NAME], bad[SPILL_NAME], foreign[SPILL_NAME], alien[SPILL_NAME];
    size_t bytes;
    folder_make(&f);
    write_file(&f, &shape, 3, 10, good);
    write_file(&f, &shape, 2, 20, bad);
    other.identity.low++;
    write_file(&f, &other, 2, 30, alien);
    char *d = slurp(&f, bad, &bytes);
    d[100] ^= 1;
    spit(&f, bad, d, bytes);
    free(d);
    memcpy(foreign, good, sizeof foreign);
    foreign[0] = foreign[0] == '0' ? '1' : '0';
    char text[5000] = "not a spill file";
    spit(&f, foreign, text, sizeof text);
    spit(&f, "notes.txt", "mine", 4);
    spit(&f, "0123456789abcdef0123456789abcdef.77.tmp", "half", 4);
    folder_open(&s, &f, 1 << 30);
    assert_true(knows(&s, 10) && knows(&s, 11) && knows(&s, 12) && knows(&s, 1010) && !knows(&s, 20) && !knows(&s, 30));
    assert_true(spill_folder_find(&s, key_of(1010), &place));
    assert_true(!strcmp(place.name, good) && place.page == 2 && place.tokens == 7 && place.logits == 0);
    assert_int_equal(s.files, 2); /* another model's counts, but is not used */
    assert_true(s.drops[QVL_SPILL_DAMAGED] == 1 && s.drops[QVL_SPILL_FOREIGN] == 1);
    assert_true(strstr(told, bad) && strstr(told, foreign) && !strstr(told, good));
    assert_int_equal(folder_count(&f, ".kv", NULL), 2);
    assert_int_equal(folder_count(&f, ".tmp", NULL), 0);   /* its writer is dead */
    assert_int_equal(folder_count(&f, "notes.txt", NULL), 1);
    /* A second bad file of the same kind is counted and not told. */
    told[0] = 0;
    usleep(60000);
    spit(&f, foreign, text, sizeof text);
    assert_true(spill_folder_changed(&s));
    spill_folder_scan(&s);
    assert_int_equal(s.drops[QVL_SPILL_FOREIGN], 2);
    assert_string_equal(told, "");
    /* Somebody removes a file. */
    char path[400];
    snprintf(path, sizeof path, "%s/%s", f.path, good);
    unlink(path);
    spill_folder_scan(&s);
    assert_true(!knows(&s, 10) && s.files == 1);
    /* A temporary file whose writer lives is left alone. */
    snprintf(path, sizeof path, "%s/0123456789abcdef0123456789abcdef.78.tmp", f.path);
    int fd = open(path, O_CREAT | O_RDWR, 0666);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    spill_folder_scan(&s);
    assert_int_equal(folder_count(&f, ".tmp", NULL), 1);
    close(fd);
    spill_folder_scan(&s);
    assert_int_equal(folder_count(&f, ".tmp", NULL), 0);
    spill_folder_close(&s);
    folder_remove(&f);
}

static void eviction(void **state) {
    (void)state;
    struct test_folder f;
    struct spill_folder s;
    char name[4][SPILL_NAME];
    folder_make(&f);
    for (int i = 0; i < 4; i++) {
        write_file(&f, &shape, 3, 10 + 10 * (uint64_t)i, name[i]);
        usleep(20000);
    }
    uint64_t one = 4096 + 3 * 8192 + 8192;
    folder_open(&s, &f, 5 * one);
    assert_int_equal(s.bytes, 4 * one);
    spill_folder_used(&s, name[0]);
    assert_true(spill_folder_make_room(&s, one));
    assert_int_equal(s.evicted, 0);
    assert_true(spill_folder_make_room(&s, 2 * one)); /* the second is the oldest now */
    assert_true(s.evicted == 1 && !knows(&s, 20) && knows(&s, 10) && knows(&s, 30));
    assert_int_equal(folder_count(&f, ".kv", NULL), 3);
    assert_false(spill_folder_make_room(&s, 6 * one)); /* would not even fit alone: nothing is sacrificed for it */
    assert_int_equal(folder_count(&f, ".kv", NULL), 3);
    spill_folder_save_times(&s);
    spill_folder_close(&s);
    folder_open(&s, &f, 5 * one); /* times of use survive */
    assert_true(spill_folder_make_room(&s, 4 * one));
    assert_true(s.evicted == 2 && knows(&s, 10) && !knows(&s, 30) && !knows(&s, 40));
    /* Another process has used it meanwhile. */
    write_file(&f, &shape, 3, 50, name[1]);
    spill_folder_scan(&s);
    char path[400];
    struct timespec later[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = time(NULL) + 100}};
    snprintf(path, sizeof path, "%s/%s", f.path, name[0]);
    assert_int_equal(utimensat(AT_FDCWD, path, later, 0), 0);
    assert_true(spill_folder_make_room(&s, 4 * one));
    assert_true(knows(&s, 10) && !knows(&s, 50));
    spill_folder_close(&s);
    folder_open(&s, &f, one); /* a smaller budget from now on */
    assert_true(s.files <= 1 && folder_count(&f, ".kv", NULL) <= 1);
    spill_folder_close(&s);
    folder_remove(&f);
}

static void unusable_folder(void **state) {
    (void)state;
    struct test_folder f;
    struct spill_folder s;
    struct err err = {0};
    char path[400];
    folder_make(&f);
    spit(&f, "file", "x", 1);
    snprintf(path, sizeof path, "%s/file", f.path);
    assert_true(spill_folder_open(&s, path, &shape, 1 << 20, &disk_calls_system, NULL, NULL, &err) < 0);
    assert_true(strstr(err.message, path) && strstr(err.message, "prompt cache"));
    fault_arm(FAULT_OPEN, 0, EACCES);
    assert_true(spill_folder_open(&s, f.path, &shape, 1 << 20, &fault_disk, NULL, NULL, &err) < 0);
    assert_true(strstr(err.message, "Permission denied") != NULL);
    fault_disarm();
    folder_remove(&f);
}

/* ---- the ledger ---- */

static enum spill_promise take(const struct test_folder *f, int64_t now, uint64_t bytes) {
    struct err err = {0};
    return spill_ledger_take(&fault_disk, f->path, now, bytes, 1000, &err);
}

static void daily_budget(void **state) {
    (void)state;
    const int64_t day = 86400, t = 20000 * day + 5;
    struct test_folder f;
    folder_make(&f);
    assert_int_equal(take(&f, t, 600), SPILL_GRANTED);
    assert_int_equal(take(&f, t, 401), SPILL_REFUSED);
    assert_int_equal(take(&f, t + day - 6, 400), SPILL_GRANTED); /* up to the last byte; every call is a new process, as it were */
    assert_int_equal(take(&f, t + day - 6, 1), SPILL_REFUSED);
    assert_int_equal(take(&f, t - day, 1), SPILL_REFUSED);       /* the clock goes back a day: no second budget */
    assert_int_equal(take(&f, t, 1), SPILL_REFUSED);
    assert_int_equal(take(&f, t + day, 1000), SPILL_GRANTED);    /* a new day */
    assert_int_equal(take(&f, t + 5000 * day, 1000), SPILL_GRANTED); /* a clock far ahead ... */
    assert_int_equal(take(&f, t + 2 * day, 1), SPILL_REFUSED);   /* ... put right: what was spent stays spent, for that day */
    assert_int_equal(take(&f, t + 3 * day, 1000), SPILL_GRANTED);
    assert_int_equal(take(&f, t + 3 * day, UINT64_MAX), SPILL_REFUSED);
    assert_int_equal(take(&f, -5, 1), SPILL_REFUSED);            /* before 1970: still some day */
    /* Damage: not a fresh budget. */
    assert_int_equal(take(&f, t + 10 * day, 1), SPILL_GRANTED);
    size_t bytes;
    char *d = slurp(&f, "ledger", &bytes);
    assert_int_equal(bytes, 48);
    for (int at = 0; at < 48; at += 5) {
        d[at] ^= 4;
        spit(&f, "ledger", d, bytes);
        assert_int_equal(take(&f, t + 10 * day, 1), SPILL_REFUSED);
        d[at] ^= 4;
    }
    spit(&f, "ledger", d, 20);
    assert_int_equal(take(&f, t + 10 * day, 1), SPILL_REFUSED);
    char longer[100] = {0};
    memcpy(longer, d, bytes);
    spit(&f, "ledger", longer, sizeof longer);
    assert_int_equal(take(&f, t + 10 * day, 1), SPILL_REFUSED);
    assert_int_equal(take(&f, t + 11 * day, 1), SPILL_GRANTED);
    free(d);
    fault_arm(FAULT_WRITE, 0, EIO);
    assert_int_equal(take(&f, t + 11 * day, 1), SPILL_LEDGER_FAILED);
    fault_arm(FAULT_OPEN, 0, EACCES);
    assert_int_equal(take(&f, t + 11 * day, 1), SPILL_LEDGER_FAILED);
    fault_disarm();
    folder_remove(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_as_specified), cmocka_unit_test(every_bit_counts), cmocka_unit_test(forged_fields),
        cmocka_unit_test(writing_fails),      cmocka_unit_test(scanning),         cmocka_unit_test(eviction),
        cmocka_unit_test(unusable_folder),    cmocka_unit_test(daily_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
