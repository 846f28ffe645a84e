/* SPDX-License-Identifier: Apache-2.0 */
/* The file STATE/pki/peers: a line "ID ADDRESS" for each manager that there was when this node joined. It is
 * how a node finds the others before its state tells it. Pure. */
#ifndef FL_MESH_PEERS_H
#define FL_MESH_PEERS_H

#include "control/mesh/frame.h"
#include "control/mesh/pki.h"

/* From malloc: pki_text_free. Managers whose address is none are left out. */
void peers_format(const struct frame_manager *managers, size_t count, struct pki_text *out);

/* At most max of them; lines that are none are skipped. Each is to be dialled. Returns how many. */
size_t peers_parse(const char *text, struct mesh_node *out, size_t max);

#endif
