/* text.c: words on the screen. A message goes to the log ring and to the strip at the bottom and costs no time; a
 * dialogue blocks until the player has read it. Lines are broken here, so that both show the same lines.
 */
#include <stdarg.h>
#include "game.h"

enum { LINE_CHARS = 34, STRIP_FRAMES = 240, STRIP_ROWS = 3, STRIP_HURRIED = 45, LETTERS_A_FRAME = 2,
       CLOSE_FRAMES = 4, RUN_THROUGH_FRAMES = 12 };

static u8 group_open;   /* a message of this turn was already written */

static void put_char(char **out, char *end, char c)
{
    if (*out < end)
        *(*out)++ = c;
}

static void put_number(char **out, char *end, int value)
{
    char digits[12];
    int n = 0;
    u32 left = value < 0 ? 0u - (u32)value : (u32)value;

    if (value < 0)
        put_char(out, end, '-');
    do {
        digits[n++] = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    while (n)
        put_char(out, end, digits[--n]);
}

static void format_list(char *out, int size, const char *format, va_list list)
{
    char *end = out + size - 1;

    for (; *format; format++) {
        if (*format != '%') {
            put_char(&out, end, *format);
            continue;
        }
        format++;
        if (*format == 'd') {
            put_number(&out, end, va_arg(list, int));
        } else if (*format == 's') {
            for (const char *s = va_arg(list, const char *); *s; s++)
                put_char(&out, end, *s);
        } else {
            put_char(&out, end, *format);
        }
    }
    *out = 0;
}

/* Understands %s, %d and %%; always ends with NUL within size bytes. */
void text_format(char *out, int size, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    format_list(out, size, format, list);
    va_end(list);
}

void window_field(void)
{
    G_WINDOW_MODE = D->strip_frames_left ? WINDOW_STRIP : G_OPTIONS->minimap ? WINDOW_FIELD_MAP : WINDOW_FIELD;
}

static void copy_line(char *to, const char *from, int length)
{
    for (int i = 0; i < length; i++)
        to[i] = from[i];
    to[length] = 0;
}

static void line_out(const char *text, int length, int first)
{
    struct log_line *slot = &D->log[D->log_next_slot];

    slot->used = 1;
    slot->new_group = (u8)(first && !group_open);
    slot->first_line = (u8)first;
    copy_line(slot->text, text, length);
    D->log_next_slot = (s16)((D->log_next_slot + 1) % LOG_LINES);

    copy_line(D->strip_lines[D->strip_write % STRIP_LINES], text, length);
    D->strip_write++;
    if (D->strip_write - D->strip_read > STRIP_ROWS)
        D->strip_read = (s16)(D->strip_write - STRIP_ROWS);
}

void message(const char *format, ...)
{
    char text[160];
    const char *rest = text;
    int first = 1;
    va_list list;

    va_start(list, format);
    format_list(text, sizeof text, format, list);
    va_end(list);
    while (*rest) {
        int length = 0, last_space = 0;

        while (rest[length] && rest[length] != '\n' && length < LINE_CHARS) {
            if (rest[length] == ' ')
                last_space = length;
            length++;
        }
        if (rest[length] && rest[length] != '\n' && rest[length] != ' ' && last_space)
            length = last_space;
        line_out(rest, length, first);
        first = 0;
        rest += length;
        if (*rest)
            rest++;
    }
    group_open = 1;
    D->strip_frames_left = STRIP_FRAMES;
    D->strip_state = 2;
    if (G_WINDOW_MODE == WINDOW_FIELD || G_WINDOW_MODE == WINDOW_FIELD_MAP)
        window_field();
}

void message_new_turn(void)
{
    group_open = 0;
}

void strip_close(void)
{
    D->strip_frames_left = 0;
    D->strip_state = 0;
    D->strip_read = D->strip_write = 0;
    if (G_WINDOW_MODE == WINDOW_STRIP)
        window_field();
}

void strip_tick(void)
{
    if (D->strip_frames_left > 0 && --D->strip_frames_left == 0)
        strip_close();
    if (D->strip_frames_left > 0 && D->strip_frames_left < STRIP_FRAMES - 8)
        D->strip_state = 0;
}

/* The leader walked on without news: what is on the strip has been read. */
void strip_hurry(void)
{
    if (D->strip_frames_left > STRIP_HURRIED)
        D->strip_frames_left = STRIP_HURRIED;
}

/* Prints from `next` to the end of the text or the next #P; A or B prints the rest of the page at once. */
static char *print_page(char *next)
{
    int at_once = 0;

    G_DIALOGUE_STATE = DIALOGUE_PRINT;
    while (*next && !(next[0] == '#' && next[1] == 'P')) {
        int letters = at_once ? 1000 : LETTERS_A_FRAME;

        for (; letters && *next && !(next[0] == '#' && next[1] == 'P'); letters--)
            next++;
        G_DIALOGUE_NEXT = next;
        frame();
        if (keys_pressed() & (KEY_A | KEY_B))
            at_once = 1;
    }
    return next;
}

static void wait_for_reader(int state)
{
    int b_held = 0;

    G_DIALOGUE_STATE = state;
    for (;;) {
        frame();
        b_held = keys_held() & KEY_B ? b_held + 1 : 0;
        if (keys_pressed() & (KEY_A | KEY_B) || b_held >= RUN_THROUGH_FRAMES)
            break;
    }
    keys_consume();
}

void dialogue(const char *text)
{
    char *buffer = G_DIALOGUE_TEXT, *next = buffer;

    for (int i = 0; i < 999; i++) {
        buffer[i] = text[i];
        buffer[i + 1] = 0;
        if (!text[i])
            break;
    }
    if (D->strip_frames_left)
        strip_close();
    G_DIALOGUE_FLAGS = 0x141;
    G_DIALOGUE_NEXT = next;
    G_WINDOW_MODE = WINDOW_DIALOGUE;
    D->dialogue_box_open = 1;
    for (;;) {
        next = print_page(next);
        if (!*next)
            break;
        wait_for_reader(DIALOGUE_WAIT_MID);
        next += 2;
        if (*next == '\n')
            next++;
        G_DIALOGUE_NEXT = next;
    }
    wait_for_reader(DIALOGUE_WAIT_END);
    G_DIALOGUE_STATE = DIALOGUE_CLOSE;
    frames(CLOSE_FRAMES);
    G_DIALOGUE_STATE = DIALOGUE_NONE;
    D->dialogue_box_open = 0;
    window_field();
}
