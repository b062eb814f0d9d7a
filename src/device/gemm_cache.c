#include "device/gemm_cache.h"

#include "base/file.h"
#include "base/hash.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC         "dynd-gemm 1"
#define SUM_LINE_SIZE (sizeof("sum 0123456789abcdef\n") - 1)
#define ALGO_DIGITS   (GEMM_ALGO_WORDS * 16)
/* Rows [1, 32] have buckets of 2, and each octave behind has eight. */
#define FIRST_BUCKETS 16u
#define OCTAVE        8u

static const char *const dtype_names[] = {"f32", "bf16", "f16", "f8"};
static const char *const scaling_names[] = {"none", "row", "block"};

/* ---- buckets ---- */

uint32_t gemm_bucket(uint32_t rows)
{
    uint32_t step = 2, first = 0;
    while (step * 16 < rows && first + FIRST_BUCKETS < GEMM_BUCKETS) {
        step *= 2;
        first += OCTAVE;
    }
    const uint32_t bucket = first + (rows - 1) / step;
    return bucket < GEMM_BUCKETS ? bucket : GEMM_BUCKETS - 1;
}

uint32_t gemm_bucket_top(uint32_t bucket)
{
    uint32_t step = 2, first = 0;
    while (bucket >= first + FIRST_BUCKETS) {
        step *= 2;
        first += OCTAVE;
    }
    return (bucket - first + 1) * step;
}

/* ---- choices ---- */

void gemm_choices_deinit(struct gemm_choices *choices)
{
    free(choices->items);
    *choices = (struct gemm_choices){0};
}

static bool is_alike(const struct gemm_choice *a, const struct gemm_choice *b)
{
    return a->rows == b->rows && a->n == b->n && a->k == b->k && a->w_dtype == b->w_dtype &&
           a->y_dtype == b->y_dtype && a->scaling == b->scaling;
}

const struct gemm_choice *gemm_choices_find(const struct gemm_choices *choices,
                                            const struct gemm_choice *like)
{
    for (uint32_t i = 0; i < choices->n; i++)
        if (is_alike(&choices->items[i], like))
            return &choices->items[i];
    return NULL;
}

enum status gemm_choices_set(struct gemm_choices *choices, const struct gemm_choice *choice)
{
    const struct gemm_choice *old = gemm_choices_find(choices, choice);
    if (old != NULL) {
        choices->items[old - choices->items] = *choice;
        return ST_OK;
    }
    if (choices->n == GEMM_CHOICES_MAX)
        return ST_TOO_LARGE;
    if (choices->n == choices->cap) {
        uint32_t cap = choices->cap > 0 ? 2 * choices->cap : 64;
        struct gemm_choice *items = realloc(choices->items, cap * sizeof(*items));
        if (items == NULL)
            return ST_NO_MEMORY;
        choices->items = items;
        choices->cap = cap;
    }
    choices->items[choices->n++] = *choice;
    return ST_OK;
}

/* ---- text ---- */

/* What is left to read. */
struct reader {
    const char *at, *end;
};

/* Takes the next line, without its end. */
static bool line_take(struct reader *r, struct reader *out_line)
{
    const char *end = memchr(r->at, '\n', (size_t)(r->end - r->at));
    if (end == NULL)
        return false;
    *out_line = (struct reader){r->at, end};
    r->at = end + 1;
    return true;
}

/* Takes `word` and the space, or the end, behind it. */
static bool word_take(struct reader *line, const char *word)
{
    size_t bytes = strlen(word), left = (size_t)(line->end - line->at);
    if (left < bytes || memcmp(line->at, word, bytes) != 0)
        return false;
    if (left > bytes && line->at[bytes] != ' ')
        return false;
    line->at += left > bytes ? bytes + 1 : bytes;
    return true;
}

static bool name_take(struct reader *line, const char *const *names, uint32_t n, uint32_t *out)
{
    for (*out = 0; *out < n; (*out)++)
        if (word_take(line, names[*out]))
            return true;
    return false;
}

