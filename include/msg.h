/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between control and the data plane.
 *
 * The link: a SOCK_SEQPACKET pair, descriptor LINK_FD in the data plane; one message a packet, descriptors by
 * SCM_RIGHTS. Control begins:
 *   HELLO (fds: counters memfd, log memfd, epochs memfd, the folders blobs, uploads and damaged, names file,
 *          and a unix socket with a name, on which the data plane listens for the control that comes after
 *          this one)
 *   RING x rings (fd: that ring's channel)      LISTENER x n (fd: a listening socket, and its slot)
 *   CERTS (fd: sealed memfd, certs.h)            VERDICTS (fds: the kernel's maps verdicts, to be read, and
 *   evidence; abi.h)                             PLAN (fd: sealed memfd)                      GO
 * The data plane answers HELLO_REPLY at once and READY when every ring runs. Later PLAN (preceded by LISTENER
 * for new addresses) is answered by PLAN_APPLIED, DRAIN by DRAINED and an exit with status 0. UNLISTEN (a
 * slot) makes the data plane close that listening socket, on the ring that accepts from it; what was accepted
 * goes on. CERTS comes again when certificates have changed; connections that are open keep theirs. VERDICTS
 * comes again when the kernel has another set of maps, and without descriptors when it has none. UNLISTEN
 * is sent when control has closed its own copy, and before the plan that has not got the address any more;
 * the slot may be used again at once. A version that does not match is answered with the own version in
 * HELLO_REPLY and an exit: both are installed together.
 *
 * When control has gone, the data plane serves on and takes the next one's connection as its link (adoption):
 *   ADOPT (the control's version and layout), answered by
 *   ADOPT_REPLY (fds: counters memfd, log memfd, epochs memfd, names file) and LISTENER x n
 * If version, layout (layout.h) and number of rings are its own, control goes on with
 *   RING x rings      LISTENER (what is new)      PLAN (of the same cluster and node, newer)      GO
 * and gets PLAN_APPLIED and READY. Else it has the listening sockets, and ends the data plane. The layout of
 * struct link_message and of these three messages is the same in every version.
 *
 * A ring's channel: a SOCK_STREAM pair that carries frames: struct frame_head, then `bytes` of body.
 *   PROPOSE  data plane -> control: body is a command (cmd.h)
 *   RESULT   control -> data plane: body is struct frame_result, then its detail
 *   JOB      control -> data plane: body is struct frame_job: background work on a blob of the store
 *   JOB_DONE data plane -> control: body is struct frame_job_done; once for each job, in any order
 *   DAMAGED  data plane -> control: body is struct frame_damaged: a blob was found to be damaged on its way
 *            to somebody, and is quarantined; no answer. Its id is 0.
 *   ADOPTED  data plane -> control: body is struct frame_adopted, then a repository's name: an upload to it
 * whose replica is away goes on here; no answer. Its id is 0. PASS_WANTED  data plane -> control: body is
 * struct frame_pass_wanted, then a repository's name and what the registry behind it wants (401): who may
 * read there is control's to know PASS     control -> data plane: body is struct frame_pass, then what is to
 * be shown; once for each WAY_WANTED  data plane -> control: body is struct frame_way_wanted, then the name
 * of the host to which the registry sends whoever reads there: may it be asked, and at which place of the
 * plan does it stand WAY control -> data plane: body is struct frame_way, once for each; the plan with it is
 * in use then If either end closes, every proposal under way has an unknown outcome, and so has every job:
 * all kinds of jobs may be asked for again, whatever came of them.
 */
#ifndef FL_MSG_H
#define FL_MSG_H

#include <stdint.h>

#include "digest.h"
#include "limits.h"

enum {
    LINK_FD = 3, /* number of the link's descriptor in a new data plane */
    LINK_VERSION = 7,
    LINK_MESSAGE_MAX = 512,
    LINK_FDS_MAX = 12,
    JOBS_UNDERWAY_MAX = 64, /* of one channel */
};

enum link_type {
    LINK_HELLO = 1,
    LINK_RING,
    LINK_LISTENER,
    LINK_PLAN,
    LINK_GO,
    LINK_DRAIN,
    LINK_HELLO_REPLY,
    LINK_READY,
    LINK_PLAN_APPLIED,
    LINK_DRAINED,
    LINK_ADOPT,
    LINK_ADOPT_REPLY,
    LINK_UNLISTEN,
    LINK_CERTS,
    LINK_VERDICTS,
};

/* Exit status of a data plane that this machine does not allow to run: another try changes nothing. */
enum { DATAPLANE_EXIT_FORBIDDEN = 78 };

/* Descriptors of HELLO, in this order. */
enum hello_fd {
    HELLO_COUNTERS,
    HELLO_LOG,
    HELLO_EPOCHS,
    HELLO_BLOBS,
    HELLO_UPLOADS,
    HELLO_DAMAGED,
    HELLO_NAMES,
    HELLO_ADOPT,
    HELLO_FDS
};

/* Descriptors of ADOPT_REPLY, in this order. */
enum adopt_fd { ADOPT_COUNTERS, ADOPT_LOG, ADOPT_EPOCHS, ADOPT_NAMES, ADOPT_FDS };

struct link_message {
    uint32_t type; /* enum link_type */
    uint32_t version;
    union {
        struct {
            uint32_t rings;
            uint32_t listeners;
            uint64_t control_pid;
        } hello;
        struct {
            uint32_t index; /* of the ring; the listening socket's slot */
        } ring, listener, unlisten;
        struct {
            uint64_t generation;
        } plan, plan_applied, certs;
        struct {
            uint32_t count; /* elements of the map; 0: there is none, and no descriptor */
        } verdicts;
        struct {
            uint64_t timeout_ms;
        } drain;
        struct {
            uint32_t pid;
            uint32_t features; /* enum dataplane_feature bits; known, and said, with READY */
        } hello_reply;
        struct {
            uint64_t layout;
        } adopt;
        struct {
            uint64_t layout;
            uint64_t generation; /* of the plan in use */
            uint32_t pid;
            uint32_t rings;
            uint32_t listeners; /* LISTENER messages that follow */
            uint32_t features;
        } adopt_reply;
        uint8_t pad[32];
    };
};

enum dataplane_feature {
    FEATURE_DEFER_TASKRUN = 1 << 0,
    FEATURE_LANDLOCK = 1 << 1,
    FEATURE_SECCOMP = 1 << 2,
    FEATURE_RING_RESTRICTIONS = 1 << 3,
    FEATURE_CACHESTAT = 1 << 4,
    FEATURE_KERNEL_TLS = 1 << 5,
};

_Static_assert(sizeof(struct link_message) == 40, "wire");

enum frame_type {
    FRAME_PROPOSE = 1,
    FRAME_RESULT = 2,
    FRAME_JOB = 3,
    FRAME_JOB_DONE = 4,
    FRAME_DAMAGED = 5,
    FRAME_PASS_WANTED = 6,
    FRAME_PASS = 7,
    FRAME_WAY_WANTED = 8,
    FRAME_WAY = 9,
    FRAME_ADOPTED = 10,
};

struct frame_head {
    uint32_t bytes; /* of the body; at most FRAME_BYTES_MAX */
    uint16_t type;
    uint16_t version; /* LINK_VERSION */
    uint64_t id;      /* chosen by the proposer, comes back with the result */
};

struct frame_result {
    uint32_t status; /* enum cmd_status */
    uint32_t pad;
    uint64_t index; /* of the log entry, 0 if there is none */
};

/* What a job is about is the blob of its digest; arg and detail mean something else in each kind. */
enum job_kind {
    JOB_NONE = 0,
    /* Fetch it from the other replicas and keep it; JOB_OK also if it is here already. arg: its size,
       or UINT64_MAX: it is not known, and it is fetched in any case. detail:
       bytes that were fetched. */
    JOB_KEEP = 1,
    /* Read and hash it, at the pace of scrub.rate; a damaged one is quarantined: moved to store/damaged/,
       where nobody is served from. arg: its size. detail: bytes that were read. */
    JOB_VERIFY = 2,
    /* Remove its file, if no row of the names has it or its row is marked so (or, JOB_SPARE, says that enough
       others hold it, and not this node), and nobody is about to push it.
       arg: milliseconds; one that was published less long ago stays (JOB_BUSY). detail: bytes of the file. */
    JOB_REMOVE = 3,
    JOB_KIND_COUNT
};

enum job_result {
    JOB_OK = 0,
    JOB_MISSING = 1,   /* no such file */
    JOB_DAMAGED = 2,   /* other bytes than its digest says; quarantined, if the store could do that */
    JOB_ERROR = 3,     /* of the file system; detail: errno */
    JOB_NO_SPACE = 4,  /* the store is full */
    JOB_NO_SOURCE = 5, /* nobody who can be asked now has it */
    JOB_CANCELLED = 6, /* the data plane ends */
    JOB_BUSY = 7,      /* no room for another one: ask again later */
    JOB_RESULT_COUNT
};

/* Bits of frame_job.flags. */
enum {
    JOB_REPLACE = 1 << 0, /* KEEP: fetch it also if it is here: that file cannot be read */
    JOB_SPARE = 1 << 1,   /* REMOVE: also a copy that does not count */
};

struct frame_job {
    uint32_t kind;  /* enum job_kind */
    uint32_t flags; /* JOB_REPLACE, JOB_SPARE */
    uint64_t arg;
    uint8_t digest[72]; /* packed, padded with zero */
};

struct frame_job_done {
    uint32_t result; /* enum job_result */
    uint32_t pad;
    uint64_t detail;
};

struct frame_damaged {
    uint64_t bytes; /* of the file */
    uint8_t digest[72];
};

struct frame_adopted {
    uint64_t node;  /* that had the session */
    uint64_t bytes; /* that are here */
};

enum {
    PASS_REPO_MAX = 2 * REPO_NAME_MAX + 2, /* a name there: the source's `upstream`, and the rest of ours */
    PASS_CHALLENGE_MAX = 2048,
    PASS_BYTES_MAX = 8192,
};

struct frame_pass_wanted {
    uint64_t source;  /* plan_source.id */
    uint64_t refused; /* serial of the pass that was shown and not taken; 0: none was shown */
    uint16_t repo_len;
    uint16_t challenge_len; /* of WWW-Authenticate; several lines are joined by commas */
    uint32_t pad;
};

enum pass_status {
    PASS_OK = 0,
    PASS_REFUSED = 1,     /* there are no credentials, or they are not taken */
    PASS_UNAVAILABLE = 2, /* whoever gives tokens cannot be reached, or has no time now */
    PASS_STATUS_COUNT
};

struct frame_pass {
    uint32_t status; /* enum pass_status */
    uint32_t ttl_ms; /* for how long it may be shown without asking again */
    uint64_t serial;
};

enum { WAY_HOST_MAX = 253 };

struct frame_way_wanted {
    uint64_t source; /* plan_source.id */
    uint16_t port;
    uint8_t tls;      /* 0, 1 */
    uint8_t host_len; /* a name, or an address without brackets */
    uint32_t pad;
};

enum way_status {
    WAY_OK = 0,
    WAY_REFUSED = 1,     /* it may not be asked */
    WAY_UNAVAILABLE = 2, /* its name has no address now, or there is no room for another host */
    WAY_STATUS_COUNT
};

struct frame_way {
    uint32_t status; /* enum way_status */
    uint32_t place;  /* of the service, in the plan, and its incarnation */
    uint32_t incarnation;
    uint32_t pad;
};

_Static_assert(sizeof(struct frame_pass_wanted) == 24 && sizeof(struct frame_pass) == 16, "wire");
_Static_assert(sizeof(struct frame_way_wanted) == 16 && sizeof(struct frame_way) == 16, "wire");
_Static_assert(sizeof(struct frame_head) == 16 && sizeof(struct frame_result) == 16, "wire");
_Static_assert(sizeof(struct frame_job) == 88 && sizeof(struct frame_job_done) == 16 &&
                   sizeof(struct frame_damaged) == 80 && sizeof(struct frame_adopted) == 16,
               "wire");

#endif
