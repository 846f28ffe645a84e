/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults that faultfs injects, and the socket that orders them: see faultfs.c for the commands. Threads may
 * call fault_check() at the same time.
 */
#ifndef TESTS_TOOLS_FAULTFS_FAULTS_H
#define TESTS_TOOLS_FAULTFS_FAULTS_H

#include <stdbool.h>

/* The numbers are the journal's format; replay.py has the same list. */
enum op {
    OP_CREATE,
    OP_MKDIR,
    OP_WRITE,
    OP_TRUNCATE,
    OP_FALLOCATE,
    OP_RENAME,
    OP_UNLINK,
    OP_RMDIR,
    OP_LINK,
    OP_FSYNC,
    OP_FSYNCDIR,
    OP_CHMOD,
    OP_CHOWN,
    OP_OPEN,
    OP_READ,
    OPS,
};

/* Counts one call of op on the path (no leading slash), and applies the faults that match it: sleeps, sets
 * *shortened (may be NULL) if only a part is to be written, returns 0 or the -errno that the call is to fail
 * with. */
int fault_check(enum op op, const char *path, bool *shortened);

/* Makes the control socket (an old file of that name is removed). 0 or -1 with errno. */
int faults_listen(const char *path);

/* Starts the thread that serves the control socket. 0 or an errno. */
int faults_serve(void);

#endif
