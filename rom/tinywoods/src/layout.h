/* layout.h: the RAM of this game. Its idea: every byte that a player of the real game (or a program that reads
 * that game's memory) looks at lies at the same address, with the same type, as in Pokemon Mystery Dungeon: Red
 * Rescue Team (USA). One decoder then serves both. Only the layout is shared; code, names and art are our own.
 *
 * All structs are what a 32-bit ARM sees; holes are spelled out, so that size and offsets can be asserted here.
 * Globals are macros on fixed addresses: nothing is placed by the linker, nothing can move.
 */
#ifndef TINYWOODS_LAYOUT_H
#define TINYWOODS_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;

enum { MAP_W = 56, MAP_H = 32, TEAM_MAX = 4, WILD_MAX = 16, ACTIVE_MAX = 20, ITEM_MAX = 64, TRAP_MAX = 64 };
enum { BAG_MAX = 20, LOG_LINES = 20, STRIP_LINES = 10, TILE_PX = 24 };

enum entity_type { ENTITY_NONE = 0, ENTITY_MONSTER = 1, ENTITY_TRAP = 2, ENTITY_ITEM = 3 };
enum pose { POSE_WALK = 0, POSE_ATTACK = 1, POSE_SLEEP = 5, POSE_HURT = 6, POSE_STAND = 7 }; /* entity.animation */
enum direction { DIR_S, DIR_SE, DIR_E, DIR_NE, DIR_N, DIR_NW, DIR_W, DIR_SW };

enum { /* tile.terrain */
    TERRAIN_KIND = 0x3, TERRAIN_WALL = 0, TERRAIN_FLOOR = 1, TERRAIN_LIQUID = 2,
    TERRAIN_EXIT = 0x8, TERRAIN_BORDER = 0x10, TERRAIN_STAIRS = 0x200
};
enum { SEEN_REVEALED = 1, SEEN_VISITED = 2 };        /* tile.visibility */
enum { ROOM_NONE = 255 };

enum { MOVE_EXISTS = 1, MOVE_AI = 4, MOVE_SET = 8, MOVE_LAST = 0x10 };    /* move.flags */
enum { ITEM_EXISTS = 1, ITEM_SET = 0x10 };                               /* item.flags */

enum window_mode { /* G_WINDOW_MODE */
    WINDOW_FIELD_MAP = 0, WINDOW_FIELD = 1, WINDOW_DIALOGUE = 2, WINDOW_STRIP = 3, WINDOW_BLANK = 4,
    WINDOW_MENU_SHORT = 6, WINDOW_MENU = 7, WINDOW_HISTORY = 9, WINDOW_OTHER = 10
};
enum dialogue_state { /* G_DIALOGUE_STATE */
    DIALOGUE_NONE = 0, DIALOGUE_PRINT = 1, DIALOGUE_BETWEEN = 2, DIALOGUE_MENU_SOON = 3, DIALOGUE_MENU = 4,
    DIALOGUE_WAIT_MID = 7, DIALOGUE_WAIT_FULL = 8, DIALOGUE_WAIT_END = 9, DIALOGUE_SCROLL = 10, DIALOGUE_CLOSE = 11
};
enum action { /* entity_info.action and submenu_row.action */
    ACTION_NONE = 0, ACTION_PASS = 1, ACTION_WALK = 2, ACTION_PLACE = 8, ACTION_PICK_UP = 9, ACTION_THROW = 11,
    ACTION_INFO = 12, ACTION_EAT = 13, ACTION_TALK = 19, ACTION_MOVE = 20, ACTION_MOVE_AI = 21, ACTION_STRUGGLE = 23,
    ACTION_CHECK_MOVES = 25, ACTION_TACTICS = 26, ACTION_SUMMARY = 27, ACTION_MOVE_INFO = 29, ACTION_SET_MOVE = 30,
    ACTION_TRAP = 37, ACTION_STAIRS = 38, ACTION_THROW_STRAIGHT = 39, ACTION_GIVE_UP = 46, ACTION_ORB = 49,
    ACTION_ATTACK = 50, ACTION_UNSET_MOVE = 51, ACTION_SET_ITEM = 60, ACTION_UNSET_ITEM = 61
};

