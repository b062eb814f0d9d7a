/* The file of measured matrix products: what it holds comes back, and nothing else is taken for it.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hash.h"
#include "device/gemm_cache.h"

#define N_THREADS 4
#define N_STORES  60
#define N_CHOICES 200

static const struct gemm_machine machine = {.gpu = "NVIDIA H200, 9.0, 132 multiprocessors",
                                            .driver = "13000 580.1",
                                            .library = 130100,
                                            .settings = 3};

struct dir {
    char path[64];
    char file[FILE_PATH_BYTES];
};

static int dir_make(void **state)
{
    struct dir *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return -1;
    snprintf(d->path, sizeof(d->path), "/tmp/gemm_cache.XXXXXX");
    *state = d;
    if (mkdtemp(d->path) == NULL)
        return -1;
    snprintf(d->file, sizeof(d->file), "%s/a/b/gemm.txt", d->path);
    return 0;
}

static int dir_remove(void **state)
{
    struct dir *d = *state;
    char path[FILE_PATH_BYTES + 16];
    unlink(d->file);
    static const char *const parts[] = {"a/b", "a", ""};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", d->path, parts[i]);
        if (rmdir(path) != 0) /* nothing else was left in it */
            return -1;
    }
    free(d);
    return 0;
}

/* The i-th of many different choices. */
static struct gemm_choice choice_of(uint32_t i)
{
    struct gemm_choice c = {.rows = gemm_bucket_top(i % GEMM_BUCKETS),
                            .n = 64 + i,
                            .k = 4096,
                            .w_dtype = i % 2 ? OPS_BF16 : OPS_F8,
                            .y_dtype = i % 3 ? OPS_F32 : OPS_BF16,
                            .scaling = i % 3,
                            .way = i % GEMM_WAYS_MAX,
                            .time_ns = 1000 + i};
    for (uint32_t w = 0; w < GEMM_ALGO_WORDS; w++)
        c.algo[w] = hash_mix64(i * 8 + w);
    return c;
}

static struct gemm_choices choices_of(uint32_t n)
{
    struct gemm_choices choices = {0};
    for (uint32_t i = 0; i < n; i++) {
        const struct gemm_choice c = choice_of(i);
        assert_int_equal(gemm_choices_set(&choices, &c), ST_OK);
    }
    return choices;
}

static void assert_same(const struct gemm_choices *a, const struct gemm_choices *b)
{
    assert_int_equal(a->n, b->n);
    for (uint32_t i = 0; i < a->n; i++)
        assert_memory_equal(&a->items[i], &b->items[i], sizeof(a->items[i]));
}

static struct buf printed(uint32_t n)
{
    struct gemm_choices choices = choices_of(n);
    struct buf text;
    buf_init(&text, GEMM_CACHE_BYTES);
    assert_int_equal(gemm_cache_print(&choices, &machine, &text), ST_OK);
    gemm_choices_deinit(&choices);
    return text;
}

static enum status parsed(const void *text, size_t bytes, const struct gemm_machine *of,
                          struct gemm_choices *out)
{
    char why[128] = "";
    *out = (struct gemm_choices){0};
    enum status st = gemm_cache_parse(text, bytes, of, out, (struct text_error){why, sizeof(why)});
    assert_true((st == ST_OK) == (why[0] == '\0'));
    if (st != ST_OK)
        assert_null(out->items);
    return st;
}

static void test_gemm_bucket_holds_its_rows_and_ends_at_its_top(void **state)
{
    (void)state;
    uint32_t before = 0;
    for (uint32_t rows = 1; rows <= 70000; rows++) {
        uint32_t bucket = gemm_bucket(rows), top = gemm_bucket_top(bucket);
        assert_true(bucket == before || bucket == before + 1);
        assert_true(top >= rows && (bucket == 0 || gemm_bucket_top(bucket - 1) < rows));
        if (rows > 16)
            assert_true((top - rows) * 8 <= rows);
        before = bucket;
    }
    assert_int_equal(gemm_bucket(64), gemm_bucket(61));
    assert_int_equal(gemm_bucket_top(gemm_bucket(1u << 20)), 1u << 20);
    assert_int_equal(gemm_bucket(1u << 20), GEMM_BUCKETS - 1);
    assert_int_equal(gemm_bucket(UINT32_MAX), GEMM_BUCKETS - 1);
}

