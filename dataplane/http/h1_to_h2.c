/* SPDX-License-Identifier: Apache-2.0 */
#include "h1_to_h2.h"

#include "chars.h"
#include "check.h"
#include "number.h"
#include "response.h"

enum state {
    HEAD,
    LENGTH,      /* content of known length */
    UNTIL_CLOSE, /* content until the connection ends */
    SIZE,        /* chunked: digits of a size */
    SIZE_REST,   /* its extension, up to CR */
    SIZE_LF,
    CHUNK,
    CHUNK_CR,
    CHUNK_LF,
    TRAILERS,
    DONE,
};

enum { DIGITS_MAX = 15 };

/* ------------------------------------------------------------------ heads */

/* The bytes up to and with the empty line at the front of p, 0: it is not there. Trailers may be nothing but
 * that line. */
static size_t head_length(const char *p, size_t len, size_t from, bool trailers)
{
    if (trailers && len >= 2 && p[0] == '\r' && p[1] == '\n')
        return 2;
    const char *at = p + (from > 3 ? from - 3 : 0), *end = p + len;
    while (end - at >= 4) {
        at = memchr(at, '\r', (size_t)(end - at) - 3);
        if (!at)
            return 0;
        if (memcmp(at, "\r\n\r\n", 4) == 0)
            return (size_t)(at - p) + 4;
        at++;
    }
    return 0;
}

static bool is_token(struct view v)
{
    return v.len && http_chars_span(v.p, v.p + v.len, HTTP_CHAR_TOKEN) == v.p + v.len;
}

/* Takes a line without its CRLF. False: it ends otherwise. */
static bool next_line(struct view *text, struct view *line)
{
    const char *end = memchr(text->p, '\r', text->len);
    if (!end || end + 1 == text->p + text->len || end[1] != '\n')
        return false;
    *line = view_between(text->p, end);
    *text = view_skip(*text, line->len + 2);
    return true;
}

static bool status_line(struct view line, struct h1_head *head)
{
    uint64_t status = 0;
    if (line.len < 12 || memcmp(line.p, "HTTP/1.", 7) != 0 || line.p[8] != ' ' ||
        (line.len > 12 && line.p[12] != ' '))
        return false;
    if (number_read(view_of(line.p + 9, 3), 599, &status) || status < 100 || status == 101)
        return false;
    head->status = (int)status;
    return true;
}

static bool request_line(struct view line, struct h1_head *head)
{
    struct view rest, version;
    head->method = view_split(line, ' ', &rest);
    if (!is_token(head->method) || !view_present(rest))
        return false;
    head->target = view_split(rest, ' ', &version);
    const char *end = head->target.p + head->target.len;
    return head->target.len && view_present(version) && view_lit(version, "HTTP/1.1") &&
           http_chars_span(head->target.p, end, HTTP_CHAR_TARGET) == end;
}

/* What the fields say about the content. */
struct framing {
    bool chunked, has_length, bad;
    uint64_t length;
    struct view options[4]; /* Connection: names of fields that are about the connection */
    unsigned option_count;
};

static bool is_connection_specific(struct view name)
{
    return view_ilit(name, "connection") || view_ilit(name, "proxy-connection") ||
           view_ilit(name, "keep-alive") || view_ilit(name, "transfer-encoding") ||
           view_ilit(name, "upgrade") || view_ilit(name, "http2-settings");
}

static void framing_field(struct framing *f, struct view name, struct view value)
{
    if (view_ilit(name, "transfer-encoding")) {
        f->bad |= f->chunked || !view_ilit(value, "chunked");
        f->chunked = true;
    } else if (view_ilit(name, "content-length")) {
        f->bad |= f->has_length || number_read(value, INT64_MAX, &f->length);
        f->has_length = true;
    } else if (view_ilit(name, "connection")) {
        f->bad |= f->option_count == ARRAY_SIZE(f->options);
        if (!f->bad)
            f->options[f->option_count++] = value;
    }
}

static bool is_named_by_connection(const struct framing *f, struct view name)
{
    for (unsigned i = 0; i < f->option_count; i++) {
        struct view list = f->options[i], item;
        while (view_next_item(&list, &item))
            if (view_ieq(item, name))
                return true;
    }
    return false;
}

/* RFC 9113, 8.2.2: TE goes on as "trailers" or not at all, whatever Connection says of it. */
static bool te_fits(struct view value)
{
    struct view item;
    while (view_next_item(&value, &item))
        if (view_ilit(item, "trailers"))
            return true;
    return false;
}

static bool add_field(struct h1_reader *r, struct h1_head *head, struct framing *f, struct view line)
{
    struct view value, name = view_split(line, ':', &value);
    if (!is_token(name) || !view_present(value))
        return false;
    value = view_trim(value);
    if (http_chars_span(value.p, value.p + value.len, HTTP_CHAR_VALUE) != value.p + value.len)
        return false;
    framing_field(f, name, value);
    bool te = view_ilit(name, "te");
    if (is_connection_specific(name) || (te && !(r->request && te_fits(value))))
        return true;
    if (r->request && r->state == HEAD && view_ilit(name, "host")) {
        head->host = value;
        return true;
    }
    if (head->count == REQUEST_FIELDS_MAX)
        return false;
    head->field[head->count++] = (struct h1_field){name, te ? VIEW_LIT("trailers") : value};
    return true;
}

