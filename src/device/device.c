/* The devices of this build. */
#include "device/device.h"

#include "device/device_int.h"

static const struct device_ops *const device_table[] = {
    [DEVICE_CPU] = &device_cpu_ops,
#ifdef DYND_CUDA
    [DEVICE_CUDA] = &device_cuda_ops,
#else
    [DEVICE_CUDA] = NULL,
#endif
};

const struct device_ops *device_ops_get(enum device_kind kind)
{
    if ((size_t)kind >= sizeof(device_table) / sizeof(device_table[0]))
        return NULL;
    return device_table[kind];
}

enum status device_open(enum device_kind kind, const struct device_opts *opts,
                        struct device **out_dev)
{
    static const struct device_opts defaults = {0};
    const struct device_ops *ops = device_ops_get(kind);
    struct device_caps caps;
    if (ops == NULL)
        return ST_UNSUPPORTED;
    enum status st = ops->probe(&caps);
    if (st != ST_OK)
        return st;
    return ops->open(opts != NULL ? opts : &defaults, out_dev);
}

void device_close(struct device *dev)
{
    if (dev != NULL)
        dev->ops->close(dev);
}
