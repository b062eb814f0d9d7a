/* The codec: every message survives a round trip, every damaged frame is refused, no read passes
 * the end. Damage is systematic: each truncation and each byte of each sample frame. */
#include "support/wire_samples.h"
#include "wire/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void encode_sample(enum wire_type type, struct wire_link *link, struct buf *out)
{
    struct wire_msg msg;
    wire_sample(type, &msg);
    assert_int_equal(wire_encode(&msg, link, out), ST_OK);
}

static void test_wire_each_type_round_trips_to_the_same_bytes(void **state)
{
    (void)state;
    for (enum wire_type type = WIRE_HELLO; type < WIRE_TYPE_END; type++) {
        struct buf first, second;
        struct arena scratch;
        struct wire_link link = {0};
        struct wire_msg msg;
        uint64_t sequence = 0;
        size_t frame_bytes = 0;
        buf_init(&first, 1 << 20);
        buf_init(&second, 1 << 20);
        arena_init(&scratch, 1 << 20);
        encode_sample(type, &link, &first);
        assert_int_equal(wire_frame_size(first.data, first.len, &frame_bytes), ST_OK);
        assert_int_equal(frame_bytes, first.len);
        assert_int_equal(wire_decode(first.data, first.len, &scratch, &msg, &sequence), ST_OK);
        assert_int_equal(sequence, 1);
        assert_int_equal(msg.type, type);
        link = (struct wire_link){0};
        assert_int_equal(wire_encode(&msg, &link, &second), ST_OK);
        assert_int_equal(first.len, second.len);
        assert_memory_equal(first.data, second.data, first.len);
        buf_deinit(&first);
        buf_deinit(&second);
        arena_deinit(&scratch);
    }
}

static void test_wire_reserve_keeps_every_field(void **state)
{
    (void)state;
    struct wire_msg in, msg;
    struct buf frame;
    struct arena scratch;
    struct wire_link link = {0};
    buf_init(&frame, 1 << 20);
    arena_init(&scratch, 1 << 20);
    wire_sample(WIRE_RESERVE, &in);
    assert_int_equal(wire_encode(&in, &link, &frame), ST_OK);
    assert_int_equal(wire_decode(frame.data, frame.len, &scratch, &msg, NULL), ST_OK);
    const struct wire_job *a = &in.u.reserve.job, *b = &msg.u.reserve.job;
    assert_true(wire_seq_equal(&a->seq, &b->seq));
    assert_memory_equal(a->salt, b->salt, 16);
    assert_int_equal(a->n_prompt, b->n_prompt);
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_memory_equal(a->tokens, b->tokens, a->n_tokens * sizeof(uint32_t));
    assert_memory_equal(&a->sampling.temperature, &b->sampling.temperature, sizeof(float));
    assert_int_equal(a->sampling.seed, b->sampling.seed);
    assert_int_equal(a->sampling.n_stop_ids, b->sampling.n_stop_ids);
    assert_int_equal(a->sampling.stop_ids[1], b->sampling.stop_ids[1]);
    assert_int_equal(in.u.reserve.local, msg.u.reserve.local);
    buf_deinit(&frame);
    arena_deinit(&scratch);
}

static void test_wire_decode_when_truncated_anywhere_fails(void **state)
{
    (void)state;
    for (enum wire_type type = WIRE_HELLO; type < WIRE_TYPE_END; type++) {
        struct buf frame;
        struct wire_link link = {0};
        buf_init(&frame, 1 << 20);
        encode_sample(type, &link, &frame);
        for (size_t bytes = 0; bytes < frame.len; bytes++) {
            struct wire_msg msg;
            struct arena scratch;
            size_t size;
            uint8_t *exact = malloc(bytes > 0 ? bytes : 1); /* so that a sanitizer sees overreads */
            assert_non_null(exact);
            memcpy(exact, frame.data, bytes);
            arena_init(&scratch, 1 << 20);
            assert_int_equal(wire_frame_size(exact, bytes, &size), ST_AGAIN);
            assert_int_not_equal(wire_decode(exact, bytes, &scratch, &msg, NULL), ST_OK);
            if (bytes >=
                WIRE_HEADER_BYTES) { /* a header that tells the truth about a short payload */
                uint32_t payload = (uint32_t)(bytes - WIRE_HEADER_BYTES);
                for (unsigned i = 0; i < 4; i++)
                    exact[8 + i] = (uint8_t)(payload >> (8 * i));
                assert_int_not_equal(wire_decode(exact, bytes, &scratch, &msg, NULL), ST_OK);
            }
            arena_deinit(&scratch);
            free(exact);
        }
        buf_deinit(&frame);
    }
}

static void test_wire_decode_with_any_byte_flipped_stays_in_bounds(void **state)
{
    (void)state;
    unsigned n_refused = 0;
    for (enum wire_type type = WIRE_HELLO; type < WIRE_TYPE_END; type++) {
        struct buf frame;
        struct wire_link link = {0};
        struct arena scratch;
        buf_init(&frame, 1 << 20);
        arena_init(&scratch, 1 << 20);
        encode_sample(type, &link, &frame);
        for (size_t i = 0; i < frame.len; i++) {
            struct wire_msg msg;
            frame.data[i] ^= 0xff;
            n_refused += wire_decode(frame.data, frame.len, &scratch, &msg, NULL) != ST_OK;
            frame.data[i] ^= 0xff;
            arena_reset(&scratch);
        }
        buf_deinit(&frame);
        arena_deinit(&scratch);
    }
    assert_true(n_refused >
                16 * (WIRE_TYPE_END - 1)); /* at least magic, version, type, length, reserved */
}

