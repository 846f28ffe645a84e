/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FL_CONTROL_FORCE_MAIN_H
#define FL_CONTROL_FORCE_MAIN_H

#include <stdbool.h>

#include "control/config.h"

/* fairleadd --force-new: this node goes on alone, from what its log has (consensus_force_new). Asks first,
 * unless yes is set. Returns the exit code. */
int force_main(const struct config *config, bool yes);

#endif
