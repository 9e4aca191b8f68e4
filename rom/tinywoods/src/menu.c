/* menu.c: boxes with rows. Every box is one call of choose(), which blocks until a row is taken or B backs out; the
 * cursor and the action ids of the open box lie in the shared layout, the words go to `view`.
 */
#include "game.h"
#include "video.h"

enum { ROW_CHARS = 25, ROWS_PER_PAGE = 10, CLOSED = -1 };

static char row_text[VIEW_MENU_ROWS][ROW_CHARS];
static char info_text[VIEW_INFO_LINES][ROW_CHARS];

static void show_rows(const char *title, int rows, int cursor)
{
    view.menu_shown = 1;
    view.menu_title = title;
    view.menu_rows = (u8)rows;
    view.menu_cursor = (u8)cursor;
    for (int i = 0; i < VIEW_MENU_ROWS; i++)
        view.menu_row[i] = i < rows ? row_text[i] : 0;
}

static void close_box(void)
{
    view.menu_shown = 0;
    view.info_count = 0;
    view.menu_right = 0;
    G_SUBMENU_COUNT = 0;
    for (int i = 0; i < 10; i++)
        G_SUBMENU[i] = (struct submenu_row){ 0, 0, 0 };
    window_field();
    keys_consume();
}

static void set_row(int row, const char *text)
{
    text_format(row_text[row], ROW_CHARS, "%s", text);
}

/* Lets the player pick one of the rows prepared in row_text; -1 for B, -2 and -3 for a page back or forth. */
static int choose(const char *title, int rows, int start, int mode, int pages)
{
    struct dungeon_menu *menu = G_MENU;
    int cursor = start < rows ? start : 0;

    menu->rows = menu->rows_per_page = (s16)rows;
    G_WINDOW_MODE = mode;
    keys_consume();
    for (;;) {
        menu->cursor = (s16)cursor;
        show_rows(title, rows, cursor);
        frame();
        if (keys_repeated() & KEY_UP)
            cursor = (cursor + rows - 1) % rows;
        else if (keys_repeated() & KEY_DOWN)
            cursor = (cursor + 1) % rows;
        else if (pages > 1 && keys_repeated() & KEY_LEFT)
            return -2;
        else if (pages > 1 && keys_repeated() & KEY_RIGHT)
            return -3;
        if (keys_pressed() & KEY_A) {
            keys_consume();
            return cursor;
        }
        if (keys_pressed() & KEY_B) {
            keys_consume();
            return CLOSED;
        }
    }
}

static const char *action_word(int action)
{
    switch (action) {
    case ACTION_STAIRS: return "Proceed";
    case ACTION_INFO: case ACTION_MOVE_INFO: return "Info";
    case ACTION_EAT: return "Eat";
    case ACTION_ORB: case ACTION_MOVE: return "Use";
    case ACTION_THROW: return "Throw";
    case ACTION_PLACE: return "Place";
    case ACTION_SET_ITEM: case ACTION_SET_MOVE: return "Set";
    case ACTION_UNSET_ITEM: case ACTION_UNSET_MOVE: return "Unset";
    case ACTION_PICK_UP: return "Pick Up";
    case ACTION_SUMMARY: return "Summary";
    case ACTION_GIVE_UP: return "Give Up";
    default: return "-";
    }
}

/* A box of actions; returns the action id, 0 for B. */
static int choose_action(const char *title, const u16 *actions, int item)
{
    int n = 0, row;

    for (; actions[n]; n++) {
        G_SUBMENU[n] = (struct submenu_row){ actions[n], (u8)item, 1 };
        set_row(n, action_word(actions[n]));
    }
    G_SUBMENU_COUNT = n;
    row = choose(title, n, 0, WINDOW_OTHER, 1);
    for (int i = 0; i < 10; i++)
        G_SUBMENU[i] = (struct submenu_row){ 0, 0, 0 };
    G_SUBMENU_COUNT = 0;
    return row < 0 ? 0 : actions[row];
}

