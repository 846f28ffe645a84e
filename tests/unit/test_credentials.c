/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "check.h"
#include "control/credentials.h"

static char folder[] = "/tmp/fl-credentials-XXXXXX";
static char path[sizeof(folder) + 8];
static char password[CREDENTIALS_PASSWORD_MAX], why[256];

static int setup(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "%s/p", mkdtemp(folder));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static bool with(const void *bytes, size_t len, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
    return credentials_read(path, password, why, sizeof(why));
}

static void test_a_line(void **state)
{
    (void)state;
    assert_true(with("secret\n", 7, 0600));
    assert_string_equal(password, "secret");
    assert_true(with("se:cret \r\n", 10, 0400));
    assert_string_equal(password, "se:cret ");
    assert_true(with("x", 1, 0600));
    assert_string_equal(password, "x");
}

static void test_what_is_none(void **state)
{
    static char large[CREDENTIALS_PASSWORD_MAX + 1];
    static const char zeros[CREDENTIALS_PASSWORD_MAX];
    (void)state;
    memset(large, 'x', sizeof(large));
    assert_false(with("secret\n", 7, 0640));
    assert_non_null(strstr(why, "chmod 600"));
    assert_false(with("secret\n", 7, 0604));
    assert_false(with("secret\n", 7, 0620));
    assert_memory_equal(password, zeros, sizeof(zeros)); /* nothing is left of it */
    assert_false(with("", 0, 0600));
    assert_false(with("\n", 1, 0600));
    assert_false(with("a\nb\n", 4, 0600));
    assert_false(with("a\0b", 3, 0600));
    assert_false(with(large, sizeof(large), 0600));
    assert_false(with(large, sizeof(large) - 1, 0600));
    assert_true(with(large, sizeof(large) - 2, 0600));
    assert_memory_equal(why, path, strlen(path));
    assert_false(credentials_read(folder, password, why, sizeof(why)));
    assert_false(credentials_read("/nowhere/p", password, why, sizeof(why)));
    assert_null(strstr(why, "secret"));
}

static bool with_both(const char *text, mode_t mode, struct credentials *c)
{
    (void)with(text, strlen(text), mode);
    return credentials_read_both(path, c, why, sizeof(why));
}

static void test_both(void **state)
{
    static const char *const wrong[] = {
        "", "\n", "alice\n", ":secret\n", "ali\tce:secret\n", "\nalice:secret\n"};
    static char large[sizeof(struct credentials) + 16];
    static const struct credentials zeros;
    struct credentials c;
    (void)state;
    assert_true(with_both("alice:se:cret\r\nanything\n", 0600, &c));
    assert_string_equal(c.user, "alice");
    assert_string_equal(c.password, "se:cret");
    assert_true(with_both("alice:", 0600, &c));
    assert_string_equal(c.password, "");
    assert_false(with_both("alice:secret\n", 0640, &c));
    assert_non_null(strstr(why, "chmod 600"));
    assert_memory_equal(&c, &zeros, sizeof(c));
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_false(with_both(wrong[i], 0600, &c));
    memset(large, 'x', sizeof(large) - 1);
    assert_false(with_both(large, 0600, &c));
    large[4] = ':';
    assert_false(with_both(large, 0600, &c));
    large[5 + CREDENTIALS_PASSWORD_MAX - 1] = '\0';
    assert_true(with_both(large, 0600, &c));
    assert_false(credentials_read_both("/nowhere/p", &c, why, sizeof(why)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_line), cmocka_unit_test(test_what_is_none),
                                       cmocka_unit_test(test_both)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
