# SPDX-License-Identifier: Apache-2.0
"""What clients do while things go wrong, and what must be true of it afterwards.

Tags are registers: a PUT writes, a DELETE writes "absent", a GET reads; each answer is noted with the times around it. Writes
through any node have to be linearizable, and so have each node's answers together with them (linear.check). Beside that, images are pushed and never touched
again: an acknowledged one can be pulled from every node, byte for byte, at any time and at the end.
"""

import json
import random
import threading
import time

import http1
from harness import INDEX_TYPE, Repository, digest_of
from linear import NEVER, READ, WRITE, Operation, check

REPOSITORY = "chaos/tags"
IMAGES = "chaos/images"
TAGS_AT_ONCE = 4
OPERATIONS_PER_TAG = 120  # then it is left alone and another one begins: the checker likes short histories
BLOB_BYTES = 300_000
FAILURES = (OSError, http1.ConnectionEnded)
NOT_ASKED = object()


def index_of(text):
    """A manifest that refers to nothing and differs from all others."""
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [], "annotations": {"chaos": text}}).encode()


class Workload:
    """Threads that ask nodes (each with .name and .connect() -> http1.Connection) until stop()."""

    def __init__(self, nodes, seed, taggers=5, pushers=2):
        self.nodes, self.seed = nodes, seed
        self.mutex, self.ended = threading.Lock(), threading.Event()
        self.history, self.tags, self.written = {}, {}, {}
        self.blobs = {}  # digest -> bytes, acknowledged
        self.good = self.bad = self.stale = 0
        self.errors = []
        self.threads = [threading.Thread(target=self.guarded, args=(what, number), name=f"{what.__name__}{number}")
                        for what, count in ((self.tag, taggers), (self.push, pushers)) for number in range(count)]

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        assert not self.errors, self.errors[0]

    def guarded(self, what, number):
        try:
            what(f"{what.__name__}{number}", random.Random(f"{self.seed} {what.__name__} {number}"))
        except Exception as error:  # pylint: disable=broad-except
            self.errors.append(error)
            self.ended.set()

    def count(self, good):
        with self.mutex:
            self.good += good
            self.bad += not good

    # ------------------------------------------------------------------ tags

    def pick_tag(self, rng):
        with self.mutex:
            slot = rng.randrange(TAGS_AT_ONCE)
            era, used = self.tags.get(slot, (0, 0))
            if used == OPERATIONS_PER_TAG:
                era, used = era + 1, 0
            self.tags[slot] = (era, used + 1)
            return f"t{slot}-{era}"

    def note(self, tag, operation):
        with self.mutex:
            self.history.setdefault(tag, []).append(operation)

    def tag(self, name, rng):
        number = 0
        while not self.ended.is_set():
            tag, node, dice, number = self.pick_tag(rng), rng.choice(self.nodes), rng.random(), number + 1
            if dice < 0.5:
                self.read(name, node, tag)
            elif dice < 0.9:
                self.write(name, node, tag, index_of(f"{name} {number}"))
            else:
                self.write(name, node, tag, None)
            self.ended.wait(rng.uniform(0, 0.05))

    def ask(self, node, method, tag, body=None):
        """(answer, called, returned). The answer is None if it did not come, and NOT_ASKED if nobody took the question."""
        headers = {"Content-Type": INDEX_TYPE} if body else {"Accept": INDEX_TYPE}
        called, answer = time.monotonic(), NOT_ASKED
        try:
            with node.connect() as connection:
                answer = None
                answer = connection.exchange(method, f"/v2/{REPOSITORY}/manifests/{tag}", body, headers)
        except FAILURES:
            pass
        return answer, called, time.monotonic()

    def read(self, name, node, tag):
        answer, called, returned = self.ask(node, "GET", tag)
        good = isinstance(answer, http1.Response) and answer.status in (200, 404)
        self.count(good)
        if not good:
            return
        value = digest_of(answer.body) if answer.status == 200 else None
        assert value is None or value == answer.header("Docker-Content-Digest"), (node.name, tag, answer)
        assert value is None or value in self.written, f"{node.name}: {tag} has what nobody wrote: {answer}"
        if answer.header("Warning"):  # says itself that it may be old
            self.stale += 1
            return
        self.note(tag, Operation(READ, value, called, returned, name, node.name))

    def write(self, name, node, tag, body):
        value = digest_of(body) if body else None
        self.written[value] = body
        answer, called, returned = self.ask(node, "PUT" if body else "DELETE", tag, body)
        if answer is NOT_ASKED:
            self.count(False)
            return
        if answer is not None and (answer.status == 429 or answer.status == 404 and body is None):
            return
        good = answer is not None and answer.status in (201, 202)
        self.count(good)
        self.note(tag, Operation(WRITE, value, called, returned if good else NEVER, name, node.name))

    # ------------------------------------------------------------------ images

    def push(self, name, rng):
        number = 0
        while not self.ended.is_set():
            number += 1
            data = rng.randbytes(rng.randint(1, BLOB_BYTES))
            node = rng.choice(self.nodes)
            try:
                digest = Repository(node, IMAGES).push_blob(data)
            except (*FAILURES, AssertionError):
                self.count(False)
                continue
            self.count(True)
            with self.mutex:
                self.blobs[digest] = data
                seen = rng.choice(list(self.blobs))
            self.pull(rng.choice(self.nodes), seen, final=False)
            self.ended.wait(rng.uniform(0, 0.1))

    def pull(self, node, digest, final):
        """An error is an answer while things go wrong; 404 and other bytes never are."""
        try:
            answer = Repository(node, IMAGES).blob(digest)
        except FAILURES:
            assert not final, f"{node.name}: {digest} cannot be pulled"
            return
        if answer.status == 200:
            assert answer.body == self.blobs[digest], f"{node.name}: {digest} has other bytes"
        else:
            assert not final and (answer.status >= 429 or answer.header("Warning")), f"{node.name}: {digest}: {answer}"

    # ------------------------------------------------------------------ afterwards

    def ask_until(self, node, tag):
        """A node that was away catches up first; what it says of itself to be old does not count."""
        def fresh():
            asked = self.ask(node, "GET", tag)
            good = isinstance(asked[0], http1.Response) and asked[0].status in (200, 404)
            return asked if good and not asked[0].header("Warning") else None
        return http1.wait_until(fresh, 60) or self.ask(node, "GET", tag)

    def verify(self):
        """All nodes are up again and reachable. Returns a summary."""
        for node in self.nodes:
            for tag in sorted(self.history):
                answer, called, returned = self.ask_until(node, tag)
                assert isinstance(answer, http1.Response) and answer.status in (200, 404), (node.name, tag, answer)
                value = digest_of(answer.body) if answer.status == 200 else None
                self.note(tag, Operation(READ, value, called, returned, "end", node.name))
            for digest in self.blobs:
                self.pull(node, digest, final=True)
        return {"operations": check(self.history), "tags": len(self.history), "blobs": len(self.blobs), "good": self.good,
                "failed": self.bad, "stale": self.stale}
