# SPDX-License-Identifier: Apache-2.0
"""The distribution specification's conformance cases for manifests, by their upstream names: each data set pushed,
listed, headed, pulled, looked up by subject, and deleted; then tags, catalog and referrers page by page."""

import json
import re

import pytest

import http1
from datasets import ARTIFACT_TYPE, DATASETS, OTHER_ARTIFACT_TYPE, Content, dataset
from harness import (IMAGE_TYPE, INDEX_TYPE, Repository, descriptor, digest_of, gap, image_manifest)

NO_REFERRERS = gap("no referrers API")
NO_SHA512 = gap("names everything by its sha256 digest in the end")
NO_TAG_PARAM = gap("no tag parameter")
NO_LAST = gap("ignores `last` of a tag list")
NO_TAG_DELETE = gap("deletes a tag only with its manifest")


def push_blobs(repo, content):
    for digest, data in content.blobs.items():
        assert repo.push_blob(data, content.algorithm) == digest


def check_put(repo, manifest, answer):
    assert answer.status == 201, answer
    location = answer.header("Location")
    assert location and location.startswith("/")
    at_location = repo.at(location, "GET", headers={"Accept": manifest.media_type})
    assert at_location.status == 200 and at_location.body == manifest.body
    assert check_digest_header(answer, manifest)


def check_digest_header(answer, manifest):
    """The header names these bytes, under whichever algorithm it chose."""
    named = answer.header("Docker-Content-Digest")
    assert named, answer
    assert named == digest_of(manifest.body, named.split(":")[0])
    return named


def push(repo, content):
    """Everything, manifests by digest and then by their tags."""
    push_blobs(repo, content)
    for manifest in content.manifests:
        for reference in (manifest.digest, manifest.tag):
            if reference:
                answer = repo.put_manifest(reference, manifest.body, manifest.media_type)
                assert answer.status == 201, answer
    return content


def check_manifest(repo, reference, manifest):
    head = repo.manifest(reference, "HEAD")
    answer = repo.manifest(reference)
    for each in (head, answer):
        assert each.status == 200, each
        assert each.header("Content-Type") == manifest.media_type
        assert each.header("Content-Length") == str(len(manifest.body))
        check_digest_header(each, manifest)
    assert answer.body == manifest.body


# --- steps, each with a repository of its own ----------------------------------------------------------------------


def step_push_blobs(repo, content):
    push_blobs(repo, content)


def step_push_manifest_by_digest(repo, content):
    push_blobs(repo, content)
    for manifest in content.manifests:
        check_put(repo, manifest, repo.put_manifest(manifest.digest, manifest.body, manifest.media_type))


def step_push_manifest_by_tag(repo, content):
    push(repo, content)
    for manifest in content.tagged():
        check_put(repo, manifest, repo.put_manifest(manifest.tag, manifest.body, manifest.media_type))


def step_push_subject_header(repo, content):
    push_blobs(repo, content)
    for manifest in content.manifests:
        answer = repo.put_manifest(manifest.digest, manifest.body, manifest.media_type)
        assert answer.header("OCI-Subject") == manifest.subject


def step_tag_list(repo, content):
    push(repo, content)
    answer = repo.tags().json()
    assert answer["name"] == repo.name
    assert sorted(answer["tags"]) == sorted(manifest.tag for manifest in content.tagged())


def step_tag_list_last(repo, content):
    push(repo, content)
    tags = sorted(manifest.tag for manifest in content.tagged())
    for i, tag in enumerate(tags):
        assert (repo.tags(("last", tag)).json()["tags"] or []) == tags[i + 1:]


def step_blob_head(repo, content):
    push_blobs(repo, content)
    for digest, data in content.blobs.items():
        answer = repo.blob(digest, "HEAD")
        assert answer.status == 200 and answer.header("Content-Length") == str(len(data))
        assert answer.header("Docker-Content-Digest") == digest


def step_manifests_by_digest(repo, content):
    push(repo, content)
    for manifest in content.manifests:
        check_manifest(repo, manifest.digest, manifest)
        assert repo.manifest(manifest.digest).header("Docker-Content-Digest") == manifest.digest


