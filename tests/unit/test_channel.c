/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "check.h"
#include "control/channel.h"

enum { HELD_MAX = 3 * CHANNEL_PROPOSALS_MAX, PASSES_HELD = CHANNEL_ASKED_MAX + 8 };

/* A channel whose proposals are kept until the test answers them; `peer` is the ring's end. */
struct fixture {
    uv_loop_t loop;
    struct channel *channel;
    int peer;
    struct {
        channel_done done;
        void *arg;
    } held[HELD_MAX];
    size_t held_count, bytes;
    struct {
        uint64_t id, detail;
        enum job_result result;
        struct digest damaged;
        int count;
    } told;
    struct {
        struct channel_pass wanted;
        bool repo_is_right;
        channel_pass_done done[PASSES_HELD];
        void *arg[PASSES_HELD];
        size_t count;
    } passes;
    bool way_is_right, repo_is_right;
    int ended;
    const char *why;
};

static void on_propose(void *arg, void *cmd, size_t len, channel_done done, void *done_arg)
{
    struct fixture *f = arg;
    CHECK(f->held_count < HELD_MAX);
    f->held[f->held_count].done = done;
    f->held[f->held_count++].arg = done_arg;
    f->bytes += len;
    free(cmd);
}

static void on_job_done(void *arg, uint64_t id, enum job_result result, uint64_t detail)
{
    struct fixture *f = arg;
    f->told.id = id;
    f->told.result = result;
    f->told.detail = detail;
    f->told.count++;
}

static void on_damaged(void *arg, const struct digest *digest, uint64_t bytes)
{
    struct fixture *f = arg;
    f->told.damaged = *digest;
    f->told.detail = bytes;
    f->told.count++;
}

static void on_adopted(void *arg, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len)
{
    struct fixture *f = arg;
    f->told.id = node;
    f->told.detail = bytes;
    f->told.count++;
    f->repo_is_right = repo_len == 3 && memcmp(repo, "a/b", 3) == 0;
}

static void on_pass_wanted(void *arg, const struct channel_pass *wanted, channel_pass_done done,
                           void *done_arg)
{
    struct fixture *f = arg;
    CHECK(f->passes.count < PASSES_HELD);
    f->passes.wanted = *wanted;
    f->passes.repo_is_right = wanted->repo_len == 3 && memcmp(wanted->repo, "a/b", 3) == 0;
    f->passes.done[f->passes.count] = done;
    f->passes.arg[f->passes.count++] = done_arg;
}

static void on_way_wanted(void *arg, const struct channel_way *wanted, channel_way_done done, void *done_arg)
{
    const struct frame_way way = {.status = WAY_OK, .place = wanted->port, .incarnation = wanted->tls};
    struct fixture *f = arg;
    f->way_is_right = wanted->host_len == 4 && memcmp(wanted->host, "host", 4) == 0 && wanted->source == 9;
    done(done_arg, &way);
}

static void on_ended(void *arg, const char *why)
{
    struct fixture *f = arg;
    f->ended++;
    f->why = why;
}

static int setup(void **state)
{
    static const struct channel_handlers handlers = {on_propose,     on_job_done,   on_damaged, on_adopted,
                                                     on_pass_wanted, on_way_wanted, on_ended};
    struct fixture *f = calloc(1, sizeof(*f));
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(channel_open(&f->loop, pair[0], &handlers, f, &f->channel), 0);
    f->peer = pair[1];
    *state = f;
    return 0;
}

static void turn(struct fixture *f)
{
    for (int i = 0; i < 20; i++)
        uv_run(&f->loop, UV_RUN_NOWAIT);
}

static void answer(struct fixture *f, size_t from, enum cmd_status status, const void *detail, size_t len)
{
    for (size_t i = from; i < f->held_count; i++)
        f->held[i].done(f->held[i].arg, status, i + 1, detail, len);
    f->held_count = from;
}

