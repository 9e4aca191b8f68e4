/* world_decode: which game, which state (the sheet's section 2.5, tested in its order), then the parts that exist in it. */
#include "game/decode.h"

#include <stdarg.h>
#include <stdio.h>

const int8_t direction_dx[8] = {0, 1, 1, 1, 0, -1, -1, -1}, direction_dy[8] = {1, 1, 0, -1, -1, -1, 0, 1};
const char *const direction_name[8] = {"S", "SE", "E", "NE", "N", "NW", "W", "SW"};
const char *const game_state_name[] = {
    [STATE_UNREADABLE] = "unreadable", [STATE_TITLE] = "title", [STATE_GROUND] = "ground", [STATE_DIALOGUE] = "dialogue",
    [STATE_DIALOGUE_WAIT] = "dialogue_wait", [STATE_CHOICE] = "choice", [STATE_LOADING] = "loading", [STATE_FIELD] = "field",
    [STATE_STAIRS] = "stairs", [STATE_MENU] = "menu", [STATE_HISTORY] = "history", [STATE_ANIMATION] = "animation",
};

enum { MODE_TITLE, MODE_DUNGEON, MODE_GROUND };
enum { DIALOGUE_NONE = 0, DIALOGUE_CHOICE = 4, DIALOGUE_WAIT_FIRST = 7, DIALOGUE_WAIT_LAST = 9, DIALOGUE_LAST = 11 };
enum { WINDOW_FIELD_MAP = 0, WINDOW_FIELD = 1, WINDOW_STRIP = 3, WINDOW_MENU_SHORT = 6, WINDOW_MENU = 7, WINDOW_NICKNAME = 8,
       WINDOW_HISTORY = 9, WINDOW_OTHER = 10 };

