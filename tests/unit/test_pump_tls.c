/* SPDX-License-Identifier: Apache-2.0 */
/* A pump whose sink's records the kernel makes: what is spliced comes out whole, and at once. Nothing is seen
 * of it on a kernel without TLS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/tls.h>
#include <poll.h>

#include "pump_rig.h"

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum {
    TURNS_MAX = 60000,
    HEAD_BYTES = 100,
    CHUNK_BYTES = 64 << 10,
    BODY_BYTES = 2 << 20,
    SLOW_BUFFER = 8 << 10
};

static struct rig rig;
static bool done;
static enum pump_end ended;

static void pump_done(struct pump *p, enum pump_end end, int err)
{
    (void)p;
    (void)err;
    done = true;
    ended = end;
}

/* ------------------------------------------------------------------ both ends of TLS */

static bool has_tls(int fd)
{
    return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0;
}

/* fd[0] sends records that fd[1] opens. False: the kernel does not know how. */
static bool tls_pair(int fd[2], int buffer, uint16_t version)
{
    struct tls12_crypto_info_aes_gcm_128 keys = {.info = {version, TLS_CIPHER_AES_GCM_128}};
    memset(keys.key, 7, sizeof(keys.key));
    rig_pair(fd, buffer);
    if (!has_tls(fd[0])) {
        close(fd[0]);
        close(fd[1]);
        return false;
    }
    CHECK(has_tls(fd[1]));
    CHECK(setsockopt(fd[0], SOL_TLS, TLS_TX, &keys, sizeof(keys)) == 0);
    CHECK(setsockopt(fd[1], SOL_TLS, TLS_RX, &keys, sizeof(keys)) == 0);
    return true;
}

static int near_fd(const struct wire *w)
{
    return w->fd;
}

static void near_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg, int flags)
{
    loop_sendmsg(w->loop, op, w->fd, msg, flags);
}

static void near_poll(struct wire *w, struct op *op, short events)
{
    loop_poll(w->loop, op, w->fd, events);
}

static void near_cancel(struct wire *w, struct op *op)
{
    loop_cancel(w->loop, op);
}

