/* Exit codes that processes and their supervisor agree on. */
#ifndef BASE_EXIT_H
#define BASE_EXIT_H

/* The process cannot work with this configuration, however often it is started. */
#define EXIT_CONFIG 78

/* The device has failed and gives this process no answer any more; a new process may use it. */
#define EXIT_DEVICE 75

#endif
