/* font.c: letters.  font.txt holds six blocks of sixteen characters (0x20 … 0x7F), nine typed rows each, '|' between
 * the cells, '#' for ink; lines outside the blocks start with ';'.  A letter is as wide as its ink. */
#include <string.h>

#include "art.h"

enum { FIRST = 0x20, COUNT = 96, ROWS = 9 };

int font_write(FILE *out, const char *path)
{
    static uint8_t rows[COUNT][ROWS];
    uint8_t width[COUNT];
    char line[256];
    int at = 0;
    FILE *in = fopen(path, "r");

    if (!in) {
        fprintf(stderr, "%s: cannot open\n", path);
        return -1;
    }
    while (fgets(line, sizeof line, in)) {
        int block = at / ROWS, row = at % ROWS, cell = 0, x = 0;

        if (line[0] == ';' || line[0] == '\n' || block >= COUNT / 16)
            continue;
        for (const char *p = line; *p && *p != '\n' && cell < 16; p++) {
            if (*p == '|') {
                cell++;
                x = 0;
            } else {
                if (*p == '#' && x < 7)
                    rows[block * 16 + cell][row] |= (uint8_t)(1 << x);
                x++;
            }
        }
        at++;
    }
    fclose(in);
    if (at != COUNT / 16 * ROWS) {
        fprintf(stderr, "%s: %d rows of letters, expected %d\n", path, at, COUNT / 16 * ROWS);
        return -1;
    }
    fprintf(out, "\nconst unsigned char art_font_rows[%d][%d] = {\n", COUNT, ROWS);
    for (int i = 0; i < COUNT; i++) {
        uint8_t ink = 0;

        fprintf(out, "    {");
        for (int r = 0; r < ROWS; r++) {
            ink |= rows[i][r];
            fprintf(out, " 0x%02X,", rows[i][r]);
        }
        fprintf(out, " },\n");
        for (width[i] = 0; ink; ink >>= 1)
            width[i]++;
        width[i] = (uint8_t)(width[i] ? width[i] + 1 : 4);
    }
    fprintf(out, "};\n\nconst unsigned char art_font_width[%d] = {", COUNT);
    for (int i = 0; i < COUNT; i++)
        fprintf(out, "%s%d,", i % 16 ? " " : "\n    ", width[i]);
    fprintf(out, "\n};\n");
    return 0;
}
