/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services and backends: what one is, which values are allowed, its texts and its bytes. The texts are the
 * same in the configuration file, on the control socket and on the command line. Pure.
 *
 * Addresses are kept as IPv6, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2); ports in host byte order.
 * Times are milliseconds.
 */
#ifndef FL_STATE_SERVICE_H
#define FL_STATE_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"
#include "plan.h"
#include "wire.h"

enum {
    SVC_NAME_MAX = 63,  /* bytes of a service's, backend's or node's name */
    SVC_PATH_MAX = 128, /* of a check's path */
    SVC_HOST_MAX = 48,  /* of a check's Host */
    SVC_SERVICES_MAX = 4096,
    SVC_BACKENDS_MAX = 4096, /* of a service */
    SVC_BACKENDS_ALL_MAX = 131072,
    SVC_WEIGHT_MAX = 256,
    SVC_INTERVAL_MS_MIN = 1,
    SVC_INTERVAL_MS_MAX = 3600000,
    SVC_STATUS_FIRST = 100,
    SVC_STATUS_LAST = 599,
    SVC_DAY_MS = 86400000,
    SVC_NAMES_MAX = 511,      /* bytes of the list tls.names */
    SVC_TEXT_MAX = 640,       /* any field as a text, with its NUL */
    SVC_ERROR_MAX = 256,      /* a message, with its NUL */
    SVC_ROW_BYTES_MAX = 2560, /* an encoded service or backend */
};

/* The numbers are in the log: they never change their meaning. */
enum svc_kind { SVC_TCP = 1, SVC_HTTP = 2, SVC_REGISTRY = 3, SVC_DOCKER = 4, SVC_KUBERNETES = 5 };
enum svc_route { SVC_DIRECT = 1, SVC_PROXY = 2 };
enum svc_policy { SVC_RANDOM = 1, SVC_MAGLEV = 2, SVC_LEAST = 3, SVC_DIGEST = 4 };
enum svc_edge { SVC_EDGE_OFF = 0, SVC_EDGE_NAT = 1, SVC_EDGE_FULL_NAT = 2, SVC_EDGE_DSR = 3 };
enum svc_all_down { SVC_REFUSE = 0, SVC_OPEN = 1 };
enum svc_check_kind { SVC_CHECK_NONE = 0, SVC_CHECK_TCP = 1, SVC_CHECK_HTTP = 2, SVC_CHECK_TLS = 3 };
enum svc_admin { SVC_ACTIVE = 1, SVC_DRAIN = 2 };
/* Who said so: the control socket, or the configuration file (then only the file may change it). */
enum svc_origin { SVC_FROM_API = 0, SVC_FROM_FILE = 1 };

struct svc_address {
    uint8_t ip[16];
    uint16_t port; /* 1..65535 */
};

struct svc_check {
    uint8_t kind; /* enum svc_check_kind */
    uint8_t rise, fall;
    uint32_t interval_ms;
    uint32_t http_interval_ms;
    uint32_t timeout_ms;      /* of a SYN */
    uint32_t http_timeout_ms; /* of an HTTP check, from its SYN on */
    uint64_t statuses[8];     /* bit status - SVC_STATUS_FIRST */
    char path[SVC_PATH_MAX + 1];
    char host[SVC_HOST_MAX + 1]; /* "": the service's address */
};

struct svc {
    char name[SVC_NAME_MAX + 1];
    struct svc_address address;
    uint8_t kind, route, policy, edge, all_down; /* the enums above */
    bool steer, takeover, cut;
    uint8_t origin;
    struct svc_check check;
    /* For path: proxy; kind, policy and all_down of `proxy` are those above, and set when a plan is made. */
    struct plan_tls tls;
    struct plan_proxy proxy;
    /* tls.names: hosts (a.example, *.b.example) with commas between them, each once. Of several services at
     * one address it is the one whose name the client says; "": the one for everybody else. */
    char names[SVC_NAMES_MAX + 1];
    /* Given by the state. */
    uint32_t id;       /* 1..SVC_SERVICES_MAX; as long as the service is there */
    uint64_t revision; /* index of the log entry that changed it last */
    uint64_t created_ms, updated_ms;
    uint32_t backends;    /* how many it has */
    size_t first_backend; /* in a table: its backends are table.backend[first_backend, + backends) */
};

