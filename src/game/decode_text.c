/* Dialogue, choices, menus and the message log. Buffers keep old text: the caller asks only while the state says that it is shown. */
#include "game/decode.h"
#include "game/text.h"

enum { FLAG_SPEAKER = 8, MENU_ROW_BYTES = 4, CHOICE_BYTES = 8, CHOICE_TEXT_BYTES = 120 };

/* Bytes at an address in RAM or ROM, fewer than `bytes` at the end of the block; NULL when the address is in neither. */
static const uint8_t *text_at(const struct memory_view *m, uint32_t address, uint32_t *bytes) {
    uint32_t offset = address - ROM_START;
    if (m->rom && offset < m->rom_bytes) {
        if (m->rom_bytes - offset < *bytes) *bytes = (uint32_t)(m->rom_bytes - offset);
        return m->rom + offset;
    }
    const uint8_t *p = NULL;
    while (*bytes && !(p = ram_at(m, address, *bytes))) *bytes /= 2;
    return p;
}

static void decode_choices(struct decoder *d) {
    struct world *w = d->out;
    const struct memory_view *m = d->memory;
    const uint8_t *ref = ram_at(m, d->map->at.choices, 4), *cursor = ram_at(m, d->map->at.choice_cursor, 2);
    uint32_t list = ref ? ram_u32(ref) : 0;
    w->choice_cursor = cursor ? ram_s16(cursor) : 0;
    for (; w->choice_count < MAX_CHOICES; w->choice_count++, list += CHOICE_BYTES) {
        uint32_t entry_bytes = 4, text_bytes = CHOICE_TEXT_BYTES;
        const uint8_t *entry = text_at(m, list, &entry_bytes);
        if (!entry || entry_bytes < 4) {
            decode_note(w, "choice texts: the list at 0x%08X is %s", list, m->rom ? "in no memory" : "in the ROM, which is not at hand");
            break;
        }
        uint32_t address = ram_u32(entry);
        if (!address) break;
        const uint8_t *text = text_at(m, address, &text_bytes);
        if (!text) {
            decode_note(w, "choice %d: no text at 0x%08X", w->choice_count, address);
            break;
        }
        size_t star = text_bytes && text[0] == '*'; /* marks the default row */
        text_decode(text + star, text_bytes - star, false, w->choices[w->choice_count], sizeof w->choices[0]);
    }
    if (w->choice_cursor < 0 || w->choice_cursor >= MAX_CHOICES) {
        decode_note(w, "choice cursor is at row %d", w->choice_cursor);
        w->choice_cursor = 0;
    }
}

void decode_dialogue(struct decoder *d) {
    const struct memory_map *map = d->map;
    struct world *w = d->out;
    const uint8_t *text = ram_at(d->memory, map->at.dialogue_text, map->dialogue_bytes);
    const uint8_t *next = ram_at(d->memory, map->at.dialogue_next, 4), *flags = ram_at(d->memory, map->at.dialogue_flags, 2);
    const uint8_t *speaker = ram_at(d->memory, map->at.speaker, map->speaker_bytes);
    if (!text || !next || !flags || !speaker) return;
    uint32_t printed = ram_u32(next) - map->at.dialogue_text;
    if (printed > map->dialogue_bytes) {
        decode_note(w, "dialogue: next character at 0x%08X is outside the text, shown whole", ram_u32(next));
        printed = map->dialogue_bytes;
    }
    text_decode(text, printed, true, w->dialogue_text, sizeof w->dialogue_text);
    if (ram_u16(flags) & FLAG_SPEAKER) text_decode(speaker, map->speaker_bytes, false, w->speaker, sizeof w->speaker);
    if (w->dialogue_state == 4) decode_choices(d);
}

void decode_menu(struct decoder *d) {
    const struct memory_map *map = d->map;
    struct world *w = d->out;
    const uint8_t *menu = ram_at(d->memory, map->at.menu, map->menu.bytes);
    const uint8_t *rows = ram_at(d->memory, map->at.action_rows, MENU_ROW_BYTES * MAX_MENU_ROWS);
    const uint8_t *count = ram_at(d->memory, map->at.action_count, 4);
    if (!menu || !rows || !count) return;
    w->menu_cursor = ram_s16(menu + map->menu.cursor);
    w->menu_page = ram_s16(menu + map->menu.page);
    if (w->menu_cursor < 0 || w->menu_cursor > 63 || w->menu_page < 0 || w->menu_page > 63) {
        decode_note(w, "menu: cursor %d on page %d", w->menu_cursor, w->menu_page);
        w->menu_cursor = w->menu_page = 0;
    }
    int32_t n = ram_s32(count);
    if (n < 0 || n > MAX_MENU_ROWS) {
        decode_note(w, "menu: %d rows, at most %d", n, MAX_MENU_ROWS);
        n = 0;
    }
    for (int i = 0; i < n; i++, rows += MENU_ROW_BYTES) {
        w->actions[i].action = ram_u16(rows);
        w->actions[i].item = rows[2];
        w->actions[i].selectable = rows[3] != 0;
    }
    w->action_count = n;
}

/* A ring of 20 screen lines; a message takes as many slots as it has lines. */
void decode_log(struct decoder *d) {
    const struct memory_map *map = d->map;
    struct world *w = d->out;
    const uint8_t *ring = d->dungeon + map->dungeon.log;
    int next = ram_s16(d->dungeon + map->dungeon.log_next);
    if (next < 0 || next >= MAX_LOG) {
        decode_note(w, "message log: next slot is %d, expected 0 to %d", next, MAX_LOG - 1);
        next = 0;
    }
    for (int k = 0; k < MAX_LOG; k++) {
        const uint8_t *line = ring + map->log_line.bytes * (uint32_t)((next + k) % MAX_LOG);
        if (!line[map->log_line.used]) continue;
        bool starts = line[map->log_line.new_group] || line[map->log_line.first_line] || w->log_count == 0;
        if (starts) w->log_count++;
        char *message = w->log[w->log_count - 1];
        size_t used = strlen(message);
        if (!starts && used && used + 2 < sizeof w->log[0]) {
            message[used++] = ' ';
            message[used] = 0;
        }
        text_decode(line + map->log_line.text, map->log_line.text_bytes, false, message + used, sizeof w->log[0] - used);
    }
}