struct item { u8 flags, quantity, id, pad; };
struct trap { u8 id, side, pad[2]; };
struct move { u8 flags, flags2; u16 id; u8 pp, ginseng, pad[2]; };

struct tile {
    u16 terrain;            /* 0x00 */
    u16 pad2;
    u16 visibility;         /* 0x04 */
    u16 pad6;
    u8 graphic;             /* 0x08: free for the picture */
    u8 room;                /* 0x09: room index, 255 corridor or wall */
    u8 walkable[4];         /* 0x0A: bit d = a step in direction d is allowed; regular, liquid, crevice, wall */
    u8 padE[2];
    struct entity *monster; /* 0x10 */
    struct entity *object;  /* 0x14: item or trap */
};

struct room {
    u8 exists, discovered;
    s16 min_x, min_y, end_x, end_y; /* end = last + 1 */
    u8 padA[2];
    u32 light_left, light_top, light_right, light_bottom; /* 0x0C: pixels, one tile of margin */
};

struct entity {
    u32 type;                   /* 0x00: enum entity_type */
    s16 x, y;                   /* 0x04: tile */
    s16 prev_x, prev_y;         /* 0x08 */
    s32 px, py;                 /* 0x0C: world pixel * 256; monsters (24x+12, 24y+16), objects (24x+4, 24y+4) */
    s32 prev_px, prev_py;       /* 0x14 */
    s32 height;                 /* 0x1C: pixel * 256 above the ground */
    u8 visible;                 /* 0x20: 0 hidden trap, fainted monster */
    u8 pad21[4];
    u8 room;                    /* 0x25 */
    u16 spawn_id;               /* 0x26 */
    u8 pad28[0x42];
    u8 animation[2];            /* 0x6A: requested, playing: enum pose */
    u8 sprite_direction[2];     /* 0x6C: current, requested */
    u8 pad6E[2];
    void *data;                 /* 0x70: struct entity_info, item or trap */
};

struct entity_info {
    u16 flags;                  /* 0x000 */
    s16 species, apparent_species;
    u8 is_enemy, is_leader, shopkeeper, level, team_index, padB;
    s16 iq, hp, max_hp, boss_hp;
    u8 atk, sp_atk, def, sp_def; /* 0x014 */
    u32 exp;                    /* 0x018 */
    s16 atk_stages[2], def_stages[2], hit_stages[2], flash_fire; /* 0x01C; neutral 10 */
    u8 pad2A[2];
    s32 atk_mult[2], def_mult[2]; /* 0x02C; neutral 0x100 */
    s16 hidden_power;
    u8 hidden_power_type, pad3F;
    u8 joined_at[2], pad42[2];  /* 0x040: 64 hero, 65 partner */
    u16 action;                 /* 0x044: enum action */
    u8 direction, pad47;        /* 0x046: facing */
    struct { u8 index, pad[3]; s16 x, y; } action_params[2]; /* 0x048 */
    u8 pad58[4];
    u8 types[2], abilities[2];  /* 0x05C */
    struct item held;           /* 0x060 */
    u8 pad64[4];
    s16 previous[4][2];         /* 0x068 */
    u8 ai_objective, ai_not_adjacent, ai_targets_enemy, pad7B; /* 0x078 */
    u16 ai_target_spawn_id, pad7E;
    struct entity *ai_target;   /* 0x080 */
    u8 pad84[4];
    s16 ai_target_x, ai_target_y; /* 0x088 */
    u8 iq_menu[4], iq_active[4]; /* 0x08C */
    u8 tactic, pad95[0xF];      /* 0x094 */
    u8 behavior, padA5[3];      /* 0x0A4 */
    u8 status[0x44];            /* 0x0A8..0x0EB: status slots, all 0 = healthy (STATUS_* below) */
    u8 muzzled[2], padEE[2];
    u8 power_ears, scanning, stair_spotter, padF3, grudge, exposed, padF6, boss, padF8[2];
    u8 terrified_turns, exp_class, padFC, perish_turns, padFE[6]; /* 0x0FA */
    s32 speed_stage;            /* 0x104: 0 slow, 1 normal, 2 double */
    u8 speed_up[5], speed_down[5], stockpile, pad113[5]; /* 0x108 */
    struct move moves[4];       /* 0x118 */
    u8 struggle, pad139[3];
    s16 belly[2], max_belly[2]; /* 0x13C: whole part, thousandths */
    u8 ai_skip, pad145, belly_empty, ai_waiting, acted, pad149[0x23];
    s16 step_x, step_y;         /* 0x16C */
    s16 pixel_int[2];           /* 0x170 */
    u8 pad174[0x84];
    s16 regen;                  /* 0x1F8 */
    u8 pad1FA[2];
    u32 exp_gained;             /* 0x1FC */
    u32 status_icons;           /* 0x200 */
    u8 pad204[4];
};

