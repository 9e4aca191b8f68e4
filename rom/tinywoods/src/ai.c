/* ai.c: what partner and foes do. One flood from the leader per decision round gives everybody the way to it around
 * corners; foes that see nobody wander from exit to exit.
 */
#include "game.h"

enum { FLOOD_LIMIT = 24, FAR = 255, LOSE_DISTANCE = 8, PARTNER_SIGHT = 4, PARTNER_LEASH = 5, PARTNER_MOVE_PERCENT = 30 };
enum { OBJECTIVE_CHASE = 1, OBJECTIVE_ROAM = 3, OBJECTIVE_STAND = 6 };

static u8 steps_to[MAP_H][MAP_W] __attribute__((section(".iwram_bss")));
static u16 queue[1024];

/* Steps to (x, y) for all tiles within FLOOD_LIMIT; hot, hence in fast RAM. */
IWRAM_CODE static void flood(int from_x, int from_y)
{
    static const s8 next[8] = { 1, 1, 0, -1, -1, -1, 0, 1 };
    int head = 0, tail = 0;
    u32 *words = (u32 *)(void *)steps_to;

    for (u32 i = 0; i < sizeof steps_to / 4; i++)
        words[i] = 0xFFFFFFFF;
    steps_to[from_y][from_x] = 0;
    queue[tail++] = (u16)(from_y * MAP_W + from_x);
    while (head < tail) {
        int at = queue[head++], x = at % MAP_W, y = at / MAP_W, steps = steps_to[y][x];
        u32 open = dungeon_memory.tiles[y][x].walkable[0];

        if (steps >= FLOOD_LIMIT)
            continue;
        for (int dir = 0; open; dir++, open >>= 1) {
            int nx = x + next[(dir + 6) & 7], ny = y + next[dir];

            if (open & 1 && steps_to[ny][nx] == FAR && tail < 1024) {
                steps_to[ny][nx] = (u8)(steps + 1);
                queue[tail++] = (u16)(ny * MAP_W + nx);
            }
        }
    }
}

static void step(struct entity *who, int dir)
{
    monster_face(who, dir);
    info_of(who)->action = ACTION_WALK;
    monster_put(who, who->x + dir_dx[dir], who->y + dir_dy[dir]);
}

static int sees(const struct entity *who, const struct entity *other)
{
    return (who->room != ROOM_NONE && who->room == other->room) || distance(who, other) <= CHASE_RADIUS;
}

/* The free step that comes nearest in the flooded map; orthogonal ones win ties. */
static int best_step(const struct entity *who)
{
    int best = -1, here = steps_to[who->y][who->x];

    for (int pass = 0; pass < 2; pass++)
        for (int dir = pass; dir < 8; dir += 2) {
            int steps;

            if (!step_free(who, dir))
                continue;
            steps = steps_to[who->y + dir_dy[dir]][who->x + dir_dx[dir]];
            if (steps < here) {
                here = steps;
                best = dir;
            }
        }
    return best;
}

static struct entity *adjacent_foe(const struct entity *who)
{
    struct entity *found = 0;
    int count = 0;

    for (int dir = 0; dir < 8; dir++) {
        struct entity *other = monster_ahead(who, dir);

        if (other && foe_of(who, other) && rng_below((u32)++count) == 0)
            found = other;
    }
    return found;
}

static int usable_move(const struct entity_info *info, int percent)
{
    return info->moves[0].pp && rng_percent(percent) ? 0 : -1;
}

static struct entity *nearest_foe(const struct entity *who, int within)
{
    struct entity *best = 0;

    for (int i = 0; i < WILD_MAX; i++) {
        struct entity *foe = D->wild[i];

        if (is_monster(foe) && distance(who, foe) <= within && sees(who, foe)) {
            within = distance(who, foe) - 1;
            best = foe;
        }
    }
    return best;
}

