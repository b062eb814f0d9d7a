#include "transport/transport.h"
#include "transport/ucx_blob.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- pools ---- */

static void test_window_base_of_each_pool_is_constant_and_one_stride_apart(void **state)
{
    (void)state;
    assert_int_equal(kv_window_base(0), 0x7e9000000000ull); /* of the protocol: never to change */
    for (uint32_t i = 1; i < 16; i++)
        assert_int_equal(kv_window_base(i) - kv_window_base(i - 1), 16ull << 30);
}

static void test_pool_map_gives_zeroed_resident_memory_at_window_base(void **state)
{
    (void)state;
    const size_t bytes = (5u << 20) + 4096u, page = (size_t)sysconf(_SC_PAGESIZE);
    for (uint32_t pool = 0; pool < 16; pool += 15) {
        void *base = NULL;
        int fd = -1;
        assert_int_equal(transport_pool_map(pool, bytes, &base, &fd), ST_OK);
        assert_int_equal((uintptr_t)base, kv_window_base(pool));
        size_t n_pages = (bytes + page - 1) / page, n_resident = 0, n_zero = 0;
        unsigned char *pages = calloc(n_pages, 1);
        assert_non_null(pages);
        assert_int_equal(mincore(base, bytes, pages), 0);
        for (size_t i = 0; i < n_pages; i++)
            n_resident += pages[i] & 1u;
        for (size_t i = 0; i < bytes; i++)
            n_zero += ((const uint8_t *)base)[i] == 0;
        assert_int_equal(n_resident, n_pages);
        assert_int_equal(n_zero, bytes);
        memset(base, 0xff, bytes);
        free(pages);
        transport_pool_unmap(base, bytes, fd);
    }
}

static void test_pool_map_of_mapped_window_gives_exists_and_leaves_it_alone(void **state)
{
    (void)state;
    void *first = NULL, *second = NULL;
    int fd = -1, other = -1;
    assert_int_equal(transport_pool_map(3, 65536, &first, &fd), ST_OK);
    *(uint8_t *)first = 7;
    assert_int_equal(transport_pool_map(3, 65536, &second, &other), ST_EXISTS);
    assert_int_equal(transport_pool_map(3, 4096, &second, &other), ST_EXISTS);
    assert_null(second);
    assert_int_equal(other, -1);
    assert_int_equal(*(uint8_t *)first, 7);
    transport_pool_unmap(first, 65536, fd);
    assert_int_equal(transport_pool_map(3, 65536, &second, &other), ST_OK);
    assert_int_equal(*(uint8_t *)second, 0);
    transport_pool_unmap(second, 65536, other);
    transport_pool_unmap(NULL, 65536, -1);
}

/* A writer that mapped it must never find it shorter. */
static void test_pool_is_a_file_of_fixed_size_that_others_can_map(void **state)
{
    (void)state;
    const size_t bytes = 65536;
    void *base = NULL;
    int fd = -1;
    assert_int_equal(transport_pool_map(2, bytes, &base, &fd), ST_OK);
    assert_true(fd >= 0);
    assert_int_not_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    assert_int_not_equal(ftruncate(fd, 4096), 0);
    assert_int_not_equal(ftruncate(fd, 2 * 65536), 0);
    assert_int_not_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    uint8_t *view = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(view != MAP_FAILED);
    view[bytes - 1] = 42;
    assert_int_equal(((const uint8_t *)base)[bytes - 1], 42);
    transport_pool_unmap(base, bytes, fd);
    view[0] = 1; /* still there */
    munmap(view, bytes);
}

static void test_pool_map_out_of_bounds_gives_too_large(void **state)
{
    (void)state;
    void *base = NULL;
    int fd = -1;
    assert_int_equal(transport_pool_map(16, 4096, &base, &fd), ST_TOO_LARGE);
    assert_int_equal(transport_pool_map(UINT32_MAX, 4096, &base, &fd), ST_TOO_LARGE);
    assert_int_equal(transport_pool_map(0, 0, &base, &fd), ST_TOO_LARGE);
    assert_int_equal(transport_pool_map(0, (400ull << 30) + 1, &base, &fd), ST_TOO_LARGE);
    assert_int_equal(transport_pool_map(0, UINT64_MAX, &base, &fd), ST_TOO_LARGE);
    assert_null(base);
}

