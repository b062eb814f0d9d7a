/* One value: its text checked against its row of the option table, and stored. */
#include "config/config_int.h"

#include "base/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN_BYTES_MAX = 40, SOURCE_SHOWN_BYTES_MAX = 160, WORD_BYTES_MAX = 64 };

void error_set(struct config_error *error, const struct origin *at, const char *key,
               const char *format, ...)
{
    size_t source_bytes = strlen(at->source);
    const char *source = at->source;
    if (source_bytes > SOURCE_SHOWN_BYTES_MAX)
        source += source_bytes - SOURCE_SHOWN_BYTES_MAX; /* the end of a path says more */
    char position[32] = "";
    if (at->line > 0)
        snprintf(position, sizeof(position), ":%u:%u", at->line, at->column);
    error->line = at->line;
    error->column = at->column;
    int n = snprintf(error->message, sizeof(error->message), "%s%s%s%s%s", source, position,
                     *source != '\0' ? ": " : "", key, *key != '\0' ? ": " : "");
    va_list args;
    va_start(args, format);
    if (n >= 0 && (size_t)n < sizeof(error->message))
        vsnprintf(error->message + n, sizeof(error->message) - (size_t)n, format, args);
    va_end(args);
}

/* --- Texts in messages --- */

struct shown {
    char text[SHOWN_BYTES_MAX + 4];
};

/* The user's text for a message: cut, and without anything that could disturb a terminal. */
static struct shown shown_text(const char *text, size_t bytes)
{
    struct shown shown;
    bool is_cut = bytes > SHOWN_BYTES_MAX;
    size_t n = utf8_valid_prefix((const uint8_t *)text, is_cut ? SHOWN_BYTES_MAX : bytes);
    if (n < bytes)
        is_cut = true;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)text[i];
        bool is_c1 = c == 0xc2 && (uint8_t)text[i + 1] < 0xa0; /* U+0080 to U+009F */
        shown.text[i] = c < 0x20 || c == 0x7f || is_c1 ? '?' : (char)c;
        if (is_c1)
            shown.text[++i] = '?';
    }
    memcpy(shown.text + n, "...", 4);
    if (!is_cut)
        shown.text[n] = '\0';
    return shown;
}

/* Optimal string alignment distance: insert, delete, replace, swap of neighbours (Damerau 1964). */
static uint32_t edit_distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    uint32_t rows[3][WORD_BYTES_MAX + 1];
    if (a_bytes > WORD_BYTES_MAX || b_bytes > WORD_BYTES_MAX)
        return UINT32_MAX;
    for (size_t j = 0; j <= b_bytes; j++)
        rows[0][j] = (uint32_t)j;
    for (size_t i = 1; i <= a_bytes; i++) {
        uint32_t *row = rows[i % 3];
        const uint32_t *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= b_bytes; j++) {
            uint32_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best)
                best = above[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            bool is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (is_swap && above2[j - 2] + 1 < best)
                best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[a_bytes % 3][b_bytes];
}

void suggestion_try(struct suggestion *suggestion, const char *candidate)
{
    size_t bytes = strlen(candidate);
    size_t shorter = bytes < suggestion->bytes ? bytes : suggestion->bytes;
    uint32_t bound = shorter < 5 ? 1 : shorter < 10 ? 2 : 3;
    uint32_t distance = edit_distance(suggestion->word, suggestion->bytes, candidate, bytes);
    if (distance > bound || (suggestion->best != NULL && distance >= suggestion->best_distance))
        return;
    suggestion->best = candidate;
    suggestion->best_distance = distance;
}

/* --- Checks; each answers NULL or what is wrong --- */

/* Next code point of valid UTF-8. */
static uint32_t utf8_next(const uint8_t **at)
{
    uint32_t c = *(*at)++;
    uint32_t n_more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
    if (n_more > 0)
        c &= 0x3fu >> n_more;
    for (; n_more > 0; n_more--)
        c = c << 6 | (*(*at)++ & 0x3f);
    return c;
}

/* Control characters and line breaks have no use here and would forge log lines. */
static const char *string_check(const char *text, size_t bytes)
{
    const uint8_t *at = (const uint8_t *)text, *end = at + bytes;
    if (bytes > STRING_BYTES_MAX)
        return "is longer than 4096 bytes";
    if (utf8_valid_prefix(at, bytes) != bytes)
        return "is not valid UTF-8";
    while (at < end) {
        uint32_t c = utf8_next(&at);
        if (c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x2028 || c == 0x2029 || c == 0xfeff ||
            c == 0xfffe || c == 0xffff)
            return "has a control character";
    }
    return NULL;
}

static const char *name_check(const char *text)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    if (strlen(text) > CONFIG_NAME_BYTES_MAX - 3) /* room for "-63" */
        return "is longer than 60 bytes";
    if (text[strspn(text, allowed)] != '\0')
        return "may have letters, digits, '-', '_' and '.' only";
    return NULL;
}