static void set_target(struct entity *who, int objective, struct entity *target)
{
    struct entity_info *info = info_of(who);

    info->ai_objective = (u8)objective;
    info->ai_target = target;
    info->ai_target_spawn_id = target ? target->spawn_id : 0;
    info->ai_targets_enemy = target && foe_of(who, target);
    if (target) {
        info->ai_target_x = target->x;
        info->ai_target_y = target->y;
    }
}

void ai_partner(struct entity *who)
{
    struct entity *foe = adjacent_foe(who);
    int dir;

    if (foe) {
        set_target(who, OBJECTIVE_CHASE, foe);
        monster_face(who, direction_to(foe->x - who->x, foe->y - who->y));
        attack(who, usable_move(info_of(who), PARTNER_MOVE_PERCENT));
        return;
    }
    foe = distance(who, leader()) < PARTNER_LEASH ? nearest_foe(who, PARTNER_SIGHT) : 0;
    if (!foe && distance(who, leader()) <= 1) {
        set_target(who, OBJECTIVE_STAND, leader());
        return;
    }
    set_target(who, OBJECTIVE_CHASE, foe ? foe : leader());
    if (foe)
        flood(foe->x, foe->y);
    else
        flood(leader()->x, leader()->y);
    dir = best_step(who);
    if (dir >= 0)
        step(who, dir);
}

/* In a room: walk to an exit, then out of it. In a corridor: straight on, turning back only at the end. */
static void wander(struct entity *who)
{
    struct entity_info *info = info_of(who);
    int back = (info->direction + 4) & 7, count = 0, chosen = -1;
    int room = who->room;

    set_target(who, OBJECTIVE_ROAM, 0);
    if (room != ROOM_NONE && D->room_exit_counts[room] > 0) {
        int tx = info->ai_target_x, ty = info->ai_target_y;

        if (tx < 0 || tile_at(tx, ty)->room != room) {
            const s16 *exit = D->room_exits[room][rng_below((u32)D->room_exit_counts[room])];

            info->ai_target_x = (s16)(tx = exit[0]);
            info->ai_target_y = (s16)(ty = exit[1]);
        }
        if (tx != who->x || ty != who->y) {
            chosen = direction_to(tx - who->x, ty - who->y);
            if (!step_free(who, chosen)) {
                info->ai_target_x = -1;
                return;
            }
            step(who, chosen);
            return;
        }
        for (int dir = 0; dir < 8; dir += 2)
            if (step_free(who, dir) && tile_at(who->x + dir_dx[dir], who->y + dir_dy[dir])->room == ROOM_NONE)
                chosen = dir;
        info->ai_target_x = -1;
        if (chosen >= 0)
            step(who, chosen);
        return;
    }
    for (int dir = 0; dir < 8; dir += 2)
        if (dir != back && step_free(who, dir) && rng_below((u32)++count) == 0)
            chosen = dir;
    if (chosen < 0 && step_free(who, back))
        chosen = back;
    info->ai_target_x = -1;
    if (chosen >= 0)
        step(who, chosen);
}

void ai_foe(struct entity *who)
{
    struct entity_info *info = info_of(who);
    struct entity *target = adjacent_foe(who);
    int dir;

    if (target) {
        set_target(who, OBJECTIVE_CHASE, target);
        monster_face(who, direction_to(target->x - who->x, target->y - who->y));
        attack(who, usable_move(info, FOE_MOVE_PERCENT));
        return;
    }
    target = leader();
    if (!sees(who, target)) {
        for (int i = 0; i < TEAM_MAX; i++)
            if (is_monster(D->team[i]) && sees(who, D->team[i]))
                target = D->team[i];
        if (target == leader() && (info->ai_objective != OBJECTIVE_CHASE || distance(who, target) > LOSE_DISTANCE)) {
            wander(who);
            return;
        }
    }
    flood(target->x, target->y);
    if (steps_to[who->y][who->x] > LOSE_DISTANCE) {
        wander(who);
        return;
    }
    set_target(who, OBJECTIVE_CHASE, target);
    dir = best_step(who);
    if (dir >= 0)
        step(who, dir);
}
