/* SPDX-License-Identifier: Apache-2.0 */
#include "accept.h"

enum { MATCH_NONE, MATCH_ANY, MATCH_TYPE, MATCH_EXACT };

/* Takes what stands before the next separator that is not inside a quoted string; trimmed. False at the end.
 */
static bool take_part(struct view *rest, char separator, struct view *part)
{
    bool quoted = false;
    if (!view_present(*rest))
        return false;
    for (size_t i = 0; i < rest->len; i++) {
        char c = rest->p[i];
        if (c == '"')
            quoted = !quoted;
        else if (c == '\\' && quoted)
            i++;
        else if (c == separator && !quoted) {
            *part = view_trim(view_of(rest->p, i));
            *rest = view_skip(*rest, i + 1);
            return true;
        }
    }
    *part = view_trim(*rest);
    *rest = view_of(NULL, 0);
    return true;
}

static int match_of(struct view range, struct view media_type)
{
    struct view range_sub, type_sub;
    struct view range_main = view_split(range, '/', &range_sub);
    struct view type_main = view_split(media_type, '/', &type_sub);
    if (view_lit(range_main, "*"))
        return view_lit(range_sub, "*") ? MATCH_ANY : MATCH_NONE;
    if (!view_present(range_sub) || !view_ieq(range_main, type_main))
        return MATCH_NONE;
    if (view_lit(range_sub, "*"))
        return MATCH_TYPE;
    return view_ieq(range_sub, type_sub) ? MATCH_EXACT : MATCH_NONE;
}

/* qvalue = "0" [ "." 0*3DIGIT ]; zero if no digit is above it. */
static bool is_zero(struct view q)
{
    if (!q.len || q.p[0] != '0')
        return false;
    for (size_t i = 1; i < q.len; i++)
        if (q.p[i] != '0' && !(q.p[i] == '.' && i == 1))
            return false;
    return true;
}

static bool has_zero_weight(struct view parameters)
{
    struct view part, value;
    while (take_part(&parameters, ';', &part)) {
        struct view name = view_trim(view_split(part, '=', &value));
        if (view_ilit(name, "q") && view_present(value))
            return is_zero(view_trim(value));
    }
    return false;
}

bool http_request_accepts(const struct http_request *req, struct view media_type)
{
    uint32_t at = 0;
    struct view list, member, range;
    int best = MATCH_NONE;
    bool refused = false, any_member = false;
    while (view_present(list = http_request_next_field(req, HTTP_KNOWN_ACCEPT, &at)))
        while (take_part(&list, ',', &member)) {
            any_member = any_member || member.len;
            take_part(&member, ';', &range);
            int match = match_of(range, media_type);
            if (match <= best)
                continue;
            best = match;
            refused = has_zero_weight(member);
        }
    return best == MATCH_NONE ? !any_member : !refused;
}
