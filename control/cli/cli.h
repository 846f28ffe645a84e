/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands of `fairlead` share. */
#ifndef FL_CLI_H
#define FL_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <jansson.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, ARGUMENTS_MAX = 64, OPTION_BITS = 32 };

#define SOCKET_DEFAULT "/run/fairlead/control.sock"

/* A bit for each option that some command has. */
enum option {
    OPTION_JSON = 1 << 0,
    OPTION_SOCKET = 1 << 1,
    OPTION_HELP = 1 << 2,
    OPTION_WATCH = 1 << 3,
    OPTION_ALL = 1 << 4,
    OPTION_FOLLOW = 1 << 5,
    OPTION_FILTER = 1 << 6,
    OPTION_LIMIT = 1 << 7,
    OPTION_YES = 1 << 8,
    OPTION_ONCE = 1 << 9,
    OPTION_FORCE = 1 << 10,
    OPTION_NAME = 1 << 11,
    OPTION_ROLE = 1 << 12,
    OPTION_AVAILABILITY = 1 << 13,
    OPTION_REPLICA = 1 << 14,
    OPTION_COPIES = 1 << 15,
    OPTION_COPIES_MIN = 1 << 16,
    OPTION_EXPIRES = 1 << 17,
    OPTION_ROTATE = 1 << 18,
    OPTION_FILE = 1 << 19,
    OPTION_DRY_RUN = 1 << 20,
    OPTION_PRUNE = 1 << 21,
    OPTION_TOKEN = 1 << 22,
    OPTION_BLOBS = 1 << 23,
    OPTION_VERIFY = 1 << 24,
    OPTION_STATE = 1 << 25,
    OPTION_PASSPHRASE = 1 << 26,
    OPTION_REGISTRY = 1 << 27,
    OPTION_PROGRESS = 1 << 28,
    OPTIONS_EVERYWHERE = OPTION_JSON | OPTION_SOCKET | OPTION_HELP,
};

/* The command line, taken apart. */
struct cli {
    const struct command *command;
    unsigned options; /* bits that were given */
    const char *socket, *filter;
    long limit;                     /* 0: not given */
    const char *value[OPTION_BITS]; /* of options that have one, by the place of their bit */
    const char *argument[ARGUMENTS_MAX];
    size_t argument_count;
    bool terminal; /* standard output is one */
};

struct command {
    const char *name;      /* "repo ls" */
    const char *arguments; /* "REPOSITORY", "[REPOSITORY]", "NAME...": as shown, and counted */
    unsigned options;      /* beside those everywhere */
    const char *summary;   /* one line */
    const char *details;   /* more, or NULL */
    int (*run)(struct cli *cli);
};

struct option_info {
    enum option bit;
    const char *name;  /* without the dashes */
    const char *value; /* NULL: a flag */
    const char *text;
};

extern const struct command commands[];
extern const size_t command_count;
extern const struct option_info option_infos[];
extern const size_t option_count;

/* One line on standard error. Returns EXIT_FAILED. */
int cli_fail(const char *text);

/* The value of an option, NULL if it was not given. */
const char *cli_value(const struct cli *cli, enum option option);

/* Asks and returns the result (a reference), or NULL after the error was printed. Takes params. */
json_t *cli_ask(const struct cli *cli, const char *method, json_t *params);

/* Asks on a terminal whether `what` is to be deleted. A script has said what it wants. */
bool cli_is_meant(const struct cli *cli, const char *what);

/* KEY=VALUE arguments from the `from`th on as an object; NULL after an error was printed. */
json_t *cli_take_fields(const struct cli *cli, size_t from, const char *example);

/* Prints an answer as JSON: indented on a terminal, else in one line. */
void cli_print_json(const struct cli *cli, const json_t *value);

/* What an answer warns of, on standard error. */
void cli_print_notes(const json_t *answer);

/* Ends a command: prints the answer (taken; NULL: it was printed why not) as JSON, or `done` with its notes.
 * The exit code. */
int cli_finish(const struct cli *cli, json_t *answer, const char *done);

/*
 * Shows an answer (taken; NULL: it was printed why there is none) as JSON, or the rows of its array `list` as
 * a table. The exit code.
 */
struct table;
typedef void (*cli_row)(struct table *table, const json_t *row);
int cli_print_list(const struct cli *cli, json_t *answer, const char *list, const char *const *titles,
                   cli_row print);