struct log_line { u8 used, new_group, first_line; char text[61]; };
struct spawn_row { u16 species_level; s16 odds[2]; u8 pad[2]; };
struct item_odds { s16 category[12], item[240]; };
struct exit_summary { u8 pad0[0x14]; s16 reason; u8 pad16[0x1A]; };

struct dungeon {
    u8 floor_ready, stairs_prompt_pending, floor_exit, quicksave, leave_requested, pad5[0xA];
    u8 awaiting_player;         /* 0x0000F */
    u8 forced_loss, exit_kind;
    s16 idle_frames, floor_number_shift, log_next_slot; /* 0x00012 */
    u8 pad18[0xA0];
    struct entity *acting;      /* 0x000B8 */
    u8 padBC[0x504];
    s32 open_menu_request;      /* 0x005C0 */
    u8 pad5C4[0x30];
    char fainted_name[80];      /* 0x005F4 */
    u8 dungeon_id, floor, pad646[2], place_copy[2], pad64A[0xE];
    u8 can_recruit, pad659, evolutions, has_toolbox, can_change_leader, pad65D[3]; /* 0x00658 */
    s16 fractional_turn, wild_spawn_counter, enemy_density, wind_turns; /* 0x00660 */
    u16 next_spawn_id, pad66A;
    u8 dashing, dash_just_ended, stole, pad66F[2], monster_house_triggered, pad672, skip_wait, pad674[4];
    u8 mission_kind, hunger_alert, wind_phase; /* 0x00678 */
    s8 rescues_left;
    u32 run_seed, floor_seed;   /* 0x0067C */
    u8 pad684[0x18];
    struct entity_info team_info[TEAM_MAX], wild_info[WILD_MAX]; /* 0x0069C, 0x00EBC */
    u8 pad2F3C[0x500];
    struct spawn_row spawn_table[32]; /* 0x0343C */
    u8 pad353C[0x2A8];
    s32 spawn_table_count;      /* 0x037E4 */
    u8 pad37E8[0x1C];
    struct item item_data[ITEM_MAX]; /* 0x03804 */
    s16 item_count, pad3906;    /* 0x03904 */
    struct trap trap_data[TRAP_MAX]; /* 0x03908 */
    u8 pad3A08[4];
    u8 monster_house_room, pad3A0D; /* 0x03A0C */
    s16 tileset, music, pad3A12, fixed_room, pad3A16;
    struct tile tiles[MAP_H][MAP_W]; /* 0x03A18 */
    s16 spawn_x, spawn_y, stairs_x, stairs_y; /* 0x0E218 */
    u8 padE220[0x20];
    s32 shop_box[4];            /* 0x0E240 */
    u8 padE250[0x14];
    u8 weather, padE265, weather_damage, padE267[8], natural_weather[8], padE277[3], padE27A[0x646];
    struct tile *tile_pointers[MAP_H][MAP_W]; /* 0x0E8C0 */
    u8 pad104C0[4];
    struct room rooms[32];      /* 0x104C4 */
    s16 room_exit_counts[32];   /* 0x10844 */
    s16 room_exits[32][32][2];  /* 0x10884 */
    u8 pad11884[0x1CF0];
    s16 pending_trap_x, pending_trap_y; /* 0x13574 */
    u8 pending_trap_id, pad13579[3];
    struct entity *team[TEAM_MAX], *wild[WILD_MAX], *active[ACTIVE_MAX], *items[ITEM_MAX], *traps[TRAP_MAX];
    struct entity team_entities[TEAM_MAX], wild_entities[WILD_MAX], item_entities[ITEM_MAX], trap_entities[TRAP_MAX];
    u8 pad17B2C[0x18];
    const void *species_sprites[424]; /* 0x17B44 */
    u8 pad181E4[4];
    s16 camera_tile_x, camera_tile_y, camera_tile_prev_x, camera_tile_prev_y; /* 0x181E8 */
    s16 camera_x, camera_y, camera_prev_x, camera_prev_y; /* 0x181F0: world pixel at the screen's top left */
    struct entity *camera_target; /* 0x181F8 */
    u8 pad181FC[0xD];
    u8 visibility_range, blinded, all_revealed, lit_floor, pad1820D; /* 0x18209 */
    u8 show_all_items, show_hidden, hallucinating, stairs_known, pad18212[2]; /* 0x1820E */
    u8 map_mode, pad18215[3], hud_hidden, pad18219, turn_grid, turn_direction; /* 0x18214 */
    u8 pad1821C[0x3BB8];
    char strip_lines[STRIP_LINES][64]; /* 0x1BDD4: strip_lines[n % 10] for n in strip_read..strip_write-1 */
    u8 pad1C054[0xB];
    u8 dialogue_box_open;       /* 0x1C05F */
    s16 strip_write, strip_read, strip_frames_left, pad1C066; /* 0x1C060: frames 240 -> 0, 0 = no strip on screen */
    u8 pad1C068[4];
    u32 strip_state;            /* 0x1C06C */
    struct log_line log[LOG_LINES]; /* 0x1C070 */
    u8 pad1C570[4];
    u8 floor_properties[28];    /* 0x1C574 */
    struct item_odds item_odds[4]; /* 0x1C590 */
    u16 trap_odds[20];          /* 0x1CD70 */
    u8 pad1CD98[0x100];
    struct exit_summary exit;   /* 0x1CE98 */
    u8 floor_limit, pad1CEC9[0x13];
};

