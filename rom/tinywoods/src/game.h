/* game.h: the doors between the parts of the game. Its idea: one blocking program. Everything that takes time (a step,
 * a dialogue, a menu) calls frame() until it is done, so the call stack is the state machine and all other state is
 * the shared layout in RAM. Randomness moves only with game events, never with frames.
 */
#ifndef TINYWOODS_GAME_H
#define TINYWOODS_GAME_H

#include "layout.h"
#include "platform.h"
#include "rules.h"
#include "names.h"

extern struct dungeon dungeon_memory;
#define D (&dungeon_memory)

extern const s8 dir_dx[8], dir_dy[8];

/* frame.c: one frame = wait for VBlank, draw, read keys, run the clocks. */
void frame(void);
void frames(int count);
void fade_out(void);
void fade_in(void);
u16 keys_held(void);
u16 keys_pressed(void);     /* newly pressed this frame */
u16 keys_repeated(void);    /* for menus: at the press, after 48 frames, then every 5 */
u16 keys_short(void);       /* B or R released after 2..11 frames */
void keys_consume(void);    /* the presses of this frame are used up; a B or R that is down won't count as a tap */
u32 frame_counter(void);

/* rng.c */
u32 rng_below(u32 n);
int rng_percent(int percent);
int rng_range(int low, int high);   /* both included */
u32 seed_draw(void);                /* 24 bits for a run or a floor */

/* floor.c, floor_populate.c */
void floor_generate(void);
void floor_populate(void);
struct tile *tile_at(int x, int y);
int tile_in_map(int x, int y);
int spawn_foe(int away_from_leader);    /* 1 if a wild monster appeared */
int floor_random_room_tile(int room, int *x, int *y, int avoid_room);

/* entities.c */
struct entity *leader(void);
struct entity_info *info_of(const struct entity *who);
int is_monster(const struct entity *who);
void entity_stand(struct entity *who);              /* pixel = the standing pixel of its tile */
void monster_put(struct entity *who, int x, int y); /* moves it on the map, pixels untouched */
void monster_remove(struct entity *who);
void monster_face(struct entity *who, int dir);
int step_legal(const struct entity *who, int dir);  /* terrain only */
int step_free(const struct entity *who, int dir);   /* terrain, and no monster there */
int direction_to(int dx, int dy);
int distance(const struct entity *a, const struct entity *b);
struct entity *monster_ahead(const struct entity *who, int dir); /* reachable by an adjacent attack */
struct entity *object_put(int type, int index, int x, int y);
void object_remove(struct entity *object);
void pools_reset(void);
void monster_reset(struct entity_info *info, int species, int level, int hp, int atk, int def);

/* anim.c */
void animate_walks(int pixels_per_frame);
void animate_attack(struct entity *who);
void animate_hurt(struct entity *who);
void animate_throw(struct entity *who, int item, int dir, int tiles);
void camera_update(void);

/* sight.c */
void sight_update(void);

/* text.c */
void text_format(char *out, int size, const char *format, ...);
void message(const char *format, ...);  /* log and strip */
void message_new_turn(void);
void strip_close(void);
void strip_tick(void);
void strip_hurry(void);
void dialogue(const char *text);
void window_field(void);                /* window mode of the free field */

/* battle.c */
void attack(struct entity *who, int move);      /* move: slot or -1 for the plain attack */
void hurt(struct entity *whom, int damage, struct entity *by, int exit_reason);
void heal(struct entity *whom, int amount);
int foe_of(const struct entity *a, const struct entity *b);
int asleep(const struct entity *who);
void put_to_sleep(struct entity *whom, int turns);
void warp(struct entity *who);

/* ai.c */
void ai_partner(struct entity *who);
void ai_foe(struct entity *who);

/* items.c, traps.c */
void bag_clear(void);
int bag_add(struct item item);
int bag_count(void);
void item_name(char *out, int size, struct item item);
void step_on_tile(struct entity *who, int pick_up);  /* items, traps, stairs under the monster */
int item_use(int slot);                              /* 1 if a turn went by */
int item_throw(int slot);
int item_place(int slot);
int item_pick_up_here(void);
void trap_trigger(struct entity *who, struct entity *trap);
int item_set_slot(void);                             /* slot set for L+R, -1 none */

/* leader.c: one turn of the player, menu.c */
void leader_turn(void);
enum menu_answer { MENU_CLOSED, MENU_TURN_USED };
int menu_main(int short_form);
int menu_stairs(void);      /* the Stairs prompt: MENU_TURN_USED when Proceed was chosen */
int menu_ground(void);
void menu_history(void);
int move_use_leader(int slot);

/* turn.c */
void floor_play(void);      /* until stairs, defeat or giving up */
int run_ending(void);
void run_end(int reason);

/* team.c */
void team_create(void);
void team_enter_floor(int x, int y);
void level_up_check(struct entity *who);
void team_copy_back(void);

#endif
