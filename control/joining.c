/* SPDX-License-Identifier: Apache-2.0 */
#include "control/joining.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "control/folders.h"
#include "control/raft/db.h"

enum { DEPTH_MAX = 4 };

int joining_key(int state_fd, struct pki_text *key, char err[PKI_ERR_MAX])
{
    struct pki_text request;
    int rc = pki_files_read_key(state_fd, JOINING_KEY_FOLDER, key, err);
    if (rc != -ENOENT)
        return rc;
    rc = pki_request_make(key, &request);
    if (rc == 0) {
        const struct pki_files files = {.key = *key};
        pki_text_free(&request);
        rc = pki_files_make(state_fd, JOINING_KEY_FOLDER, &files);
    }
    if (rc) {
        snprintf(err, PKI_ERR_MAX, "the key of this host cannot be made: %s", strerror(-rc));
        pki_text_free(key);
    }
    return rc;
}

int joining_decide(int state_fd, const struct pki_files *files, char err[PKI_ERR_MAX])
{
    int rc = pki_files_make(state_fd, JOINING_FOLDER, files);
    if (rc)
        snprintf(err, PKI_ERR_MAX, "what the cluster gave this host cannot be stored: %s; try again",
                 strerror(-rc));
    return rc;
}

/* A folder with everything in it. */
static int remove_tree(int parent_fd, const char *name, int depth)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    int rc = 0;
    for (const struct dirent *e; rc == 0 && (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, e->d_name, 0) == 0)
            continue;
        rc = errno == EISDIR && depth < DEPTH_MAX ? remove_tree(fd, e->d_name, depth + 1) : -errno;
    }
    closedir(dir);
    return rc || unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 ? rc : -errno;
}

/* The state of the cluster of one: its log, and what was applied. Blobs stay: nothing names them, and they
 * are the other cluster's, whose garbage collection takes them. */
static int state_drop(int state_fd)
{
    char lock[64];
    if (unlinkat(state_fd, "store/blobs/" STORE_OWNER, 0) && errno != ENOENT)
        return -errno;
    int rc = remove_tree(state_fd, "raft", 0);
    if (rc == 0)
        rc = remove_tree(state_fd, "raft.new", 0);
    for (int i = 0; rc == 0 && i < DB_FILES; i++) {
        snprintf(lock, sizeof(lock), "%s-lock", db_file_name(i));
        if ((unlinkat(state_fd, db_file_name(i), 0) && errno != ENOENT) ||
            (unlinkat(state_fd, lock, 0) && errno != ENOENT))
            rc = -errno;
    }
    return rc ? rc : fsync(state_fd) ? -errno : 0;
}

int joining_begin(int state_fd, struct pki_name *name, char err[PKI_ERR_MAX])
{
    struct pki_files files;
    struct pki_identity *identity;
    int rc = pki_files_read(state_fd, JOINING_FOLDER, &files, err);
    if (rc == -ENOENT)
        return 0;
    if (rc)
        return rc;
    rc = pki_identity_new(files.ca.data, files.ca.len, files.cert.data, files.cert.len, files.key.data,
                          files.key.len, &identity, err);
    pki_files_fini(&files);
    if (rc)
        return rc;
    *name = *pki_identity_name(identity);
    pki_identity_free(identity);
    rc = state_drop(state_fd);
    if (rc)
        snprintf(err, PKI_ERR_MAX, "the state of before this host joined cannot be removed: %s",
                 strerror(-rc));
    return rc ? rc : 1;
}

int joining_finish(int state_fd, char err[PKI_ERR_MAX])
{
    int rc = pki_files_remove(state_fd, PKI_FOLDER);
    if (rc == 0 && renameat(state_fd, JOINING_FOLDER, state_fd, PKI_FOLDER))
        rc = -errno;
    if (rc == 0)
        rc = pki_files_remove(state_fd, JOINING_KEY_FOLDER);
    if (rc == 0 && fsync(state_fd))
        rc = -errno;
    if (rc)
        snprintf(err, PKI_ERR_MAX, "the certificates of this node cannot be put in place: %s", strerror(-rc));
    return rc;
}