static void test_pool_is_not_inherited_by_a_child(void **state)
{
    (void)state;
    void *base = NULL;
    unsigned char page;
    int status = -1, fd = -1;
    assert_int_equal(transport_pool_map(1, 4096, &base, &fd), ST_OK);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) /* ENOMEM: nothing is mapped there */
        _exit(mincore(base, 4096, &page) == 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    transport_pool_unmap(base, 4096, fd);
}

/* ---- host ---- */

static void test_host_id_is_known_and_stable(void **state)
{
    (void)state;
    uint8_t first[16], second[16], zero[16] = {0};
    if (access("/proc/sys/kernel/random/boot_id", R_OK) != 0)
        skip();
    memset(first, 1, sizeof(first));
    memset(second, 2, sizeof(second));
    transport_host_id(first);
    transport_host_id(second);
    assert_memory_equal(first, second, sizeof(first));
    assert_memory_not_equal(first, zero, sizeof(first));
    assert_true(first[15] != 0 || first[14] != 0 || first[13] != 0); /* read to its end */
}

/* ---- choice ---- */

static void test_select_auto_takes_all_that_work_and_says_so(void **state)
{
    (void)state;
    const struct transport_ops *ops = NULL;
    char why[256];
    assert_int_equal(transport_select("auto", NULL, 0, &ops, why, sizeof(why)), ST_OK);
    assert_ptr_equal(ops, &transport_pair_ops);
    assert_non_null(strstr(why, "shm: "));
    assert_non_null(strstr(why, "ucx: "));
}

static void test_select_by_name_or_required_name_takes_it_alone(void **state)
{
    (void)state;
    const struct transport_ops *ops = NULL;
    const char *const require[] = {"other", "ucx"}, *const shm[] = {"shm"},
                      *both[] = {"ucx", "shm"};
    char why[256];
    assert_int_equal(transport_select("ucx", NULL, 0, &ops, why, sizeof(why)), ST_OK);
    assert_ptr_equal(ops, &transport_ucx_ops);
    assert_non_null(strstr(why, "UCX 1."));
    assert_int_equal(transport_select("shm", NULL, 0, &ops, why, sizeof(why)), ST_OK);
    assert_ptr_equal(ops, &transport_shm_ops);
    assert_int_equal(transport_select("auto", require, 2, &ops, why, sizeof(why)), ST_OK);
    assert_ptr_equal(ops, &transport_ucx_ops);
    assert_int_equal(transport_select("auto", shm, 1, &ops, why, sizeof(why)), ST_OK);
    assert_ptr_equal(ops, &transport_shm_ops);
    assert_int_equal(transport_select("auto", both, 2, &ops, why, sizeof(why)), ST_OK);
    assert_ptr_equal(ops, &transport_pair_ops);
    ops = NULL;
    assert_int_equal(transport_select("ucx", shm, 1, &ops, why, sizeof(why)), ST_UNSUPPORTED);
    assert_int_equal(transport_select("shm", require, 2, &ops, why, sizeof(why)), ST_UNSUPPORTED);
    assert_null(ops);
}

static void test_select_of_unknown_name_is_unsupported_and_says_why(void **state)
{
    (void)state;
    const struct transport_ops *ops = NULL;
    char why[256];
    assert_int_equal(transport_select("pigeon", NULL, 0, &ops, why, sizeof(why)), ST_UNSUPPORTED);
    assert_null(ops);
    assert_non_null(strstr(why, "asks for pigeon"));
    assert_int_equal(transport_select("", NULL, 0, &ops, why, sizeof(why)), ST_UNSUPPORTED);
}

static void test_select_against_the_require_list_is_unsupported_and_says_why(void **state)
{
    (void)state;
    const struct transport_ops *ops = NULL;
    const char *const require[] = {"inplace", "cuda_ipc"};
    char why[256];
    assert_int_equal(transport_select("auto", require, 2, &ops, why, sizeof(why)), ST_UNSUPPORTED);
    assert_non_null(strstr(why, "ucx refused: kv_transfer.require"));
    assert_int_equal(transport_select("ucx", require, 1, &ops, why, sizeof(why)), ST_UNSUPPORTED);
    assert_non_null(strstr(why, "ucx refused: kv_transfer.require"));
    assert_null(ops);
}

