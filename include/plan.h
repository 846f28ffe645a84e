/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: the compiled configuration, made by control, sealed in a memfd and mapped read-only by the data
 * plane, which swaps it between two batches of events. Flat, of variable length, without pointers; whoever
 * maps it calls plan_check first. A mapping goes away when every ring has a newer one: what is kept over a
 * turn is copied out of it.
 */
#ifndef FL_PLAN_H
#define FL_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"

enum {
    PLAN_MAGIC = 0x31504c46, /* "FLP1" */
    PLAN_VERSION = 8,
};

enum setting_type { SETTING_BOOL, SETTING_NUMBER, SETTING_BYTES, SETTING_MS, SETTING_BYTES_PER_S };

enum setting_id {
#define SETTING(symbol, name, type, min, max, def, text) SET_##symbol,
#include "settings.def"
#undef SETTING
    SETTINGS_COUNT
};

/* What a listening address serves. */
enum service_kind {
    SERVICE_NONE = 0,     /* the place is free */
    SERVICE_REGISTRY = 1, /* the embedded registry */
    SERVICE_ADMIN = 2,    /* /metrics, /healthz, /readyz */
    SERVICE_PROXY = 3,    /* relayed to backends */
    SERVICE_PEER = 4,     /* blobs for other replicas */
    SERVICE_KINDS
};

/* Who may do what. Access control will add kinds; the data plane refuses to serve a plan without one. */
enum policy_kind {
    POLICY_ALLOW_ALL = 1, /* everybody may do everything: for loopback, or where the operator said so */
};

enum {
    PLAN_SERVICES_MAX = 4180, /* places 0 to 83 are our own; a service of the state: 83 + its id */
    PLAN_LISTENERS_MAX = 256,
    PLAN_BACKENDS_MAX = 131072 + 16384, /* of the state; of peers, of sources and where these lead to */
    PLAN_SERVICE_BACKENDS_MAX = 4096,
    PLAN_NAME_MAX = 64,        /* with its NUL */
    PLAN_CERTIFICATES_MAX = 8, /* that a service offers */
    PLAN_DOMAIN_MAX = 254,     /* bytes of a host's name, with its NUL */
    PLAN_NAMES_MAX = 1 << 20,  /* of all services */
    PLAN_SOURCES_MAX = 256,
    PLAN_MEMBERS_MAX = 8192,
    PLAN_NO_SERVICE = 0xffff, /* of a source: it is not there (now) */
    PLAN_UNIX_PATH_MAX = 108,
    PLAN_NO_ROW = 0xffff,
    PLAN_BYTES_MAX = 1 << 30,
};

enum plan_tls_mode { PLAN_TLS_OFF = 0, PLAN_TLS_TERMINATE = 1, PLAN_TLS_PASSTHROUGH = 2 };
enum plan_client_auth { PLAN_AUTH_NONE = 0, PLAN_AUTH_OPTIONAL = 1, PLAN_AUTH_REQUIRED = 2 };

/* The way in: what clients speak to a service. Names are those of certs.h. */
struct plan_tls {
    uint8_t mode;        /* enum plan_tls_mode */
    uint8_t client_auth; /* enum plan_client_auth */
    uint8_t certificate_count;
    uint8_t http2;          /* offered by ALPN, and taken in clear by prior knowledge */
    uint8_t proxy_protocol; /* a PROXY header (v1 or v2) stands before everything else */
    uint8_t nodes_only;     /* clients' certificates have to be of nodes of this cluster */
    uint8_t pad[2];
    char certificate[PLAN_CERTIFICATES_MAX][PLAN_NAME_MAX]; /* the first one is for clients without a name */
    char client_ca[PLAN_NAME_MAX];
};

