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
static const char *take_line(char *text, size_t len)
{
    if (len == CREDENTIALS_PASSWORD_MAX)
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

bool credentials_read(const char *path, char out[CREDENTIALS_PASSWORD_MAX], char *why, size_t why_len)
{
    struct stat st;
    const char *wrong = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        snprintf(why, why_len, "%s: %s", path, strerror(errno));
        return false;
    }
    ssize_t len = -1;
    if (fstat(fd, &st))
        wrong = strerror(errno);
    else if (!S_ISREG(st.st_mode))
        wrong = "it is no file";
    else if (st.st_mode & (S_IRWXG | S_IRWXO))
        wrong = "others may read or write it; take that right away with chmod 600";
    else if ((len = read_all(fd, out, CREDENTIALS_PASSWORD_MAX)) < 0)
        wrong = strerror(errno);
    else
        wrong = take_line(out, (size_t)len);
    close(fd);
    if (wrong) {
        explicit_bzero(out, CREDENTIALS_PASSWORD_MAX);
        snprintf(why, why_len, "%s: %s", path, wrong);
    }
    return !wrong;
}
