/* SPDX-License-Identifier: Apache-2.0 */
#include "control/backup_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "check.h"
#include "wire.h"

enum {
    MAGIC = 0x31424c46, /* "FLB1" */
    VERSION = 1,
    SALT_BYTES = 16,
    PREFIX_BYTES = 7,
    NONCE_BYTES = 12,
    KEY_BYTES = 32,
    MAC_BYTES = 32,
    TAG_BYTES = 16,
    SCRYPT_R = 8,
    SCRYPT_P = 1,
    SIGNED_BYTES = BACKUP_HEAD_BYTES - MAC_BYTES, /* of the head */
};

/* What both sides have: the head as it is in the file, the key, and which piece is next. */
struct stream {
    int fd;
    uint8_t head[BACKUP_HEAD_BYTES];
    uint8_t prefix[PREFIX_BYTES];
    uint8_t key[KEY_BYTES], mac_key[KEY_BYTES];
    EVP_CIPHER_CTX *cipher;
    uint32_t number;
};

struct backup_writer {
    struct stream s;
    uint8_t plain[BACKUP_PIECE_BYTES];
    size_t len;
};

struct backup_reader {
    struct stream s;
    uint8_t plain[BACKUP_PIECE_BYTES];
    size_t len, pos;
    uint8_t
        ahead[BACKUP_PIECE_BYTES + TAG_BYTES + 1]; /* a byte more than a piece: whether another one follows */
    size_t ahead_len;
    bool last;
};

const char *backup_error_text(int err)
{
    switch (err) {
    case -ENOMSG:
        return "it is no backup of Fairlead";
    case -EPROTO:
        return "it was made by another version, which this one does not read";
    case -EKEYREJECTED:
        return "the passphrase is not the one it was made with, or its head is damaged";
    case -EBADMSG:
        return "it is damaged or cut short";
    default:
        return strerror(-err);
    }
}

/* --- keys --- */

static int derive(struct stream *s, unsigned log_n, const uint8_t salt[SALT_BYTES], const char *passphrase,
                  size_t len)
{
    uint8_t keys[2 * KEY_BYTES];
    uint64_t room = (uint64_t)(SCRYPT_R * 128 + 64) * ((1ull << log_n) + SCRYPT_P + 2) + (1 << 20);
    int ok = EVP_PBE_scrypt(passphrase, len, salt, SALT_BYTES, 1ull << log_n, SCRYPT_R, SCRYPT_P, room, keys,
                            sizeof(keys));
    memcpy(s->key, keys, KEY_BYTES);
    memcpy(s->mac_key, keys + KEY_BYTES, KEY_BYTES);
    OPENSSL_cleanse(keys, sizeof(keys));
    return ok == 1 ? 0 : -ENOMEM;
}

static int head_mac(const struct stream *s, uint8_t out[MAC_BYTES])
{
    unsigned len = MAC_BYTES;
    return HMAC(EVP_sha256(), s->mac_key, KEY_BYTES, s->head, SIGNED_BYTES, out, &len) ? 0 : -ENOMEM;
}

static int stream_begin(struct stream *s)
{
    s->cipher = EVP_CIPHER_CTX_new();
    return s->cipher ? 0 : -ENOMEM;
}

static void stream_end(struct stream *s)
{
    EVP_CIPHER_CTX_free(s->cipher);
    OPENSSL_cleanse(s, sizeof(*s));
}

static void nonce_make(const struct stream *s, bool last, uint8_t nonce[NONCE_BYTES])
{
    memcpy(nonce, s->prefix, PREFIX_BYTES);
    for (int i = 0; i < 4; i++)
        nonce[PREFIX_BYTES + i] = (uint8_t)(s->number >> (24 - 8 * i));
    nonce[NONCE_BYTES - 1] = last;
}

/* --- bytes of the file --- */