struct roster_mon {
    u16 flags;
    u8 is_leader, level, met_at[2], pad6[2];
    s16 species, padA[5], iq, hp; /* 0x08, 0x14, 0x16 */
    u8 stats[4];
    u32 exp;                    /* 0x1C */
    u8 iq_skills[4], tactic, pad25[3], held[2], pad2A[2];
    struct move moves[4];       /* 0x2C */
    char name[10], pad56[2];    /* 0x4C */
};
struct dungeon_mon {
    u16 flags;
    u8 is_leader, level, met_at[2], pad6[2];
    s16 iq, roster_slot, team_slot, species, hp, max_hp; /* 0x08 */
    u8 stats[4];
    u32 exp;
    struct move moves[4];       /* 0x1C */
    u8 pad3C[4];
    struct item held;           /* 0x40 */
    s16 belly[2], max_belly[2];
    u8 iq_skills[4], tactic, pad51[3];
    s16 hidden_power;
    u8 hidden_power_type, pad57;
    char name[10], pad62[2];    /* 0x58 */
};
struct inventory {
    struct item bag[BAG_MAX];
    u16 storage[240];
    u8 shop_items[8][2], pad240[0x10], shop_wares[4][2], pad258[8];
    s32 money, savings;         /* 0x260 */
};
struct text_window { s16 x, y, w, h, total_h, padA; s32 type; u8 pad10[0x38]; };
struct dungeon_menu { s32 window; u8 pad4[0x14]; s16 cursor, rows, rows_per_page, page, pages; u8 pad22[0x12]; };
struct submenu_row { u16 action; u8 item, selectable; };
struct options { u8 speed, far_off, damage_turn, grid, minimap, pad5[3], window_colour, controls, padA, gender; };
struct play_time { s16 hours; u8 minutes, seconds, frames, pad[3]; };
struct main_menu { s32 screen, next; };

#define AT(type, address) (*(type volatile *)(address))
#define PTR(type, address) ((type *)(address))

