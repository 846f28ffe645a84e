/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/service_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/journal.h"
#include "control/settings.h"

enum { KEYS_MAX = 96, KEY_TEXT_MAX = 64 };

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static void set_time(json_t *row, const char *key, uint64_t time_ms)
{
    char text[TIME_TEXT_MAX];
    json_object_set_new(row, key, time_ms ? json_string(journal_time_text(time_ms, text)) : json_null());
}

/* What is a number or a truth in JSON is one here. */
static json_t *typed(const char *key, const char *text)
{
    switch (svc_field_form(key)) {
    case SVC_FORM_NUMBER:
        return json_integer(strtoll(text, NULL, 10));
    case SVC_FORM_TRUTH:
        return json_boolean(strcmp(text, "true") == 0);
    default:
        return json_string(text);
    }
}

/* The object of a group of fields in the row, made with its first field. Borrowed. */
static json_t *group_of(json_t *row, const char *name, size_t len)
{
    json_t *group = json_object_getn(row, name, len);
    if (!group) {
        group = json_object();
        json_object_setn_new(row, name, len, group);
    }
    return group;
}

json_t *service_json(const struct svc *s)
{
    json_t *row = json_pack("{s:s, s:o}", "name", s->name, "id", number(s->id));
    char text[SVC_TEXT_MAX];
    CHECK(row);
    for (size_t i = 0; i < svc_field_count(); i++) {
        const char *key = svc_field_key(i);
        const char *dot = strchr(key, '.');
        json_object_set_new(dot ? group_of(row, key, (size_t)(dot - key)) : row, dot ? dot + 1 : key,
                            typed(key, svc_field_text(s, key, text)));
    }
    json_object_set_new(row, "origin", json_string(svc_origin_name(s->origin)));
    json_object_set_new(row, "revision", number(s->revision));
    set_time(row, "created", s->created_ms);
    set_time(row, "updated", s->updated_ms);
    json_object_set_new(row, "backends_count", number(s->backends));
    return row;
}

/* How the last handshake ended. */
static const char *tls_text(const struct tls_check_view *v)
{
    if (v->told_ms == 0)
        return "not tried yet";
    return v->reason == ABI_PROBE_OK ? "answered" : v->why;
}

json_t *backend_json(const struct svc *s, const struct svc_backend *b, const struct backend_view *view)
{
    json_t *row = json_pack("{s:s, s:s, s:o, s:o}", "service", s->name, "name", b->name, "id", number(b->id),
                            "generation", number(b->generation));
    char text[SVC_TEXT_MAX];
    CHECK(row);
    for (size_t i = 0; i < svc_backend_field_count(); i++) {
        const char *key = svc_backend_field_key(i);
        json_object_set_new(row, key, typed(key, svc_backend_field_text(b, key, text)));
    }
    json_object_set_new(row, "admin", json_string(svc_admin_name(b->admin)));
    json_object_set_new(row, "origin", json_string(svc_origin_name(b->origin)));
    json_object_set_new(row, "revision", number(b->revision));
    set_time(row, "created", b->created_ms);
    set_time(row, "updated", b->updated_ms);
    json_object_set_new(row, "state", json_string(backend_state_name(b, view)));
    json_object_set_new(row, "reason", json_string(backend_reason_name(view->reason)));
    json_object_set_new(row, "reason_text", json_string(backend_reason_text(view->reason)));
    set_time(row, "since", view->since_ms);
    if (view->handshaken) {
        json_object_set_new(row, "tls", json_string(tls_text(&view->tls)));
        set_time(row, "tls_time", view->tls.told_ms);
    }
    json_object_set_new(row, "rtt_us", number(view->probe.rtt_us));
    json_object_set_new(
        row, "active",
        number(view->proxied ? view->proxy[TARGET_ACTIVE] : ABI_ACTIVE_COUNT(view->stats.active)));
    return row;
}

static const char *const target_keys[TARGET_COUNTERS_COUNT] = {
#define TARGET(symbol, name, kind, unit, text) [TARGET_##symbol] = "proxy_" name,
#include "targets.def"
#undef TARGET
};

