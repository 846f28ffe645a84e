/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cut_idle.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum {
    BUFFER_BYTES = 32 << 10,
    BATCH = 8, /* buffers read in one turn of the loop */
    STATES = 1 << TCP_ESTABLISHED | 1 << TCP_SYN_SENT | 1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 |
             1 << TCP_CLOSE_WAIT | 1 << TCP_LAST_ACK | 1 << TCP_CLOSING,
};

struct endpoints {
    struct abi_endpoint *at; /* CUT_IDLE_PENDING_MAX */
    size_t count;
};

/*
 * One listing of sockets at a time: those who are added meanwhile wait for the next. A listing is of IPv4
 * sockets, then of IPv6 sockets, which also reach IPv4 endpoints.
 */
struct cut_idle {
    uv_poll_t poll;
    struct mnl_socket *list, *destroy;
    struct endpoints waiting, now; /* `now` is sorted */
    int family;                    /* being listed; 0: none */
    uint32_t sequence;
    uint64_t ended;
    char buffer[BUFFER_BYTES], request[MNL_NLMSG_HDRLEN + sizeof(struct inet_diag_req_v2) + 64];
};

static struct mnl_socket *open_socket(int flags)
{
    struct mnl_socket *socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC | flags);
    if (!socket)
        return NULL;
    if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) == 0)
        return socket;
    int error = errno;
    mnl_socket_close(socket);
    errno = error;
    return NULL;
}

static struct inet_diag_req_v2 *put_request(struct cut_idle *cut, uint16_t type, uint16_t flags, int family)
{
    struct nlmsghdr *head = mnl_nlmsg_put_header(cut->request);
    head->nlmsg_type = type;
    head->nlmsg_flags = NLM_F_REQUEST | flags;
    head->nlmsg_seq = ++cut->sequence;
    struct inet_diag_req_v2 *request = mnl_nlmsg_put_extra_header(head, sizeof(*request));
    request->sdiag_family = (uint8_t)family;
    request->sdiag_protocol = IPPROTO_TCP;
    return request;
}

static int send_request(struct cut_idle *cut, struct mnl_socket *socket)
{
    const struct nlmsghdr *head = (const struct nlmsghdr *)cut->request;
    return mnl_socket_sendto(socket, head, head->nlmsg_len) < 0 ? -errno : 0;
}

/* Destroying. The kernel has answered when sending returns. */

static int destroy_socket(struct cut_idle *cut, int family, const struct inet_diag_sockid *id)
{
    char answer[512];
    struct inet_diag_req_v2 *request = put_request(cut, SOCK_DESTROY, NLM_F_ACK, family);
    request->id = *id;
    uint32_t sequence = cut->sequence;
    int result = send_request(cut, cut->destroy);
    if (result)
        return result;
    ssize_t len = mnl_socket_recvfrom(cut->destroy, answer, sizeof(answer));
    if (len < 0)
        return -errno;
    unsigned port = mnl_socket_get_portid(cut->destroy);
    return mnl_cb_run(answer, (size_t)len, sequence, port, NULL, NULL) < 0 ? -errno : 0;
}

/* Asks for a socket that is not there. */
static int probe_support(struct cut_idle *cut)
{
    struct inet_diag_sockid nobody = {.idiag_sport = htons(1), .idiag_dport = htons(1)};
    nobody.idiag_cookie[0] = nobody.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    int result = destroy_socket(cut, AF_INET, &nobody);
    return result == -ENOENT ? 0 : result;
}

/* Listing. */

static int compare_endpoints(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct abi_endpoint));
}

static bool is_wanted(const struct cut_idle *cut, int family, const struct inet_diag_sockid *id)
{
    struct abi_endpoint to = {.port = id->idiag_dport};
    if (family == AF_INET)
        to.addr = (struct abi_addr){{0, 0, htonl(0xffff), id->idiag_dst[0]}};
    else
        memcpy(&to.addr, id->idiag_dst, sizeof(to.addr));
    return bsearch(&to, cut->now.at, cut->now.count, sizeof(to), compare_endpoints) != NULL;
}

static int take_mark(const struct nlattr *attribute, void *arg)
{
    uint32_t *mark = arg;
    if (mnl_attr_get_type(attribute) == INET_DIAG_MARK &&
        mnl_attr_get_payload_len(attribute) >= sizeof(*mark))
        *mark = mnl_attr_get_u32(attribute);
    return MNL_CB_OK;
}

