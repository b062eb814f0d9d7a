/* The safetensors reader against files that are cut, lie, overlap, repeat or lead elsewhere. */
#include "tests/support/model_dir.h"

#include "base/status.h"
#include "model/safetensors.h"

#include <sys/stat.h>

#define A_4 "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}"

static enum status open_image(const uint8_t *image, size_t bytes, char *err, size_t err_bytes)
{
    struct safetensors *set = NULL;
    enum status st = safetensors_open_memory(image, bytes, "m.safetensors", &set,
                                             (struct text_error){err, err_bytes});
    if (st != ST_OK)
        assert_null(set);
    safetensors_close(set);
    return st;
}

static void expect(const char *header, size_t data_bytes, enum status wanted, const char *needle)
{
    size_t bytes;
    char err[256] = "";
    uint8_t *image = safetensors_image(header, data_bytes, &bytes);
    enum status st = open_image(image, bytes, err, sizeof(err));
    if (st != wanted || strstr(err, needle) == NULL)
        fail_msg("%s: got %s, \"%s\"", header, status_name(st), err);
    if (wanted != ST_OK)
        assert_non_null(strstr(err, "m.safetensors"));
    free(image);
}

static void test_safetensors_good_file_gives_its_tensors(void **state)
{
    size_t bytes;
    char err[128];
    struct safetensors *set = NULL;
    /* Out of order, white space, metadata, an empty tensor, a scalar. */
    uint8_t *image = safetensors_image(
        " {\"b\" : {\"shape\":[ 2 , 3 ], \"dtype\":\"BF16\",\"data_offsets\":[4,16]}, "
        "\"__metadata__\":{\"format\":\"p\\\"t\"}," A_4
        ",\"none\":{\"dtype\":\"I8\",\"shape\":[0,5],\"data_offsets\":[16,16]},"
        "\"s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[16,17]}}\n  ",
        17, &bytes);
    (void)state;
    assert_int_equal(
        safetensors_open_memory(image, bytes, "m", &set, (struct text_error){err, sizeof(err)}),
        ST_OK);
    assert_int_equal(safetensors_count(set), 4);
    assert_string_equal(safetensors_at(set, 0)->name, "a");
    assert_string_equal(safetensors_at(set, 3)->name, "s");
    const struct safetensors_tensor *b = safetensors_find(set, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, SAFETENSORS_BF16);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->dims[0], 2);
    assert_int_equal(b->dims[1], 3);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(b->data[0], 4);
    assert_int_equal(safetensors_find(set, "none")->bytes, 0);
    assert_int_equal(safetensors_find(set, "s")->n_dims, 0);
    assert_null(safetensors_find(set, "c"));
    assert_null(safetensors_find(set, ""));
    assert_string_equal(safetensors_dtype_name(b->dtype), "BF16");
    safetensors_close(set);
    free(image);
}