static ssize_t near_sendmsg_now(struct wire *w, const struct msghdr *msg, int flags)
{
    ssize_t n = sendmsg(w->fd, msg, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

/* As dataplane/tls's is, once the kernel has the keys. */
static const struct wire_ops near_ops = {.name = "tls",
                                         .sendmsg = near_sendmsg,
                                         .poll = near_poll,
                                         .cancel = near_cancel,
                                         .sendmsg_now = near_sendmsg_now,
                                         .fd_to = near_fd};
static struct wire_over near_over = {.ops = &near_ops};

/* ------------------------------------------------------------------ tests */

struct flow {
    struct pump pump;
    struct wire from, to;
    int source[2], sink[2];
    uint8_t *got;
    size_t got_len;
};

static bool flow_init(struct flow *f, int buffer, uint16_t version)
{
    memset(f, 0, sizeof(*f));
    if (!tls_pair(f->sink, buffer, version))
        return false;
    rig_pair(f->source, 0);
    f->got = malloc(HEAD_BYTES + BODY_BYTES);
    CHECK(f->got);
    f->from = wire_of_socket(rig.ring->loop, f->source[1]);
    f->to = wire_of_socket(rig.ring->loop, f->sink[0]);
    f->to.over = &near_over;
    done = false;
    return true;
}

static void flow_fini(struct flow *f)
{
    for (int i = 0; i < 2; i++) {
        close(f->source[i]);
        close(f->sink[i]);
    }
    free(f->got);
}

/* most: of one reading. */
static void read_sink(struct flow *f, size_t most)
{
    size_t room = HEAD_BYTES + BODY_BYTES - f->got_len;
    ssize_t n = recv(f->sink[1], f->got + f->got_len, most < room ? most : room, MSG_DONTWAIT);
    if (n > 0)
        f->got_len += (size_t)n;
}

static void check_content(const struct flow *f, size_t len)
{
    assert_int_equal(f->got_len, HEAD_BYTES + len);
    for (size_t i = 0; i < len; i++)
        if (f->got[HEAD_BYTES + i] != rig_byte(i))
            fail_msg("byte %zu of %zu is wrong", i, len);
}

static const char head[HEAD_BYTES] = "HTTP/1.1 200 OK";

static struct pump_config config_of(struct flow *f)
{
    return (struct pump_config){.ring = rig.ring,
                                .from = &f->from,
                                .to = &f->to,
                                .out = PUMP_LENGTH,
                                .total = BODY_BYTES,
                                .head = {head, HEAD_BYTES},
                                .technique = PUMP_TECHNIQUE_SPLICE,
                                .done = pump_done};
}

static size_t feed(struct flow *f, const uint8_t *bytes, size_t at, size_t len)
{
    ssize_t n = at < len ? send(f->source[0], bytes + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
    return n > 0 ? at + (size_t)n : at;
}

/* A chunk has come, more is announced, and then nothing comes: the sink has all of it meanwhile. */
static void nothing_stays_behind(void **state)
{
    struct flow f;
    uint8_t *bytes = malloc(CHUNK_BYTES + 16);
    size_t len = (size_t)sprintf((char *)bytes, "%x\r\n", CHUNK_BYTES), at = 0;
    if (!flow_init(&f, 0, *(const uint16_t *)*state)) {
        free(bytes);
        skip();
    }
    for (size_t i = 0; i < CHUNK_BYTES; i++)
        bytes[len++] = rig_byte(i);
    while (at < len)
        at = feed(&f, bytes, at, len);
    struct pump_config c = config_of(&f);
    c.in = PUMP_CHUNKED;
    pump_start(&f.pump, &c);
    for (int i = 0; i < TURNS_MAX && f.got_len < HEAD_BYTES + CHUNK_BYTES; i++) {
        rig_turn(&rig);
        read_sink(&f, SIZE_MAX);
    }
    check_content(&f, CHUNK_BYTES);
    assert_true(f.pump.spliced > 0); /* but for what came with the header of the chunk */
    pump_stop(&f.pump);
    while (!done)
        rig_turn(&rig);
    free(bytes);
    flow_fini(&f);
}

/* A reader that takes little at a time, through small buffers: the socket refuses again and again. */
static void slow_reader(void **state)
{
    struct flow f;
    uint8_t *bytes = malloc(BODY_BYTES);
    size_t at = 0;
    if (!flow_init(&f, SLOW_BUFFER, *(const uint16_t *)*state)) {
        free(bytes);
        skip();
    }
    for (size_t i = 0; i < BODY_BYTES; i++)
        bytes[i] = rig_byte(i);
    struct pump_config c = config_of(&f);
    c.in = PUMP_LENGTH;
    c.length = BODY_BYTES;
    pump_start(&f.pump, &c);
    for (int i = 0; i < TURNS_MAX && f.got_len < HEAD_BYTES + BODY_BYTES; i++) {
        at = feed(&f, bytes, at, BODY_BYTES);
        if (!done)
            rig_turn(&rig);
        for (int j = 0; j < 4; j++)
            read_sink(&f, 1 + (size_t)rig_random(60000));
    }
    check_content(&f, BODY_BYTES);
    assert_true(done && ended == PUMP_DONE);
    assert_true(f.pump.spliced == BODY_BYTES);
    free(bytes);
    flow_fini(&f);
}

int main(void)
{
    static uint16_t versions[] = {TLS_1_2_VERSION, TLS_1_3_VERSION};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(nothing_stays_behind, &versions[0]),
        cmocka_unit_test_prestate(nothing_stays_behind, &versions[1]),
        cmocka_unit_test_prestate(slow_reader, &versions[0]),
        cmocka_unit_test_prestate(slow_reader, &versions[1]),
    };
    rig_init(&rig, RIG_SMALLS, 8);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_fini(&rig);
    return failed;
}