static void tell_passes(struct fixture *f, const char *value)
{
    const struct frame_pass pass = {.status = PASS_OK, .ttl_ms = 5, .serial = 6};
    for (size_t i = 0; i < f->passes.count; i++)
        f->passes.done[i](f->passes.arg[i], &pass, value, strlen(value));
    f->passes.count = 0;
}

/* Proposals under way outlive the channel's close, and everything is freed when the last is answered. */
static int teardown(void **state)
{
    struct fixture *f = *state;
    channel_close(f->channel);
    turn(f);
    answer(f, 0, CMD_UNKNOWN_OUTCOME, NULL, 0);
    tell_passes(f, "");
    turn(f);
    int err = uv_loop_close(&f->loop);
    close(f->peer);
    free(f);
    return err;
}

static size_t put_frame(uint8_t *out, uint16_t frame_type, uint16_t cmd_type, uint64_t id)
{
    struct wire_writer w = {.buf = out + sizeof(struct frame_head), .cap = 256};
    struct cmd_head head = {.type = cmd_type, .actor = "a", .actor_len = 1, .source = "", .request_id = ""};
    cmd_put_head(&w, &head);
    struct frame_head frame = {
        .bytes = (uint32_t)w.len, .type = frame_type, .version = LINK_VERSION, .id = id};
    memcpy(out, &frame, sizeof(frame));
    return sizeof(frame) + w.len;
}

static void send_all(struct fixture *f, const uint8_t *data, size_t len)
{
    assert_int_equal(send(f->peer, data, len, MSG_NOSIGNAL), (ssize_t)len);
}

static void test_frames_at_any_cut(void **state)
{
    struct fixture *f = *state;
    uint8_t frames[600];
    size_t one = put_frame(frames, FRAME_PROPOSE, CMD_BLOB_LINK, 7);
    size_t len = one + put_frame(frames + one, FRAME_PROPOSE, CMD_MANIFEST_PUT, 8);
    for (size_t cut = 0; cut <= len; cut++) {
        f->held_count = 0;
        send_all(f, frames, cut);
        turn(f);
        send_all(f, frames + cut, len - cut);
        turn(f);
        assert_int_equal(f->held_count, 2);
        answer(f, 0, CMD_OK, NULL, 0);
        turn(f);
        struct {
            struct frame_head head;
            struct frame_result result;
        } results[2];
        assert_int_equal(recv(f->peer, results, sizeof(results), MSG_WAITALL), sizeof(results));
        assert_int_equal(results[0].head.id, 7);
        assert_int_equal(results[1].head.id, 8);
        assert_int_equal(results[1].head.type, FRAME_RESULT);
        assert_int_equal(results[1].result.index, 2);
    }
    assert_int_equal(f->ended, 0);
}

static void test_detail_is_bounded(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[300], detail[2 * CHANNEL_DETAIL_MAX];
    memset(detail, 5, sizeof(detail));
    send_all(f, frame, put_frame(frame, FRAME_PROPOSE, CMD_BLOB_MOUNT, 1));
    turn(f);
    answer(f, 0, CMD_BLOB_UNKNOWN, detail, sizeof(detail));
    turn(f);
    struct frame_head head;
    assert_int_equal(recv(f->peer, &head, sizeof(head), MSG_WAITALL), sizeof(head));
    assert_int_equal(head.bytes, sizeof(struct frame_result) + CHANNEL_DETAIL_MAX);
}