static void test_safetensors_tensor_that_contradicts_itself_is_refused(void **state)
{
    (void)state;
#define T(dtype, shape, offsets)                                                                   \
    "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    expect(T("\"F32\"", "[1]", "[0,4]"), 4, ST_OK, "");
    expect(T("\"F32\"", "[2]", "[0,4]"), 4, ST_INVALID, "disagree");
    expect(T("\"F64\"", "[1]", "[0,4]"), 4, ST_INVALID, "disagree");
    expect(T("\"F32\"", "[1]", "[4,0]"), 4, ST_INVALID, "backwards");
    expect(T("\"F32\"", "[1]", "[0,8]"), 4, ST_TRUNCATED, "behind the end");
    expect(T("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, ST_INVALID, "overflows");
    expect(T("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, ST_INVALID, "overflows");
    expect(T("\"F32\"", "[9223372036854775807,2,2]", "[0,4]"), 4, ST_INVALID, "overflows");
    expect(T("\"F32\"", "[18446744073709551616]", "[0,4]"), 4, ST_PARSE, "shape");
    expect(T("\"F32\"", "[1]", "[0,18446744073709551615]"), 4, ST_TRUNCATED, "behind the end");
    expect(T("\"F32\"", "[-1]", "[0,4]"), 4, ST_PARSE, "shape");
    expect(T("\"F32\"", "[1.0]", "[0,4]"), 4, ST_PARSE, "shape");
    expect(T("\"F32\"", "[1e0]", "[0,4]"), 4, ST_PARSE, "shape");
    expect(T("\"F32\"", "[\"1\"]", "[0,4]"), 4, ST_PARSE, "shape");
    expect(T("\"F32\"", "{}", "[0,4]"), 4, ST_PARSE, "shape");
    expect(T("\"F32\"", "[1,1,1,1,1,1,1,1]", "[0,4]"), 4, ST_OK, "");
    expect(T("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, ST_UNSUPPORTED, "dimensions");
    expect(T("\"F32\"", "[1]", "[0]"), 4, ST_PARSE, "data_offsets");
    expect(T("\"F32\"", "[1]", "[0,4,4]"), 4, ST_PARSE, "data_offsets");
    expect(T("\"F32\"", "[1]", "[]"), 4, ST_PARSE, "data_offsets");
    expect(T("\"F31\"", "[1]", "[0,4]"), 4, ST_UNSUPPORTED, "unknown dtype");
    expect(T("\"\"", "[1]", "[0,4]"), 4, ST_UNSUPPORTED, "unknown dtype");
    expect(T("7", "[1]", "[0,4]"), 4, ST_PARSE, "dtype");
#undef T
}

static void test_safetensors_header_of_another_form_is_refused(void **state)
{
    (void)state;
    expect("", 0, ST_PARSE, "header");
    expect("[]", 0, ST_PARSE, "object");
    expect("{", 0, ST_PARSE, "header");
    expect("{}", 0, ST_OK, "");
    expect("{} x", 0, ST_PARSE, "header");
    expect("{\"t\":[]}", 0, ST_PARSE, "must be an object");
    expect("{\"t\":{}}", 0, ST_PARSE, "missing");
    expect("{\"t\":{\"dtype\":\"F32\",\"shape\":[]}}", 0, ST_PARSE, "missing");
    expect("{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, ST_PARSE,
           "unknown field");
    expect("{" A_4 "," A_4 "}", 4, ST_PARSE, "header");
    expect("{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
           ST_PARSE, "header");
    expect("{\"a\\u0062\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ST_PARSE,
           "name");
    expect("{\"__metadata__\":{\"a\":1}}", 0, ST_PARSE, "__metadata__");
    expect("{\"__metadata__\":[]}", 0, ST_PARSE, "__metadata__");
    expect("{\"\xff\":{}}", 0, ST_PARSE, "header");
    expect("{\"t\":{\"dtype\":[[[[[[[[[[1]]]]]]]]]]}}", 0, ST_PARSE, "header");
}

static void test_safetensors_data_with_overlap_hole_or_rest_is_refused(void **state)
{
    (void)state;
#define U8_AT(name, n, begin, end)                                                                 \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" n "],\"data_offsets\":[" begin "," end "]}"
    expect("{" U8_AT("a", "4", "0", "4") "," U8_AT("b", "4", "4", "8") "}", 8, ST_OK, "");
    expect("{" U8_AT("a", "4", "0", "4") "," U8_AT("b", "4", "3", "7") "}", 7, ST_INVALID,
           "\"b\": overlaps");
    expect("{" U8_AT("a", "4", "0", "4") "," U8_AT("b", "4", "0", "4") "}", 4, ST_INVALID,
           "overlaps");
    expect("{" U8_AT("a", "4", "0", "4") "," U8_AT("b", "4", "5", "9") "}", 9, ST_INVALID,
           "\"b\": lies behind a hole");
    expect("{" U8_AT("a", "4", "1", "5") "}", 5, ST_INVALID, "hole");
    expect("{" U8_AT("a", "4", "0", "4") "}", 5, ST_INVALID, "1 bytes belong to no tensor");
    expect("{" U8_AT("a", "4", "0", "4") "}", 3, ST_TRUNCATED, "behind the end");
    expect("{}", 1, ST_INVALID, "belong to no tensor");
    /* An empty tensor inside another one lies in no hole, yet overlaps. */
    expect("{" U8_AT("a", "4", "0", "4") "," U8_AT("b", "0", "2", "2") "}", 4, ST_INVALID,
           "overlaps");
#undef U8_AT
}

static void test_safetensors_lying_header_length_is_refused(void **state)
{
    static const uint64_t lengths[] = {40, 41, 100000000, 100000001, UINT64_MAX, UINT64_MAX - 7};
    char err[256];
    (void)state;
    for (unsigned i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        uint8_t image[48] = {0};
        for (unsigned k = 0; k < 8; k++)
            image[k] = (uint8_t)(lengths[i] >> (8 * k));
        memset(image + 8, ' ', 40);
        enum status st = open_image(image, sizeof(image), err, sizeof(err));
        assert_int_equal(st, i == 0                    ? ST_PARSE
                             : lengths[i] <= 100000000 ? ST_TRUNCATED
                                                       : ST_TOO_LARGE);
    }
}

static void test_safetensors_cut_anywhere_is_refused(void **state)
{
    size_t bytes;
    char err[256];
    uint8_t *image = safetensors_image("{" A_4 ",\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],"
                                       "\"data_offsets\":[4,16]}}",
                                       16, &bytes);
    (void)state;
    for (size_t n = 0; n < bytes; n++) {
        uint8_t *cut = malloc(n > 0 ? n : 1); /* exact size: a read behind it shows */
        assert_non_null(cut);
        memcpy(cut, image, n);
        assert_int_not_equal(open_image(cut, n, err, sizeof(err)), ST_OK);
        free(cut);
    }
    free(image);
}

/* Every value of every header byte: refused, or still a set whose tensors lie inside the file. */
static void test_safetensors_any_changed_byte_is_refused_or_harmless(void **state)
{
    size_t bytes;
    uint8_t *image = safetensors_image("{" A_4 ",\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],"
                                       "\"data_offsets\":[4,16]}}",
                                       16, &bytes);
    (void)state;
    for (size_t at = 0; at < bytes - 16; at++) {
        uint8_t good = image[at];
        for (unsigned value = 0; value < 256; value++) {
            struct safetensors *set = NULL;
            image[at] = (uint8_t)value;
            if (safetensors_open_memory(image, bytes, "m", &set, (struct text_error){NULL, 0}) !=
                ST_OK)
                continue;
            for (uint32_t i = 0; i < safetensors_count(set); i++) {
                const struct safetensors_tensor *t = safetensors_at(set, i);
                assert_true(t->data >= image + 8 && t->data + t->bytes <= image + bytes);
            }
            safetensors_close(set);
        }
        image[at] = good;
    }
    free(image);
}

static void test_safetensors_many_tensors_are_read_in_order(void **state)
{
    enum { N = 20000 };
    struct buf header;
    size_t bytes;
    struct safetensors *set = NULL;
    (void)state;
    buf_init(&header, 8u << 20);
    for (unsigned i = 0; i < N; i++)
        buf_printf(&header, "%s\"t%05u\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%u,%u]}",
                   i == 0 ? "{" : ",", N - 1 - i, i, i + 1);
    buf_append(&header, "}", 2);
    uint8_t *image = safetensors_image((const char *)header.data, N, &bytes);
    assert_int_equal(safetensors_open_memory(image, bytes, "m", &set, (struct text_error){NULL, 0}),
                     ST_OK);
    assert_int_equal(safetensors_count(set), N);
    assert_string_equal(safetensors_at(set, 17)->name, "t00017");
    assert_int_equal(safetensors_find(set, "t00000")->data[0], (uint8_t)(N - 1));
    safetensors_close(set);
    free(image);
    buf_deinit(&header);
}

/* ---- Directories ---------------------------------------------------------------------------- */

static void write_shard(const struct model_dir *dir, const char *file, const char *tensor)
{
    char header[256];
    size_t bytes;
    snprintf(header, sizeof(header),
             "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", tensor);
    uint8_t *image = safetensors_image(header, 8, &bytes);
    model_dir_write(dir, file, image, bytes);
    free(image);
}

static void expect_dir(const struct model_dir *dir, enum status wanted, const char *needle)
{
    char err[512] = "";
    struct safetensors *set = NULL;
    enum status st = safetensors_open_dir(dir->path, &set, (struct text_error){err, sizeof(err)});
    if (st != wanted || strstr(err, needle) == NULL)
        fail_msg("got %s, \"%s\"", status_name(st), err);
    safetensors_close(set);
}

static void expect_index(const struct model_dir *dir, const char *index, enum status wanted,
                         const char *needle)
{
    model_dir_write_text(dir, "model.safetensors.index.json", index);
    expect_dir(dir, wanted, needle);
}

static void test_safetensors_dir_single_file_is_read(void **state)
{
    struct model_dir dir;
    struct safetensors *set = NULL;
    (void)state;
    model_dir_make(&dir);
    write_shard(&dir, "model.safetensors", "a");
    assert_int_equal(safetensors_open_dir(dir.path, &set, (struct text_error){NULL, 0}), ST_OK);
    assert_string_equal(safetensors_file_name(set, safetensors_find(set, "a")->file),
                        "model.safetensors");
    safetensors_close(set);
    model_dir_remove(&dir);
}

static void test_safetensors_dir_shards_make_one_set(void **state)
{
    struct model_dir dir;
    struct safetensors *set = NULL;
    (void)state;
    model_dir_make(&dir);
    write_shard(&dir, "x-1.safetensors", "a");
    write_shard(&dir, "x-2.safetensors", "b");
    model_dir_write_text(&dir, "model.safetensors.index.json",
                         "{\"metadata\":{\"total_size\":16},\"weight_map\":{\"b\":"
                         "\"x-2.safetensors\",\"a\":\"x-1.safetensors\"}}");
    assert_int_equal(safetensors_open_dir(dir.path, &set, (struct text_error){NULL, 0}), ST_OK);
    assert_int_equal(safetensors_count(set), 2);
    assert_string_equal(safetensors_file_name(set, safetensors_find(set, "b")->file),
                        "x-2.safetensors");
    safetensors_close(set);
    model_dir_remove(&dir);
}

static void test_safetensors_dir_index_that_lies_is_refused(void **state)
{
    struct model_dir dir;
    (void)state;
    model_dir_make(&dir);
    write_shard(&dir, "x-1", "a");
    write_shard(&dir, "x-2", "b");
    write_shard(&dir, "x-3", "a");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"x-2\",\"b\":\"x-1\"}}", ST_INVALID, "\"a\"");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"x-1\"}}", ST_OK, "");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"x-1\",\"c\":\"x-2\"}}", ST_INVALID, "\"c\"");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"x-1\",\"b\":\"x-2\",\"c\":\"x-2\"}}", ST_INVALID,
                 "\"c\"");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"x-1\",\"b\":\"x-3\"}}", ST_EXISTS,
                 "x-1 and in x-3");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"x-1\",\"b\":\"x-9\"}}", ST_NOT_FOUND, "x-9");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"../x-1\"}}", ST_INVALID, "plain file name");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", ST_INVALID, "plain file name");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"..\"}}", ST_INVALID, "plain file name");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"\"}}", ST_INVALID, "plain file name");
    expect_index(&dir, "{\"weight_map\":{\"a\":7}}", ST_INVALID, "plain file name");
    expect_index(&dir, "{\"weight_map\":{\"a\":\".\"}}", ST_IO, "Is a directory");
    expect_index(&dir, "{\"weight_map\":{}}", ST_INVALID, "0 tensors");
    expect_index(&dir, "{\"weight_map\":[]}", ST_INVALID, "weight_map");
    expect_index(&dir, "{}", ST_INVALID, "weight_map");
    expect_index(&dir, "[]", ST_INVALID, "weight_map");
    expect_index(&dir, "{\"weight_map\":", ST_PARSE, "index.json");
    model_dir_remove(&dir);
}