static int take_socket(const struct nlmsghdr *head, void *arg)
{
    struct cut_idle *cut = arg;
    const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(head);
    uint32_t mark = 0;
    if (mnl_nlmsg_get_payload_len(head) < sizeof(*msg) || !is_wanted(cut, msg->idiag_family, &msg->id))
        return MNL_CB_OK;
    mnl_attr_parse(head, sizeof(*msg), take_mark, &mark);
    if (mark != ABI_MARK && destroy_socket(cut, msg->idiag_family, &msg->id) == 0)
        cut->ended++;
    return MNL_CB_OK;
}

/* Nothing is to be done when a listing fails: what sends is ended by the kernel. */
static void start_listing(struct cut_idle *cut, int family)
{
    struct inet_diag_req_v2 *request = put_request(cut, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family);
    request->idiag_states = STATES;
    if (cut->now.count == 1)
        request->id.idiag_dport = cut->now.at[0].port;
    cut->family = send_request(cut, cut->list) == 0 ? family : 0;
}

static void start_waiting(struct cut_idle *cut)
{
    if (cut->waiting.count == 0)
        return;
    struct endpoints taken = cut->waiting;
    cut->waiting = cut->now;
    cut->waiting.count = 0;
    cut->now = taken;
    qsort(cut->now.at, cut->now.count, sizeof(*cut->now.at), compare_endpoints);
    start_listing(cut, AF_INET);
}

static void listed(struct cut_idle *cut)
{
    int family = cut->family;
    cut->family = 0;
    if (family == AF_INET)
        start_listing(cut, AF_INET6);
    if (cut->family == 0)
        start_waiting(cut);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct cut_idle *cut = poll->data;
    (void)status;
    (void)events;
    for (int i = 0; i < BATCH; i++) {
        ssize_t len = mnl_socket_recvfrom(cut->list, cut->buffer, sizeof(cut->buffer));
        if (len < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        /* Sequence numbers go on with each socket that is destroyed: the port is enough. */
        int more = len < 0 ? MNL_CB_ERROR
                           : mnl_cb_run(cut->buffer, (size_t)len, 0, mnl_socket_get_portid(cut->list),
                                        take_socket, cut);
        if (more != MNL_CB_OK) {
            listed(cut);
            return;
        }
    }
}

/* Life. */

static void close_sockets(struct cut_idle *cut)
{
    if (cut->list)
        mnl_socket_close(cut->list);
    if (cut->destroy)
        mnl_socket_close(cut->destroy);
    free(cut->waiting.at);
    free(cut->now.at);
    free(cut);
}

int cut_idle_open(uv_loop_t *loop, struct cut_idle **out)
{
    struct cut_idle *cut = calloc(1, sizeof(*cut));
    CHECK(cut);
    cut->waiting.at = calloc(CUT_IDLE_PENDING_MAX, sizeof(*cut->waiting.at));
    cut->now.at = calloc(CUT_IDLE_PENDING_MAX, sizeof(*cut->now.at));
    CHECK(cut->waiting.at && cut->now.at);
    cut->list = open_socket(SOCK_NONBLOCK);
    cut->destroy = open_socket(0);
    int result = cut->list && cut->destroy ? probe_support(cut) : -errno;
    if (result) {
        close_sockets(cut);
        return result;
    }
    CHECK(uv_poll_init(loop, &cut->poll, mnl_socket_get_fd(cut->list)) == 0);
    cut->poll.data = cut;
    CHECK(uv_poll_start(&cut->poll, UV_READABLE, on_readable) == 0);
    *out = cut;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    close_sockets(handle->data);
}

void cut_idle_close(struct cut_idle *cut)
{
    uv_poll_stop(&cut->poll);
    uv_close((uv_handle_t *)&cut->poll, on_closed);
}

int cut_idle_add(struct cut_idle *cut, const struct abi_endpoint *at)
{
    if (cut->waiting.count == CUT_IDLE_PENDING_MAX)
        return -ENOSPC;
    cut->waiting.at[cut->waiting.count++] = *at;
    if (cut->family == 0)
        start_waiting(cut);
    return 0;
}

uint64_t cut_idle_ended(const struct cut_idle *cut)
{
    return cut->ended;
}
