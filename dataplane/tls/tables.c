/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/tls/tables.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "dataplane/sandbox.h"
#include "dataplane/tls/context.h"
#include "dataplane/tls/helpers.h"
#include "dataplane/tls/material.h"

enum { WHY_BYTES = 256 };

struct tls_tables {
    struct tls_world world;
    struct tls_helpers *helpers;
    bool kernel;
    bool fresh; /* certificates came since the last table */
    uint64_t generation;
};

/* Whether the kernel knows the protocol; a socket without a connection is refused for another reason. */
static bool kernel_has_tls(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has = fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) && errno == ENOTCONN;
    if (fd >= 0)
        close(fd);
    return has;
}

struct tls_tables *tls_tables_new(unsigned threads, const struct plan *plan, const char **why)
{
    struct tls_tables *t = calloc(1, sizeof(*t));
    *why = "OpenSSL could not be made ready";
    if (!t)
        return NULL;
    /* The library's own configuration file says nothing here: what is spoken does not depend on it. */
    if (!OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL))
        goto err_free;
    t->kernel = kernel_has_tls();
    t->world.tickets = tls_tickets_new();
    if (!t->world.tickets)
        goto err_free;
    t->helpers = tls_helpers_new(threads, (unsigned)plan->setting[SET_TLS_HANDSHAKES_WAITING_MAX]);
    if (t->helpers)
        return t;
    tls_tickets_free(t->world.tickets);
err_free:
    free(t);
    return NULL;
}

static void certs_drop(struct tls_tables *t)
{
    X509_STORE_free(t->world.system);
    t->world.system = NULL;
    if (t->world.certs)
        munmap((void *)(uintptr_t)t->world.certs, t->world.certs->bytes);
    t->world.certs = NULL;
}

void tls_tables_stop(struct tls_tables *t)
{
    tls_helpers_stop(t->helpers);
}

void tls_tables_free(struct tls_tables *t)
{
    tls_helpers_free(t->helpers);
    certs_drop(t);
    tls_tickets_free(t->world.tickets);
    free(t);
}

int tls_tables_start(struct tls_tables *t)
{
    return tls_helpers_start(t->helpers);
}

struct tls_helpers *tls_tables_helpers(struct tls_tables *t)
{
    return t->helpers;
}

bool tls_tables_kernel(const struct tls_tables *t)
{
    return t->kernel;
}

int tls_tables_certs(struct tls_tables *t, int fd)
{
    struct stat st;
    void *p = MAP_FAILED;
    if (fstat(fd, &st) == 0 && st.st_size >= (off_t)sizeof(struct certs) && st.st_size <= CERTS_BYTES_MAX)
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        return -EPROTO;
    if (!certs_check(p, (uint64_t)st.st_size)) {
        munmap(p, (size_t)st.st_size);
        return -EPROTO;
    }
    certs_drop(t);
    t->world.certs = p;
    if (t->world.certs->count)
        sandbox_hold_secrets();
    t->fresh = true;
    return 0;
}

/* ------------------------------------------------------------------ a table */

static bool wants_client(const struct plan_service *s)
{
    return s->kind == SERVICE_PROXY && s->proxy.backend_tls;
}

static bool same_client(const struct plan_proxy *a, const struct plan_proxy *b)
{
    return a->kind == b->kind && a->backend_tls == b->backend_tls && a->backend_verify == b->backend_verify &&
           a->backend_http == b->backend_http && strcmp(a->backend_ca, b->backend_ca) == 0 &&
           strcmp(a->backend_certificate, b->backend_certificate) == 0;
}

static void say(const char *name, const char *why)
{
    fprintf(stderr, "fairlead-dataplane: '%.63s' has no TLS: %s\n", name, why);
}

/* `was` NULL: it has to be made. */
static struct tls_context *server_of(struct tls_tables *t, const char *name, const struct plan_tls *tls,
                                     bool alpn, const struct plan_tls *was, struct tls_context *before)
{
    char why[WHY_BYTES] = "";
    if (tls->mode != PLAN_TLS_TERMINATE)
        return NULL;
    if (was && memcmp(was, tls, sizeof(*tls)) == 0)
        return before ? tls_context_get(before) : NULL;
    struct tls_context *c = tls_context_server_new(&t->world, name, tls, alpn, why, sizeof(why));
    if (!c)
        say(name, why);
    return c;
}

static void make_side(struct tls_tables *t, const struct plan_service *s, const struct plan_service *was,
                      const struct tls_side *before, struct tls_side *out)
{
    char why[WHY_BYTES] = "";
    bool same = was && strcmp(was->name, s->name) == 0 && was->incarnation == s->incarnation &&
                was->proxy.kind == s->proxy.kind;
    bool alpn =
        s->kind != SERVICE_PROXY || s->proxy.kind != PROXY_TCP; /* a tunnel speaks what its backend does */
    out->server = server_of(t, s->name, &s->tls, alpn, same ? &was->tls : NULL, same ? before->server : NULL);
    if (!wants_client(s))
        return;
    if (same && same_client(&was->proxy, &s->proxy))
        out->client = before->client ? tls_context_get(before->client) : NULL;
    else if (!(out->client = tls_context_client_new(&t->world, s, why, sizeof(why))))
        say(s->name, why);
}