json_t *backend_figures_json(const struct backend_view *view)
{
    const struct abi_probe_state *p = &view->probe;
    const struct abi_backend_stats *t = &view->stats;
    const struct {
        const char *key;
        uint64_t value;
    } rows[] = {
        {"changes", view->changes},
        {"probes", p->probes},
        {"answers", p->answers},
        {"refusals", p->refusals},
        {"timeouts", p->timeouts},
        {"http_probes", p->http_probes},
        {"http_answers", p->http_answers},
        {"http_failures", p->http_failures},
        {"http_rtt_us", p->http_rtt_us},
        {"http_status", p->status},
        {"tls_handshakes", view->tls.checks},
        {"tls_failures", view->tls.failures},
        {"tls_rtt_us", view->tls.rtt_us},
        {"connects", t->connects},
        {"established", t->established},
        {"connects_refused", t->refused},
        {"connects_timed_out", t->timeouts},
        {"resets", t->resets},
        {"retransmits", t->retransmits},
        {"traffic_rtt_us", t->rtt_us},
        {"cuts", t->cuts},
    };
    json_t *object = json_object();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        json_object_set_new(object, rows[i].key, number(rows[i].value));
    for (int i = 0; view->proxied && i < TARGET_COUNTERS_COUNT; i++)
        json_object_set_new(object, target_keys[i], number(view->proxy[i]));
    return object;
}

/* The text of a value as it may stand in a request; NULL for what has none. */
static const char *value_text(const json_t *value, char room[32])
{
    if (json_is_string(value))
        return json_string_length(value) == strlen(json_string_value(value)) ? json_string_value(value)
                                                                             : NULL;
    if (json_is_boolean(value))
        return json_is_true(value) ? "true" : "false";
    if (!json_is_integer(value))
        return NULL;
    snprintf(room, 32, "%lld", (long long)json_integer_value(value));
    return room;
}

/* One field: set(target, key, text, err) is of a service or of a backend. */
typedef int (*set_fn)(void *target, const char *key, const char *text, char err[SVC_ERROR_MAX]);

static int set_service(void *target, const char *key, const char *text, char err[SVC_ERROR_MAX])
{
    return svc_field_set(target, key, text, err);
}

static int set_backend(void *target, const char *key, const char *text, char err[SVC_ERROR_MAX])
{
    return svc_backend_field_set(target, key, text, err);
}

static int unknown(const char *key, size_t count, const char *(*name)(size_t i), char err[SVC_ERROR_MAX])
{
    const char *names[KEYS_MAX];
    CHECK(count <= KEYS_MAX);
    for (size_t i = 0; i < count; i++)
        names[i] = name(i);
    const char *near = text_nearest(key, strlen(key), names, count);
    snprintf(err, SVC_ERROR_MAX, "there is no field '%.40s'%s%s%s", key, near ? "; did you mean '" : "",
             near ? near : "", near ? "'?" : "; `fairlead service show` and the manual list them");
    return -EINVAL;
}

static int set_fields(void *target, json_t *fields, const char *prefix, set_fn set, size_t count,
                      const char *(*name)(size_t i), char err[SVC_ERROR_MAX])
{
    const char *key;
    json_t *value;
    json_object_foreach(fields, key, value)
    {
        char full[KEY_TEXT_MAX], room[32];
        snprintf(full, sizeof(full), "%s%.50s", prefix, key);
        if (json_is_object(value) && !*prefix) {
            snprintf(full, sizeof(full), "%.50s.", key);
            int result = set_fields(target, value, full, set, count, name, err);
            if (result)
                return result;
            continue;
        }
        const char *text = value_text(value, room);
        snprintf(err, SVC_ERROR_MAX, "%s: the value is not a text, a whole number or a truth", full);
        int result = text ? set(target, full, text, err) : -EINVAL;
        if (result == -ENOENT)
            return unknown(full, count, name, err);
        if (result)
            return result;
    }
    return 0;
}

int service_json_set(struct svc *s, json_t *fields, char err[SVC_ERROR_MAX])
{
    return set_fields(s, fields, "", set_service, svc_field_count(), svc_field_key, err);
}

int backend_json_set(struct svc_backend *b, json_t *fields, char err[SVC_ERROR_MAX])
{
    return set_fields(b, fields, "", set_backend, svc_backend_field_count(), svc_backend_field_key, err);
}