def step_manifests_by_tag(repo, content):
    push(repo, content)
    for manifest in content.tagged():
        check_manifest(repo, manifest.tag, manifest)


def step_blob_get(repo, content):
    push_blobs(repo, content)
    for digest, data in content.blobs.items():
        answer = repo.blob(digest)
        assert answer.status == 200 and answer.body == data


def sorted_descriptors(descriptors):
    return sorted(descriptors, key=lambda each: each["digest"])


def step_referrers_all(repo, content):
    push(repo, content)
    for manifest in content.manifests:
        answer = repo.referrers(manifest.digest)
        assert answer.status == 200, answer
        assert answer.header("Content-Type") == INDEX_TYPE
        assert "OCI-Filters-Applied" not in answer.headers
        index = answer.json()
        assert index["schemaVersion"] == 2 and index["mediaType"] == INDEX_TYPE
        assert sorted_descriptors(index["manifests"]) == sorted_descriptors(content.referrers_of(manifest.digest))
    for subject in content.subjects():
        assert repo.referrers(subject).json()["manifests"], "no referrers of a subject that has some"


def step_referrers_by_artifact_type(repo, content):
    push(repo, content)
    for subject in content.subjects():
        expected = content.referrers_of(subject)
        for artifact_type in {each["artifactType"] for each in expected} | {"application/vnd.example.nobody"}:
            answer = repo.referrers(subject, ("artifactType", artifact_type))
            assert answer.status == 200
            assert answer.header("OCI-Filters-Applied") == "artifactType"
            wanted = [each for each in expected if each["artifactType"] == artifact_type]
            assert sorted_descriptors(answer.json()["manifests"]) == sorted_descriptors(wanted)


def step_tag_delete(repo, content):
    push(repo, content)
    for manifest in content.tagged():
        assert repo.manifest(manifest.tag, "DELETE").status == 202
        assert repo.manifest(manifest.tag).status == 404
        assert repo.manifest(manifest.tag).codes() == ["MANIFEST_UNKNOWN"]
        check_manifest(repo, manifest.digest, manifest)
    assert repo.tags().json()["tags"] == []


def step_manifest_delete(repo, content):
    """Last pushed first, so that no index is ever left with missing children. A tag goes with the digest it names:
    pushed without a digest that is the sha256."""
    push(repo, content)
    for manifest in reversed(content.manifests):
        named = repo.manifest(manifest.tag).header("Docker-Content-Digest") if manifest.tag else manifest.digest
        for digest in {manifest.digest, named}:
            assert repo.manifest(digest, "DELETE").status == 202
            assert repo.manifest(digest).status == 404
        if manifest.tag:
            assert repo.manifest(manifest.tag).status == 404
        assert repo.manifest(manifest.digest, "DELETE").status == 404


def step_referrers_after_delete(repo, content):
    push(repo, content)
    for manifest in content.manifests:
        if manifest.subject:
            assert repo.manifest(manifest.digest, "DELETE").status == 202
            left = [each["digest"] for each in repo.referrers(manifest.subject).json()["manifests"]]
            assert manifest.digest not in left


def step_blob_delete(repo, content):
    push(repo, content)
    for manifest in reversed(content.manifests):
        assert repo.manifest(manifest.digest, "DELETE").status == 202
    for digest in content.blobs:
        assert repo.blob(digest, "DELETE").status == 202
        assert repo.blob(digest).status == 404


