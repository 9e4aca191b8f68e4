/* leader.c: the player's turn on the free field. Nothing else moves while this waits; awaiting_player is 1 exactly
 * then. Things that cost no turn (turning, menus, map, talk) stay in the loop.
 */
#include "game.h"

enum { IDLE_MENU_FRAMES = 1800, IDLE_SHOWN_MAX = 100, PASS_FRAMES = 4, DASH_PIXELS = 12 };

static s16 dash_hp;
static u8 dash_room;

static int pad_direction(u16 keys)
{
    int dx = (keys & KEY_RIGHT ? 1 : 0) - (keys & KEY_LEFT ? 1 : 0);
    int dy = (keys & KEY_DOWN ? 1 : 0) - (keys & KEY_UP ? 1 : 0);

    return dx || dy ? direction_to(dx, dy) : -1;
}

static void face_adjacent_foe(struct entity *who)
{
    for (int i = 0; i < 8; i++) {
        int dir = (info_of(who)->direction + i) & 7;
        struct entity *other = monster_ahead(who, dir);

        if (other && foe_of(who, other)) {
            monster_face(who, dir);
            return;
        }
    }
}

static void turn_on_the_spot(struct entity *who)
{
    keys_consume();
    G_TURN_MODE = 1;
    D->turn_grid = 1;
    face_adjacent_foe(who);
    do {
        int dir = pad_direction(keys_held());

        G_DIAGONAL_MODE = (keys_held() & KEY_R) != 0;
        if (dir >= 0 && (dir & 1 || !G_DIAGONAL_MODE))
            monster_face(who, dir);
        D->turn_direction = info_of(who)->direction;
        frame();
    } while (!(keys_pressed() & (KEY_A | KEY_B | KEY_START)) && !(keys_short() & KEY_R));
    G_TURN_MODE = 0;
    G_DIAGONAL_MODE = 0;
    D->turn_grid = 0;
    keys_consume();
}

static void show_map(void)
{
    u8 option = G_OPTIONS->minimap;

    keys_consume();
    D->map_mode = 1;
    G_OPTIONS->minimap = 1;         /* shown while SELECT asks for it, whatever the option says */
    window_field();
    do {
        frame();
    } while (!(keys_pressed() & (KEY_SELECT | KEY_B)));
    D->map_mode = 0;
    G_OPTIONS->minimap = option;
    window_field();
    keys_consume();
}

static void talk(struct entity *who)
{
    const struct entity_info *info = info_of(who);
    char text[120];

    text_format(text, sizeof text, "%s: %s", monster_name(info),
                info->hp * 3 < info->max_hp ? "I need a rest...\nLet's wait a little." :
                D->stairs_known ? "The stairs down can't be far.\nLead on!" : "These woods are deep.\nStay close to me!");
    keys_consume();
    dialogue(text);
}

/* A step or, where the way is barred, a turn of the head. 1 if it cost the turn. */
static int walk(struct entity *who, int dir, int dash)
{
    struct entity *other;
    int from_x = who->x, from_y = who->y, x = from_x + dir_dx[dir], y = from_y + dir_dy[dir];

    monster_face(who, dir);
    if (!step_legal(who, dir))
        return 0;
    other = tile_at(x, y)->monster;
    if (other && foe_of(who, other))
        return 0;
    D->awaiting_player = 0;
    info_of(who)->action = ACTION_WALK;
    monster_put(who, x, y);
    if (other) {
        other->x = (s16)x;      /* the ally takes the tile that was left */
        other->y = (s16)y;
        monster_put(other, from_x, from_y);
        tile_at(x, y)->monster = who;
        monster_face(other, (dir + 4) & 7);
    }
    sight_update();
    strip_hurry();
    D->dashing = (u8)dash;
    dash_room = who->room;
    dash_hp = info_of(who)->hp;
    step_on_tile(who, !dash);
    return 1;
}

static int foe_in_sight(const struct entity *who)
{
    for (int i = 0; i < WILD_MAX; i++)
        if (is_monster(D->wild[i]) && (distance(who, D->wild[i]) <= CHASE_RADIUS ||
            (who->room != ROOM_NONE && who->room == D->wild[i]->room)))
            return 1;
    return 0;
}

static int dash_goes_on(const struct entity *who, int dir)
{
    const struct tile *tile = tile_at(who->x, who->y);
    int open = 0;

    for (int d = 0; d < 8; d += 2)
        open += tile->walkable[0] >> d & 1;
    return step_free(who, dir) && !foe_in_sight(who) && !tile->object && !(tile->terrain & (TERRAIN_STAIRS | TERRAIN_EXIT)) &&
           (who->room != ROOM_NONE || open < 3) && info_of(who)->hp >= dash_hp && who->room == dash_room;
}