void decode_note(struct world *out, const char *format, ...) {
    if (out->unread_count >= MAX_UNREAD) {
        snprintf(out->unread[MAX_UNREAD - 1], sizeof out->unread[0], "and more that could not be read");
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(out->unread[out->unread_count++], sizeof out->unread[0], format, args);
    va_end(args);
}

static uint32_t global32(const struct decoder *d, uint32_t address) {
    const uint8_t *p = ram_at(d->memory, address, 4);
    return p ? ram_u32(p) : 0;
}

static void unreadable(struct decoder *d) { d->out->state = STATE_UNREADABLE; }

/* The Dungeon struct lies on the heap and comes and goes. False: there is a pointer, but not to a dungeon. */
static bool find_dungeon(struct decoder *d) {
    const struct memory_map *map = d->map;
    uint32_t address = global32(d, map->at.dungeon);
    if (!address) return true;
    d->dungeon = ram_struct(d->memory, address, map->dungeon.bytes);
    if (!d->dungeon) {
        decode_note(d->out, "dungeon pointer 0x%08X is unaligned or its 0x%X bytes leave EWRAM", address, map->dungeon.bytes);
        return false;
    }
    d->out->address_dungeon = address;
    return true;
}

static bool decode_place(struct decoder *d) {
    const struct memory_map *map = d->map;
    struct world *w = d->out;
    const uint8_t *p = d->dungeon;
    w->dungeon = p[map->dungeon.id];
    w->floor = p[map->dungeon.floor];
    w->turn_limit_left = ram_s16(p + map->dungeon.wind_turns);
    w->floor_seed = ram_u32(p + map->dungeon.floor_seed);
    w->exit_reason = ram_u16(p + map->dungeon.exit_reason);
    w->awaiting_player = p[map->dungeon.awaiting_player] == 1;
    w->weather = p[map->dungeon.weather] < 8 ? p[map->dungeon.weather] : 0;
    int limit = p[map->dungeon.floor_limit]; /* number of floors + 1 */
    const struct game_names *names = d->game->names;
    w->floors = limit > 1 && limit <= 100 ? limit - 1 : w->dungeon < names->dungeon_count ? names->dungeon_floors[w->dungeon] : 0;
    if (w->floor < 1 || w->floor > 99) {
        decode_note(w, "dungeon: floor %d, expected 1 to 99: not (yet) a dungeon", w->floor);
        return false;
    }
    return true;
}

static enum game_state dungeon_state(const struct world *w) {
    if (!w->awaiting_player) return STATE_ANIMATION;
    switch (w->window_mode) {
    case WINDOW_FIELD_MAP: case WINDOW_FIELD: case WINDOW_STRIP: return STATE_FIELD;
    case WINDOW_MENU_SHORT: case WINDOW_MENU: case WINDOW_NICKNAME: return STATE_MENU;
    case WINDOW_HISTORY: return STATE_HISTORY;
    case WINDOW_OTHER: return w->action_count > 0 && w->actions[0].action == ACTION_ID_STAIRS ? STATE_STAIRS : STATE_MENU;
    default: return STATE_ANIMATION;
    }
}

static enum game_state dialogue_kind(const struct world *w) {
    return w->dialogue_state == DIALOGUE_CHOICE ? STATE_CHOICE : w->dialogue_waits ? STATE_DIALOGUE_WAIT : STATE_DIALOGUE;
}

static void copy_title(char *to, size_t cap, const char *from) {
    size_t n = strnlen(from, cap - 1);
    memcpy(to, from, n);
    to[n] = 0;
}

void world_decode(const struct memory_view *memory, const char *title, const char *code, struct world *w) {
    memset(w, 0, sizeof *w);
    w->leader = -1;
    w->stairs = (struct point){-1, -1};
    copy_title(w->title, sizeof w->title, title);
    copy_title(w->code, sizeof w->code, code);
    const char *why;
    struct decoder d = {.memory = memory, .out = w, .game = game_layout_find(w->title, w->code, &why)};
    if (!d.game) {
        decode_note(w, "%s", why);
        return;
    }
    if (!memory->ewram || !memory->iwram) {
        decode_note(w, "no memory blocks were given");
        return;
    }
    w->layout = d.game;
    d.map = d.game->map;

    uint32_t mode = global32(&d, d.map->at.main_mode);
    w->window_mode = (int)global32(&d, d.map->at.window_mode);
    w->dialogue_state = (int)global32(&d, d.map->at.dialogue_state);
    w->dungeon_frames = global32(&d, d.map->at.dungeon_frames);
    const uint8_t *live = ram_at(memory, d.map->at.floor_live, 1);
    w->floor_live = live && *live;
    const uint8_t *story = ram_at(memory, d.map->at.story, d.map->story.bytes);
    w->story_start_mode = story ? story[d.map->story.start_mode] : 0;
    if (mode > MODE_GROUND) {
        decode_note(w, "main mode is %u, expected 0 to 2", mode);
        return unreadable(&d);
    }
    if (w->dialogue_state < 0 || w->dialogue_state > DIALOGUE_LAST) {
        decode_note(w, "dialogue state is %d, expected 0 to %d", w->dialogue_state, DIALOGUE_LAST);
        w->dialogue_state = 0;
        return unreadable(&d);
    }
    w->dialogue_waits = w->dialogue_state == DIALOGUE_CHOICE ||
                        (w->dialogue_state >= DIALOGUE_WAIT_FIRST && w->dialogue_state <= DIALOGUE_WAIT_LAST);
    if (w->dialogue_state != DIALOGUE_NONE) decode_dialogue(&d);
    decode_bag(&d); /* money is there in every mode; the bag's contents once a dungeon says that there is a bag */

    if (mode == MODE_TITLE || mode == MODE_GROUND) {
        w->state = mode == MODE_TITLE ? STATE_TITLE : STATE_GROUND;
        if (mode == MODE_GROUND && !global32(&d, d.map->at.ground_text)) decode_note(w, "ground: the scene is not set up yet");
        return;
    }
    if (!find_dungeon(&d)) return unreadable(&d);
    bool place = d.dungeon && decode_place(&d);
    if (d.dungeon && w->floor_live && !place) return unreadable(&d);
    if (!d.dungeon || !w->floor_live) {
        w->state = w->dialogue_state != DIALOGUE_NONE ? dialogue_kind(w) : STATE_LOADING;
        decode_note(w, "floor: %s", d.dungeon ? "not live (loading, title card or results)" : "there is no dungeon yet");
        return;
    }
    w->has_bag = d.game->bag_always || d.dungeon[d.map->dungeon.has_bag] == 1;
    if (!w->has_bag) memset(w->bag, 0, sizeof w->bag), w->bag_count = 0;
    decode_floor(&d);
    decode_entities(&d);
    decode_log(&d);
    if (w->window_mode >= WINDOW_MENU_SHORT && w->window_mode <= WINDOW_OTHER) decode_menu(&d);
    w->state = w->dialogue_state != DIALOGUE_NONE ? dialogue_kind(w) : dungeon_state(w);
}
