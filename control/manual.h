/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FL_CONTROL_MANUAL_H
#define FL_CONTROL_MANUAL_H

#include <stdio.h>

/* The settings as man macros, for fairlead.yaml(5). */
void manual_print_settings(FILE *out);

#endif
