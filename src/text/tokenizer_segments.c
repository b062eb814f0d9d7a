/* Encoding of a rendered chat template, whose text is partly the server's and partly the client's.
 * The path is that of tokenizer.c, with one more question asked of every special token that is
 * found: does it lie wholly in trusted text? Any thread. */
#include "base/json.h"
#include "text/template.h"
#include "text/tokenizer.h"
#include "text/tokenizer_int.h"

/* One call's state. */
struct encode {
    const struct tokenizer *tok;
    const uint8_t *text; /* all of it: places are pointers into it */
    const struct chat_segment *segments;
    uint32_t n_segments;
    struct token_buf *out;
    pcre2_match_data *match;
    struct bpe_scratch scratch;
    struct buf normal; /* form C of the gap at hand */
};

/* Index of the segment that holds byte `offset`. */
static uint32_t segment_at(const struct encode *e, size_t offset)
{
    uint32_t low = 0, high = e->n_segments - 1;
    while (low < high) {
        uint32_t mid = low + (high - low + 1) / 2;
        if (e->segments[mid].offset <= offset)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

/* 0: text[begin, end) is trusted. Otherwise the bytes to step over: up to the first trusted byte
 * behind an untrusted one, so that a client's text cannot hide a special token of the template. */
static size_t untrusted_bytes(const struct encode *e, size_t begin, size_t end)
{
    bool is_trusted = true;
    for (uint32_t i = segment_at(e, begin); i < e->n_segments && e->segments[i].offset < end; i++) {
        const struct chat_segment *segment = &e->segments[i];
        if (segment->bytes == 0)
            continue;
        if (segment->trusted == 0)
            is_trusted = false;
        else if (!is_trusted)
            return segment->offset - begin;
    }
    return is_trusted ? 0 : end - begin;
}

static size_t filter_trusted(void *arg, const struct added_token *token, const uint8_t *match)
{
    const struct encode *e = arg;
    size_t begin = (size_t)(match - e->text);
    return token->special ? untrusted_bytes(e, begin, begin + token->bytes) : 0;
}

static size_t filter_trusted_special(void *arg, const struct added_token *token,
                                     const uint8_t *match)
{
    return token->special ? filter_trusted(arg, token, match) : token->bytes;
}

static enum status on_piece(void *arg, const uint8_t *piece, size_t bytes)
{
    struct encode *e = arg;
    return bpe_encode(&e->tok->bpe, &e->tok->vocab, &e->scratch, piece, bytes, e->out);
}

static enum status on_plain(void *arg, const uint8_t *text, size_t bytes)
{
    struct encode *e = arg;
    return pretok_run(&e->tok->pretok, e->match, text, bytes, on_piece, e);
}

/* Text without special tokens that normalisation may change. */
static enum status on_abnormal_gap(void *arg, const uint8_t *text, size_t bytes)
{
    struct encode *e = arg;
    e->normal.len = 0;
    enum status st = nfc_append(e->tok->nfc, text, bytes, &e->normal);
    if (st != ST_OK)
        return st;
    return added_set_split(&e->tok->normalized, e->normal.data, e->normal.len, true, on_plain, e,
                           e->out);
}

/* Text between raw added tokens. Trust is known by place, and normalisation moves places; so where
 * it would, the special tokens are taken out before it. */
static enum status on_raw_gap(void *arg, const uint8_t *text, size_t bytes)
{
    struct encode *e = arg;
    const struct tokenizer *tok = e->tok;
    bool is_normal = tok->nfc == NULL || nfc_is_normal(tok->nfc, text, bytes);
    return added_set_split_filter(&tok->normalized, text, bytes,
                                  is_normal ? filter_trusted : filter_trusted_special,
                                  is_normal ? on_plain : on_abnormal_gap, e, e->out);
}

static bool segments_cover(const struct chat_segment *segments, uint32_t n_segments, size_t bytes)
{
    size_t at = 0;
    for (uint32_t i = 0; i < n_segments; i++) {
        if (segments[i].offset != at || segments[i].bytes > bytes - at)
            return false;
        at += segments[i].bytes;
    }
    return at == bytes;
}

static enum status encode_text(struct encode *e, size_t bytes, bool add_bos)
{
    const struct tokenizer *tok = e->tok;
    enum status st = add_bos ? token_buf_append(e->out, tok->prefix.ids, tok->prefix.n_ids) : ST_OK;
    if (st == ST_OK && bytes > 0)
        st = added_set_split_filter(&tok->raw, e->text, bytes, filter_trusted, on_raw_gap, e,
                                    e->out);
    if (st == ST_OK && add_bos)
        st = token_buf_append(e->out, tok->suffix.ids, tok->suffix.n_ids);
    return st;
}

enum status tokenizer_encode_segments(const struct tokenizer *tok, const char *text, size_t bytes,
                                      const struct chat_segment *segments, uint32_t n_segments,
                                      bool add_bos, struct token_buf *out)
{
    const uint8_t *data = (const uint8_t *)text;
    if (bytes > TOK_TEXT_BYTES_MAX)
        return ST_TOO_LARGE;
    if (!segments_cover(segments, n_segments, bytes) || utf8_valid_prefix(data, bytes) != bytes)
        return ST_INVALID;
    if (tok->is_ids) /* has no special tokens */
        return tokenizer_encode(tok, text, bytes, 0, out);
    size_t before = out->len;
    struct encode e = {
        .tok = tok, .text = data, .segments = segments, .n_segments = n_segments, .out = out};
    e.match = pcre2_match_data_create(1, NULL);
    if (e.match == NULL)
        return ST_NO_MEMORY;
    buf_init(&e.normal, SIZE_MAX / 2);
    enum status st = encode_text(&e, bytes, add_bos);
    buf_deinit(&e.normal);
    bpe_scratch_deinit(&e.scratch);
    pcre2_match_data_free(e.match);
    if (st != ST_OK)
        out->len = before;
    return st;
}
