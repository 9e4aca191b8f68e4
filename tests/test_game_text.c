/* The game's text encoding. */
#include "test.h"

#include "base/utf8.h"
#include "game/world.h"

static void expect(const char *bytes, const char *text) {
    char out[256];
    size_t n = game_text_decode((const uint8_t *)bytes, strlen(bytes), out, sizeof out);
    assert_string_equal(out, text);
    assert_int_equal(n, strlen(text));
}

static void test_characters(void **state) {
    (void)state;
    expect("", "");
    expect("Plain ASCII, 1-9!?", "Plain ASCII, 1-9!?");
    expect("Pok\xE9mon \xBD\xBE \x85", "Pokémon ♂♀ …");
    expect("It~27s ~22here~22~2c ~93yes~94 ~", "It's \"here\", “yes” ~");
    expect("~2 ~zz", "~2 ~zz");
    expect("a`b", "a b");
    expect("one\ntwo\rthree\x1D""four", "one\ntwo\nthree\nfour");
    expect("end\x1Bnot this", "end");
    expect("\x80\x99\xFF", "€™ÿ");
}

static void test_icons_and_japanese(void **state) {
    (void)state;
    expect("Press \x87\x50, \x87\x51 or \x87\x52!", "Press A, B or +!");
    expect("\x84\x86 \x87\x74 \x87\x53\x87\x71 \x87\x72\x87\x73", "R L START SELECT");
    expect("10 \x83\xBF\x83\xC4", "10 Poké");
    expect("\x82\xA0\x83\x41\x83\x80\x82\x4F\x82\x60\x81\xF4", "あアム０Ａ♪");
    expect("\x87\xFF\x83", ""); /* an unknown icon; a lead byte alone */
}

static void test_layout_codes(void **state) {
    (void)state;
    expect("#CFred#R and #cNyellow#r", "red and yellow");
    expect("#+centred#nline", "centred\nline");
    expect("one#Ptwo#pthree", "one\ntwo\nthree");
    expect("last page#P", "last page");
    expect("a#Wb#=x.c#=xd#yzd#>120.e#~\x05" "f#_ag#.bh##i", "abcddefgh#i");
    expect("#[callback]x#S12y", "xy");
    expect("#", "");
    expect("#C", "");
    expect("#[never closed", "");
    expect("#>123", "");
}

static void test_limits(void **state) {
    (void)state;
    char out[8];
    memset(out, 'x', sizeof out);
    assert_int_equal(game_text_decode((const uint8_t *)"\xE9\xE9\xE9\xE9\xE9", 5, out, 6), 4); /* whole characters only */
    assert_string_equal(out, "éé");
    assert_int_equal(game_text_decode((const uint8_t *)"abc", 3, out, 1), 0);
    assert_string_equal(out, "");
    assert_int_equal(game_text_decode((const uint8_t *)"abc", 3, out, 0), 0);
    assert_int_equal(game_text_decode((const uint8_t *)"ab\0cd", 5, out, sizeof out), 2);
}

static void test_anything_becomes_valid_utf8(void **state) {
    (void)state;
    uint32_t random = 3;
    for (int n = 0; n < 20000; n++) {
        uint8_t bytes[80];
        char out[64];
        for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)((random = random * 1566083941 + 1) >> 16);
        size_t cap = random >> 8 & 63, length = game_text_decode(bytes, random >> 16 & 63, out, cap);
        if (!cap) continue;
        assert_true(length < cap);
        assert_int_equal(strlen(out), length);
        assert_int_equal(utf8_valid_prefix(out, length), length);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_characters), cmocka_unit_test(test_icons_and_japanese), cmocka_unit_test(test_layout_codes),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_anything_becomes_valid_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
