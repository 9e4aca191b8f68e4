/* A Game Boy Advance in this process: libmgba 0.10, loaded with dlopen when the first game starts (facts: linking it costs
 * 90 ms and 177 libraries). One struct emulator per game; any number side by side, each used by one thread at a time. */
#ifndef EMULATOR_EMULATOR_H
#define EMULATOR_EMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { FRAME_WIDTH = 240, FRAME_HEIGHT = 160, FRAME_PIXELS = FRAME_WIDTH * FRAME_HEIGHT };

enum key { KEY_A = 1, KEY_B = 2, KEY_SELECT = 4, KEY_START = 8, KEY_RIGHT = 16, KEY_LEFT = 32, KEY_UP = 64, KEY_DOWN = 128,
           KEY_R = 256, KEY_L = 512 };

struct emulator;

struct rom_header {
    char title[13], code[5], maker[3];
    uint8_t version;
    uint32_t crc32;
    size_t bytes;
};
/* Checks the header (fixed byte, complement, size) of a ROM image; a clear sentence when it is no GBA ROM. */
int rom_header_read(const void *rom, size_t bytes, struct rom_header *out, struct err *err);

/* Starts a game from a ROM image (copied). Deterministic: fixed RTC, no BIOS file, no user settings read or written.
 * save: path of the cartridge save (loaded if present, written by emulator_save_cartridge only), or NULL for none. */
int emulator_open(const void *rom, size_t bytes, const char *save, struct emulator **out, struct err *err);
/* The same game in an mGBA at the other end of a socket, where configs/mgba/remote.lua runs. rom: the same image as there (compared by
 * its checksum). Slower, otherwise no different: the remote game stands still between two calls. */
int emulator_connect(const char *host, int port, const void *rom, size_t bytes, struct emulator **out, struct err *err);
void emulator_close(struct emulator *e);
/* 0, or why the game is gone (a remote one that does not answer any more); after that emulator_run does nothing. */
int emulator_failed(const struct emulator *e, struct err *err);
const struct rom_header *emulator_header(const struct emulator *e);
void emulator_reset(struct emulator *e);

/* Runs frames with these keys held. draw: the last of them is drawn and published to the frame buffer; the others never.
 * Returns the number of the frame reached (frames since reset or since the loaded state). */
uint64_t emulator_run(struct emulator *e, uint32_t keys, int frames, bool draw);
uint64_t emulator_frame_number(const struct emulator *e);

/* The newest published frame: 240x160 RGB bytes copied to out. Never blocks emulator_run (double buffer); may be called from
 * any thread. Returns its frame number, 0 when none was drawn yet. */
uint64_t emulator_frame(struct emulator *e, uint8_t out[FRAME_PIXELS * 3]);
/* XXH3-128 of such a frame, as 32 hex digits. */
void frame_hash(const uint8_t rgb[FRAME_PIXELS * 3], char out[33]);
/* What it looks like, in 64 bits: pictures that look alike differ in few bits (difference hash: 9x8 cells, is each darker than the one
 * to its right?). Never 0. */
uint64_t frame_picture_hash(const uint8_t rgb[FRAME_PIXELS * 3]);

/* Memory as the game sees it. The blocks stay valid and current until close. */
struct memory_view {
    const uint8_t *ewram; /* 0x40000 bytes at 0x02000000 */
    const uint8_t *iwram; /* 0x8000 bytes at 0x03000000 */
    const uint8_t *rom;   /* may be NULL (a save state without ROM) */
    size_t rom_bytes;
};
void emulator_memory(struct emulator *e, struct memory_view *out);
void emulator_write32(struct emulator *e, uint32_t address, uint32_t value);

/* Whole-machine state, cartridge save and RTC included. Appends to out / restores. A truncated, foreign or newer state is
 * refused and leaves the game as it was. */
int emulator_state_save(struct emulator *e, struct buf *out, struct err *err);
int emulator_state_load(struct emulator *e, const void *state, size_t bytes, struct err *err);
/* XXH3-128 of EWRAM and IWRAM, as 32 hex digits. */
void emulator_state_hash(struct emulator *e, char out[33]);

/* Writes the cartridge save safely (temporary file, fsync, rename). */
int emulator_save_cartridge(struct emulator *e, struct err *err);

#endif
