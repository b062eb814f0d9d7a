/* The CPU device: opening, memory. Its ops are in tests/ops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "device/device.h"

static void test_cpu_probe_describes_the_machine(void **state)
{
    (void)state;
    struct device_caps caps;
    memset(&caps, 0xff, sizeof(caps));
    const struct device_ops *ops = device_ops_get(DEVICE_CPU);
    assert_non_null(ops);
    assert_string_equal(ops->name, "cpu");
    assert_int_equal(ops->probe(&caps), ST_OK);
    assert_true(caps.available);
    assert_true(caps.n_units > 0 && caps.memory_bytes > 0);
    assert_int_equal(caps.isa, cpu_isa_best());
    assert_non_null(strstr(caps.reason, cpu_isa_name(caps.isa)));
}

static void test_device_open_unknown_kind_is_unsupported(void **state)
{
    (void)state;
    struct device *dev = NULL;
    assert_null(device_ops_get((enum device_kind)99));
    assert_int_equal(device_open((enum device_kind)99, NULL, &dev), ST_UNSUPPORTED);
    assert_null(dev);
    device_close(NULL);
}

static void test_cpu_open_bad_options_are_refused(void **state)
{
    (void)state;
    struct device *dev = NULL;
    struct device_opts opts = {.n_threads = DEVICE_THREADS_MAX + 1};
    assert_int_equal(device_open(DEVICE_CPU, &opts, &dev), ST_INVALID);
    opts = (struct device_opts){.isa = CPU_ISA_COUNT};
    assert_int_equal(device_open(DEVICE_CPU, &opts, &dev), ST_INVALID);
    opts = (struct device_opts){.n_cpus = 2};
    assert_int_equal(device_open(DEVICE_CPU, &opts, &dev), ST_INVALID);
    uint32_t beyond = 1u << 20;
    opts = (struct device_opts){.n_threads = 2, .cpus = &beyond, .n_cpus = 1};
    assert_int_equal(device_open(DEVICE_CPU, &opts, &dev), ST_INVALID);
    assert_null(dev);
}

static void test_cpu_alloc_is_aligned_zeroed_and_writable(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 63, 64, 4097, (2u << 20) - 1, 2u << 20, (5u << 20) + 3};
    struct device *dev;
    assert_int_equal(device_open(DEVICE_CPU, NULL, &dev), ST_OK);
    for (int mem = DEVICE_MEM_ACTIVATION; mem <= DEVICE_MEM_POOL; mem++) {
        char *ptr[7];
        for (size_t i = 0; i < 7; i++) {
            void *p = NULL;
            assert_int_equal(dev->ops->alloc(dev, (enum device_mem)mem, sizes[i], &p), ST_OK);
            ptr[i] = p;
            size_t align = sizes[i] >= 2u << 20 ? 2u << 20 : mem == DEVICE_MEM_POOL ? 4096 : 64;
            assert_int_equal((uintptr_t)p % align, 0);
            for (size_t at = 0; at < sizes[i]; at++)
                if (ptr[i][at] != 0)
                    fail_msg("byte %zu of %zu is not zero", at, sizes[i]);
            memset(ptr[i], 0x5a, sizes[i]);
        }
        for (size_t i = 0; i < 7; i++) /* not in the order of their taking */
            dev->ops->free(dev, ptr[(i * 3) % 7]);
    }
    dev->ops->free(dev, NULL);
    device_close(dev);
}

static void test_cpu_alloc_absurd_sizes_fail(void **state)
{
    (void)state;
    struct device *dev;
    void *ptr = NULL;
    assert_int_equal(device_open(DEVICE_CPU, NULL, &dev), ST_OK);
    assert_int_equal(dev->ops->alloc(dev, DEVICE_MEM_POOL, 0, &ptr), ST_INVALID);
    assert_int_equal(dev->ops->alloc(dev, DEVICE_MEM_POOL, SIZE_MAX, &ptr), ST_NO_MEMORY);
    assert_int_equal(dev->ops->alloc(dev, DEVICE_MEM_WEIGHTS, SIZE_MAX / 4, &ptr), ST_NO_MEMORY);
    assert_null(ptr);
    device_close(dev);
}

static void test_cpu_copy_moves_bytes(void **state)
{
    (void)state;
    struct device *dev;
    void *ptr;
    char back[6] = "";
    assert_int_equal(device_open(DEVICE_CPU, NULL, &dev), ST_OK);
    assert_int_equal(dev->ops->bind_thread(dev), ST_OK);
    assert_int_equal(dev->ops->alloc(dev, DEVICE_MEM_ACTIVATION, 6, &ptr), ST_OK);
    assert_int_equal(dev->ops->copy_in(dev, ptr, "hello", 6), ST_OK);
    assert_int_equal(dev->ops->sync(dev), ST_OK);
    assert_int_equal(dev->ops->copy_out(dev, back, ptr, 6), ST_OK);
    assert_int_equal(dev->ops->copy_out(dev, NULL, NULL, 0), ST_OK);
    assert_string_equal(back, "hello");
    dev->ops->free(dev, ptr);
    device_close(dev);
}

static void test_cpu_isa_names_are_known(void **state)
{
    (void)state;
    assert_string_equal(cpu_isa_name(CPU_ISA_AUTO), "auto");
    assert_string_equal(cpu_isa_name(CPU_ISA_AVX512), "avx512");
    assert_string_equal(cpu_isa_name((enum cpu_isa)77), "unknown");
    assert_true(cpu_isa_best() >= CPU_ISA_SCALAR && cpu_isa_best() < CPU_ISA_COUNT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_probe_describes_the_machine),
        cmocka_unit_test(test_device_open_unknown_kind_is_unsupported),
        cmocka_unit_test(test_cpu_open_bad_options_are_refused),
        cmocka_unit_test(test_cpu_alloc_is_aligned_zeroed_and_writable),
        cmocka_unit_test(test_cpu_alloc_absurd_sizes_fail),
        cmocka_unit_test(test_cpu_copy_moves_bytes),
        cmocka_unit_test(test_cpu_isa_names_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
