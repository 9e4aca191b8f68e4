/* A GBA program of 62 words for tests that need a game but not ours: it halts between frames, counts frames at 0x02000000,
 * mixes the keys into 0x02000004 (mix = mix * 1566083941 ^ KEYINPUT, + 1), plots one pixel of mode 3 a frame, and with B held
 * writes the low byte of the counter to the cartridge's SRAM. tiny_rom_write fills a whole image, header included. */
#ifndef TINY_ROM_H
#define TINY_ROM_H

#include <stdint.h>
#include <string.h>

enum { TINY_ROM_BYTES = 1024 };

static inline void tiny_rom_write(uint8_t rom[TINY_ROM_BYTES], const char *title, const char *code) {
    static const uint32_t words[] = {
        0xE3A00012, 0xE121F000, 0xE59FD0BC, 0xE3A0001F, 0xE121F000, 0xE59FD0B4, 0xE59F00B4, 0xE28F1084,
        0xE5801000, 0xE3A04301, 0xE59F00A8, 0xE1C400B0, 0xE3A00008, 0xE1C400B4, 0xE59F509C, 0xE3A00001,
        0xE5850000, 0xE5850008, 0xE3A06402, 0xE3A07406, 0xE3A00001, 0xE3A01001, 0xEF050000, 0xE5960000,
        0xE2800001, 0xE5860000, 0xE59F1070, 0xE1D110B0, 0xE5962004, 0xE59F3068, 0xE0080392, 0xE0288001,
        0xE2888001, 0xE5868004, 0xE1A03880, 0xE1A03823, 0xE18780B3, 0xE3110002, 0x1AFFFFEC, 0xE3A0340E,
        0xE5C30000, 0xEAFFFFE9, 0xE3A0C301, 0xE28CCC02, 0xE3A00001, 0xE1CC00B2, 0xE59F3028, 0xE1D310B0,
        0xE3811001, 0xE1C310B0, 0xE12FFF1E, 0x03007FA0, 0x03007F00, 0x03007FFC, 0x00000403, 0x04000200,
        0x04000130, 0x5D588B65, 0x03007FF8, 0x4D415253, 0x3131565F, 0x00000033,
    };
    memset(rom, 0, TINY_ROM_BYTES);
    memcpy(rom, "\x2E\x00\x00\xEA", 4); /* b 0xC0 */
    for (int i = 0; i < 12 && title[i]; i++) rom[0xA0 + i] = (uint8_t)title[i];
    for (int i = 0; i < 4 && code[i]; i++) rom[0xAC + i] = (uint8_t)code[i];
    memcpy(rom + 0xB0, "01", 2);
    rom[0xB2] = 0x96;
    for (int i = 0xA0; i <= 0xBC; i++) rom[0xBD] -= rom[i];
    rom[0xBD] -= 0x19;
    memcpy(rom + 0xC0, words, sizeof words);
}

#endif
