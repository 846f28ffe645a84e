# SPDX-License-Identifier: Apache-2.0
"""Clients that push images, pull them, and delete some, beside those that write tags (workload.py), while repair moves
copies and the garbage collection removes what nobody names.

What was acknowledged and not deleted is whole at every node, byte for byte, at any time; what was deleted does not come back.
"""

import dataclasses

import http1
from harness import IMAGE_TYPE, Repository, digest_of, image_manifest
from workload import FAILURES, IMAGES, Workload

SHARED = 6  # layers that images have in common: garbage for moments only, and asked for before they are pushed
LAYER_BYTES = 200_000
KEPT = 0.6  # of the images; the others are deleted by whoever has pushed them


@dataclasses.dataclass(frozen=True)
class Image:
    manifest: bytes
    blobs: tuple  # of bytes

    @property
    def digest(self):
        return digest_of(self.manifest)

    def contents(self):
        """{digest: bytes} of all that is stored for it."""
        return {digest_of(data): data for data in (self.manifest, *self.blobs)}


class ImageWorkload(Workload):
    def __init__(self, nodes, seed):
        super().__init__(nodes, seed, taggers=4, pushers=2)
        self.kept, self.deleted = [], []
        self.harmed = set()  # (name of a node, digest): its bytes there are not what they should be, by our doing
        self.shared = [digest_of(b"%d" % i).encode() * (50 + 400 * i) for i in range(SHARED)]

    def push(self, name, rng):
        number = 0
        while not self.ended.is_set():
            number += 1
            layers = [rng.choice(self.shared), rng.randbytes(rng.randint(1, LAYER_BYTES))]
            blobs = (f'{{"{name}": {number}}}'.encode(), *layers)
            image = self.push_image(rng, f"{name}-{number}", blobs)
            self.count(bool(image))
            if image and rng.random() < KEPT:
                with self.mutex:
                    self.kept.append(image)
            elif image:
                self.delete(rng, image)
            self.look(rng)
            self.ended.wait(rng.uniform(0, 0.3))

    def push_image(self, rng, tag, blobs):
        """Each step by another node, as clients behind a load balancer do it. None: it was not acknowledged."""
        sizes = [(digest_of(data), len(data)) for data in blobs]
        manifest = image_manifest(*sizes[0], sizes[1:])
        try:
            if not all(self.push_layer(rng, data) for data in blobs):
                return None
            done = Repository(rng.choice(self.nodes), IMAGES).put_manifest(tag, manifest, IMAGE_TYPE)
        except FAILURES:
            return None
        return Image(manifest, blobs) if done.status == 201 else None

    def push_layer(self, rng, data):
        digest = digest_of(data)
        if Repository(rng.choice(self.nodes), IMAGES).blob(digest, "HEAD").status == 200:
            return True
        begun = Repository(rng.choice(self.nodes), IMAGES).start_upload()
        if begun.status != 202:
            return False
        headers = {"Content-Type": "application/octet-stream"}
        done = Repository(rng.choice(self.nodes), IMAGES).at(begun.header("Location"), "PUT", data, headers, [("digest", digest)])
        return done.status == 201

    def delete(self, rng, image):
        try:
            done = Repository(rng.choice(self.nodes), IMAGES).exchange("DELETE", f"manifests/{image.digest}")
        except FAILURES:
            return
        if done.status == 202:
            with self.mutex:
                self.deleted.append(image)

    # ------------------------------------------------------------------ what must be true of it

    def look(self, rng):
        """At one that is to stay and at one that is to be gone, at any node."""
        with self.mutex:
            kept = rng.choice(self.kept) if self.kept else None
            deleted = rng.choice(self.deleted) if self.deleted else None
        if kept:
            digest, data = rng.choice(list(kept.contents().items()))
            self.check_kept(rng.choice(self.nodes), kept, digest, data, final=False)
        if deleted:
            self.check_deleted(rng.choice(self.nodes), deleted, final=False)

    def check_kept(self, node, image, digest, data, final):
        """Errors are answers while things go wrong; 404 and other bytes never are, but from where we have harmed them."""
        repo, place = Repository(node, IMAGES), (node.name, digest)
        harmed = place in self.harmed
        try:
            answer = repo.manifest(digest) if digest == image.digest else repo.blob(digest)
        except FAILURES:
            assert not final, f"{node.name}: {digest} cannot be pulled"
            return
        if harmed or place in self.harmed:
            return
        if answer.status == 200:
            assert answer.body == data, f"{node.name}: {digest} has other bytes"
        else:
            assert not final and (answer.status >= 429 or answer.header("Warning")), f"{node.name}: {digest}: {answer}"

    def check_deleted(self, node, image, final):
        try:
            answer = Repository(node, IMAGES).manifest(image.digest)
        except FAILURES:
            assert not final, f"{node.name}: cannot be asked for {image.digest}"
            return
        gone = answer.status == 404 or (not final and (answer.status >= 429 or answer.header("Warning")))
        assert gone, f"{node.name}: {image.digest} was deleted, and is back: {answer}"

    def contents(self):
        """{digest: bytes} of all that is to stay."""
        with self.mutex:
            kept = list(self.kept)
        return {digest: data for image in kept for digest, data in image.contents().items()}

    def verify(self):
        found = super().verify()
        for node in self.nodes:
            for image in self.kept:
                for digest, data in image.contents().items():
                    self.check_kept(node, image, digest, data, final=True)
            for image in self.deleted:
                self.check_deleted(node, image, final=True)
        return {**found, "images": len(self.kept), "deleted": len(self.deleted), "blobs": len(self.contents())}
