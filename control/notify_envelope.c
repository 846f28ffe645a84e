/* SPDX-License-Identifier: Apache-2.0 */
#include "control/notify_envelope.h"

#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/cmd_origin.h"
#include "control/journal.h"

json_t *notify_envelope_new(void)
{
    json_t *envelope = json_pack("{s:[]}", "events");
    CHECK(envelope);
    return envelope;
}

/* A UUID of version 8 (RFC 9562): half of the cluster's id, and the notice's position. */
static void id_text(const uint8_t cluster[16], struct notice_at at, char out[40])
{
    uint8_t b[16];
    memcpy(b, cluster, 8);
    for (int i = 0; i < 6; i++)
        b[9 + i] = (uint8_t)(at.index >> (40 - 8 * i));
    b[6] = (uint8_t)(0x80 | (b[6] & 0x0f));
    b[8] = 0x80;
    b[15] = (uint8_t)at.number;
    snprintf(out, 40, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static void set_text(json_t *object, const char *key, struct notice_text t)
{
    if (t.len)
        json_object_set_new(object, key, json_stringn(t.data, t.len) ?: json_string("(not UTF-8)"));
}

static json_t *target_of(const struct notice *n)
{
    json_t *target = json_object();
    char digest[DIGEST_TEXT_MAX + 1] = "";
    set_text(target, "mediaType", n->media_type);
    if (n->digest.alg != DIGEST_NONE) {
        digest_format(&n->digest, digest);
        json_object_set_new(target, "digest", json_string(digest));
    }
    if (n->action != NOTICE_DELETE) {
        json_object_set_new(target, "size", json_integer((json_int_t)n->size));
        json_object_set_new(target, "length", json_integer((json_int_t)n->size));
    }
    set_text(target, "repository", n->repo);
    set_text(target, "fromRepository", n->from);
    set_text(target, "tag", n->tag);
    return target;
}

static json_t *request_of(const struct notice *n)
{
    static const char *const methods[] = {
        [NOTICE_PUSH] = "PUT", [NOTICE_DELETE] = "DELETE", [NOTICE_MOUNT] = "POST"};
    json_t *request = json_object();
    struct notice_text source = n->source;
    (void)cmd_origin_take(source.data, &source.len);
    set_text(request, "id", n->request_id);
    set_text(request, "addr", source);
    json_object_set_new(request, "method", json_string(methods[n->action]));
    return request;
}

void notify_envelope_add(json_t *envelope, const struct notify_source *source, const struct notice *n)
{
    char id[40], time_text[TIME_TEXT_MAX], instance[33];
    json_t *actor = json_object();
    id_text(source->cluster_id, n->at, id);
    for (int i = 0; i < 16; i++)
        snprintf(instance + 2 * i, 3, "%02x", source->cluster_id[i]);
    set_text(actor, "name", n->actor);
    json_t *event = json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:{s:s, s:s}}", "id", id, "timestamp",
                              journal_time_text(n->time_ms, time_text), "action", notice_actions[n->action],
                              "target", target_of(n), "request", request_of(n), "actor", actor, "source",
                              "addr", source->node, "instanceID", instance);
    CHECK(event);
    json_array_append_new(json_object_get(envelope, "events"), event);
}
