#include "text/stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct stop *make(const char *const *texts, uint32_t n)
{
    struct stop_string strings[STOP_STRINGS_MAX];
    struct stop *stop = NULL;
    for (uint32_t i = 0; i < n; i++)
        strings[i] = (struct stop_string){texts[i], strlen(texts[i])};
    assert_int_equal(stop_create(strings, n, &stop), ST_OK);
    return stop;
}

/* Feeds one chunk and compares all text so far and the match. */
static void feed(struct stop *stop, struct buf *out, const char *chunk, const char *want,
                 int32_t want_match)
{
    int32_t match;
    assert_int_equal(stop_feed(stop, chunk, strlen(chunk), out, &match), ST_OK);
    assert_int_equal(out->len, strlen(want));
    if (out->len > 0)
        assert_memory_equal(out->data, want, out->len);
    assert_int_equal(match, want_match);
}

static void test_stop_feed_holds_back_what_may_begin_a_stop(void **state)
{
    (void)state;
    struct stop *stop = make((const char *[]){"END"}, 1);
    struct buf out;
    buf_init(&out, 64);
    feed(stop, &out, "abcE", "abc", -1);
    assert_int_equal(stop_held_bytes(stop), 1);
    feed(stop, &out, "N", "abc", -1);
    feed(stop, &out, "x", "abcENx", -1);
    feed(stop, &out, "E", "abcENx", -1);
    feed(stop, &out, "NDrest", "abcENx", 0);
    feed(stop, &out, "more", "abcENx", -1); /* ignored after the match */
    assert_int_equal(stop_flush(stop, &out), ST_OK);
    assert_int_equal(out.len, 6);
    buf_deinit(&out);
    stop_destroy(stop);
}

static void test_stop_flush_gives_back_held_text(void **state)
{
    (void)state;
    struct stop *stop = make((const char *[]){"\n\nUser:"}, 1);
    struct buf out;
    buf_init(&out, 64);
    feed(stop, &out, "hi\n\nUs", "hi", -1);
    assert_int_equal(stop_flush(stop, &out), ST_OK);
    assert_memory_equal(out.data, "hi\n\nUs", 6);
    assert_int_equal(stop_held_bytes(stop), 0);
    buf_deinit(&out);
    stop_destroy(stop);
}

static void test_stop_overlapping_prefixes_find_late_start(void **state)
{
    (void)state;
    struct stop *stop = make((const char *[]){"aab"}, 1);
    struct buf out;
    buf_init(&out, 64);
    feed(stop, &out, "aa", "", -1);
    feed(stop, &out, "a", "a", -1);
    feed(stop, &out, "b", "a", 0);
    buf_deinit(&out);
    stop_destroy(stop);
}

static void test_stop_first_end_wins_then_longest(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 64);
    struct stop *stop = make((const char *[]){"abcd", "bc"}, 2);
    feed(stop, &out, "xabcd", "xa", 1);
    stop_destroy(stop);
    out.len = 0;
    stop = make((const char *[]){"c", "abc"}, 2);
    feed(stop, &out, "xabc", "x", 1);
    stop_destroy(stop);
    buf_deinit(&out);
}

static void test_stop_reset_starts_over(void **state)
{
    (void)state;
    struct stop *stop = make((const char *[]){"X"}, 1);
    struct buf out;
    buf_init(&out, 64);
    feed(stop, &out, "aXb", "a", 0);
    stop_reset(stop);
    feed(stop, &out, "cX", "ac", 0);
    buf_deinit(&out);
    stop_destroy(stop);
    stop_destroy(NULL);
}

static void test_stop_without_strings_passes_all_text(void **state)
{
    (void)state;
    struct stop *stop = NULL;
    struct buf out;
    buf_init(&out, 64);
    assert_int_equal(stop_create(NULL, 0, &stop), ST_OK);
    feed(stop, &out, "abc", "abc", -1);
    feed(stop, &out, "", "abc", -1);
    assert_int_equal(stop_flush(stop, &out), ST_OK);
    buf_deinit(&out);
    stop_destroy(stop);
}

