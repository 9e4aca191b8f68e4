/* traps.c: what happens on a trap tile. Traps are set off by the leader only; a hidden one shows itself then. */
#include "game.h"

void trap_trigger(struct entity *who, struct entity *trap)
{
    int id = ((struct trap *)trap->data)->id;
    struct entity_info *info = info_of(who);

    trap->visible = 1;
    info->action = ACTION_TRAP;
    message("%s stepped on a %s!", monster_name(info), trap_name(id));
    frames(8);
    if (id == TRAP_CHESTNUT) {
        message("Burrs fall: %d damage!", CHESTNUT_DAMAGE);
        hurt(who, CHESTNUT_DAMAGE, 0, EXIT_CHESTNUT);
    } else if (id == TRAP_SLOW) {
        info->speed_stage = 0;
        info->speed_down[0] = SLOW_TURNS;
        message("%s is slow for a while.", monster_name(info));
    } else {
        message("%s was carried away!", monster_name(info));
        warp(who);
    }
}
