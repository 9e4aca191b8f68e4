/* anim.c: movement that the eye sees. Logic moves monsters from tile to tile at once; their pixels follow here, all
 * walkers of a turn together, so that a turn takes about as long as one step.
 */
#include "game.h"

enum { LUNGE_FRAMES = 3, LUNGE_PIXELS = 3, HURT_FRAMES = 5, THROW_PIXELS = 8 };

void camera_update(void)
{
    struct entity *target = D->camera_target;

    if (!target)
        return;
    D->camera_prev_x = D->camera_x;
    D->camera_prev_y = D->camera_y;
    D->camera_tile_prev_x = D->camera_tile_x;
    D->camera_tile_prev_y = D->camera_tile_y;
    D->camera_x = (s16)((target->px >> 8) - 120);
    D->camera_y = (s16)((target->py >> 8) - 96);
    D->camera_tile_x = target->x;
    D->camera_tile_y = target->y;
}

static int approach(s32 *pixel, s32 goal, s32 by)
{
    if (*pixel < goal)
        *pixel = *pixel + by > goal ? goal : *pixel + by;
    else if (*pixel > goal)
        *pixel = *pixel - by < goal ? goal : *pixel - by;
    return *pixel != goal;
}

/* One frame of walking for one monster; 1 while it is still on its way. */
static int walk(struct entity *who, int pixels)
{
    int far = approach(&who->px, (24 * who->x + 12) * 256, pixels * 256);

    far |= approach(&who->py, (24 * who->y + 16) * 256, pixels * 256);
    info_of(who)->pixel_int[0] = (s16)(who->px >> 8);
    info_of(who)->pixel_int[1] = (s16)(who->py >> 8);
    if (!far) {
        who->prev_px = who->px;
        who->prev_py = who->py;
    }
    who->animation[0] = who->animation[1] = asleep(who) ? POSE_SLEEP : far ? POSE_WALK : POSE_STAND;
    return far;
}

static int anybody_away(void)
{
    for (int i = 0; i < ACTIVE_MAX && D->active[i]; i++)
        if (D->active[i]->px != (24 * D->active[i]->x + 12) * 256 || D->active[i]->py != (24 * D->active[i]->y + 16) * 256)
            return 1;
    return 0;
}

void animate_walks(int pixels_per_frame)
{
    while (anybody_away()) {
        for (int i = 0; i < ACTIVE_MAX && D->active[i]; i++)
            walk(D->active[i], pixels_per_frame);
        camera_update();
        frame();
    }
}

void animate_attack(struct entity *who)
{
    int dir = info_of(who)->direction;

    animate_walks(4);
    who->animation[0] = who->animation[1] = POSE_ATTACK;
    for (int i = 0; i < 2 * LUNGE_FRAMES; i++) {
        int way = i < LUNGE_FRAMES ? LUNGE_PIXELS : -LUNGE_PIXELS;

        who->px += dir_dx[dir] * way * 256;
        who->py += dir_dy[dir] * way * 256;
        frame();    /* the camera stays: only the attacker moves */
    }
    who->animation[0] = who->animation[1] = POSE_STAND;
    entity_stand(who);
}

void animate_hurt(struct entity *who)
{
    who->animation[0] = who->animation[1] = POSE_HURT;
    frames(HURT_FRAMES);
    who->animation[0] = who->animation[1] = asleep(who) ? POSE_SLEEP : POSE_STAND;
}

/* A thrown thing borrows an unused item slot for its flight. */
void animate_throw(struct entity *who, int item, int dir, int tiles)
{
    int slot = ITEM_MAX - 1;
    struct entity *object = D->items[slot];

    if (object->type != ENTITY_NONE || tiles <= 0)
        return;
    D->item_data[slot] = (struct item){ ITEM_EXISTS, 1, (u8)item, 0 };
    object->type = ENTITY_ITEM;
    object->visible = 1;
    object->x = who->x;
    object->y = who->y;
    object->room = who->room;
    entity_stand(object);
    for (int i = 0; i < tiles * TILE_PX / THROW_PIXELS; i++) {
        object->px += dir_dx[dir] * THROW_PIXELS * 256;
        object->py += dir_dy[dir] * THROW_PIXELS * 256;
        frame();
    }
    object->type = ENTITY_NONE;
    object->visible = 0;
    D->item_data[slot] = (struct item){ 0 };
}