ANY = lambda content: True
WITH_BLOBS = lambda content: content.blobs
WITH_SUBJECT = lambda content: content.subjects()
STEPS = {
    "push/blobs": (step_push_blobs, WITH_BLOBS, NO_SHA512),
    "push/manifest-by-digest": (step_push_manifest_by_digest, ANY, NO_SHA512),
    "push/manifest-by-tag": (step_push_manifest_by_tag, ANY, NO_SHA512),
    "push/OCI-Subject": (step_push_subject_header, WITH_SUBJECT, NO_REFERRERS),
    "tag-list/contains": (step_tag_list, ANY, NO_SHA512),
    "tag-list/last": (step_tag_list_last, ANY, NO_LAST),
    "head/blob-head": (step_blob_head, WITH_BLOBS, NO_SHA512),
    "pull/manifest-by-digest": (step_manifests_by_digest, ANY, NO_SHA512),
    "pull/manifest-by-tag": (step_manifests_by_tag, ANY, NO_SHA512),
    "pull/blob-get": (step_blob_get, WITH_BLOBS, NO_SHA512),
    "referrers/all": (step_referrers_all, ANY, NO_REFERRERS),
    "referrers/artifactType": (step_referrers_by_artifact_type, WITH_SUBJECT, NO_REFERRERS),
    "delete/tag-delete": (step_tag_delete, ANY, NO_TAG_DELETE),
    "delete/manifest-delete": (step_manifest_delete, ANY, NO_SHA512),
    "delete/referrers": (step_referrers_after_delete, WITH_SUBJECT, NO_REFERRERS),
    "delete/blob-delete": (step_blob_delete, ANY, NO_SHA512),
}


def cases():
    for name in [*DATASETS, "sha512"]:
        content = dataset(name)
        for step, (function, applies, mark) in STEPS.items():
            fails = mark is not NO_SHA512 or (name == "sha512" and step not in ("push/blobs", "pull/blob-get"))
            if applies(content):
                yield pytest.param(name, function, id=f"{name}/{step}", marks=[mark] if fails else [])


@pytest.mark.parametrize("name,step", cases())
def test_dataset(repo, name, step):
    step(repo, dataset(name))


# --- single cases --------------------------------------------------------------------------------------------------


def test_sparse(repo):
    """An index whose children are missing: taken as it is, or refused with the code made for it."""
    content = Content("sha256", "sparse")
    child = content.image()
    index = content.index([child], "sparse")
    answer = repo.put_manifest(index.tag, index.body, index.media_type)
    if answer.status == 201:
        check_manifest(repo, index.tag, index)
    else:
        assert answer.status in (400, 404) and answer.codes() == ["MANIFEST_BLOB_UNKNOWN"]
        assert repo.manifest(index.tag).status == 404


def test_image_with_missing_blob(repo):
    absent = digest_of(b"a layer that nobody pushed")
    body = image_manifest(repo.push_blob(b"{}"), 2, [(absent, 100)])
    answer = repo.put_manifest("missing", body, IMAGE_TYPE)
    assert answer.status in (400, 404), answer
    assert set(answer.codes()) == {"MANIFEST_BLOB_UNKNOWN"}
    assert repo.manifest("missing").status == 404


def test_image_with_blob_of_another_repository(registry, repo):
    """A blob counts only in the repositories that it was pushed or mounted to."""
    elsewhere = registry.repository(repo.name + "/elsewhere")
    layer = elsewhere.push_blob(b"pushed to another repository only" + repo.name.encode())
    assert repo.blob(layer, "HEAD").status == 404
    body = image_manifest(repo.push_blob(b"{}"), 2, [(layer, 33 + len(repo.name))])
    answer = repo.put_manifest("borrowed", body, IMAGE_TYPE)
    assert answer.status in (400, 404) and set(answer.codes()) == {"MANIFEST_BLOB_UNKNOWN"}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@NO_TAG_PARAM
def test_tag_param(repo, algorithm):
    content = dataset("image", algorithm)
    push_blobs(repo, content)
    manifest = content.manifests[0]
    tags = [f"v1.{i}" for i in range(12)]
    answer = repo.put_manifest(manifest.digest, manifest.body, manifest.media_type, [("tag", tag) for tag in tags])
    check_put(repo, manifest, answer)
    given = [tag.strip() for value in answer.headers.all("OCI-Tag") for tag in value.split(",")]
    assert sorted(given) == sorted(tags)
    for tag in tags:
        check_manifest(repo, tag, manifest)
        assert repo.manifest(tag).header("Docker-Content-Digest") == manifest.digest
    assert repo.tags().json()["tags"] == sorted(tags)