static void pass_turn(struct entity *who)
{
    D->awaiting_player = 0;
    info_of(who)->action = ACTION_PASS;
    D->skip_wait = 1;
    frames(PASS_FRAMES);
    D->skip_wait = 0;
}

int move_use_leader(int slot)
{
    struct entity *who = leader();
    struct entity_info *info = info_of(who);

    if (slot < 0 || slot > 3 || !(info->moves[slot].flags & MOVE_EXISTS)) {
        message("No move is set.");
        return 0;
    }
    if (!info->moves[slot].pp) {
        message("No PP left for %s.", move_rules(info->moves[slot].id)->name);
        return 0;
    }
    D->awaiting_player = 0;
    for (int i = 0; i < 4; i++)
        info->moves[i].flags &= (u8)~MOVE_LAST;
    info->moves[slot].flags |= MOVE_LAST;
    attack(who, slot);
    return 1;
}

static int set_move_slot(const struct entity_info *info)
{
    for (int i = 0; i < 4; i++)
        if (info->moves[i].flags & MOVE_EXISTS && info->moves[i].flags & MOVE_SET)
            return i;
    return -1;
}

static int press_a(struct entity *who)
{
    struct entity *ahead = monster_ahead(who, info_of(who)->direction);

    if (keys_held() & KEY_B) {
        if (info_of(who)->belly_empty) {
            message("%s is too hungry to rest.", monster_name(info_of(who)));
            return 0;
        }
        pass_turn(who);
        return 1;
    }
    if (ahead && !foe_of(who, ahead)) {
        talk(ahead);
        return 0;
    }
    D->awaiting_player = 0;
    attack(who, -1);
    return 1;
}

static int throw_set_item(void)
{
    int slot = item_set_slot();

    if (slot < 0) {
        message("No item is set.");
        return 0;
    }
    D->awaiting_player = 0;
    return item_throw(slot);
}

static int pad(struct entity *who)
{
    u16 held = keys_held();
    int dir = pad_direction(held), continues = D->dashing;

    G_DIAGONAL_MODE = (held & KEY_R) != 0 && !(held & KEY_L);
    if (dir < 0) {
        D->dashing = 0;
        D->dash_just_ended = 0;
        return 0;
    }
    if ((G_DIAGONAL_MODE && !(dir & 1)) || D->dash_just_ended)
        return 0;
    if (!(held & KEY_B)) {
        D->dashing = 0;
        return walk(who, dir, 0);
    }
    if (continues && (dir != info_of(who)->direction || !dash_goes_on(who, dir))) {
        D->dashing = 0;
        D->dash_just_ended = 1;
        return 0;
    }
    return walk(who, dir, 1);
}

/* What this frame's keys ask for; 1 if it cost the turn. */
static int read_command(struct entity *who)
{
    u16 pressed = keys_pressed(), held = keys_held(), taps = keys_short();

    if (held & KEY_L) {
        if (pressed & KEY_A)
            return move_use_leader(set_move_slot(info_of(who)));
        if (pressed & KEY_B) {
            menu_history();
            return 0;
        }
        if (pressed & KEY_R)
            return throw_set_item();
    } else if (pressed & KEY_A) {
        return press_a(who);
    }
    if (taps & KEY_B)
        return menu_main(0) == MENU_TURN_USED;
    if (taps & KEY_R || pressed & KEY_START) {
        turn_on_the_spot(who);
        return 0;
    }
    if (pressed & KEY_SELECT) {
        show_map();
        return 0;
    }
    return pad(who);
}

void leader_turn(void)
{
    struct entity *who = leader();
    int quiet = 0, done = 0;

    info_of(who)->action = ACTION_NONE;
    D->idle_frames = 0;
    D->hud_hidden = 0;
    D->awaiting_player = 1;
    while (!done && !run_ending()) {
        if (D->stairs_prompt_pending) {
            animate_walks(4);
            D->stairs_prompt_pending = 0;
            done = menu_stairs() == MENU_TURN_USED;
            continue;
        }
        frame();
        quiet = keys_held() ? 0 : quiet + 1;
        if (D->idle_frames < IDLE_SHOWN_MAX)
            D->idle_frames++;
        if (quiet >= IDLE_MENU_FRAMES) {
            quiet = 0;
            done = menu_main(1) == MENU_TURN_USED;
        } else {
            done = read_command(who);
        }
    }
    D->awaiting_player = 0;
    G_DIAGONAL_MODE = 0;
}
