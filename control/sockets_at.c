/* SPDX-License-Identifier: Apache-2.0 */
#include "control/sockets_at.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>

#include "check.h"

enum {
    BUFFER_BYTES = 32 << 10,
    STATES = 1 << TCP_ESTABLISHED | 1 << TCP_SYN_RECV | 1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 |
             1 << TCP_CLOSE_WAIT | 1 << TCP_LAST_ACK | 1 << TCP_CLOSING,
};

struct search {
    const struct abi_addr *addr;
    size_t count;
    bool *used;
};

static int take_socket(const struct nlmsghdr *head, void *arg)
{
    const struct search *search = arg;
    const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(head);
    if (mnl_nlmsg_get_payload_len(head) < sizeof(*msg))
        return MNL_CB_OK;
    struct abi_addr own = {{0, 0, htonl(0xffff), msg->id.idiag_src[0]}};
    if (msg->idiag_family == AF_INET6)
        memcpy(&own, msg->id.idiag_src, sizeof(own));
    for (size_t i = 0; i < search->count; i++)
        if (memcmp(&own, &search->addr[i], sizeof(own)) == 0)
            search->used[i] = true;
    return MNL_CB_OK;
}

static int search_family(struct mnl_socket *socket, uint8_t family, struct search *search)
{
    char buffer[BUFFER_BYTES];
    struct nlmsghdr *head = mnl_nlmsg_put_header(buffer);
    head->nlmsg_type = SOCK_DIAG_BY_FAMILY;
    head->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    struct inet_diag_req_v2 *request = mnl_nlmsg_put_extra_header(head, sizeof(*request));
    request->sdiag_family = family;
    request->sdiag_protocol = IPPROTO_TCP;
    request->idiag_states = STATES;
    if (mnl_socket_sendto(socket, head, head->nlmsg_len) < 0)
        return -errno;
    for (int more = MNL_CB_OK; more == MNL_CB_OK;) {
        ssize_t len = mnl_socket_recvfrom(socket, buffer, sizeof(buffer));
        if (len < 0)
            return -errno;
        more = mnl_cb_run(buffer, (size_t)len, 0, mnl_socket_get_portid(socket), take_socket, search);
        if (more < 0)
            return -errno;
    }
    return 0;
}

int sockets_at(const struct abi_addr *addr, size_t count, bool *used)
{
    struct search search = {addr, count, used};
    struct mnl_socket *socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
    if (!socket)
        return -errno;
    memset(used, 0, count * sizeof(*used));
    int result = mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) ? -errno : 0;
    if (!result)
        result = search_family(socket, AF_INET, &search);
    if (!result)
        result = search_family(socket, AF_INET6, &search);
    mnl_socket_close(socket);
    return result;
}
