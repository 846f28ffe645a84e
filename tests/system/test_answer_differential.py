# SPDX-License-Identifier: Apache-2.0
"""
Our response reader against Node's (llhttp, strict), on generated and mutated responses: every disagreement must be of a
listed kind, and what both take must have the same status and the same body.
"""

import collections
import os
import random
import re
import shutil

import pytest

import harness
from test_http_differential import FIELDS, FRAMINGS, LINE_ENDS, TOOLS, body, mostly, mutate, read_all

CASES = int(os.environ.get("FAIRLEAD_TEST_DIFFERENTIAL_CASES", "30000"))
DUMP = harness.BUILD / "tools" / "answer_dump"

STATUS_LINES = ["HTTP/1.1 200 OK"] * 12 + [
    "HTTP/1.1 404 Not Found", "HTTP/1.0 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 204 No Content", "HTTP/1.1 304 x",
    "HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 500 \xe4\xff", "HTTP/1.1  200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK",
    "HTTP/1.1 099 x", "HTTP/1.1 600 x", "HTTP/1.1 200\tOK", "HTTP/2.0 200 OK", "HTTP/1.2 200 OK", "HTTP/0.9 200 OK",
    "http/1.1 200 OK", "HTTP/1.1 200 O\x01K", "HTTP/ 1.1 200 OK", " HTTP/1.1 200 OK", "ICY 200 OK", "RTSP/1.0 200 OK", ""]

# Our reason -> why it is right to refuse what llhttp takes.
REFUSED_BY_US = {
    "status-line": "llhttp takes any three digits, and blanks of other kinds",
    "version-syntax": "llhttp reads other protocols' answers, too, and skips line ends before them",
    "version-unsupported": "HTTP/0.9 and HTTP/2.0 are other protocols",
    "length-and-coding": "llhttp takes both in a response, where chunks win",
    "length-range": "above 2^63 - 1, where llhttp goes up to 2^64 - 1",
    "chunk-range": "the same",
    "coding-unknown": "llhttp reads a body of another coding until the end; it could not be passed on",
    "coding-syntax": "the same",
    "coding-order": "the same",
    "coding-repeated": "llhttp joins two lines",
    "coding-old-version": "RFC 9112, 6.1: Transfer-Encoding in HTTP/1.0 is faulty framing",
    "length-repeated": "after a coding llhttp does not look at lengths",
    "length-syntax": "the same",
    "chunk-extension": "llhttp takes empty extensions and a quote inside of an extension's value",
    "bare-cr": "in a reason phrase, and before the first line",
    "bare-lf": "the same",
    "more": "llhttp knows the end of some heads of which only the last byte is missing",
}


def generate(count):
    rng = random.Random(f"{harness.SEED} answers")
    cases = []
    for _ in range(count):
        framing = rng.choice(FRAMINGS if rng.random() < 0.3 else ["", "Content-Length: 5", "Transfer-Encoding: chunked"])
        fields = ([framing] if framing else []) + ([rng.choice(FIELDS)] if rng.random() < 0.3 else [])
        rng.shuffle(fields)
        lines = [mostly(rng, "HTTP/1.1 200 OK", STATUS_LINES, 0.7)] + fields + [""]
        text = "".join(line + mostly(rng, "\r\n", LINE_ENDS, 0.98) for line in lines) + body(rng, framing)
        cases.append(mutate(rng, text.encode("latin-1")))
    return cases


def compare(mine, theirs):
    """None, or ("refused", our reason), ("taken", their reason, or what differs)."""
    a, b = mine["answer"], theirs["answer"]
    if a is None:
        return None if b is None or (theirs["reason"] and not b["done"]) else ("refused", mine["reason"])
    if b is None:
        return "taken", theirs["reason"] or "nothing"
    if (a["status"], a["minor"] != 0) != (b["status"], b["minor"] != 0):
        return "taken", "head"
    if a["done"] and not b["done"]:
        return "taken", theirs["reason"] or "done"
    if b["done"] and not a["done"]:
        return "refused", mine["reason"] or "more"
    if a["done"] and a["body"] != b["body"]:
        return "taken", "body"
    return ("taken", "keep") if a["done"] and a["keep"] and not b["keep"] else None


def ends_in_tab(case):
    """HTAB is white space around a value (RFC 9110, 5.6.3); to llhttp it is part of it, and the coding another one."""
    return re.search(rb"(?i)\n(content-length|transfer-encoding):[^\r\n]*\t *\r\n", case)


def has_framing_trailer(case):
    return re.search(rb"(?i)0[^\r\n]*\r\n([!-~]*:[^\r\n]*\r\n)*(content-length|transfer-encoding):", case)


def has_later_version(case):
    return case.startswith(b"HTTP/1.") and not case.startswith((b"HTTP/1.0", b"HTTP/1.1"))


# llhttp's reason, or what differs -> cases in which that may be, and why.
TAKEN_BY_US = {
    "HPE_INVALID_CONTENT_LENGTH": [(has_framing_trailer, "trailers are dropped unseen: they cannot frame anything")],
    "HPE_INVALID_TRANSFER_ENCODING": [(has_framing_trailer, "as above")],
    "HPE_INVALID_VERSION": [(has_later_version, "RFC 9110, 2.5: a later minor version is read as the one we know")],
    "keep": [(lambda case: b"proxy-connection:" in case.lower(), "no field of HTTP; llhttp reads it as Connection"),
             (lambda case: b"pgrade" in case, "after an answer with Upgrade llhttp keeps no connection")],
    "HPE_CLOSED_CONNECTION": [(lambda case: True, "bytes behind the last answer: the connection is not used again")],
}


@pytest.mark.skipif(not shutil.which("node"), reason="node, whose parser is the other side, is not installed")
def test_against_llhttp():
    cases = generate(CASES)
    ours, theirs = read_all([DUMP], cases), read_all(["node", TOOLS / "llhttp_dump.js", "response"], cases)
    counts, wrong = collections.Counter(), []
    for case, mine, their in zip(cases, ours, theirs):
        difference = compare(mine, their)
        counts[difference or ("same", "done" if mine["answer"] and mine["answer"]["done"] else "not done")] += 1
        if difference and not ends_in_tab(case) and not (difference[1] in REFUSED_BY_US if difference[0] == "refused" else
                               any(applies(case) for applies, _ in TAKEN_BY_US.get(difference[1], []))):
            wrong.append((difference, case, mine, their))
    print("\n".join(f"{count:7} {kind}: {reason}" for (kind, reason), count in sorted(counts.items())))
    assert not wrong, f"{len(wrong)} unlisted differences, seed {harness.SEED}; the first ones: {wrong[:5]}"
    assert counts["same", "done"] > CASES / 20 and counts["same", "not done"] > CASES / 20