static void test_stop_create_refuses_bad_strings(void **state)
{
    (void)state;
    static char text[STOP_BYTES_MAX + 1];
    struct stop_string strings[STOP_STRINGS_MAX + 1];
    struct stop *stop = NULL;
    memset(text, 'a', sizeof(text));
    for (size_t i = 0; i <= STOP_STRINGS_MAX; i++)
        strings[i] = (struct stop_string){text, 1};
    assert_int_equal(stop_create(strings, STOP_STRINGS_MAX + 1, &stop), ST_TOO_LARGE);
    strings[0].bytes = STOP_BYTES_MAX + 1;
    assert_int_equal(stop_create(strings, 1, &stop), ST_TOO_LARGE);
    strings[0].bytes = 0;
    assert_int_equal(stop_create(strings, 1, &stop), ST_INVALID);
    strings[0] = (struct stop_string){"\x80x", 2};
    assert_int_equal(stop_create(strings, 1, &stop), ST_INVALID);
    assert_null(stop);
    strings[0] = (struct stop_string){text, STOP_BYTES_MAX};
    assert_int_equal(stop_create(strings, STOP_STRINGS_MAX, &stop), ST_OK);
    stop_destroy(stop);
}

static void test_stop_feed_without_room_changes_nothing(void **state)
{
    (void)state;
    struct stop *stop = make((const char *[]){"END"}, 1);
    struct buf out;
    int32_t match;
    buf_init(&out, 4);
    feed(stop, &out, "EN", "", -1);
    assert_int_equal(stop_feed(stop, "abc", 3, &out, &match), ST_TOO_LARGE);
    assert_int_equal(stop_held_bytes(stop), 2);
    feed(stop, &out, "D", "", 0);
    buf_deinit(&out);
    stop_destroy(stop);
}

/* Where the definition says the first match begins and ends; SIZE_MAX without one. */
static size_t naive_find(const char *text, size_t n, const char *const *stops, uint32_t n_stops,
                         int32_t *out_match)
{
    for (size_t end = 1; end <= n; end++) {
        int32_t best = -1;
        for (uint32_t i = 0; i < n_stops; i++) {
            size_t len = strlen(stops[i]);
            if (len <= end && memcmp(text + end - len, stops[i], len) == 0 &&
                (best < 0 || len > strlen(stops[best])))
                best = (int32_t)i;
        }
        if (best >= 0) {
            *out_match = best;
            return end - strlen(stops[best]);
        }
    }
    *out_match = -1;
    return SIZE_MAX;
}

static void test_stop_any_chunking_equals_definition(void **state)
{
    (void)state;
    static const char *const pool[] = {"ab", "aab", "abab", "bba", "aaaa", "ababb", "bb", "baaab"};
    unsigned seed = 5;
    for (int round = 0; round < 20000; round++) {
        const char *stops[3];
        char text[24];
        uint32_t n_stops = (uint32_t)rand_r(&seed) % 3 + 1;
        for (uint32_t i = 0; i < n_stops; i++)
            stops[i] = pool[rand_r(&seed) % 8];
        for (uint32_t i = 1; i < n_stops; i++)
            if (stops[i] == stops[0])
                n_stops = i; /* equal strings would leave the index open */
        if (n_stops == 3 && stops[1] == stops[2])
            n_stops = 2;
        for (size_t i = 0; i < sizeof(text); i++)
            text[i] = rand_r(&seed) % 5 == 0 ? 'c' : "ab"[rand_r(&seed) % 2];
        int32_t want_match, match = -1;
        size_t want = naive_find(text, sizeof(text), stops, n_stops, &want_match);
        struct stop *stop = make(stops, n_stops);
        struct buf out;
        buf_init(&out, 64);
        for (size_t at = 0; at < sizeof(text) && match < 0;) {
            size_t n = (size_t)rand_r(&seed) % 5 + 1;
            if (n > sizeof(text) - at)
                n = sizeof(text) - at;
            assert_int_equal(stop_feed(stop, text + at, n, &out, &match), ST_OK);
            at += n;
            assert_true(out.len <= at);
            if (out.len > 0)
                assert_memory_equal(out.data, text, out.len);
        }
        assert_int_equal(match, want_match);
        assert_int_equal(stop_flush(stop, &out), ST_OK);
        assert_int_equal(out.len, want == SIZE_MAX ? sizeof(text) : want);
        buf_deinit(&out);
        stop_destroy(stop);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_feed_holds_back_what_may_begin_a_stop),
        cmocka_unit_test(test_stop_flush_gives_back_held_text),
        cmocka_unit_test(test_stop_overlapping_prefixes_find_late_start),
        cmocka_unit_test(test_stop_first_end_wins_then_longest),
        cmocka_unit_test(test_stop_reset_starts_over),
        cmocka_unit_test(test_stop_without_strings_passes_all_text),
        cmocka_unit_test(test_stop_create_refuses_bad_strings),
        cmocka_unit_test(test_stop_feed_without_room_changes_nothing),
        cmocka_unit_test(test_stop_any_chunking_equals_definition),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
