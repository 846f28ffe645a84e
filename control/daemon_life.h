/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the daemon: its life (start and end) and what it does in between. */
#ifndef FL_CONTROL_DAEMON_LIFE_H
#define FL_CONTROL_DAEMON_LIFE_H

#include "control/daemon.h"

/* daemon_life.c: ends everything; the loop then runs out. */
void daemon_life_close(struct daemon *d);

/* daemon.c, daemon_state.c */
extern const struct supervise_handlers daemon_supervise_handlers;
extern const struct cluster_handlers daemon_cluster_handlers;
void daemon_setting_load(void *arg, const char *key, size_t key_len, const char *value, size_t value_len);
void daemon_on_log_timer(uv_timer_t *timer);
void daemon_on_second_timer(uv_timer_t *timer);
bool daemon_drain_logs(struct daemon *d);
void daemon_reload(struct daemon *d);

#endif
