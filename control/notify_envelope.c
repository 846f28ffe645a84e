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

/* As a UUID of version 8 (RFC 9562). */
static void uuid_text(const uint8_t bytes[16], char out[40])
{
    uint8_t b[16];
    memcpy(b, bytes, sizeof(b));
    b[6] = (uint8_t)(0x80 | (b[6] & 0x0f));
    b[8] = 0x80;
    snprintf(out, 40, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

/* Half of the cluster's id, and the notice's position. */
static void id_text(const uint8_t cluster[16], struct notice_at at, char out[40])
{
    uint8_t b[16] = {0};
    memcpy(b, cluster, 8);
    for (int i = 0; i < 6; i++)
        b[9 + i] = (uint8_t)(at.index >> (40 - 8 * i));
    b[15] = (uint8_t)at.number;
    uuid_text(b, out);
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
        [NOTICE_PUSH] = "PUT", [NOTICE_DELETE] = "DELETE", [NOTICE_MOUNT] = "POST", [NOTICE_PULL] = "GET"};
    json_t *request = json_object();
    struct notice_text source = n->source;
    (void)cmd_origin_take(source.data, &source.len);
    set_text(request, "id", n->request_id);
    set_text(request, "addr", source);
    json_object_set_new(request, "method", json_string(methods[n->action]));
    return request;
}

static void event_add(json_t *envelope, const struct notify_source *source, const char *id, uint64_t time_ms,
                      enum notice_action action, json_t *target, json_t *request, json_t *actor)
{
    char time_text[TIME_TEXT_MAX], instance[33];
    for (int i = 0; i < 16; i++)
        snprintf(instance + 2 * (size_t)i, 3, "%02x", source->cluster_id[i]);
    json_t *event =
        json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:{s:s, s:s}}", "id", id, "timestamp",
                  journal_time_text(time_ms, time_text), "action", notice_actions[action], "target", target,
                  "request", request, "actor", actor, "source", "addr", source->node, "instanceID", instance);
    CHECK(event);
    json_array_append_new(json_object_get(envelope, "events"), event);
}

void notify_envelope_add(json_t *envelope, const struct notify_source *source, const struct notice *n)
{
    char id[40];
    json_t *actor = json_object();
    id_text(source->cluster_id, n->at, id);
    set_text(actor, "name", n->actor);
    event_add(envelope, source, id, n->time_ms, (enum notice_action)n->action, target_of(n), request_of(n),
              actor);
}

static struct notice_text text_of(struct pull_text t)
{
    return (struct notice_text){t.data, t.len};
}

/* As distribution has it: by the digest, whatever the client asked by. */
static void set_url(json_t *target, const struct pull *p)
{
    char digest[DIGEST_TEXT_MAX + 1];
    digest_format(&p->digest, digest);
    json_t *url = p->host.len
                      ? json_sprintf("%s://%.*s/v2/%.*s/%s/%s", p->bits & PULL_HTTPS ? "https" : "http",
                                     (int)p->host.len, p->host.data, (int)p->repo.len, p->repo.data,
                                     p->bits & PULL_BLOB ? "blobs" : "manifests", digest)
                      : NULL;
    if (url)
        json_object_set_new(target, "url", url);
}

void notify_envelope_pull(json_t *envelope, const struct notify_source *source,
                          const uint8_t id[PULL_ID_BYTES], const struct pull *p)
{
    char id_of_event[40];
    struct notice n = {.action = NOTICE_PULL,
                       .repo = text_of(p->repo),
                       .tag = text_of(p->tag),
                       .media_type = text_of(p->media_type),
                       .digest = p->digest,
                       .size = p->size};
    json_t *target = target_of(&n), *request = json_object();
    json_object_set_new(request, "id", json_sprintf("%016llx", (unsigned long long)p->request));
    set_text(request, "addr", text_of(p->client));
    set_text(request, "host", text_of(p->host));
    json_object_set_new(request, "method", json_string(p->bits & PULL_HEAD ? "HEAD" : "GET"));
    set_text(request, "useragent", text_of(p->agent));
    set_url(target, p);
    uuid_text(id, id_of_event);
    event_add(envelope, source, id_of_event, p->time_ms, NOTICE_PULL, target, request,
              json_pack("{s:s}", "name", "anonymous"));
}
