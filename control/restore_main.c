/* SPDX-License-Identifier: Apache-2.0 */
#include "control/restore_main.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "control/backup.h"
#include "control/folders.h"

/* The first line, without its end. 0 or -errno. */
static int read_passphrase(const char *path, char out[BACKUP_PASSPHRASE_MAX])
{
    FILE *file = path ? fopen(path, "re") : stdin;
    if (!file)
        return -errno;
    bool read = fgets(out, BACKUP_PASSPHRASE_MAX, file) != NULL;
    if (path)
        fclose(file);
    out[read ? strcspn(out, "\r\n") : 0] = '\0';
    return *out ? 0 : -ENODATA;
}

int restore_main(const struct config *config, const char *path, const char *passphrase_file, bool verify)
{
    char passphrase[BACKUP_PASSPHRASE_MAX], err[BACKUP_ERROR_MAX];
    struct restore_request request = {
        .path = path, .passphrase = passphrase, .state = verify ? NULL : config->state_dir};
    struct restore_result result;
    struct dataplane_user user = {.change = false};
    int rc = read_passphrase(passphrase_file, passphrase);
    if (rc) {
        fprintf(stderr, "fairleadd: there is no passphrase in %s\n",
                passphrase_file ? passphrase_file : "the first line of standard input");
        return 1;
    }
    if (dataplane_user_find(config->dataplane_user, &user, err, sizeof(err))) {
        fprintf(stderr, "fairleadd: %s\n", err);
        return 1;
    }
    request.change_owner = user.change;
    request.uid = user.uid;
    request.gid = user.gid;
    rc = backup_restore(&request, &result, err);
    OPENSSL_cleanse(passphrase, sizeof(passphrase));
    if (rc) {
        fprintf(stderr, "fairleadd: %s; nothing was changed\n", err);
        return 1;
    }
    printf("%s: made %s by node %llu of cluster %s at entry %llu: %llu files (%llu blobs), %llu bytes, all "
           "whole\n",
           path, result.created, (unsigned long long)result.node_id, result.cluster,
           (unsigned long long)result.index, (unsigned long long)result.files,
           (unsigned long long)result.blobs, (unsigned long long)result.bytes);
    if (!verify)
        printf("%s is the state of a new cluster of one; start fairleadd with it\n", config->state_dir);
    return 0;
}
