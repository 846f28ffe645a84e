/* SPDX-License-Identifier: Apache-2.0 */
/* What a registry wants of its readers: whatever it says, a question is a URL of visible characters that asks
 * for the right to pull and no other. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/challenge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct challenge c;
    static char url[CHALLENGE_URL_MAX];
    const char *why;
    bool secure;
    char *text = malloc(size ? size : 1); /* of exactly this size: nothing is read beyond it */
    CHECK(text);
    if (size)
        memcpy(text, data, size);
    if (challenge_read(text, size, &c) == 0) {
        CHECK(c.basic || c.bearer);
        CHECK(strlen(c.realm) < sizeof(c.realm) && strlen(c.service) < sizeof(c.service));
        if (challenge_url(&c, "team/app", url, &secure, &why)) {
            CHECK(strlen(url) < sizeof(url));
            for (const char *p = url; *p; p++)
                CHECK(*p > ' ' && *p < 0x7f && *p != '#');
            const char *asked = url + strlen(c.realm);
            for (const char *p = asked; (p = strstr(p, "scope=repository:")); p++) {
                const char *end = p + strcspn(p, "&");
                CHECK(end - p > 5 && memcmp(end - 5, ":pull", 5) == 0);
            }
        }
    }
    free(text);
    return 0;
}
