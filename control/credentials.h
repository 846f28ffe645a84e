/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials: a user's name and a password, in a file that nobody but its owner may read: the password
 * alone, where the configuration says the name, or both. It is read when it is needed and wiped when it is
 * not.
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

/* USER:PASSWORD, the first line of the file. Likewise. */
bool credentials_read_both(const char *path, struct credentials *out, char *why, size_t why_len);

#endif
