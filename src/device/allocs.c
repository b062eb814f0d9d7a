#include "device/allocs.h"

#include <assert.h>
#include <stdlib.h>

void device_allocs_init(struct device_allocs *allocs)
{
    allocs->first = NULL;
    pthread_mutex_init(&allocs->lock, NULL);
}

void device_allocs_deinit(struct device_allocs *allocs)
{
    assert(allocs->first == NULL && "memory of the device must be freed before it");
    pthread_mutex_destroy(&allocs->lock);
}

enum status device_allocs_add(struct device_allocs *allocs, const struct device_alloc *alloc)
{
    struct device_alloc *kept = malloc(sizeof(*kept));
    if (kept == NULL)
        return ST_NO_MEMORY;
    *kept = *alloc;
    pthread_mutex_lock(&allocs->lock);
    kept->next = allocs->first;
    allocs->first = kept;
    pthread_mutex_unlock(&allocs->lock);
    return ST_OK;
}

bool device_allocs_take(struct device_allocs *allocs, const void *ptr, struct device_alloc *out)
{
    pthread_mutex_lock(&allocs->lock);
    struct device_alloc **link = &allocs->first;
    while (*link != NULL && (*link)->ptr != ptr)
        link = &(*link)->next;
    struct device_alloc *found = *link;
    if (found != NULL)
        *link = found->next;
    pthread_mutex_unlock(&allocs->lock);
    assert(found != NULL && "freed twice, or not of this device");
    if (found == NULL)
        return false;
    *out = *found;
    free(found);
    return true;
}
