/* kv_write: every value at the place that the layout of kernels/ops.h states, and no other byte. */
#include "support/fp8_value.h"
#include "support/ops_check.h"

#define N_LAYERS   3u
#define N_KV_HEADS 2u
#define N_BLOCKS   9u
#define N_ROWS     70u

struct fixture {
    struct ops_kv_pool pool;
    uint32_t seq[N_ROWS], pos[N_ROWS], table[2 * 4];
    float *k, *v;  /* [N_ROWS, N_KV_HEADS * head_dim + 1] */
    float *scales; /* [N_LAYERS, 2, N_KV_HEADS] */
    struct kv_write_args args;
};

/* Sequence 0 has 64 rows from position 3 on, sequence 1 has 6 from 10 on. */
static void fixture_init(struct fixture *f, uint32_t block_tokens, uint32_t head_dim,
                         enum ops_dtype dtype)
{
    static const uint32_t table[2 * 4] = {7, 0, 3, 8, 5, 1, UINT32_MAX, UINT32_MAX};
    uint64_t stride = N_KV_HEADS * head_dim + 1;
    memcpy(f->table, table, sizeof(table));
    f->pool = (struct ops_kv_pool){.n_blocks = N_BLOCKS,
                                   .n_layers = N_LAYERS,
                                   .n_kv_heads = N_KV_HEADS,
                                   .block_tokens = block_tokens,
                                   .head_dim = head_dim,
                                   .dtype = dtype};
    f->pool.block_bytes = ops_kv_block_bytes(&f->pool);
    f->pool.base = ops_poisoned(N_BLOCKS * f->pool.block_bytes);
    /* Some so small that values saturate, all so odd that no quotient is exact. */
    f->scales = ops_floats(N_LAYERS * 2 * N_KV_HEADS);
    for (uint32_t i = 0; i < N_LAYERS * 2 * N_KV_HEADS; i++)
        f->scales[i] = 0.00137f * (float)(i + 1);
    f->pool.scales = dtype == OPS_F8 ? f->scales : NULL;
    for (uint32_t r = 0; r < N_ROWS; r++) {
        f->seq[r] = r < 64 ? 0 : 1;
        f->pos[r] = r < 64 ? r + 3 : r - 64 + 10;
    }
    f->k = ops_random_floats(N_ROWS * stride, 1);
    f->v = ops_random_floats(N_ROWS * stride, 2);
    f->args = (struct kv_write_args){.k = f->k,
                                     .v = f->v,
                                     .k_stride = stride,
                                     .v_stride = stride,
                                     .pool = f->pool,
                                     .layer = 1,
                                     .rows = {.n_rows = N_ROWS,
                                              .seq = f->seq,
                                              .pos = f->pos,
                                              .block_table = f->table,
                                              .table_stride = 4}};
}

static void fixture_deinit(struct fixture *f)
{
    free(f->pool.base);
    free(f->k);
    free(f->v);
    free(f->scales);
}

/* `value` in the format of the pool, to element `index` of `base`. */
static void put(const struct fixture *f, char *base, size_t index, float value, float scale)
{
    uint16_t half = ops_bf16(value);
    uint8_t byte = fp8_nearest(value * (1.0f / scale));
    uint32_t bytes = ops_dtype_bytes(f->pool.dtype);
    const void *from = f->pool.dtype == OPS_F8     ? (const void *)&byte
                       : f->pool.dtype == OPS_BF16 ? (const void *)&half
                                                   : (const void *)&value;
    memcpy(base + index * bytes, from, bytes);
}

/* Takes every expected value out of a poisoned copy; the rest must be equal. */
static void check_pool(const struct fixture *f)
{
    uint32_t dim = f->pool.head_dim, bt = f->pool.block_tokens;
    size_t bytes = N_BLOCKS * f->pool.block_bytes;
    char *want = ops_poisoned(bytes);
    for (uint32_t r = 0; r < N_ROWS; r++) {
        uint32_t block = f->table[f->seq[r] * 4 + f->pos[r] / bt];
        for (uint32_t i = 0; i < N_KV_HEADS * 2 * dim; i++) {
            uint32_t head = i / (2 * dim), is_v = i / dim % 2, d = i % dim;
            float value = (is_v ? f->v : f->k)[r * f->args.k_stride + head * dim + d];
            /* [block][layer][kv_head][K|V][token][head_dim], spelled out. */
            size_t index = ((((size_t)block * N_LAYERS + 1) * N_KV_HEADS + head) * 2 + is_v) * bt;
            index = (index + f->pos[r] % bt) * dim + d;
            put(f, want, index, value, f->scales[(1 * 2 + is_v) * N_KV_HEADS + head]);
        }
    }
    assert_memory_equal(f->pool.base, want, bytes);
    free(want);
}

static void test_kv_write_puts_values_where_the_layout_says(void **state)
{
    (void)state;
    static const enum ops_dtype dtypes[] = {OPS_F32, OPS_BF16, OPS_F8};
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 2);
        for (uint32_t i = 0; i < 9; i++) {
            uint32_t block_tokens = 32u << i / 3;
            for (uint32_t head_dim = 16; head_dim <= 256; head_dim += 80) {
                struct fixture f;
                fixture_init(&f, block_tokens, head_dim, dtypes[i % 3]);
                assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_OK);
                check_pool(&f);
                fixture_deinit(&f);
            }
        }
        device_close(dev);
    }
}