static void test_wire_decode_refuses_bytes_left_over(void **state)
{
    (void)state;
    struct buf frame;
    struct wire_link link = {0};
    struct arena scratch;
    struct wire_msg msg;
    buf_init(&frame, 1 << 20);
    arena_init(&scratch, 1 << 20);
    encode_sample(WIRE_CANCEL, &link, &frame);
    assert_int_equal(buf_append(&frame, "x", 1), ST_OK);
    assert_int_equal(wire_decode(frame.data, frame.len, &scratch, &msg, NULL), ST_PARSE);
    frame.data[8]++; /* now the header counts it */
    assert_int_equal(wire_decode(frame.data, frame.len, &scratch, &msg, NULL), ST_PARSE);
    buf_deinit(&frame);
    arena_deinit(&scratch);
}

static void test_wire_decode_refuses_nan_role_and_empty_entries(void **state)
{
    (void)state;
    struct buf frame;
    struct wire_link link = {0};
    struct wire_msg msg;
    buf_init(&frame, 1 << 20);
    wire_sample(WIRE_RESERVE, &msg);
    msg.u.reserve.job.sampling.temperature = __builtin_nanf("");
    assert_int_equal(wire_encode(&msg, &link, &frame), ST_INVALID);
    wire_sample(WIRE_RESERVE, &msg);
    msg.u.reserve.job.n_prompt = msg.u.reserve.job.n_tokens + 1;
    assert_int_equal(wire_encode(&msg, &link, &frame), ST_INVALID);
    wire_sample(WIRE_HELLO, &msg);
    memset(msg.u.hello.name, 'x', sizeof(msg.u.hello.name));
    assert_int_equal(wire_encode(&msg, &link, &frame), ST_INVALID);
    assert_int_equal(frame.len, 0);
    assert_int_equal(link.sequence_sent, 0);
    buf_deinit(&frame);
}

static void test_wire_frame_size_names_foreign_and_newer_peers(void **state)
{
    (void)state;
    struct buf frame;
    struct wire_link link = {0};
    size_t size;
    buf_init(&frame, 1 << 20);
    encode_sample(WIRE_STATS, &link, &frame);
    frame.data[4] = WIRE_VERSION_MAX + 1;
    assert_int_equal(wire_frame_size(frame.data, frame.len, &size), ST_VERSION);
    frame.data[4] = WIRE_VERSION_MAX;
    frame.data[11] = 0x7f;
    assert_int_equal(wire_frame_size(frame.data, frame.len, &size), ST_TOO_LARGE);
    assert_int_equal(
        wire_frame_size((const uint8_t *)"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27, &size), ST_PARSE);
    buf_deinit(&frame);
}

static void test_wire_link_accept_drops_repeats_and_old_frames(void **state)
{
    (void)state;
    struct wire_link link = {0};
    assert_true(wire_link_accept(&link, 1));
    assert_true(wire_link_accept(&link, 3)); /* 2 was lost */
    assert_false(wire_link_accept(&link, 3));
    assert_false(wire_link_accept(&link, 2));
    assert_true(wire_link_accept(&link, 4));
}

static void test_wire_chain_hash_tells_order_length_and_salt_apart(void **state)
{
    (void)state;
    const uint32_t tokens[] = {1, 2, 3}, swapped[] = {2, 1, 3};
    const uint8_t salt_a[16] = {1}, salt_b[16] = {2};
    struct hash128 h, other;
    wire_chain_hash(salt_a, tokens, 3, &h);
    wire_chain_hash(salt_a, tokens, 3, &other);
    assert_true(hash128_equal(&h, &other));
    wire_chain_hash(salt_a, swapped, 3, &other);
    assert_false(hash128_equal(&h, &other));
    wire_chain_hash(salt_a, tokens, 2, &other);
    assert_false(hash128_equal(&h, &other));
    wire_chain_hash(salt_b, tokens, 3, &other);
    assert_false(hash128_equal(&h, &other));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wire_each_type_round_trips_to_the_same_bytes),
        cmocka_unit_test(test_wire_reserve_keeps_every_field),
        cmocka_unit_test(test_wire_decode_when_truncated_anywhere_fails),
        cmocka_unit_test(test_wire_decode_with_any_byte_flipped_stays_in_bounds),
        cmocka_unit_test(test_wire_decode_refuses_bytes_left_over),
        cmocka_unit_test(test_wire_decode_refuses_nan_role_and_empty_entries),
        cmocka_unit_test(test_wire_frame_size_names_foreign_and_newer_peers),
        cmocka_unit_test(test_wire_link_accept_drops_repeats_and_old_frames),
        cmocka_unit_test(test_wire_chain_hash_tells_order_length_and_salt_apart),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
