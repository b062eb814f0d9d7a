/* The pre-tokenizer: a list of stages, each of which cuts the pieces of the stage before. Pieces
 * stream through; nothing is collected. A stage looks at its piece alone, so look-arounds end at
 * its borders. Callers' thread; no state but the call's. */
#include "text/tokenizer_int.h"
#include "text/utf8_scan.h"

#include <stdlib.h>

struct run {
    const struct pretok *pretok;
    pcre2_match_data *match;
    on_piece_fn on_piece;
    void *arg;
};

/* Applies a stage's behavior to the alternating matches and gaps of one piece. */
struct splitter {
    const struct run *run;
    uint32_t stage; /* index of this one */
    const uint8_t *text;
    bool has_pending, pending_is_match;
    size_t begin, end; /* pending piece */
};

static enum status run_stage(const struct run *run, uint32_t stage, const uint8_t *text,
                             size_t bytes);

void pretok_deinit(struct pretok *pretok)
{
    for (uint32_t i = 0; i < pretok->n_stages; i++)
        pcre2_code_free(pretok->stages[i].code);
    pcre2_match_context_free(pretok->limits);
    *pretok = (struct pretok){0};
}

static enum status emit(const struct splitter *s, size_t begin, size_t end)
{
    if (begin == end)
        return ST_OK;
    return run_stage(s->run, s->stage + 1, s->text + begin, end - begin);
}

static enum status flush(struct splitter *s)
{
    if (!s->has_pending)
        return ST_OK;
    s->has_pending = false;
    return emit(s, s->begin, s->end);
}

/* Lets the pending piece go and makes [begin, end) the pending one. */
static enum status replace_pending(struct splitter *s, size_t begin, size_t end, bool is_match)
{
    enum status st = flush(s);
    s->has_pending = true;
    s->pending_is_match = is_match;
    s->begin = begin;
    s->end = end;
    return st;
}

static enum status add_part(struct splitter *s, size_t begin, size_t end, bool is_match)
{
    const struct pretok_stage *stage = &s->run->pretok->stages[s->stage];
    is_match ^= stage->invert;
    switch (stage->behavior) {
    case PRETOK_ISOLATED:
        return emit(s, begin, end);
    case PRETOK_REMOVED:
        return is_match ? ST_OK : emit(s, begin, end);
    case PRETOK_CONTIGUOUS:
        if (!s->has_pending || s->pending_is_match != is_match)
            return replace_pending(s, begin, end, is_match);
        s->end = end;
        return ST_OK;
    case PRETOK_MERGED_WITH_PREVIOUS:
        if (!s->has_pending || !is_match || s->pending_is_match)
            return replace_pending(s, begin, end, is_match);
        s->end = end;
        s->pending_is_match = true;
        return ST_OK;
    case PRETOK_MERGED_WITH_NEXT:
        if (is_match)
            return replace_pending(s, begin, end, true);
        if (!s->has_pending)
            return emit(s, begin, end);
        s->end = end;
        return flush(s);
    }
    return ST_INTERNAL;
}

/* One search from `at`; *out_found is false when there is no further match. */
static enum status search(const struct run *run, const struct pretok_stage *stage,
                          const uint8_t *text, size_t bytes, size_t at, bool *out_found)
{
    int rc = stage->has_jit
                 ? pcre2_jit_match(stage->code, text, bytes, at, 0, run->match, run->pretok->limits)
                 : PCRE2_ERROR_JIT_STACKLIMIT;
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its stack on the heap */
        rc = pcre2_match(stage->code, text, bytes, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         run->match, run->pretok->limits);
    *out_found = rc >= 0;
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return ST_OK;
    return rc == PCRE2_ERROR_NOMEMORY ? ST_NO_MEMORY : ST_INVALID;
}

/* Walks over all matches. An empty match right behind a match does not count; the search goes on
 * one character later. */
static enum status run_split(const struct run *run, uint32_t index, const uint8_t *text,
                             size_t bytes)
{
    const struct pretok_stage *stage = &run->pretok->stages[index];
    struct splitter s = {.run = run, .stage = index, .text = text};
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(run->match);
    size_t at = 0, covered = 0, last_end = SIZE_MAX;
    enum status st = ST_OK;
    while (st == ST_OK && at <= bytes) {
        bool found;
        st = search(run, stage, text, bytes, at, &found);
        if (st != ST_OK || !found)
            break;
        size_t begin = pair[0], end = pair[1]; /* stages behind this one reuse the match data */
        if (begin == end && end == last_end) {
            size_t step = 1;
            if (at < bytes)
                utf8_decode_valid(text + at, &step);
            at += step;
            continue;
        }
        at = last_end = end;
        if (covered < begin)
            st = add_part(&s, covered, begin, false);
        if (st == ST_OK)
            st = add_part(&s, begin, end, true);
        covered = end;
    }
    if (st == ST_OK && covered < bytes)
        st = add_part(&s, covered, bytes, false);
    return st == ST_OK ? flush(&s) : st;
}

static enum status run_prefix_space(const struct run *run, uint32_t index, const uint8_t *text,
                                    size_t bytes)
{
    if (text[0] == ' ')
        return run_stage(run, index + 1, text, bytes);
    uint8_t *copy = malloc(bytes + 1);
    if (copy == NULL)
        return ST_NO_MEMORY;
    copy[0] = ' ';
    memcpy(copy + 1, text, bytes);
    enum status st = run_stage(run, index + 1, copy, bytes + 1);
    free(copy);
    return st;
}

/* Recursion is as deep as there are stages: TOK_STAGES_MAX. */
static enum status run_stage(const struct run *run, uint32_t stage, const uint8_t *text,
                             size_t bytes)
{
    if (stage == run->pretok->n_stages)
        return run->on_piece(run->arg, text, bytes);
    if (run->pretok->stages[stage].kind == PRETOK_PREFIX_SPACE)
        return run_prefix_space(run, stage, text, bytes);
    return run_split(run, stage, text, bytes);
}

enum status pretok_run(const struct pretok *pretok, pcre2_match_data *match, const uint8_t *text,
                       size_t bytes, on_piece_fn on_piece, void *arg)
{
    if (bytes == 0)
        return ST_OK;
    struct run run = {.pretok = pretok, .match = match, .on_piece = on_piece, .arg = arg};
    return run_stage(&run, 0, text, bytes);
}
