/* What the files of this room share. */
#ifndef EMULATOR_INTERNAL_H
#define EMULATOR_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "emulator/emulator.h"
#include "emulator/mgba.h"

/* ROM images shared by all games that run the same one: 64 games of a 32 MiB cartridge need it once. */
struct rom_image {
    struct rom_image *next;
    size_t bytes;
    uint32_t crc32;
    int users;
    uint8_t data[];
};
struct rom_image *rom_image_acquire(const void *rom, size_t bytes, uint32_t crc32); /* NULL: out of memory */
void rom_image_release(struct rom_image *image);

/* Publication without waiting: three buffers. The emulator thread owns one, the reader one, the third changes hands by one atomic
 * exchange. Bit 2 of `middle` says that it holds a frame the reader has not taken yet. Readers exclude each other by a lock that
 * the emulator never takes. */
enum { FRAME_FRESH = 4 };
struct frame_slot {
    uint64_t number; /* 0: holds no frame */
    uint8_t rgb[FRAME_PIXELS * 3];
};
struct frame_exchange {
    struct frame_slot slot[3];
    int back, front;
    atomic_int middle;
    pthread_mutex_t readers;
};
void frame_exchange_init(struct frame_exchange *x);
/* Publishes 240x160 pixels (R in the low byte, the fourth byte is the renderer's and is dropped); NULL withdraws the picture. */
void frame_publish(struct frame_exchange *x, const uint32_t *pixels, uint64_t number);

/* Where the game runs: in this process (emulator.c, state.c), or in an mGBA at the other end of a socket (remote.c). */
struct emulator_kind {
    void (*close)(struct emulator *e); /* what belongs to the kind; e itself and the ROM are freed by emulator_close */
    void (*reset)(struct emulator *e);
    void (*run)(struct emulator *e, uint32_t keys, int frames, bool draw); /* counts e->frames, publishes when draw */
    void (*write32)(struct emulator *e, uint32_t address, uint32_t value);
    int (*state_save)(struct emulator *e, struct buf *out, struct err *err);
    int (*state_load)(struct emulator *e, const void *state, size_t bytes, struct err *err);
    int (*save_cartridge)(struct emulator *e, struct err *err);
};
extern const struct emulator_kind emulator_in_process;

struct emulator {
    const struct emulator_kind *kind;
    struct remote *remote;  /* of a remote one */
    struct err failure;     /* code 0, or why the game is gone: then nothing runs any more */
    const struct mgba *lib;
    struct mCore *core;
    struct rom_image *rom;
    struct rom_header header;
    uint8_t *ewram, *iwram; /* the core's own memory, or a copy of the remote's */
    uint64_t frames;        /* since reset or state load */
    char *save_path;        /* NULL: none */
    struct buf save_start;  /* the cartridge save as loaded */
    color_t pixels[FRAME_PIXELS]; /* the core draws here; it redraws only changed lines, so the buffer must stay the same */
    struct frame_exchange exchange;
};

/* For state.c and emulator.c. */
int core_state_save(struct emulator *e, struct buf *out, struct err *err);
int core_state_load(struct emulator *e, const void *state, size_t bytes, struct err *err);
int core_save_cartridge(struct emulator *e, struct err *err);

#endif
