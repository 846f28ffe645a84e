/* SPDX-License-Identifier: Apache-2.0 */
/* What the data plane says that a client was given, and records of a queue: what is taken is what would be
 * written. */
#include "check.h"
#include "control/pull_queue.h"
#include "pull.h"

static void pulls(const uint8_t *data, size_t len)
{
    uint8_t again[PULL_BYTES_MAX] = {0};
    struct wire_writer w = {.buf = again, .cap = sizeof(again)};
    struct pull p;
    if (!pull_get(data, len, &p))
        return;
    pull_put(&w, &p);
    CHECK(!w.failed && w.len == len && memcmp(again, data, len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *body;
    size_t at = 0, len;
    pulls(data, size);
    while ((body = pull_record_next(data, size, &at, &len))) {
        CHECK(len > 0 && len <= PULL_RECORD_MAX && at <= size);
        pulls(body, len);
    }
    return 0;
}
