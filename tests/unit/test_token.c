/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "control/mesh/token.h"

static void make(struct token *token, uint8_t seed)
{
    for (size_t i = 0; i < sizeof(token->ca); i++)
        token->ca[i] = (uint8_t)(seed + 37 * i);
    for (size_t i = 0; i < sizeof(token->secret); i++)
        token->secret[i] = (uint8_t)(seed * 3 + 91 * i);
}

static void test_known_text(void **state)
{
    (void)state;
    struct token token = {.ca = {'f', 'o', 'o', 'b', 'a', 'r'}};
    char text[TOKEN_TEXT_MAX];
    token_format(&token, text);
    assert_memory_equal(text, "FLJ1-MZXW6YTBOI", 15);
    assert_int_equal(strlen(text), 5 + 52 + 1 + 26);
}

static void test_there_and_back(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 256; seed++) {
        struct token in, out;
        char text[TOKEN_TEXT_MAX];
        make(&in, (uint8_t)seed);
        token_format(&in, text);
        assert_int_equal(token_parse(text, &out), 0);
        assert_memory_equal(&in, &out, sizeof(in));
        for (char *p = text; *p; p++)
            *p = (char)tolower((unsigned char)*p);
        assert_int_equal(token_parse(text, &out), 0);
        assert_memory_equal(&in, &out, sizeof(in));
    }
}

/* There is one text for one token, and nothing else is one. */
static void test_refused(void **state)
{
    (void)state;
    struct token token, out;
    char text[TOKEN_TEXT_MAX], changed[TOKEN_TEXT_MAX + 2];
    make(&token, 7);
    token_format(&token, text);
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i++) {
        strcpy(changed, text);
        changed[i] = '!';
        assert_int_not_equal(token_parse(changed, &out), 0);
        strcpy(changed, text);
        changed[i] = '\0';
        assert_int_not_equal(token_parse(changed, &out), 0);
    }
    snprintf(changed, sizeof(changed), "%sA", text);
    assert_int_not_equal(token_parse(changed, &out), 0);
    strcpy(changed, text);
    changed[len - 1] = (char)(text[len - 1] == '7' ? '6' : text[len - 1] + 1);
    assert_int_not_equal(token_parse(changed, &out), 0); /* a bit behind the end */
    assert_int_not_equal(token_parse("", &out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_known_text),
                                       cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