int backup_write_all(int fd, const uint8_t *data, size_t len)
{
    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* As many as there are, up to cap. */
static int read_some(int fd, uint8_t *out, size_t cap, size_t *len)
{
    *len = 0;
    while (*len < cap) {
        ssize_t n = read(fd, out + *len, cap - *len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        *len += (size_t)n;
    }
    return 0;
}

/* --- writing --- */

static int head_write(struct stream *s, const struct backup_head *head, const char *passphrase, size_t len)
{
    struct wire_writer w = {.buf = s->head, .cap = SIGNED_BYTES};
    uint8_t salt[SALT_BYTES];
    if (RAND_bytes(salt, sizeof(salt)) != 1 || RAND_bytes(s->prefix, sizeof(s->prefix)) != 1)
        return -EIO;
    wire_put_u32(&w, MAGIC);
    wire_put_u32(&w, VERSION);
    wire_put(&w, head->cluster_id, sizeof(head->cluster_id));
    wire_put_u64(&w, head->node_id);
    wire_put_u64(&w, head->index);
    wire_put_u64(&w, head->term);
    wire_put_u64(&w, head->created_ms);
    wire_put_u8(&w, head->log_n);
    wire_put(&w, salt, sizeof(salt));
    wire_put(&w, s->prefix, sizeof(s->prefix));
    CHECK(!w.failed); /* what is left of it stays zero */
    int rc = derive(s, head->log_n, salt, passphrase, len);
    if (rc == 0)
        rc = head_mac(s, s->head + SIGNED_BYTES);
    return rc ? rc : backup_write_all(s->fd, s->head, sizeof(s->head));
}

int backup_writer_new(int fd, const struct backup_head *head, const char *passphrase, size_t len,
                      struct backup_writer **out)
{
    struct backup_writer *w = calloc(1, sizeof(*w));
    CHECK(w);
    w->s.fd = fd;
    int rc = stream_begin(&w->s);
    if (rc == 0)
        rc = head_write(&w->s, head, passphrase, len);
    if (rc) {
        backup_writer_free(w);
        return rc;
    }
    *out = w;
    return 0;
}

static int seal(struct backup_writer *w, bool last)
{
    uint8_t sealed[BACKUP_PIECE_BYTES + TAG_BYTES], nonce[NONCE_BYTES];
    struct stream *s = &w->s;
    int n = 0, end = 0;
    if (s->number == UINT32_MAX)
        return -EFBIG;
    nonce_make(s, last, nonce);
    if (EVP_EncryptInit_ex(s->cipher, EVP_aes_256_gcm(), NULL, s->key, nonce) != 1 ||
        EVP_EncryptUpdate(s->cipher, NULL, &n, s->head, BACKUP_HEAD_BYTES) != 1 ||
        EVP_EncryptUpdate(s->cipher, sealed, &n, w->plain, (int)w->len) != 1 ||
        EVP_EncryptFinal_ex(s->cipher, sealed + n, &end) != 1 ||
        EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, sealed + w->len) != 1)
        return -EIO;
    int rc = backup_write_all(s->fd, sealed, w->len + TAG_BYTES);
    w->len = 0;
    s->number++;
    return rc;
}

/* A full piece waits for more: only what is behind it shows that it is not the last one. */
int backup_write(struct backup_writer *w, const void *data, size_t len)
{
    const uint8_t *from = data;
    while (len) {
        if (w->len == sizeof(w->plain)) {
            int rc = seal(w, false);
            if (rc)
                return rc;
        }
        size_t n = sizeof(w->plain) - w->len < len ? sizeof(w->plain) - w->len : len;
        memcpy(w->plain + w->len, from, n);
        w->len += n;
        from += n;
        len -= n;
    }
    return 0;
}

int backup_writer_end(struct backup_writer *w)
{
    return seal(w, true);
}

void backup_writer_free(struct backup_writer *w)
{
    stream_end(&w->s);
    OPENSSL_cleanse(w->plain, sizeof(w->plain));
    free(w);
}

/* --- reading --- */

static int head_read(struct stream *s, const char *passphrase, size_t len, struct backup_head *head)
{
    struct wire_reader r = {.buf = s->head, .len = SIGNED_BYTES};
    uint8_t salt[SALT_BYTES], mac[MAC_BYTES];
    size_t got;
    int rc = read_some(s->fd, s->head, sizeof(s->head), &got);
    if (rc)
        return rc;
    if (got < 8 || wire_get_u32(&r) != MAGIC)
        return -ENOMSG;
    if (wire_get_u32(&r) != VERSION)
        return -EPROTO;
    if (got < sizeof(s->head))
        return -EBADMSG;
    memcpy(head->cluster_id, wire_get(&r, sizeof(head->cluster_id)), sizeof(head->cluster_id));
    head->node_id = wire_get_u64(&r);
    head->index = wire_get_u64(&r);
    head->term = wire_get_u64(&r);
    head->created_ms = wire_get_u64(&r);
    head->log_n = wire_get_u8(&r);
    memcpy(salt, wire_get(&r, sizeof(salt)), sizeof(salt));
    memcpy(s->prefix, wire_get(&r, sizeof(s->prefix)), sizeof(s->prefix));
    if (head->log_n < BACKUP_LOG_N_MIN || head->log_n > BACKUP_LOG_N_MAX)
        return -EKEYREJECTED;
    rc = derive(s, head->log_n, salt, passphrase, len);
    if (rc == 0)
        rc = head_mac(s, mac);
    if (rc)
        return rc;
    return CRYPTO_memcmp(mac, s->head + SIGNED_BYTES, MAC_BYTES) == 0 ? 0 : -EKEYREJECTED;
}

int backup_reader_new(int fd, const char *passphrase, size_t len, struct backup_head *head,
                      struct backup_reader **out)
{
    struct backup_reader *r = calloc(1, sizeof(*r));
    CHECK(r);
    r->s.fd = fd;
    int rc = stream_begin(&r->s);
    if (rc == 0)
        rc = head_read(&r->s, passphrase, len, head);
    if (rc) {
        backup_reader_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

/* The next piece into plain. */
static int unseal(struct backup_reader *r)
{
    struct stream *s = &r->s;
    uint8_t nonce[NONCE_BYTES];
    size_t got;
    int n = 0, end = 0;
    int rc = read_some(s->fd, r->ahead + r->ahead_len, sizeof(r->ahead) - r->ahead_len, &got);
    if (rc)
        return rc;
    r->ahead_len += got;
    r->last = r->ahead_len < sizeof(r->ahead);
    size_t sealed = r->last ? r->ahead_len : r->ahead_len - 1;
    if (sealed < TAG_BYTES || s->number == UINT32_MAX)
        return -EBADMSG;
    nonce_make(s, r->last, nonce);
    if (EVP_DecryptInit_ex(s->cipher, EVP_aes_256_gcm(), NULL, s->key, nonce) != 1 ||
        EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, r->ahead + sealed - TAG_BYTES) != 1 ||
        EVP_DecryptUpdate(s->cipher, NULL, &n, s->head, BACKUP_HEAD_BYTES) != 1 ||
        EVP_DecryptUpdate(s->cipher, r->plain, &n, r->ahead, (int)(sealed - TAG_BYTES)) != 1 ||
        EVP_DecryptFinal_ex(s->cipher, r->plain + n, &end) != 1)
        return -EBADMSG;
    r->ahead[0] = r->ahead[sealed];
    r->ahead_len = r->last ? 0 : 1;
    r->len = sealed - TAG_BYTES;
    r->pos = 0;
    s->number++;
    return 0;
}

int backup_read(struct backup_reader *r, void *out, size_t len)
{
    uint8_t *to = out;
    while (len) {
        if (r->pos == r->len) {
            int rc = r->last ? -EBADMSG : unseal(r);
            if (rc)
                return rc;
        }
        size_t n = r->len - r->pos < len ? r->len - r->pos : len;
        memcpy(to, r->plain + r->pos, n);
        r->pos += n;
        to += n;
        len -= n;
    }
    return 0;
}

int backup_reader_end(struct backup_reader *r)
{
    if (!r->last && r->pos == r->len) {
        int rc = unseal(r);
        if (rc)
            return rc;
    }
    return r->last && r->pos == r->len ? 0 : -EBADMSG;
}

void backup_reader_free(struct backup_reader *r)
{
    stream_end(&r->s);
    OPENSSL_cleanse(r->plain, sizeof(r->plain));
    free(r);
}
