/* SPDX-License-Identifier: Apache-2.0 */
#include "control/credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Its length, or -1. */
static ssize_t read_all(int fd, char *out, size_t cap)
{
    size_t len = 0;
    while (len < cap) {
        ssize_t n = read(fd, out + len, cap - len);
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

/* A line; NULL, or what is wrong with it. */
static const char *take_line(char *text, size_t len, size_t cap)
{
    if (len == cap)
        return "it is too long for a password";
    if (len && text[len - 1] == '\n')
        len--;
    if (len && text[len - 1] == '\r')
        len--;
    text[len] = '\0';
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            return "it has more than one line, or control characters";
    return len ? NULL : "it is empty";
}

/* NULL, or why it is not read. */
static const char *read_file(const char *path, char *out, size_t cap, size_t *len)
{
    struct stat st;
    const char *wrong = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    ssize_t n = -1;
    *len = 0;
    if (fd < 0)
        return strerror(errno);
    if (fstat(fd, &st))
        wrong = strerror(errno);
    else if (!S_ISREG(st.st_mode))
        wrong = "it is no file";
    else if (st.st_mode & (S_IRWXG | S_IRWXO))
        wrong = "others may read or write it; take that right away with chmod 600";
    else if ((n = read_all(fd, out, cap)) < 0)
        wrong = strerror(errno);
    close(fd);
    *len = n < 0 ? 0 : (size_t)n;
    return wrong;
}

bool credentials_read(const char *path, char out[CREDENTIALS_PASSWORD_MAX], char *why, size_t why_len)
{
    size_t len;
    const char *wrong = read_file(path, out, CREDENTIALS_PASSWORD_MAX, &len);
    if (!wrong)
        wrong = take_line(out, len, CREDENTIALS_PASSWORD_MAX);
    if (wrong) {
        explicit_bzero(out, CREDENTIALS_PASSWORD_MAX);
        snprintf(why, why_len, "%s: %s", path, wrong);
    }
    return !wrong;
}

/* A first line of text; NULL, or what is wrong with it. */
static const char *take_both(char *text, struct credentials *out)
{
    char *colon = strchr(text, ':');
    if (!colon || colon == text || (size_t)(colon - text) >= sizeof(out->user))
        return "its first line is not USER:PASSWORD";
    *colon = '\0';
    if (strlen(colon + 1) >= sizeof(out->password))
        return "it is too long for a password";
    memcpy(out->user, text, strlen(text) + 1);
    memcpy(out->password, colon + 1, strlen(colon + 1) + 1);
    return NULL;
}

bool credentials_read_both(const char *path, struct credentials *out, char *why, size_t why_len)
{
    char text[sizeof(*out) + 4];
    size_t len;
    memset(out, 0, sizeof(*out));
    const char *wrong = read_file(path, text, sizeof(text), &len);
    if (!wrong) {
        const char *end = memchr(text, '\n', len);
        wrong = take_line(text, end ? (size_t)(end - text) : len, sizeof(text));
    }
    if (!wrong)
        wrong = take_both(text, out);
    if (wrong) {
        explicit_bzero(out, sizeof(*out));
        snprintf(why, why_len, "%s: %s", path, wrong);
    }
    explicit_bzero(text, sizeof(text));
    return !wrong;
}