static void test_breaches(void **state)
{
    static const struct {
        struct frame_head head;
        uint16_t cmd_type;
    } rows[] = {
        {{.type = FRAME_RESULT, .version = LINK_VERSION}, CMD_BLOB_LINK},
        {{.type = 0, .version = LINK_VERSION}, CMD_BLOB_LINK},
        {{.type = FRAME_PROPOSE, .version = LINK_VERSION + 1}, CMD_BLOB_LINK},
        {{.type = FRAME_PROPOSE, .version = LINK_VERSION, .bytes = UINT32_MAX}, CMD_BLOB_LINK},
        {{.type = FRAME_PROPOSE, .version = LINK_VERSION, .bytes = FRAME_BYTES_MAX + 1}, CMD_BLOB_LINK},
        {{.type = FRAME_PROPOSE, .version = LINK_VERSION}, CMD_SETTING_SET},
        {{.type = FRAME_PROPOSE, .version = LINK_VERSION}, CMD_SETTING_UNSET},
        {{.type = FRAME_PROPOSE, .version = LINK_VERSION}, CMD_REPO_DELETE},
        {{.type = FRAME_PROPOSE, .version = LINK_VERSION}, CMD_NONE},
        {{.type = FRAME_PROPOSE, .version = LINK_VERSION}, CMD_TYPE_COUNT},
        {{.type = FRAME_PROPOSE, .version = LINK_VERSION, .bytes = 3}, CMD_BLOB_LINK},
        {{.type = FRAME_JOB, .version = LINK_VERSION, .bytes = sizeof(struct frame_job)}, CMD_BLOB_LINK},
        {{.type = FRAME_JOB_DONE, .version = LINK_VERSION, .bytes = 15}, CMD_BLOB_LINK},
        {{.type = FRAME_JOB_DONE, .version = LINK_VERSION, .bytes = 16}, CMD_BLOB_LINK}, /* no result */
        {{.type = FRAME_DAMAGED, .version = LINK_VERSION, .bytes = 8}, CMD_BLOB_LINK},
        {{.type = FRAME_ADOPTED, .version = LINK_VERSION, .bytes = 16}, CMD_BLOB_LINK}, /* no repository */
        {{.type = FRAME_ADOPTED, .version = LINK_VERSION, .bytes = 17 + REPO_NAME_MAX}, CMD_BLOB_LINK},
        {{.type = FRAME_PASS, .version = LINK_VERSION, .bytes = 16}, CMD_BLOB_LINK},
        {{.type = FRAME_PASS_WANTED, .version = LINK_VERSION, .bytes = 24}, CMD_BLOB_LINK},
        {{.type = FRAME_PASS_WANTED, .version = LINK_VERSION, .bytes = 4096}, CMD_BLOB_LINK},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (i) {
            assert_int_equal(teardown(state), 0);
            setup(state);
        }
        struct fixture *f = *state;
        uint8_t frame[300];
        struct frame_head head;
        size_t len = put_frame(frame, FRAME_PROPOSE, rows[i].cmd_type, 1);
        memcpy(&head, frame, sizeof(head));
        head.type = rows[i].head.type;
        head.version = rows[i].head.version;
        head.bytes = rows[i].head.bytes ? rows[i].head.bytes : head.bytes;
        memcpy(frame, &head, sizeof(head));
        send_all(f, frame, len);
        turn(f);
        assert_int_equal(f->ended, 1);
        assert_non_null(f->why);
        assert_int_equal(f->held_count, 0);
    }
}

static void test_other_end_closes(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[300];
    send_all(f, frame, put_frame(frame, FRAME_PROPOSE, CMD_TAG_DELETE, 1));
    turn(f);
    shutdown(f->peer, SHUT_RDWR);
    turn(f);
    assert_int_equal(f->ended, 1);
    assert_null(f->why);
    answer(f, 0, CMD_OK, NULL, 0);
}

