/* turn.c: who acts when. A counter of 24 steps schedules speeds: normal acts on every fourth step, slow on every
 * eighth, double on every second. On a step the leader acts first, then the team, then the wild monsters.
 */
#include "game.h"

enum { STEPS = 24, REGEN_UNIT = 100, BELLY_PER_TURN = 100 };

static u8 ending;

int run_ending(void)
{
    return ending || D->floor_exit;
}

void run_end(int reason)
{
    if (ending)
        return;
    ending = 1;
    D->exit.reason = (s16)reason;
    D->leave_requested = 1;
}

static int acts(const struct entity *who, int step)
{
    int stage = info_of(who)->speed_stage;

    return stage <= 0 ? step % 8 == 7 : stage == 1 ? step % 4 == 3 : step % 2 == 1;
}

static void regenerate(struct entity_info *info)
{
    if (info->is_leader && info->belly_empty)
        return;
    info->regen = (s16)(info->regen + info->max_hp);
    if (info->regen >= REGEN_UNIT) {
        info->regen -= REGEN_UNIT;
        if (info->hp < info->max_hp)
            info->hp++;
    }
}

static void hunger(struct entity *who)
{
    struct entity_info *info = info_of(who);

    if (info->belly[0] || info->belly[1]) {
        info->belly[1] = (s16)(info->belly[1] - BELLY_PER_TURN);
        if (info->belly[1] < 0) {
            info->belly[1] = (s16)(info->belly[1] + 1000);
            info->belly[0]--;
        }
        if (info->belly[0] < 19 && D->hunger_alert == 0) {
            D->hunger_alert = 1;
            message("%s is getting hungry.", monster_name(info));
        } else if (info->belly[0] < 9 && D->hunger_alert == 1) {
            D->hunger_alert = 2;
            message("%s is very hungry!", monster_name(info));
        }
        if (!info->belly[0] && !info->belly[1]) {
            info->belly_empty = 1;
            D->hunger_alert = 3;
            message("%s is starving! Eat something!", monster_name(info));
        }
        return;
    }
    info->belly_empty = 1;
    if (--info->hp <= 0) {
        info->hp = 1;
        hurt(who, 1, 0, EXIT_HUNGER);
    }
}

static void wind(void)
{
    static const s16 warn_at[3] = { WIND_WARNING_1, WIND_WARNING_2, WIND_WARNING_3 };
    static const char *const words[3] = { "A breeze stirs the leaves.", "The wind is getting stronger!",
                                          "It will blow you out soon!" };

    D->wind_turns--;
    if (D->wind_phase < 3 && D->wind_turns < warn_at[D->wind_phase]) {
        message("%s", words[D->wind_phase]);
        D->wind_phase++;
    }
    if (D->wind_turns <= 0) {
        D->wind_phase = 4;
        message("The wind blows you out of the woods!");
        frames(20);
        run_end(EXIT_BLOWN_OUT);
    }
}

/* What time does to one monster at the end of its own turn. */
static void own_clock(struct entity *who)
{
    struct entity_info *info = info_of(who);

    if (!is_monster(who))
        return;
    if (!info->is_enemy)
        regenerate(info);
    if (info->speed_down[0] && --info->speed_down[0] == 0) {
        info->speed_stage = 1;
        message("%s is quick again.", monster_name(info));
    }
    if (info->is_leader) {
        hunger(who);
        if (!run_ending())
            wind();
    }
}

static void act(struct entity *who)
{
    struct entity_info *info = info_of(who);

    D->acting = who;
    if (info->is_leader) {
        leader_turn();
        message_new_turn();
    } else if (asleep(who)) {
        if (--info->status[1] == 0) {
            info->status[0] = 0;
            info->status_icons &= ~(1u << 26);
            who->animation[0] = who->animation[1] = POSE_STAND;
        }
    } else if (info->is_enemy) {
        ai_foe(who);
    } else {
        ai_partner(who);
    }
    if (!info->is_leader)
        info->action = ACTION_NONE;
    if (!run_ending())
        own_clock(who);
    D->acting = 0;
}

static void spawn_clock(void)
{
    if (++D->wild_spawn_counter >= RESPAWN_TURNS) {
        D->wild_spawn_counter = 0;
        spawn_foe(1);
    }
}

static void one_step(int step)
{
    for (int i = 0; i < TEAM_MAX && !run_ending(); i++)
        if (is_monster(D->team[i]) && acts(D->team[i], step))
            act(D->team[i]);
    for (int i = 0; i < WILD_MAX && !run_ending(); i++)
        if (is_monster(D->wild[i]) && acts(D->wild[i], step))
            act(D->wild[i]);
    if (step % 4 == 3 && !run_ending()) {
        spawn_clock();
        animate_walks(D->dashing ? 12 : 4);
    }
}

void floor_play(void)
{
    ending = 0;
    while (!run_ending()) {
        D->fractional_turn = (s16)((D->fractional_turn + 1) % STEPS);
        one_step(D->fractional_turn);
    }
    animate_walks(4);
    D->awaiting_player = 0;
}
