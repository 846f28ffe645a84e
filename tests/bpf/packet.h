/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets for tests of BPF programs: described by a struct, written with right checksums. What a program made
 * of a packet is compared byte by byte with another description.
 */
#ifndef FL_TEST_PACKET_H
#define FL_TEST_PACKET_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "abi.h"

enum {
    PACKET_MAX = 2048,
    PACKET_L3 = 14,
    FIN = 1,
    SYN = 2,
    RST = 4,
    PSH = 8,
    ACK = 16,
    KIND_TCP = 6,
    KIND_ICMP = 1,
    KIND_ICMP6 = 58,
    KIND_UDP = 17,
};

/* Zero means the usual: TCP, ttl 64, no options. */
struct packet {
    struct abi_addr source, target;
    uint16_t source_port, target_port; /* host byte order */
    uint8_t to_mac[6], from_mac[6];
    uint8_t kind, ttl, flags, tos;
    uint8_t icmp_type, icmp_code;
    uint32_t icmp_rest; /* what follows its checksum */
    uint32_t sequence, acknowledged;
    uint16_t options_bytes; /* IPv4: no-operation options; IPv6: a destination options header of 8 bytes */
    uint16_t id;
    uint16_t fragment_bytes; /* offset */
    bool more_fragments;
    bool end_options; /* options are zeros */
    uint16_t payload_bytes;
    const struct packet *inside; /* ICMP: the packet it is about, ... */
    uint16_t inside_bytes;       /* ... that much of it; 0: all */
};

static inline struct abi_addr address(const char *text)
{
    struct abi_addr a = {{0}};
    if (strchr(text, ':')) {
        inet_pton(AF_INET6, text, &a);
    } else {
        a.word[2] = htonl(0xffff);
        inet_pton(AF_INET, text, &a.word[3]);
    }
    return a;
}

static inline bool packet_is_v4(const struct packet *p)
{
    return p->source.word[0] == 0 && p->source.word[1] == 0 && p->source.word[2] == htonl(0xffff);
}

static inline uint32_t sum_words(const uint8_t *bytes, size_t count, uint32_t sum)
{
    for (size_t i = 0; i + 1 < count; i += 2)
        sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
    if (count & 1)
        sum += (uint32_t)bytes[count - 1] << 8;
    return sum;
}

