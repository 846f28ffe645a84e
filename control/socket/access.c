/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/access.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/journal.h"

enum { GROUPS_MAX = 1024, GROUP_NAME_MAX = 64 };

static bool group_find(const char *name, const char *suffix, gid_t *gid)
{
    char full[GROUP_NAME_MAX];
    snprintf(full, sizeof(full), "%s%s", name, suffix);
    const struct group *entry = getgrnam(full);
    if (entry)
        *gid = entry->gr_gid;
    return entry != NULL;
}

/* The groups that the peer had when it connected: its primary one comes with its credentials. */
static bool peer_in_group(int fd, gid_t primary, gid_t wanted)
{
    gid_t groups[GROUPS_MAX];
    socklen_t len = sizeof(groups);
    if (primary == wanted)
        return true;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len))
        return false;
    for (size_t i = 0; i < len / sizeof(groups[0]); i++)
        if (groups[i] == wanted)
            return true;
    return false;
}

static enum rpc_role role_of(int fd, const struct ucred *peer, const struct access_rules *rules)
{
    gid_t gid;
    if (rules->dataplane_pid && peer->pid == rules->dataplane_pid)
        return RPC_NOBODY;
    if (peer->uid == 0 || peer->uid == geteuid())
        return RPC_ADMIN;
    /* A data plane that somebody took over must not become an operator by way of its user's group. */
    if (rules->dataplane_user && peer->uid == rules->dataplane_user->uid)
        return RPC_NOBODY;
    if (group_find(rules->group, "", &gid) && peer_in_group(fd, peer->gid, gid))
        return RPC_OPERATOR;
    if (group_find(rules->group, "-ro", &gid) && peer_in_group(fd, peer->gid, gid))
        return RPC_READ_ONLY;
    return RPC_NOBODY;
}

void access_identify(int fd, const struct access_rules *rules, struct rpc_peer *peer)
{
    struct ucred credentials;
    socklen_t len = sizeof(credentials);
    peer->role = RPC_NOBODY;
    snprintf(peer->actor, sizeof(peer->actor), "unknown");
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &len))
        return;
    const struct passwd *entry = getpwuid(credentials.uid);
    if (entry)
        snprintf(peer->actor, sizeof(peer->actor), "%.32s", entry->pw_name);
    else
        snprintf(peer->actor, sizeof(peer->actor), "uid %u", credentials.uid);
    peer->role = role_of(fd, &credentials, rules);
}

int access_protect(const char *path, const char *group, struct journal *journal)
{
    gid_t gid, read_only;
    bool has_group = group_find(group, "", &gid);
    mode_t mode = has_group ? 0660 : 0600;
    if (has_group && chown(path, (uid_t)-1, gid)) {
        if (geteuid() == 0)
            return -errno;
        journal_warn(journal, "socket",
                     "the control socket cannot be given to group %s: it is for this user alone", group);
        mode = 0600;
    }
    /* A file has one group: with a second one the kernel lets everybody connect, and the role decides. */
    if (group_find(group, "-ro", &read_only))
        mode = 0666;
    return chmod(path, mode) ? -errno : 0;
}