/* What is spoken on a proxied service; the numbers of the state (svc_kind). */
enum proxy_kind { PROXY_TCP = 1, PROXY_HTTP = 2, PROXY_REGISTRY = 3, PROXY_DOCKER = 4, PROXY_KUBERNETES = 5 };
/* svc_policy */
enum proxy_policy { PROXY_RANDOM = 1, PROXY_MAGLEV = 2, PROXY_LEAST = 3, PROXY_DIGEST = 4 };
enum proxy_verify { PROXY_VERIFY_NEVER = 0, PROXY_VERIFY_RESUMED = 1, PROXY_VERIFY_ALWAYS = 2 };
enum proxy_forwarded {
    PROXY_FORWARDED_OFF = 0,
    PROXY_FORWARDED_X = 1,
    PROXY_FORWARDED_RFC7239 = 2,
    PROXY_FORWARDED_BOTH = 3
};
enum proxy_technique { PROXY_AUTO = 0, PROXY_SPLICE = 1, PROXY_COPY = 2 };

/* The way to the backends. Times in milliseconds; 0 is "no limit" where it says so. */
struct plan_proxy {
    uint8_t kind;            /* enum proxy_kind */
    uint8_t policy;          /* enum proxy_policy */
    uint8_t all_down;        /* 0: refuse (503), 1: choose as if all were up */
    uint8_t backend_tls;     /* 0, 1 */
    uint8_t backend_verify;  /* 0, 1: the backend's certificate */
    uint8_t backend_http;    /* 1: HTTP/1.1; 2: HTTP/2, in clear by prior knowledge, over TLS by ALPN */
    uint8_t proxy_protocol;  /* 0, 1, 2: the version of the PROXY header sent to backends */
    uint8_t forwarded;       /* enum proxy_forwarded: what tells a backend about the client */
    uint8_t trust_forwarded; /* 1: what the client's own fields say is kept, and added to */
    uint8_t host_of_backend; /* 1: Host is the backend's address; 0: as the client sent it */
    uint8_t verify;          /* enum proxy_verify: of a resumed body */
    uint8_t coalesce;        /* 1: clients that pull the same blob at the same time share one upstream body */
    uint8_t technique;       /* enum proxy_technique; for tests and benches */
    uint8_t pad[3];
    uint32_t connections_max; /* to one backend, of one ring */
    uint32_t requests_max;    /* at work at one backend, of one ring; 0: no limit */
    uint32_t queue_max;       /* requests that wait for a backend, of one ring */
    uint32_t queue_timeout_ms;
    uint32_t connect_timeout_ms;
    uint32_t response_timeout_ms; /* until the response's head; 0: none. Streams that live long have none */
    uint32_t idle_timeout_ms;     /* of a tunnel in which nothing moves; 0: none */
    uint32_t retries;             /* other backends that are tried for one request */
    uint32_t retry_budget;  /* retries per 100 requests, over ten seconds; at least some are always allowed */
    uint32_t slow_start_ms; /* in which a backend that came back gets its full share again; 0: at once */
    uint32_t eject_failures; /* failures in a row that take a backend out; 0: never */
    uint32_t eject_ms;       /* for how long, the first time */
    uint32_t
        eject_latency; /* percent of the median latency of all above which a backend is taken out; 0: never */
    uint32_t stall_rate;     /* bytes a second below which a resumable body has stalled; 0: never */
    uint32_t stall_ms;       /* for this long */
    uint32_t resumes_max;    /* of one body */
    uint32_t hedge_ms;       /* GETs not answered by then are asked of a second backend, too; 0: never */
    uint32_t half_closed_ms; /* of a tunnel of which one direction has ended; 0: as idle_timeout_ms */
    char backend_ca[PLAN_NAME_MAX];          /* "": the system's */
    char backend_certificate[PLAN_NAME_MAX]; /* "": none */
    char backend_name[PLAN_DOMAIN_MAX];      /* for SNI and verification; "": the backend's address */
};

/* Of the peers' service, a backend's id says which node it is. It is beyond those of the state's backends:
 * the kernel knows nothing of it. */