static void test_safetensors_dir_shard_that_misses_tensors_of_index_is_refused(void **state)
{
    struct model_dir dir;
    (void)state;
    model_dir_make(&dir);
    model_dir_write_text(&dir, "x-1", "{");
    expect_index(&dir, "{\"weight_map\":{\"a\":\"x-1\"}}", ST_TRUNCATED, "x-1");
    size_t bytes;
    uint8_t *image = safetensors_image("{" A_4 "}", 3, &bytes);
    model_dir_write(&dir, "x-1", image, bytes);
    free(image);
    expect_index(&dir, "{\"weight_map\":{\"a\":\"x-1\"}}", ST_TRUNCATED, "x-1");
    image = safetensors_image("{" A_4 ",\"b\":{\"dtype\":\"U8\",\"shape\":[1],"
                              "\"data_offsets\":[4,5]}}",
                              5, &bytes);
    model_dir_write(&dir, "x-1", image, bytes);
    free(image);
    expect_index(&dir, "{\"weight_map\":{\"a\":\"x-1\"}}", ST_INVALID, "lists 1 tensors");
    model_dir_remove(&dir);
}

static void test_safetensors_dir_without_usable_file_is_refused(void **state)
{
    struct model_dir dir;
    char path[128];
    (void)state;
    model_dir_make(&dir);
    expect_dir(&dir, ST_NOT_FOUND, "neither");
    model_dir_write_text(&dir, "model.safetensors", "");
    expect_dir(&dir, ST_TRUNCATED, "empty");
    snprintf(path, sizeof(path), "%s/model.safetensors", dir.path);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not wait for a writer */
    expect_dir(&dir, ST_IO, "not a regular file");
    model_dir_remove(&dir);
    expect_dir(&dir, ST_NOT_FOUND, "neither");
}

