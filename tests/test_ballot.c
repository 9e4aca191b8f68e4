/* Best of n: which answer is taken. */
#include "test.h"

#include "agent/ballot.h"

static void majority(void **state) {
    (void)state;
    struct vote votes[VOTE_MAX];
    int count;
    const struct ballot b[] = {{"a", -0.1}, {"b", -3}, {"b", -4}, {NULL, 0}, {"c", -0.05}};
    assert_int_equal(vote_count(b, 5, false, votes, &count), 1); /* b, its first ballot */
    assert_int_equal(count, 3);
    assert_string_equal(votes[1].answer, "b");
    assert_int_equal(votes[1].count, 2);
    assert_true(votes[1].log_probability == -7);
    assert_int_equal(vote_count(b, 5, true, votes, &count), 4); /* exp(-0.05) is more than exp(-0.1), and than exp(-3) + exp(-4) */
}

static void ties(void **state) {
    (void)state;
    struct vote votes[VOTE_MAX];
    int count;
    const struct ballot b[] = {{"a", -2}, {"b", -1}, {"a", -2}, {"b", -1.5}};
    assert_int_equal(vote_count(b, 4, false, votes, &count), 1); /* the likelier pair */
    const struct ballot same[] = {{"x", -1}, {"y", -1}};
    assert_int_equal(vote_count(same, 2, false, votes, &count), 0); /* who came first */
    const struct ballot none[] = {{NULL, 0}, {NULL, -1}};
    assert_int_equal(vote_count(none, 2, false, votes, &count), -1);
    assert_int_equal(count, 0);
    struct ballot many[100];
    for (int i = 0; i < 100; i++) many[i] = (struct ballot){i & 1 ? "p" : "q", 0};
    vote_count(many, 100, false, votes, &count); /* no more than VOTE_MAX are looked at */
    assert_int_equal(votes[0].count + votes[1].count, VOTE_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(majority), cmocka_unit_test(ties)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
