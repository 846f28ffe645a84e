/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/policy_json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/journal.h"
#include "control/settings.h"

enum { KEY_TEXT_MAX = 64 };

/* Sets a.b as {"a": {"b": ...}}. */
static void set_nested(json_t *row, const char *key, json_t *value)
{
    const char *dot = strchr(key, '.');
    if (!dot) {
        json_object_set_new(row, key, value);
        return;
    }
    json_t *group = json_object_getn(row, key, (size_t)(dot - key));
    if (!group) {
        group = json_object();
        json_object_setn_new(row, key, (size_t)(dot - key), group);
    }
    json_object_set_new(group, dot + 1, value);
}

static void set_time(json_t *row, const char *key, uint64_t time_ms)
{
    char text[TIME_TEXT_MAX];
    if (time_ms)
        json_object_set_new(row, key, json_string(journal_time_text(time_ms, text)));
}

/* Only what it says. */
json_t *policy_json(const struct policy *p, const struct names_policy_use *use)
{
    json_t *row = json_pack("{s:s}", "prefix", policy_prefix_text(p->prefix));
    char text[POLICY_TEXT_MAX];
    CHECK(row);
    for (size_t i = 0; i < policy_field_count(); i++) {
        const char *key = policy_field_key(i);
        if (*policy_field_text(p, key, text))
            set_nested(row, key, json_string(text));
    }
    if (use && (policy_says(&p->rules, POLICY_TOTAL_BYTES) || policy_says(&p->rules, POLICY_TOTAL_TAGS)))
        json_object_set_new(
            row, "used",
            json_pack("{s:I, s:I}", "bytes", (json_int_t)use->bytes, "tags", (json_int_t)use->tags));
    if (p->rules.revision)
        json_object_set_new(row, "origin", json_string(policy_origin_name(p->rules.origin)));
    if (p->rules.revision)
        json_object_set_new(row, "revision", json_integer((json_int_t)p->rules.revision));
    set_time(row, "created", p->rules.created_ms);
    set_time(row, "updated", p->rules.updated_ms);
    return row;
}

json_t *policy_rules_json(const char *prefix, const struct policy_rules *rules)
{
    json_t *fields = json_array();
    struct policy p;
    char text[POLICY_TEXT_MAX], by[REPO_NAME_MAX + 1];
    policy_init(&p);
    p.rules = rules->p;
    for (size_t i = 0; i < policy_field_count(); i++) {
        const char *key = policy_field_key(i);
        if (!*policy_field_text(&p, key, text))
            continue;
        snprintf(by, sizeof(by), "%.*s", (int)rules->by[i], prefix);
        json_array_append_new(fields, json_pack("{s:s, s:s, s:s}", "key", key, "value", text, "policy",
                                                policy_prefix_text(by)));
    }
    return json_pack("{s:s, s:o}", "prefix", policy_prefix_text(prefix), "fields", fields);
}

/* The text of a value as it may stand in a request; NULL for what has none. */
static const char *value_text(const json_t *value, char room[POLICY_TEXT_MAX])
{
    size_t used = 0, i;
    json_t *item;
    if (json_is_null(value))
        return "inherit";
    if (json_is_string(value))
        return json_string_length(value) == strlen(json_string_value(value)) ? json_string_value(value)
                                                                             : NULL;
    if (json_is_boolean(value))
        return json_is_true(value) ? "true" : "false";
    if (json_is_integer(value)) {
        snprintf(room, POLICY_TEXT_MAX, "%lld", (long long)json_integer_value(value));
        return room;
    }
    if (!json_is_array(value))
        return NULL;
    room[0] = '\0';
    json_array_foreach(value, i, item)
    {
        const char *text = json_string_value(item);
        if (!text || used + strlen(text) + 2 > POLICY_TEXT_MAX)
            return NULL;
        used += (size_t)snprintf(room + used, POLICY_TEXT_MAX - used, "%s%s", i ? "," : "", text);
    }
    return used ? room : "none";
}

static int unknown(const char *key, char err[POLICY_ERROR_MAX])
{
    const char *names[POLICY_FIELDS_COUNT];
    for (size_t i = 0; i < policy_field_count(); i++)
        names[i] = policy_field_key(i);
    const char *near = text_nearest(key, strlen(key), names, policy_field_count());
    snprintf(err, POLICY_ERROR_MAX, "there is no field '%.40s'%s%s%s", key, near ? "; did you mean '" : "",
             near ? near : "", near ? "'?" : "");
    return -EINVAL;
}

static int set_one(struct policy *p, const char *key, const json_t *value, char err[POLICY_ERROR_MAX])
{
    char room[POLICY_TEXT_MAX];
    const char *text = value_text(value, room);
    snprintf(err, POLICY_ERROR_MAX, "%s: the value is not a text, a whole number, a truth or a list of texts",
             key);
    int result = text ? policy_field_set(p, key, text, err) : -EINVAL;
    return result == -ENOENT ? unknown(key, err) : result;
}

int policy_json_set(struct policy *p, json_t *fields, char err[POLICY_ERROR_MAX])
{
    const char *key, *inner;
    json_t *value, *part;
    int result = 0;
    json_object_foreach(fields, key, value)
    {
        char full[KEY_TEXT_MAX];
        if (!json_is_object(value)) {
            result = set_one(p, key, value, err);
            if (result)
                return result;
            continue;
        }
        json_object_foreach(value, inner, part)
        {
            snprintf(full, sizeof(full), "%.30s.%.30s", key, inner);
            result = set_one(p, full, part, err);
            if (result)
                return result;
        }
    }
    return 0;
}
