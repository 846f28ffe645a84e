/* SPDX-License-Identifier: Apache-2.0 */
/* The frames between a worker and its manager: what is taken is encoded to the same bytes again. The first
 * byte says as which one the rest is read. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/raft/follow_codec.h"

static void entries(const uint8_t *data, size_t size)
{
    struct follow_entries in;
    struct follow_entry list[FOLLOW_ENTRIES_MAX];
    uint32_t count = 0;
    if (follow_entries_decode(data, size, &in))
        return;
    while (count < FOLLOW_ENTRIES_MAX && follow_entries_next(&in, &list[count]))
        count++;
    CHECK(count == in.count);
    uint8_t *again = malloc(size);
    CHECK(again && follow_entries_encode(in.first, in.prev_term, list, count, again) == size &&
          memcmp(again, data, size) == 0);
    free(again);
}

static void snapshot(const uint8_t *data, size_t size)
{
    const void *handle;
    size_t len;
    uint32_t session;
    if (follow_snapshot_decode(data, size, &session, &handle, &len))
        return;
    uint8_t *again = malloc(FOLLOW_FRAME_BYTES + len);
    CHECK(again && follow_snapshot_encode(session, handle, len, again) == size &&
          memcmp(again, data, size) == 0);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t again[FOLLOW_FRAME_BYTES];
    struct follow_ask ask;
    struct follow_refused refused;
    struct follow_renew renew;
    struct follow_grant grant;
    if (size == 0)
        return 0;
    uint8_t which = data[0] % 6;
    data++;
    size--;
    if (which == 0 && follow_ask_decode(data, size, &ask) == 0)
        CHECK(follow_ask_encode(&ask, again) == size && memcmp(again, data, size) == 0);
    if (which == 1 && follow_refused_decode(data, size, &refused) == 0)
        CHECK(follow_refused_encode(&refused, again) == size && memcmp(again, data, size) == 0);
    if (which == 2 && follow_renew_decode(data, size, &renew) == 0)
        CHECK(follow_renew_encode(&renew, again) == size && memcmp(again, data, size) == 0);
    if (which == 3 && follow_grant_decode(data, size, &grant) == 0)
        CHECK(follow_grant_encode(&grant, again) == size && memcmp(again, data, size) == 0);
    if (which == 4)
        entries(data, size);
    if (which == 5)
        snapshot(data, size);
    return 0;
}
