/* The printable alphabet of byte-level BPE: bytes 33-126, 161-172 and 174-255 show as themselves, the other 68 in increasing
 * order as U+0100, U+0101, ... */
#include "text/parts.h"

int byte_level_byte(uint32_t c) {
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) return (int)c;
    if (c < 0x100 || c > 0x143) return -1;
    c -= 0x100;
    if (c <= 32) return (int)c;              /* 0..32 */
    if (c <= 66) return (int)(127 + c - 33); /* 127..160 */
    return 173;
}
