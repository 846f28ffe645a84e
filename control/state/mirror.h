/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules of mirroring: what is copied between this registry and another one, which way, and when. Rows of the
 * private file ("mirror:NAME"). A rule has no secret in it: credentials and CAs are files of the node that
 * does the work, and the rule has their paths. Nor has the state any progress: what is there on both sides
 * says it. Fields by name are what the socket, the CLI, files and the manual have. Pure.
 */
#ifndef FL_STATE_MIRROR_H
#define FL_STATE_MIRROR_H

#include "control/state/kv.h"
#include "limits.h"
#include "wire.h"

enum {
    MIRROR_NAME_MAX = 63,
    MIRROR_URL_MAX = 255,
    MIRROR_PATH_MAX = 255,
    MIRROR_TEXT_MAX = 512,
    MIRROR_ERROR_MAX = 256,
    MIRROR_EVERY_MIN_S = 5,
    MIRROR_PARALLEL_MAX = 16,
    MIRROR_PARALLEL = 4,
};

struct mirror_rule {
    char name[MIRROR_NAME_MAX + 1];
    bool push;                        /* from here to there; else the other way */
    bool on_event;                    /* of a push: each change here begins one, about what has changed */
    bool referrers;                   /* signatures and whatever else refers to what is copied comes along */
    bool paused;                      /* neither by schedule nor by event */
    char url[MIRROR_URL_MAX + 1];     /* of the other registry, without a path */
    char repos[PATTERN_TEXT_MAX + 1]; /* patterns of the source's repositories */
    char tags[PATTERN_TEXT_MAX + 1];  /* patterns, or an extended regular expression behind '~' */
    char strip[REPO_NAME_MAX + 1];    /* goes from the front of the source's names */
    char prefix[REPO_NAME_MAX + 1];   /* comes before them */
    char credentials[MIRROR_PATH_MAX + 1]; /* a file, USER:PASSWORD in its first line; empty: none */
    char ca[MIRROR_PATH_MAX + 1];          /* a file, PEM; empty: the system's CAs */
    uint64_t every_s;                      /* 0: not by itself */
    uint64_t rate;                         /* bytes of blobs a second; 0: as they come */
    uint32_t parallel;                     /* transfers at the same time */
    bool declared;                         /* by the configuration file, which alone may change it */
    /* Of the row. */
    uint64_t revision, created_ms, updated_ms;
};

struct mirror_table {
    struct mirror_rule *list; /* names ascending */
    size_t count;
};

/* A rule that has its name and what stands where nobody says otherwise. name: may be too long, and is no
 * rule's then (mirror_check). */
void mirror_init(struct mirror_rule *m, const char *name);
void mirror_table_fini(struct mirror_table *t);
struct mirror_rule *mirror_find(const struct mirror_table *t, const char *name);
void mirror_table_add(struct mirror_table *t, const struct mirror_rule *m);

/* 0, -ENOENT for a field that is not there, -EINVAL with a text in err. An empty text: the default. */
int mirror_field_set(struct mirror_rule *m, const char *key, const char *text, char err[MIRROR_ERROR_MAX]);
/* The canonical text of a field, "" for one that says nothing; NULL for one that is not there. */
const char *mirror_field_text(const struct mirror_rule *m, const char *key, char out[MIRROR_TEXT_MAX]);
size_t mirror_field_count(void);
const char *mirror_field_key(size_t i);

/* Whether it can be: 0, or -EINVAL with what is wrong in err. */
int mirror_check(const struct mirror_rule *m, char *err, size_t err_len);

/* Whether both say the same, whoever says it. */
bool mirror_same(const struct mirror_rule *a, const struct mirror_rule *b);

void mirror_put(struct wire_writer *w, const struct mirror_rule *m);
void mirror_get(struct wire_reader *r, struct mirror_rule *m);

/* CMD_MIRROR_SET and CMD_MIRROR_RM, malloc'd; declared: in the name of the configuration file. */
void *mirror_cmd_set(const char *actor, const char *source, const struct mirror_rule *m, size_t *len);
void *mirror_cmd_rm(const char *actor, const char *source, const char *name, bool declared, size_t *len);

/* All of the state. 0 or -errno; mirror_table_fini in any case. */
int state_mirrors_read(struct kv *kv, struct mirror_table *out);

#endif