static void drop_named(struct h1_head *head, const struct framing *f)
{
    uint32_t kept = 0;
    if (!f->option_count)
        return;
    for (uint32_t i = 0; i < head->count; i++)
        if (view_ilit(head->field[i].name, "te") || !is_named_by_connection(f, head->field[i].name))
            head->field[kept++] = head->field[i];
    head->count = kept;
}

/* RFC 9112, 6.3. */
static enum state state_after(struct h1_reader *r, const struct h1_head *head, const struct framing *f)
{
    bool bodyless = !r->request && (r->head_request || http_status_bodyless(head->status));
    if (!r->request && head->status < 200)
        return HEAD;
    if (bodyless)
        return DONE;
    if (f->chunked)
        return SIZE;
    if (f->has_length || r->request) {
        r->left = f->length;
        return f->length ? LENGTH : DONE;
    }
    return UNTIL_CLOSE;
}

static enum h1_got parse_head(struct h1_reader *r, struct view text, struct h1_head *head)
{
    struct framing f = {0};
    struct view line;
    head->status = 0;
    head->count = 0;
    head->ends = false;
    head->method = head->target = head->host = (struct view){NULL, 0};
    if (r->state == HEAD) {
        if (!next_line(&text, &line) || !(r->request ? request_line(line, head) : status_line(line, head)))
            return H1_BAD;
    }
    for (;;) {
        if (!next_line(&text, &line))
            return H1_BAD;
        if (line.len == 0)
            break;
        if (!add_field(r, head, &f, line))
            return H1_BAD;
    }
    if (f.bad || text.len || (f.chunked && f.has_length))
        return H1_BAD;
    drop_named(head, &f);
    if (r->state == TRAILERS) {
        r->state = DONE;
        return head->count ? H1_TRAILERS : H1_END;
    }
    r->state = (uint8_t)state_after(r, head, &f);
    head->ends = r->state == DONE;
    return H1_HEAD;
}

/* A head or trailers: straight from buf if it is all there, else collected in hold. */
static enum h1_got read_head(struct h1_reader *r, const char *buf, size_t len, size_t *used,
                             struct h1_head *head)
{
    bool trailers = r->state == TRAILERS;
    if (!r->hold) {
        size_t n = head_length(buf, len, 0, trailers);
        *used = n;
        if (n)
            return parse_head(r, view_of(buf, n), head);
        return len ? H1_MEMORY : H1_MORE;
    }
    size_t before = r->hold_len, room = r->hold_cap - before, n = len < room ? len : room;
    if (n)
        memcpy(r->hold + before, buf, n);
    size_t total = head_length(r->hold, before + n, before, trailers);
    if (!total && n < len)
        return H1_BAD; /* larger than any that is made here */
    r->hold_len += (uint32_t)n;
    *used = n;
    if (!total)
        return H1_MORE;
    *used = total - before;
    return parse_head(r, view_of(r->hold, total), head);
}

/* ------------------------------------------------------------------ content */

static bool read_size(struct h1_reader *r, char c)
{
    if (http_char_is(c, HTTP_CHAR_HEX)) {
        r->left = r->left << 4 | http_hex_value(c);
        return ++r->digits <= DIGITS_MAX;
    }
    if (r->digits == 0 || (c != '\r' && c != ';'))
        return false;
    r->state = c == '\r' ? SIZE_LF : SIZE_REST;
    return true;
}

/* One byte of the framing of chunks. */
static bool read_framing(struct h1_reader *r, char c)
{
    switch (r->state) {
    case SIZE:
        return read_size(r, c);
    case SIZE_REST:
        if (c == '\r')
            r->state = SIZE_LF;
        return c != '\n';
    case SIZE_LF:
        r->state = r->left ? CHUNK : TRAILERS;
        r->digits = 0;
        return c == '\n';
    case CHUNK_CR:
        r->state = CHUNK_LF;
        return c == '\r';
    default:
        r->state = SIZE;
        return c == '\n';
    }
}

static enum h1_got read_content(struct h1_reader *r, const char *buf, size_t len, size_t *used,
                                struct view *content)
{
    size_t n = r->state != UNTIL_CLOSE && len > r->left ? (size_t)r->left : len;
    if (n == 0)
        return H1_MORE;
    *content = view_of(buf, n);
    *used += n;
    return H1_CONTENT;
}

void h1_took(struct h1_reader *r, size_t n)
{
    if (r->state == UNTIL_CLOSE)
        return;
    CHECK(n <= r->left);
    r->left -= n;
    if (r->left == 0 && r->state == LENGTH)
        r->state = DONE;
    else if (r->left == 0 && r->state == CHUNK)
        r->state = CHUNK_CR;
}

bool h1_at_end(const struct h1_reader *r)
{
    return r->state == DONE;
}

bool h1_closed(struct h1_reader *r)
{
    if (r->state == UNTIL_CLOSE)
        r->state = DONE;
    return r->state == DONE;
}

enum h1_got h1_read(struct h1_reader *r, const char *buf, size_t len, size_t *used, struct h1_head *head,
                    struct view *content)
{
    *used = 0;
    for (;;) {
        switch (r->state) {
        case HEAD:
        case TRAILERS: {
            size_t more = 0;
            enum h1_got got = read_head(r, buf + *used, len - *used, &more, head);
            *used += more;
            return got;
        }
        case LENGTH:
        case UNTIL_CLOSE:
        case CHUNK:
            return read_content(r, buf + *used, len - *used, used, content);
        case DONE:
            return H1_END;
        default:
            if (*used == len)
                return H1_MORE;
            if (!read_framing(r, buf[(*used)++]))
                return H1_BAD;
        }
    }
}
