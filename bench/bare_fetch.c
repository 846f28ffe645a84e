/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least that fetching a blob from another host takes, as a limit to compare with: its bytes come over
 * TLS 1.3, are hashed (SHA-256) and written to a file. Nobody else reads them meanwhile, and nothing is
 * synced.
 *
 *   bare_fetch serve PORT FILE CERTIFICATE KEY    sends the file to whoever connects, again and again
 *   bare_fetch get ADDRESS PORT BYTES FILE        prints seconds (from the connect on) and CPU seconds as
 * JSON
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_BYTES = 256 << 10 };

__attribute__((noreturn)) static void fail(const char *what)
{
    fprintf(stderr, "bare_fetch: %s: %s\n", what, errno ? strerror(errno) : "TLS");
    exit(1);
}

static double clock_s(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int serve(uint16_t port, const char *path, const char *certificate, const char *key)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct stat st;
    int one = 1, file = open(path, O_RDONLY | O_CLOEXEC),
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!tls || SSL_CTX_use_certificate_chain_file(tls, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1)
        fail("the certificate");
    if (file < 0 || fstat(file, &st) != 0)
        fail(path);
    char *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    if (bytes == MAP_FAILED)
        fail(path);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
        bind(listener, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(listener, 16) != 0)
        fail("listen");
    puts("ready");
    fflush(stdout);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        SSL *ssl = fd < 0 ? NULL : SSL_new(tls);
        if (!ssl)
            fail("accept");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        SSL_set_fd(ssl, fd);
        off_t left = SSL_accept(ssl) == 1 ? st.st_size : 0;
        while (left) {
            int n = SSL_write(ssl, bytes + st.st_size - left, left < BLOCK_BYTES ? (int)left : BLOCK_BYTES);
            if (n <= 0)
                break;
            left -= n;
        }
        SSL_shutdown(ssl);
        SSL_free(ssl);
        close(fd);
    }
}

static SSL *connect_to(const char *address, uint16_t port)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_client_method());
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!tls || SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION) != 1)
        fail("TLS");
    SSL_CTX_set_read_ahead(tls, 1);
    SSL_CTX_set_default_read_buffer_len(tls, BLOCK_BYTES);
    if (inet_pton(AF_INET, address, &at.sin_addr) != 1 || fd < 0 ||
        connect(fd, (struct sockaddr *)&at, sizeof(at)) != 0)
        fail(address);
    SSL *ssl = SSL_new(tls);
    errno = 0;
    if (!ssl || SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1)
        fail("the handshake");
    return ssl;
}

static int get(const char *address, uint16_t port, uint64_t bytes, const char *path)
{
    static uint8_t block[BLOCK_BYTES];
    unsigned char digest[EVP_MAX_MD_SIZE];
    double start = clock_s(CLOCK_MONOTONIC);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    if (file < 0 || !hash || !EVP_DigestInit_ex(hash, EVP_sha256(), NULL))
        fail(path);
    SSL *ssl = connect_to(address, port);
    uint64_t done = 0;
    while (done < bytes) {
        /* A block is filled before it is hashed and written: TLS gives 16 KiB at a time. */
        size_t held = 0;
        while (held < sizeof(block) && done + held < bytes) {
            int n = SSL_read(ssl, block + held, (int)(sizeof(block) - held));
            if (n <= 0)
                fail("the body ended");
            held += (size_t)n;
        }
        if (!EVP_DigestUpdate(hash, block, held) || write(file, block, held) != (ssize_t)held)
            fail(path);
        done += held;
    }
    EVP_DigestFinal_ex(hash, digest, NULL);
    printf("{\"seconds\": %.6f, \"bytes\": %llu, \"cpu_s\": %.6f}\n", clock_s(CLOCK_MONOTONIC) - start,
           (unsigned long long)done, clock_s(CLOCK_PROCESS_CPUTIME_ID));
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 6 && strcmp(argv[1], "serve") == 0)
        return serve((uint16_t)strtoul(argv[2], NULL, 10), argv[3], argv[4], argv[5]);
    if (argc == 6 && strcmp(argv[1], "get") == 0)
        return get(argv[2], (uint16_t)strtoul(argv[3], NULL, 10), strtoull(argv[4], NULL, 10), argv[5]);
    fprintf(stderr, "bare_fetch serve PORT FILE CERTIFICATE KEY | bare_fetch get ADDRESS PORT BYTES FILE\n");
    return 2;
}
