/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/holders.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/private.h"
#include "dataplane/http/range.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/store/store.h"

enum {
    RESUMES_MAX = 16,
    RESTARTS_MAX = 3,
    SMALL_BYTES = 16 << 20, /* is fetched to its end, though nobody waits for it */
    LINGER_MS = 2000,
    AGAIN_MS = 200,         /* nobody could go on: asked again then, */
    AGAIN_WITHIN_MS = 5000, /* for as long */
    STALL_MS = 10000,       /* a source that says nothing, where its service has no time for that */
    QUIET_MS = 200,         /* one that is down, too */
    DISK_MS = 2000,         /* one write */
};

static void ask(struct fetch *f);
static void create(struct fetch *f);
static void linger(struct fetch *f);

/* ------------------------------------------------------------------ the end */

static void free_fetch(struct fetch *f)
{
    struct fetches *all = f->all;
    timer_clear(&f->timer);
    question_end(&f->question, QUESTION_DROPPED, false);
    question_forgive(&f->question);
    fetch_entry_unlist(f->entry);
    fetch_entry_put(f->entry, all->ring->store);
    *f->prev = f->next;
    if (f->next)
        f->next->prev = f->prev;
    ring_count(all->ring, CTR_FETCHES_NOW, (uint64_t)-1);
    pool_give(&all->jobs, f);
}

static void cancelled(struct waiter *w, int res)
{
    struct fetch *f = container_of(w, struct fetch, waiter);
    (void)res; /* what could not be removed, the next start removes */
    f->upload = NULL;
    if (f->restart)
        create(f);
    else
        free_fetch(f);
}

/* The session goes; then the fetch does, or begins anew. */
static void cancel(struct fetch *f, bool restart)
{
    f->step = STEP_CANCEL;
    f->restart = restart;
    f->waiter.wake = cancelled;
    if (f->upload)
        CHECK(upload_cancel(f->upload, &f->waiter) == 0);
    else
        cancelled(&f->waiter, 0);
}

static void count_end(struct fetch *f, enum fetch_fault fault)
{
    ring_count(f->all->ring,
               fault == FETCH_NOT_KEPT   ? CTR_FETCH_NOT_KEPT
               : fault == FETCH_GIVEN_UP ? CTR_FETCH_GIVEN_UP
                                         : CTR_FETCH_FAILED,
               1);
}

static void over(struct fetch *f, enum fetch_fault fault)
{
    if (atomic_load(&f->entry->state) != FETCH_FAILED) {
        count_end(f, fault);
        fetch_entry_unlist(f->entry);
        fetch_entry_state(f->entry, FETCH_FAILED, fault);
    }
    timer_clear(&f->timer);
    question_end(&f->question, QUESTION_DROPPED, false);
    cancel(f, false);
}

void fetch_stop(struct fetch *f)
{
    enum fetch_fault fault = f->stop_fault ? f->stop_fault : FETCH_GIVEN_UP;
    f->stop_fault = (uint8_t)fault;
    switch (f->step) {
    case STEP_ASK:
        over(f, fault);
        break;
    case STEP_FLOW:
        pump_stop(&f->pump);
        break;
    case STEP_LINGER:
        free_fetch(f);
        break;
    default: /* what is under way looks at stop_fault when it comes back, or ends anyhow */
        break;
    }
}

/* ------------------------------------------------------------------ kept, linked */

static void lingered(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    free_fetch(container_of(t, struct fetch, timer));
}

static void linger(struct fetch *f)
{
    struct ring *ring = f->all->ring;
    f->step = STEP_LINGER;
    f->timer.fire = lingered;
    timer_set(&ring->wheel, &f->timer, ring_now_ms(ring) + (ring->draining ? 0 : LINGER_MS));
}

/* Not linked: whoever asks next asks the source, and tries again. */
static void linked(struct waiter *w, int res)
{
    struct fetch *f = container_of(w, struct fetch, proposal.waiter);
    ring_count(f->all->ring, res == CMD_OK ? CTR_COMMITS : CTR_COMMITS_FAILED, 1);
    linger(f);
}

