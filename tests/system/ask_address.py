# SPDX-License-Identifier: Apache-2.0
"""Asks on a device who has an address, as a host's stack would: ARP requests, or neighbour solicitations.

Usage: ask_address.py DEVICE ADDRESS COUNT INTERVAL_MS. Prints JSON: for each question when it was sent (CLOCK_MONOTONIC)
and the link addresses that answered before the next one.
"""

import ipaddress
import json
import pathlib
import select
import socket
import struct
import sys
import time

ETH_ARP, ETH_IPV6 = 0x0806, 0x86DD


def own(device, target):
    mac = bytes.fromhex(pathlib.Path(f"/sys/class/net/{device}/address").read_text().strip().replace(":", ""))
    probe = socket.socket(socket.AF_INET if target.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    probe.connect((str(target), 9))
    return mac, ipaddress.ip_address(probe.getsockname()[0]).packed


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~((total & 0xffff) + (total >> 16)) & 0xffff


def arp_request(mac, source, target):
    return (b"\xff" * 6 + mac + struct.pack("!HHHBBH", ETH_ARP, 1, 0x0800, 6, 4, 1) + mac + source + bytes(6) + target)


def solicitation(mac, source, target):
    group = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
    message = struct.pack("!BBHI", 135, 0, 0, 0) + target + b"\x01\x01" + mac
    pseudo = source + group + struct.pack("!II", len(message), 58)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    return (b"\x33\x33\xff" + target[13:] + mac + struct.pack("!HIHBB", ETH_IPV6, 6 << 28, len(message), 58, 255)
            + source + group + message)


def answer(frame, target):
    """The link address that this frame says the target has, or None."""
    if len(frame) >= 42 and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == target:
        return frame[22:28]
    if len(frame) >= 86 and frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136 and \
            frame[62:78] == target and frame[78:80] == b"\x02\x01":
        whole = frame[22:54] + struct.pack("!II", len(frame) - 54, 58) + frame[54:]
        return frame[80:86] if checksum(whole) == 0 and frame[21] == 255 else b"\0" * 6
    return None


def main():
    device, address, count, interval_ms = sys.argv[1], ipaddress.ip_address(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    mac, source = own(device, address)
    question = (arp_request if address.version == 4 else solicitation)(mac, source, address.packed)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind((device, 0))
    asked = []
    for _ in range(count):
        sent_ns, heard = time.monotonic_ns(), []
        wire.send(question)
        until = time.monotonic() + interval_ms / 1000
        while (left := until - time.monotonic()) > 0:
            if not select.select([wire], [], [], left)[0]:
                break
            frame = wire.recv(2048)
            said = answer(frame, address.packed)
            # Announcements go to all, answers to the one who asked.
            if said and frame[:6] == mac:
                heard.append(said.hex(":"))
        asked.append({"sent_ns": sent_ns, "answers": heard})
    json.dump(asked, sys.stdout)


if __name__ == "__main__":
    main()
