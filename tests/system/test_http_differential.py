# SPDX-License-Identifier: Apache-2.0
"""
Our request reader against Node's (llhttp, strict), on generated and mutated requests.

Two readers that disagree are how requests are smuggled, so every disagreement must be of a listed kind: we may refuse
what the other takes (REFUSED_BY_US), hardly ever the reverse (TAKEN_BY_US), and what both take must be framed alike.
"""

import collections
import json
import os
import random
import re
import shutil
import struct
import subprocess

import pytest

import harness

CASES = int(os.environ.get("FAIRLEAD_TEST_DIFFERENTIAL_CASES", "30000"))
TOOLS = harness.SOURCE / "tests" / "tools"
DUMP = harness.BUILD / "tools" / "http1_dump"

# Our reason -> why it is right to refuse what llhttp takes.
REFUSED_BY_US = {
    "bare-cr": "llhttp skips any CR and LF between two messages; RFC 9112, 2.2 speaks of an empty line",
    "bare-lf": "the same",
    "request-line": "the same for more than two empty lines; it also takes several blanks in the line, and HTTP/0.9",
    "version-syntax": "the same for blanks before the version",
    "version-unsupported": "HTTP/0.9 and HTTP/2.0 are other protocols; llhttp takes their numbers",
    "target-syntax": "fragments, user information and characters outside RFC 3986 are left to its users by llhttp",
    "connect": "we are no forward proxy",
    "host-missing": "llhttp leaves Host to its users",
    "host-repeated": "the same",
    "host-syntax": "the same",
    "field-repeated": "llhttp joins or drops repeated fields later; two recipients may choose differently",
    "expectation": "llhttp leaves Expect to its users",
    "length-range": "above 2^63 - 1, where llhttp goes up to 2^64 - 1",
    "chunk-range": "the same",
    "coding-unknown": "llhttp reads a request whose last coding is not chunked as one without a body",
    "coding-syntax": "the same",
    "coding-order": "llhttp takes a coding with HTAB behind it for another coding",
    "coding-repeated": "the same for two lines, of which the last is chunked",
    "coding-old-version": "RFC 9112, 6.1: Transfer-Encoding from HTTP/1.0 is faulty framing",
    "chunk-extension": "llhttp takes empty extensions and a quote inside of an extension's value",
}


def has_unknown_method(case, request):
    return request["method"] not in LLHTTP_METHODS


def has_later_version(case, request):
    return re.search(rb"HTTP/1\.[2-9]\r\n", case)


def ends_in_tab(case, request):
    return re.search(rb"(?i)\n(content-length|transfer-encoding):[^\r\n]*\t *\r\n", case)


def has_framing_trailer(case, request):
    return re.search(rb"(?i)0[^\r\n]*\r\n([!-~]*:[^\r\n]*\r\n)*(content-length|transfer-encoding):", case)


def has_proxy_connection(case, request):
    return b"proxy-connection:" in case.lower()


# llhttp's reason, or the part that it frames otherwise -> cases in which we may differ nevertheless, and why.
TAKEN_BY_US = {
    "HPE_INVALID_METHOD": [(has_unknown_method, "any token is a method (RFC 9110, 9.1); the registry answers 405")],
    "HPE_INVALID_VERSION": [(has_later_version, "RFC 9110, 2.5: a later minor version is read as the one we know")],
    "HPE_INVALID_CONTENT_LENGTH": [(ends_in_tab, "HTAB is white space around a value (RFC 9110, 5.6.3)"),
                                   (has_framing_trailer, "trailers are dropped unseen: they cannot frame anything")],
    "HPE_INVALID_TRANSFER_ENCODING": [(ends_in_tab, "as above"), (has_framing_trailer, "as above")],
    "keep": [(has_proxy_connection, "Proxy-Connection is no field of HTTP; llhttp reads it as Connection")],
}

LLHTTP_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "M-SEARCH"}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "BREW", "PRI",
           "M-SEARCH", ""]
TARGETS = ["/", "/v2/", "/v2/a/b/blobs/uploads/?digest=sha256%3Aab&n=5", "/a?b?c", "/a%00b", "*", "http://a/",
           "http://a", "http://a:5000/x?y",
           "https://[::1]/", "http://u@a/", "ftp://a/", "a:80", "//a/b", "/a#b", "/a\\b", "/{\"a\"}",
           "/?{\"a\":[\"b\"]}", "/\x7f", "/\xe4", "", "/" + "x" * 300]
VERSIONS = ["HTTP/1.1"] * 12 + ["HTTP/1.0"] * 4 + ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/1.", "HTTP/1.10",
            "HTTP/01.1", "http/1.1", "HTTP/ 1.1", ""]
HOSTS = ["Host: a"] * 10 + ["Host: localhost:5000", "host:a", "Host: [::1]:80", "Host:", "Host: a b", "Host : a",
         "Host: a/b", "X: y", "Host: a\r\nHost: a"]