static void test_kv_write_bf16_rounds_to_even_and_keeps_nan(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 1);
        struct fixture f;
        fixture_init(&f, 32, 16, OPS_BF16);
        const uint32_t bits[5] = {0x3f808000u, 0x3f818000u, 0x3f808001u, 0x7f800001u, 0x7f7fffffu};
        const uint16_t want[5] = {0x3f80u, 0x3f82u, 0x3f81u, 0x7fc0u, 0x7f80u};
        memcpy(f.k, bits, sizeof(bits));
        f.args.rows.n_rows = 1;
        assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_OK);
        const char *at = (const char *)f.pool.base + ops_kv_plane_offset(&f.pool, 7, 1, 0, 0);
        assert_memory_equal(at + 3 * 16 * 2, want, sizeof(want));
        fixture_deinit(&f);
        device_close(dev);
    }
}

static void test_kv_write_f8_rounds_to_even_saturates_and_keeps_nan(void **state)
{
    (void)state;
    static const struct {
        float value; /* twice what is written: its scale is 1/2 */
        uint8_t want;
    } cases[] = {
        {1.0f, 0x38},      {1.0625f, 0x38},  {1.1875f, 0x3a},  {1.0626f, 0x39}, /* ties, and not */
        {448.0f, 0x7e},    {447.0f, 0x7e},   {-464.0f, 0xfe},  {1e30f, 0x7e},
        {-INFINITY, 0xfe}, {NAN, 0x7f},      {-NAN, 0xff},     {-0.0f, 0x80},
        {0x1p-10f, 0x00},  {0x3p-10f, 0x02}, {-0x7p-9f, 0x87}, {0xf.8p-10f, 0x08},
    };
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 1);
        struct fixture f;
        fixture_init(&f, 32, 16, OPS_F8);
        f.scales[(1 * 2 + 0) * N_KV_HEADS + 0] = 0.5f;
        for (uint32_t i = 0; i < 16; i++)
            f.k[i] = cases[i].value / 2;
        f.args.rows.n_rows = 1;
        assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_OK);
        const uint8_t *at =
            (const uint8_t *)f.pool.base + ops_kv_plane_offset(&f.pool, 7, 1, 0, 0) + 3 * 16;
        for (uint32_t i = 0; i < 16; i++)
            if (at[i] != cases[i].want)
                fail_msg("%g became %02x, not %02x", (double)cases[i].value, at[i], cases[i].want);
        f.args.pool.scales = NULL; /* all 1 */
        assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_OK);
        assert_int_equal(at[4], 0x76); /* 224 */
        fixture_deinit(&f);
        device_close(dev);
    }
}

/* Every byte that can lie in a pool is what it is after it was read and written again. */
static void test_kv_write_f8_keeps_every_value(void **state)
{
    (void)state;
    FOR_EACH_ISA(isa)
    {
        struct device *dev = ops_open(isa, 1);
        struct fixture f;
        fixture_init(&f, 32, 256, OPS_F8);
        for (uint32_t i = 0; i < 256; i++)
            f.k[i] = fp8_value((uint8_t)i) * 0.25f;
        f.scales[(1 * 2 + 0) * N_KV_HEADS + 0] = 0.25f;
        f.args.rows.n_rows = 1;
        assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_OK);
        const uint8_t *at =
            (const uint8_t *)f.pool.base + ops_kv_plane_offset(&f.pool, 7, 1, 0, 0) + 3 * 256;
        for (uint32_t i = 0; i < 256; i++)
            assert_true(at[i] == i || (i % 128 == 127 && at[i] % 128 == 127));
        fixture_deinit(&f);
        device_close(dev);
    }
}

static void test_kv_write_outside_the_pool_is_refused(void **state)
{
    (void)state;
    struct device *dev = ops_open(CPU_ISA_AUTO, 1);
    struct fixture f;
    fixture_init(&f, 32, 16, OPS_BF16);
    char *want = ops_poisoned(N_BLOCKS * f.pool.block_bytes);
    f.pos[69] = 64; /* block UINT32_MAX of sequence 1 */
    assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_INVALID);
    f.pos[69] = 128; /* beyond the table */
    assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_INVALID);
    f.pos[69] = 15;
    f.args.layer = N_LAYERS;
    assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_INVALID);
    f.args.layer = 1;
    f.args.pool.block_bytes -= 64;
    assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_INVALID);
    f.args.pool.block_bytes += 64;
    f.args.k_stride = 31;
    assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_INVALID);
    f.args.k_stride++;
    f.args.pool.dtype = OPS_F16;
    assert_int_equal(dev->ops->kv_write(dev, &f.args), ST_INVALID);
    assert_memory_equal(f.pool.base, want, N_BLOCKS * f.pool.block_bytes);
    free(want);
    fixture_deinit(&f);
    device_close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_write_puts_values_where_the_layout_says),
        cmocka_unit_test(test_kv_write_bf16_rounds_to_even_and_keeps_nan),
        cmocka_unit_test(test_kv_write_f8_rounds_to_even_saturates_and_keeps_nan),
        cmocka_unit_test(test_kv_write_f8_keeps_every_value),
        cmocka_unit_test(test_kv_write_outside_the_pool_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