static void propose_link(struct fetch *f)
{
    struct ring *ring = f->all->ring;
    uint8_t bytes[1024];
    struct wire_writer w = {.buf = bytes, .cap = sizeof(bytes)};
    struct cmd_head head = {.type = CMD_BLOB_LINK,
                            .actor = "system",
                            .actor_len = 6,
                            .source = "fetch",
                            .source_len = 5,
                            .request_id = ""};
    cmd_put_head(&w, &head);
    wire_put_bytes(&w, f->repo, f->repo_len);
    cmd_put_digest(&w, &f->entry->digest);
    wire_put_u64(&w, f->size);
    holders_put(&w, ring->plan, NULL);
    f->step = STEP_LINK;
    f->proposal.waiter.wake = linked;
    f->proposal.deadline_ms = ring_now_ms(ring) + ring_setting(ring, SET_REGISTRY_COMMIT_TIMEOUT);
    int err = w.failed ? -EMSGSIZE : channel_propose(ring->channel, &f->proposal, bytes, w.len);
    if (err)
        linked(&f->proposal.waiter, CMD_NO_LEADER);
}

static void kept(struct waiter *w, int res)
{
    struct fetch *f = container_of(w, struct fetch, waiter);
    fetch_entry_kept(f->entry, res == 0);
    if (res) { /* the readers have their file all the same */
        count_end(f, FETCH_NOT_KEPT);
        fetch_entry_unlist(f->entry);
        if (res == -EBADMSG)
            f->upload = NULL;
        cancel(f, false);
        return;
    }
    f->upload = NULL;
    ring_count(f->all->ring, CTR_FETCH_KEPT, 1);
    if (f->link)
        propose_link(f);
    else
        linger(f);
}

static void keep(struct fetch *f)
{
    f->step = STEP_KEEP;
    f->waiter.wake = kept;
    fetch_entry_state(f->entry, FETCH_WHOLE, FETCH_FINE);
    int err = upload_commit(f->upload, &f->entry->digest, &f->waiter);
    if (err)
        kept(&f->waiter, err);
}

/* Nobody has seen a byte of a small one: another source may have the right ones. */
static void spoilt(struct fetch *f)
{
    ring_count(f->all->ring, CTR_FETCH_WRONG, 1);
    question_end(&f->question, QUESTION_BROKEN, false);
    if (f->size <= FETCH_HOLD_BACK && f->restarts++ < RESTARTS_MAX)
        cancel(f, true);
    else
        over(f, FETCH_SPOILT);
}

/* ------------------------------------------------------------------ bytes */

static void pumped(struct pump *p, enum pump_end end, int err)
{
    struct fetch *f = container_of(p, struct fetch, pump);
    (void)err;
    switch (end) {
    case PUMP_DONE:
        if (!upload_is(f->upload, &f->entry->digest)) {
            spoilt(f);
            return;
        }
        question_end(&f->question, QUESTION_GOOD, f->keep_alive && pump_rest(p).len == 0);
        keep(f);
        break;
    case PUMP_SINK_ERROR:
        over(f, FETCH_NOT_KEPT);
        break;
    case PUMP_STOPPED:
        over(f, f->stop_fault ? f->stop_fault : FETCH_GIVEN_UP);
        break;
    default:
        question_end(&f->question, QUESTION_BROKEN, false);
        f->stopped_ms = ring_now_ms(f->all->ring);
        if (f->stop_fault || f->resumes++ >= RESUMES_MAX) {
            over(f, f->stop_fault ? f->stop_fault : FETCH_CUT);
            return;
        }
        ring_count(f->all->ring, CTR_FETCH_RESUMES, 1);
        ask(f);
        break;
    }
}

/* How the answer goes on behind what is here: bytes to drop of it; false: it does not. */
static bool goes_on(struct fetch *f, const struct http_answer *a, uint64_t *skip)
{
    uint64_t at = upload_offset(f->upload), first, last;
    bool chunked = a->framing == HTTP_BODY_CHUNKED;
    *skip = 0;
    if (view_present(a->known[HTTP_KNOWN_CONTENT_ENCODING]))
        return false;
    if (a->status == 206 && at)
        return http_content_range_read(a->known[HTTP_KNOWN_CONTENT_RANGE], &first, &last) == 0 &&
               first == at && last + 1 == f->size && (chunked || a->content_length == f->size - at);
    if (a->status != 200 || (!chunked && a->framing != HTTP_BODY_LENGTH && a->content_length))
        return false;
    if (f->size == FETCH_SIZE_UNKNOWN && a->length_told && !chunked)
        f->size = a->content_length;
    *skip = at;
    return f->size != FETCH_SIZE_UNKNOWN && (chunked || a->content_length == f->size);
}

