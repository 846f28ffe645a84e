/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates on their way from control, which alone may read their files, to the data plane: a sealed memfd
 * (LINK_CERTS). Nobody but the data plane gets it, nothing of it is ever logged. Flat, without pointers;
 * whoever maps it calls certs_check first. What the parts contain is checked by whoever parses them.
 */
#ifndef FL_CERTS_H
#define FL_CERTS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
    CERTS_MAGIC = 0x31434c46, /* "FLC1" */
    CERTS_VERSION = 1,
    CERTS_MAX = 1024,          /* entries */
    CERTS_NAME_MAX = 64,       /* with its NUL; as PLAN_NAME_MAX */
    CERTS_FILE_MAX = 1 << 20,  /* one file */
    CERTS_BYTES_MAX = 64 << 20 /* all of it */
};

/* Bytes of the blob; length 0: there is none. */
struct certs_part {
    uint32_t at, len;
};

/* One entry of the section `certificates`. */
struct certs_entry {
    char name[CERTS_NAME_MAX];
    struct certs_part cert; /* PEM: the certificate, then the chain up to a root */
    struct certs_part key;  /* PEM, not encrypted; belongs to the first of cert */
    struct certs_part ca;   /* PEM: whoever these have signed is trusted */
    struct certs_part ocsp; /* DER: an OCSP response for cert, stapled */
};

struct certs {
    uint32_t magic, version;
    uint64_t bytes;      /* of it all */
    uint64_t generation; /* grows by one with each change */
    uint32_t count, pad;
    struct certs_part system_ca; /* PEM: whom the system trusts; for backends whose service names no CA */
    struct certs_entry entry[];
};

static inline bool certs_part_check(const struct certs *c, struct certs_part part)
{
    return part.len == 0 || (part.at <= c->bytes && part.len <= c->bytes - part.at);
}

/* Whether a mapping of `bytes` holds certificates of this version with every part inside. */
static inline bool certs_check(const struct certs *c, uint64_t bytes)
{
    if (bytes < sizeof(*c) || bytes > CERTS_BYTES_MAX || c->magic != CERTS_MAGIC ||
        c->version != CERTS_VERSION || c->bytes != bytes || c->count > CERTS_MAX ||
        sizeof(*c) + c->count * sizeof(struct certs_entry) > bytes || !certs_part_check(c, c->system_ca))
        return false;
    for (uint32_t i = 0; i < c->count; i++) {
        const struct certs_entry *e = &c->entry[i];
        if (!memchr(e->name, '\0', sizeof(e->name)) || e->name[0] == '\0')
            return false;
        if (!certs_part_check(c, e->cert) || !certs_part_check(c, e->key) || !certs_part_check(c, e->ca) ||
            !certs_part_check(c, e->ocsp))
            return false;
    }
    return true;
}

static inline const struct certs_entry *certs_find(const struct certs *c, const char *name)
{
    for (uint32_t i = 0; c && i < c->count; i++)
        if (strcmp(c->entry[i].name, name) == 0)
            return &c->entry[i];
    return NULL;
}

static inline const char *certs_bytes(const struct certs *c, struct certs_part part)
{
    return (const char *)c + part.at;
}

#endif
