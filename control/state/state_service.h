/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of services in PRIVATE_DATA. SERVICE and BACKEND are names, | is a NUL byte, ADDRESS is the 16 bytes
 * of the address and the port, ID 4 bytes, numbers in keys big-endian.
 *
 *   "service:SERVICE"             -> svc_row_put
 *   "service-at:ADDRESS"          -> SERVICE: an address belongs to one service that has no names,
 *   "service-name:ADDRESS NAME"   -> SERVICE: and each name of tls.names there to one (no blank between)
 *   "backend:SERVICE|BACKEND"     -> svc_backend_row_put
 *   "backend-at:SERVICE|ADDRESS"  -> BACKEND: a service has an address once
 *   "service-free:ID"             -> nothing: an id below counts.next_service that is not in use
 *   "backend-free:ID"             -> u16 the generation it had last
 *   "service-counts"              -> struct state_counts
 */
#ifndef FL_STATE_SERVICE_ROWS_H
#define FL_STATE_SERVICE_ROWS_H

#include "state_internal.h"

struct state_counts {
    uint32_t next_service; /* lowest id that was never used; ids begin at 1 */
    uint32_t next_backend; /* the same; from 0 */
    uint32_t services, backends;
};

struct state_key state_key_service(const char *name);
struct state_key state_key_service_at(const struct svc_address *a);
struct state_key state_key_service_name(const struct svc_address *a, const char *name); /* "": before all */
struct state_key state_key_backend(const char *service, const char *name);
struct state_key state_key_backend_at(const char *service, const struct svc_address *a);

int state_counts_get(struct kv *kv, struct state_counts *out);
int state_counts_put(struct kv *kv, const struct state_counts *counts);

/* -ENOENT if there is none, -EUCLEAN for a row that cannot be read. */
int state_service_get(struct kv *kv, const char *name, struct svc *out);
int state_service_put(struct kv *kv, const struct svc *s);
int state_backend_get(struct kv *kv, const char *service, const char *name, struct svc_backend *out);
int state_backend_put(struct kv *kv, const char *service, const struct svc_backend *b);

/* The first backend of the service behind `name` ("": the first). -ENOENT behind the last. */
int state_backend_next(struct kv *kv, const char *service, const char *name, struct svc_backend *out);

/* The lowest free id. Counts are changed, and written by the caller. -ENOSPC if there is none: the caller has
 * looked. */
int state_service_id_take(struct kv *kv, struct state_counts *counts, uint32_t *id);
int state_service_id_give(struct kv *kv, struct state_counts *counts, uint32_t id);
int state_backend_id_take(struct kv *kv, struct state_counts *counts, uint32_t *id, uint16_t *generation);
int state_backend_id_give(struct kv *kv, struct state_counts *counts, uint32_t id, uint16_t generation);

/* Removes a backend's rows and gives its id back; the service's row is the caller's. */
int state_backend_drop(struct kv *kv, const char *service, const struct svc_backend *b,
                       struct state_counts *counts);

/* The command's service, NUL-terminated (state_parse_service checked it). */
void state_service_name(const struct state_cmd *cmd, char out[SVC_NAME_MAX + 1]);

/* Reads the service or refuses with CMD_SERVICE_UNKNOWN (-ENOENT). */
int state_service_need(struct kv *kv, const struct state_cmd *cmd, struct svc *s, struct state_event *out);

/* Where clients find a service: its address, or its names there. Whether nobody else has them: 0, -EEXIST
 * (refused), -errno. */
int state_place_check(struct kv *kv, const struct svc *s, struct state_event *out);
/* From what it was (id 0: nothing) to what it is. */
int state_place_move(struct kv *kv, const struct svc *old, const struct svc *s);
int state_place_drop(struct kv *kv, const struct svc *s);

/* The generation after this one; 0 is none. */
uint16_t state_generation_next(uint16_t generation);

/* Refuses with a text. Always 0. */
__attribute__((format(printf, 3, 4))) int state_refuse_format(struct state_event *out, enum cmd_status status,
                                                              const char *format, ...);

#endif
