# SPDX-License-Identifier: Apache-2.0
"""What a registry has promised. A ledger notes each change before it is asked for and after it is acknowledged; later,
at any point in between or after, it knows which answers are allowed: the acknowledged one, or, for a change that was
under way, the old or the new."""

import json
import threading

import http1
from harness import IMAGE_TYPE, digest_of, image_manifest

NEVER = float("inf")


class Change:
    def __init__(self, value, begun):
        self.value = value
        self.begun = begun
        self.acknowledged = NEVER


class Ledger:
    """Keys are (repository, kind, reference); values are bytes, or None for absent. `now` gives the position of an
    event: anything that only grows. The changes of a key are made by one thread."""

    def __init__(self, now):
        self.now = now
        self.mutex = threading.Lock()
        self.history = {}
        self.seen = {}  # {key: bytes} of what the last check found

    def begin(self, repo, kind, reference, value):
        change = Change(value, self.now())
        with self.mutex:
            self.history.setdefault((repo.name, kind, reference), []).append(change)
        return change

    def acknowledge(self, change):
        change.acknowledged = self.now()

    def acknowledged_count(self):
        return sum(change.acknowledged != NEVER for changes in self.history.values() for change in changes)

    def allowed(self, key, position=NEVER):
        """The values that may be seen of a key when everything stopped at the position. At NEVER: at the end."""
        values = [None]
        for change in self.history[key]:
            if change.begun > position:
                break
            if change.acknowledged <= position and change.acknowledged != NEVER:
                values = [change.value]
            else:
                values.append(change.value)
        return values

    def unnamed(self):
        """Keys of the blobs that are there and that no manifest of their repository names."""
        there = {key: values[0] for key in self.history for values in [self.allowed(key)] if values[0] is not None}
        named = set()
        for (name, kind, _), body in there.items():
            if kind == "manifest":
                manifest = json.loads(body)
                named |= {(name, each["digest"]) for each in (manifest["config"], *manifest["layers"])}
        return [(name, kind, digest) for name, kind, digest in there if kind == "blob" and (name, digest) not in named]

    def sums(self):
        """What was there at the last check: {repository: (tags, manifests, blobs, bytes)}, and {digest: bytes}."""
        rows, sizes = {}, {}
        for (name, kind, reference), size in self.seen.items():
            is_tag = kind == "manifest" and not reference.startswith("sha256:")
            what = (is_tag, kind == "manifest" and not is_tag, kind == "blob", 0 if is_tag else size)
            rows[name] = tuple(map(sum, zip(rows.get(name, (0, 0, 0, 0)), what)))
            if not is_tag:
                sizes[reference] = size
        return rows, sizes

    def check(self, client, repository_class, position=NEVER):
        """Every key gives one of its allowed values; bytes are whole; gives how many were there."""
        self.seen = {}
        for key in sorted(self.history):
            name, kind, reference = key
            repo = repository_class(client, name)
            answer = repo.blob(reference) if kind == "blob" else repo.manifest(reference)
            allowed = self.allowed(key, position)
            assert answer.status in (200, 404), (key, answer)
            value = answer.body if answer.status == 200 else None
            if value is not None:
                self.seen[key] = len(value)
            if value in allowed:
                continue
            sizes = [None if each is None else len(each) for each in allowed]
            seen = "absent" if value is None else f"{len(value)} bytes, {digest_of(value)}"
            raise AssertionError(f"{key}: {seen}; allowed sizes: {sizes}")
        return len(self.seen)


class Pusher:
    """Makes changes and notes them. With `lenient`, errors are taken: the change stays unacknowledged."""

    def __init__(self, repo, ledger, lenient=False):
        self.repo = repo
        self.ledger = ledger
        self.lenient = lenient
        self.failures = []

    def change(self, kind, reference, value, expected, call):
        """True if acknowledged."""
        change = self.ledger.begin(self.repo, kind, reference, value)
        try:
            answer = call()
        except (OSError, http1.ConnectionEnded) as error:
            if not self.lenient:
                raise
            self.failures.append(error)
            return False
        if answer.status == expected:
            self.ledger.acknowledge(change)
            return True
        assert self.lenient, answer
        self.failures.append(answer)
        return False

    def blob(self, data, chunks=1):
        """POST, PATCHes, PUT; one chunk: POST and PUT; none: all in the POST."""
        digest = digest_of(data)
        if not chunks:
            return self.blob_at_once(data)

        def push():
            answer = self.repo.start_upload()
            size = -(-len(data) // chunks)
            for i in range(chunks if chunks > 1 else 0):
                if answer.status != 202:
                    return answer
                answer = self.repo.at(answer.header("Location"), "PATCH", data[i * size:(i + 1) * size])
            if answer.status != 202:
                return answer
            rest = data if chunks == 1 else b""
            return self.repo.at(answer.header("Location"), "PUT", rest, query=[("digest", digest)])

        return self.change("blob", digest, data, 201, push)

    def blob_at_once(self, data):
        """POST with the bytes; who does not take them so gives a session for them."""
        digest = digest_of(data)

        def push():
            answer = self.repo.start_upload(("digest", digest), body=data)
            if answer.status != 202:
                return answer
            return self.repo.at(answer.header("Location"), "PUT", data, query=[("digest", digest)])

        return self.change("blob", digest, data, 201, push)

    def mount(self, data, source):
        digest = digest_of(data)
        call = lambda: self.repo.start_upload(("mount", digest), ("from", source.name))
        return self.change("blob", digest, data, 201, call)

    def manifest(self, reference, body):
        return self.change("manifest", reference, body, 201,
                           lambda: self.repo.put_manifest(reference, body, IMAGE_TYPE))

    def delete(self, kind, reference):
        return self.change(kind, reference, None, 202,
                           lambda: self.repo.exchange("DELETE", f"{kind}s/{reference}"))

    def delete_manifest_with_tags(self, body, tags):
        """By digest; its tags, those of the given ones that name it now, go with it."""
        gone = [self.ledger.begin(self.repo, "manifest", tag, None) for tag in tags
                if self.ledger.allowed((self.repo.name, "manifest", tag)) == [body]]
        done = self.delete("manifest", digest_of(body))
        for change in gone if done else []:
            self.ledger.acknowledge(change)
        return done

    def image(self, tag, *layers, chunks=1, **more):
        """Blobs first, then the manifest by digest and by tag; gives its bytes if all was acknowledged."""
        done = [self.blob(layer, chunks) for layer in layers]
        config = json.dumps({"tag": tag, "more": more}).encode()
        done.append(self.blob(config))
        if not all(done):
            return None
        body = image_manifest(digest_of(config), len(config), [(digest_of(x), len(x)) for x in layers])
        ok = self.manifest(digest_of(body), body) and self.manifest(tag, body)
        return body if ok else None
