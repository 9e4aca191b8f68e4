/* sight.c: what the map remembers. Floors are lit: monsters and items are drawn wherever they are on the screen; the
 * tiles' visibility bits say what the player has been shown so far.
 */
#include "game.h"

enum { CORRIDOR_SIGHT = 2 };

static void reveal(int x0, int y0, int x1, int y1)
{
    for (int y = y0; y <= y1; y++)
        for (int x = x0; x <= x1; x++)
            if (tile_in_map(x, y)) {
                tile_at(x, y)->visibility |= SEEN_REVEALED | SEEN_VISITED;
                if (tile_at(x, y)->terrain & TERRAIN_STAIRS)
                    D->stairs_known = 1;
            }
}

void sight_update(void)
{
    struct entity *who = leader();

    if (who->room != ROOM_NONE) {
        struct room *room = &D->rooms[who->room];

        if (!room->discovered)
            reveal(room->min_x - 1, room->min_y - 1, room->end_x, room->end_y);
        room->discovered = 1;
    } else {
        reveal(who->x - CORRIDOR_SIGHT, who->y - CORRIDOR_SIGHT, who->x + CORRIDOR_SIGHT, who->y + CORRIDOR_SIGHT);
    }
}