static void info_dialogue(const char *name, const char *text)
{
    char buffer[160];

    text_format(buffer, sizeof buffer, "#CG%s#R\n%s", name, text);
    view.menu_shown = 0;
    dialogue(buffer);
}

static int moves_menu(void)
{
    struct entity_info *info = info_of(leader());
    int row = 0;

    for (;;) {
        u16 actions[4] = { ACTION_MOVE, ACTION_SET_MOVE, ACTION_MOVE_INFO, 0 };
        struct move *move;
        int action, n = 0;

        for (; n < 4 && info->moves[n].flags & MOVE_EXISTS; n++)
            text_format(row_text[n], ROW_CHARS, "%s%s  %d PP", info->moves[n].flags & MOVE_SET ? "* " : "",
                        move_rules(info->moves[n].id)->name, info->moves[n].pp);
        row = choose("Moves", n, row, WINDOW_OTHER, 1);
        if (row < 0)
            return MENU_CLOSED;
        move = &info->moves[row];
        if (move->flags & MOVE_SET)
            actions[1] = ACTION_UNSET_MOVE;
        action = choose_action(move_rules(move->id)->name, actions, 0);
        if (action == ACTION_MOVE) {
            close_box();
            if (move_use_leader(row))
                return MENU_TURN_USED;
        } else if (action == ACTION_SET_MOVE) {
            for (int i = 0; i < 4; i++)
                info->moves[i].flags &= (u8)~MOVE_SET;
            move->flags |= MOVE_SET;
        } else if (action == ACTION_UNSET_MOVE) {
            move->flags &= (u8)~MOVE_SET;
        } else if (action == ACTION_MOVE_INFO) {
            info_dialogue(move_rules(move->id)->name, move_rules(move->id)->info);
        }
    }
}

static int item_actions(int slot)
{
    struct item *item = &G_INVENTORY->bag[slot];
    const struct item_rules *rules = item_rules(item->id);
    u16 actions[6];
    char name[40];
    int n = 0;

    if (rules->use != ACTION_THROW)
        actions[n++] = rules->use;
    actions[n++] = ACTION_THROW;
    if (rules->use == ACTION_THROW)
        actions[n++] = item->flags & ITEM_SET ? ACTION_UNSET_ITEM : ACTION_SET_ITEM;
    actions[n++] = ACTION_PLACE;
    actions[n++] = ACTION_INFO;
    actions[n] = 0;
    item_name(name, sizeof name, *item);
    switch (choose_action(name, actions, item->id)) {
    case ACTION_EAT: case ACTION_ORB:
        close_box();
        D->awaiting_player = 0;
        return item_use(slot);
    case ACTION_THROW:
        close_box();
        D->awaiting_player = 0;
        return item_throw(slot);
    case ACTION_PLACE:
        close_box();
        return item_place(slot);
    case ACTION_SET_ITEM:
        for (int i = 0; i < BAG_MAX; i++)
            G_INVENTORY->bag[i].flags &= (u8)~ITEM_SET;
        item->flags |= ITEM_SET;
        return 0;
    case ACTION_UNSET_ITEM:
        item->flags &= (u8)~ITEM_SET;
        return 0;
    case ACTION_INFO:
        info_dialogue(rules->name, rules->info);
        return 0;
    default:
        return 0;
    }
}

static int items_menu(void)
{
    int page = 0, row = 0;

    for (;;) {
        int count = bag_count(), pages = (count + ROWS_PER_PAGE - 1) / ROWS_PER_PAGE, rows;

        if (!count) {
            close_box();
            message("The bag is empty.");
            return MENU_CLOSED;
        }
        page = page >= pages ? pages - 1 : page;
        rows = count - page * ROWS_PER_PAGE > ROWS_PER_PAGE ? ROWS_PER_PAGE : count - page * ROWS_PER_PAGE;
        for (int i = 0; i < rows; i++)
            item_name(row_text[i], ROW_CHARS, G_INVENTORY->bag[page * ROWS_PER_PAGE + i]);
        G_MENU->page = (s16)page;
        G_MENU->pages = (s16)pages;
        row = choose("Items", rows, row, WINDOW_OTHER, pages);
        if (row == CLOSED)
            return MENU_CLOSED;
        if (row < 0) {
            page = (page + (row == -2 ? pages - 1 : 1)) % pages;
            row = 0;
        } else if (item_actions(page * ROWS_PER_PAGE + row)) {
            return MENU_TURN_USED;
        }
    }
}