@NO_TAG_PARAM
def test_tag_param_invalid_tag(repo):
    """Nothing is pushed when one of the tags is none."""
    content = dataset("image")
    push_blobs(repo, content)
    manifest = content.manifests[0]
    answer = repo.put_manifest(manifest.digest, manifest.body, manifest.media_type, [("tag", "ok"), ("tag", "-bad")])
    assert answer.status == 400, answer
    assert repo.manifest("ok").status == 404 and repo.manifest(manifest.digest).status == 404


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_bad_digest_image(repo, algorithm):
    content = dataset("image", algorithm)
    for data in content.blobs.values():
        repo.push_blob(data)
    wrong = digest_of(b"other bytes", algorithm)
    answer = repo.put_manifest(wrong, content.manifests[0].body, IMAGE_TYPE)
    assert answer.status == 400, answer
    assert answer.codes() == ["DIGEST_INVALID"]
    assert repo.manifest(wrong).status == 404


def test_read_only(make_registry):
    """Content that is there when the registry starts."""
    registry = make_registry()
    repo = registry.repository("read/only")
    names = ["image", "nested-index", "artifact", "custom-fields"]
    contents = [push(repo, dataset(name)) for name in names]
    registry.restart()
    repo = registry.repository("read/only")
    for content in contents:
        for digest, data in content.blobs.items():
            assert repo.blob(digest).body == data
        for manifest in content.manifests:
            check_manifest(repo, manifest.digest, manifest)
        for manifest in content.tagged():
            check_manifest(repo, manifest.tag, manifest)
    assert sorted(repo.tags().json()["tags"]) == sorted(m.tag for content in contents for m in content.tagged())


@pytest.mark.parametrize("reference", [
    pytest.param(digest_of(b"no such manifest"), id="by-digest"),
    pytest.param("no-such-tag", id="by-tag", marks=NO_TAG_DELETE),
])
def test_missing_manifest(repo, reference):
    repo.push_blob(b"the repository exists")
    for method in ("HEAD", "GET"):
        assert repo.manifest(reference, method).status == 404
    assert repo.manifest(reference).codes() == ["MANIFEST_UNKNOWN"]
    assert repo.manifest(reference, "DELETE").status == 404


@gap("answers 500")
def test_invalid_digest_format_manifest_put(repo):
    answer = repo.put_manifest("sha256:baddigeststring", b"{}", IMAGE_TYPE)
    assert answer.status == 400, answer
    assert repo.manifest("sha256:baddigeststring").status in (400, 404)


@pytest.mark.parametrize("tag", [".x", "-x", "x" * 129, "a%2Fb", "a+b", pytest.param("a:b", marks=gap("answers 500"))])
def test_invalid_tag(repo, tag):
    content = push(repo, dataset("image"))
    answer = repo.put_manifest(tag, content.manifests[0].body, IMAGE_TYPE)
    assert answer.status in (400, 404), answer


@pytest.mark.parametrize("tag", ["x" * 128, "_x", "A.b-C_d", "0"])
def test_valid_tag(repo, tag):
    content = push(repo, dataset("image"))
    assert repo.put_manifest(tag, content.manifests[0].body, IMAGE_TYPE).status == 201
    check_manifest(repo, tag, content.manifests[0])


@pytest.mark.parametrize("body", [
    *[pytest.param(body, id=name, marks=gap("answers 500")) for name, body in (
        ("null", b"null"), ("schema1", b'{"schemaVersion": 1}'),
        ("bad-child-digest", b'{"schemaVersion": 2, "mediaType": "%s", "config": {"digest": "sha256:zz", "size": 1,'
         b' "mediaType": "a/b"}, "layers": []}' % IMAGE_TYPE.encode()))],
    b"", b"{", b"[]", b"\xff\xfe", b'{"schemaVersion": 2, "layers": 3}',
    b"[" * 100000,
], ids=[None, None, None, "empty", "cut", "array", "binary", "layers-number", "deep"])
def test_malformed_manifest(repo, body):
    """400 MANIFEST_INVALID, and nothing is stored."""
    answer = repo.put_manifest("bad", body, IMAGE_TYPE)
    assert answer.status == 400, answer
    assert answer.codes() == ["MANIFEST_INVALID"]
    assert repo.manifest("bad").status == 404


