/* The game that a run was played in, opened again. */
#ifndef APP_RUN_GAME_H
#define APP_RUN_GAME_H

#include "emulator/emulator.h"
#include "record/run.h"

/* rom_path NULL: where the run says, else the bundled one; its hash must be the run's. */
int run_game_open(const struct run_info *info, const char *rom_path, struct emulator **out, struct err *err);

#endif