static void test_gemm_choices_set_replaces_the_one_of_the_same_shape(void **state)
{
    (void)state;
    struct gemm_choices choices = choices_of(10);
    struct gemm_choice c = choice_of(3);
    c.time_ns = 7;
    assert_int_equal(gemm_choices_set(&choices, &c), ST_OK);
    assert_int_equal(choices.n, 10);
    assert_int_equal(gemm_choices_find(&choices, &c)->time_ns, 7);
    c.scaling = (c.scaling + 1) % 3;
    assert_null(gemm_choices_find(&choices, &c));
    gemm_choices_deinit(&choices);
}

static void test_gemm_choices_remove_leaves_the_others_in_order(void **state)
{
    (void)state;
    struct gemm_choices choices = choices_of(5);
    const struct gemm_choice none = choice_of(5);
    gemm_choices_remove(&choices, &none);
    assert_int_equal(choices.n, 5);
    static const uint32_t gone[] = {4, 0, 2}; /* the last, the first, one between */
    for (size_t i = 0; i < 3; i++) {
        const struct gemm_choice c = choice_of(gone[i]);
        gemm_choices_remove(&choices, &c);
        assert_null(gemm_choices_find(&choices, &c));
    }
    assert_int_equal(choices.n, 2);
    const struct gemm_choice left[] = {choice_of(1), choice_of(3)};
    assert_memory_equal(choices.items, left, sizeof(left));
    gemm_choices_deinit(&choices);
}

static void test_gemm_choices_set_into_a_full_table_drops_the_oldest(void **state)
{
    (void)state;
    struct gemm_choices choices = choices_of(GEMM_CHOICES_MAX);
    const struct gemm_choice first = choice_of(0), second = choice_of(1);
    const struct gemm_choice c = choice_of(GEMM_CHOICES_MAX);
    assert_int_equal(gemm_choices_set(&choices, &second), ST_OK); /* its own place: none goes */
    assert_non_null(gemm_choices_find(&choices, &first));
    assert_int_equal(gemm_choices_set(&choices, &c), ST_OK);
    assert_int_equal(choices.n, GEMM_CHOICES_MAX);
    assert_null(gemm_choices_find(&choices, &first));
    assert_ptr_equal(gemm_choices_find(&choices, &second), &choices.items[0]);
    assert_memory_equal(&choices.items[GEMM_CHOICES_MAX - 1], &c, sizeof(c));
    struct buf text;
    buf_init(&text, GEMM_CACHE_BYTES); /* and a full one can be kept */
    assert_int_equal(gemm_cache_print(&choices, &machine, &text), ST_OK);
    struct gemm_choices out;
    assert_int_equal(parsed(text.data, text.len, &machine, &out), ST_OK);
    assert_same(&choices, &out);
    gemm_choices_deinit(&out);
    buf_deinit(&text);
    gemm_choices_deinit(&choices);
}

static void test_gemm_cache_parse_of_too_many_lines_is_refused(void **state)
{
    (void)state;
    struct gemm_choices choices = choices_of(GEMM_CHOICES_MAX), out;
    struct buf text;
    buf_init(&text, GEMM_CACHE_BYTES);
    choices.items = realloc(choices.items, (GEMM_CHOICES_MAX + 1) * sizeof(*choices.items));
    assert_non_null(choices.items);
    choices.items[choices.n++] = choice_of(GEMM_CHOICES_MAX);
    assert_int_equal(gemm_cache_print(&choices, &machine, &text), ST_OK);
    assert_int_equal(parsed(text.data, text.len, &machine, &out), ST_TOO_LARGE);
    buf_deinit(&text);
    gemm_choices_deinit(&choices);
}

static void test_gemm_cache_parse_gives_back_what_was_printed(void **state)
{
    (void)state;
    for (uint32_t n = 0; n <= N_CHOICES; n += N_CHOICES / 2) {
        struct gemm_choices in = choices_of(n), out;
        struct buf text = printed(n);
        assert_int_equal(parsed(text.data, text.len, &machine, &out), ST_OK);
        assert_same(&in, &out);
        gemm_choices_deinit(&in);
        gemm_choices_deinit(&out);
        buf_deinit(&text);
    }
}

