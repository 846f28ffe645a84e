/* SPDX-License-Identifier: Apache-2.0 */
/*
 * STATE/pki: ca.pem (a bundle), node.pem, node.key, on managers ca.key, and while the CA is exchanged
 * ca-next.key, where it was made ca-next.pem, too; peers, which is how a node that has
 * just joined finds the others. The folder has mode 0700, keys 0600, and nobody else may own them. A folder
 * is made aside and gets its name when it is whole; a file is replaced by a new one that is whole (temporary
 * file, fsync, rename, fsync).
 */
#ifndef FL_MESH_PKI_FILES_H
#define FL_MESH_PKI_FILES_H

#include "control/mesh/pki.h"

#define PKI_FOLDER        "pki"
#define PKI_FILE_CA       "ca.pem"
#define PKI_FILE_CERT     "node.pem"
#define PKI_FILE_KEY      "node.key"
#define PKI_FILE_CA_KEY   "ca.key"
#define PKI_FILE_PEERS    "peers"
#define PKI_FILE_NEXT_CA  "ca-next.pem"
#define PKI_FILE_NEXT_KEY "ca-next.key"

enum { PKI_PEERS_BYTES_MAX = 64 << 10 };

struct pki_files {
    struct pki_text ca, cert, key;
    struct pki_text ca_key;            /* data NULL: this node has none */
    struct pki_text peers;             /* likewise */
    struct pki_text next_ca, next_key; /* likewise */
};

void pki_files_fini(struct pki_files *files);

/* 0, -ENOENT if there is no such folder, -EPERM for a mode or an owner that gives keys away, -EINVAL, -errno;
 * err says what is wrong with which file and what to do. */
int pki_files_read(int parent_fd, const char *folder, struct pki_files *out, char err[PKI_ERR_MAX]);

/* node.key alone, of a folder that may have nothing else. As above. */
int pki_files_read_key(int parent_fd, const char *folder, struct pki_text *out, char err[PKI_ERR_MAX]);

/* Makes the folder with these files (those without data are left out). It must not exist. 0 or -errno. */
int pki_files_make(int parent_fd, const char *folder, const struct pki_files *files);

/* Replaces one file of the folder. 0 or -errno. */
int pki_files_put(int parent_fd, const char *folder, const char *name, const struct pki_text *text);

/* Removes one file of the folder; not there is as good. After a crash it may be there again. 0 or -errno. */
int pki_files_drop(int parent_fd, const char *folder, const char *name);

/* Removes the folder with what is in it; not there is as good. 0 or -errno. */
int pki_files_remove(int parent_fd, const char *folder);

/* A new CA and the certificate that it signs for this node. 0 or -errno with err. */
int pki_files_first(const struct pki_subject *subject, struct pki_files *out, char err[PKI_ERR_MAX]);

#endif