/* ---- Identity ------------------------------------------------------------------------------- */

static void identity_of(const char *header, size_t data_bytes, size_t flipped, uint8_t out[32])
{
    size_t bytes;
    struct safetensors *set = NULL;
    uint8_t *image = safetensors_image(header, data_bytes, &bytes);
    image[bytes - data_bytes + flipped] ^= 1;
    assert_int_equal(safetensors_open_memory(image, bytes, "m", &set, (struct text_error){NULL, 0}),
                     ST_OK);
    assert_int_equal(safetensors_identity(set, out), ST_OK);
    safetensors_close(set);
    free(image);
}

static void test_safetensors_identity_sees_names_shapes_and_contents(void **state)
{
    static const char *const headers[] = {
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":[0,16]}}",
        "{\"b\":{\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":[0,16]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4,4],\"data_offsets\":[0,16]}}",
        "{\"a\":{\"dtype\":\"I8\",\"shape\":[16],\"data_offsets\":[0,16]}}"};
    uint8_t ids[5][32], again[32];
    (void)state;
    for (unsigned i = 0; i < 4; i++)
        identity_of(headers[i], 16, 0, ids[i]);
    identity_of(headers[0], 16, 9, ids[4]);
    for (unsigned i = 0; i < 5; i++)
        for (unsigned k = 0; k < i; k++)
            assert_memory_not_equal(ids[i], ids[k], 32);
    identity_of("{ \"a\" : {\"shape\":[16],\"data_offsets\":[0,16],\"dtype\":\"U8\"}}", 16, 0,
                again);
    assert_memory_equal(again, ids[0], 32); /* spelling does not count */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors_good_file_gives_its_tensors),
        cmocka_unit_test(test_safetensors_tensor_that_contradicts_itself_is_refused),
        cmocka_unit_test(test_safetensors_header_of_another_form_is_refused),
        cmocka_unit_test(test_safetensors_data_with_overlap_hole_or_rest_is_refused),
        cmocka_unit_test(test_safetensors_lying_header_length_is_refused),
        cmocka_unit_test(test_safetensors_cut_anywhere_is_refused),
        cmocka_unit_test(test_safetensors_any_changed_byte_is_refused_or_harmless),
        cmocka_unit_test(test_safetensors_many_tensors_are_read_in_order),
        cmocka_unit_test(test_safetensors_dir_single_file_is_read),
        cmocka_unit_test(test_safetensors_dir_shards_make_one_set),
        cmocka_unit_test(test_safetensors_dir_index_that_lies_is_refused),
        cmocka_unit_test(test_safetensors_dir_shard_that_misses_tensors_of_index_is_refused),
        cmocka_unit_test(test_safetensors_dir_without_usable_file_is_refused),
        cmocka_unit_test(test_safetensors_identity_sees_names_shapes_and_contents),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