FRAMINGS = ["Content-Length: 5", "Content-Length: 0", "Content-Length: 005", "Content-Length:5 ",
            "Content-Length: +5", "Content-Length: 5, 5", "Content-Length: 0x5",
            "Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 9223372036854775808",
            "Content-Length: 18446744073709551621", "Content-Length: 5_0", "Content-Length: 5 5", "Content-Length:",
            "Content-Length: \t5",
            "Transfer-Encoding: chunked", "transfer-encoding:CHUNKED", "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked;a=b", "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding:\r\n chunked",
            "Transfer-Encoding : chunked", "Transfer-Encoding:",
            "Transfer-Encoding: chunked\r\nContent-Length: 5", "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked,",
            "Transfer_Encoding: chunked", "Content-Length\t: 5"]
FIELDS = ["Connection: close", "Connection: keep-alive", "Connection: Keep-Alive, x", "Connection: closed",
          "Connection: close, keep-alive", "Connection: upgrade\r\nUpgrade: h2c", "Upgrade: tcp",
          "Connection: Upgrade\r\nUpgrade: tcp", "Connection:", "Connection: ,close",
          "Connection: close\r\nConnection: keep-alive", "Expect: 100-continue", "Expect: 200-ok", "X: y\r\n z",
          "X: \x00", "X: a\x7f", "X: \xff",
          "X:\ty\t", "X", ": y", "X Y: z", "X\x00: y", "X: y\rZ: 1", "X: y\nZ: 1", "X:", "(X): y",
          "Authorization: a\r\nAuthorization: b", "Range: bytes=0-5", "Accept: */*", "Proxy-Connection: close"]
CHUNKS = ["5\r\nhello\r\n", "A\r\n0123456789\r\n", "a\r\n0123456789\r\n", "005\r\nhello\r\n", "5;a\r\nhello\r\n",
          "5;a=b;c=\"d;\\\"\"\r\nhello\r\n", "5;a=\"b\r\nhello\r\n", "5; a\r\nhello\r\n",
          "5 \r\nhello\r\n", " 5\r\nhello\r\n", "0x5\r\nhello\r\n", "+5\r\nhello\r\n", "5\nhello\r\n",
          "5\r\nhello\n", "5\r\nhello", "4\r\nhello\r\n", "6\r\nhello\r\n", "5g\r\nhello\r\n", "5;\r\nhello\r\n",
          "5\r\rhello\r\n",
          "fffffffffffffffff\r\n", "8000000000000000\r\n", "\r\n5\r\nhello\r\n"]
LAST_CHUNKS = ["0\r\n\r\n"] * 8 + ["00\r\n\r\n", "0;a\r\n\r\n", "0\r\nA: b\r\n\r\n", "0\r\nA : b\r\n\r\n",
               "0\r\n A: b\r\n\r\n", "0\n\r\n", "0\r\n\n", "0\r\n\r", "0\n\n", "0\r\nContent-Length: 5\r\n\r\n",
               "-0\r\n\r\n", ""]
LINE_ENDS = ["\r\n"] * 40 + ["\n", "\r", "\r\r\n", " \r\n", "\n\r\n", "\r\n\r\n"]
NOISE = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"\"", b"\x0b", b"\x7f", b"\x80", b"\xff",
         b"0", b"5", b"/", b"%", b"a", b"\r\n\r\n", b"\\", b"+", b"_"]


def mostly(rng, usual, odd, chance=0.85):
    return usual if rng.random() < chance else rng.choice(odd)


def body(rng, framing):
    if "hunked" in framing.lower() or "CHUNKED" in framing:
        good = [rng.choice(CHUNKS[:6]) for _ in range(rng.randrange(3))]
        odd = [rng.choice(CHUNKS)] if rng.random() < 0.2 else []
        return "".join(good + odd) + mostly(rng, "0\r\n\r\n", LAST_CHUNKS, 0.8)
    return rng.choice(["hello"] * 8 + ["", "hell", "hello!"]) if framing else ""


def request(rng):
    end = mostly(rng, "\r\n", LINE_ENDS, 0.95)
    line = mostly(rng, " ", ["  ", "\t", ""], 0.99).join(
        [mostly(rng, "POST", METHODS, 0.9), mostly(rng, "/a", TARGETS, 0.8), mostly(rng, "HTTP/1.1", VERSIONS)])
    framing = rng.choice(FRAMINGS if rng.random() < 0.3 else ["", "Content-Length: 5", "Transfer-Encoding: chunked"])
    fields = [mostly(rng, "Host: a", HOSTS, 0.9)] + ([framing] if framing else [])
    fields += [rng.choice(FIELDS) for _ in range(rng.randrange(3))] if rng.random() < 0.35 else []
    rng.shuffle(fields)
    lines = [line + end] + [field + mostly(rng, "\r\n", LINE_ENDS, 0.98) for field in fields + [""]]
    before = mostly(rng, "", ["\r\n", "\r\n\r\n", "\n", "\r\n\r\n\r\n", " "], 0.97)
    return (before + "".join(lines) + body(rng, framing)).encode("latin-1")


