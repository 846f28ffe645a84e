/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/mesh.h"

static const struct {
    const char *name, *text;
} reasons[MESH_REASON_COUNT] = {
    [MESH_OK] = {"ok", "nothing is wrong"},
    [MESH_CLOSED] = {"closed", "the other side closed it"},
    [MESH_CONNECT] = {"connect", "it cannot be connected to"},
    [MESH_BROKEN] = {"broken", "the connection broke"},
    [MESH_IDLE] = {"idle", "nothing came from it for too long"},
    [MESH_HANDSHAKE] = {"handshake", "TLS could not be agreed upon"},
    [MESH_HANDSHAKE_TIME] = {"handshake_time", "it took too long to show who it is"},
    [MESH_NO_CERTIFICATE] = {"no_certificate", "it showed no certificate"},
    [MESH_CHAIN] = {"chain", "its certificate is not of this cluster's CA"},
    [MESH_EXPIRED] = {"expired", "its certificate is not valid now"},
    [MESH_OTHER_CLUSTER] = {"other_cluster", "its certificate is of another cluster"},
    [MESH_OTHER_NODE] = {"other_node", "it is another node than the one that was looked for"},
    [MESH_UNKNOWN_NODE] = {"unknown_node", "it is no node of the cluster, or not any more"},
    [MESH_VERSION] = {"version", "it speaks no version of the protocol that this program speaks"},
    [MESH_FRAME] = {"frame", "what it sent makes no sense"},
    [MESH_REFUSED_BY_PEER] = {"refused", "the other side refused"},
    [MESH_REPLACED] = {"replaced", "a newer connection of the same node took its place"},
    [MESH_REMOVED] = {"removed", "the node was removed from the cluster"},
    [MESH_BUSY] = {"busy", "too many connections have not shown who they are"},
    [MESH_GUEST_DONE] = {"guest_done", "its request was answered"},
    [MESH_SHUTDOWN] = {"shutdown", "this node closes"},
};

const char *mesh_reason_name(enum mesh_reason reason)
{
    return reason < MESH_REASON_COUNT ? reasons[reason].name : "unknown";
}

const char *mesh_reason_text(enum mesh_reason reason)
{
    return reason < MESH_REASON_COUNT ? reasons[reason].text : "unknown";
}
