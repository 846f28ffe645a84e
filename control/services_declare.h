/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What has to be proposed so that the state says what the configuration file says, in order: what the file
 * does not name any more goes first, then services, then their backends. Pure.
 *
 * A backend whose address changes is removed and made again, so that two can change places.
 */
#ifndef FL_CONTROL_SERVICES_DECLARE_H
#define FL_CONTROL_SERVICES_DECLARE_H

#include <stddef.h>

#include "control/state/service.h"

/* Takes cmd (malloc'd): one command. what says it in words, borrowed until the return. */
typedef void (*declare_command)(void *arg, void *cmd, size_t len, const char *what);

/* Returns how many commands were made; 0: the state says it already. */
size_t services_declare_diff(const struct svc_table *state, const struct svc_table *file,
                             declare_command each, void *arg);

/* The commands, malloc'd, in the name of actor and source. Names must be ascending. */
void *services_cmd_set(const char *actor, const char *source, const struct svc *s, uint64_t revision,
                       size_t *len);
void *services_cmd_rm(const char *actor, const char *source, const char *service, enum svc_origin origin,
                      size_t *len);
void *services_cmd_backends(const char *actor, const char *source, const char *service, uint64_t revision,
                            const struct svc_backend *b, size_t count, size_t *len);
/* type: CMD_BACKEND_RM with an origin, CMD_BACKEND_ADMIN with an enum svc_admin. */
void *services_cmd_names(const char *actor, const char *source, int type, const char *service, uint8_t what,
                         const char *const *name, size_t count, size_t *len);

#endif