def mutate(rng, data):
    for _ in range(rng.choice([0, 0, 0, 0, 1, 1, 2])):
        at = rng.randrange(len(data) + 1)
        drop = rng.choice([0, 0, 1, 1, 3])
        data = data[:at] + (rng.choice(NOISE) if rng.random() < 0.8 else b"") + data[at + drop:]
    return data


def generate(count):
    rng = random.Random(harness.SEED)
    return [mutate(rng, b"".join(request(rng) for _ in range(rng.choice([1, 1, 2])))) for _ in range(count)]


def read_all(command, cases):
    packed = b"".join(struct.pack("<I", len(case)) + case for case in cases)
    done = subprocess.run(command, input=packed, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert len(lines) == len(cases)
    return lines


HEAD = ("method", "target", "minor")
BODY = ("done", "body")


def compare_request(mine, their, in_error):
    """in_error: our refusal came inside of this body, of which either may have seen more than the other."""
    for key in HEAD if in_error or their["upgrade"] else HEAD + BODY:
        if mine[key] != their[key]:
            return "taken", key
    return ("taken", "keep") if mine["keep"] and not their["keep"] else None


def compare(ours, theirs):
    """
    None if both read the same. ("refused", our reason): only llhttp takes it. ("taken", its reason or what differs):
    only we take it, or both take it and frame it differently.
    """
    mine, their = ours["requests"], theirs["requests"]
    for i, request in enumerate(mine):
        last = i == len(mine) - 1
        if i == len(their):
            return "taken", theirs["reason"] or theirs["end"]
        in_error = last and ours["end"] == "refused" and not request["done"]
        if not in_error and theirs["end"] == "refused" and i == len(their) - 1 and not their[i]["done"]:
            return "taken", theirs["reason"]
        difference = compare_request(request, their[i], in_error)
        # llhttp reports no error after an upgrade; and who closes where the other goes on is on the safe side.
        if difference or their[i]["upgrade"] or (their[i]["keep"] and not request["keep"]):
            return difference
    in_body = mine and not mine[-1]["done"]
    if ours["end"] == "refused":
        same_place = len(mine) == len(their) and not (in_body and their[-1]["done"])
        undecided = theirs["end"] == "more" and not in_body  # we refused a head of which llhttp wants more
        return None if same_place and (theirs["end"] == "refused" or undecided) else ("refused", ours["reason"])
    return None if len(mine) == len(their) else ("taken", "count")


def is_allowed(case, ours, theirs, kind, reason):
    if kind == "refused":
        return reason in REFUSED_BY_US
    request = ours["requests"][min(len(theirs["requests"]), len(ours["requests"]) - 1)]  # what llhttp stopped at
    return any(applies(case, request) for applies, _ in TAKEN_BY_US.get(reason, []))


@pytest.mark.skipif(not shutil.which("node"), reason="node, whose parser is the other side, is not installed")
def test_against_llhttp():
    cases = generate(CASES)
    ours, theirs = read_all([DUMP], cases), read_all(["node", TOOLS / "llhttp_dump.js"], cases)
    counts, wrong = collections.Counter(), []
    for case, mine, their in zip(cases, ours, theirs):
        difference = compare(mine, their)
        counts[difference or ("same", mine["end"])] += 1
        if difference and not is_allowed(case, mine, their, *difference):
            wrong.append((difference, case, mine, their))
    print("\n".join(f"{count:7} {kind}: {reason}" for (kind, reason), count in sorted(counts.items())))
    assert not wrong, f"{len(wrong)} unlisted differences, seed {harness.SEED}; the first ones: {wrong[:5]}"
    # A generator that makes only junk, or only good requests, would prove nothing.
    assert counts["same", "more"] > CASES / 20 and counts["same", "refused"] > CASES / 20


@pytest.mark.parametrize("mine, their, expected", [
    ({"done": True}, {"done": True}, None),
    ({"done": True}, {"done": True, "body": "00"}, ("taken", "body")),
    ({"done": True}, {"done": False}, ("taken", "done")),
    ({"done": True}, {"done": True, "keep": False}, ("taken", "keep")),
    ({"done": True}, {"done": True, "target": "2f2f"}, ("taken", "target")),
])
def test_the_comparison_sees_differences(mine, their, expected):
    base = {"method": "GET", "target": "2f", "minor": 1, "keep": True, "upgrade": False, "body": ""}
    ours = {"requests": [{**base, **mine}], "end": "more", "reason": ""}
    theirs = {"requests": [{**base, **their}], "end": "more", "reason": ""}
    assert compare(ours, theirs) == expected
    assert compare(ours, {"requests": [], "end": "refused", "reason": "X"}) == ("taken", "X")
    assert compare({"requests": [], "end": "refused", "reason": "x"}, theirs) == ("refused", "x")
