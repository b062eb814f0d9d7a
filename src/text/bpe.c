/* Byte pair encoding of one piece: always the merge of lowest rank, the leftmost one first.
 *
 * Three ways to the same result. A piece that is itself a token is looked up (tok_vocab.whole
 * remembers whether the merges agree). A short piece is scanned for its lowest rank again and
 * again, which beats any queue at that size. A long one keeps candidates in a heap over a linked
 * list: O(n log n), so that a megabyte without a space costs no more than text. Source: Sennrich et
 * al. 2016, arXiv:1508.07909. */
#include "text/tokenizer_int.h"

#include <stdlib.h>
#include <string.h>

enum { SHORT_MAX = 96 }; /* symbols */

/* --- pair table --- */

static uint64_t pair_key(uint32_t left, uint32_t right)
{
    return (uint64_t)(left + 1) << 32 | right;
}

static uint32_t pair_home(uint64_t key, uint32_t mask)
{
    return (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32) & mask;
}

enum status bpe_init(struct bpe *bpe, uint32_t n_merges)
{
    *bpe = (struct bpe){.n_slots = 64};
    memset(bpe->byte_id, 0xff, sizeof(bpe->byte_id));
    while (bpe->n_slots < n_merges + n_merges / 2)
        bpe->n_slots *= 2;
    bpe->pairs = calloc(bpe->n_slots, sizeof(*bpe->pairs));
    return bpe->pairs != NULL ? ST_OK : ST_NO_MEMORY;
}

void bpe_deinit(struct bpe *bpe)
{
    free(bpe->pairs);
    bpe->pairs = NULL;
}

void bpe_merge_put(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    uint64_t key = pair_key(left, right);
    uint32_t mask = bpe->n_slots - 1, at = pair_home(key, mask);
    while (bpe->pairs[at].key != 0 && bpe->pairs[at].key != key)
        at = (at + 1) & mask;
    bpe->pairs[at] = (struct bpe_pair){.key = key, .rank = rank, .id = id};
}

static const struct bpe_pair *pair_find(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    uint64_t key = pair_key(left, right);
    uint32_t mask = bpe->n_slots - 1;
    for (uint32_t at = pair_home(key, mask);; at = (at + 1) & mask) {
        if (bpe->pairs[at].key == key)
            return &bpe->pairs[at];
        if (bpe->pairs[at].key == 0)
            return NULL;
    }
}

/* --- short pieces --- */

struct short_symbol {
    uint32_t id;
    uint32_t rank;   /* of the merge with the next symbol, UINT32_MAX: none */
    uint32_t merged; /* id that this merge yields */
};

static void short_rank(const struct bpe *bpe, struct short_symbol *symbols, uint32_t at, uint32_t n)
{
    const struct bpe_pair *pair =
        at + 1 < n ? pair_find(bpe, symbols[at].id, symbols[at + 1].id) : NULL;
    symbols[at].rank = pair != NULL ? pair->rank : UINT32_MAX;
    symbols[at].merged = pair != NULL ? pair->id : 0;
}

static enum status encode_short(const struct bpe *bpe, const uint8_t *piece, size_t bytes,
                                struct token_buf *out)
{
    struct short_symbol symbols[SHORT_MAX];
    uint32_t ids[SHORT_MAX];
    uint32_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        if (bpe->byte_id[piece[i]] != TOK_ID_NONE)
            symbols[n++].id = bpe->byte_id[piece[i]];
    for (uint32_t i = 0; i < n; i++)
        short_rank(bpe, symbols, i, n);
    for (;;) {
        uint32_t best = 0, rank = UINT32_MAX;
        for (uint32_t i = 0; i < n; i++) {
            if (symbols[i].rank < rank) {
                rank = symbols[i].rank;
                best = i;
            }
        }
        if (rank == UINT32_MAX)
            break;
        symbols[best].id = symbols[best].merged;
        n--;
        memmove(&symbols[best + 1], &symbols[best + 2], (n - best - 1) * sizeof(symbols[0]));
        short_rank(bpe, symbols, best, n);
        if (best > 0)
            short_rank(bpe, symbols, best - 1, n);
    }
    for (uint32_t i = 0; i < n; i++)
        ids[i] = symbols[i].id;
    return token_buf_append(out, ids, n);
}

/* --- long pieces --- */

#define LINK_NONE UINT32_MAX

struct link_symbol {
    uint32_t id; /* TOK_ID_NONE: merged into its left neighbour */
    uint32_t prev, next;
};

/* Min-heap of rank << 32 | position. A rank names one pair, so a candidate is stale exactly when
 * the pair at its position now has another rank. At most one candidate for each of the n - 1 first
 * pairs and two for each of the n - 1 merges are pushed, and each merge pops one: 2n slots are
 * enough. */
struct heap {
    uint64_t *items;
    size_t n;
};

static void heap_push(struct heap *heap, uint64_t item)
{
    size_t at = heap->n++;
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (heap->items[parent] <= item)
            break;
        heap->items[at] = heap->items[parent];
        at = parent;
    }
    heap->items[at] = item;
}

