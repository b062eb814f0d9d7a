#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static void test_hash_sha256_of_abc_is_the_fips_180_vector(void **state)
{
    (void)state;
    static const uint8_t expected[32] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea,
                                         0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
                                         0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c,
                                         0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    uint8_t digest[32];
    hash_sha256("abc", 3, digest);
    assert_memory_equal(digest, expected, 32);
}

struct key_input {
    uint8_t secret[32], salt[16];
    struct hash128 model, parent;
    uint32_t tokens[130];
};

static struct hash128 key_of(const struct key_input *in, uint32_t n_tokens)
{
    struct hash128 key;
    hash_block_key(in->secret, in->salt, &in->model, &in->parent, in->tokens, n_tokens, &key);
    return key;
}

static void test_hash_block_key_is_sha256_of_the_joined_parts(void **state)
{
    (void)state;
    struct key_input in;
    for (size_t i = 0; i < sizeof(in); i++)
        ((uint8_t *)&in)[i] = (uint8_t)(i * 7 + 1);
    uint8_t digest[32];
    hash_sha256(&in, sizeof(in), digest); /* the struct has no padding, tokens little endian */
    struct hash128 key = key_of(&in, 130);
    assert_memory_equal(key.bytes, digest, 16);
}

static void test_hash_block_key_changes_with_every_input(void **state)
{
    (void)state;
    struct key_input in = {{0}, {0}, {{0}}, {{0}}, {0}};
    struct hash128 base = key_of(&in, 64), other;
    uint8_t *bytes = (uint8_t *)&in;
    for (size_t i = 0; i < offsetof(struct key_input, tokens) + 64 * sizeof(uint32_t); i++) {
        bytes[i] ^= 1;
        other = key_of(&in, 64);
        assert_false(hash128_equal(&base, &other));
        bytes[i] ^= 1;
    }
    other = key_of(&in, 63);
    assert_false(hash128_equal(&base, &other));
    hash_block_key(in.secret, in.salt, &in.model, NULL, in.tokens, 64, &other);
    assert_true(hash128_equal(&base, &other)); /* no parent counts as sixteen zero bytes */
}

static void test_hash_bytes_depends_on_each_byte_and_on_the_length(void **state)
{
    (void)state;
    uint8_t data[40] = {0};
    for (size_t n = 0; n < sizeof(data); n++) {
        uint64_t h = hash_bytes(data, n);
        assert_true(h != hash_bytes(data, n + 1));
        for (size_t i = 0; i < n; i++) {
            data[i] = 1;
            assert_true(h != hash_bytes(data, n));
            data[i] = 0;
        }
    }
}

static void test_hash_mix64_matches_splitmix64(void **state)
{
    (void)state;
    assert_true(hash_mix64(0) == 0xe220a8397b1dcdafu); /* first output of splitmix64, seed 0 */
    assert_true(hash_combine(1, 2) != hash_combine(2, 1));
    struct hash128 h = {{1, 2, 3, 4, 5, 6, 7, 8, 9}};
    assert_true(hash128_low64(&h) == 0x0807060504030201u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_sha256_of_abc_is_the_fips_180_vector),
        cmocka_unit_test(test_hash_block_key_is_sha256_of_the_joined_parts),
        cmocka_unit_test(test_hash_block_key_changes_with_every_input),
        cmocka_unit_test(test_hash_bytes_depends_on_each_byte_and_on_the_length),
        cmocka_unit_test(test_hash_mix64_matches_splitmix64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