static void test_gemm_cache_parse_of_another_machine_is_refused(void **state)
{
    (void)state;
    struct buf text = printed(3);
    struct gemm_choices out;
    struct gemm_machine other = machine;
    other.library++;
    assert_int_equal(parsed(text.data, text.len, &other, &out), ST_UNSUPPORTED);
    other = machine;
    other.settings++; /* the products are not the same any longer */
    assert_int_equal(parsed(text.data, text.len, &other, &out), ST_UNSUPPORTED);
    other = machine;
    other.driver[0] = '2';
    assert_int_equal(parsed(text.data, text.len, &other, &out), ST_UNSUPPORTED);
    other = machine;
    other.gpu[8] = 'B';
    assert_int_equal(parsed(text.data, text.len, &other, &out), ST_UNSUPPORTED);
    other.gpu[8] = '\0';
    assert_int_equal(parsed(text.data, text.len, &other, &out), ST_UNSUPPORTED);
    buf_deinit(&text);
}

static void test_gemm_cache_parse_of_a_part_is_refused(void **state)
{
    (void)state;
    struct buf text = printed(3);
    struct gemm_choices out;
    for (size_t bytes = 0; bytes < text.len; bytes++) {
        char *exact = malloc(bytes + 1); /* of just that size, for the sanitizer */
        assert_non_null(exact);
        memcpy(exact, text.data, bytes);
        assert_int_not_equal(parsed(exact, bytes, &machine, &out), ST_OK);
        free(exact);
    }
    assert_int_equal(parsed(text.data, text.len - 1, &machine, &out), ST_TRUNCATED);
    buf_deinit(&text);
}

static void test_gemm_cache_parse_of_a_changed_byte_is_refused(void **state)
{
    (void)state;
    struct buf text = printed(3);
    struct gemm_choices out;
    for (size_t i = 0; i < text.len; i++)
        for (uint32_t bit = 0; bit < 8; bit++) {
            text.data[i] ^= (uint8_t)(1u << bit);
            assert_int_not_equal(parsed(text.data, text.len, &machine, &out), ST_OK);
            text.data[i] ^= (uint8_t)(1u << bit);
        }
    buf_deinit(&text);
}

/* `line` in a file that is right in all else. */
static enum status line_parsed(const char *line)
{
    struct gemm_choices out;
    struct buf text = printed(0);
    text.len -= strlen("sum 0123456789abcdef\n");
    assert_int_equal(buf_append_str(&text, line), ST_OK);
    uint64_t sum = hash_bytes(text.data, text.len);
    assert_int_equal(buf_printf(&text, "sum %016llx\n", (unsigned long long)sum), ST_OK);
    enum status st = parsed(text.data, text.len, &machine, &out);
    gemm_choices_deinit(&out);
    buf_deinit(&text);
    return st;
}

#define ALGO_3 "0123456789abcdef0123456789abcdef0123456789abcdef"
#define ALGO_7 ALGO_3 ALGO_3 "0123456789abcdef"
#define ALGO   ALGO_7 "0123456789abcdef"