static uint64_t heap_pop(struct heap *heap)
{
    uint64_t top = heap->items[0], last = heap->items[--heap->n];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < heap->n) {
        if (child + 1 < heap->n && heap->items[child + 1] < heap->items[child])
            child++;
        if (last <= heap->items[child])
            break;
        heap->items[at] = heap->items[child];
        at = child;
    }
    heap->items[at] = last;
    return top;
}

static void long_push(const struct bpe *bpe, const struct link_symbol *links, struct heap *heap,
                      uint32_t at)
{
    if (at == LINK_NONE || links[at].next == LINK_NONE)
        return;
    const struct bpe_pair *pair = pair_find(bpe, links[at].id, links[links[at].next].id);
    if (pair != NULL)
        heap_push(heap, (uint64_t)pair->rank << 32 | at);
}

static void long_merge(const struct bpe *bpe, struct link_symbol *links, struct heap *heap)
{
    while (heap->n > 0) {
        uint64_t item = heap_pop(heap);
        uint32_t at = (uint32_t)item, rank = (uint32_t)(item >> 32);
        if (links[at].id == TOK_ID_NONE || links[at].next == LINK_NONE)
            continue;
        uint32_t right = links[at].next;
        const struct bpe_pair *pair = pair_find(bpe, links[at].id, links[right].id);
        if (pair == NULL || pair->rank != rank)
            continue;
        links[at].id = pair->id;
        links[at].next = links[right].next;
        links[right].id = TOK_ID_NONE;
        if (links[at].next != LINK_NONE)
            links[links[at].next].prev = at;
        long_push(bpe, links, heap, links[at].prev);
        long_push(bpe, links, heap, at);
    }
}

static enum status scratch_reserve(struct bpe_scratch *scratch, size_t bytes)
{
    if (bytes <= scratch->bytes)
        return ST_OK;
    void *memory = malloc(bytes);
    if (memory == NULL)
        return ST_NO_MEMORY;
    free(scratch->memory);
    *scratch = (struct bpe_scratch){memory, bytes};
    return ST_OK;
}

void bpe_scratch_deinit(struct bpe_scratch *scratch)
{
    free(scratch->memory);
    *scratch = (struct bpe_scratch){0};
}

static enum status encode_long(const struct bpe *bpe, struct bpe_scratch *scratch,
                               const uint8_t *piece, size_t bytes, struct token_buf *out)
{
    struct heap heap = {0};
    enum status st =
        scratch_reserve(scratch, bytes * (2 * sizeof(*heap.items) + sizeof(struct link_symbol)));
    if (st != ST_OK)
        return st;
    heap.items = scratch->memory;
    struct link_symbol *links = (struct link_symbol *)(heap.items + 2 * bytes);
    uint32_t n = 0; /* bytes <= TOK_TEXT_BYTES_MAX */
    for (size_t i = 0; i < bytes; i++) {
        if (bpe->byte_id[piece[i]] == TOK_ID_NONE)
            continue;
        links[n] = (struct link_symbol){bpe->byte_id[piece[i]], n > 0 ? n - 1 : LINK_NONE, n + 1};
        n++;
    }
    if (n == 0)
        return ST_OK;
    links[n - 1].next = LINK_NONE;
    for (uint32_t i = 0; i + 1 < n; i++)
        long_push(bpe, links, &heap, i);
    long_merge(bpe, links, &heap);
    for (uint32_t at = 0; at != LINK_NONE && st == ST_OK; at = links[at].next)
        st = token_buf_append(out, &links[at].id, 1);
    return st;
}

enum status bpe_encode(const struct bpe *bpe, const struct tok_vocab *vocab,
                       struct bpe_scratch *scratch, const uint8_t *piece, size_t bytes,
                       struct token_buf *out)
{
    uint32_t whole = TOK_ID_NONE;
    uint8_t known = TOK_WHOLE_NO;
    if (bytes > 1) {
        whole = tok_vocab_find(vocab, piece, bytes, false);
        if (whole != TOK_ID_NONE && (vocab->entries[whole].flags & TOK_ENTRY_SPECIAL) != 0)
            whole = TOK_ID_NONE; /* text never becomes a special token */
    }
    if (whole != TOK_ID_NONE) {
        known = bpe->ignore_merges
                    ? TOK_WHOLE_YES
                    : atomic_load_explicit(&vocab->whole[whole], memory_order_relaxed);
        if (known == TOK_WHOLE_YES)
            return token_buf_append(out, &whole, 1);
    }
    size_t before = out->len;
    enum status st = bytes <= SHORT_MAX ? encode_short(bpe, piece, bytes, out)
                                        : encode_long(bpe, scratch, piece, bytes, out);
    if (st == ST_OK && whole != TOK_ID_NONE && known == TOK_WHOLE_UNKNOWN) {
        bool agrees = out->len == before + 1 && out->ids[before] == whole;
        atomic_store_explicit(&vocab->whole[whole], agrees ? TOK_WHOLE_YES : TOK_WHOLE_NO,
                              memory_order_relaxed);
    }
    return st;
}