static void flow(struct fetch *f, uint64_t skip)
{
    struct question *q = &f->question;
    bool chunked = q->answer->framing == HTTP_BODY_CHUNKED;
    struct pump_config config = {
        .ring = f->all->ring,
        .from = q->wire,
        .to = &f->sink.wire,
        .in = chunked ? PUMP_CHUNKED : PUMP_LENGTH,
        .out = PUMP_LENGTH,
        .length = chunked ? 0 : q->answer->content_length,
        .total = f->size,
        .early = q->early,
        .skip = skip,
        .done = pumped,
    };
    f->keep_alive = q->answer->keep_alive;
    f->step = STEP_FLOW;
    if (atomic_load(&f->entry->state) == FETCH_ASKING) {
        atomic_store(&f->entry->size, f->size);
        fetch_entry_state(f->entry, FETCH_OPEN, FETCH_FINE);
    }
    if (f->started)
        pump_resume(&f->pump, &config);
    else
        pump_start(&f->pump, &config);
    f->started = true;
}

/* ------------------------------------------------------------------ asking */

static void ask_again(struct timer *t, uint64_t now_ms)
{
    struct fetch *f = container_of(t, struct fetch, timer);
    (void)now_ms;
    f->source = 0;
    question_forgive(&f->question);
    ask(f);
}

enum fetch_fault fetch_fault_of(const struct question *q, enum question_end end)
{
    if (end == QUESTION_ANSWERED || end == QUESTION_REFUSED)
        return q->status == 404                       ? FETCH_NOT_THERE
               : q->status == 401 || q->status == 403 ? (q->away ? FETCH_AWAY : FETCH_REFUSED)
               : q->status >= 500 || q->status == 429 ? FETCH_NO_SOURCE
                                                      : FETCH_BAD_ANSWER;
    return end == QUESTION_TIMEOUT ? FETCH_TIMEOUT : FETCH_NO_SOURCE;
}

static enum fetch_fault fault_of(const struct fetch *f, enum question_end end)
{
    if (upload_offset(f->upload))
        return FETCH_CUT;
    return f->restarts ? FETCH_SPOILT : fetch_fault_of(&f->question, end);
}

/* This source cannot help. What has begun is worth some patience: backends are being started again. */
static void next_source(struct fetch *f, enum question_end end)
{
    struct ring *ring = f->all->ring;
    enum fetch_fault fault = fault_of(f, end);
    question_end(&f->question, QUESTION_DROPPED, false);
    if (f->source + 1 < f->sources.count) {
        f->source++;
        question_forgive(&f->question);
        ask(f);
    } else if (fault == FETCH_CUT && ring_now_ms(ring) < f->stopped_ms + AGAIN_WITHIN_MS) {
        f->timer.fire = ask_again;
        timer_set(&ring->wheel, &f->timer, ring_now_ms(ring) + AGAIN_MS);
    } else {
        over(f, fault);
    }
}

static void answered(struct question *q, enum question_end end)
{
    struct fetch *f = container_of(q, struct fetch, question);
    uint64_t skip;
    if (end == QUESTION_ANSWERED && goes_on(f, q->answer, &skip))
        flow(f, skip);
    else
        next_source(f, end);
}

static void ask(struct fetch *f)
{
    struct question *q = &f->question;
    uint64_t at = upload_offset(f->upload);
    f->step = STEP_ASK;
    q->ring = f->all->ring;
    q->method = HTTP_GET;
    q->service = f->sources.list[f->source].service;
    q->source = f->sources.list[f->source].pass;
    q->path_len = f->sources.list[f->source].path_len;
    memcpy(q->path, f->sources.list[f->source].path, q->path_len);
    q->not_found_passes = true;
    q->accept = f->sources.manifest ? fetch_manifest_types : NULL;
    q->done = answered;
    if (f->sources.list[f->source].kind == PLAN_SOURCE_PEERS)
        fetch_prefer_holders(q->ring, &f->entry->digest, q);
    q->range_len = 0;
    if (at)
        q->range_len = (size_t)snprintf(q->range, sizeof(q->range), "bytes=%llu-", (unsigned long long)at);
    question_ask(q);
}

/* ------------------------------------------------------------------ the beginning */

static void wrote(struct sink *s, size_t bytes)
{
    struct fetch *f = container_of(s, struct fetch, sink);
    ring_count(f->all->ring, CTR_FETCH_BYTES, bytes);
    fetch_entry_written(f->entry, upload_offset(f->upload));
}

