/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the readers of the configuration file: YAML nodes into values, and errors with their place. A
 * reader of a mapping is a table of keys with a function each; nothing stops at the first error.
 */
#ifndef FL_CONTROL_CONFIG_YAML_H
#define FL_CONTROL_CONFIG_YAML_H

#include <yaml.h>

#include "control/config.h"

struct cfg_reader {
    yaml_document_t doc;
    struct config *config;
    struct config_report *report;
    const char *name;
    struct config_changes *changes; /* it is a file of changes; NULL: the configuration */
    const yaml_node_t *listen;      /* of the file, NULL if it has none */
    size_t listen_count;            /* registry addresses read */
    const yaml_node_t *takeover;
    const yaml_node_t *sources;
    struct cfg_certificate_use *uses; /* names that have to be certificates */
};

struct cfg_key_row {
    const char *name;
    void (*read)(struct cfg_reader *r, const yaml_node_t *value, void *target);
};

/* A copy, never NULL; and in place of what is there. */
char *cfg_text_copy(const char *text);
void cfg_text_set(char **field, const char *text);

__attribute__((format(printf, 5, 6))) void cfg_report(struct config_report *report, const char *name,
                                                      size_t line, size_t column, const char *format, ...);

#define cfg_error(r, node, ...)                                                                              \
    cfg_report((r)->report, (r)->name, (node)->start_mark.line + 1, (node)->start_mark.column + 1,           \
               __VA_ARGS__)

/* "a list", "a mapping": for errors. */
const char *cfg_kind_name(const yaml_node_t *node);
const char *cfg_scalar(const yaml_node_t *node);

/* The text of a scalar that is neither empty nor has a NUL or a control character in it; NULL after a report.
 */
const char *cfg_text(struct cfg_reader *r, const yaml_node_t *node, const char *example);
/* The same; of a list its items with commas between them, in `out`, which is "" for an empty one. */
const char *cfg_list_text(struct cfg_reader *r, const yaml_node_t *node, const char *example, char *out,
                          size_t cap);
bool cfg_bool(struct cfg_reader *r, const yaml_node_t *node, bool *out);
void cfg_path(struct cfg_reader *r, const yaml_node_t *node, char **field, const char *example);

/* The key of a pair as a scalar node that is not a repetition, or NULL after a report. */
const yaml_node_t *cfg_key(struct cfg_reader *r, const yaml_node_t *mapping, const yaml_node_pair_t *pair);

/* Calls the function of each key that is there; false: it is no mapping. `where` is for errors. */
bool cfg_mapping(struct cfg_reader *r, const yaml_node_t *node, const char *where,
                 const struct cfg_key_row *keys, size_t count, void *target);

/* config_sources.c: the section. Names of credentials are looked up when all was read. */
void cfg_sources(struct cfg_reader *r, const yaml_node_t *node, void *target);
void cfg_sources_finish(struct cfg_reader *r);

/* config_credentials.c: the section. */
void cfg_credentials(struct cfg_reader *r, const yaml_node_t *node, void *target);

/* config_policies.c: the section. */
void cfg_policies(struct cfg_reader *r, const yaml_node_t *node, void *target);

/* config_mirrors.c: the section. */
void cfg_mirrors(struct cfg_reader *r, const yaml_node_t *node, void *target);

/* config_cluster.c: where other replicas fetch blobs, behind the addresses of the registry. */
void cfg_cluster_listen(struct cfg_reader *r);

/* config_kernel.c: the section `kernel`. */
void cfg_kernel(struct cfg_reader *r, const yaml_node_t *node, void *target);

/* config_cluster.c: the section `cluster`. */
void cfg_cluster(struct cfg_reader *r, const yaml_node_t *node, void *target);

/* config_certificates.c: the section, and `tls` of an address. Names are looked up when all was read. */
void cfg_certificates(struct cfg_reader *r, const yaml_node_t *node, void *target);
void cfg_tls(struct cfg_reader *r, const yaml_node_t *node, struct plan_tls *tls);
void cfg_certificates_finish(struct cfg_reader *r);

/* config_services.c: the sections of these names. Takeover names peers: it is read when all else was. */
void cfg_services(struct cfg_reader *r, const yaml_node_t *node, void *target);
void cfg_peers(struct cfg_reader *r, const yaml_node_t *node, void *target);
void cfg_takeover(struct cfg_reader *r, const yaml_node_t *node, void *target);
/* After `listen` is known: a proxied service has an address of its own. */
void cfg_services_finish(struct cfg_reader *r);
void cfg_takeover_finish(struct cfg_reader *r);

#endif
