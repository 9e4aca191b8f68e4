/* How much may still be written today. One small file in the folder, shared by every process that uses it:
 *
 *     0  magic       8   "PMDLEDG1"
 *     8  day         8   days since 1970-01-01, UTC, signed
 *    16  bytes       8   promised to writers on that day
 *    24  zeros       8
 *    32  checksum   16   XXH3-128 of bytes [0, 32)
 *
 * Bytes are promised before they are written, under the folder's lock, so a writer that is killed has spent them and the budget
 * is never exceeded. A new day begins with nothing spent. When the clock has gone back by a day the old day goes on; when the
 * ledger's day lies further in the future it is moved to today and what was spent stays spent: no turning of the clock gives the
 * same day a second budget, and a clock that was once far ahead does not block the folder for ever. A damaged ledger counts as
 * a day whose budget is used up. */
#ifndef ENGINE_SPILL_LEDGER_H
#define ENGINE_SPILL_LEDGER_H

#include <stdint.h>

#include "base/err.h"
#include "engine/disk_calls.h"

enum spill_promise { SPILL_GRANTED, SPILL_REFUSED, SPILL_LEDGER_FAILED };
/* Promises `bytes` of `budget` on the day of `now` (seconds since 1970). The caller holds the folder's lock. */
enum spill_promise spill_ledger_take(const struct disk_calls *io, const char *folder, int64_t now, uint64_t bytes, uint64_t budget,
                                     struct err *err);

#endif