static void created(struct waiter *w, int res)
{
    struct fetch *f = container_of(w, struct fetch, waiter);
    int fd = res ? -1 : fcntl(upload_fd(f->upload), F_DUPFD_CLOEXEC, 0);
    if (fd < 0 || f->stop_fault) {
        if (fd >= 0)
            fetch_entry_file(f->entry, fd, f->all->ring->store);
        over(f, f->stop_fault ? f->stop_fault : FETCH_NOT_KEPT);
        return;
    }
    fetch_entry_file(f->entry, fd, f->all->ring->store);
    fetch_entry_written(f->entry, 0);
    sink_open(&f->sink, f->all->ring, f->upload, wrote);
    f->started = false;
    ask(f);
}

static void create(struct fetch *f)
{
    f->step = STEP_CREATE;
    f->waiter.wake = created;
    f->upload = NULL;
    int err = upload_create(f->all->ring->store, UPLOAD_FETCH_REPO, sizeof(UPLOAD_FETCH_REPO) - 1,
                            f->entry->digest.alg, &f->upload, &f->waiter);
    if (err != -EINPROGRESS)
        created(&f->waiter, err ? err : -EIO);
}

static struct fetch *take_job(struct fetches *all)
{
    struct fetch *f = pool_take(&all->jobs);
    for (struct fetch *old = all->list; old && !f; old = old->next)
        if (old->step == STEP_LINGER) {
            free_fetch(old);
            f = pool_take(&all->jobs);
            break;
        }
    return f;
}

bool fetch_begin(struct fetches *all, struct fetch_entry *e, const struct fetch_wish *wish)
{
    struct fetch *f = wish->sources->count && !all->ring->draining ? take_job(all) : NULL;
    if (!f)
        return false;
    memset(f, 0, sizeof(*f));
    f->all = all;
    f->entry = e;
    f->size = wish->size;
    f->link = wish->link;
    f->sources = *wish->sources;
    f->repo_len = wish->repo.len < REPO_NAME_MAX ? wish->repo.len : REPO_NAME_MAX;
    memcpy(f->repo, wish->repo.p, f->repo_len);
    f->next = all->list;
    f->prev = &all->list;
    if (f->next)
        f->next->prev = &f->next;
    all->list = f;
    fetch_entry_hold(e);
    ring_count(all->ring, CTR_FETCHES, 1);
    ring_count(all->ring, CTR_FETCHES_NOW, 1);
    create(f);
    return true;
}

/* ------------------------------------------------------------------ watching it */

/* Nobody reads along: is it worth to go on? */
static bool is_worth(const struct fetch *f)
{
    uint64_t have = f->upload && f->step == STEP_FLOW ? atomic_load(&f->entry->written) : 0;
    return f->size <= SMALL_BYTES || (f->size != FETCH_SIZE_UNKNOWN && have >= f->size / 2);
}

static uint64_t stall_ms(const struct fetch *f)
{
    const struct plan_service *s = plan_service_of(f->all->ring->plan, f->question.service);
    return s && s->proxy.stall_ms ? s->proxy.stall_ms : STALL_MS;
}

static void look_at_flow(struct fetch *f, uint64_t now_ms)
{
    uint64_t quiet_ms = now_ms - f->pump.progress_ms;
    pump_look(&f->pump);
    if (f->sink.writing && now_ms - f->sink.writing_since_ms >= DISK_MS && !f->stop_fault) {
        f->stop_fault = FETCH_NOT_KEPT; /* the readers need not wait for the write */
        count_end(f, FETCH_NOT_KEPT);
        fetch_entry_unlist(f->entry);
        fetch_entry_state(f->entry, FETCH_FAILED, FETCH_NOT_KEPT);
        fetch_stop(f);
    } else if (pump_waits_for_source(&f->pump) &&
               (quiet_ms >= stall_ms(f) || (quiet_ms >= QUIET_MS && question_is_down(&f->question)))) {
        pump_fail_source(&f->pump);
    }
}

void fetch_look(struct fetch *f)
{
    bool runs = f->step == STEP_ASK || f->step == STEP_FLOW;
    if (runs && !f->stop_fault && atomic_load(&f->entry->readers) == 0 && !is_worth(f))
        fetch_stop(f);
    else if (f->step == STEP_FLOW)
        look_at_flow(f, ring_now_ms(f->all->ring));
}
