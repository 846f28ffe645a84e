/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folders of a node:
 *   STATE/            0750  lock, dataplane.pid, names and private files, events.log
 *   STATE/sources.found 0600  where the hosts of sources were found last (source_found.h)
 *   STATE/notify/     0700  pulls that webhooks were not told of yet (pulls.h)
 *   STATE/raft/       0700  the log and the snapshots; made by the consensus, whole or not at all
 *   STATE/store/      0750  of the data plane's user: blobs/{sha256,sha512}/{00..ff}/, uploads/,
 *                           damaged/; where several nodes share it, each has its uploads in
 * uploads/NODE.CLUSTER/ RUN/              0755  control.sock
 */
#ifndef FL_CONTROL_FOLDERS_H
#define FL_CONTROL_FOLDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Of blobs/: the id of the cluster that removes what its names do not speak of (gc_folders.c). Backups leave
 * it out. */
#define STORE_OWNER ".cluster"
/* Of blobs/: the id of the store (store_id.h). */
#define STORE_FILE ".store"

/* Who the data plane runs as. */
enum { DATAPLANE_GROUPS_MAX = 16 };

struct dataplane_user {
    bool change; /* false: control is not privileged, and the data plane runs as control does */
    uid_t uid;
    gid_t gid;
    char name[33];
    gid_t group[DATAPLANE_GROUPS_MAX]; /* supplementary ones */
    size_t group_count;
};

struct folders {
    int state_fd, lock_fd, blobs_fd, damaged_fd;
    int uploads_fd;        /* of this node's */
    int all_uploads_fd;    /* uploads/ itself, where it is another folder than that; else -1 */
    bool store_made;       /* the folder of the store was not there */
    bool shared;           /* others may have files in the store, */
    char uploads_name[32]; /* and this node's uploads are in a folder of this name */
};

/*
 * Finds the user by name, or with NULL the user fairlead, or else nobody. 0, or -ENOENT with a message.
 */
int dataplane_user_find(const char *name, struct dataplane_user *out, char *err, size_t err_len);

/* Adds the groups of these names, so that it may open what they may. 0 or -errno with a message. Only root
 * can give them: else they are left alone. */
int dataplane_user_groups(struct dataplane_user *user, char *const *names, size_t count, char *err,
                          size_t err_len);

/* Locks the state of state_fd for this process: sets lock_fd. 0 or -errno with a message. */
int folders_lock(struct folders *folders, const char *state_dir, char *err, size_t err_len);

/*
 * Makes what is missing and locks the state for this process. 0 or -errno with a message that says what to
 * do; -EBUSY: another daemon holds the state.
 */
int folders_open(struct folders *folders, const char *state_dir, const char *run_dir,
                 const struct dataplane_user *user, char *err, size_t err_len);
/* What is at the store's path now takes the place of the store that is open: the descriptors keep their
 * numbers. 0 or -errno; then nothing has changed. */
int folders_reopen_store(struct folders *folders, const struct dataplane_user *user);
void folders_close(struct folders *folders);

/* In uploads/, of one node: its id, and the beginning of its cluster's, as nodes of a cluster that has not
 * been joined yet may have the store, too. */
enum { FOLDERS_UPLOADS_NAME = 32 };
void folders_uploads_name(uint64_t node, const uint8_t cluster_id[16], char out[FOLDERS_UPLOADS_NAME]);
/* False: it is no such name, or of another cluster. */
bool folders_uploads_parse(const char *name, const uint8_t cluster_id[16], uint64_t *node);

/*
 * The uploads of this node alone, once its id is known: a folder of its own where the store is shared, else
 * uploads/. What an earlier start, with the other value of store.shared, has left of this node's sessions is
 * moved there. Nobody uses uploads_fd yet. 0 or -errno with a message.
 */
struct folders_node {
    uint64_t id;
    const uint8_t *cluster_id;
    bool shared; /* store.shared */
};
int folders_own_uploads(struct folders *folders, const struct folders_node *node,
                        const struct dataplane_user *user, char *err, size_t err_len);

#endif