/* Fields of an answer; "" and 0 for what is missing. Strings are valid as long as the object is. */
const char *cli_text(const json_t *object, const char *key);
long long cli_number(const json_t *object, const char *key);
double cli_real(const json_t *object, const char *key);

/* cli_status.c */
int command_status(struct cli *cli);
int command_top(struct cli *cli);
int command_version(struct cli *cli);
int command_plan(struct cli *cli);
int command_metrics(struct cli *cli);
int command_shutdown(struct cli *cli);
/* cli_settings.c */
int command_get(struct cli *cli);
int command_set(struct cli *cli);
int command_unset(struct cli *cli);
/* cli_registry.c */
int command_repo_ls(struct cli *cli);
int command_repo_tags(struct cli *cli);
int command_repo_create(struct cli *cli);
int command_repo_rm(struct cli *cli);
/* cli_blobs.c */
int command_blob_verify(struct cli *cli);
int command_store_accept(struct cli *cli);
/* cli_policy.c */
int command_policy_ls(struct cli *cli);
int command_policy_show(struct cli *cli);
int command_policy_set(struct cli *cli);
int command_policy_rm(struct cli *cli);
int command_policy_retention(struct cli *cli);
/* cli_notify.c */
int command_notify_ls(struct cli *cli);
int command_notify_set(struct cli *cli);
int command_notify_rm(struct cli *cli);
int command_notify_test(struct cli *cli);
/* cli_source.c */
int command_source_ls(struct cli *cli);
int command_source_set(struct cli *cli);
int command_source_rm(struct cli *cli);
int command_source_test(struct cli *cli);

/* cli_mirror.c */
int command_mirror_ls(struct cli *cli);
int command_mirror_set(struct cli *cli);
int command_mirror_rm(struct cli *cli);
int command_mirror_run(struct cli *cli);
int command_mirror_status(struct cli *cli);
/* cli_gc.c */
int command_gc(struct cli *cli);
/* cli_services.c */
void cli_print_services(const json_t *rows);
void cli_print_backends(const json_t *rows);
int command_service_ls(struct cli *cli);
int command_service_show(struct cli *cli);
int command_service_create(struct cli *cli);
int command_service_set(struct cli *cli);
int command_service_rm(struct cli *cli);
int command_backend_ls(struct cli *cli);
int command_backend_show(struct cli *cli);
int command_backend_add(struct cli *cli);
int command_backend_set(struct cli *cli);
int command_backend_drain(struct cli *cli);
int command_backend_undrain(struct cli *cli);
int command_backend_rm(struct cli *cli);
/* cli_apply.c */
int command_apply(struct cli *cli);
/* cli_backup.c */
int command_backup_create(struct cli *cli);
int command_backup_restore(struct cli *cli);
/* cli_import.c, cli_export.c */
int command_import(struct cli *cli);
int command_export(struct cli *cli);
/* cli_nodes.c */
int command_node_ls(struct cli *cli);
int command_node_promote(struct cli *cli);
int command_node_demote(struct cli *cli);
int command_node_drain(struct cli *cli);
int command_node_active(struct cli *cli);
int command_node_set(struct cli *cli);
int command_node_rm(struct cli *cli);
int command_node_join(struct cli *cli);
int command_node_join_token(struct cli *cli);
int command_node_token_ls(struct cli *cli);
int command_node_token_rm(struct cli *cli);
int command_cluster_show(struct cli *cli);
int command_cluster_set(struct cli *cli);
int command_cluster_force_new(struct cli *cli);
/* cli_blobs.c: one line of how far the node's share of the repair is. */
enum { REPAIR_TEXT_MAX = 400 };
const char *cli_repair_text(const json_t *repair, char out[REPAIR_TEXT_MAX]);
/* cli_ca.c */
int command_cluster_rotate_ca(struct cli *cli);
void cli_print_ca(const json_t *answer); /* of cluster.show */
/* cli_stream.c */
int command_events(struct cli *cli);
int command_trace(struct cli *cli);
/* cli_kernel.c */
int command_kernel(struct cli *cli);
int command_kernel_detach(struct cli *cli);
/* cli_certificates.c */
int command_certificate_ls(struct cli *cli);
int command_certificate_reload(struct cli *cli);
/* cli_completion.c */
int command_completion(struct cli *cli);
/* main.c */
int command_help(struct cli *cli);

#endif