#define G_MAIN_MODE        AT(u32, 0x0203B03C)   /* 0 title, 1 dungeon */
#define G_DUNGEON          AT(struct dungeon *, 0x0203B418)
#define G_FLOOR_LIVE       AT(u8, 0x0203B40C)
#define G_MINIMAP_DOT      PTR(s16, 0x0203B410)
#define G_MAIN_MENU        AT(struct main_menu *, 0x0203B348)
#define G_LEADER           AT(struct entity *, 0x0203B450)
#define G_RNG              AT(u32, 0x0203B454)   /* in-floor draws */
#define G_SEED_RNG         AT(u32, 0x0203B458)   /* one draw a floor */
#define G_GENERAL_RNG      AT(u32, 0x0203B07C)
#define G_ROSTER_REF       AT(struct roster_mon *, 0x0203B45C)
#define G_INVENTORY_REF    AT(struct inventory *, 0x0203B460)
#define G_OPTIONS_REF      AT(struct options *, 0x0203B46C)
#define G_PLAY_TIME_REF    AT(struct play_time *, 0x0203B47C)
#define G_STORY            PTR(u8, 0x02000A88)
#define G_INPUTS           PTR(volatile u16, 0x020255F0) /* held, pressed, repeated, short-pressed */
#define G_WINDOWS          PTR(struct text_window, 0x02027370)
#define G_BG_MAPS          PTR(u16, 0x0202B038)  /* [4][32][32]; [0] is BG0 */
#define G_FORMAT_NUMBERS   PTR(s32, 0x0202DE30)
#define G_FORMAT_ITEMS     PTR(char, 0x0202DE58)
#define G_FORMAT_MONSTERS  PTR(char, 0x0202DF98)
#define G_FORMAT_NAMES     PTR(char, 0x0202E2B8)
#define G_SPEAKER          PTR(char, 0x0202E5D8)
#define G_DIALOGUE_STATE   AT(s32, 0x0202E744)
#define G_DIALOGUE_CURSOR  PTR(s16, 0x0202E748)
#define G_DIALOGUE_FLAGS   AT(u16, 0x0202E77C)
#define G_DIALOGUE_NEXT    AT(char *, 0x0202E794)
#define G_DIALOGUE_TEXT    PTR(char, 0x0202E798)  /* [1000] */
#define G_CHOICE_CURSOR    AT(s16, 0x0202EBEC)
#define G_CHOICE_ITEMS     AT(const void *, 0x0202EC14)
#define G_CHOICE_RESULT    AT(s32, 0x0202EC1C)
#define G_BRIGHTNESS       AT(s32, 0x0202EDC8)   /* 0 black .. 31 full */
#define G_DUNGEON_FRAMES   AT(s32, 0x0202EDCC)
#define G_WINDOW_MODE      AT(s32, 0x0202EDD0)   /* enum window_mode */
#define G_MINIMAP_DOTS     AT(u8, 0x0202EE00)
#define G_MINIMAP_ENABLED  AT(u8, 0x0202EE01)
#define G_LEADER_TILE      PTR(s16, 0x0202EE0C)
#define G_MENU             PTR(struct dungeon_menu, 0x0202EE10)
#define G_SUBMENU          PTR(struct submenu_row, 0x0202EE44) /* [10] */
#define G_SUBMENU_COUNT    AT(s32, 0x0202EE6C)
#define G_DIAGONAL_MODE    AT(u8, 0x0202F22C)
#define G_TURN_MODE        AT(u8, 0x0202F22D)
#define G_ROSTER           PTR(struct roster_mon, 0x0202F400)  /* [413] */
#define G_DUNGEON_TEAM     PTR(struct dungeon_mon, 0x020381F8) /* [4] */
#define G_TEAM             PTR(struct roster_mon, 0x02038388)  /* [4] */
#define G_INVENTORY        PTR(struct inventory, 0x020389A8)
#define G_TEAM_NAME        PTR(char, 0x02038C10)
#define G_OPTIONS          PTR(struct options, 0x02038C70)
#define G_PLAY_TIME        PTR(struct play_time, 0x02038C80)
#define G_GROUND_TEXTBOX   AT(void *, 0x03001B64)
#define G_GROUND_MAP       AT(void *, 0x03001B6C)
#define G_GROUND_LIVES     AT(void *, 0x03001B84)

enum exit_reason { /* exit_summary.reason; 550 and above is success */
    EXIT_HUNGER = 529, EXIT_CHESTNUT = 531, EXIT_BEATEN = 537, EXIT_GAVE_UP = 539, EXIT_BLOWN_OUT = 542, EXIT_CLEARED = 551
};
enum { STORY_DUNGEON_ENTER = 54, STORY_DUNGEON_RESULT = 133, STORY_START_MODE = 134 };
enum { START_MODE_WON = 9, START_MODE_LOST = 12 };

