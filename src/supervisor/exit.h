/* Exit codes that processes and their supervisor agree on. */
#ifndef SUPERVISOR_EXIT_H
#define SUPERVISOR_EXIT_H

/* The process cannot work with this configuration, however often it is started. */
#define SUPERVISOR_EXIT_CONFIG 78

#endif
