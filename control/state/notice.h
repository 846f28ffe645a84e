/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Webhooks: endpoints, and notices of what happened that wait in the names file until each endpoint was told
 * of them. A notice is written by the command that it is about, in the same transaction, so that there is one
 * for each committed change and on every node. Whoever leads tells the endpoints, in the order of the log,
 * and commits how far it is; a new leader goes on from there. Pure.
 */
#ifndef FL_STATE_NOTICE_H
#define FL_STATE_NOTICE_H

#include "control/state/kv.h"
#include "digest.h"
#include "pull.h"
#include "wire.h"

enum {
    ENDPOINT_NAME_MAX = 63,
    ENDPOINT_URL_MAX = 1024,
    ENDPOINT_HEADERS_MAX = 16,
    ENDPOINT_HEADER_MAX = 4096, /* bytes of "Name: value" */
    ENDPOINT_CA_MAX = 16 << 10,
    ENDPOINT_VERSION = 1,
};

/* Pulls are in no state: each node tells of its own (control/pulls.h). An endpoint has to ask for them. */
enum notice_action { NOTICE_PUSH, NOTICE_DELETE, NOTICE_MOUNT, NOTICE_PULL, NOTICE_ACTIONS_COUNT };
extern const char *const notice_actions[NOTICE_ACTIONS_COUNT];

enum {
    ENDPOINT_ACTIONS = (1 << NOTICE_ACTIONS_COUNT) - 1,
    ENDPOINT_ACTIONS_DEFAULT = ENDPOINT_ACTIONS & ~(1 << NOTICE_PULL),
    /* Bits of an endpoint's actions beside these: pulls of which it is not told. */
    ENDPOINT_IGNORE_HEAD = 1 << 16,
    ENDPOINT_IGNORE_BLOB = 1 << 17,
    ENDPOINT_IGNORE = ENDPOINT_IGNORE_HEAD | ENDPOINT_IGNORE_BLOB,
};

/* What an endpoint is: the row of the names file, and what is private of it. */
struct endpoint {
    char name[ENDPOINT_NAME_MAX + 1];
    struct names_endpoint row;
    char url[ENDPOINT_URL_MAX + 1];
    uint32_t headers_count;
    char *header[ENDPOINT_HEADERS_MAX]; /* "Name: value"; malloc'd, secret */
    char *ca; /* certificates (PEM) that vouch for it, and no others; malloc'd. NULL: the host's CAs do */
    /* Name of credentials of the configuration file of whoever sends; empty: none. "{password}" in the URL
     * and in headers is that password then; where it is in none of them, Authorization has both (Basic). */
    char credentials[ENDPOINT_NAME_MAX + 1];
};

struct endpoint_table {
    struct endpoint *list; /* names ascending */
    size_t count;
    struct names_notices queue;
};

void endpoint_fini(struct endpoint *e);
void endpoint_table_fini(struct endpoint_table *t);
const struct endpoint *endpoint_find(const struct endpoint_table *t, const char *name);

/* Whether it can be: 0, or -EINVAL with what is wrong in err. */
int endpoint_check(const struct endpoint *e, char *err, size_t err_len);
bool endpoint_name_valid(const char *name, size_t len);

/* CMD_NOTIFY_SET: version, name, actions, prefix, media types, URL, u32 count of headers, each: bytes; from
 * version 2 on bytes ca, from 3 on bytes credentials. The reader allocates headers and ca: endpoint_fini. */
void endpoint_put(struct wire_writer *w, const struct endpoint *e);
void endpoint_get(struct wire_reader *r, struct endpoint *e);

/* A position in the order of notices. */
struct notice_at {
    uint64_t index;
    uint32_t number;
};

static inline int notice_compare(struct notice_at a, struct notice_at b)
{
    if (a.index != b.index)
        return a.index < b.index ? -1 : 1;
    return a.number < b.number ? -1 : a.number > b.number;
}

/* One notice; views into the bytes that it was read from. */
struct notice_text {
    const char *data;
    size_t len;
};
struct notice {
    struct notice_at at;
    uint64_t time_ms;
    uint8_t action; /* enum notice_action */
    struct notice_text repo, tag, from, media_type, actor, source, request_id;
    struct digest digest; /* DIGEST_NONE: it is about a tag, or a repository */
    uint64_t size;
};

void notice_put(struct wire_writer *w, const struct notice *n);
/* -EUCLEAN for what is no notice. */
int notice_get(const void *data, size_t len, struct notice *n);

/* Whether the endpoint wants to be told of it. */
bool notice_wanted(const struct names_endpoint *e, const struct notice *n);
bool notice_pull_wanted(const struct names_endpoint *e, const struct pull *p);

/* Whether it has something that older nodes do not know: they would refuse the command. */
static inline bool endpoint_is_new(const struct endpoint *e)
{
    return e->credentials[0] || (e->row.actions & ~(uint32_t)ENDPOINT_ACTIONS_DEFAULT) != 0;
}

/* All endpoints, with their secrets. 0 or -errno; endpoint_table_fini. */
int state_endpoints_read(struct kv *kv, struct endpoint_table *out);

/* The first notice behind a position; views are good until the transaction changes or ends. -ENOENT. */
int state_notice_next(struct kv *kv, struct notice_at after, struct notice *out);

#endif
