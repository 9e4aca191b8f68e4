/* battle.c: attacks, damage, fainting and experience. One formula for everybody:
 *   damage = attack + attack stage - defence - defence stage + power of the move - 1..+1, at least 1.
 */
#include "game.h"
#include "video.h"

enum { LINE_TILES = 10 };

static void exp_share(const struct entity_info *fallen)
{
    u32 exp = species_rules(fallen->species)->exp;

    if (fallen->exp_class == 0)
        exp /= 2;                       /* beaten by plain attacks only */
    for (int i = 0; i < TEAM_MAX; i++)
        if (is_monster(D->team[i])) {
            info_of(D->team[i])->exp += exp;
            level_up_check(D->team[i]);
        }
}

int foe_of(const struct entity *a, const struct entity *b)
{
    return info_of(a)->is_enemy != info_of(b)->is_enemy;
}

int asleep(const struct entity *who)
{
    return info_of(who)->status[0] == 1;
}

void put_to_sleep(struct entity *whom, int turns)
{
    info_of(whom)->status[0] = 1;
    info_of(whom)->status[1] = (u8)turns;
    info_of(whom)->status_icons |= 1u << 26;
    whom->animation[0] = whom->animation[1] = POSE_SLEEP;
}

static void faint(struct entity *whom, struct entity *by, int exit_reason)
{
    struct entity_info *info = info_of(whom);

    info->hp = 0;
    if (info->is_leader) {
        message("%s fainted...", monster_name(info));
        whom->visible = 0;
        frames(20);
        text_format(D->fainted_name, sizeof D->fainted_name, "%s", by ? monster_name(info_of(by)) : "");
        run_end(exit_reason);
        return;
    }
    monster_remove(whom);
    if (info->is_enemy) {
        message("%s was beaten!", monster_name(info));
        if (by && !info_of(by)->is_enemy)
            exp_share(info);
    } else {
        message("%s fainted and went home.", monster_name(info));
        if (D->camera_target == whom)
            D->camera_target = leader();
    }
}

/* Damage that has landed: shows it, and everything that follows from it. `by` may be NULL (traps, hunger). */
void hurt(struct entity *whom, int damage, struct entity *by, int exit_reason)
{
    struct entity_info *info = info_of(whom);

    view.hit_spawn_id = whom->spawn_id;
    view.hit_frames = 5;
    info->hp = (s16)(info->hp > damage ? info->hp - damage : 0);
    if (by && asleep(whom)) {
        info->status[0] = info->status[1] = 0;
        info->status_icons &= ~(1u << 26);
    }
    animate_hurt(whom);
    view.hit_frames = 0;
    if (info->hp == 0)
        faint(whom, by, exit_reason);
}

void heal(struct entity *whom, int amount)
{
    struct entity_info *info = info_of(whom);

    info->hp = (s16)(info->hp + amount > info->max_hp ? info->max_hp : info->hp + amount);
}

static int damage_of(const struct entity_info *from, const struct entity_info *to, int power)
{
    int damage = from->atk + from->atk_stages[0] - to->def - to->def_stages[0] + power + rng_range(-1, 1);

    return damage < 1 ? 1 : damage;
}

static int hit_chance(const struct entity_info *info, const struct move_rules *move)
{
    return info->is_enemy ? FOE_HIT_PERCENT : move ? move->hit_percent : HIT_PERCENT;
}

static void strike(struct entity *who, struct entity *target, const struct move_rules *move)
{
    struct entity_info *info = info_of(who), *other = info_of(target);
    int damage;

    if (!rng_percent(hit_chance(info, move))) {
        message("%s missed %s.", monster_name(info), monster_name(other));
        frames(2);
        return;
    }
    if (move && !info->is_enemy)
        other->exp_class = 1;
    damage = damage_of(info, other, move ? move->power : 0);
    if (info->is_enemy)
        message("%s took %d damage!", monster_name(other), damage);
    else
        message("%s hit %s: %d damage.", monster_name(info), monster_name(other), damage);
    hurt(target, damage, who, EXIT_BEATEN);
}

/* The first foe in a straight line before a wall; allies are passed. */
static struct entity *target_in_line(const struct entity *who, int dir)
{
    int x = who->x, y = who->y;

    for (int i = 0; i < LINE_TILES && tile_at(x, y)->walkable[0] >> dir & 1; i++) {
        x += dir_dx[dir];
        y += dir_dy[dir];
        if (tile_at(x, y)->monster && foe_of(who, tile_at(x, y)->monster))
            return tile_at(x, y)->monster;
    }
    return 0;
}

static void weaken_room(struct entity *who)
{
    int found = 0;

    for (int i = 0; i < WILD_MAX; i++) {
        struct entity *foe = D->wild[i];

        if (!is_monster(foe) || (distance(who, foe) > 1 && (foe->room != who->room || who->room == ROOM_NONE)))
            continue;
        if (info_of(foe)->atk_stages[0] > 6)
            info_of(foe)->atk_stages[0] -= GLARE_STAGE;
        message("%s lost strength.", monster_name(info_of(foe)));
        found = 1;
    }
    if (!found)
        message("But nobody was there.");
}

void attack(struct entity *who, int slot)
{
    struct entity_info *info = info_of(who);
    const struct move_rules *move = slot < 0 ? 0 : move_rules(info->moves[slot].id);
    struct entity *target = 0;

    info->action = slot < 0 ? ACTION_ATTACK : info->is_leader ? ACTION_MOVE : ACTION_MOVE_AI;
    if (move) {
        info->moves[slot].pp--;
        message("%s used %s!", monster_name(info), move->name);
    }
    animate_attack(who);
    if (move && move->range == RANGE_SELF) {
        heal(who, REST_HP);
        message("%s feels better.", monster_name(info));
        return;
    }
    if (move && move->range == RANGE_ROOM) {
        weaken_room(who);
        return;
    }
    target = move && move->range == RANGE_LINE ? target_in_line(who, info->direction)
                                               : monster_ahead(who, info->direction);
    if (target && foe_of(who, target))
        strike(who, target, move);
    else if (move)
        message("But nobody was there.");
}

void warp(struct entity *who)
{
    int x, y;

    if (!floor_random_room_tile(-1, &x, &y, who->room))
        return;
    monster_put(who, x, y);
    entity_stand(who);
    if (info_of(who)->is_leader) {
        camera_update();
        sight_update();
    }
}
