/* SPDX-License-Identifier: Apache-2.0 */
/*
 * On which node a command was made: "@ID" behind the source in its head, so that every node's audit record
 * says it. Pure.
 */
#ifndef FL_CONTROL_CMD_ORIGIN_H
#define FL_CONTROL_CMD_ORIGIN_H

#include <stddef.h>
#include <stdint.h>

/* Takes a command (malloc'd) and returns it, or another one, with the node in it. One that has a node
 * already, has no room for one or is no command is returned as it is. */
void *cmd_origin_set(void *cmd, size_t *len, uint64_t node);

/* The node at the end of a source, 0 if there is none; *len becomes the length of what is before it. */
uint64_t cmd_origin_take(const char *source, size_t *len);

#endif