static void test_select_with_little_room_for_why_stays_inside(void **state)
{
    (void)state;
    const struct transport_ops *ops = NULL;
    char why[8] = "zzzzzzz";
    assert_int_equal(transport_select("pigeon", NULL, 0, &ops, why, 0), ST_UNSUPPORTED);
    assert_string_equal(why, "zzzzzzz");
    assert_int_equal(transport_select("pigeon", NULL, 0, &ops, why, 4), ST_UNSUPPORTED);
    assert_string_equal(why, "shm");
    assert_string_equal(why + 4, "zzz");
}

/* ---- blob ---- */

static const uint8_t ADDRESS[] = "an address of UCX", RKEY[] = "a key";

static const struct ucx_blob BLOB = {.pid = 4711,
                                     .pid_start = 0x0102030405060708ull,
                                     .pid_ns = 4026531836ull,
                                     .address = ADDRESS,
                                     .rkey = RKEY,
                                     .address_bytes = sizeof(ADDRESS),
                                     .rkey_bytes = sizeof(RKEY)};

static void blob_make(struct buf *out)
{
    buf_init(out, WIRE_BLOB_BYTES_MAX);
    assert_int_equal(ucx_blob_write(&BLOB, out), ST_OK);
}

/* In memory of just that size, so that a read past the end is seen by a sanitizer. */
static enum status blob_read(const uint8_t *data, size_t bytes, struct ucx_blob *out)
{
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    assert_non_null(copy);
    if (bytes > 0)
        memcpy(copy, data, bytes);
    enum status st = ucx_blob_read(copy, (uint32_t)bytes, out);
    free(copy);
    return st;
}

static void test_blob_written_and_read_is_the_same(void **state)
{
    (void)state;
    struct buf buf;
    struct ucx_blob out;
    blob_make(&buf);
    assert_int_equal(ucx_blob_read(buf.data, (uint32_t)buf.len, &out), ST_OK);
    assert_int_equal(out.pid, BLOB.pid);
    assert_int_equal(out.pid_start, BLOB.pid_start);
    assert_int_equal(out.pid_ns, BLOB.pid_ns);
    assert_int_equal(out.address_bytes, sizeof(ADDRESS));
    assert_int_equal(out.rkey_bytes, sizeof(RKEY));
    assert_memory_equal(out.address, ADDRESS, sizeof(ADDRESS));
    assert_memory_equal(out.rkey, RKEY, sizeof(RKEY));
    assert_ptr_equal(out.address, buf.data + UCX_BLOB_HEAD_BYTES);
    buf_deinit(&buf);
}

static void test_blob_truncated_anywhere_is_refused(void **state)
{
    (void)state;
    struct buf buf;
    struct ucx_blob out = {.pid = 99};
    blob_make(&buf);
    for (size_t n = 0; n < buf.len; n++)
        assert_int_equal(blob_read(buf.data, n, &out), ST_PARSE);
    assert_int_equal(out.pid, 99); /* written only on success */
    buf_deinit(&buf);
}

static void test_blob_with_bytes_behind_is_refused(void **state)
{
    (void)state;
    struct buf buf;
    struct ucx_blob out;
    blob_make(&buf);
    assert_int_equal(buf_append(&buf, "", 1), ST_OK);
    assert_int_equal(blob_read(buf.data, buf.len, &out), ST_PARSE);
    buf_deinit(&buf);
}

static void test_blob_of_another_version_is_refused(void **state)
{
    (void)state;
    struct buf buf;
    struct ucx_blob out;
    blob_make(&buf);
    for (unsigned i = 0; i < 4; i++) {
        buf.data[i] ^= 0x80;
        assert_int_equal(blob_read(buf.data, buf.len, &out), ST_VERSION);
        buf.data[i] ^= 0x80;
    }
    buf.data[0] = 1; /* of before the sum */
    assert_int_equal(blob_read(buf.data, buf.len, &out), ST_VERSION);
    buf_deinit(&buf);
}