struct svc_backend {
    char name[SVC_NAME_MAX + 1];
    char node[SVC_NAME_MAX + 1]; /* the peer it runs on, "": not said */
    /* Of a Unix socket: port 0 and a hash of its path, so that a backend has one address whatever it is. */
    struct svc_address address;
    char unix_path[PLAN_UNIX_PATH_MAX]; /* "": it is reached by TCP */
    uint16_t weight;                    /* 1..SVC_WEIGHT_MAX */
    uint8_t origin;
    /* Given by the state. */
    uint8_t admin;       /* enum svc_admin */
    uint32_t id;         /* below SVC_BACKENDS_ALL_MAX; as long as the backend is there */
    uint16_t generation; /* another one when the id means something else: another backend, another address */
    uint64_t revision;
    uint64_t created_ms, updated_ms;
    uint32_t service; /* id */
};

/* Everything there is: services by name, backends by service and then by name. */
struct svc_table {
    struct svc *service;
    size_t count;
    struct svc_backend *backend;
    size_t backend_count;
};

/* A service of a kind with every default; the address and the name are still to be set. */
void svc_init(struct svc *s, enum svc_kind kind);
void svc_backend_init(struct svc_backend *b);

bool svc_name_valid(const char *name, size_t len);

/*
 * Sets a field from its text; *err gets what is wrong and what to write. 0, -ENOENT for an unknown key,
 * -EINVAL. The keys are in the tables of service_field.c; those with a dot form groups, and the group's name
 * alone may mean its first one (tls: tls.mode). A backend's address may be unix:/a/path. A kind brings its
 * defaults only in svc_init and svc_kind_change.
 */
int svc_field_set(struct svc *s, const char *key, const char *text, char err[SVC_ERROR_MAX]);
int svc_backend_field_set(struct svc_backend *b, const char *key, const char *text, char err[SVC_ERROR_MAX]);

/* The canonical text of a field; NULL for an unknown key. Returns out. */
const char *svc_field_text(const struct svc *s, const char *key, char out[SVC_TEXT_MAX]);
const char *svc_backend_field_text(const struct svc_backend *b, const char *key, char out[SVC_TEXT_MAX]);

/* Gives it another kind, with that one's defaults in place of the present one's: a field that says what the
 * present kind says by itself counts as never set. */
void svc_kind_change(struct svc *s, enum svc_kind kind);

/* Whether fields say something that nobody reads, since they are for path: proxy alone; *out: a sentence. */
bool svc_fields_unused(const struct svc *s, char out[SVC_TEXT_MAX]);
bool svc_field_is_proxys(size_t i);

/* The keys, in the order in which they are shown. */
size_t svc_field_count(void);
const char *svc_field_key(size_t i);
/* What a field is in JSON. */
enum svc_field_form { SVC_FORM_TEXT, SVC_FORM_NUMBER, SVC_FORM_TRUTH };
enum svc_field_form svc_field_form(const char *key);
size_t svc_backend_field_count(void);
const char *svc_backend_field_key(size_t i);

/* "10.0.0.1:80" or "[fd00::1]:80". 0 or -EINVAL. */
int svc_address_parse(const char *text, struct svc_address *out);
const char *svc_address_text(const struct svc_address *a, char out[ADDRESS_TEXT_MAX]);
bool svc_address_is_v4(const struct svc_address *a);
bool svc_address_is_loopback(const struct svc_address *a);

/* The name of a backend that was given none: its address. */
void svc_backend_name_default(const struct svc_backend *b, char out[SVC_NAME_MAX + 1]);

