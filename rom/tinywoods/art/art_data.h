/* art_data.h: the compiled pictures (see tool/art.h for how they are made). */
#ifndef TINYWOODS_ART_DATA_H
#define TINYWOODS_ART_DATA_H

enum { ART_CREATURES = 5, ART_VIEWS = 5, ART_POSES = 2, ART_FONT_ROWS = 9 };

/* Metatiles of 24 x 24 pixels: nine hardware tiles each, row by row. Walls by open sides: N 1, E 2, S 4, W 8. */
enum { ART_GRASS = 0, ART_GRASS_N = 4, ART_PATH = 4, ART_PATH_N = 2, ART_STAIRS = 6, ART_WALL = 7, ART_DEEP = 23, ART_DEEP_N = 2,
       ART_METAS = 25 };

/* Icons in 8 x 8 tiles: eight of 16 x 16 (four tiles), then marks of one tile: sleep, arrows north, east, north-east. */
enum { ART_DART, ART_BERRY, ART_APPLE, ART_ORB, ART_COINS, ART_WARP, ART_TAR, ART_BURR, ART_ICONS };
enum { ART_ICON_TILES = ART_ICONS * 4 + 4, ART_PIP_TILES = 15 * 2 };

extern const unsigned short art_terrain_palette[16], art_stairs_palette[16], art_icon_palette[16];
extern const unsigned short art_creature_palette_0[16], art_creature_palette_1[16], art_creature_palette_2[16];
extern const unsigned short art_creature_palette_3[16], art_creature_palette_4[16];
extern const unsigned int art_terrain_tiles[ART_METAS * 9 * 8];
extern const unsigned int art_creature_tiles[ART_CREATURES * ART_VIEWS * ART_POSES * 16 * 8];  /* creature, view, pose */
extern const unsigned int art_icon_tiles[ART_ICON_TILES * 8], art_pip_tiles[ART_PIP_TILES * 8];
extern const unsigned char art_font_rows[96][ART_FONT_ROWS], art_font_width[96];   /* from ' '; bit 0 = left */

#endif
