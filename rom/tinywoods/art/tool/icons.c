/* icons.c: items, traps and small marks, typed row by row.  One letter is one pixel; the letters are the palette. */
#include <string.h>

#include "art.h"

static const char letters[] = ".kwrRpbBcyYogGnm";
static const uint32_t colours[16] = {
    0, 0x181018, 0xFFFFFF, 0xE02828, 0x901020, 0xFF8890, 0x3868F0, 0x1828A0,
    0x80D8FF, 0xFFE048, 0xC89010, 0xF07820, 0x48B848, 0x187028, 0x704828, 0x9890A0
};

struct icon { const char *name; int w, h; const char *row[16]; };

static const struct icon icons[] = {
    { "dart", 16, 16, { "................", "............kkk.", "...........kywk.", "..........kyywk.", ".........kyyyk..",
                        "........koyyk...", ".......koyyk....", "..kk..koyyk.....", ".kggkkYoyk......", ".kgggkYYk.......",
                        "..kgggkk........", "..kkgggk........", ".kGGkggk........", ".kGGGkkk........", "..kkkk..........", "................" } },
    { "berry", 16, 16, { ".......kk.......", "......kGgk......", "...kkkkGgkkkk...", "..kgggkGkgggGk..", "...kkkkkkkkkk...",
                         "..kbbbbbbbbbBk..", ".kbcwcbbbbbbbBk.", ".kbwwcbbbbbbbBk.", ".kbccbbbbbbbbBk.", ".kbbbbbbbbbbBBk.",
                         ".kbbbbbbbbbbBBk.", "..kbbbbbbbbBBk..", "..kBbbbbbbBBBk..", "...kBBBBBBBBk...", "....kkkkkkkk....", "................" } },
    { "apple", 16, 16, { ".........kk.....", "........knk.kkk.", ".......knk.kggGk", "..kkkk.knkkggGk.", ".krrrrkknkkkkk..",
                         "krrrrrrrrrrrrk..", "krpprrrrrrrrrRk.", "krpwprrrrrrrrRk.", "krpprrrrrrrrrRk.", "krrrrrrrrrrrRRk.",
                         "krrrrrrrrrrrRRk.", ".krrrrrrrrrRRk..", ".kRrrrrrrrRRRk..", "..kRRrrrRRRRk...", "...kkRRRkRRk....", ".....kkk.kk....." } },
    { "orb", 16, 16, { "................", ".....kkkkkk.....", "...kkccccccBk...", "..kcwwccccccbk..", ".kcwwwwccccccbk.",
                       ".kcwwwccccccbbk.", "kcccwcccccbbbbBk", "kccccccyycbbbbBk", "kcccccyyybbbbbBk", "kcccccyybbbbbbBk",
                       "kbccccbbbbbbbbBk", ".kbbcbbbbbbbbBk.", ".kBbbbbbbbbbBBk.", "..kBBbbbbbBBBk..", "...kkBBBBBBkk...", ".....kkkkkk....." } },
    { "coins", 16, 16, { "................", "................", "......kkkkk.....", "....kkyyyyykk...", "...kyywwyyyyYk..",
                         "...kyyyyyyyYYk..", "...kYkyyyyykYk..", "...kYYkkkkkYYk..", ".kkkyYYYYYYYkkk.", "kyyykkYYYYkkyyyk",
                         "kywwyykkkkyywwyk", "kYyyyyYkkYyyyyYk", "kkYyyYkkkkYyyYkk", "kYkkkkYkkYkkkkYk", ".kYYYYk..kYYYYk.", "..kkkk....kkkk.." } },
    { "warp", 16, 16, { "....kkkkkkkk....", "..kkccccccccbk..", ".kccbbbbbbbbcbk.", ".kcbbkkkkkkbbck.", "kcbbkwwwwwwkbbck",
                        "kcbkwcccccckwbck", "kcbkwckkkkckwbck", "kcbkwckywkckwbck", "kcbkwckyyckkwbck", "kcbkwcckkcckwbck",
                        "kcbkwwcccckwwbck", "kcbbkkwwwwkkbbck", ".kcbbkkkkkkbbck.", ".kbccbbbbbbccbk.", "..kkbccccccbkk..", "....kkkkkkkk...." } },
    { "tar", 16, 16, { "................", "....kkkkk.......", "..kkkkkkkkkkk...", ".kkkmmkkkkkkkkk.", ".kkmmkkkkkkkkkk.",
                       "kkkmkkkkkkkkkkk.", "kkkkkkkkkBBkkkkk", "kkkkkkkkBcBkkkkk", "kkkkkkkkkBBkkkkk", ".kkkkkkkkkkkkkkk",
                       ".kkkkBkkkkkkkkk.", "..kkBcBkkkkkkkk.", "...kkBkkkkkkkk..", ".....kkkkkkkk...", "........kkkk....", "................" } },
    { "burr", 16, 16, { ".......kk.......", "..k....rk....k..", "..krk..rk..krk..", "...krkkrkkkrk...", "....krrrrrrk....",
                        "...krroooorrk...", "kkkkrowwoooRkkkk", "krrrrowooooRrrrk", "kkkkroooooRRkkkk", "...krooooRRRk...",
                        "...krrRRRRRrk...", "....krrrrrrk....", "...krkkrkkkrk...", "..krk..rk..krk..", "..k....rk....k..", ".......kk......." } },
    { "sleep", 8, 8, { "kkkkkkk.", "kwwwwwk.", "kkkkwwk.", "..kwwk..", ".kwwk...", "kwwkkkk.", "kwwwwwk.", "kkkkkkk." } },
    { "north", 8, 8, { "...kk...", "..kyyk..", ".kyyyyk.", "kyyyyyyk", "kkkyykkk", "..kyyk..", "..kyyk..", "..kkkk.." } },
    { "east", 8, 8, { "...kk...", "...kyk..", "kkkkyyk.", "kyyyyyyk", "kyyyyyyk", "kkkkyyk.", "...kyk..", "...kk..." } },
    { "northeast", 8, 8, { ".kkkkkkk", ".kyyyyyk", ".kkkyyyk", "..kyyyyk", ".kyyykyk", "kyyyk.kk", "kyyk....", ".kk....." } },
};

