/* main.c: from power-on to the next run: title, three floors, result, title again.
 *
 * The seed: the word of the floor stream (0x0203B458) is the run's seed as it stands when START or A is pressed on the
 * title; a host may write it there. Zero means: nobody chose one, take the frame counter.
 */
#include "game.h"
#include "video.h"

enum { CARD_FRAMES = 14, END_HOLD_FRAMES = 10 };

static struct main_menu title_menu;
static char lines[VIEW_TEXT_LINES][40];

static const char *const floor_talk[FLOORS] = {
    "Moss: We have to cross these woods.\nFind the stairs on each floor!\nAttack foes with the A Button.",
    "Moss: Press the B Button for the menu.#PThings in the bag can save us:\neat when the belly is empty or\nHP gets low.",
    "Moss: Hold B and press A to wait.\nResting gives HP back. The exit\ncannot be far now!",
};

static void show_lines(int screen, int count)
{
    view.screen = (u8)screen;
    view.text_count = (u8)count;
    for (int i = 0; i < VIEW_TEXT_LINES; i++)
        view.text[i] = i < count ? lines[i] : 0;
}

static void title(void)
{
    G_MAIN_MODE = 0;
    show_lines(VIEW_TITLE, 0);
    title_menu.screen = title_menu.next = 1;
    G_MAIN_MENU = &title_menu;
    G_STORY[STORY_START_MODE] = 0;
    fade_in();
    do
        frame();
    while (!(keys_pressed() & (KEY_START | KEY_A)));
    keys_consume();
    if (!G_SEED_RNG)
        G_SEED_RNG = frame_counter() * 2654435761u | 1;
    G_MAIN_MENU = 0;
    fade_out();
}

static void clear_dungeon(void)
{
    u32 *word = (u32 *)(void *)D;

    for (u32 i = 0; i < sizeof *D / 4; i++)
        word[i] = 0;
}

static void dungeon_enter(void)
{
    G_MAIN_MODE = 1;
    G_STORY[STORY_START_MODE] = 5;
    G_STORY[STORY_DUNGEON_RESULT] = 0;
    G_STORY[STORY_DUNGEON_ENTER] = DUNGEON_ID;
    clear_dungeon();
    D->run_seed = seed_draw();
    D->dungeon_id = D->place_copy[0] = DUNGEON_ID;
    D->has_toolbox = 1;
    D->can_change_leader = 1;       /* the partner may faint */
    D->rescues_left = -1;
    D->open_menu_request = -1;
    D->monster_house_room = 255;
    D->tileset = 14;
    D->enemy_density = FOES_START_MAX;
    D->lit_floor = 1;
    D->floor_limit = FLOORS + 1;
    pools_reset();
    team_create();
    G_DUNGEON = D;
}

static void floor_reset(int floor)
{
    D->floor = D->place_copy[1] = (u8)floor;
    D->floor_seed = seed_draw();
    G_RNG = D->floor_seed;
    D->floor_ready = 0;
    D->floor_exit = 0;
    D->stairs_prompt_pending = 0;
    D->fractional_turn = 0;
    D->wild_spawn_counter = 0;
    D->wind_turns = TURN_LIMIT;
    D->wind_phase = 0;
    D->next_spawn_id = 10;
    D->dashing = D->dash_just_ended = 0;
    D->stairs_known = 0;
    D->map_mode = 0;
    D->hud_hidden = 1;
    G_MINIMAP_DOTS = 1;
    for (int i = 0; i < LOG_LINES; i++)
        D->log[i] = (struct log_line){ 0 };
    D->log_next_slot = 0;
    for (int i = 0; i < 424; i++)
        D->species_sprites[i] = 0;
    strip_close();
    pools_reset();
}

static void floor_start(int floor)
{
    G_WINDOW_MODE = WINDOW_BLANK;
    text_format(lines[0], sizeof lines[0], "Tiny Woods");
    text_format(lines[1], sizeof lines[1], "B%dF", floor);
    show_lines(VIEW_CARD, 2);
    floor_reset(floor);
    fade_in();
    floor_generate();
    floor_populate();
    sight_update();
    team_copy_back();
    frames(CARD_FRAMES);
    fade_out();
    show_lines(VIEW_FIELD, 0);
    window_field();
    G_FLOOR_LIVE = 1;
    fade_in();
    dialogue(floor_talk[floor - 1]);
    D->floor_ready = 1;
}

static void floor_end(void)
{
    D->hud_hidden = 1;
    view.menu_shown = 0;
    frames(END_HOLD_FRAMES);
    fade_out();
    G_FLOOR_LIVE = 0;
    strip_close();
}

static const char *reason_words(int reason)
{
    return reason == EXIT_CLEARED ? "You crossed the Tiny Woods!" : reason == EXIT_BLOWN_OUT ? "Blown out by the wind." :
           reason == EXIT_GAVE_UP ? "You gave up." : reason == EXIT_HUNGER ? "Fainted from hunger." : "Fen fainted.";
}

static void result(int floor)
{
    int reason = D->exit.reason, won = reason == EXIT_CLEARED;

    text_format(lines[0], sizeof lines[0], "%s", won ? "CLEARED!" : "Try again...");
    text_format(lines[1], sizeof lines[1], "%s", reason_words(reason));
    text_format(lines[2], sizeof lines[2], "Floor B%dF   Level %d", floor, D->team_info[0].level);
    text_format(lines[3], sizeof lines[3], "Coins %d", (int)G_INVENTORY->money);
    team_copy_back();
    G_STORY[STORY_START_MODE] = (u8)(won ? START_MODE_WON : START_MODE_LOST);
    G_STORY[STORY_DUNGEON_RESULT] = (u8)won;
    frames(END_HOLD_FRAMES);
    G_LEADER = 0;
    G_DUNGEON = 0;
    G_WINDOW_MODE = WINDOW_BLANK;
    show_lines(VIEW_RESULT, 4);
    fade_in();
    do
        frame();
    while (!(keys_pressed() & (KEY_START | KEY_A)));
    keys_consume();
    fade_out();
}

static void run(void)
{
    int floor = 1;

    dungeon_enter();
    for (;; floor++) {
        floor_start(floor);
        floor_play();
        if (D->floor_exit && floor == FLOORS && !D->leave_requested) {
            D->exit_kind = 4;
            D->leave_requested = 1;
            D->exit.reason = EXIT_CLEARED;
        }
        floor_end();
        if (D->leave_requested)
            break;
    }
    result(floor);
}

int main(void)
{
    REG_DISPSTAT = 8;               /* VBlank interrupt */
    REG_IE = 1;
    REG_IME = 1;
    G_ROSTER_REF = G_ROSTER;
    G_INVENTORY_REF = G_INVENTORY;
    G_OPTIONS_REF = G_OPTIONS;
    G_PLAY_TIME_REF = G_PLAY_TIME;
    G_OPTIONS->window_colour = 0;
    G_OPTIONS->minimap = 1;
    G_GENERAL_RNG = 1;
    G_WINDOW_MODE = WINDOW_BLANK;
    video_init();
    for (;;) {
        title();
        run();
    }
}
