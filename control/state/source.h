/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sources: which registry stands behind which repositories. Rows of the private file ("source:PREFIX"). A
 * source has no secret in it: what it shows are credentials of a name, and each node's configuration says
 * what that name means there. Fields by name are what the socket, the CLI, files and the manual have. Pure.
 */
#ifndef FL_STATE_SOURCE_H
#define FL_STATE_SOURCE_H

#include "control/state/kv.h"
#include "limits.h"
#include "plan.h"
#include "wire.h"

enum {
    SOURCE_BACKENDS_MAX = 8,
    SOURCE_BACKENDS_TEXT_MAX = SOURCE_BACKENDS_MAX * (PLAN_DOMAIN_MAX + 8),
    SOURCE_HOSTS_MAX = 16,
    SOURCE_HOSTS_TEXT_MAX = SOURCE_HOSTS_MAX * (PLAN_DOMAIN_MAX + 2),
    SOURCE_TOKEN_SERVER_MAX = 256, /* with its NUL */
    SOURCE_FIELD_MAX = SOURCE_HOSTS_TEXT_MAX + 1,
    SOURCE_ERROR_MAX = 320,
    SOURCE_PROBLEM_MAX = 512, /* a text for people: what is wrong with one on a node */
};

/* Who says it. The numbers are in the log. */
enum source_origin { SOURCE_FROM_API = 1, SOURCE_FROM_FILE = 2 };

struct source {
    char prefix[REPO_NAME_MAX + 1];   /* of our names, with its last '/' */
    char upstream[REPO_NAME_MAX + 1]; /* stands there in its place */
    char service[PLAN_NAME_MAX];      /* of the state, whose backends are asked; or: */
    char backends[SOURCE_BACKENDS_TEXT_MAX +
                  1];                  /* HOST[:PORT], with commas between them; hosts may be names */
    bool tls;                          /* spoken to them */
    char ca[PLAN_NAME_MAX];            /* by which they prove their name; "": the system's */
    char server_name[PLAN_DOMAIN_MAX]; /* that name; "": the host's */
    bool push;                         /* this registry takes pushes to such repositories all the same */
    char credentials[PLAN_NAME_MAX];   /* their name; "": none */
    char token_server[SOURCE_TOKEN_SERVER_MAX]; /* where the realms of its challenges begin; "": anywhere */
    char redirect_hosts[SOURCE_HOSTS_TEXT_MAX + 1]; /* where it may send its clients to: hosts, or *.domain */
    /* Of the row. */
    uint8_t origin; /* enum source_origin */
    uint64_t revision, created_ms, updated_ms;
};

struct source_table {
    struct source *list;
    size_t count;
};

/* One that has its prefix, and else says nothing. prefix: may be too long, and is no source's then. */
void source_init(struct source *s, const char *prefix);
void source_table_fini(struct source_table *t);
struct source *source_find(const struct source_table *t, const char *prefix);
/* At the end. */
void source_table_add(struct source_table *t, const struct source *s);

/* 0, -ENOENT for a field that is not there, -EINVAL with a text in err. An empty text: the default. */
int source_field_set(struct source *s, const char *key, const char *text, char err[SOURCE_ERROR_MAX]);
/* The text of a field, "" for one that says nothing; NULL for one that is not there. Valid as long as s is.
 */
const char *source_field_text(const struct source *s, const char *key);
size_t source_field_count(void);
const char *source_field_key(size_t i);

/* Whether it can be: 0, or -EINVAL with what is wrong in err. */
int source_check(const struct source *s, char *err, size_t err_len);

/* Whether both say the same, whoever says it. */
bool source_same(const struct source *a, const struct source *b);

const char *source_origin_name(uint8_t origin); /* "file" or "api" */

/* Of its prefix, so that it stays what it is when others come and go; never 0. */
uint64_t source_id(const struct source *s);

struct source_backend {
    char host[PLAN_DOMAIN_MAX]; /* a name, or an address without brackets */
    uint16_t port;
    bool is_address;
};

/* The next one of s->backends, from *at on, which begins at 0. False: there is none, or it is none. */
bool source_backend_next(const struct source *s, size_t *at, struct source_backend *out);

/* The next text between commas, as views into the list. False: there is none. */
bool source_item_next(const char **list, const char **item, size_t *len);

void source_put(struct wire_writer *w, const struct source *s);
void source_get(struct wire_reader *r, struct source *s);

/* CMD_SOURCE_SET and CMD_SOURCE_RM, malloc'd. revision: that it has, or CMD_REVISION_ANY. */
void *source_cmd_set(const char *actor, const char *from, uint64_t revision, enum source_origin origin,
                     const struct source *s, size_t *len);
void *source_cmd_rm(const char *actor, const char *from, enum source_origin origin, const char *prefix,
                    size_t *len);

/* All of the state, prefixes ascending. 0 or -errno; source_table_fini in any case. */
int state_sources_read(struct kv *kv, struct source_table *out);

#endif