enum { PLAN_PEER_ID_FIRST = 1 << 24 };

static inline uint32_t plan_peer_id(uint64_t node)
{
    return (uint32_t)(PLAN_PEER_ID_FIRST + node % PLAN_PEER_ID_FIRST);
}

struct plan_service {
    uint8_t kind;   /* enum service_kind */
    uint8_t policy; /* enum policy_kind */
    /* Of several services at one address, all have these alike: the place of the one without names (0: there
     * is none), and the names of the others. */
    uint16_t nameless;
    /* Another one when the place means another service: then connections that came to the one before are not
     * answered by this one. */
    uint32_t incarnation;
    char name[PLAN_NAME_MAX];
    struct plan_tls tls;
    /* SERVICE_PROXY */
    struct plan_proxy proxy;
    uint32_t first_backend, backend_count;
    uint32_t first_name, name_count; /* 0: the service has its address alone */
    uint32_t first_row, row_count;   /* PROXY_MAGLEV, PROXY_DIGEST: rows of the table, a prime; else 0 */
};

/* A backend of a proxied service: TCP, or a Unix socket where unix_path is not empty. */
struct plan_backend {
    uint32_t id;         /* of the verdict (abi.h), and of the ring's own record of it */
    uint16_t generation; /* a verdict, or a record, of another generation says nothing */
    uint16_t weight;     /* 1..256 */
    uint8_t draining;    /* takes no new requests */
    uint8_t checked;     /* the kernel has a verdict on it */
    uint16_t port;       /* host byte order */
    uint8_t ip[16];      /* IPv4 as ::ffff:a.b.c.d */
    uint32_t peer;       /* it hangs on a peer's heartbeats (abi_backend.peer) */
    uint64_t node;       /* of the service of peers: which node that is; else 0 */
    uint64_t holder;     /* of the service of peers: what it is as a holder of blobs; else 0 */
    char unix_path[PLAN_UNIX_PATH_MAX];
    char name[PLAN_NAME_MAX];
};

/* A name by which clients of TLS choose a service of their address: a host, or * for its first label. */
struct plan_name {
    char name[PLAN_DOMAIN_MAX]; /* in lower case; those of an address in ascending order */
    uint16_t place;
};

/* A listening address: `count` sockets of one SO_REUSEPORT group, in the slots [first, first + count)
 * (msg.h). They are closed when the address is not configured any more, never for another reason. */
struct plan_listener {
    uint16_t service; /* index into services */
    uint16_t first;
    uint16_t count;
    uint16_t pad;
    char address[ADDRESS_TEXT_MAX];
    struct plan_tls tls; /* of the registry and admin, address by address; a proxied service has its own */
};

enum plan_source_kind {
    PLAN_SOURCE_PEERS = 1,    /* other replicas: they have what the names link, by digest alone */
    PLAN_SOURCE_REGISTRY = 2, /* an existing registry: its repositories are seen under a prefix of ours */
};

/* Where what is not in this node's store comes from. Of several whose prefix a repository has, the longest
 * one counts, beside the peers. */
struct plan_source {
    uint8_t kind; /* enum plan_source_kind */
    uint8_t push; /* PLAN_SOURCE_REGISTRY: 1: this registry takes pushes to such repositories all the same */
    uint16_t service; /* place of the proxied service whose backends are asked, or PLAN_NO_SERVICE */
    uint16_t prefix_len, upstream_len;
    char prefix[REPO_NAME_MAX + 1];   /* of our names, with its last '/'; "": all */
    char upstream[REPO_NAME_MAX + 1]; /* stands there in its place */
    uint64_t id;                      /* control knows by it who may read there (msg.h, PASS_WANTED) */
};