static void icon_pixels(const struct icon *icon, uint8_t *pixels)
{
    for (int y = 0; y < icon->h; y++) {
        if ((int)strlen(icon->row[y]) != icon->w)
            fprintf(stderr, "icon %s, row %d: %d letters, expected %d\n", icon->name, y, (int)strlen(icon->row[y]), icon->w);
        for (int x = 0; x < icon->w && icon->row[y][x]; x++) {
            const char *at = strchr(letters, icon->row[y][x]);

            pixels[y * icon->w + x] = at ? (uint8_t)(at - letters) : 0;
        }
    }
}

/* A 16 x 8 health bar with 0 … 14 lit pixels, for hurt monsters; red when low. */
static void pip_pixels(int lit, uint8_t *pixels)
{
    memset(pixels, 0, 16 * 8);
    for (int y = 2; y < 6; y++)
        for (int x = 0; x < 16; x++)
            pixels[y * 16 + x] = 1;
    for (int y = 3; y < 5; y++)
        for (int x = 0; x < lit; x++)
            pixels[y * 16 + 1 + x] = lit <= 4 ? 3 : lit <= 7 ? 9 : 12;
}

void icons_write(FILE *out)
{
    uint8_t pixels[256];
    int count = (int)(sizeof icons / sizeof icons[0]), words = 0;

    palette_write(out, "art_icon_palette", colours, 16);
    for (int i = 0; i < count; i++)
        words += icons[i].w * icons[i].h / 8;
    tiles_write_begin(out, "art_icon_tiles", words);
    for (int i = 0; i < count; i++) {
        icon_pixels(&icons[i], pixels);
        tiles_write(out, pixels, icons[i].w, icons[i].w, icons[i].h);
    }
    tiles_write_end(out);
    tiles_write_begin(out, "art_pip_tiles", 15 * 16);
    for (int lit = 0; lit < 15; lit++) {
        pip_pixels(lit, pixels);
        tiles_write(out, pixels, 16, 16, 8);
    }
    tiles_write_end(out);
}