static inline bool svc_backend_is_unix(const struct svc_backend *b)
{
    return b->unix_path[0] != '\0';
}

bool svc_unix_path_valid(const char *path);

/* Whether the kernel's programs can see it. A Unix socket they cannot, nor a loopback address: no packet with
 * such an address crosses a device, so neither probes nor evidence would ever come. */
static inline bool svc_backend_in_kernel(const struct svc_backend *b)
{
    return !svc_backend_is_unix(b) && !svc_address_is_loopback(&b->address);
}

/* What a kind's way in and way to backends are, unless something else is said: s->tls and s->proxy. */
void svc_proxy_init(struct svc *s);

/* Whether a path: proxy service goes together. 0, or -EINVAL with what is wrong and what to do. */
int svc_proxy_check(const struct svc *s, char err[SVC_ERROR_MAX]);

/* Judges a whole. 0, or -EINVAL with what is wrong and what to do. */
int svc_check(const struct svc *s, char err[SVC_ERROR_MAX]);
int svc_backend_check(const struct svc *s, const struct svc_backend *b, char err[SVC_ERROR_MAX]);

/* Reads tls.names. 0 or -EINVAL. */
int svc_names_parse(const char *text, char out[SVC_NAMES_MAX + 1]);

/* The next name of a list, which moves on; false at its end. */
bool svc_names_next(const char **list, char out[PLAN_DOMAIN_MAX]);

/* Whether s can be at the address of another one, but for a name that both have. 0, or -EINVAL with why not.
 */
int svc_share_check(const struct svc *s, const struct svc *other, char err[SVC_ERROR_MAX]);

/* Says that another service has a name of s. */
void svc_name_taken(const struct svc *s, const char *name, const char *owner, char err[SVC_ERROR_MAX]);

/* Whether the addresses and names of all services go together. 0, or -EINVAL with what is wrong. */
int svc_table_addresses_check(const struct svc_table *t, char err[SVC_ERROR_MAX]);

/* The text of the HTTP check's request into out, padded to a multiple of 4 bytes. Returns its length, 0 if it
 * does not fit cap. */
size_t svc_check_request(const struct svc *s, char *out, size_t cap);

/* The kind of a service's check as the kernel has it: where backends speak TLS for certain, tcp means tls. */
enum svc_check_kind svc_check_kind(const struct svc *s);

/* Probes a second that one backend of the service costs a host, rounded up. */
uint32_t svc_probes_per_s(const struct svc *s);

/* Whether two say the same, but for what the state gives. */
bool svc_same(const struct svc *a, const struct svc *b);
bool svc_backend_same(const struct svc_backend *a, const struct svc_backend *b);

const char *svc_kind_name(unsigned kind);
const char *svc_admin_name(unsigned admin);
const char *svc_origin_name(unsigned origin);

/* In the table; NULL if it is not there. */
const struct svc *svc_find(const struct svc_table *t, const char *name);
const struct svc *svc_find_id(const struct svc_table *t, uint32_t id);
const struct svc_backend *svc_find_backend(const struct svc_table *t, const struct svc *s, const char *name);
void svc_table_fini(struct svc_table *t);

/* The bytes of a command, with a version of their own. A reader that finds another version, or a value out of
 * its range, fails. */
void svc_put(struct wire_writer *w, const struct svc *s);
void svc_get(struct wire_reader *r, struct svc *s);
void svc_backend_put(struct wire_writer *w, const struct svc_backend *b);
void svc_backend_get(struct wire_reader *r, struct svc_backend *b);

/* The bytes of a row: what the state gives, too. */
void svc_row_put(struct wire_writer *w, const struct svc *s);
void svc_row_get(struct wire_reader *r, struct svc *s);
void svc_backend_row_put(struct wire_writer *w, const struct svc_backend *b);
void svc_backend_row_get(struct wire_reader *r, struct svc_backend *b);

#endif
