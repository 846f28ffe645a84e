# SPDX-License-Identifier: Apache-2.0
"""The data sets of the distribution conformance cases: what is pushed, listed, pulled and deleted.

Each function named after a case fills a Content: blobs to push, manifests in the order in which they are pushed,
tags, and which of them refer to which subject.
"""

import base64
import json

from harness import (CONFIG_TYPE, EMPTY_TYPE, IMAGE_TYPE, INDEX_TYPE, LAYER_TYPE, descriptor, digest_of,
                     randomness)

TAR_TYPE = "application/vnd.oci.image.layer.v1.tar"
NON_DISTRIBUTABLE_TYPE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
ARTIFACT_TYPE = "application/vnd.example.artifact"
OTHER_ARTIFACT_TYPE = "application/vnd.example.other"
THING_TYPE = "application/vnd.example.thing"
EMPTY_JSON = b"{}"


class Manifest:
    def __init__(self, structure, algorithm, tag=None):
        self.structure = structure
        self.body = json.dumps(structure, indent=2).encode()
        self.media_type = structure["mediaType"]
        self.digest = digest_of(self.body, algorithm)
        self.tag = tag
        self.subject = structure.get("subject", {}).get("digest")

    def descriptor(self, **more):
        return descriptor(self.media_type, self.digest, len(self.body), **more)

    def referrer(self):
        """The descriptor that the referrers API must give for it."""
        config = self.structure.get("config", {})
        artifact_type = self.structure.get("artifactType") or config.get("mediaType")
        more = {"artifactType": artifact_type} if artifact_type else {}
        if self.structure.get("annotations"):
            more["annotations"] = self.structure["annotations"]
        return self.descriptor(**more)


class Content:
    """Blobs by digest and manifests in push order, children before the index that names them."""

    def __init__(self, algorithm, name):
        self.algorithm = algorithm
        self.random = randomness("dataset", name)
        self.blobs = {}
        self.manifests = []

    def blob(self, media_type, content, push=True, **more):
        digest = digest_of(content, self.algorithm)
        if push:
            self.blobs[digest] = content
        return descriptor(media_type, digest, len(content), **more)

    def layer(self, media_type=LAYER_TYPE, push=True, **more):
        return self.blob(media_type, self.random.randbytes(self.random.randrange(1024, 4096)), push, **more)

    def config(self, architecture="amd64", **more):
        config = {"architecture": architecture, "os": "linux", "nonce": self.random.random(), **more}
        return self.blob(CONFIG_TYPE, json.dumps(config).encode())

    def manifest(self, media_type, tag=None, **fields):
        made = Manifest({"schemaVersion": 2, "mediaType": media_type, **fields}, self.algorithm, tag)
        self.manifests.append(made)
        return made

    def image(self, tag=None, layers=None, architecture="amd64", **more):
        layers = [self.layer(), self.layer()] if layers is None else layers
        return self.manifest(IMAGE_TYPE, tag, config=self.config(architecture), layers=layers, **more)

    def artifact(self, tag=None, layers=None, artifact_type=ARTIFACT_TYPE, **more):
        layers = [self.layer(THING_TYPE)] if layers is None else layers
        config = self.blob(EMPTY_TYPE, EMPTY_JSON)
        return self.manifest(IMAGE_TYPE, tag, artifactType=artifact_type, config=config, layers=layers, **more)

    def index(self, children, tag=None, **more):
        return self.manifest(INDEX_TYPE, tag, manifests=[child.descriptor() for child in children], **more)

    def subjects(self):
        return sorted({manifest.subject for manifest in self.manifests if manifest.subject})

    def referrers_of(self, digest):
        return [manifest.referrer() for manifest in self.manifests if manifest.subject == digest]

    def tagged(self):
        return [manifest for manifest in self.manifests if manifest.tag]


def platforms(content):
    return [content.image(architecture=name) for name in ("amd64", "arm64")]


def image(content):
    content.image("image")


def image_uncompressed(content):
    content.image("uncompressed", [content.layer(TAR_TYPE), content.layer(TAR_TYPE)])


def large_manifest(content):
    annotations = {f"com.example.long.{i}": chr(97 + i % 26) * 10000 for i in range(390)}
    content.image("large", annotations=annotations)


def index(content):
    content.index(platforms(content), "index")


def nested_index(content):
    inner = content.index(platforms(content))
    content.index([inner, content.image()], "nested")


def empty_index(content):
    content.index([], "empty-index")


def artifact(content):
    content.artifact("artifact")


def artifact_index(content):
    content.index([content.artifact(), content.artifact(artifact_type=OTHER_ARTIFACT_TYPE)], "artifact-index",
                  artifactType=ARTIFACT_TYPE)


def artifact_without_layers(content):
    content.artifact("artifact-without-layers", [content.blob(EMPTY_TYPE, EMPTY_JSON)])


def artifacts_with_subject(content):
    subject = content.image("subject").descriptor()
    content.artifact(subject=subject, annotations={"org.example.kind": "first", "org.example.text": "\u00e9 \"x\""})
    content.artifact(subject=subject, artifact_type=OTHER_ARTIFACT_TYPE)
    typed_by_config = content.blob(ARTIFACT_TYPE, b'{"a": 1}')
    content.manifest(IMAGE_TYPE, "tagged-artifact", config=typed_by_config, layers=[content.layer(THING_TYPE)],
                     subject=subject)


def index_with_subject(content):
    subject = content.image("subject").descriptor()
    content.index(platforms(content), "index-with-subject", subject=subject, artifactType=ARTIFACT_TYPE,
                  annotations={"org.example.kind": "index"})


def missing_subject(content):
    absent = b"a manifest that is never pushed"
    content.artifact("missing-subject",
                     subject=descriptor(IMAGE_TYPE, digest_of(absent, content.algorithm), len(absent)))


def data_field(content):
    data = b"hello in the data field"
    encoded = base64.b64encode(data).decode()
    content.artifact("data-field", [content.blob(THING_TYPE, data, data=encoded)])


def non_distributable_layers(content):
    away = content.layer(NON_DISTRIBUTABLE_TYPE, push=False, urls=["https://store.example/layer"])
    content.image("non-distributable", [content.layer(), away])


def custom_fields(content):
    layer = content.layer()
    layer["org.example.in.descriptor"] = ["x", {"y": None}]
    content.image("custom-fields", [layer], **{"org.example.extra": {"n": 1.50, "s": "\u20ac"}, "list": [1, [2]]})


def no_layers(content):
    content.image("no-layers", [])


DATASETS = {
    function.__name__.replace("_", "-"): function
    for function in (image, image_uncompressed, large_manifest, index, nested_index, empty_index, artifact,
                     artifact_index, artifact_without_layers, artifacts_with_subject, index_with_subject,
                     missing_subject, data_field, non_distributable_layers, custom_fields, no_layers)
}


def dataset(name, algorithm="sha256"):
    """The content of a case; `sha512` is the image case under that algorithm."""
    if name == "sha512":
        name, algorithm = "image", "sha512"
    content = Content(algorithm, name)
    DATASETS[name](content)
    return content
