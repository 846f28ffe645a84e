/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file: what an operator wrote, checked and with defaults filled in. Reading it touches
 * nothing but the file; whether users exist or addresses can be bound is found out at start.
 *
 * The values under `settings:` are initial values: one that was changed at run time is in the state and wins.
 */
#ifndef FL_CONTROL_CONFIG_H
#define FL_CONTROL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "control/config_certificates.h"
#include "control/config_services.h"
#include "control/config_credentials.h"
#include "control/config_sources.h"
#include "control/state/mirror.h"
#include "control/state/policy.h"
#include "control/settings.h"
#include "limits.h"
#include "plan.h"

enum {
    CONFIG_FILE_BYTES_MAX = 1 << 20,
    CONFIG_ERRORS_MAX = 32,   /* reported at once; what is over it is counted */
    CONFIG_ERROR_BYTES = 512, /* one of them, cut */
    CONFIG_EXCLUDES_MAX = 32, /* patterns of devices */
    CONFIG_LISTEN_MAX = 64,
    CONFIG_GROUPS_MAX = 16,
    CONFIG_CLUSTER_LISTEN_MAX = 8,
};

/* A listening address. The text is canonical: "127.0.0.1:5000", "[::1]:5000". */
struct config_address {
    char text[ADDRESS_TEXT_MAX];
    struct sockaddr_storage addr;
    socklen_t addr_len;
    enum service_kind service; /* 0: not known (yet); SERVICE_PROXY: one of the state, at that place */
    uint16_t place;            /* of a plan */
    bool allow_all;            /* the operator said that everybody may use it; always true for loopback */
    struct plan_tls tls;       /* of the registry or admin */
};

/* The section `kernel`. */
struct config_kernel {
    bool given;     /* the file has it: the kernel half is wanted, even without services */
    char *instance; /* "default" */
    char *cgroup;   /* NULL: the root of cgroup2 */
    char *exclude[CONFIG_EXCLUDES_MAX];
    size_t exclude_count;
    char *xdp[CONFIG_EXCLUDES_MAX];
    size_t xdp_count;
};

/* The section `cluster`. Without addresses to listen on, the node is a cluster of one. */
struct config_cluster {
    char *name; /* of this node; NULL: the host's */
    struct config_address listen[CONFIG_CLUSTER_LISTEN_MAX];
    size_t listen_count;
    struct config_address advertise;      /* where other nodes find it; addr_len 0: nowhere */
    struct config_address data_advertise; /* where they fetch blobs: as advertised, the next port */
};

struct config {
    char *state_dir;
    char *run_dir;
    struct config_address listen[CONFIG_LISTEN_MAX]; /* the admin address is the last of them */
    size_t listen_count;
    char *control_socket;
    char *control_group;
    char *dataplane_user;                     /* NULL: fairlead if there is such a user, else nobody */
    char *dataplane_binary;                   /* NULL: beside fairleadd's own binary */
    uint32_t dataplane_rings;                 /* 0: one per CPU */
    char *dataplane_group[CONFIG_GROUPS_MAX]; /* supplementary ones of its process */
    size_t dataplane_group_count;
    bool store_shared; /* other replicas have the same store */
    char *log_access;  /* a path, "stdout" or "none" */
    char *log_error;   /* a path or "stderr" */
    struct setting_values settings;
    struct config_kernel kernel;
    struct config_cluster cluster;
    struct config_services services;
    struct config_certificates certificates;
    struct config_credentials credentials;
    struct config_sources sources;
    struct policy_table policies;
    struct mirror_table mirrors; /* of a file of changes */
};

/* Errors as "FILE:LINE:COL: what is wrong; what to write instead", a line each. */
struct config_report {
    char *lines[CONFIG_ERRORS_MAX];
    size_t count; /* of lines */
    size_t more;  /* errors beyond them */
};

/* What stands where no file says otherwise. state_dir may be NULL. The caller calls config_fini. */
void config_init(struct config *config, const char *state_dir);
void config_fini(struct config *config);

/* Another state folder than the file's. 0, or -EINVAL for an empty one. */
int config_set_state(struct config *config, const char *state_dir);

/* Gives run_dir and control_socket their defaults where the file left them out: /run/fairlead for a
 * privileged daemon, a folder in the state for another. 0, or -ENAMETOOLONG if the socket's path does not fit
 * an address. */
int config_fill_paths(struct config *config, bool privileged);

/*
 * Reads YAML text over an initialized config; `name` stands in the errors. 0, or -EINVAL with at least one
 * line in the report; config may then hold a part of the file and is good for config_fini alone.
 */
int config_parse(struct config *config, const char *name, const char *text, size_t len,
                 struct config_report *report);

/* The same from a file, which may be missing or unreadable: that is a line of the report too. */
int config_read(struct config *config, const char *path, struct config_report *report);

/* Which sections a file of changes has. */
struct config_changes {
    bool services, settings, policies, mirrors, sources;
};

/* A file of changes: the sections `services`, `settings`, `policies`, `sources`, in the same grammar, and
 * `mirrors`. The rest of config stays as it is. */
int config_parse_changes(struct config *config, const char *name, const char *text, size_t len,
                         struct config_changes *given, struct config_report *report);

void config_kernel_fini(struct config_kernel *kernel);
void config_cluster_fini(struct config_cluster *cluster);

void config_report_fini(struct config_report *report);

/* "127.0.0.1:5000" or "[::1]:5000" into text, addr and addr_len. 0 or -EINVAL with what to write in *hint. */
int config_address_parse(const char *text, struct config_address *out, const char **hint);

/* The address to which a socket is bound, of no service. 0 or -errno. */
int config_address_of_socket(int fd, struct config_address *out);

/* The address to which it is connected, likewise. */
int config_address_of_peer(int fd, struct config_address *out);

/* Whether the address cannot be reached from another machine. */
bool config_address_is_loopback(const struct config_address *address);

#endif
