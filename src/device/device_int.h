/* The ops tables of the devices, for device.c. */
#ifndef DEVICE_DEVICE_INT_H
#define DEVICE_DEVICE_INT_H

#include "device/device.h"

extern const struct device_ops device_cpu_ops;
#ifdef DYND_CUDA
extern const struct device_ops device_cuda_ops;
#endif

#endif