static void summary(const struct entity_info *info)
{
    char text[160];

    text_format(text, sizeof text, "#CG%s#R  level %d  HP %d/%d\nAttack %d  Defense %d\nExp. %d, next level at %d",
                monster_name(info), info->level, info->hp, info->max_hp, info->atk, info->def, (int)info->exp,
                (int)exp_for_level(info->level + 1));
    view.menu_shown = 0;
    dialogue(text);
}

static void team_menu(void)
{
    int row = 0;

    for (;;) {
        const struct entity_info *members[TEAM_MAX];
        int n = 0;

        for (int i = 0; i < TEAM_MAX; i++)
            if (is_monster(D->team[i])) {
                members[n] = info_of(D->team[i]);
                text_format(row_text[n], ROW_CHARS, "%s  HP %d/%d", monster_name(members[n]), members[n]->hp,
                            members[n]->max_hp);
                n++;
            }
        row = choose("Team", n, row, WINDOW_OTHER, 1);
        if (row < 0)
            return;
        summary(members[row]);
    }
}

/* A question with Yes and No, as a dialogue in choice state; 1 for Yes. */
static int ask(const char *question)
{
    static const struct { const char *text; s32 value; } choices[3] = { { "Yes", 1 }, { "*No", 0 }, { 0, 0 } };
    int row, length = 0;

    for (; question[length]; length++)
        G_DIALOGUE_TEXT[length] = question[length];
    G_DIALOGUE_TEXT[length] = 0;
    G_DIALOGUE_NEXT = G_DIALOGUE_TEXT + length;
    G_DIALOGUE_FLAGS = 0x20;
    G_CHOICE_ITEMS = choices;
    G_CHOICE_CURSOR = 1;
    G_DIALOGUE_STATE = DIALOGUE_MENU;
    D->dialogue_box_open = 1;
    set_row(0, "Yes");
    set_row(1, "No");
    view.menu_right = 1;
    row = 1;
    G_WINDOW_MODE = WINDOW_DIALOGUE;
    keys_consume();
    for (;;) {
        G_CHOICE_CURSOR = G_MENU->cursor = (s16)row;
        show_rows(0, 2, row);
        frame();
        if (keys_repeated() & (KEY_UP | KEY_DOWN))
            row = !row;
        if (keys_pressed() & KEY_B)
            row = 1;
        if (keys_pressed() & (KEY_A | KEY_B))
            break;
    }
    G_CHOICE_RESULT = choices[row].value;
    G_CHOICE_ITEMS = 0;
    G_DIALOGUE_STATE = DIALOGUE_NONE;
    D->dialogue_box_open = 0;
    close_box();
    return row == 0;
}

static int others_menu(void)
{
    int row = 0;

    for (;;) {
        set_row(0, "Message History");
        set_row(1, G_OPTIONS->minimap ? "Minimap: on" : "Minimap: off");
        set_row(2, "Give Up");
        row = choose("Others", 3, row, WINDOW_OTHER, 1);
        if (row < 0)
            return MENU_CLOSED;
        if (row == 0) {
            menu_history();
        } else if (row == 1) {
            G_OPTIONS->minimap = !G_OPTIONS->minimap;
        } else {
            view.menu_shown = 0;
            if (ask("Do you want to give up\nthis adventure?")) {
                run_end(EXIT_GAVE_UP);
                return MENU_TURN_USED;
            }
        }
    }
}

