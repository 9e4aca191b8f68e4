/* One game: start, run, look into its memory. Everything that could differ between two runs is fixed here: the clock of the
 * cartridge, the BIOS (mGBA's built-in one), the options; no file of the user is read or written. */
#include "emulator/emulator.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "emulator/internal.h"

enum { BLOCK_EWRAM = 2, BLOCK_IWRAM = 3, BLOCK_VRAM = 6, MAX_SAVE_BYTES = 1 << 20, NEVER_DRAW = 1 << 30 };

/* The cartridge clock stands still at 2006-09-18 00:00 UTC. */
static const int64_t fixed_time = 1158537600;

/* Creating and destroying cores touches tables inside the library; running does not. */
static pthread_mutex_t create_lock = PTHREAD_MUTEX_INITIALIZER;

/* With frameskip N, mGBA draws one frame of N + 1. The counter belongs to it: left alone, a large one would go on skipping. */
static void set_drawing(struct mCore *core, bool draw) {
    struct GBAVideo *video = &((struct GBA *)core->board)->video;
    video->frameskip = video->frameskipCounter = draw ? 0 : NEVER_DRAW;
}

/* The option passes through the library, the field is read by our idea of its layout: they agree only if the layouts do. */
static bool layout_agrees(const struct mgba *lib, struct mCore *core) {
    const struct GBAVideo *video = &((struct GBA *)core->board)->video;
    for (int n = 5; n <= 7; n += 2) {
        lib->config_set_int(&core->config, "frameskip", n);
        core->reloadConfigOption(core, "frameskip", NULL);
        if (video->frameskip != n) return false;
    }
    return true;
}

static int start_core(struct emulator *e, struct err *err) {
    const struct mgba *lib = e->lib;
    struct mCore *core = lib->gba_core_create();
    if (!core) return err_set(err, ERR_MEMORY, "out of memory for an emulator core");
    if (!core->init(core)) {
        free(core);
        return err_set(err, ERR_MEMORY, "the emulator core does not start: out of memory");
    }
    e->core = core;
    lib->init_config(core, NULL);
    const struct mCoreOptions options = {.skipBios = true, .useBios = false, .mute = true, .volume = 0x100, .audioBuffers = 1024};
    lib->config_load_defaults(&core->config, &options);
    lib->load_foreign_config(core, &core->config);

    unsigned width = 0, height = 0;
    core->desiredVideoDimensions(core, &width, &height);
    if (width != FRAME_WIDTH || height != FRAME_HEIGHT) {
        return err_set(err, ERR_STATE, "the emulator draws %ux%u pixels, expected %dx%d", width, height, FRAME_WIDTH, FRAME_HEIGHT);
    }
    core->setVideoBuffer(core, e->pixels, FRAME_WIDTH);

    struct VFile *file = lib->file_from_const_memory(e->rom->data, e->rom->bytes);
    if (!file) return err_set(err, ERR_MEMORY, "out of memory for the ROM");
    /* loadROM takes anything, even an empty file. */
    if (lib->is_compatible(file) != mPLATFORM_GBA) {
        file->close(file);
        return err_set(err, ERR_FORMAT, "the emulator does not take this file for a Game Boy Advance ROM");
    }
    file->seek(file, 0, SEEK_SET);
    if (!core->loadROM(core, file)) return err_set(err, ERR_FORMAT, "the emulator does not load this ROM");
    struct VFile *save = lib->file_mem_chunk(e->save_start.len ? e->save_start.data : NULL, e->save_start.len);
    if (!save) return err_set(err, ERR_MEMORY, "out of memory for the cartridge save");
    core->loadSave(core, save);
    core->rtc.override = RTC_FIXED;
    core->rtc.value = fixed_time;
    core->reset(core);
    if (!layout_agrees(lib, core)) {
        return err_set(err, ERR_STATE, "libmgba has another memory layout than 0.10.1, for which this program was built");
    }
    set_drawing(core, false);
    size_t ewram = 0, iwram = 0;
    e->ewram = core->getMemoryBlock(core, BLOCK_EWRAM, &ewram);
    e->iwram = core->getMemoryBlock(core, BLOCK_IWRAM, &iwram);
    if (!e->ewram || !e->iwram || ewram != 0x40000 || iwram != 0x8000) {
        return err_set(err, ERR_STATE, "the emulator shows %zu and %zu bytes of memory, expected 262144 and 32768", ewram, iwram);
    }
    return 0;
}

