/* SPDX-License-Identifier: Apache-2.0 */
#include "control/allocator.h"

const char *const malloc_conf = "narenas:1,dirty_decay_ms:1000";
