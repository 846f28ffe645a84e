/* SPDX-License-Identifier: Apache-2.0 */
/* Verdicts that a manager tells a worker: what is taken is encoded to the same bytes again, and goes into a
 * table. Frames follow each other, each behind a byte pair with its length. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "check.h"
#include "control/verdict_frame.h"

enum { IDS_MAX = 5000 };

/* Into memory of its own: a read behind its end is seen. */
static void take(struct verdict_table *t, const uint8_t *data, size_t size)
{
    static struct verdict_row row[VERDICT_ROWS_MAX];
    static uint8_t again[VERDICT_FRAME_MAX];
    struct verdict_frame frame;
    uint8_t *body = malloc(size + 1);
    CHECK(body);
    memcpy(body, data, size);
    if (verdict_frame_get(body, size, &frame) == 0) {
        for (size_t i = 0; i < frame.count; i++)
            verdict_frame_row(&frame, i, &row[i]);
        CHECK(verdict_frame_put(frame.flags, row, frame.count, again) == size &&
              memcmp(again, data, size) == 0);
        bool says = verdict_table_take(t, &frame, IDS_MAX);
        CHECK(says == t->whole && t->count <= IDS_MAX && t->count <= t->cap);
    }
    free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct verdict_table table = {.count = 0};
    while (size >= 2) {
        size_t len = (size_t)data[0] | (size_t)data[1] << 8;
        data += 2;
        size -= 2;
        len = len < size ? len : size;
        take(&table, data, len);
        data += len;
        size -= len;
    }
    for (uint32_t id = 0; id < table.count; id++)
        CHECK(table.row[id].state == ABI_UNKNOWN || table.row[id].state == ABI_UP ||
              table.row[id].state == ABI_DOWN);
    verdict_table_fini(&table);
    return 0;
}
