/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory that control and the data plane share, one memfd each, made by control so that it outlives a
 * data plane: counters (written by rings, read by control and by the admin listener) and the log ring
 * (written by one ring, drained by control). Nothing in here is trusted by its reader.
 */
#ifndef FL_SHARED_H
#define FL_SHARED_H

#include <stdbool.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"

enum counter_id {
#define COUNTER(symbol, name, kind, unit, text) CTR_##symbol,
#include "counters.def"
#undef COUNTER
    COUNTERS_COUNT
};

enum close_reason {
#define REASON(symbol, name, is_error, text) CLOSE_##symbol,
#include "reasons.def"
#undef REASON
    CLOSE_REASONS_COUNT
};

static inline bool close_is_error(enum close_reason reason)
{
    static const bool is_error[CLOSE_REASONS_COUNT] = {
#define REASON(symbol, name, is_error, text) [CLOSE_##symbol] = is_error,
#include "reasons.def"
#undef REASON
    };
    return is_error[reason];
}

enum target_counter_id {
#define TARGET(symbol, name, kind, unit, text) TARGET_##symbol,
#include "targets.def"
#undef TARGET
    TARGET_COUNTERS_COUNT
};

/* Reasons for which connections between nodes end, in the order of mesh_reasons.def. */
enum {
    MESH_ENDS_COUNT = 0
#define MESH_REASON(symbol, name, text) +1
#include "mesh_reasons.def"
#undef MESH_REASON
};

enum election_cause {
#define ELECTION_CAUSE(symbol, name, text) ELECTION_##symbol,
#include "election_causes.def"
#undef ELECTION_CAUSE
    ELECTION_CAUSES_COUNT
};

enum {
    SHARED_MAGIC = 0x31534c46, /* "FLS1" */
    SHARED_VERSION = 6,
    LATENCY_BUCKETS = 32, /* bucket i counts durations below 2^i microseconds; the last one the rest */
};

/* Classes of requests with a latency histogram and a count of their own. */
enum request_class {
    CLASS_BLOB_GET,
    CLASS_MANIFEST_GET,
    CLASS_UPLOAD,
    CLASS_MANIFEST_PUT,
    CLASS_LIST,
    CLASS_OTHER,
    CLASSES_COUNT
};
#define REQUEST_CLASS_NAMES                                                                                  \
    {                                                                                                        \
        "blob_get", "manifest_get", "upload", "manifest_put", "list", "other"                                \
    }

/*
 * What a ring counts of one backend. A slot belongs to the backend whose key it has, and is at most
 * TARGET_PROBES behind the place that the key's id says, so that it is found again by everybody. 0: it is
 * free.
 */
enum { TARGET_SLOTS = 1024, TARGET_PROBES = 32 };

struct target_slot {
    _Atomic uint64_t key; /* target_key */
    _Atomic uint64_t value[TARGET_COUNTERS_COUNT];
};

static inline uint64_t target_key(uint32_t id, uint16_t generation)
{
    return 1ull << 63 | (uint64_t)generation << 32 | id;
}

/* The n-th place at which a key may be. */
static inline unsigned target_place(uint64_t key, unsigned n)
{
    return ((uint32_t)key + n) % TARGET_SLOTS;
}

/* One writer: the ring; relaxed atomic stores, so a reader sees each value whole. */
struct ring_counters {
    _Atomic uint64_t counter[COUNTERS_COUNT];
    _Atomic uint64_t closed[CLOSE_REASONS_COUNT];
    _Atomic uint64_t latency[CLASSES_COUNT][LATENCY_BUCKETS]; /* time to first byte of the response */
    _Atomic uint64_t latency_sum_us[CLASSES_COUNT];
    _Atomic uint64_t store_errno; /* of the last error of the store's file system; control sets it to 0 */
    struct target_slot target[TARGET_SLOTS];
} __attribute__((aligned(64)));

/* What a ring counts of a backend; NULL: nothing so far. */
static inline const struct target_slot *target_find(const struct ring_counters *ring, uint64_t key)
{
    for (unsigned n = 0; n < TARGET_PROBES; n++) {
        const struct target_slot *slot = &ring->target[target_place(key, n)];
        if (atomic_load_explicit(&slot->key, memory_order_acquire) == key)
            return slot;
    }
    return NULL;
}

