#include "text/detok.h"

#include "base/json.h"
#include "tests/support/tokenizer_json.h"

#include <stdlib.h>

/* A tokenizer whose id b is the byte b, id 256 a special token and id 257 two bytes of a character.
 */
static int setup(void **state)
{
    static char vocab[8192];
    size_t at = 0;
    uint32_t n_moved = 0;
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        at += (size_t)snprintf(vocab + at, sizeof(vocab) - at, "%s\"\\u%04x\":%u",
                               byte == 0 ? "{" : ",", prints ? byte : 0x100 + n_moved, byte);
        n_moved += !prints;
    }
    snprintf(vocab + at, sizeof(vocab) - at, ",\"\\u00e2\\u0124\":257}"); /* e2 82 */
    *state = tokenizer_json_load(&(struct tokenizer_json){
        .vocab = vocab,
        .merges = "[]",
        .added = "[{\"id\":256,\"content\":\"<end>\",\"special\":true,\"normalized\":false}]",
    });
    return 0;
}

static int teardown(void **state)
{
    tokenizer_free(*state);
    return 0;
}

static void expect_text(const struct buf *buf, const char *want)
{
    assert_int_equal(buf->len, strlen(want));
    if (buf->len > 0)
        assert_memory_equal(buf->data, want, buf->len);
}

static void test_detok_feed_waits_for_whole_character(void **state)
{
    struct detok d;
    struct buf out;
    buf_init(&out, 64);
    detok_init(&d, *state, false);
    assert_int_equal(detok_feed(&d, 257, &out), ST_OK);
    expect_text(&out, "");
    assert_int_equal(detok_feed(&d, 0xac, &out), ST_OK);
    expect_text(&out, "\xe2\x82\xac");
    assert_int_equal(detok_flush(&d, &out), ST_OK);
    expect_text(&out, "\xe2\x82\xac");
    buf_deinit(&out);
}

static void test_detok_flush_replaces_unfinished_character_once(void **state)
{
    struct detok d;
    struct buf out;
    buf_init(&out, 64);
    detok_init(&d, *state, false);
    for (const char *p = "\xf0\x9f\x98"; *p != '\0'; p++)
        assert_int_equal(detok_feed(&d, (uint8_t)*p, &out), ST_OK);
    expect_text(&out, "");
    assert_int_equal(detok_flush(&d, &out), ST_OK);
    assert_int_equal(detok_flush(&d, &out), ST_OK);
    expect_text(&out, "\xef\xbf\xbd");
    buf_deinit(&out);
}

static void test_detok_special_tokens_are_kept_or_skipped(void **state)
{
    struct detok d;
    struct buf out;
    buf_init(&out, 64);
    detok_init(&d, *state, true);
    assert_int_equal(detok_feed(&d, 'a', &out), ST_OK);
    assert_int_equal(detok_feed(&d, 256, &out), ST_OK);
    assert_int_equal(detok_feed(&d, 99999, &out), ST_OK); /* no such id */
    expect_text(&out, "a");
    detok_init(&d, *state, false);
    assert_int_equal(detok_feed(&d, 256, &out), ST_OK);
    expect_text(&out, "a<end>");
    buf_deinit(&out);
}

static void test_detok_feed_without_room_changes_nothing(void **state)
{
    struct detok d;
    struct buf out;
    buf_init(&out, 8);
    detok_init(&d, *state, false);
    assert_int_equal(detok_feed(&d, 0xc3, &out), ST_OK);
    assert_int_equal(detok_feed(&d, 256, &out), ST_TOO_LARGE);
    expect_text(&out, "");
    assert_int_equal(detok_feed(&d, 0xa9, &out), ST_OK);
    expect_text(&out, "\xc3\xa9");
    buf_deinit(&out);
}

/* Replacement by its definition: the longest prefix of something valid, or one byte. */
static void naive_replace(const uint8_t *p, size_t n, struct buf *out)
{
    for (size_t at = 0; at < n;) {
        size_t best = 0;
        bool valid = false;
        for (size_t len = 1; len <= 4 && at + len <= n && !valid; len++) {
            if (utf8_valid_prefix(p + at, len) == len) {
                best = len;
                valid = true;
                break;
            }
            /* Could these bytes begin a character? Try all that could follow. */
            static const uint8_t fill[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf};
            bool could = false;
            for (size_t a = 0; a < sizeof(fill) && len < 4; a++) {
                uint8_t probe[4] = {0};
                memcpy(probe, p + at, len);
                memset(probe + len, 0x80, 4 - len);
                probe[len] = fill[a];
                size_t got = utf8_valid_prefix(probe, 4);
                could |= got > len;
            }
            if (!could)
                break;
            best = len;
        }
        if (valid)
            assert_int_equal(buf_append(out, p + at, best), ST_OK);
        else
            assert_int_equal(buf_append(out, "\xef\xbf\xbd", 3), ST_OK);
        at += best > 0 ? best : 1;
    }
}

static void test_detok_any_bytes_equal_decoding_at_once(void **state)
{
    static const uint8_t likely[] = {0x20, 0x41, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2,
                                     0xdf, 0xe0, 0xe2, 0xed, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff};
    unsigned seed = 11;
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[12];
        size_t n = (size_t)rand_r(&seed) % sizeof(bytes) + 1;
        struct detok d;
        struct buf got, want;
        buf_init(&got, 256);
        buf_init(&want, 256);
        detok_init(&d, *state, false);
        for (size_t i = 0; i < n; i++) {
            bytes[i] = likely[(size_t)rand_r(&seed) % sizeof(likely)];
            assert_int_equal(detok_feed(&d, bytes[i], &got), ST_OK);
            if (got.len > 0) /* whole characters at every moment */
                assert_int_equal(utf8_valid_prefix(got.data, got.len), got.len);
        }
        assert_int_equal(detok_flush(&d, &got), ST_OK);
        naive_replace(bytes, n, &want);
        assert_int_equal(got.len, want.len);
        assert_memory_equal(got.data, want.data, want.len);
        buf_deinit(&got);
        buf_deinit(&want);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_detok_feed_waits_for_whole_character),
        cmocka_unit_test(test_detok_flush_replaces_unfinished_character_once),
        cmocka_unit_test(test_detok_special_tokens_are_kept_or_skipped),
        cmocka_unit_test(test_detok_feed_without_room_changes_nothing),
        cmocka_unit_test(test_detok_any_bytes_equal_decoding_at_once),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