def test_media_type_disagrees(repo):
    """The mediaType field and the Content-Type header of a push have to be the same."""
    manifest = push(repo, dataset("image")).manifests[0]
    answer = repo.put_manifest("other", manifest.body, INDEX_TYPE)
    assert answer.status == 400 and answer.codes() == ["MANIFEST_INVALID"]


def test_content_type_with_parameters(repo):
    """Parameters of the pushed type are not part of the stored one."""
    manifest = push(repo, dataset("image")).manifests[0]
    answer = repo.put_manifest("with", manifest.body, IMAGE_TYPE + "; charset=utf-8")
    assert answer.status == 201, answer
    assert repo.manifest("with").header("Content-Type") == IMAGE_TYPE


def test_manifest_too_large(repo):
    """Over the limit of the manifest size: 413, by Content-Length or while it streams."""
    body = b'{"schemaVersion": 2, "x": "' + b"y" * (40 << 20) + b'"}'
    for form in (body, [body[i:i + 65536] for i in range(0, len(body), 65536)]):
        try:
            answer = repo.put_manifest("large", form, IMAGE_TYPE)
        except ConnectionError:
            continue
        assert answer.status in (400, 413), answer
    assert repo.manifest("large").status == 404


def test_tag_moves(repo):
    first, second = dataset("image"), dataset("artifact")
    push(repo, first)
    push(repo, second)
    for manifest in (first.manifests[0], second.manifests[0], first.manifests[0]):
        assert repo.put_manifest("moving", manifest.body, manifest.media_type).status == 201
        check_manifest(repo, "moving", manifest)


def test_manifest_delete_removes_its_tags_only(repo):
    first, second = push(repo, dataset("image")).manifests[0], push(repo, dataset("artifact")).manifests[0]
    for tag in ("a", "b"):
        repo.put_manifest(tag, first.body, first.media_type)
    assert repo.manifest(first.digest, "DELETE").status == 202
    for tag in ("a", "b", first.tag):
        assert repo.manifest(tag).status == 404
    assert repo.tags().json()["tags"] == [second.tag]
    check_manifest(repo, second.tag, second)


# --- lists ---------------------------------------------------------------------------------------------------------


def next_of(answer):
    """The target of the Link to the next page, or None."""
    link = answer.header("Link")
    if link is None:
        return None
    match = re.fullmatch(r'<([^>]+)>; *rel="next"', link)
    assert match, link
    return http1.target_of(match.group(1))


def pages(client, target, key):
    """All pages from the target on, by the links."""
    found = []
    while target:
        answer = client.exchange("GET", target)
        assert answer.status == 200, answer
        found.append(answer.json()[key])
        target = next_of(answer)
        assert len(found) < 1000, "links go in a circle"
    return found


TAGS = ["0", "1", "10", "2", "A", "Z", "_", "a", "a-b", "a.b", "aa", "ab", "latest", "z", "zz"]


@pytest.fixture(scope="module")
def tagged(registry):
    """A repository with many tags, pushed in an order of its own."""
    repo = registry.repository("lists/tagged")
    body = repo.push_image("latest", b"layer")[1]
    for tag in TAGS[::-1]:
        repo.push_manifest(tag, body)
    return repo


@gap("does not sort")
def test_tags_sorted(tagged):
    assert tagged.tags().json() == {"name": tagged.name, "tags": TAGS}


@pytest.mark.parametrize("count", [1, 2, 4, 14, 15, 16, 1000])
@gap("lists all tags at once")
def test_tags_by_pages(tagged, count):
    found = pages(tagged.client, tagged.target(f"tags/list?n={count}"), "tags")
    assert [tag for page in found for tag in page] == TAGS
    assert all(len(page) == count for page in found[:-1])


@NO_LAST
def test_tags_last(tagged):
    for last in ("", "0", "a", "a.", "latest", "zy"):
        assert tagged.tags(("last", last)).json()["tags"] == [tag for tag in TAGS if tag > last]
    assert not tagged.tags(("last", "zz")).json()["tags"]


