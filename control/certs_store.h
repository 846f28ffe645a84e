/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates and keys, read from the files that the configuration names, checked, and made into the sealed
 * memory that the data plane gets (certs.h). What cannot be read or does not fit together is said, and what
 * was read before stays. Keys are in this process' memory and that one's, and in no log.
 */
#ifndef FL_CONTROL_CERTS_STORE_H
#define FL_CONTROL_CERTS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/config_certificates.h"
#include "control/journal.h"

struct certs_store;

enum { CERTS_TEXT_MAX = 512 };

/* What is shown of one; strings are the store's. */
struct certs_view {
    const char *name, *cert, *ca; /* name and paths; NULL: none */
    bool has_key, has_ocsp;
    bool loaded;                  /* false: nothing of it could be read so far */
    const char *problem;          /* why the newest files are not used; "" */
    char subject[CERTS_TEXT_MAX]; /* "": it has no certificate, but a CA */
    char names[CERTS_TEXT_MAX];   /* SANs, with commas in between */
    int64_t not_before_s, not_after_s;
    int64_t ocsp_until_s; /* 0: there is none about it; INT64_MAX: it tells no end */
};

struct certs_store *certs_open(struct journal *journal);
void certs_close(struct certs_store *s);

/*
 * Reads the files of the configuration (borrowed until the return). Problems are logged. Returns whether
 * there is something new for the data plane; *failed: how many entries are without anything to use.
 */
bool certs_load(struct certs_store *s, const struct config_certificates *config, size_t *failed);

/* Once a second: the same if a file has changed. */
bool certs_tick(struct certs_store *s);

/* Reads all files again, now. */
bool certs_reload(struct certs_store *s);

/* Whether the system's CAs are to be handed over, too. Returns whether that is new. */
bool certs_want_system(struct certs_store *s, bool wanted);

/* A sealed memfd for the data plane, *generation of it; -ENOENT: there is nothing to hand over; or -errno. */
int certs_seal(const struct certs_store *s, uint64_t *generation);

/* The certificates of a CA as text, borrowed until the next call that reads files; NULL: nothing of that name
 * has a CA, or it could not be read so far, which *problem ("": there is none) tells. */
const char *certs_ca(const struct certs_store *s, const char *name, const char **problem);

size_t certs_count(const struct certs_store *s);
void certs_show(const struct certs_store *s, size_t i, struct certs_view *out);

#endif
