/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blobs that lie on this host's disks already become blobs of the store, without a second copy where the file
 * system can do it: a clone (FICLONE), else a hard link if only the file's owner may write it, else a copy.
 * Each is read and hashed first, through the descriptor that is linked afterwards; one at a time, on a thread
 * of libuv's.
 *
 * A crash leaves a whole blob under blobs/, or a file uploads/import.* that the next import replaces.
 */
#ifndef FL_CONTROL_IMPORTER_H
#define FL_CONTROL_IMPORTER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "digest.h"

struct importer;
struct folders;
struct dataplane_user;

enum { IMPORT_PATH_MAX = 4096, IMPORT_ERROR_MAX = 512 };

enum import_way { IMPORT_THERE, IMPORT_CLONE, IMPORT_LINK, IMPORT_COPY };

struct import_result {
    int rc; /* 0, -EBADMSG: the bytes are not those of the digest; -errno */
    uint64_t size;
    enum import_way way;
    char error[IMPORT_ERROR_MAX]; /* a text where rc is not 0 */
};

typedef void (*import_done)(void *arg, const struct import_result *result);

/* folders and user are borrowed for its life. */
struct importer *importer_new(uv_loop_t *loop, const struct folders *folders,
                              const struct dataplane_user *user);

/* Takes the file at path (absolute; not a symbolic link). 0 and done() later, from the loop; -EBUSY: one is
 * under way. */
int importer_start(struct importer *i, const struct digest *digest, const char *path, import_done done,
                   void *arg);

/* Whether that blob is being taken just now. */
bool importer_takes(const struct importer *i, const struct digest *digest);

const char *import_way_name(enum import_way way);

/* What is under way is given up (-ECANCELED). Frees; stopped() comes now, or from the loop after done(). */
void importer_stop(struct importer *i, void (*stopped)(void *arg), void *arg);

/* The work itself, for tests. Blocks; *cancelled is looked at between pieces. */
void import_blob(const struct folders *folders, const struct dataplane_user *user,
                 const struct digest *digest, const char *path, const bool *cancelled,
                 struct import_result *out);

#endif