static void test_gemm_cache_parse_takes_no_line_that_is_wrong(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "\n",
        "choice\n",
        "chance 64 128 256 bf16 bf16 none 0 1 " ALGO "\n",
        "choice 63 128 256 bf16 bf16 none 0 1 " ALGO "\n", /* not the top of a bucket */
        "choice 0 128 256 bf16 bf16 none 0 1 " ALGO "\n",
        "choice 64 0 256 bf16 bf16 none 0 1 " ALGO "\n",
        "choice 64 128 0 bf16 bf16 none 0 1 " ALGO "\n",
        "choice 64 4294967296 256 bf16 bf16 none 0 1 " ALGO "\n",
        "choice 64 99999999999999999999999 256 bf16 bf16 none 0 1 " ALGO "\n",
        "choice 64 -1 256 bf16 bf16 none 0 1 " ALGO "\n",
        "choice 64 128 256 bf17 bf16 none 0 1 " ALGO "\n",
        "choice 64 128 256 bf16 bf16 some 0 1 " ALGO "\n",
        "choice 64 128 256 bf16 bf16 none 4 1 " ALGO "\n",
        "choice 64 128 256 bf16 bf16 none 0 1 " ALGO_7 "\n",
        "choice 64 128 256 bf16 bf16 none 0 1 " ALGO "0\n",
        "choice 64 128 256 bf16 bf16 none 0 1 " ALGO_7 "0123456789abcdeg\n",
        "choice 64 128 256 bf16 bf16 none 0  1 " ALGO "\n",
        "choice 64 128 256 bf16 bf16 none 0 1 " ALGO "\r\n",
        "choice 64 128 256 bf16 bf16 none 0 1 " ALGO, /* no end of its own */
    };
    assert_int_equal(line_parsed("choice 64 128 256 bf16 bf16 none 0 1 " ALGO "\n"), ST_OK);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_not_equal(line_parsed(wrong[i]), ST_OK);
}

static void test_gemm_cache_store_then_load_through_new_directories(void **state)
{
    struct dir *d = *state;
    char why[FILE_PATH_BYTES + 128] = "";
    const struct text_error err = {why, sizeof(why)};
    struct gemm_choices in = choices_of(N_CHOICES), out = {0};
    assert_int_equal(gemm_cache_load(d->file, &machine, &out, err), ST_NOT_FOUND);
    for (uint32_t i = 0; i < 2; i++) { /* into no file, then over one */
        assert_int_equal(gemm_cache_store(d->file, &machine, &in, err), ST_OK);
        assert_int_equal(gemm_cache_load(d->file, &machine, &out, err), ST_OK);
        assert_same(&in, &out);
        gemm_choices_deinit(&out);
    }
    gemm_choices_deinit(&in);
}

static void test_gemm_cache_store_where_it_cannot_says_why(void **state)
{
    struct dir *d = *state;
    char why[FILE_PATH_BYTES + 128] = "";
    struct gemm_choices none = {0};
    assert_int_equal(gemm_cache_store(d->file, &machine, &none, (struct text_error){NULL, 0}),
                     ST_OK);
    char below[FILE_PATH_BYTES + 8];
    snprintf(below, sizeof(below), "%s/x", d->file); /* a file as a directory */
    assert_int_equal(
        gemm_cache_store(below, &machine, &none, (struct text_error){why, sizeof(why)}), ST_IO);
    assert_non_null(strstr(why, "cannot be made"));
}

/* What a load says of the file there. */
static void load_assert(const struct dir *d, enum status want, const char *says)
{
    char why[FILE_PATH_BYTES + 128] = "";
    struct gemm_choices out = {0};
    assert_int_equal(
        gemm_cache_load(d->file, &machine, &out, (struct text_error){why, sizeof(why)}), want);
    assert_true(says == NULL || strstr(why, says) != NULL);
    gemm_choices_deinit(&out);
}

static void store(const struct dir *d)
{
    struct gemm_choices choices = choices_of(3);
    assert_int_equal(gemm_cache_store(d->file, &machine, &choices, (struct text_error){NULL, 0}),
                     ST_OK);
    gemm_choices_deinit(&choices);
}

static void test_gemm_cache_load_follows_no_link_and_store_replaces_it(void **state)
{
    struct dir *d = *state;
    char target[FILE_PATH_BYTES + 8];
    struct stat info;
    store(d);
    snprintf(target, sizeof(target), "%s.target", d->file);
    assert_int_equal(rename(d->file, target), 0); /* good in itself */
    assert_int_equal(symlink(target, d->file), 0);
    load_assert(d, ST_IO, "symbolic link");
    assert_int_equal(truncate(target, 7), 0);
    store(d);
    load_assert(d, ST_OK, NULL);
    assert_int_equal(lstat(d->file, &info), 0);
    assert_true(S_ISREG(info.st_mode));
    assert_int_equal(stat(target, &info), 0);
    assert_int_equal(info.st_size, 7); /* nothing was written through the link */
    unlink(target);
}

