/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a source, as a command and a row have them, and its fields as texts. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cmd.h"
#include "control/state/source.h"
#include "control/state/state.h"

/* Whatever is taken can be written, and is read again as it was. */
static void as_bytes(const uint8_t *data, size_t len)
{
    struct wire_reader r = {.buf = data, .len = len};
    struct source s, again;
    uint8_t room[16384];
    struct wire_writer w = {.buf = room, .cap = sizeof(room)};
    char err[SOURCE_ERROR_MAX];
    source_get(&r, &s);
    if (r.failed || source_check(&s, err, sizeof(err)))
        return;
    source_put(&w, &s);
    CHECK(!w.failed);
    struct wire_reader back = {.buf = room, .len = w.len};
    source_get(&back, &again);
    CHECK(!back.failed && source_same(&s, &again));
}

static void as_texts(const char *text)
{
    struct source s;
    struct source_backend b;
    char err[SOURCE_ERROR_MAX];
    source_init(&s, "hub/");
    for (size_t i = 0; i < source_field_count(); i++)
        (void)source_field_set(&s, source_field_key(i), text, err);
    (void)source_check(&s, err, sizeof(err));
    size_t at = 0, count = 0;
    while (source_backend_next(&s, &at, &b))
        CHECK(++count <= SOURCE_BACKENDS_MAX && b.host[0] && b.port);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char *text = malloc(len + 1), err[128];
    struct state_cmd *cmd = malloc(sizeof(*cmd));
    CHECK(text && cmd);
    if (len)
        memcpy(text, data, len);
    text[len] = '\0';
    (void)state_parse(data, len, cmd, err, sizeof(err));
    as_bytes(data, len);
    as_texts(text);
    free(cmd);
    free(text);
    return 0;
}