/* How the disk of the state, or of the store, is. */
enum disk_state {
    DISK_OK,
    DISK_FULL,
    DISK_READ_ONLY,
    DISK_FAILING, /* errors, or no answer */
    DISK_MISSING, /* another folder is at its path than the one that it was, or an empty one */
    DISK_OTHER,   /* of the store: it is another one */
    DISK_STATES_COUNT
};
#define DISK_STATE_NAMES                                                                                     \
    {                                                                                                        \
        "ok", "full", "read-only", "failing", "missing", "other"                                             \
    }

/* What control publishes for /metrics and /readyz; one writer: control, and while it is away the data plane.
 */
struct control_counters {
    _Atomic uint64_t raft_term, raft_last_index, raft_commit_index, raft_applied_index, raft_is_leader;
    _Atomic uint64_t raft_silence_ms;
    _Atomic uint64_t raft_log_bytes, raft_snapshot_index, raft_proposals, raft_fsyncs, raft_fsync_us_sum;
    _Atomic uint64_t names_bytes, private_bytes;
    _Atomic uint64_t blobs, blob_bytes, unlinked_blobs, unlinked_bytes; /* of all repositories, each once */
    _Atomic uint64_t gc_runs, gc_files, gc_file_bytes, gc_running, gc_errors, gc_ended_s;
    _Atomic uint64_t dataplane_restarts, plan_generation, start_time_s;
    _Atomic uint64_t scrub_running, scrub_begun_s, scrub_ended_s, blobs_damaged_now;
    _Atomic uint64_t mesh_others, mesh_connected, mesh_followers;
    _Atomic uint64_t mesh_ended[MESH_ENDS_COUNT];
    _Atomic uint64_t raft_elections[ELECTION_CAUSES_COUNT];
    _Atomic uint64_t repair_endangered, repair_endangered_bytes, repair_lost, repair_surplus;
    _Atomic uint64_t repair_copied, repair_copied_bytes, repair_let_go, repair_failed;
    _Atomic uint64_t pulls_waiting, pulls_dropped;
    _Atomic uint64_t mirror_rules, mirror_failing, mirror_lag_s, mirror_tags, mirror_bytes, mirror_failures;
    _Atomic uint64_t state_disk, store_disk; /* enum disk_state */
    _Atomic uint64_t state_free_bytes, store_free_bytes, store_total_bytes;
    _Atomic uint64_t ready; /* 1: the state is loaded and writes are possible */
} __attribute__((aligned(64)));

struct counters_page {
    uint32_t magic, version;
    uint32_t rings;
    uint32_t pad;
    struct control_counters control;
    struct ring_counters ring[RINGS_MAX];
};

/*
 * A ring of log records: one producer (a data plane ring), one consumer (control). Positions grow for ever;
 * a record is at position % LOG_RING_BYTES, wraps around, and is {u32 length of the body, u8 kind, 3 zero
 * bytes, body}, padded to 8 bytes. The producer drops (and counts) what does not fit. The consumer must check
 * every length: the producer is not trusted.
 */
enum { LOG_RING_BYTES = 1 << 20, LOG_RECORD_MAX = 16 << 10 };

/* Kinds tell where a body goes. A line is one JSON object without a line end, ready to be written; of a pull
 * it is as pull.h says. */
enum log_kind { LOG_ACCESS_LINE = 1, LOG_ERROR_LINE = 2, LOG_TRACE_LINE = 3, LOG_PULL = 4 };

/* Which pulls are told (log_page.pulls). */
enum pulls_wanted { PULLS_MANIFESTS = 1 << 0, PULLS_BLOBS = 1 << 1, PULLS_HEADS = 1 << 2 };

struct log_ring {
    _Atomic uint64_t head; /* written by the producer */
    uint8_t pad0[56];
    _Atomic uint64_t tail; /* written by the consumer */
    uint8_t pad1[56];
    uint8_t data[LOG_RING_BYTES];
};

struct log_page {
    uint32_t magic, version;
    _Atomic uint32_t access_on, trace_on, pulls; /* written by control; pulls: enum pulls_wanted */
    uint8_t pad[44];
    struct log_ring ring[RINGS_MAX]; /* only the first `rings` of them are backed by memory */
};

#endif
