/* SPDX-License-Identifier: Apache-2.0 */
/* The section `credentials`: names, users, and the files of their passwords. Reading it does not open the
 * files. */
#ifndef FL_CONTROL_CONFIG_CREDENTIALS_H
#define FL_CONTROL_CONFIG_CREDENTIALS_H

#include <stddef.h>

#include "plan.h"
#include "control/credentials.h"

enum { CONFIG_CREDENTIALS_MAX = 256 };

struct config_credential {
    char name[PLAN_NAME_MAX];
    char user[CREDENTIALS_USER_MAX];
    char *password_file;
};

struct config_credentials {
    struct config_credential *list;
    size_t count;
};

/* NULL: there is none of that name. */
const struct config_credential *config_credential_find(const struct config_credentials *c, const char *name);

void config_credentials_fini(struct config_credentials *c);

#endif