#define SIZE_IS(type, size) _Static_assert(sizeof(struct type) == (size), "size of " #type)
#define FIELD_AT(type, field, at) _Static_assert(offsetof(struct type, field) == (at), #type "." #field)
SIZE_IS(item, 4); SIZE_IS(trap, 4); SIZE_IS(move, 8); SIZE_IS(tile, 0x18); SIZE_IS(room, 0x1C);
SIZE_IS(entity, 0x74); SIZE_IS(entity_info, 0x208); SIZE_IS(log_line, 0x40); SIZE_IS(dungeon, 0x1CEDC);
SIZE_IS(roster_mon, 0x58); SIZE_IS(dungeon_mon, 0x64); SIZE_IS(inventory, 0x268); SIZE_IS(text_window, 0x48);
SIZE_IS(dungeon_menu, 0x34); SIZE_IS(submenu_row, 4); SIZE_IS(spawn_row, 8); SIZE_IS(item_odds, 504);
FIELD_AT(tile, monster, 0x10); FIELD_AT(tile, room, 9); FIELD_AT(tile, walkable, 0xA);
FIELD_AT(room, min_x, 2); FIELD_AT(room, light_left, 0xC); FIELD_AT(room, end_y, 8);
FIELD_AT(entity, px, 0xC); FIELD_AT(entity, visible, 0x20); FIELD_AT(entity, room, 0x25);
FIELD_AT(entity, spawn_id, 0x26); FIELD_AT(entity, animation, 0x6A); FIELD_AT(entity, data, 0x70);
FIELD_AT(entity_info, hp, 0xE); FIELD_AT(entity_info, atk, 0x14); FIELD_AT(entity_info, exp, 0x18);
FIELD_AT(entity_info, atk_stages, 0x1C); FIELD_AT(entity_info, atk_mult, 0x2C); FIELD_AT(entity_info, def_mult, 0x34);
FIELD_AT(entity_info, hidden_power, 0x3C); FIELD_AT(entity_info, joined_at, 0x40); FIELD_AT(entity_info, action, 0x44);
FIELD_AT(entity_info, direction, 0x46); FIELD_AT(entity_info, action_params, 0x48); FIELD_AT(entity_info, types, 0x5C);
FIELD_AT(entity_info, held, 0x60); FIELD_AT(entity_info, previous, 0x68); FIELD_AT(entity_info, ai_objective, 0x78);
FIELD_AT(entity_info, ai_target, 0x80); FIELD_AT(entity_info, ai_target_x, 0x88); FIELD_AT(entity_info, iq_menu, 0x8C);
FIELD_AT(entity_info, tactic, 0x94); FIELD_AT(entity_info, behavior, 0xA4); FIELD_AT(entity_info, status, 0xA8);
FIELD_AT(entity_info, muzzled, 0xEC); FIELD_AT(entity_info, terrified_turns, 0xFA); FIELD_AT(entity_info, speed_stage, 0x104);
FIELD_AT(entity_info, speed_down, 0x10D); FIELD_AT(entity_info, moves, 0x118); FIELD_AT(entity_info, belly, 0x13C);
FIELD_AT(entity_info, belly_empty, 0x146); FIELD_AT(entity_info, step_x, 0x16C); FIELD_AT(entity_info, pixel_int, 0x170);
FIELD_AT(entity_info, regen, 0x1F8); FIELD_AT(entity_info, status_icons, 0x200);
FIELD_AT(dungeon, awaiting_player, 0xF); FIELD_AT(dungeon, idle_frames, 0x12); FIELD_AT(dungeon, log_next_slot, 0x16);
FIELD_AT(dungeon, acting, 0xB8); FIELD_AT(dungeon, open_menu_request, 0x5C0); FIELD_AT(dungeon, fainted_name, 0x5F4);
FIELD_AT(dungeon, dungeon_id, 0x644); FIELD_AT(dungeon, can_recruit, 0x658); FIELD_AT(dungeon, has_toolbox, 0x65B);
FIELD_AT(dungeon, fractional_turn, 0x660); FIELD_AT(dungeon, wind_turns, 0x666); FIELD_AT(dungeon, dashing, 0x66C);
FIELD_AT(dungeon, monster_house_triggered, 0x671); FIELD_AT(dungeon, mission_kind, 0x678); FIELD_AT(dungeon, run_seed, 0x67C);
FIELD_AT(dungeon, team_info, 0x69C); FIELD_AT(dungeon, wild_info, 0xEBC); FIELD_AT(dungeon, spawn_table, 0x343C);
FIELD_AT(dungeon, spawn_table_count, 0x37E4); FIELD_AT(dungeon, item_data, 0x3804); FIELD_AT(dungeon, item_count, 0x3904);
FIELD_AT(dungeon, trap_data, 0x3908); FIELD_AT(dungeon, monster_house_room, 0x3A0C); FIELD_AT(dungeon, tiles, 0x3A18);
FIELD_AT(dungeon, spawn_x, 0xE218); FIELD_AT(dungeon, stairs_x, 0xE21C); FIELD_AT(dungeon, shop_box, 0xE240);
FIELD_AT(dungeon, weather, 0xE264); FIELD_AT(dungeon, natural_weather, 0xE26F); FIELD_AT(dungeon, tile_pointers, 0xE8C0);
FIELD_AT(dungeon, rooms, 0x104C4); FIELD_AT(dungeon, room_exit_counts, 0x10844); FIELD_AT(dungeon, room_exits, 0x10884);
FIELD_AT(dungeon, pending_trap_x, 0x13574); FIELD_AT(dungeon, team, 0x1357C); FIELD_AT(dungeon, active, 0x135CC);
FIELD_AT(dungeon, traps, 0x1371C); FIELD_AT(dungeon, team_entities, 0x1381C); FIELD_AT(dungeon, wild_entities, 0x139EC);
FIELD_AT(dungeon, item_entities, 0x1412C); FIELD_AT(dungeon, trap_entities, 0x15E2C);
FIELD_AT(dungeon, species_sprites, 0x17B44); FIELD_AT(dungeon, camera_tile_x, 0x181E8); FIELD_AT(dungeon, camera_x, 0x181F0);
FIELD_AT(dungeon, camera_target, 0x181F8); FIELD_AT(dungeon, visibility_range, 0x18209); FIELD_AT(dungeon, lit_floor, 0x1820C);
FIELD_AT(dungeon, stairs_known, 0x18211); FIELD_AT(dungeon, map_mode, 0x18214); FIELD_AT(dungeon, hud_hidden, 0x18218);
FIELD_AT(dungeon, turn_grid, 0x1821A); FIELD_AT(dungeon, strip_lines, 0x1BDD4); FIELD_AT(dungeon, dialogue_box_open, 0x1C05F);
FIELD_AT(dungeon, strip_write, 0x1C060); FIELD_AT(dungeon, strip_state, 0x1C06C); FIELD_AT(dungeon, log, 0x1C070);
FIELD_AT(dungeon, floor_properties, 0x1C574); FIELD_AT(dungeon, item_odds, 0x1C590); FIELD_AT(dungeon, trap_odds, 0x1CD70);
FIELD_AT(dungeon, exit, 0x1CE98); FIELD_AT(dungeon, floor_limit, 0x1CEC8);
FIELD_AT(dungeon_mon, iq, 8); FIELD_AT(dungeon_mon, species, 0xE); FIELD_AT(dungeon_mon, moves, 0x1C);
FIELD_AT(dungeon_mon, held, 0x40); FIELD_AT(dungeon_mon, tactic, 0x50); FIELD_AT(dungeon_mon, name, 0x58);
FIELD_AT(roster_mon, species, 8); FIELD_AT(roster_mon, iq, 0x14); FIELD_AT(roster_mon, exp, 0x1C);
FIELD_AT(roster_mon, tactic, 0x24); FIELD_AT(roster_mon, moves, 0x2C); FIELD_AT(roster_mon, name, 0x4C);
FIELD_AT(inventory, shop_items, 0x230); FIELD_AT(inventory, shop_wares, 0x250); FIELD_AT(inventory, money, 0x260); FIELD_AT(dungeon_menu, cursor, 0x18);

#endif
