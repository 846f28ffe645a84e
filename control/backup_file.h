/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a backup: a head in clear, then a stream in pieces of BACKUP_PIECE_BYTES, each encrypted and
 * authenticated (AES-256-GCM) under a key that scrypt makes of a passphrase. A piece's nonce has its number
 * and whether it is the last one (the STREAM construction), and the head is authenticated with each: no piece
 * can be left out, repeated, moved, or taken from another file, and no end can be cut off, without being
 * noticed.
 */
#ifndef FL_CONTROL_BACKUP_FILE_H
#define FL_CONTROL_BACKUP_FILE_H

#include <stddef.h>
#include <stdint.h>

enum {
    BACKUP_PIECE_BYTES = 64 << 10,
    BACKUP_HEAD_BYTES = 128,
    BACKUP_LOG_N = 15, /* scrypt: 2^15 rounds over 32 MiB */
    BACKUP_LOG_N_MIN = 4,
    BACKUP_LOG_N_MAX = 20,
};

struct backup_head {
    uint8_t cluster_id[16];
    uint64_t node_id;     /* who made it */
    uint64_t index, term; /* of the last entry that is in all of it */
    uint64_t created_ms;  /* UTC */
    uint8_t log_n;        /* BACKUP_LOG_N */
};

struct backup_writer;
struct backup_reader;

/* Writes the head. Takes no ownership of fd. 0 or -errno. */
int backup_writer_new(int fd, const struct backup_head *head, const char *passphrase, size_t len,
                      struct backup_writer **out);
int backup_write(struct backup_writer *w, const void *data, size_t len);
/* The last piece; nothing may be written behind it. The caller syncs. */
int backup_writer_end(struct backup_writer *w);
void backup_writer_free(struct backup_writer *w);

/*
 * Reads the head. 0, -ENOMSG: this is no backup; -EPROTO: of another version; -EKEYREJECTED: the passphrase
 * is another one, or the head is damaged; -EBADMSG: it is cut short; -errno.
 */
int backup_reader_new(int fd, const char *passphrase, size_t len, struct backup_head *head,
                      struct backup_reader **out);
/* Exactly len bytes. 0, -EBADMSG: damaged, cut short, or at its end; -errno. */
int backup_read(struct backup_reader *r, void *out, size_t len);
/* 0 if everything was read and the file ends there, else -EBADMSG. */
int backup_reader_end(struct backup_reader *r);
void backup_reader_free(struct backup_reader *r);

/* What an error of a reader means, for people. */
const char *backup_error_text(int err);

/* All of it, whatever one write takes. 0 or -errno. */
int backup_write_all(int fd, const uint8_t *data, size_t len);

#endif
