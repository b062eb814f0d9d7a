/* Finding added tokens in text: leftmost first, longest at one place, never overlapping. The
 * contents are sorted, so a walk narrows a range of them byte by byte; the first byte is looked up
 * in a table, which is where nearly all positions of real text end. Any thread. */
#include "text/tokenizer_int.h"
#include "text/utf8_scan.h"

#include <stdlib.h>
#include <utf8proc.h>

static int compare_content(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    size_t n = x->bytes < y->bytes ? x->bytes : y->bytes;
    int order = memcmp(x->content, y->content, n);
    if (order != 0)
        return order;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

void added_set_init(struct added_set *set, struct added_token *tokens, uint32_t n_tokens)
{
    *set = (struct added_set){.tokens = tokens, .n_tokens = n_tokens};
    if (n_tokens > 1)
        qsort(tokens, n_tokens, sizeof(*tokens), compare_content);
    for (uint32_t i = 0; i < n_tokens; i++)
        set->leads[tokens[i].content[0]] = true;
}

/* First token in [low, high), all sharing `depth` bytes and longer, whose byte at `depth` is >=
 * byte. */
static uint32_t lower_bound(const struct added_set *set, uint32_t low, uint32_t high,
                            uint32_t depth, uint32_t byte)
{
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (set->tokens[mid].content[depth] < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static const struct added_token *longest_at(const struct added_set *set, const uint8_t *text,
                                            size_t bytes)
{
    const struct added_token *best = NULL;
    uint32_t low = 0, high = set->n_tokens;
    for (uint32_t depth = 0; depth < bytes && low < high; depth++) {
        low = lower_bound(set, low, high, depth, text[depth]);
        high = lower_bound(set, low, high, depth, text[depth] + 1u);
        if (low < high && set->tokens[low].bytes == depth + 1)
            best = &set->tokens[low++]; /* the shortest of a range sorts first */
    }
    return best;
}

static bool is_white(uint32_t c)
{
    return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* \w of UTS 18: Alphabetic, marks, decimal digits, connectors, join controls. */
static bool is_word(uint32_t c)
{
    if ((c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
        (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c ||
        c == 0x200d)
        return true; /* alphabetic symbols */
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

static bool stands_alone(const uint8_t *text, size_t bytes, size_t begin, size_t end)
{
    size_t step;
    if (begin > 0 && is_word(utf8_decode_valid(text + utf8_prev_start(text, begin), &step)))
        return false;
    return end == bytes || !is_word(utf8_decode_valid(text + end, &step));
}

static size_t strip_left(const uint8_t *text, size_t begin, size_t floor)
{
    while (begin > floor) {
        size_t step, prev = utf8_prev_start(text, begin);
        if (!is_white(utf8_decode_valid(text + prev, &step)))
            break;
        begin = prev;
    }
    return begin > floor ? begin : floor;
}

static size_t strip_right(const uint8_t *text, size_t bytes, size_t end)
{
    size_t step;
    while (end < bytes && is_white(utf8_decode_valid(text + end, &step)))
        end += step;
    return end;
}

enum status added_set_split_filter(const struct added_set *set, const uint8_t *text, size_t bytes,
                                   added_filter_fn filter, on_piece_fn on_gap, void *arg,
                                   struct token_buf *out)
{
    size_t covered = 0;
    for (size_t at = 0; at < bytes && set->n_tokens > 0;) {
        const struct added_token *token =
            set->leads[text[at]] ? longest_at(set, text + at, bytes - at) : NULL;
        if (token == NULL) {
            at++;
            continue;
        }
        size_t begin = at, end = at + token->bytes;
        size_t hidden = filter(arg, token, text + begin);
        at = hidden > 0 ? begin + hidden : end;
        if (hidden > 0)
            continue;
        if (token->single_word && !stands_alone(text, bytes, begin, end))
            continue;
        if (token->lstrip)
            begin = strip_left(text, begin, covered);
        if (token->rstrip)
            end = strip_right(text, bytes, end);
        enum status st = ST_OK;
        if (covered < begin)
            st = on_gap(arg, text + covered, begin - covered);
        if (st == ST_OK)
            st = token_buf_append(out, &token->id, 1);
        if (st != ST_OK)
            return st;
        covered = end;
    }
    return covered < bytes ? on_gap(arg, text + covered, bytes - covered) : ST_OK;
}

static size_t filter_none(void *arg, const struct added_token *token, const uint8_t *match)
{
    (void)arg, (void)token, (void)match;
    return 0;
}

static size_t filter_special(void *arg, const struct added_token *token, const uint8_t *match)
{
    (void)arg, (void)match;
    return token->special ? token->bytes : 0;
}

enum status added_set_split(const struct added_set *set, const uint8_t *text, size_t bytes,
                            bool skip_special, on_piece_fn on_gap, void *arg, struct token_buf *out)
{
    return added_set_split_filter(set, text, bytes, skip_special ? filter_special : filter_none,
                                  on_gap, arg, out);
}
