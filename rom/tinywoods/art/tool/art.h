/* art.h: doors between the parts of make_art, the host program that draws the pictures of Tiny Woods.
 *
 * The idea: the art is written as text that a person can edit (little clay models of the creatures, letters and icons
 * as typed rows, leaves and grass as rules) and compiled to one C file, art/art_data.c, which is committed.  No
 * random numbers but a fixed hash: the same sources give the same bytes on every machine with IEEE doubles. */
#ifndef TINYWOODS_ART_H
#define TINYWOODS_ART_H

#include <stdint.h>
#include <stdio.h>

enum { CREATURES = 5, VIEWS = 5, POSES = 2, SPRITE = 32, META = 24 };

/* Colours are 0xRRGGBB; index 0 of a palette is transparent. */
struct creature_picture {
    uint32_t palette[16];
    uint8_t pixel[VIEWS][POSES][SPRITE][SPRITE];
};

/* Metatiles (24 x 24) in the order of enum meta in art_data.h. */
enum {
    META_GRASS, META_GRASS_N = 4, META_PATH = META_GRASS + META_GRASS_N, META_PATH_N = 2, META_STAIRS = META_PATH + META_PATH_N,
    META_WALL, META_WALL_N = 16, META_DEEP = META_WALL + META_WALL_N, META_DEEP_N = 2, META_COUNT = META_DEEP + META_DEEP_N
};

void creature_draw(int creature, struct creature_picture *picture);
extern const uint32_t terrain_palette[16], stairs_palette[16];
void terrain_draw(int meta, uint8_t pixel[META][META]);
void icons_write(FILE *out);    /* items, traps and small marks */
int font_write(FILE *out, const char *path);

uint32_t art_hash(uint32_t x, uint32_t y, uint32_t salt);
void palette_write(FILE *out, const char *name, const uint32_t *colours, int count);
void tiles_write_begin(FILE *out, const char *name, int words);
void tiles_write(FILE *out, const uint8_t *pixels, int stride, int w, int h);   /* in 8 x 8 tiles, row by row */
void tiles_write_end(FILE *out);

#endif