/* Takes decimal digits and the space, or the end, behind them. */
static bool number_take(struct reader *line, uint32_t *out)
{
    uint64_t value = 0;
    const char *at = line->at;
    for (; at < line->end && *at >= '0' && *at <= '9' && value <= UINT32_MAX; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    if (at == line->at || value > UINT32_MAX || (at < line->end && *at != ' '))
        return false;
    line->at = at < line->end ? at + 1 : at;
    *out = (uint32_t)value;
    return true;
}

static bool hex_take(struct reader *line, uint64_t *out)
{
    *out = 0;
    if (line->end - line->at < 16)
        return false;
    for (uint32_t i = 0; i < 16; i++) {
        char c = *line->at++;
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10
                                                : 16;
        if (digit == 16)
            return false;
        *out = *out << 4 | digit;
    }
    return true;
}

static bool choice_take(struct reader *line, struct gemm_choice *out)
{
    if (!word_take(line, "choice") || !number_take(line, &out->rows) ||
        !number_take(line, &out->n) || !number_take(line, &out->k) ||
        !name_take(line, dtype_names, 4, &out->w_dtype) ||
        !name_take(line, dtype_names, 4, &out->y_dtype) ||
        !name_take(line, scaling_names, 3, &out->scaling) || !number_take(line, &out->way) ||
        !number_take(line, &out->time_ns))
        return false;
    for (uint32_t i = 0; i < GEMM_ALGO_WORDS; i++)
        if (!hex_take(line, &out->algo[i]))
            return false;
    return line->at == line->end && out->rows > 0 && out->n > 0 && out->k > 0 &&
           gemm_bucket_top(gemm_bucket(out->rows)) == out->rows && out->way < GEMM_WAYS_MAX;
}

/* The line "<key> <value>". */
static bool line_is(struct reader *r, const char *key, const char *value)
{
    struct reader line;
    return line_take(r, &line) && word_take(&line, key) &&
           (size_t)(line.end - line.at) == strlen(value) &&
           memcmp(line.at, value, strlen(value)) == 0;
}

static bool is_of_machine(struct reader *r, const struct gemm_machine *machine)
{
    char library[16];
    snprintf(library, sizeof(library), "%" PRIu32, machine->library);
    return line_is(r, "gpu", machine->gpu) && line_is(r, "driver", machine->driver) &&
           line_is(r, "library", library);
}

/* Cuts the line of the sum off, and compares. */
static enum status sum_check(struct reader *r, struct text_error err)
{
    struct reader line;
    uint64_t sum = 0;
    bool is_there = (size_t)(r->end - r->at) > SUM_LINE_SIZE && r->end[-1] == '\n';
    if (is_there) {
        line = (struct reader){r->end - SUM_LINE_SIZE, r->end - 1};
        is_there = line.at[-1] == '\n' && word_take(&line, "sum") && hex_take(&line, &sum);
    }
    if (!is_there)
        return text_error_set(err, ST_TRUNCATED, "its end is missing");
    r->end -= SUM_LINE_SIZE;
    if (hash_bytes(r->at, (size_t)(r->end - r->at)) != sum)
        return text_error_set(err, ST_PARSE, "it is damaged");
    return ST_OK;
}

enum status gemm_cache_parse(const char *text, size_t bytes, const struct gemm_machine *machine,
                             struct gemm_choices *out, struct text_error err)
{
    struct reader r = {text, text + bytes}, line, first = r;
    struct gemm_choices choices = {0};
    struct gemm_choice choice;
    if (!line_take(&first, &line) || !word_take(&line, MAGIC) || line.at != line.end)
        return text_error_set(err, ST_PARSE, "it is no such file, or of another version of dynd");
    enum status st = sum_check(&r, err);
    if (st != ST_OK)
        return st;
    r.at = first.at;
    if (!is_of_machine(&r, machine))
        return text_error_set(err, ST_UNSUPPORTED, "it is of another GPU, driver or library");
    while (st == ST_OK && r.at < r.end)
        if (line_take(&r, &line) && choice_take(&line, &choice))
            st = gemm_choices_set(&choices, &choice);
        else
            st = text_error_set(err, ST_PARSE, "a line in it is wrong");
    if (st == ST_OK)
        *out = choices;
    else
        gemm_choices_deinit(&choices);
    return st;
}

static enum status choice_print(const struct gemm_choice *c, struct buf *out)
{
    char algo[ALGO_DIGITS + 1];
    for (uint32_t i = 0; i < GEMM_ALGO_WORDS; i++)
        snprintf(algo + (size_t)i * 16, 17, "%016" PRIx64, c->algo[i]);
    return buf_printf(
        out, "choice %" PRIu32 " %" PRIu32 " %" PRIu32 " %s %s %s %" PRIu32 " %" PRIu32 " %s\n",
        c->rows, c->n, c->k, dtype_names[c->w_dtype], dtype_names[c->y_dtype],
        scaling_names[c->scaling], c->way, c->time_ns, algo);
}

enum status gemm_cache_print(const struct gemm_choices *choices, const struct gemm_machine *machine,
                             struct buf *out)
{
    const size_t first = out->len;
    enum status st = buf_printf(out, MAGIC "\ngpu %s\ndriver %s\nlibrary %" PRIu32 "\n",
                                machine->gpu, machine->driver, machine->library);
    for (uint32_t i = 0; i < choices->n && st == ST_OK; i++)
        st = choice_print(&choices->items[i], out);
    return st == ST_OK ? buf_printf(out, "sum %016" PRIx64 "\n",
                                    hash_bytes(out->data + first, out->len - first))
                       : st;
}

/* ---- file ---- */

/* The GPU's name is a part of the file's, so that a directory shared by different GPUs has room for
 * all of them. */
enum status gemm_cache_path(const char *dir, const struct gemm_machine *machine, char *out,
                            struct text_error err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char base[FILE_PATH_BYTES], name[sizeof(machine->gpu) + 16];
    int n = snprintf(base, sizeof(base), "%s", dir);
    if (strcmp(dir, GEMM_CACHE_DIR_AUTO) == 0) {
        if (cache != NULL && cache[0] == '/')
            n = snprintf(base, sizeof(base), "%s/dynd", cache);
        else if (home != NULL && home[0] == '/')
            n = snprintf(base, sizeof(base), "%s/.cache/dynd", home);
        else
            return text_error_set(err, ST_NOT_FOUND, "neither XDG_CACHE_HOME nor HOME is set");
    }
    if (n < 0 || (size_t)n >= sizeof(base))
        return text_error_set(err, ST_TOO_LARGE, "path of the cache directory is too long");
    n = snprintf(name, sizeof(name), "gemm-%s.txt", machine->gpu);
    for (int i = 0; i < n - 4; i++) {
        bool is_plain = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') ||
                        (name[i] >= '0' && name[i] <= '9');
        name[i] = is_plain ? name[i] : '-';
    }
    return file_path_join(base, name, out, err);
}

enum status gemm_cache_load(const char *path, const struct gemm_machine *machine,
                            struct gemm_choices *out, struct text_error err)
{
    char *text = NULL;
    size_t bytes = 0;
    enum status st = file_read(path, GEMM_CACHE_BYTES, &text, &bytes, err);
    if (st != ST_OK)
        return st;
    st = gemm_cache_parse(text, bytes, machine, out, err);
    free(text);
    return st;
}

/* All directories that `path` names. */
static void dirs_make(const char *path)
{
    char dir[FILE_PATH_BYTES];
    snprintf(dir, sizeof(dir), "%s", path);
    for (char *at = strchr(dir + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
        *at = '\0';
        mkdir(dir, 0755); /* whether it is there now shows when the file is made */
        *at = '/';
    }
}

static bool write_all(int fd, const uint8_t *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* A file of this call's own, which then takes the place of the one at path. */
static enum status file_replace(const char *path, const struct buf *text, struct text_error err)
{
    char temporary[FILE_PATH_BYTES + 8];
    snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path);
    dirs_make(path);
    int fd = mkstemp(temporary);
    if (fd < 0)
        return text_error_set(err, ST_IO, "%s: cannot be made: %s", temporary, strerror(errno));
    bool is_written = write_all(fd, text->data, text->len) && fsync(fd) == 0;
    int code = errno;
    if (close(fd) != 0 && is_written) {
        is_written = false;
        code = errno;
    }
    if (is_written && rename(temporary, path) == 0)
        return ST_OK;
    code = is_written ? errno : code;
    unlink(temporary);
    return text_error_set(err, ST_IO, "%s: cannot be written: %s", path, strerror(code));
}

enum status gemm_cache_store(const char *path, const struct gemm_machine *machine,
                             const struct gemm_choices *choices, struct text_error err)
{
    struct buf text;
    buf_init(&text, GEMM_CACHE_BYTES);
    enum status st = gemm_cache_print(choices, machine, &text);
    if (st == ST_OK)
        st = file_replace(path, &text, err);
    else
        text_error_write(err, "%s: %s", path, status_text(st));
    buf_deinit(&text);
    return st;
}