static void make_listener(struct tls_tables *t, const struct plan_listener *l, const struct plan *old,
                          const struct tls_table *before, struct tls_context **out)
{
    unsigned at = old ? plan_listener_of_slot(old, l->first) : PLAN_LISTENERS_MAX;
    bool same = at < PLAN_LISTENERS_MAX && strcmp(plan_listener(old, at)->address, l->address) == 0;
    *out = server_of(t, l->address, &l->tls, true, same ? &plan_listener(old, at)->tls : NULL,
                     same ? before->listener[at] : NULL);
}

static bool expiry_new(struct tls_tables *t, struct tls_table *table)
{
    uint32_t count = t->world.certs ? t->world.certs->count : 0;
    table->expiry = malloc((count ? count : 1) * sizeof(*table->expiry));
    for (uint32_t i = 0; table->expiry && i < count; i++) {
        const struct certs_entry *e = &t->world.certs->entry[i];
        struct tls_expiry *x = &table->expiry[table->expiry_count];
        if (!tls_material_not_after(t->world.certs, e, &x->not_after_s))
            continue;
        struct ocsp_window staple;
        x->staple_until_s = tls_material_staple(t->world.certs, e, &staple) ? staple.until_s : INT64_MAX;
        memcpy(x->name, e->name, sizeof(x->name));
        table->expiry_count++;
    }
    return table->expiry;
}

static bool same_settings(const struct plan *a, const struct plan *b)
{
    return a->setting[SET_TLS_KERNEL] == b->setting[SET_TLS_KERNEL] &&
           a->setting[SET_TLS_TICKET_LIFETIME] == b->setting[SET_TLS_TICKET_LIFETIME];
}

/* Parsed once for all services; not at all if none asks for it. */
static void make_system(struct tls_world *w, const struct plan *plan)
{
    bool wanted = false;
    for (uint32_t i = 0; i < plan->service_count && !wanted; i++) {
        const struct plan_service *s = plan_service(plan, i);
        wanted = wants_client(s) && s->proxy.backend_verify && !s->proxy.backend_ca[0];
    }
    if (wanted && !w->system && w->certs && w->certs->system_ca.len)
        w->system = tls_material_store(certs_bytes(w->certs, w->certs->system_ca), w->certs->system_ca.len);
}

struct tls_table *tls_table_new(struct tls_tables *t, const struct plan *plan, const struct plan *old,
                                const struct tls_table *before)
{
    struct tls_table *table = calloc(1, sizeof(*table) + plan->service_count * sizeof(table->side[0]));
    if (!table || !expiry_new(t, table)) {
        free(table);
        return NULL;
    }
    bool reuse = before && old && !t->fresh && same_settings(plan, old);
    t->world.kernel = t->kernel && plan->setting[SET_TLS_KERNEL];
    t->world.ticket_life_ms = plan->setting[SET_TLS_TICKET_LIFETIME];
    make_system(&t->world, plan);
    table->generation = ++t->generation;
    table->count = plan->service_count;
    for (uint32_t i = 0; i < plan->service_count; i++) {
        bool had = reuse && i < before->count && i < old->service_count;
        make_side(t, plan_service(plan, i), had ? plan_service(old, i) : NULL, had ? &before->side[i] : NULL,
                  &table->side[i]);
    }
    for (uint32_t i = 0; i < plan->listener_count; i++)
        make_listener(t, plan_listener(plan, i), reuse ? old : NULL, before, &table->listener[i]);
    t->fresh = false;
    return table;
}

void tls_table_free(struct tls_table *table)
{
    if (!table)
        return;
    for (uint32_t i = 0; i < table->count; i++) {
        tls_context_put(table->side[i].server);
        tls_context_put(table->side[i].client);
    }
    for (uint32_t i = 0; i < PLAN_LISTENERS_MAX; i++)
        tls_context_put(table->listener[i]);
    free(table->expiry);
    free(table);
}

struct tls_context *tls_table_server(const struct tls_table *t, const struct plan *plan, unsigned place,
                                     unsigned listener)
{
    const struct plan_service *s = plan_service_of(plan, place);
    if (s && s->kind == SERVICE_PROXY)
        return place < t->count ? t->side[place].server : NULL;
    return listener < PLAN_LISTENERS_MAX ? t->listener[listener] : NULL;
}

/* A ticket lives for its time however late it was made: the key is replaced twice in it, three are kept. */
void tls_tables_tick(struct tls_tables *t, const struct plan *plan, uint64_t now_ms)
{
    (void)tls_tickets_turn(t->world.tickets, now_ms, plan->setting[SET_TLS_TICKET_LIFETIME] / 2);
}
