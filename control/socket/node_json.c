/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/node_json.h"

#include <stdio.h>

#include "check.h"
#include "control/journal.h"

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *time_json(uint64_t time_ms)
{
    char text[TIME_TEXT_MAX];
    return time_ms ? json_string(journal_time_text(time_ms, text)) : json_null();
}

static json_t *address_json(const struct svc_address *a)
{
    char text[ADDRESS_TEXT_MAX];
    return a->port ? json_string(svc_address_text(a, text)) : json_null();
}

json_t *node_hash_json(const uint8_t hash[NODE_HASH_BYTES])
{
    char text[2 * NODE_HASH_BYTES + 1];
    bool said = false;
    for (size_t i = 0; i < NODE_HASH_BYTES; i++) {
        said |= hash[i] != 0;
        snprintf(text + 2 * i, 3, "%02x", hash[i]);
    }
    return said ? json_string(text) : json_null();
}

json_t *node_json(const struct node *n, const struct node_view *view)
{
    const struct node_seen *seen = &view->seen;
    uint64_t lag = seen->commit > seen->applied ? seen->commit - seen->applied : 0;
    json_t *row = json_pack(
        "{s:o, s:s, s:s, s:b, s:s, s:s, s:s, s:b, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
        "s:o}",
        "id", number(n->id), "name", n->name, "role", node_role_name(n->role), "replica", n->replica,
        "availability", node_availability_name(n->availability), "state",
        node_state_name(view->verdict.state), "reason", view->verdict.reason, "leader", seen->leader, "self",
        seen->self, "mesh", address_json(&n->mesh), "data", address_json(&n->data), "version",
        number(n->version), "applied", seen->progress ? number(seen->applied) : json_null(), "lag",
        seen->progress ? number(lag) : json_null(), "joined", time_json(n->joined_ms), "updated",
        time_json(n->updated_ms), "revision", number(n->revision), "key", node_hash_json(n->key), "ca",
        node_hash_json(n->ca), "follows", seen->follows ? number(seen->follows) : json_null());
    CHECK(row);
    return row;
}

json_t *node_cluster_json(const struct node_cluster *c)
{
    json_t *row = json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name", c->name, "version",
                            number(c->version), "nodes", number(c->nodes), "managers", number(c->managers),
                            "replicas", number(c->replicas), "copies", number(c->copies), "copies_min",
                            number(c->copies_min), "created", time_json(c->created_ms), "updated",
                            time_json(c->updated_ms), "revision", number(c->revision));
    CHECK(row);
    return row;
}

json_t *node_token_json(const struct node_token *t)
{
    json_t *row = json_pack("{s:o, s:s, s:b, s:o, s:o}", "id", node_hash_json(t->hash), "role",
                            node_role_name(t->role), "replica", t->replica, "created",
                            time_json(t->created_ms), "expires", time_json(t->expires_ms));
    CHECK(row);
    return row;
}

json_t *node_warnings_json(const struct node_cluster *c)
{
    json_t *list = json_array();
    const char *warning = node_managers_warning(c->managers, c->nodes);
    if (*warning)
        json_array_append_new(list, json_string(warning));
    return list;
}
