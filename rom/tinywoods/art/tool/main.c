/* make_art: writes art/art_data.c.  Usage: make_art font.txt > art_data.c */
#include "art.h"

uint32_t art_hash(uint32_t x, uint32_t y, uint32_t salt)
{
    uint32_t h = x * 0x9E3779B1u ^ y * 0x85EBCA77u ^ salt * 0xC2B2AE3Du;

    h = (h ^ h >> 15) * 0x2C1B3C6Du;
    h = (h ^ h >> 12) * 0x297A2D39u;
    return h ^ h >> 15;
}

void palette_write(FILE *out, const char *name, const uint32_t *colours, int count)
{
    fprintf(out, "\nconst unsigned short %s[%d] = {", name, count);
    for (int i = 0; i < count; i++) {
        uint32_t c = colours[i], bgr = (c >> 19 & 31) | (c >> 11 & 31) << 5 | (c >> 3 & 31) << 10;

        fprintf(out, "%s0x%04X,", i % 8 ? " " : "\n    ", (unsigned)bgr);
    }
    fprintf(out, "\n};\n");
}

static int words_written;

void tiles_write_begin(FILE *out, const char *name, int words)
{
    fprintf(out, "\nconst unsigned int %s[%d] = {", name, words);
    words_written = 0;
}

void tiles_write(FILE *out, const uint8_t *pixels, int stride, int w, int h)
{
    for (int ty = 0; ty < h; ty += 8)
        for (int tx = 0; tx < w; tx += 8)
            for (int y = 0; y < 8; y++) {
                uint32_t word = 0;

                for (int x = 0; x < 8; x++)
                    word |= (uint32_t)pixels[(ty + y) * stride + tx + x] << 4 * x;
                fprintf(out, "%s0x%08X,", words_written++ % 8 ? " " : "\n    ", (unsigned)word);
            }
}

void tiles_write_end(FILE *out)
{
    fprintf(out, "\n};\n");
}

int main(int argc, char **argv)
{
    static struct creature_picture creature[CREATURES];
    uint8_t meta[META][META];

    if (argc != 2) {
        fprintf(stderr, "usage: make_art FONT.txt > art_data.c\n");
        return 2;
    }
    printf("/* art_data.c: written by art/tool/make_art (see art/art.mk); edit its sources, not this file. */\n"
           "#include \"art_data.h\"\n");
    palette_write(stdout, "art_terrain_palette", terrain_palette, 16);
    palette_write(stdout, "art_stairs_palette", stairs_palette, 16);
    tiles_write_begin(stdout, "art_terrain_tiles", META_COUNT * 9 * 8);
    for (int i = 0; i < META_COUNT; i++) {
        terrain_draw(i, meta);
        tiles_write(stdout, &meta[0][0], META, META, META);
    }
    tiles_write_end(stdout);
    for (int i = 0; i < CREATURES; i++) {
        char name[40];

        creature_draw(i, &creature[i]);
        snprintf(name, sizeof name, "art_creature_palette_%d", i);
        palette_write(stdout, name, creature[i].palette, 16);
    }
    tiles_write_begin(stdout, "art_creature_tiles", CREATURES * VIEWS * POSES * 16 * 8);
    for (int i = 0; i < CREATURES; i++)
        for (int view = 0; view < VIEWS; view++)
            for (int pose = 0; pose < POSES; pose++)
                tiles_write(stdout, &creature[i].pixel[view][pose][0][0], SPRITE, SPRITE, SPRITE);
    tiles_write_end(stdout);
    icons_write(stdout);
    return font_write(stdout, argv[1]) < 0;
}