static void test_blob_with_any_bit_flipped_is_refused(void **state)
{
    (void)state;
    struct buf buf;
    struct ucx_blob out;
    blob_make(&buf);
    for (size_t bit = 0; bit < 8 * buf.len; bit++) {
        buf.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        enum status st = blob_read(buf.data, buf.len, &out), expected = ST_MISMATCH;
        if (bit < 8 * 4)
            expected = ST_VERSION;
        else if (bit >= 8 * 24 && bit < 8 * 32) /* the lengths */
            expected = ST_PARSE;
        assert_int_equal(st, expected);
        buf.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(blob_read(buf.data, buf.len, &out), ST_OK);
    buf_deinit(&buf);
}

static void test_blob_with_lengths_that_overflow_or_are_zero_is_refused(void **state)
{
    (void)state;
    static const uint32_t pairs[][2] = {{UINT32_MAX, sizeof(ADDRESS) + sizeof(RKEY) + 1},
                                        {sizeof(ADDRESS) + sizeof(RKEY) + 1, UINT32_MAX},
                                        {UINT32_MAX, UINT32_MAX},
                                        {0, sizeof(ADDRESS) + sizeof(RKEY)},
                                        {sizeof(ADDRESS) + sizeof(RKEY), 0}};
    for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
        struct buf buf;
        struct ucx_blob out;
        blob_make(&buf);
        for (unsigned b = 0; b < 8; b++)
            buf.data[24 + b] = (uint8_t)(pairs[i][b / 4] >> (8 * (b % 4)));
        assert_int_equal(blob_read(buf.data, buf.len, &out), ST_PARSE);
        buf_deinit(&buf);
    }
}

static void test_blob_write_without_room_writes_nothing(void **state)
{
    (void)state;
    struct buf buf;
    size_t whole = UCX_BLOB_HEAD_BYTES + sizeof(ADDRESS) + sizeof(RKEY) + UCX_BLOB_SUM_BYTES;
    buf_init(&buf, whole - 1);
    assert_int_equal(ucx_blob_write(&BLOB, &buf), ST_TOO_LARGE);
    assert_int_equal(buf.len, 0);
    buf_deinit(&buf);
    buf_init(&buf, whole);
    assert_int_equal(ucx_blob_write(&BLOB, &buf), ST_OK);
    assert_int_equal(buf.len, whole);
    buf_deinit(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window_base_of_each_pool_is_constant_and_one_stride_apart),
        cmocka_unit_test(test_pool_map_gives_zeroed_resident_memory_at_window_base),
        cmocka_unit_test(test_pool_map_of_mapped_window_gives_exists_and_leaves_it_alone),
        cmocka_unit_test(test_pool_is_a_file_of_fixed_size_that_others_can_map),
        cmocka_unit_test(test_pool_map_out_of_bounds_gives_too_large),
        cmocka_unit_test(test_pool_is_not_inherited_by_a_child),
        cmocka_unit_test(test_host_id_is_known_and_stable),
        cmocka_unit_test(test_select_auto_takes_all_that_work_and_says_so),
        cmocka_unit_test(test_select_by_name_or_required_name_takes_it_alone),
        cmocka_unit_test(test_select_of_unknown_name_is_unsupported_and_says_why),
        cmocka_unit_test(test_select_against_the_require_list_is_unsupported_and_says_why),
        cmocka_unit_test(test_select_with_little_room_for_why_stays_inside),
        cmocka_unit_test(test_blob_written_and_read_is_the_same),
        cmocka_unit_test(test_blob_truncated_anywhere_is_refused),
        cmocka_unit_test(test_blob_with_bytes_behind_is_refused),
        cmocka_unit_test(test_blob_of_another_version_is_refused),
        cmocka_unit_test(test_blob_with_any_bit_flipped_is_refused),
        cmocka_unit_test(test_blob_with_lengths_that_overflow_or_are_zero_is_refused),
        cmocka_unit_test(test_blob_write_without_room_writes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
