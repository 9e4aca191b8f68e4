/* platform.h: where code and data go in a Game Boy Advance, and the few registers that the game itself touches. */
#ifndef TINYWOODS_PLATFORM_H
#define TINYWOODS_PLATFORM_H

#include "layout.h"

#define IWRAM_CODE __attribute__((section(".iwram"), target("arm"), long_call, noinline)) /* hot: 32-bit, no waits */
#define EWRAM_BSS  __attribute__((section(".ewram_bss")))  /* zeroed at boot; 19 KB at 0x0203B480 */
#define HEAP_BSS   __attribute__((section(".heap_bss")))   /* zeroed at boot; 30 KB behind the Dungeon struct */

#define REG16(address) (*(volatile u16 *)(address))
#define REG_DISPCNT  REG16(0x04000000)
#define REG_DISPSTAT REG16(0x04000004)
#define REG_KEYINPUT REG16(0x04000130)
#define REG_IE       REG16(0x04000200)
#define REG_IME      REG16(0x04000208)

enum key {
    KEY_A = 1, KEY_B = 2, KEY_SELECT = 4, KEY_START = 8, KEY_RIGHT = 0x10, KEY_LEFT = 0x20, KEY_UP = 0x40,
    KEY_DOWN = 0x80, KEY_R = 0x100, KEY_L = 0x200, KEY_PAD = 0xF0
};

#endif