/* A ring that only proposes is not read beyond the bound, and goes on when it has its results. */
static void test_backpressure(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[300];
    size_t len = put_frame(frame, FRAME_PROPOSE, CMD_BLOB_LINK, 1), sent = 0;
    for (int round = 0; round < 3 * CHANNEL_PROPOSALS_MAX / 64; round++) {
        for (int i = 0; i < 64 && sent < 2 * CHANNEL_PROPOSALS_MAX; i++)
            sent += send(f->peer, frame, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
        turn(f);
    }
    assert_int_equal(f->held_count, CHANNEL_PROPOSALS_MAX);
    answer(f, CHANNEL_PROPOSALS_MAX / 2, CMD_OK, NULL, 0);
    static uint8_t results[1 << 20];
    while (recv(f->peer, results, sizeof(results), MSG_DONTWAIT) > 0)
        turn(f);
    assert_true(f->held_count > CHANNEL_PROPOSALS_MAX / 2);
    assert_true(f->held_count <= CHANNEL_PROPOSALS_MAX);
}

static void test_jobs(void **state)
{
    struct fixture *f = *state;
    struct {
        struct frame_head head;
        struct frame_job job;
    } got;
    struct frame_job job = {.kind = JOB_VERIFY, .arg = 5};
    struct {
        struct frame_head head;
        struct frame_job_done done;
    } answer = {{.bytes = 16, .type = FRAME_JOB_DONE, .version = LINK_VERSION, .id = 77},
                {.result = JOB_DAMAGED, .detail = 9}};
    struct {
        struct frame_head head;
        struct frame_damaged damaged;
    } note = {{.bytes = sizeof(struct frame_damaged), .type = FRAME_DAMAGED, .version = LINK_VERSION},
              {.bytes = 12}};
    struct digest d = {.alg = DIGEST_SHA256, .bytes = {1, 2, 3}};
    assert_int_equal(channel_job(f->channel, 77, &job), 0);
    turn(f);
    assert_int_equal(recv(f->peer, &got, sizeof(got), MSG_WAITALL), sizeof(got));
    assert_int_equal(got.head.type, FRAME_JOB);
    assert_int_equal(got.head.id, 77);
    assert_memory_equal(&got.job, &job, sizeof(job));
    send_all(f, (const uint8_t *)&answer, sizeof(answer));
    turn(f);
    assert_int_equal(f->told.count, 1);
    assert_int_equal(f->told.id, 77);
    assert_int_equal(f->told.result, JOB_DAMAGED);
    assert_int_equal(f->told.detail, 9);
    (void)digest_pack(&d, note.damaged.digest);
    send_all(f, (const uint8_t *)&note, sizeof(note));
    turn(f);
    assert_int_equal(f->told.count, 2);
    assert_int_equal(f->told.detail, 12);
    assert_true(digest_equal(&f->told.damaged, &d));
    struct {
        struct frame_head head;
        struct frame_adopted adopted;
        char repo[8];
    } upload = {{.bytes = sizeof(struct frame_adopted) + 3, .type = FRAME_ADOPTED, .version = LINK_VERSION},
                {.node = 5, .bytes = 1000},
                "a/b"};
    send_all(f, (const uint8_t *)&upload, sizeof(upload.head) + upload.head.bytes);
    turn(f);
    assert_int_equal(f->told.count, 3);
    assert_int_equal(f->told.id, 5);
    assert_int_equal(f->told.detail, 1000);
    assert_true(f->repo_is_right);
    note.damaged.digest[0] = 0; /* of no algorithm */
    send_all(f, (const uint8_t *)&note, sizeof(note));
    turn(f);
    assert_int_equal(f->ended, 1);
    assert_int_equal(channel_job(f->channel, 78, &job), -ENOTCONN);
}

static size_t put_wanted(uint8_t *out, uint64_t id, const char *repo, const char *challenge)
{
    const struct frame_pass_wanted wanted = {.source = 9,
                                             .refused = 4,
                                             .repo_len = (uint16_t)strlen(repo),
                                             .challenge_len = (uint16_t)strlen(challenge)};
    const struct frame_head head = {.bytes = (uint32_t)(sizeof(wanted) + strlen(repo) + strlen(challenge)),
                                    .type = FRAME_PASS_WANTED,
                                    .version = LINK_VERSION,
                                    .id = id};
    memcpy(out, &head, sizeof(head));
    memcpy(out + sizeof(head), &wanted, sizeof(wanted));
    memcpy(out + sizeof(head) + sizeof(wanted), repo, strlen(repo));
    memcpy(out + sizeof(head) + sizeof(wanted) + strlen(repo), challenge, strlen(challenge));
    return sizeof(head) + head.bytes;
}

static void test_passes(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[200];
    struct {
        struct frame_head head;
        struct frame_pass pass;
        char value[8];
    } got;
    send_all(f, frame, put_wanted(frame, 31, "a/b", "Basic"));
    turn(f);
    assert_int_equal(f->passes.count, 1);
    assert_true(f->passes.repo_is_right);
    assert_int_equal(f->passes.wanted.challenge_len, 5);
    assert_int_equal(f->passes.wanted.source, 9);
    assert_int_equal(f->passes.wanted.refused, 4);
    tell_passes(f, "Bearer x");
    turn(f);
    assert_int_equal(recv(f->peer, &got, sizeof(got), MSG_WAITALL), sizeof(got));
    assert_int_equal(got.head.type, FRAME_PASS);
    assert_int_equal(got.head.id, 31);
    assert_int_equal(got.pass.status, PASS_OK);
    assert_memory_equal(got.value, "Bearer x", 8);
    size_t len = put_wanted(frame, 1, "a", "");
    for (int i = 0; i < CHANNEL_ASKED_MAX + 5; i++) {
        send_all(f, frame, len);
        if (i % 64 == 0) /* the socket has not got room for all */
            turn(f);
    }
    for (int i = 0; i < 20; i++)
        turn(f);
    assert_int_equal(f->passes.count, CHANNEL_ASKED_MAX); /* the others are told to come again */
    for (int i = 0; i < 5; i++) {
        assert_int_equal(recv(f->peer, &got, sizeof(got.head) + sizeof(got.pass), MSG_WAITALL),
                         sizeof(got.head) + sizeof(got.pass));
        assert_int_equal(got.pass.status, PASS_UNAVAILABLE);
    }
    assert_int_equal(f->ended, 0);
}

static void test_ways(void **state)
{
    struct fixture *f = *state;
    struct {
        struct frame_head head;
        struct frame_way_wanted wanted;
        char host[4];
    } ask = {{.bytes = 20, .type = FRAME_WAY_WANTED, .version = LINK_VERSION, .id = 5},
             {.source = 9, .port = 443, .tls = 1, .host_len = 4},
             "host"};
    struct {
        struct frame_head head;
        struct frame_way way;
    } got;
    const size_t len = sizeof(ask.head) + sizeof(ask.wanted) + sizeof(ask.host);
    send_all(f, (const uint8_t *)&ask, len);
    turn(f);
    assert_true(f->way_is_right);
    assert_int_equal(recv(f->peer, &got, sizeof(got), MSG_WAITALL), sizeof(got));
    assert_int_equal(got.head.type, FRAME_WAY);
    assert_int_equal(got.head.id, 5);
    assert_int_equal(got.way.place, 443);
    assert_int_equal(got.way.incarnation, 1);
    ask.wanted.host_len = 3;
    send_all(f, (const uint8_t *)&ask, len);
    turn(f);
    assert_int_equal(f->ended, 1);
    assert_non_null(f->why);
}

/* Lengths that do not add up, and texts that end early. */
static void test_bad_passes(void **state)
{
    for (int i = 0; i < 4; i++) {
        if (i) {
            assert_int_equal(teardown(state), 0);
            setup(state);
        }
        struct fixture *f = *state;
        uint8_t frame[200];
        size_t len = put_wanted(frame, 1, "a/b", "Basic");
        struct frame_pass_wanted wanted;
        memcpy(&wanted, frame + sizeof(struct frame_head), sizeof(wanted));
        wanted.source = i == 0 ? 0 : wanted.source;
        wanted.repo_len = i == 1 ? 4 : wanted.repo_len;
        wanted.challenge_len = i == 2 ? UINT16_MAX : wanted.challenge_len;
        memcpy(frame + sizeof(struct frame_head), &wanted, sizeof(wanted));
        if (i == 3)
            frame[len - 1] = '\0';
        send_all(f, frame, len);
        turn(f);
        assert_int_equal(f->ended, 1);
        assert_non_null(f->why);
        assert_int_equal(f->passes.count, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_frames_at_any_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_detail_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_breaches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_end_closes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backpressure, setup, teardown),
        cmocka_unit_test_setup_teardown(test_jobs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_passes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_passes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ways, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
