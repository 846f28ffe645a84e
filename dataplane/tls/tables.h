/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS of the whole process, of main: the certificates that control handed over, the keys of tickets, the
 * helpers, and for each plan a table of contexts. A table goes to the rings beside its plan and is dropped
 * when all of them have the next one; its contexts live on as long as connections that began with them.
 */
#ifndef FL_TLS_TABLES_H
#define FL_TLS_TABLES_H

#include <stdbool.h>
#include <stdint.h>

#include "plan.h"

struct tls_context;
struct tls_helpers;
struct tls_tables;

struct tls_side {
    struct tls_context *server; /* for clients of the service; NULL: none, or it could not be made */
    struct tls_context *client; /* for its backends */
};

struct tls_expiry {
    char name[PLAN_NAME_MAX]; /* of a certificate */
    int64_t not_after_s;      /* UTC */
    int64_t staple_until_s;   /* of its OCSP response; INT64_MAX: there is none, or it tells no end */
};

struct tls_table {
    uint64_t generation;
    uint32_t count, expiry_count;
    struct tls_context
        *listener[PLAN_LISTENERS_MAX]; /* the registry's and admin's, by the plan's listeners */
    struct tls_expiry *expiry;         /* of all certificates that control handed over */
    struct tls_side side[];            /* by the plan's places */
};

/* Before the sandbox and the threads. threads: helpers. NULL with *why. */
struct tls_tables *tls_tables_new(unsigned threads, const struct plan *plan, const char **why);
void tls_tables_stop(struct tls_tables *t); /* the helpers, when the rings have ended */
void tls_tables_free(struct tls_tables *t); /* when the rings are freed */
int tls_tables_start(struct tls_tables *t); /* the helpers, in the sandbox */
struct tls_helpers *tls_tables_helpers(struct tls_tables *t);

/* Whether this kernel can take over records. */
bool tls_tables_kernel(const struct tls_tables *t);

/* Certificates from control (taken). -EPROTO: they make no sense, those before stay. */
int tls_tables_certs(struct tls_tables *t, int fd);

/*
 * A table for a plan. Contexts of services that have not changed since `old` (the plan of the table before;
 * NULL: none) are the same ones. What cannot be made is said on standard error. NULL: no memory.
 */
struct tls_table *tls_table_new(struct tls_tables *t, const struct plan *plan, const struct plan *old,
                                const struct tls_table *before);
void tls_table_free(struct tls_table *table); /* NULL is nobody */

/* Now and then: keys of tickets grow old. */
void tls_tables_tick(struct tls_tables *t, const struct plan *plan, uint64_t now_ms);

/* The context for the clients of a service who come by that listening address; as plan_tls_of. */
struct tls_context *tls_table_server(const struct tls_table *t, const struct plan *plan, unsigned place,
                                     unsigned listener);

/* The context for the backends of the service at that place. */
static inline struct tls_context *tls_table_client(const struct tls_table *t, uint32_t place)
{
    return t && place < t->count ? t->side[place].client : NULL;
}

#endif
