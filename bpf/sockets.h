/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What is known of a connecting socket: written by steer at connect(), by watch while the connection lives.
 */
#ifndef FL_BPF_SOCKETS_H
#define FL_BPF_SOCKETS_H

#include "common.h"

struct socket_note {
    struct abi_endpoint front; /* what the application connected to; port 0: it was not steered */
    __u32 backend;
    __u8 counted; /* in backend_stats.active, under `who` */
    __u8 canary;
    __u16 pad;
    __u32 late; /* sequence of the verdict that said down when the connection was made all the same, or 0 */
    __u32 who;  /* upper half of backend_stats.active */
};

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, int);
    __type(value, struct socket_note);
} sockets SEC(".maps");

/* A random number, not 0: another one for each life of `sockets`, and for each size of backend_stats. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, __u64);
} socket_tag SEC(".maps");

#endif
