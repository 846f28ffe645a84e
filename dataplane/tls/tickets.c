/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/tls/tickets.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS = 3, NAME_BYTES = 16, CIPHER_KEY_BYTES = 32, MAC_KEY_BYTES = 32, IV_BYTES = 16 };

struct key {
    uint8_t name[NAME_BYTES], cipher[CIPHER_KEY_BYTES], mac[MAC_KEY_BYTES];
    bool valid;
};

/* The lock is held for a copy of a key, by threads that do handshakes. */
struct tls_tickets {
    pthread_mutex_t lock;
    struct key key[KEYS]; /* the newest first */
    uint64_t made_ms;     /* that one; of the thread that turns them */
};

static bool key_make(struct key *k)
{
    k->valid = true;
    return RAND_bytes(k->name, sizeof(k->name)) == 1 && RAND_priv_bytes(k->cipher, sizeof(k->cipher)) == 1 &&
           RAND_priv_bytes(k->mac, sizeof(k->mac)) == 1;
}

struct tls_tickets *tls_tickets_new(void)
{
    struct tls_tickets *t = calloc(1, sizeof(*t));
    if (!t || pthread_mutex_init(&t->lock, NULL))
        goto err_free;
    if (!key_make(&t->key[0]))
        goto err_lock;
    return t;
err_lock:
    pthread_mutex_destroy(&t->lock);
err_free:
    free(t);
    return NULL;
}

void tls_tickets_free(struct tls_tickets *t)
{
    if (!t)
        return;
    pthread_mutex_destroy(&t->lock);
    OPENSSL_cleanse(t, sizeof(*t));
    free(t);
}

bool tls_tickets_turn(struct tls_tickets *t, uint64_t now_ms, uint64_t life_ms)
{
    struct key fresh = {0};
    if (t->made_ms == 0)
        t->made_ms = now_ms;
    if (now_ms - t->made_ms < life_ms)
        return true;
    if (!key_make(&fresh))
        return false;
    pthread_mutex_lock(&t->lock);
    memmove(&t->key[1], &t->key[0], sizeof(t->key) - sizeof(t->key[0]));
    t->key[0] = fresh;
    t->made_ms = now_ms;
    pthread_mutex_unlock(&t->lock);
    OPENSSL_cleanse(&fresh, sizeof(fresh));
    return true;
}

/* The key to seal with (name NULL), or the one that sealed. *age: how many have come after it. */
static bool key_find(struct tls_tickets *t, const uint8_t *name, struct key *out, int *age)
{
    bool found = false;
    pthread_mutex_lock(&t->lock);
    for (int i = 0; i < KEYS && !found; i++)
        if (t->key[i].valid && (!name || CRYPTO_memcmp(t->key[i].name, name, NAME_BYTES) == 0)) {
            *out = t->key[i];
            *age = i;
            found = true;
        }
    pthread_mutex_unlock(&t->lock);
    return found;
}

static bool keys_set(const struct key *k, const uint8_t *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                     int seal)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                           OSSL_PARAM_construct_end()};
    return EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, k->cipher, iv, seal) == 1 &&
           EVP_MAC_init(mac, k->mac, sizeof(k->mac), params) == 1;
}

int tls_tickets_key(struct tls_tickets *t, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                    EVP_MAC_CTX *mac, int seal)
{
    struct key k;
    int age = 0;
    if (!key_find(t, seal ? NULL : name, &k, &age))
        return seal ? -1 : 0;
    if (seal) {
        memcpy(name, k.name, NAME_BYTES);
        if (RAND_bytes(iv, IV_BYTES) != 1)
            return -1;
    }
    bool set = keys_set(&k, iv, cipher, mac, seal);
    OPENSSL_cleanse(&k, sizeof(k));
    return !set ? -1 : age > 0 ? 2 : 1;
}
