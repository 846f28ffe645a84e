/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/peer_status.h"

#include <inttypes.h>
#include <net/if.h>
#include <string.h>

#include "check.h"
#include "control/journal.h"
#include "control/peer_view.h"

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

/* A time of the kernel's clock; null for never. */
static json_t *time_or_null(uint64_t time_ns)
{
    char at[TIME_TEXT_MAX];
    return time_ns ? json_string(journal_time_text(peer_view_utc_ms(time_ns), at)) : json_null();
}

/* The peer's address, as the configuration says it, without the port. */
static const char *peer_address(const struct peer_view *view, char out[ADDRESS_TEXT_MAX])
{
    struct abi_addr addr;
    memcpy(&addr, view->config->address.ip, sizeof(addr));
    return address_view_text(&addr, out);
}

static json_t *peer_json(const struct peer_view *view)
{
    const struct abi_peer_state *s = &view->state;
    char address[ADDRESS_TEXT_MAX];
    return json_pack("{s:s, s:s, s:s, s:o, s:f, s:i, s:f, s:o, s:o, s:o, s:o, s:o, s:i}", "name",
                     view->config->name, "address", peer_address(view, address), "state",
                     peer_state_name(view), "since", time_or_null(s->changed_ns), "detection_ms",
                     (double)s->detect_ns / 1e6, "remote_multiplier", (int)s->remote_multiplier,
                     "remote_interval_ms", s->remote_min_tx_us / 1e3, "received", number(s->received), "sent",
                     number(s->sent), "dropped", number(s->dropped), "ups", number(s->ups), "downs",
                     number(s->downs), "backends", (int)view->members);
}

json_t *peer_status(struct daemon *d)
{
    json_t *list = json_array();
    struct peer_view view;
    for (uint32_t i = 0; peer_view(d, i, &view); i++)
        json_array_append_new(list, peer_json(&view));
    return list;
}

static const char *device_name(uint32_t ifindex, char out[IF_NAMESIZE])
{
    if (!if_indextoname(ifindex, out))
        snprintf(out, IF_NAMESIZE, "%u", ifindex);
    return out;
}

json_t *address_status(struct daemon *d)
{
    json_t *list = json_array();
    struct address_view view;
    for (uint32_t i = 0; i < STATUS_ADDRESSES_MAX && address_view(d, i, &view); i++) {
        char address[ADDRESS_TEXT_MAX], device[IF_NAMESIZE];
        const struct abi_address_state *s = &view.state;
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "address",
                                              address_view_text(&view.key.addr, address), "device",
                                              device_name(view.key.ifindex, device), "owner", view.owner,
                                              "since", time_or_null(s->since_ns), "takeovers",
                                              number(s->takeovers), "conflicts", number(s->conflicts),
                                              "foreign", number(s->foreign), "answers", number(s->answers)));
    }
    return list;
}

/* Metrics: a row each, with the value of one peer or address. */

#define PEER_METRICS(METRIC)                                                                                 \
    METRIC(up, "gauge", "1 while the heartbeat session is up.", s->state == ABI_BFD_UP)                      \
    METRIC(detection_seconds, "gauge", "Detection time in force.", (double)s->detect_ns / 1e9)               \
    METRIC(received_total, "counter", "Heartbeats received.", (double)s->received)                           \
    METRIC(sent_total, "counter", "Heartbeats sent.", (double)s->sent)                                       \
    METRIC(dropped_total, "counter", "Heartbeats dropped as invalid.", (double)s->dropped)                   \
    METRIC(downs_total, "counter", "Times that the session ended.", (double)s->downs)

#define ADDRESS_METRICS(METRIC)                                                                              \
    METRIC(owned, "gauge", "1 while this node answers for the address.",                                     \
           strcmp(view.owner, "this node") == 0)                                                             \
    METRIC(takeovers_total, "counter", "Times that this node took the address.", (double)s->takeovers)       \
    METRIC(conflicts_total, "counter", "Claims of another candidate at the same time.",                      \
           (double)s->conflicts)                                                                             \
    METRIC(foreign_total, "counter", "Packets of others who use the address.", (double)s->foreign)

static void print_head(FILE *out, const char *what, const char *name, const char *kind, const char *text)
{
    fprintf(out, "# HELP fairlead_%s_%s %s\n# TYPE fairlead_%s_%s %s\n", what, name, text, what, name, kind);
}

#define PEER_METRIC(metric, kind, text, value)                                                               \
    print_head(out, "peer", #metric, kind, text);                                                            \
    for (uint32_t i = 0; peer_view(d, i, &view); i++)                                                        \
        if (!view.self)                                                                                      \
            fprintf(out, "fairlead_peer_" #metric "{peer=\"%s\"} %.15g\n", view.config->name,                \
                    (double)(value));

static void print_peers(struct daemon *d, FILE *out)
{
    struct peer_view view;
    const struct abi_peer_state *s = &view.state;
    PEER_METRICS(PEER_METRIC)
}

#define ADDRESS_METRIC(metric, kind, text, value)                                                            \
    print_head(out, "address", #metric, kind, text);                                                         \
    for (uint32_t i = 0; address_view(d, i, &view); i++)                                                     \
        fprintf(out, "fairlead_address_" #metric "{address=\"%s\",device=\"%s\"} %.15g\n",                   \
                address_view_text(&view.key.addr, address), device_name(view.key.ifindex, device),           \
                (double)(value));

static void print_addresses(struct daemon *d, FILE *out)
{
    char address[ADDRESS_TEXT_MAX], device[IF_NAMESIZE];
    struct address_view view;
    const struct abi_address_state *s = &view.state;
    ADDRESS_METRICS(ADDRESS_METRIC)
}

void peer_metrics(struct daemon *d, FILE *out)
{
    struct peer_view peer;
    struct address_view address;
    if (peer_view(d, 0, &peer))
        print_peers(d, out);
    if (address_view(d, 0, &address))
        print_addresses(d, out);
}
