/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials: a user's name, which the configuration says, and a password, which stands in a file of its own
 * that nobody but its owner may read. It is read when it is needed and wiped when it is not.
 */
#ifndef FL_CONTROL_CREDENTIALS_H
#define FL_CONTROL_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>

enum { CREDENTIALS_USER_MAX = 256, CREDENTIALS_PASSWORD_MAX = 4096 };

struct credentials {
    char user[CREDENTIALS_USER_MAX];
    char password[CREDENTIALS_PASSWORD_MAX];
};

/* The password, without the line's end. False, and why: "PATH: what is wrong". */
bool credentials_read(const char *path, char out[CREDENTIALS_PASSWORD_MAX], char *why, size_t why_len);

#endif