static bool port_is_valid(const char *text)
{
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > 5 || text[n] != '\0' || text[0] == '0')
        return false;
    uint32_t port = 0;
    for (size_t i = 0; i < n; i++)
        port = port * 10 + (uint32_t)(text[i] - '0');
    return port <= 65535;
}

static const char *endpoint_check(const char *text)
{
    static const char message[] = "must be host:port, [address]:port or unix:/path";
    if (*text == '\0')
        return NULL;
    if (strncmp(text, "unix:", 5) == 0) {
        if (text[5] != '/')
            return "must have an absolute path after unix:";
        return strlen(text + 5) > 107 ? "is longer than a UNIX socket path may be" : NULL;
    }
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text || !port_is_valid(colon + 1))
        return message;
    size_t host_bytes = (size_t)(colon - text);
    if (text[0] == '[')
        return host_bytes > 2 && colon[-1] == ']' ? NULL : message;
    /* A bare IPv6 address would be ambiguous. */
    bool is_plain = memchr(text, ':', host_bytes) == NULL && strcspn(text, " /[]") >= host_bytes;
    return is_plain ? NULL : message;
}

static const char *index_list_check(const char *text)
{
    uint32_t count;
    if (config_index_list_parse(text, NULL, CONFIG_INDEX_MAX + 1, &count) != ST_OK)
        return "must be numbers and ranges up to 4095, each once, for example \"0-3,8\"";
    return NULL;
}

static const char *check_run(enum option_check check, const char *text)
{
    switch (check) {
    case CHECK_name:
        return name_check(text);
    case CHECK_index_list:
        return index_list_check(text);
    case CHECK_endpoint:
        return endpoint_check(text);
    case CHECK_none:
    case CHECK_transport:
        break;
    }
    return NULL;
}

/* --- Scalars --- */

enum number_result { NUMBER_OK, NUMBER_NONE, NUMBER_NEGATIVE, NUMBER_TOO_BIG };

static uint32_t suffix_shift(const char *text, size_t bytes)
{
    static const char suffixes[4][4] = {"KiB", "MiB", "GiB", "TiB"};
    for (uint32_t i = 0; i < 4; i++)
        if (bytes == 3 && memcmp(text, suffixes[i], 3) == 0)
            return (i + 1) * 10;
    return 0;
}

static enum number_result number_parse(const char *text, size_t bytes, bool takes_suffix,
                                       uint64_t *out)
{
    size_t at = bytes > 0 && text[0] == '-' ? 1 : 0;
    size_t first = at;
    uint64_t number = 0;
    bool is_big = false;
    for (; at < bytes && text[at] >= '0' && text[at] <= '9'; at++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(text[at] - '0'), &number))
            is_big = true;
    size_t n_digits = at - first;
    if (n_digits == 0 || (n_digits > 1 && text[first] == '0'))
        return NUMBER_NONE; /* a leading zero means octal to some readers of YAML */
    if (at < bytes) {
        uint32_t shift = takes_suffix ? suffix_shift(text + at, bytes - at) : 0;
        if (shift == 0)
            return NUMBER_NONE;
        is_big = is_big || number > UINT64_MAX >> shift;
        number <<= shift;
    }
    if (first == 1)
        return NUMBER_NEGATIVE;
    *out = number;
    return is_big ? NUMBER_TOO_BIG : NUMBER_OK;
}

/* What one call of value_set works on. */
struct setting {
    const struct option *option;
    const struct value_text *value;
    const struct origin *at;
    const char *key;
    struct config_error *error;
};

static enum status setting_fail(const struct setting *s, const char *expected)
{
    const char *kind = s->value->is_quoted ? "the string " : "";
    if (s->value->is_null)
        error_set(s->error, s->at, s->key, "expected %s, found nothing", expected);
    else
        error_set(s->error, s->at, s->key, "expected %s, found %s'%s'", expected, kind,
                  shown_text(s->value->text, s->value->bytes).text);
    return ST_INVALID;
}

static enum status number_read(const struct setting *s, uint64_t *out)
{
    const struct option *option = s->option;
    bool takes_suffix = strcmp(option->unit, "bytes") == 0;
    uint64_t number = 0;
    enum number_result result = NUMBER_NONE;
    if (!s->value->is_quoted || takes_suffix)
        result = number_parse(s->value->text, s->value->bytes, takes_suffix, &number);
    if (result == NUMBER_NONE)
        return setting_fail(s, takes_suffix ? "a number of bytes such as 1048576 or 256MiB"
                                            : "an integer");
    if (result != NUMBER_OK || number < option->min || number > option->max) {
        error_set(s->error, s->at, s->key, "%s is out of range, must be between %llu and %llu",
                  shown_text(s->value->text, s->value->bytes).text, (unsigned long long)option->min,
                  (unsigned long long)option->max);
        return ST_INVALID;
    }
    if (option->type == OPTION_POW2 && (number & (number - 1)) != 0) {
        error_set(s->error, s->at, s->key, "%llu is not a power of two",
                  (unsigned long long)number);
        return ST_INVALID;
    }
    *out = number;
    return ST_OK;
}

