/* SPDX-License-Identifier: Apache-2.0 */
/* Raft's messages as bytes: each comes out as it went in, and what the library could not bear does not come
 * out at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/raft/raft_codec.h"
#include "wire.h"

static struct raft_buffer configuration(unsigned servers)
{
    struct raft_configuration conf;
    struct raft_buffer buf;
    char address[16];
    raft_configuration_init(&conf);
    for (unsigned i = 1; i <= servers; i++) {
        snprintf(address, sizeof(address), "node-%u", i);
        assert_int_equal(raft_configuration_add(&conf, i, address, i % 3 ? RAFT_VOTER : RAFT_STANDBY), 0);
    }
    assert_int_equal(raft_configuration_encode(&conf, &buf), 0);
    raft_configuration_close(&conf);
    return buf;
}

/* Encodes, keeps a copy of its own size (so that a sanitizer sees every byte too far), decodes. */
static int pass(const struct raft_message *in, const struct snapshot_meta *handle, struct raft_message *out,
                struct snapshot_meta *snapshot, void **bytes, size_t *len)
{
    void *data;
    assert_int_equal(raft_codec_encode(in, handle, &data, len), 0);
    *bytes = malloc(*len);
    memcpy(*bytes, data, *len);
    free(data);
    return raft_codec_decode(*bytes, *len, out, snapshot);
}

static void test_entries(void **state)
{
    struct raft_buffer conf = configuration(5);
    char text[] = "a command";
    struct raft_entry entries[] = {{.term = 3, .type = RAFT_COMMAND, .buf = {text, sizeof(text)}},
                                   {.term = 3, .type = RAFT_BARRIER, .buf = {text, 0}},
                                   {.term = 4, .type = RAFT_CHANGE, .buf = conf}};
    struct raft_message in = {.type = RAFT_APPEND_ENTRIES}, out;
    in.append_entries = (struct raft_append_entries){.version = 0,
                                                     .term = 5,
                                                     .prev_log_index = 7,
                                                     .prev_log_term = 3,
                                                     .leader_commit = 6,
                                                     .entries = entries,
                                                     .n_entries = 3};
    struct snapshot_meta snapshot;
    void *bytes;
    size_t len;
    (void)state;
    assert_int_equal(pass(&in, NULL, &out, &snapshot, &bytes, &len), 0);
    assert_int_equal(out.type, RAFT_APPEND_ENTRIES);
    assert_int_equal(out.append_entries.term, 5);
    assert_int_equal(out.append_entries.prev_log_index, 7);
    assert_int_equal(out.append_entries.prev_log_term, 3);
    assert_int_equal(out.append_entries.leader_commit, 6);
    assert_int_equal(out.append_entries.n_entries, 3);
    for (int i = 0; i < 3; i++) {
        const struct raft_entry *e = &out.append_entries.entries[i];
        assert_int_equal(e->term, entries[i].term);
        assert_int_equal(e->type, entries[i].type);
        assert_int_equal(e->buf.len, entries[i].buf.len);
        assert_memory_equal(e->buf.base, entries[i].buf.base, e->buf.len);
    }
    raft_codec_free(&out, &snapshot);
    /* Every beginning of it is refused. */
    for (size_t i = 0; i < len; i++) {
        uint8_t *part = malloc(i + 1);
        memcpy(part, bytes, i);
        assert_int_equal(raft_codec_decode(part, i, &out, &snapshot), -EBADMSG);
        free(part);
    }
    free(bytes);
    raft_free(conf.base);
}