/* How many replicas are to hold what is pushed. */
struct plan_copies {
    uint8_t told;   /* the cluster's version lets commands say who holds a blob */
    uint8_t keeps;  /* this node is a replica: what it has is kept */
    uint8_t wanted; /* copies; not more than the replicas have stores */
    uint8_t least;  /* with so many a push is acknowledged where more cannot be had in time */
    uint8_t shared; /* the store is other replicas', too (store.shared) */
    uint8_t
        counts; /* its own copy is one of those that are wanted of a push: it keeps it, and is not drained */
    uint8_t pad[2];
    uint64_t holder; /* what this node is as a holder of blobs: its id, or the number of its store */
};

/* The arrays stand behind it, in this order, each aligned to 8 bytes: services, listeners, backends, rows
 * (uint16_t: index into the service's backends, or PLAN_NO_ROW), names, sources, members (uint64_t: the ids
 * of the cluster's nodes whose certificates count, ascending). */
struct plan {
    uint32_t magic;
    uint32_t version;
    uint64_t bytes;      /* of it all */
    uint64_t generation; /* grows by one with each plan */
    uint8_t cluster_id[16];
    uint64_t node_id;
    struct plan_copies copies;
    uint64_t setting[SETTINGS_COUNT];
    uint64_t next_node; /* ids from this one on are not known here yet */
    uint32_t service_count, listener_count, backend_count, row_count, name_count, source_count;
    uint32_t member_count;
    uint32_t store_closed; /* 1: what is open as the store is not to be written to */
    uint64_t service_at, listener_at, backend_at, row_at, name_at, source_at; /* bytes from the beginning */
    uint64_t member_at;
};

static inline const struct plan_service *plan_service(const struct plan *p, unsigned i)
{
    return (const struct plan_service *)(const void *)((const uint8_t *)p + p->service_at) + i;
}

static inline const struct plan_listener *plan_listener(const struct plan *p, unsigned i)
{
    return (const struct plan_listener *)(const void *)((const uint8_t *)p + p->listener_at) + i;
}

static inline const struct plan_backend *plan_backend(const struct plan *p, unsigned i)
{
    return (const struct plan_backend *)(const void *)((const uint8_t *)p + p->backend_at) + i;
}

static inline const uint16_t *plan_rows(const struct plan *p, unsigned first)
{
    return (const uint16_t *)(const void *)((const uint8_t *)p + p->row_at) + first;
}

static inline const struct plan_name *plan_name(const struct plan *p, unsigned i)
{
    return (const struct plan_name *)(const void *)((const uint8_t *)p + p->name_at) + i;
}

static inline const struct plan_source *plan_source(const struct plan *p, unsigned i)
{
    return (const struct plan_source *)(const void *)((const uint8_t *)p + p->source_at) + i;
}

/* Whether it is a node of the cluster, as far as is known here. */
static inline bool plan_has_member(const struct plan *p, uint64_t node)
{
    const uint64_t *member = (const uint64_t *)(const void *)((const uint8_t *)p + p->member_at);
    uint32_t low = 0, high = p->member_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (member[middle] < node)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->member_count && member[low] == node;
}

/* The service of a place, or NULL: it is free. */
static inline const struct plan_service *plan_service_of(const struct plan *p, unsigned place)
{
    const struct plan_service *s = place < p->service_count ? plan_service(p, place) : NULL;
    return s && s->kind != SERVICE_NONE ? s : NULL;
}

/* Whether a place means the same service in both. */
static inline bool plan_same_service(const struct plan *a, const struct plan *b, unsigned place)
{
    const struct plan_service *one = plan_service_of(a, place), *other = plan_service_of(b, place);
    if (!one || !other)
        return one == other;
    return one->kind == other->kind && one->incarnation == other->incarnation;
}

static inline bool plan_section(const struct plan *p, uint64_t at, uint64_t count, uint64_t size)
{
    return at % 8 == 0 && at >= sizeof(*p) && at <= p->bytes && count * size <= p->bytes - at;
}

