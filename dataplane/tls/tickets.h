/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys that session tickets are sealed with: one set for all rings, listeners and certificates, made at
 * random, replaced after a while; a ticket of one of the keys before is still taken. They are in no file and
 * end with the process.
 */
#ifndef FL_TLS_TICKETS_H
#define FL_TLS_TICKETS_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>

struct tls_tickets;

struct tls_tickets *tls_tickets_new(void); /* NULL: no memory, or no randomness */
void tls_tickets_free(struct tls_tickets *t);

/* A new key when the present one is older than `life_ms`. One thread calls it. False: no randomness. */
bool tls_tickets_turn(struct tls_tickets *t, uint64_t now_ms, uint64_t life_ms);

/* As SSL_CTX_set_tlsext_ticket_key_evp_cb(3), by threads that do handshakes: 1; 2: taken, and to be replaced;
 * 0: not ours, a full handshake; -1. */
int tls_tickets_key(struct tls_tickets *t, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                    EVP_MAC_CTX *mac, int seal);

#endif
