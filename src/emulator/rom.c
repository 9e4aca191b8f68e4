/* The ROM header (GBATEK, "GBA Cartridge Header") and the shared ROM images. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "emulator/internal.h"

enum { HEADER_BYTES = 0xC0, MAX_ROM_BYTES = 32 << 20 };

static void copy_text(char *out, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = p[i] == 0 ? 0 : p[i] >= 0x20 && p[i] < 0x7F ? (char)p[i] : '?';
    out[n] = 0;
    for (size_t k = strlen(out); k > 0 && out[k - 1] == ' '; k--) out[k - 1] = 0;
}

int rom_header_read(const void *rom, size_t bytes, struct rom_header *out, struct err *err) {
    memset(out, 0, sizeof *out);
    if (!rom || bytes < HEADER_BYTES) {
        return err_set(err, ERR_FORMAT, "not a Game Boy Advance ROM: %zu bytes, the header alone has %d", rom ? bytes : (size_t)0,
                       HEADER_BYTES);
    }
    if (bytes > MAX_ROM_BYTES) {
        return err_set(err, ERR_FORMAT, "not a Game Boy Advance ROM: %zu bytes, the largest cartridge has %d", bytes, MAX_ROM_BYTES);
    }
    const uint8_t *p = rom;
    if (p[0xB2] != 0x96) {
        return err_set(err, ERR_FORMAT, "not a Game Boy Advance ROM: the fixed byte at offset 0xB2 is 0x%02X, expected 0x96", p[0xB2]);
    }
    uint8_t sum = 0;
    for (int i = 0xA0; i <= 0xBC; i++) sum -= p[i];
    sum -= 0x19;
    if (sum != p[0xBD]) {
        return err_set(err, ERR_FORMAT, "not a sound Game Boy Advance ROM: the header checksum at offset 0xBD is 0x%02X, the header gives "
                       "0x%02X", p[0xBD], sum);
    }
    copy_text(out->title, p + 0xA0, 12);
    copy_text(out->code, p + 0xAC, 4);
    copy_text(out->maker, p + 0xB0, 2);
    out->version = p[0xBC];
    out->bytes = bytes;
    out->crc32 = (uint32_t)crc32(0, p, (uInt)bytes);
    return 0;
}

static pthread_mutex_t images_lock = PTHREAD_MUTEX_INITIALIZER;
static struct rom_image *images;

struct rom_image *rom_image_acquire(const void *rom, size_t bytes, uint32_t crc) {
    pthread_mutex_lock(&images_lock);
    struct rom_image *image = images;
    while (image && !(image->bytes == bytes && image->crc32 == crc && !memcmp(image->data, rom, bytes))) image = image->next;
    if (!image && (image = malloc(sizeof *image + bytes))) {
        *image = (struct rom_image){.next = images, .bytes = bytes, .crc32 = crc};
        memcpy(image->data, rom, bytes);
        images = image;
    }
    if (image) image->users++;
    pthread_mutex_unlock(&images_lock);
    return image;
}

void rom_image_release(struct rom_image *image) {
    if (!image) return;
    pthread_mutex_lock(&images_lock);
    if (--image->users == 0) {
        struct rom_image **p = &images;
        while (*p != image) p = &(*p)->next;
        *p = image->next;
        free(image);
    }
    pthread_mutex_unlock(&images_lock);
}
