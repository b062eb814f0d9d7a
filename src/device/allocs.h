/* What a device has handed out, so that free needs no size and closing can tell what was forgotten.
 * Any thread. */
#ifndef DEVICE_ALLOCS_H
#define DEVICE_ALLOCS_H

#include "dynd/status.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct device_alloc {
    struct device_alloc *next;
    void *ptr;           /* what the caller has */
    void *base;          /* what to give back */
    size_t bytes;        /* of base, as far as the device needs it to give it back */
    bool is_host_memory; /* of a device that has both */
};

struct device_allocs {
    pthread_mutex_t lock;
    struct device_alloc *first;
};

void device_allocs_init(struct device_allocs *allocs);
/* Asserts that everything was freed. */
void device_allocs_deinit(struct device_allocs *allocs);
/* Copies *alloc. ST_NO_MEMORY. */
enum status device_allocs_add(struct device_allocs *allocs, const struct device_alloc *alloc);
/* Takes out the one of ptr. False, after an assertion: there is none. */
bool device_allocs_take(struct device_allocs *allocs, const void *ptr, struct device_alloc *out);

#endif
