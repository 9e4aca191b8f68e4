#include "engine/spill_ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/hash.h"
#include "engine/spill_file.h"

struct ledger {
    char magic[8];
    int64_t day;
    uint64_t bytes, unused;
    struct hash128 checksum;
};
_Static_assert(sizeof(struct ledger) == 48, "struct as in the file");
static const char magic[8] = "PMDLEDG1";

static struct hash128 ledger_sum(const struct ledger *l) { return hash_bytes(l, offsetof(struct ledger, checksum), 0); }

static void turn_day(struct ledger *l, int64_t today) {
    if (today > l->day) l->bytes = 0;
    if (today > l->day || l->day > today + 1) l->day = today;
}

enum spill_promise spill_ledger_take(const struct disk_calls *io, const char *folder, int64_t now, uint64_t bytes, uint64_t budget,
                                     struct err *err) {
    char path[SPILL_PATH];
    struct ledger l;
    int64_t today = (now - (now % 86400 + 86400) % 86400) / 86400;
    snprintf(path, sizeof path, "%s/ledger", folder);
    int fd = io->open(path, O_RDWR | O_CREAT | O_CLOEXEC);
    if (fd < 0) return err_set(err, ERR_IO, "%s: cannot open: %s", path, strerror(errno)), SPILL_LEDGER_FAILED;
    off_t size = lseek(fd, 0, SEEK_END);
    if (size == sizeof l && disk_read(io, fd, &l, sizeof l, 0)) {
        err_set(err, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
        close(fd);
        return SPILL_LEDGER_FAILED;
    }
    if (size == 0) {
        l = (struct ledger){.day = today};
        memcpy(l.magic, magic, sizeof magic);
    } else if (size != sizeof l || memcmp(l.magic, magic, sizeof magic) ||
               !hash_equal(ledger_sum(&l), l.checksum)) {
        l = (struct ledger){.day = today, .bytes = budget};
        memcpy(l.magic, magic, sizeof magic);
        if (size > (off_t)sizeof l && ftruncate(fd, sizeof l)) size = -1; /* then it stays damaged, and says so again */
        err_set(err, ERR_FORMAT, "%s: damaged; today's write budget counts as used up", path);
    }
    turn_day(&l, today);
    enum spill_promise r = l.bytes <= budget && bytes <= budget - l.bytes ? SPILL_GRANTED : SPILL_REFUSED;
    if (r == SPILL_GRANTED) l.bytes += bytes;
    l.checksum = ledger_sum(&l);
    if (disk_write(io, fd, &l, sizeof l, 0) || (r == SPILL_GRANTED && io->fsync(fd))) {
        err_set(err, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
        r = SPILL_LEDGER_FAILED;
    }
    close(fd);
    return r;
}
