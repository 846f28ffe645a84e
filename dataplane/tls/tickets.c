/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/tls/tickets.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS = 3, NAME_BYTES = 16, CIPHER_KEY_BYTES = 32, MAC_KEY_BYTES = 32, IV_BYTES = 16 };

enum { PLACES = KEYS + 1 }; /* the next key is written where none is that still counts */

struct key {
    uint8_t name[NAME_BYTES], cipher[CIPHER_KEY_BYTES], mac[MAC_KEY_BYTES];
};

enum { KEY_WORDS = sizeof(struct key) / sizeof(uint64_t) };

union words {
    struct key key;
    uint64_t word[KEY_WORDS];
};

_Static_assert(sizeof(struct key) % sizeof(uint64_t) == 0, "keys are copied by words");

/*
 * Nobody waits: a ring may do a handshake's step, and whoever turns the keys may stand still meanwhile. A
 * reader copies a key and looks behind it whether it still counts; what has been written over it by then was
 * released after the number that says that it does not.
 */
struct tls_tickets {
    _Atomic uint64_t made; /* how many keys there ever were: number made - 1 is the newest */
    _Atomic uint64_t place[PLACES][KEY_WORDS];
    uint64_t made_ms; /* the newest; of the thread that turns them */
    EVP_CIPHER *cipher;
};

static void place_write(struct tls_tickets *t, uint64_t number, const union words *w)
{
    for (unsigned i = 0; i < KEY_WORDS; i++)
        atomic_store_explicit(&t->place[number % PLACES][i], w->word[i], memory_order_release);
}

/* A key that counts no more leaves memory with the one that took its turn. */
static bool key_add(struct tls_tickets *t)
{
    union words fresh;
    uint64_t made = atomic_load_explicit(&t->made, memory_order_relaxed);
    bool ok = RAND_bytes(fresh.key.name, NAME_BYTES) == 1 &&
              RAND_priv_bytes(fresh.key.cipher, CIPHER_KEY_BYTES) == 1 &&
              RAND_priv_bytes(fresh.key.mac, MAC_KEY_BYTES) == 1;
    if (ok) {
        place_write(t, made, &fresh);
        atomic_store_explicit(&t->made, made + 1, memory_order_release);
        memset(&fresh, 0, sizeof(fresh));
        place_write(t, made + 1, &fresh);
    }
    OPENSSL_cleanse(&fresh, sizeof(fresh));
    return ok;
}

struct tls_tickets *tls_tickets_new(void)
{
    struct tls_tickets *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL); /* once, and not for each ticket */
    if (t->cipher && key_add(t))
        return t;
    tls_tickets_free(t);
    return NULL;
}

void tls_tickets_free(struct tls_tickets *t)
{
    if (!t)
        return;
    EVP_CIPHER_free(t->cipher);
    OPENSSL_cleanse(t, sizeof(*t));
    free(t);
}

bool tls_tickets_turn(struct tls_tickets *t, uint64_t now_ms, uint64_t life_ms)
{
    if (t->made_ms == 0)
        t->made_ms = now_ms;
    if (now_ms - t->made_ms < life_ms)
        return true;
    if (!key_add(t))
        return false;
    t->made_ms = now_ms;
    return true;
}

/* Key of that number, if it still counts. */
static bool key_read(struct tls_tickets *t, uint64_t number, union words *out)
{
    for (unsigned i = 0; i < KEY_WORDS; i++)
        out->word[i] = atomic_load_explicit(&t->place[number % PLACES][i], memory_order_acquire);
    return number + KEYS >= atomic_load_explicit(&t->made, memory_order_relaxed);
}

/* The key to seal with (name NULL), or the one that sealed. *age: how many have come after it. */
static bool key_find(struct tls_tickets *t, const uint8_t *name, union words *out, uint64_t *age)
{
    uint64_t made = atomic_load_explicit(&t->made, memory_order_acquire);
    for (uint64_t n = made; n > 0 && n + KEYS > made; n--) {
        if (!key_read(t, n - 1, out) || (name && CRYPTO_memcmp(out->key.name, name, NAME_BYTES) != 0))
            continue;
        *age = made - n;
        return true;
    }
    return false;
}

static bool keys_set(const struct tls_tickets *t, const struct key *k, const uint8_t *iv,
                     EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int seal)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                           OSSL_PARAM_construct_end()};
    return EVP_CipherInit_ex(cipher, t->cipher, NULL, k->cipher, iv, seal) == 1 &&
           EVP_MAC_init(mac, k->mac, sizeof(k->mac), params) == 1;
}

int tls_tickets_key(struct tls_tickets *t, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                    EVP_MAC_CTX *mac, int seal)
{
    union words k;
    uint64_t age = 0;
    bool found = key_find(t, seal ? NULL : name, &k, &age);
    bool set = found;
    if (found && seal) {
        memcpy(name, k.key.name, NAME_BYTES);
        set = RAND_bytes(iv, IV_BYTES) == 1;
    }
    set = set && keys_set(t, &k.key, iv, cipher, mac, seal);
    OPENSSL_cleanse(&k, sizeof(k));
    if (!found)
        return seal ? -1 : 0;
    return !set ? -1 : age > 0 ? 2 : 1;
}