static void test_others(void **state)
{
    struct raft_message in[] = {
        {.type = RAFT_APPEND_ENTRIES_RESULT,
         .append_entries_result =
             {.version = 1, .term = 9, .rejected = 8, .last_log_index = 7, .features = 1}},
        {.type = RAFT_REQUEST_VOTE,
         .request_vote = {.version = 2,
                          .term = 9,
                          .candidate_id = 3,
                          .last_log_index = 4,
                          .last_log_term = 2,
                          .disrupt_leader = true}},
        {.type = RAFT_REQUEST_VOTE_RESULT,
         .request_vote_result =
             {.version = 3, .term = 9, .vote_granted = true, .pre_vote = true, .capacity = 77}},
        {.type = RAFT_TIMEOUT_NOW, .timeout_now = {.term = 9, .last_log_index = 5, .last_log_term = 8}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(in) / sizeof(in[0]); i++) {
        struct raft_message out;
        struct snapshot_meta snapshot;
        void *bytes, *again;
        size_t len, again_len;
        assert_int_equal(pass(&in[i], NULL, &out, &snapshot, &bytes, &len), 0);
        assert_int_equal(out.type, in[i].type);
        assert_int_equal(raft_codec_encode(&out, &snapshot, &again, &again_len), 0);
        assert_int_equal(len, again_len);
        assert_memory_equal(bytes, again, len);
        raft_codec_free(&out, &snapshot);
        free(again);
        free(bytes);
    }
}

static void test_handle(void **state)
{
    struct raft_buffer conf = configuration(3);
    struct snapshot_meta handle = {.cluster_id = "a cluster",
                                   .node_id = 2,
                                   .index = 100,
                                   .term = 4,
                                   .configuration_index = 90,
                                   .configuration = conf.base,
                                   .configuration_len = conf.len,
                                   .bytes = {4096, 8192},
                                   .sha256 = {{1}, {2}}};
    struct raft_message in = {.type = RAFT_INSTALL_SNAPSHOT, .install_snapshot = {.term = 5}}, out;
    struct snapshot_meta got;
    void *bytes;
    size_t len;
    (void)state;
    assert_int_equal(pass(&in, &handle, &out, &got, &bytes, &len), 0);
    assert_int_equal(out.install_snapshot.term, 5);
    assert_int_equal(out.install_snapshot.last_index, 100);
    assert_int_equal(out.install_snapshot.last_term, 4);
    assert_int_equal(out.install_snapshot.conf_index, 90);
    assert_int_equal(got.node_id, 2);
    assert_int_equal(got.bytes[1], 8192);
    assert_memory_equal(got.sha256, handle.sha256, sizeof(got.sha256));
    assert_int_equal(got.configuration_len, conf.len);
    assert_memory_equal(got.configuration, conf.base, conf.len);
    raft_codec_free(&out, &got);
    /* One bit of the handle: its checksum says so. */
    ((uint8_t *)bytes)[len - 20] ^= 1;
    assert_int_equal(raft_codec_decode(bytes, len, &out, &got), -EBADMSG);
    free(bytes);
    assert_int_equal(raft_codec_encode(&in, NULL, &bytes, &len), -EINVAL);
    /* A snapshot from the future of the one who offers it. */
    handle.term = 6;
    assert_int_equal(pass(&in, &handle, &out, &got, &bytes, &len), -EBADMSG);
    free(bytes);
    raft_free(conf.base);
}

static int decode_entry(raft_term before, raft_term entry_term, raft_term term, int type, const void *data,
                        size_t data_len)
{
    struct raft_entry e = {.term = entry_term, .type = type, .buf = {(void *)(uintptr_t)data, data_len}};
    struct raft_message in = {.type = RAFT_APPEND_ENTRIES}, out;
    in.append_entries = (struct raft_append_entries){.term = term,
                                                     .prev_log_index = before ? 1 : 0,
                                                     .prev_log_term = before,
                                                     .entries = &e,
                                                     .n_entries = 1};
    struct snapshot_meta snapshot;
    void *bytes;
    size_t len;
    int rc = pass(&in, NULL, &out, &snapshot, &bytes, &len);
    if (rc == 0)
        raft_codec_free(&out, &snapshot);
    free(bytes);
    return rc;
}

static void test_nonsense(void **state)
{
    struct raft_buffer conf = configuration(3);
    uint8_t *bent = conf.base;
    (void)state;
    assert_int_equal(decode_entry(2, 2, 3, RAFT_COMMAND, "x", 1), 0);
    assert_int_equal(decode_entry(2, 1, 3, RAFT_COMMAND, "x", 1), -EBADMSG); /* terms go backwards */
    assert_int_equal(decode_entry(2, 4, 3, RAFT_COMMAND, "x", 1), -EBADMSG); /* ahead of the leader */
    assert_int_equal(decode_entry(4, 4, 3, RAFT_COMMAND, "x", 1), -EBADMSG);
    assert_int_equal(decode_entry(0, 0, 3, RAFT_COMMAND, "x", 1), -EBADMSG);
    assert_int_equal(decode_entry(2, 2, 3, 4, "x", 1), -EBADMSG);
    assert_int_equal(decode_entry(2, 2, 3, 0, "x", 1), -EBADMSG);
    assert_int_equal(decode_entry(2, 2, 3, RAFT_CHANGE, conf.base, conf.len), 0);
    assert_int_equal(decode_entry(2, 2, 3, RAFT_CHANGE, conf.base, conf.len - 8), -EBADMSG);
    assert_int_equal(decode_entry(2, 2, 3, RAFT_CHANGE, "", 0), -EBADMSG);
    bent[1] = 200; /* so many servers are not in it */
    assert_false(raft_codec_configuration_ok(conf.base, conf.len));
    bent[1] = 2; /* more follows than fills it up */
    assert_false(raft_codec_configuration_ok(conf.base, conf.len));
    bent[0] = 9;
    assert_false(raft_codec_configuration_ok(conf.base, conf.len));
    raft_free(conf.base);
    struct raft_message out;
    struct snapshot_meta snapshot;
    const uint8_t other[] = {2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    assert_int_equal(raft_codec_decode(other, sizeof(other), &out, &snapshot), -EPROTO);
}

static void test_parts(void **state)
{
    static uint8_t bytes[RAFT_PART_HEAD_BYTES + RAFT_CODEC_PART_BYTES];
    struct raft_part in = {7, 3000, 2000, (const uint8_t *)"part", 4}, out;
    (void)state;
    size_t len = raft_part_encode(&in, bytes);
    assert_int_equal(len, RAFT_PART_HEAD_BYTES + 4);
    assert_int_equal(raft_part_decode(bytes, len, &out), 0);
    assert_int_equal(out.number, 7);
    assert_int_equal(out.total, 3000);
    assert_int_equal(out.at, 2000);
    assert_memory_equal(out.data, "part", 4);
    assert_int_equal(raft_part_decode(bytes, len - 1, &out), -EBADMSG);
    in.at = 2998; /* beyond the end */
    assert_int_equal(raft_part_decode(bytes, raft_part_encode(&in, bytes), &out), -EBADMSG);
    in = (struct raft_part){7, RAFT_CODEC_BYTES_MAX + 1u, 0, (const uint8_t *)"part", 4};
    assert_int_equal(raft_part_decode(bytes, raft_part_encode(&in, bytes), &out), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries),  cmocka_unit_test(test_others), cmocka_unit_test(test_handle),
        cmocka_unit_test(test_nonsense), cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