static inline bool plan_check_service(const struct plan *p, const struct plan_service *s)
{
    if (s->kind >= SERVICE_KINDS || s->tls.certificate_count > PLAN_CERTIFICATES_MAX ||
        s->backend_count > PLAN_SERVICE_BACKENDS_MAX)
        return false;
    if ((uint64_t)s->first_backend + s->backend_count > p->backend_count ||
        (uint64_t)s->first_row + s->row_count > p->row_count ||
        (uint64_t)s->first_name + s->name_count > p->name_count || s->nameless >= p->service_count)
        return false;
    for (uint32_t i = 0; i < s->row_count; i++) {
        uint16_t backend = plan_rows(p, s->first_row)[i];
        if (backend != PLAN_NO_ROW && backend >= s->backend_count)
            return false;
    }
    return true;
}

/* The place of the listening address that has this slot, or PLAN_LISTENERS_MAX. */
static inline unsigned plan_listener_of_slot(const struct plan *p, unsigned slot)
{
    for (unsigned i = 0; i < p->listener_count; i++) {
        const struct plan_listener *l = plan_listener(p, i);
        if (slot >= l->first && slot < (unsigned)l->first + l->count)
            return i;
    }
    return PLAN_LISTENERS_MAX;
}

/* How clients of a service are spoken to who come by that listening address; NULL: it is not in the plan. */
static inline const struct plan_tls *plan_tls_of(const struct plan *p, unsigned service, unsigned listener)
{
    const struct plan_service *s = plan_service_of(p, service);
    if (!s || s->kind == SERVICE_PROXY)
        return s ? &s->tls : NULL;
    return listener < p->listener_count ? &plan_listener(p, listener)->tls : NULL;
}

/* Whether a mapping of `bytes` holds a plan of this version with every index in range. */
static inline bool plan_check(const struct plan *p, uint64_t bytes)
{
    if (bytes < sizeof(*p) || p->magic != PLAN_MAGIC || p->version != PLAN_VERSION || p->bytes != bytes)
        return false;
    if (p->service_count > PLAN_SERVICES_MAX || p->listener_count > PLAN_LISTENERS_MAX ||
        p->backend_count > PLAN_BACKENDS_MAX || p->name_count > PLAN_NAMES_MAX ||
        p->source_count > PLAN_SOURCES_MAX || p->member_count > PLAN_MEMBERS_MAX)
        return false;
    if (!plan_section(p, p->service_at, p->service_count, sizeof(struct plan_service)) ||
        !plan_section(p, p->listener_at, p->listener_count, sizeof(struct plan_listener)) ||
        !plan_section(p, p->backend_at, p->backend_count, sizeof(struct plan_backend)) ||
        !plan_section(p, p->row_at, p->row_count, sizeof(uint16_t)) ||
        !plan_section(p, p->name_at, p->name_count, sizeof(struct plan_name)) ||
        !plan_section(p, p->source_at, p->source_count, sizeof(struct plan_source)) ||
        !plan_section(p, p->member_at, p->member_count, sizeof(uint64_t)))
        return false;
    for (unsigned i = 0; i < p->source_count; i++)
        if (plan_source(p, i)->prefix_len > REPO_NAME_MAX || plan_source(p, i)->upstream_len > REPO_NAME_MAX)
            return false;
    for (unsigned i = 0; i < p->name_count; i++)
        if (plan_name(p, i)->place >= p->service_count || plan_name(p, i)->name[PLAN_DOMAIN_MAX - 1])
            return false;
    for (unsigned i = 0; i < p->service_count; i++)
        if (!plan_check_service(p, plan_service(p, i)))
            return false;
    for (unsigned i = 0; i < p->listener_count; i++) {
        const struct plan_listener *l = plan_listener(p, i);
        if (!plan_service_of(p, l->service) || l->tls.certificate_count > PLAN_CERTIFICATES_MAX ||
            l->count == 0 || l->first + l->count > LISTENERS_MAX)
            return false;
    }
    return true;
}

#endif