@gap("lists all tags at once")
def test_tags_n_and_last(tagged):
    answer = tagged.tags(("n", 3), ("last", "A"))
    assert answer.json()["tags"] == ["Z", "_", "a"]
    assert pages(tagged.client, next_of(answer), "tags")[0] == ["a-b", "a.b", "aa"]


@gap("lists all tags at once")
def test_tags_n_zero(tagged):
    answer = tagged.tags(("n", 0))
    assert answer.status == 200 and answer.json()["tags"] == [] and "Link" not in answer.headers


@pytest.mark.parametrize("count", ["x", "-1", "1.5", "99999999999999999999999", ""])
def test_tags_n_malformed(tagged, count):
    answer = tagged.tags(("n", count))
    assert answer.status in (200, 400), answer
    if answer.status == 400:
        assert answer.codes()


@gap("orders by path components")
def test_catalog(make_registry):
    """Every repository once, sorted, by pages of each size."""
    registry = make_registry()
    names = ["a", "a/b", "a-b", "ab", "b/c/d", "b/c", "z"]
    for name in names:
        registry.repository(name).push_image("latest", b"layer")
    client = registry.client
    expected = sorted(names)
    assert client.exchange("GET", "/v2/_catalog").json() == {"repositories": expected}
    for count in (1, 2, 3, 6, 7, 8):
        found = pages(client, f"/v2/_catalog?n={count}", "repositories")
        assert [name for page in found for name in page] == expected
        assert all(len(page) <= count for page in found)
    answer = client.exchange("GET", "/v2/_catalog?n=3&last=a-b")
    assert answer.json()["repositories"] == ["a/b", "ab", "b/c"]


def test_catalog_n_zero(registry):
    registry.repository("catalog/any").push_image("latest", b"layer")
    answer = registry.client.exchange("GET", "/v2/_catalog?n=0")
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert answer.json()["repositories"] == [] and "Link" not in answer.headers


@NO_REFERRERS
def test_referrers_by_pages(repo):
    """More referrers than one answer may hold (4 MiB) come in pages; filters hold over all pages."""
    subject_digest, subject = repo.push_image("subject", b"layer")
    config = repo.push_blob(b"{}")
    about = descriptor(IMAGE_TYPE, subject_digest, len(subject))
    expected = {}
    for i in range(60):
        artifact_type = (ARTIFACT_TYPE, OTHER_ARTIFACT_TYPE)[i % 2]
        body = image_manifest(config, 2, [(config, 2)], subject=about, artifactType=artifact_type,
                              annotations={"org.example.i": str(i), "org.example.fill": "f" * 100000})
        expected[repo.push_manifest(digest_of(body), body)] = artifact_type
    for query, wanted in (("", set(expected)), (f"?artifactType={ARTIFACT_TYPE}",
                                               {d for d, kind in expected.items() if kind == ARTIFACT_TYPE})):
        found = pages(repo.client, repo.target(f"referrers/{subject_digest}{query}"), "manifests")
        digests = [each["digest"] for page in found for each in page]
        assert len(digests) == len(set(digests)) and set(digests) == wanted
        assert all(each["artifactType"] == expected[each["digest"]] for page in found for each in page)
        assert all(len(json.dumps(page)) < 5 << 20 for page in found)


@NO_REFERRERS
@pytest.mark.parametrize("digest", ["sha256:bad", "x", "sha256:" + "G" * 64])
def test_referrers_malformed_digest(repo, digest):
    answer = repo.referrers(digest)
    assert answer.status == 400 and answer.codes() == ["DIGEST_INVALID"], answer


@NO_REFERRERS
def test_referrers_are_of_one_repository(registry, repo):
    """The same subject in another repository has referrers of its own."""
    content = push(repo, dataset("artifacts-with-subject"))
    other = Repository(registry.client, repo.name + "/other")
    subject = content.subjects()[0]
    assert repo.referrers(subject).json()["manifests"]
    assert other.referrers(subject).json()["manifests"] == []