int menu_stairs(void)
{
    static const u16 actions[] = { ACTION_STAIRS, ACTION_INFO, 0 };

    for (;;) {
        int action = choose_action("Stairs", actions, 0);

        if (action == ACTION_STAIRS) {
            close_box();
            D->floor_exit = 1;
            return MENU_TURN_USED;
        }
        if (!action) {
            close_box();
            return MENU_CLOSED;
        }
        info_dialogue("Stairs", D->floor < FLOORS ? "They lead down to the next floor." : "They lead out of the woods.");
    }
}

int menu_ground(void)
{
    static const u16 item_choice[] = { ACTION_PICK_UP, ACTION_INFO, 0 };
    struct tile *tile = tile_at(leader()->x, leader()->y);
    struct entity *object = tile->object;
    char name[40];
    int action;

    if (tile->terrain & TERRAIN_STAIRS)
        return menu_stairs();
    if (!object) {
        close_box();
        message("There is nothing on the ground.");
        return MENU_CLOSED;
    }
    if (object->type == ENTITY_TRAP) {
        info_dialogue(trap_name(((struct trap *)object->data)->id), "Step on it and you'll regret it.");
        close_box();
        return MENU_CLOSED;
    }
    item_name(name, sizeof name, *(struct item *)object->data);
    action = choose_action(name, item_choice, ((struct item *)object->data)->id);
    if (action == ACTION_INFO)
        info_dialogue(name, item_rules(((struct item *)object->data)->id)->info);
    close_box();
    return action == ACTION_PICK_UP && item_pick_up_here() ? MENU_TURN_USED : MENU_CLOSED;
}

void menu_history(void)
{
    int shown = 0;

    for (int i = 0; i < LOG_LINES; i++) {
        const struct log_line *line = &D->log[(D->log_next_slot + i) % LOG_LINES];

        if (!line->used)
            continue;
        if (shown == VIEW_MENU_ROWS) {
            for (int k = 1; k < VIEW_MENU_ROWS; k++)
                view.menu_row[k - 1] = view.menu_row[k];
            shown--;
        }
        view.menu_row[shown++] = line->text;
    }
    if (!shown)
        view.menu_row[shown++] = "Nothing happened yet.";
    view.menu_shown = 1;
    view.menu_title = "Message History";
    view.menu_rows = (u8)shown;
    view.menu_cursor = 255;
    G_WINDOW_MODE = WINDOW_HISTORY;
    keys_consume();
    do
        frame();
    while (!(keys_pressed() & (KEY_A | KEY_B)));
    close_box();
}

static void fill_status(void)
{
    const struct entity_info *info = info_of(leader());
    int n = 0;

    for (int i = 0; i < 2; i++)
        if (is_monster(D->team[i]))
            text_format(info_text[n++], ROW_CHARS, "%s  %d/%d", monster_name(info_of(D->team[i])),
                        info_of(D->team[i])->hp, info_of(D->team[i])->max_hp);
    text_format(info_text[n++], ROW_CHARS, "Belly %d/%d", info->belly[0] + (info->belly[1] > 0), info->max_belly[0]);
    text_format(info_text[n++], ROW_CHARS, "Coins %d", (int)G_INVENTORY->money);
    text_format(info_text[n++], ROW_CHARS, "Wind in %d", D->wind_turns);
    view.info_count = (u8)n;
    for (int i = 0; i < n; i++)
        view.info_line[i] = info_text[i];
}

int menu_main(int short_form)
{
    static const char *const words[] = { "Moves", "Items", "Team", "Others", "Ground" };
    int row = 0, answer = MENU_CLOSED;

    animate_walks(4);
    for (;;) {
        for (int i = 0; i < 5; i++)
            set_row(i, words[i]);
        fill_status();
        D->open_menu_request = -1;
        row = choose(0, 5, row, short_form ? WINDOW_MENU_SHORT : WINDOW_MENU, 1);
        view.info_count = 0;
        if (row < 0)
            break;
        if (row == 0)
            answer = moves_menu();
        else if (row == 1)
            answer = items_menu();
        else if (row == 2)
            team_menu();
        else if (row == 3)
            answer = others_menu();
        else
            answer = menu_ground();
        if (answer == MENU_TURN_USED || row == 4)
            break;
    }
    close_box();
    return answer;
}