static inline uint16_t sum_end(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static inline void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void put32(uint8_t *at, uint32_t value)
{
    put16(at, (uint16_t)(value >> 16));
    put16(at + 2, (uint16_t)value);
}

/* Sum of the pseudo header of either family. */
static inline uint32_t packet_pseudo(const struct packet *p, uint8_t kind, size_t bytes)
{
    size_t from = packet_is_v4(p) ? 12 : 0;
    uint32_t sum = sum_words((const uint8_t *)&p->source + from, 16 - from, kind);
    return sum_words((const uint8_t *)&p->target + from, 16 - from, sum) + (uint32_t)bytes;
}

static size_t packet_write(const struct packet *p, uint8_t *out);

static inline size_t packet_write_tcp(const struct packet *p, uint8_t *l4)
{
    size_t bytes = 20 + p->payload_bytes;
    put16(l4, p->source_port);
    put16(l4 + 2, p->target_port);
    put32(l4 + 4, p->sequence);
    put32(l4 + 8, p->acknowledged);
    l4[12] = 5 << 4;
    l4[13] = p->flags;
    put16(l4 + 14, 1000);
    if (p->flags & RST)
        put16(l4 + 14, 0);
    for (size_t i = 0; i < p->payload_bytes; i++)
        l4[20 + i] = (uint8_t)(i * 7 + 1);
    put16(l4 + 16, sum_end(sum_words(l4, bytes, packet_pseudo(p, KIND_TCP, bytes))));
    return bytes;
}

static inline size_t packet_write_icmp(const struct packet *p, uint8_t kind, uint8_t *l4)
{
    uint8_t inside[PACKET_MAX];
    size_t bytes = 8;
    l4[0] = p->icmp_type;
    l4[1] = p->icmp_code;
    put32(l4 + 4, p->icmp_rest);
    if (p->inside) {
        size_t all = packet_write(p->inside, inside) - PACKET_L3;
        size_t taken = p->inside_bytes && p->inside_bytes < all ? p->inside_bytes : all;
        memcpy(l4 + 8, inside + PACKET_L3, taken);
        bytes += taken;
    }
    put16(l4 + 2, sum_end(sum_words(l4, bytes, kind == KIND_ICMP6 ? packet_pseudo(p, kind, bytes) : 0)));
    return bytes;
}

/* What follows the IP headers; of a later fragment: bytes. */
static inline size_t packet_write_l4(const struct packet *p, uint8_t kind, uint8_t *l4)
{
    if (p->fragment_bytes || (kind != KIND_TCP && kind != KIND_ICMP && kind != KIND_ICMP6)) {
        memset(l4, 0x5a, p->payload_bytes);
        return p->payload_bytes;
    }
    return kind == KIND_TCP ? packet_write_tcp(p, l4) : packet_write_icmp(p, kind, l4);
}

static inline size_t packet_write4(const struct packet *p, uint8_t kind, uint8_t *ip)
{
    size_t header = 20u + p->options_bytes;
    ip[0] = (uint8_t)(0x40 | header / 4);
    ip[1] = p->tos;
    put16(ip + 4, p->id);
    put16(ip + 6, (uint16_t)(p->fragment_bytes / 8 | (p->more_fragments ? 0x2000 : 0)));
    if (!p->id)
        put16(ip + 6, 0x4000);
    ip[8] = p->ttl ? p->ttl : 64;
    ip[9] = kind;
    memcpy(ip + 12, &p->source.word[3], 4);
    memcpy(ip + 16, &p->target.word[3], 4);
    memset(ip + 20, p->end_options ? 0 : 1, p->options_bytes);
    size_t bytes = header + packet_write_l4(p, kind, ip + header);
    put16(ip + 2, (uint16_t)bytes);
    put16(ip + 10, sum_end(sum_words(ip, header, 0)));
    return bytes;
}

static inline size_t packet_write6(const struct packet *p, uint8_t kind, uint8_t *ip)
{
    size_t at = 40;
    uint8_t *next = ip + 6;
    ip[0] = 0x60;
    ip[7] = p->ttl ? p->ttl : 64;
    memcpy(ip + 8, &p->source, 16);
    memcpy(ip + 24, &p->target, 16);
    if (p->options_bytes) {
        *next = 60;
        next = ip + at;
        ip[at + 2] = 1; /* PadN of 4 */
        ip[at + 3] = 4;
        at += 8;
    }
    if (p->id) {
        *next = 44;
        next = ip + at;
        put16(ip + at + 2, (uint16_t)(p->fragment_bytes | (p->more_fragments ? 1 : 0)));
        put32(ip + at + 4, p->id);
        at += 8;
    }
    *next = kind;
    at += packet_write_l4(p, kind, ip + at);
    put16(ip + 4, (uint16_t)(at - 40));
    return at;
}

/* Writes it into out (PACKET_MAX bytes); returns its length. */
static inline size_t packet_write(const struct packet *p, uint8_t *out)
{
    uint8_t kind = p->kind ? p->kind : KIND_TCP;
    memset(out, 0, PACKET_MAX);
    memcpy(out, p->to_mac, 6);
    memcpy(out + 6, p->from_mac, 6);
    put16(out + 12, packet_is_v4(p) ? 0x0800 : 0x86dd);
    if (packet_is_v4(p))
        return PACKET_L3 + packet_write4(p, kind, out + PACKET_L3);
    return PACKET_L3 + packet_write6(p, kind, out + PACKET_L3);
}

#endif
