/* SPDX-License-Identifier: Apache-2.0 */
/* Percent-encoding, queries, and the character classes that the whole HTTP layer stands on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <errno.h>

#include "dataplane/http/chars.h"
#include "dataplane/http/number.h"
#include "dataplane/http/uri.h"
#include "guarded.h"

#define BYTES(s) s, sizeof(s) - 1

static struct guarded memory, output;

static struct view guarded_view(const char *bytes, size_t len)
{
    return view_of(guarded_copy(&memory, bytes, len), len);
}

static const struct {
    const char *in;
    size_t len;
    ssize_t ret;
    const char *out;
} decodes[] = {
    {BYTES(""), 0, ""},
    {BYTES("abc"), 3, "abc"},
    {BYTES("sha256%3Aab"), 9, "sha256:ab"},
    {BYTES("a%2fb%2Fc"), 5, "a/b/c"},
    {BYTES("a+b"), 3, "a+b"},
    {BYTES("%25%32%35"), 3, "%25"},
    {BYTES("%ff%01"), 2, "\xff\x01"},
    {BYTES("%"), -EINVAL, NULL},
    {BYTES("%4"), -EINVAL, NULL},
    {BYTES("a%4"), -EINVAL, NULL},
    {BYTES("%4g"), -EINVAL, NULL},
    {BYTES("%g4"), -EINVAL, NULL},
    {BYTES("%%41"), -EINVAL, NULL},
    {BYTES("%u0041"), -EINVAL, NULL},
    {BYTES("%+1"), -EINVAL, NULL},
    {BYTES("a%00b"), -EINVAL, NULL},
    {BYTES("a\0b"), -EINVAL, NULL},
};

static void test_decode(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(decodes); i++) {
        size_t cap = decodes[i].ret > 0 ? (size_t)decodes[i].ret : 0;
        if (decodes[i].ret < 0)
            cap = decodes[i].len;
        char *out = guarded_tail(&output, cap);
        assert_int_equal(http_percent_decode(guarded_view(decodes[i].in, decodes[i].len), out, cap),
                         decodes[i].ret);
        if (decodes[i].ret <= 0)
            continue;
        assert_memory_equal(out, decodes[i].out, cap);
        struct view in = guarded_view(decodes[i].in, decodes[i].len);
        assert_int_equal(http_percent_decode(in, out + 1, cap - 1), -ENOBUFS);
        char *in_place = guarded_copy(&memory, decodes[i].in, decodes[i].len);
        assert_int_equal(http_percent_decode(view_of(in_place, decodes[i].len), in_place, cap),
                         decodes[i].ret);
        assert_memory_equal(in_place, decodes[i].out, cap);
    }
}

static void test_encode(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        const char *keep;
        const char *out;
    } rows[] = {
        {"", "", ""},
        {"v1.0-rc_1~", "", "v1.0-rc_1~"},
        {"a/b:c", "", "a%2Fb%3Ac"},
        {"a/b:c", "/", "a/b%3Ac"},
        {"\xff \"<>+&=%", "", "%FF%20%22%3C%3E%2B%26%3D%25"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        size_t len = strlen(rows[i].out);
        char *out = guarded_tail(&output, len);
        struct view in = guarded_view(rows[i].in, strlen(rows[i].in));
        assert_int_equal(http_percent_encode(in, rows[i].keep, out, len), len);
        assert_memory_equal(out, rows[i].out, len);
        if (len)
            assert_int_equal(http_percent_encode(in, rows[i].keep, out + 1, len - 1), -ENOBUFS);
    }
}

/* Every byte but NUL survives the way there and back. */
static void test_round_trip(void **state)
{
    (void)state;
    char bytes[255], encoded[3 * 255], decoded[255];
    for (int c = 1; c < 256; c++)
        bytes[c - 1] = (char)c;
    ssize_t len = http_percent_encode(view_of(bytes, sizeof(bytes)), "", encoded, sizeof(encoded));
    assert_true(len > 0);
    assert_int_equal(http_percent_decode(view_of(encoded, (size_t)len), decoded, sizeof(decoded)),
                     sizeof(bytes));
    assert_memory_equal(bytes, decoded, sizeof(bytes));
}

static void test_query_walk(void **state)
{
    (void)state;
    struct view query = guarded_view(BYTES("&n=5&&last=a%3Db=c&mount&=x&")), name, value;
    static const char *const expected[][2] = {{"n", "5"}, {"last", "a%3Db=c"}, {"mount", ""}, {"", "x"}};
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        assert_true(http_query_next(&query, &name, &value));
        assert_true(view_eq(name, view_of_str(expected[i][0])));
        assert_true(view_present(value));
        assert_true(view_eq(value, view_of_str(expected[i][1])));
    }
    assert_false(http_query_next(&query, &name, &value));
    query = view_of(NULL, 0);
    assert_false(http_query_next(&query, &name, &value));
    query = guarded_view(BYTES(""));
    assert_false(http_query_next(&query, &name, &value));
}