int emulator_open(const void *rom, size_t bytes, const char *save, struct emulator **out, struct err *err) {
    *out = NULL;
    struct rom_header header;
    int code = rom_header_read(rom, bytes, &header, err);
    if (code) return code;
    const struct mgba *lib = mgba_library(err);
    if (!lib) return ERR_MISSING;
    struct emulator *e = calloc(1, sizeof *e);
    if (!e) return err_set(err, ERR_MEMORY, "out of memory for an emulator");
    e->kind = &emulator_in_process;
    e->lib = lib;
    e->header = header;
    frame_exchange_init(&e->exchange);
    if (!(e->rom = rom_image_acquire(rom, bytes, header.crc32)) || (save && !(e->save_path = strdup(save)))) {
        emulator_close(e);
        return err_set(err, ERR_MEMORY, "out of memory for a ROM of %zu bytes", bytes);
    }
    if (save && file_exists(save) && (code = file_read(save, MAX_SAVE_BYTES, &e->save_start, err))) {
        emulator_close(e);
        return code;
    }
    pthread_mutex_lock(&create_lock);
    code = start_core(e, err);
    pthread_mutex_unlock(&create_lock);
    if (code) {
        emulator_close(e);
        return code;
    }
    *out = e;
    return 0;
}

static void core_close(struct emulator *e) {
    if (!e->core) return;
    pthread_mutex_lock(&create_lock);
    e->lib->config_deinit(&e->core->config);
    e->core->deinit(e->core);
    pthread_mutex_unlock(&create_lock);
}

/* mGBA's reset leaves video memory as it was; without it a second run of the same game would start with another picture. */
static void core_reset(struct emulator *e) {
    size_t bytes = 0;
    void *vram = e->core->getMemoryBlock(e->core, BLOCK_VRAM, &bytes);
    if (vram) memset(vram, 0, bytes);
    e->core->reset(e->core);
    set_drawing(e->core, false);
}

static void core_run(struct emulator *e, uint32_t keys, int frames, bool draw) {
    struct mCore *core = e->core;
    core->setKeys(core, keys);
    for (int i = 0; i < frames; i++) {
        bool last = draw && i == frames - 1;
        if (i == 0 || last) set_drawing(core, last);
        core->runFrame(core);
        e->frames++;
    }
    if (draw && frames > 0) frame_publish(&e->exchange, e->pixels, e->frames);
}

static void core_write32(struct emulator *e, uint32_t address, uint32_t value) { e->core->busWrite32(e->core, address, value); }

const struct emulator_kind emulator_in_process = {core_close, core_reset, core_run, core_write32, core_state_save, core_state_load, core_save_cartridge};

/* ---- wherever it runs ---------------------------------------------------------------------------------------------------------- */

void emulator_close(struct emulator *e) {
    if (!e) return;
    e->kind->close(e);
    rom_image_release(e->rom);
    pthread_mutex_destroy(&e->exchange.readers);
    buf_free(&e->save_start);
    free(e->save_path);
    free(e);
}

int emulator_failed(const struct emulator *e, struct err *err) {
    if (e->failure.code && err) *err = e->failure;
    return e->failure.code;
}

const struct rom_header *emulator_header(const struct emulator *e) { return &e->header; }

void emulator_reset(struct emulator *e) {
    e->kind->reset(e);
    e->frames = 0;
    frame_publish(&e->exchange, NULL, 0);
}

uint64_t emulator_run(struct emulator *e, uint32_t keys, int frames, bool draw) {
    if (!e->failure.code) e->kind->run(e, keys & 0x3FF, frames, draw);
    return e->frames;
}

uint64_t emulator_frame_number(const struct emulator *e) { return e->frames; }

void emulator_memory(struct emulator *e, struct memory_view *out) {
    *out = (struct memory_view){.ewram = e->ewram, .iwram = e->iwram, .rom = e->rom->data, .rom_bytes = e->rom->bytes};
}

void emulator_write32(struct emulator *e, uint32_t address, uint32_t value) { e->kind->write32(e, address, value); }

int emulator_state_save(struct emulator *e, struct buf *out, struct err *err) { return e->kind->state_save(e, out, err); }
int emulator_state_load(struct emulator *e, const void *state, size_t bytes, struct err *err) { return e->kind->state_load(e, state, bytes, err); }
int emulator_save_cartridge(struct emulator *e, struct err *err) { return e->kind->save_cartridge(e, err); }
