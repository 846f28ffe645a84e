/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FL_CONTROL_RESTORE_MAIN_H
#define FL_CONTROL_RESTORE_MAIN_H

#include <stdbool.h>

#include "control/config.h"

/* fairleadd --restore: puts a backup back, or reads it only. passphrase_file NULL: the first line of standard
 * input. Returns the exit code. */
int restore_main(const struct config *config, const char *path, const char *passphrase_file, bool verify);

#endif