static void test_query_get(void **state)
{
    (void)state;
    struct view query =
        guarded_view(BYTES("tag=a&%74ag=b%2dc&tags=x&digest=sha256%3aff&tag=&bad=%zz&ta%67=d"));
    char out[16];
    assert_int_equal(http_query_get(query, "digest", out, sizeof(out)), 9);
    assert_memory_equal(out, "sha256:ff", 9);
    assert_int_equal(http_query_get(query, "digest", out, 8), -ENOBUFS);
    assert_int_equal(http_query_get(query, "bad", out, sizeof(out)), -EINVAL);
    assert_int_equal(http_query_get(query, "ta", out, sizeof(out)), -ENOENT);
    assert_int_equal(http_query_get(query, "Digest", out, sizeof(out)), -ENOENT);
    assert_int_equal(http_query_get(view_of(NULL, 0), "n", out, sizeof(out)), -ENOENT);

    static const char *const tags[] = {"a", "b-c", "", "d"};
    for (size_t i = 0; i < ARRAY_SIZE(tags); i++) {
        assert_int_equal(http_query_take(&query, "tag", out, sizeof(out)), strlen(tags[i]));
        assert_memory_equal(out, tags[i], strlen(tags[i]));
    }
    assert_int_equal(http_query_take(&query, "tag", out, sizeof(out)), -ENOENT);
}

static void test_query_number(void **state)
{
    (void)state;
    struct view query = guarded_view(BYTES("a=0&b=00100&c=101&d=&e=-1&f=1x&g=99999999999999999999999&h=+1"));
    static const struct {
        const char *name;
        int ret;
        uint64_t value;
    } rows[] = {{"a", 0, 0},       {"b", 0, 100},       {"c", -ERANGE, 100},
                {"d", -EINVAL, 7}, {"e", -EINVAL, 7},   {"f", -EINVAL, 7},
                {"h", -EINVAL, 7}, {"g", -ERANGE, 100}, {"i", -ENOENT, 7}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t value = 7;
        assert_int_equal(http_query_get_u64(query, rows[i].name, 100, &value), rows[i].ret);
        assert_int_equal(value, rows[i].value);
    }
}

static void test_numbers(void **state)
{
    (void)state;
    uint64_t value;
    char out[NUMBER_DIGITS_MAX];
    assert_int_equal(number_read(VIEW_LIT("18446744073709551615"), UINT64_MAX, &value), 0);
    assert_true(value == UINT64_MAX);
    assert_int_equal(number_read(VIEW_LIT("18446744073709551616"), UINT64_MAX, &value), -ERANGE);
    assert_int_equal(number_read(VIEW_LIT("184467440737095516150"), UINT64_MAX, &value), -ERANGE);
    assert_int_equal(number_read(VIEW_LIT("184467440737095516150x"), UINT64_MAX, &value), -EINVAL);
    assert_int_equal(number_read(VIEW_LIT("9"), 3, &value), -ERANGE);
    assert_int_equal(number_read(VIEW_LIT("0"), 0, &value), 0);
    assert_true(view_lit(number_write(UINT64_MAX, out), "18446744073709551615"));
    assert_true(view_lit(number_write(0, out), "0"));
    assert_true(view_lit(number_write(10, out), "10"));
}

/* The classes again, this time from the words of the grammars. */
static unsigned class_of(int c)
{
    bool alnum = c < 128 && isalnum(c);
    bool unreserved = alnum || (c && strchr("-._~", c));
    bool sub_delim = c && strchr("!$&'()*+,;=", c);
    unsigned class = 0;
    class |= alnum || (c && strchr("!#$%&'*+-.^_`|~", c)) ? HTTP_CHAR_TOKEN : 0;
    class |= c == '\t' || (c >= ' ' && c != 0x7f) ? HTTP_CHAR_VALUE : 0;
    class |= c > ' ' && c < 0x7f && c != '#' ? HTTP_CHAR_TARGET : 0;
    class |= unreserved || sub_delim || (c && strchr(":@/%", c)) ? HTTP_CHAR_PATH : 0;
    class |= unreserved || sub_delim || c == '%' ? HTTP_CHAR_HOST : 0;
    class |= c < 128 && isxdigit(c) ? HTTP_CHAR_HEX : 0;
    class |= unreserved ? HTTP_CHAR_UNQUOTED : 0;
    return class;
}

static void test_classes(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++)
        if (http_chars[c] != class_of(c))
            fail_msg("character 0x%02x: 0x%02x, not 0x%02x", c, http_chars[c], class_of(c));
    assert_int_equal(http_hex_value('0') * 16 + http_hex_value('f'), 15);
    assert_int_equal(http_hex_value('A') * 16 + http_hex_value('9'), 169);
}

static int set_up(void **state)
{
    (void)state;
    memory = guarded_new(4096);
    output = guarded_new(4096);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),     cmocka_unit_test(test_encode),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_query_walk),
        cmocka_unit_test(test_query_get),  cmocka_unit_test(test_query_number),
        cmocka_unit_test(test_numbers),    cmocka_unit_test(test_classes),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
