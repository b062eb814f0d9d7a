#include "device/gemm_cache.h"

#include "base/file.h"
#include "base/hash.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC         "dynd-gemm 2"
#define HEADER_BYTES  256u
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

static void remove_at(struct gemm_choices *choices, uint32_t i)
{
    choices->n--;
    memmove(&choices->items[i], &choices->items[i + 1], (choices->n - i) * sizeof(*choices->items));
}

void gemm_choices_remove(struct gemm_choices *choices, const struct gemm_choice *like)
{
    const struct gemm_choice *found = gemm_choices_find(choices, like);
    if (found != NULL)
        remove_at(choices, (uint32_t)(found - choices->items));
}

enum status gemm_choices_set(struct gemm_choices *choices, const struct gemm_choice *choice)
{
    const struct gemm_choice *old = gemm_choices_find(choices, choice);
    if (old != NULL) {
        choices->items[old - choices->items] = *choice;
        return ST_OK;
    }
    if (choices->n == GEMM_CHOICES_MAX)
        remove_at(choices, 0);
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

/* The lines that tell where the choices hold; the first is MAGIC. */
static void header_print(const struct gemm_machine *machine, char out[HEADER_BYTES])
{
    static_assert(sizeof(*machine) + sizeof(MAGIC) + 64 <= HEADER_BYTES, "there is room for it");
    snprintf(out, HEADER_BYTES,
             MAGIC "\ngpu %s\ndriver %s\nlibrary %" PRIu32 "\nsettings %" PRIu32 "\n", machine->gpu,
             machine->driver, machine->library, machine->settings);
}

/* Takes the header. */
static bool is_of_machine(struct reader *r, const struct gemm_machine *machine)
{
    char header[HEADER_BYTES];
    header_print(machine, header);
    const size_t bytes = strlen(header);
    if ((size_t)(r->end - r->at) < bytes || memcmp(r->at, header, bytes) != 0)
        return false;
    r->at += bytes;
    return true;
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
    if (!is_of_machine(&r, machine))
        return text_error_set(err, ST_UNSUPPORTED,
                              "it is of another GPU, driver, library or version of dynd");
    while (st == ST_OK && r.at < r.end)
        if (choices.n == GEMM_CHOICES_MAX)
            st = text_error_set(err, ST_TOO_LARGE, "too many lines are in it");
        else if (line_take(&r, &line) && choice_take(&line, &choice))
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
    char header[HEADER_BYTES];
    const size_t first = out->len;
    header_print(machine, header);
    enum status st = buf_append_str(out, header);
    for (uint32_t i = 0; i < choices->n && st == ST_OK; i++)
        st = choice_print(&choices->items[i], out);
    return st == ST_OK ? buf_printf(out, "sum %016" PRIx64 "\n",
                                    hash_bytes(out->data + first, out->len - first))
                       : st;
}

/* ---- file ---- */

/* Of all that a file holds for, and of the user, whose file another one does not trust: what shares
 * a directory must not share a file. */
static uint32_t name_hash(const struct gemm_machine *machine)
{
    char header[HEADER_BYTES];
    header_print(machine, header);
    const uint64_t hash = hash_combine(hash_bytes(header, strlen(header)), geteuid());
    return (uint32_t)(hash >> 32);
}

enum status gemm_cache_path(const char *dir, const struct gemm_machine *machine, char *out,
                            struct text_error err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char base[FILE_PATH_BYTES], name[sizeof(machine->gpu) + 32];
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
    n = snprintf(name, sizeof(name), "gemm-%s-%08" PRIx32 ".txt", machine->gpu, name_hash(machine));
    for (int i = 0; i < n - 4; i++) {
        bool is_plain = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') ||
                        (name[i] >= '0' && name[i] <= '9');
        name[i] = is_plain ? name[i] : '-';
    }
    return file_path_join(base, name, out, err);
}

/* Why a file is not to be trusted; NULL: it is. */
static const char *distrust(const struct stat *info)
{
    if (!S_ISREG(info->st_mode))
        return "not a regular file";
    if (info->st_uid != geteuid() && info->st_uid != 0)
        return "it belongs to another user";
    return (info->st_mode & (S_IWGRP | S_IWOTH)) != 0 ? "others may write it" : NULL;
}

static enum status cannot_read(struct text_error err, enum status st, const char *path,
                               const char *why)
{
    return text_error_set(err, st, "%s: cannot be read: %s", path, why);
}

static enum status trusted_open(const char *path, int *out_fd, size_t *out_bytes,
                                struct text_error err)
{
    struct stat info;
    /* O_NONBLOCK: a FIFO in place of a file must not hang the start. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return cannot_read(err, errno == ENOENT || errno == ENOTDIR ? ST_NOT_FOUND : ST_IO, path,
                           errno == ELOOP ? "it is a symbolic link" : strerror(errno));
    const char *why = fstat(fd, &info) != 0 ? strerror(errno) : distrust(&info);
    enum status st = why != NULL ? cannot_read(err, ST_IO, path, why) : ST_OK;
    if (st == ST_OK && (info.st_size < 0 || (uint64_t)info.st_size > GEMM_CACHE_BYTES))
        st = text_error_set(err, ST_TOO_LARGE, "%s: larger than %u bytes", path, GEMM_CACHE_BYTES);
    if (st == ST_OK) {
        *out_fd = fd;
        *out_bytes = (size_t)info.st_size;
    } else {
        close(fd);
    }
    return st;
}

/* Up to `bytes`, fewer where the file ends before; SIZE_MAX: errno says why not. */
static size_t read_most(int fd, char *data, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        ssize_t n = read(fd, data + at, bytes - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return SIZE_MAX;
        if (n == 0)
            break;
        at += (size_t)n;
    }
    return at;
}

enum status gemm_cache_load(const char *path, const struct gemm_machine *machine,
                            struct gemm_choices *out, struct text_error err)
{
    int fd = -1;
    size_t bytes = 0;
    enum status st = trusted_open(path, &fd, &bytes, err);
    if (st != ST_OK)
        return st;
    char *text = calloc(1, bytes + 1);
    if (text == NULL)
        st = cannot_read(err, ST_NO_MEMORY, path, status_text(ST_NO_MEMORY));
    if (st == ST_OK)
        bytes = read_most(fd, text, bytes);
    if (bytes == SIZE_MAX)
        st = cannot_read(err, ST_IO, path, strerror(errno));
    close(fd);
    if (st == ST_OK)
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

/* A new file at `path`; what is there is left from a writer that died. */
static int file_make(const char *path)
{
    unlink(path);
    return open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

/* Whether the open file still has its name: thread ids of two containers may be the same. */
static bool is_still_at(const char *path, int fd)
{
    struct stat own, there;
    return fstat(fd, &own) == 0 && lstat(path, &there) == 0 && own.st_dev == there.st_dev &&
           own.st_ino == there.st_ino;
}

/* A file of this call's own, which then takes the place of the one at path. */
static enum status file_replace(const char *path, const struct buf *text, struct text_error err)
{
    char temporary[FILE_PATH_BYTES + 16];
    snprintf(temporary, sizeof(temporary), "%s.%ld", path, (long)gettid());
    dirs_make(path);
    int fd = file_make(temporary);
    if (fd < 0)
        return text_error_set(err, ST_IO, "%s: cannot be made: %s", temporary, strerror(errno));
    const bool is_written = write_all(fd, text->data, text->len) && fsync(fd) == 0;
    int code = is_written ? 0 : errno;
    const bool is_own = is_still_at(temporary, fd);
    if (close(fd) != 0 && code == 0)
        code = errno;
    if (!is_own)
        return text_error_set(err, ST_IO, "%s: another process has taken it", temporary);
    if (code == 0 && rename(temporary, path) == 0)
        return ST_OK;
    code = code == 0 ? errno : code;
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
