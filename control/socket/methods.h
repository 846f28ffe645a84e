/* SPDX-License-Identifier: Apache-2.0 */
/* The methods of the control socket; their context is the daemon. */
#ifndef FL_CONTROL_METHODS_H
#define FL_CONTROL_METHODS_H

#include "control/socket/rpc.h"

extern const struct rpc_method methods[];
extern const size_t methods_count;

/* methods_settings.c */
void method_settings_get(void *context, struct rpc_call *call, json_t *params);
void method_settings_list(void *context, struct rpc_call *call, json_t *params);
void method_settings_set(void *context, struct rpc_call *call, json_t *params);
void method_settings_unset(void *context, struct rpc_call *call, json_t *params);

/* methods_registry.c */
void method_repo_list(void *context, struct rpc_call *call, json_t *params);
void method_repo_tags(void *context, struct rpc_call *call, json_t *params);
void method_repo_delete(void *context, struct rpc_call *call, json_t *params);
void method_repo_create(void *context, struct rpc_call *call, json_t *params);
void method_tag_delete(void *context, struct rpc_call *call, json_t *params);

/* methods_policy.c */
void method_policy_list(void *context, struct rpc_call *call, json_t *params);
void method_policy_show(void *context, struct rpc_call *call, json_t *params);
void method_policy_set(void *context, struct rpc_call *call, json_t *params);
void method_policy_delete(void *context, struct rpc_call *call, json_t *params);

void method_policy_retention(void *context, struct rpc_call *call, json_t *params);

/* methods_notify.c */
void method_notify_list(void *context, struct rpc_call *call, json_t *params);
void method_notify_set(void *context, struct rpc_call *call, json_t *params);
void method_notify_delete(void *context, struct rpc_call *call, json_t *params);
void method_notify_test(void *context, struct rpc_call *call, json_t *params);

/* methods_mirror.c */
void method_mirror_list(void *context, struct rpc_call *call, json_t *params);
void method_mirror_set(void *context, struct rpc_call *call, json_t *params);
void method_mirror_delete(void *context, struct rpc_call *call, json_t *params);
void method_mirror_run(void *context, struct rpc_call *call, json_t *params);
void method_source_list(void *context, struct rpc_call *call, json_t *params);
void method_source_set(void *context, struct rpc_call *call, json_t *params);
void method_source_delete(void *context, struct rpc_call *call, json_t *params);
void method_source_test(void *context, struct rpc_call *call, json_t *params);
/* methods_gc.c */
void method_gc_run(void *context, struct rpc_call *call, json_t *params);
void method_gc_status(void *context, struct rpc_call *call, json_t *params);

/* methods_kernel.c */
void method_kernel_status(void *context, struct rpc_call *call, json_t *params);
void method_kernel_detach(void *context, struct rpc_call *call, json_t *params);

/* methods_certificates.c */
void method_certificate_list(void *context, struct rpc_call *call, json_t *params);
void method_certificate_reload(void *context, struct rpc_call *call, json_t *params);

/* methods_services.c */
void method_service_list(void *context, struct rpc_call *call, json_t *params);
void method_service_show(void *context, struct rpc_call *call, json_t *params);
void method_service_set(void *context, struct rpc_call *call, json_t *params);
void method_service_delete(void *context, struct rpc_call *call, json_t *params);
void method_backend_list(void *context, struct rpc_call *call, json_t *params);
void method_backend_show(void *context, struct rpc_call *call, json_t *params);
void method_backend_set(void *context, struct rpc_call *call, json_t *params);
void method_backend_admin(void *context, struct rpc_call *call, json_t *params);
void method_backend_delete(void *context, struct rpc_call *call, json_t *params);

/* methods_nodes.c */
void method_node_list(void *context, struct rpc_call *call, json_t *params);
void method_node_set(void *context, struct rpc_call *call, json_t *params);
void method_node_join(void *context, struct rpc_call *call, json_t *params);
void method_node_delete(void *context, struct rpc_call *call, json_t *params);
void method_cluster_show(void *context, struct rpc_call *call, json_t *params);
void method_cluster_set(void *context, struct rpc_call *call, json_t *params);

/* methods_ca.c */
struct daemon;
void method_cluster_rotate_ca(void *context, struct rpc_call *call, json_t *params);
json_t *methods_ca_json(struct daemon *d);
void methods_ca_warn(struct daemon *d, json_t *warnings);

/* methods_apply.c */
void method_apply(void *context, struct rpc_call *call, json_t *params);

/* methods_backup.c */
void method_backup_create(void *context, struct rpc_call *call, json_t *params);
void method_backup_status(void *context, struct rpc_call *call, json_t *params);

/* methods_import.c */
void method_blob_import(void *context, struct rpc_call *call, json_t *params);

/* methods_blobs.c */
void method_blob_verify(void *context, struct rpc_call *call, json_t *params);
void method_store_accept(void *context, struct rpc_call *call, json_t *params);
void method_blobs_stop(struct daemon *d); /* the calls that wait are answered: the daemon stops */
json_t *blobs_status(const struct daemon *d);
json_t *gc_json(const struct daemon *d);

/* methods_tokens.c */
void method_token_create(void *context, struct rpc_call *call, json_t *params);
void method_token_list(void *context, struct rpc_call *call, json_t *params);
void method_token_delete(void *context, struct rpc_call *call, json_t *params);

/* methods_status.c */
void method_status(void *context, struct rpc_call *call, json_t *params);
void method_version(void *context, struct rpc_call *call, json_t *params);
void method_top(void *context, struct rpc_call *call, json_t *params);
void method_metrics(void *context, struct rpc_call *call, json_t *params);
void method_plan_show(void *context, struct rpc_call *call, json_t *params);

#endif
