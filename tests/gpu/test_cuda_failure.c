/* A kernel that breaks the GPU's context: the device says so, then and ever after. Its own program,
 * for nothing of this process can use the GPU behind it. */
#include "tests/support/ops_check.h"

static void test_cuda_illegal_address_is_a_failed_device(void **state)
{
    (void)state;
    struct device *dev = NULL;
    struct device_opts opts = {.n_seqs_max = 4};
    void *y = NULL, *ids = NULL, *other = NULL;
    assert_int_equal(device_open(DEVICE_CUDA, &opts, &dev), ST_OK);
    assert_int_equal(dev->ops->alloc(dev, DEVICE_MEM_ACTIVATION, 4096, &y), ST_OK);
    assert_int_equal(dev->ops->alloc(dev, DEVICE_MEM_ACTIVATION, 64, &ids), ST_OK);
    struct embedding_args args = {.ids = ids,
                                  .table = (const void *)0x100,
                                  .n_vocab = 1,
                                  .n_cols = 8,
                                  .y = y,
                                  .y_stride = 8,
                                  .n_rows = 1};
    enum status st = dev->ops->embedding(dev, &args);
    assert_int_equal(st == ST_OK ? dev->ops->sync(dev) : st, ST_DEVICE);
    assert_int_equal(dev->ops->sync(dev), ST_DEVICE);
    assert_int_equal(dev->ops->alloc(dev, DEVICE_MEM_ACTIVATION, 64, &other), ST_DEVICE);
    dev->ops->free(dev, ids);
    dev->ops->free(dev, y);
    device_close(dev);
}

/* What does not fit is refused, and the device goes on. */
static void test_cuda_allocation_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct device *dev = NULL;
    struct device_opts opts = {.n_seqs_max = 4};
    void *at = NULL;
    assert_int_equal(device_open(DEVICE_CUDA, &opts, &dev), ST_OK);
    assert_int_equal(dev->ops->alloc(dev, DEVICE_MEM_POOL, (size_t)1 << 42, &at), ST_NO_MEMORY);
    assert_int_equal(dev->ops->alloc(dev, DEVICE_MEM_POOL, 1 << 20, &at), ST_OK);
    assert_int_equal(dev->ops->sync(dev), ST_OK);
    dev->ops->free(dev, at);
    device_close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuda_allocation_that_does_not_fit_is_refused),
        cmocka_unit_test(test_cuda_illegal_address_is_a_failed_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