static void test_gemm_cache_load_of_a_file_that_others_may_write_is_refused(void **state)
{
    struct dir *d = *state;
    static const mode_t refused[] = {0620, 0602, 0666}, taken[] = {0600, 0644, 0400};
    struct stat info;
    store(d);
    assert_int_equal(stat(d->file, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(chmod(d->file, refused[i]), 0);
        load_assert(d, ST_IO, "others may write it");
        assert_int_equal(chmod(d->file, taken[i]), 0);
        load_assert(d, ST_OK, NULL);
    }
    assert_int_equal(chmod(d->file, 0666), 0);
    store(d);
    load_assert(d, ST_OK, NULL);
}

static void test_gemm_cache_load_of_what_is_no_file_of_ours_is_refused(void **state)
{
    struct dir *d = *state;
    store(d);
    if (geteuid() == 0) {
        assert_int_equal(chown(d->file, 12345, (gid_t)-1), 0);
        load_assert(d, ST_IO, "another user");
    }
    unlink(d->file);
    assert_int_equal(mkfifo(d->file, 0600), 0);
    load_assert(d, ST_IO, "not a regular file");
    unlink(d->file);
    assert_int_equal(mkdir(d->file, 0700), 0);
    load_assert(d, ST_IO, "not a regular file");
    assert_int_equal(rmdir(d->file), 0);
}

static void test_gemm_cache_store_makes_room_where_a_writer_died(void **state)
{
    struct dir *d = *state;
    char left[FILE_PATH_BYTES + 16], target[FILE_PATH_BYTES + 8];
    store(d);
    snprintf(left, sizeof(left), "%s.%ld", d->file, (long)gettid());
    snprintf(target, sizeof(target), "%s.target", d->file);
    FILE *f = fopen(left, "w");
    assert_non_null(f);
    fputs("half", f);
    fclose(f);
    store(d);
    load_assert(d, ST_OK, NULL);
    assert_int_equal(access(left, F_OK), -1);
    assert_int_equal(symlink(target, left), 0); /* and nobody chooses where it is written */
    store(d);
    load_assert(d, ST_OK, NULL);
    assert_int_equal(access(target, F_OK), -1);
}

static void test_gemm_cache_of_two_machines_in_one_directory_are_both_kept(void **state)
{
    struct dir *d = *state;
    struct gemm_machine machines[4] = {machine, machine, machine, machine};
    char paths[4][FILE_PATH_BYTES];
    const struct text_error no_error = {NULL, 0};
    machines[1].library++;
    machines[2].driver[0] = '2';
    machines[3].settings++;
    for (uint32_t i = 0; i < 4; i++) {
        struct gemm_choices choices = choices_of(i + 1);
        assert_int_equal(gemm_cache_path(d->path, &machines[i], paths[i], no_error), ST_OK);
        assert_int_equal(gemm_cache_store(paths[i], &machines[i], &choices, no_error), ST_OK);
        gemm_choices_deinit(&choices);
    }
    for (uint32_t i = 0; i < 4; i++) {
        struct gemm_choices out = {0};
        assert_int_equal(gemm_cache_load(paths[i], &machines[i], &out, no_error), ST_OK);
        assert_int_equal(out.n, i + 1);
        gemm_choices_deinit(&out);
        assert_int_equal(unlink(paths[i]), 0);
    }
    store(d); /* what the teardown removes */
}

struct writer {
    const char *file;
    uint32_t n_choices;
};

static void *store_and_load(void *arg)
{
    const struct writer *w = arg;
    struct gemm_choices own = choices_of(w->n_choices);
    bool is_ok = true;
    for (uint32_t i = 0; i < N_STORES && is_ok; i++) {
        struct gemm_choices seen = {0};
        const struct text_error no_error = {NULL, 0};
        is_ok = gemm_cache_store(w->file, &machine, &own, no_error) == ST_OK &&
                gemm_cache_load(w->file, &machine, &seen, no_error) == ST_OK && seen.n > 0;
        gemm_choices_deinit(&seen);
    }
    gemm_choices_deinit(&own);
    return is_ok ? NULL : arg;
}

static void test_gemm_cache_store_by_many_at_a_time_leaves_a_whole_file(void **state)
{
    struct dir *d = *state;
    pthread_t threads[N_THREADS];
    struct writer writers[N_THREADS];
    for (uint32_t i = 0; i < N_THREADS; i++) {
        writers[i] = (struct writer){.file = d->file, .n_choices = 1 + i * 50};
        assert_int_equal(pthread_create(&threads[i], NULL, store_and_load, &writers[i]), 0);
    }
    for (uint32_t i = 0; i < N_THREADS; i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
}

#define NAME "/gemm-NVIDIA-H200--9-0--132-multiprocessors-"

/* The path is `dir`, NAME, 8 hex digits and ".txt". */
static void path_assert(const char *dir, const char *cache, const char *home, const char *in)
{
    char out[FILE_PATH_BYTES] = "";
    cache != NULL ? setenv("XDG_CACHE_HOME", cache, 1) : unsetenv("XDG_CACHE_HOME");
    home != NULL ? setenv("HOME", home, 1) : unsetenv("HOME");
    enum status st = gemm_cache_path(dir, &machine, out, (struct text_error){NULL, 0});
    assert_int_equal(st, in != NULL ? ST_OK : ST_NOT_FOUND);
    if (in == NULL)
        return;
    assert_memory_equal(out, in, strlen(in));
    const char *name = out + strlen(in);
    assert_memory_equal(name, NAME, strlen(NAME));
    assert_int_equal(strspn(name + strlen(NAME), "0123456789abcdef"), 8);
    assert_string_equal(name + strlen(NAME) + 8, ".txt");
}

static void test_gemm_cache_path_is_where_the_option_or_the_user_says(void **state)
{
    (void)state;
    path_assert("/var/cache/dynd", "/c", "/h", "/var/cache/dynd");
    path_assert("here", "/c", "/h", "here");
    path_assert(GEMM_CACHE_DIR_AUTO, "/c", "/h", "/c/dynd");
    path_assert(GEMM_CACHE_DIR_AUTO, NULL, "/h", "/h/.cache/dynd");
    path_assert(GEMM_CACHE_DIR_AUTO, "", "/h", "/h/.cache/dynd");
    path_assert(GEMM_CACHE_DIR_AUTO, "relative", "/h", "/h/.cache/dynd"); /* as XDG wants it */
    path_assert(GEMM_CACHE_DIR_AUTO, NULL, NULL, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm_bucket_holds_its_rows_and_ends_at_its_top),
        cmocka_unit_test(test_gemm_choices_set_replaces_the_one_of_the_same_shape),
        cmocka_unit_test(test_gemm_choices_remove_leaves_the_others_in_order),
        cmocka_unit_test(test_gemm_choices_set_into_a_full_table_drops_the_oldest),
        cmocka_unit_test(test_gemm_cache_parse_of_too_many_lines_is_refused),
        cmocka_unit_test(test_gemm_cache_parse_gives_back_what_was_printed),
        cmocka_unit_test(test_gemm_cache_parse_of_another_machine_is_refused),
        cmocka_unit_test(test_gemm_cache_parse_of_a_part_is_refused),
        cmocka_unit_test(test_gemm_cache_parse_of_a_changed_byte_is_refused),
        cmocka_unit_test(test_gemm_cache_parse_takes_no_line_that_is_wrong),
        cmocka_unit_test_setup_teardown(test_gemm_cache_store_then_load_through_new_directories,
                                        dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(test_gemm_cache_store_where_it_cannot_says_why, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(test_gemm_cache_store_by_many_at_a_time_leaves_a_whole_file,
                                        dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(test_gemm_cache_load_follows_no_link_and_store_replaces_it,
                                        dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(
            test_gemm_cache_load_of_a_file_that_others_may_write_is_refused, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(test_gemm_cache_load_of_what_is_no_file_of_ours_is_refused,
                                        dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(test_gemm_cache_store_makes_room_where_a_writer_died,
                                        dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(
            test_gemm_cache_of_two_machines_in_one_directory_are_both_kept, dir_make, dir_remove),
        cmocka_unit_test(test_gemm_cache_path_is_where_the_option_or_the_user_says),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
