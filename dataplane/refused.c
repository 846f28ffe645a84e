/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/refused.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dataplane/ring.h"

enum { PIECE_BYTES = 16 << 10, PIECES_MAX = 4 };

/* What has come goes. Whether the client has closed its side, or the connection is broken. */
static bool has_ended(int fd)
{
    ssize_t n = 1;
    for (unsigned i = 0; i < PIECES_MAX && n > 0; i++)
        n = recv(fd, NULL, PIECE_BYTES, MSG_DONTWAIT | MSG_TRUNC); /* TCP: dropped without a copy, tcp(7) */
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static void drop(struct refused *r, unsigned i)
{
    close(r->row[i].fd);
    r->row[i] = r->row[--r->count];
}

static void drop_oldest(struct refused *r)
{
    unsigned oldest = 0;
    for (unsigned i = 1; i < r->count; i++)
        if (r->row[i].end_ms < r->row[oldest].end_ms)
            oldest = i;
    drop(r, oldest);
}

void refused_add(struct ring *ring, int fd)
{
    static const char busy[] = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
                               "Connection: close\r\n\r\n";
    struct refused *r = &ring->refused;
    ssize_t n = send(fd, busy, sizeof(busy) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)n;
    counter_add(&ring->counters->closed[CLOSE_NO_CONNECTION], 1);
    (void)shutdown(fd, SHUT_WR);
    if (r->count == REFUSED_MAX)
        drop_oldest(r);
    r->row[r->count].fd = fd;
    r->row[r->count++].end_ms = ring_now_ms(ring) + REFUSED_MS;
}

void refused_tick(struct ring *ring)
{
    struct refused *r = &ring->refused;
    for (unsigned i = 0; i < r->count;) {
        if (has_ended(r->row[i].fd) || ring_now_ms(ring) >= r->row[i].end_ms)
            drop(r, i);
        else
            i++;
    }
}

void refused_close(struct ring *ring)
{
    while (ring->refused.count)
        drop(&ring->refused, 0);
}