static bool text_is(const struct value_text *value, const char *word)
{
    return value->bytes == strlen(word) && memcmp(value->text, word, value->bytes) == 0;
}

static enum status bool_set(const struct setting *s, bool *field)
{
    bool is_true = text_is(s->value, "true");
    if (s->value->is_quoted || (!is_true && !text_is(s->value, "false")))
        return setting_fail(s, "true or false");
    *field = is_true;
    return ST_OK;
}

/* Index of the value among `choices`, with a suggestion when it is none of them. */
static enum status choice_read(const struct setting *s, const char *const *choices,
                               uint32_t n_choices, uint32_t *out)
{
    struct suggestion near = {.word = s->value->text, .bytes = s->value->bytes};
    char list[160] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < n_choices; i++) {
        if (text_is(s->value, choices[i])) {
            *out = i;
            return ST_OK;
        }
        suggestion_try(&near, choices[i]);
        const char *joint = i == 0 ? "" : i + 1 < n_choices ? ", " : " or ";
        if (n < sizeof(list))
            n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", joint, choices[i]);
    }
    if (s->value->is_null || near.best == NULL)
        return setting_fail(s, list);
    error_set(s->error, s->at, s->key, "expected %s, found '%s', did you mean %s?", list,
              shown_text(s->value->text, s->value->bytes).text, near.best);
    return ST_INVALID;
}

static enum status string_read(struct arena *arena, const struct setting *s, const char **out)
{
    if (s->value->is_null)
        return setting_fail(s, "a string (\"\" for an empty one)");
    const char *problem = string_check(s->value->text, s->value->bytes);
    if (problem != NULL) {
        error_set(s->error, s->at, s->key, "%s", problem);
        return ST_INVALID;
    }
    uint32_t n_choices, choice;
    const char *const *choices = check_choices(s->option->check, &n_choices);
    if (choices != NULL) {
        enum status st = choice_read(s, choices, n_choices, &choice);
        if (st == ST_OK)
            *out = choices[choice];
        return st;
    }
    const char *text = arena_dup(arena, s->value->text, s->value->bytes);
    if (text == NULL) {
        error_set(s->error, s->at, s->key, "not enough memory");
        return ST_NO_MEMORY;
    }
    problem = check_run(s->option->check, text);
    if (problem != NULL) {
        error_set(s->error, s->at, s->key, "'%s' %s",
                  shown_text(s->value->text, s->value->bytes).text, problem);
        return ST_INVALID;
    }
    *out = text;
    return ST_OK;
}

enum status value_set(struct arena *arena, const struct option *option, void *base,
                      const struct value_text *value, const struct origin *at, const char *key,
                      struct config_error *error)
{
    struct setting s = {.option = option, .value = value, .at = at, .key = key, .error = error};
    char *field = (char *)base + option->offset;
    const char *text = NULL;
    uint64_t number = 0;
    uint32_t small = 0;
    enum status st;
    switch (option->type) {
    case OPTION_U32:
    case OPTION_POW2:
        st = number_read(&s, &number);
        small = (uint32_t)number;
        if (st == ST_OK)
            memcpy(field, &small, sizeof(small));
        return st;
    case OPTION_U64:
        st = number_read(&s, &number);
        if (st == ST_OK)
            memcpy(field, &number, sizeof(number));
        return st;
    case OPTION_BOOL:
        return bool_set(&s, (bool *)field);
    case OPTION_ENUM:
        st = choice_read(&s, option->choices, option->n_choices, &small);
        if (st == ST_OK)
            memcpy(field, &small, sizeof(small));
        return st;
    case OPTION_STRING:
        st = string_read(arena, &s, &text);
        if (st == ST_OK)
            memcpy(field, &text, sizeof(text));
        return st;
    case OPTION_LIST:
        break;
    }
    return setting_fail(&s, "a list");
}

enum status value_set_item(struct arena *arena, const struct option *option, const char **items,
                           uint32_t i, const struct value_text *value, const struct origin *at,
                           const char *key, struct config_error *error)
{
    struct setting s = {.option = option, .value = value, .at = at, .key = key, .error = error};
    if (value->bytes == 0 && !value->is_null) {
        error_set(error, at, key, "has an empty item");
        return ST_INVALID;
    }
    return string_read(arena, &s, &items[i]);
}
