# SPDX-License-Identifier: Apache-2.0
"""The distribution specification's conformance cases for blobs, by their upstream names: support check, every push
form for both digest algorithms, ranges, and refused digests. Manifests: test_conformance_content.py."""

import pytest

import http1
from harness import EMPTY_TYPE, IMAGE_TYPE, INDEX_TYPE, KIND, digest_of, gap, randomness

ALGORITHMS = ("sha256", "sha512")
OCTETS = {"Content-Type": "application/octet-stream"}
CHUNK_BYTES = 1024
ABSENT = b"never pushed by any test"


def test_ping(registry):
    for method in ("GET", "HEAD"):
        answer = registry.client.exchange(method, "/v2/")
        assert answer.status == 200
        assert answer.header("Docker-Distribution-Api-Version") in (None, "registry/2.0")


@gap("no referrers API")
def test_empty_referrers(repo):
    answer = repo.referrers(digest_of(ABSENT))
    assert answer.status == 200
    assert answer.header("Content-Type") == INDEX_TYPE
    assert answer.json() == {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}


def test_empty_tag_list(repo):
    """A repository that was never pushed to: 404 NAME_UNKNOWN, or an empty list."""
    answer = repo.tags()
    if answer.status == 404:
        assert answer.codes() == ["NAME_UNKNOWN"]
    else:
        assert answer.status == 200 and not answer.json()["tags"]


def test_tag_list_of_repository_with_blobs_only(repo):
    repo.push_blob(b"blob")
    answer = repo.tags()
    assert answer.status in (200, 404)
    if answer.status == 200:
        assert answer.json() == {"name": repo.name, "tags": []}


# --- blobs -------------------------------------------------------------------------------------------------------


def location_of(answer):
    location = answer.header("Location")
    assert location, answer
    assert location.startswith("/"), f"Location is not relative: {location}"
    return location


def begin(repo, algorithm):
    """A session; the algorithm is announced as the specification asks when it is not sha256."""
    query = [] if algorithm == "sha256" else [("digest-algorithm", algorithm)]
    answer = repo.start_upload(*query)
    assert answer.status == 202, answer
    minimum = answer.header("OCI-Chunk-Min-Length")
    assert minimum is None or int(minimum) <= CHUNK_BYTES
    return location_of(answer)


def put(repo, location, data, digest, headers=()):
    return repo.at(location, "PUT", data, {**OCTETS, **dict(headers)}, [("digest", digest)])


def patch(repo, location, chunk, offset):
    """One chunk; its answer's Location and Range are checked."""
    last = offset + len(chunk) - 1
    answer = repo.at(location, "PATCH", chunk, {**OCTETS, "Content-Range": f"{offset}-{last}"})
    assert answer.status == 202, answer
    assert answer.header("Range") == f"0-{last}"
    return location_of(answer)


def chunks_of(data, count=3):
    size = max(CHUNK_BYTES, len(data) // count)
    cuts = [data[i * size:(i + 1) * size] for i in range(count - 1)]
    return cuts + [data[(count - 1) * size:]]


def post_only(repo, data, digest):
    answer = repo.start_upload(("digest", digest), body=data, headers=OCTETS)
    return put(repo, location_of(answer), data, digest) if answer.status == 202 else answer


def post_put(repo, data, digest):
    return put(repo, begin(repo, digest.split(":")[0]), data, digest)


def chunked_single(repo, data, digest):
    location = begin(repo, digest.split(":")[0])
    return put(repo, patch(repo, location, data, 0), b"", digest)


def stream(repo, data, digest):
    location = begin(repo, digest.split(":")[0])
    pieces = [data[i:i + 700] for i in range(0, len(data), 700)]
    answer = repo.at(location, "PATCH", pieces, OCTETS)
    assert answer.status == 202, answer
    if data:
        assert answer.header("Range") == f"0-{len(data) - 1}"
    return put(repo, location_of(answer), b"", digest)


def chunked_multi(repo, data, digest):
    location, offset = begin(repo, digest.split(":")[0]), 0
    for chunk in chunks_of(data):
        location = patch(repo, location, chunk, offset)
        offset += len(chunk)
    return put(repo, location, b"", digest)


def chunked_multi_and_put_chunk(repo, data, digest):
    location, offset = begin(repo, digest.split(":")[0]), 0
    *chunks, last = chunks_of(data)
    for chunk in chunks:
        location = patch(repo, location, chunk, offset)
        offset += len(chunk)
    return put(repo, location, last, digest, {"Content-Range": f"{offset}-{len(data) - 1}"})


def refused_out_of_order(repo, location, first, third, offset, method="PATCH", digest=None):
    """Sends a chunk too early, expects 416, then the resume point; gives the Location to go on at."""
    headers = {**OCTETS, "Content-Range": f"{offset}-{offset + len(third) - 1}"}
    query = [("digest", digest)] if digest else []
    answer = repo.at(location, method, third, headers, query)
    assert answer.status == 416, answer
    status = repo.at(location, "GET")
    assert status.status == 204, status
    assert status.header("Range") == f"0-{len(first) - 1}"
    return location_of(status)


def chunked_out_of_order(repo, data, digest):
    first, second, third = chunks_of(data)
    location = patch(repo, begin(repo, digest.split(":")[0]), first, 0)
    offset = len(first) + len(second)
    location = refused_out_of_order(repo, location, first, third, offset)
    location = patch(repo, location, second, len(first))
    return put(repo, patch(repo, location, third, offset), b"", digest)


def chunked_out_of_order_and_put_chunk(repo, data, digest):
    first, second, third = chunks_of(data)
    location = patch(repo, begin(repo, digest.split(":")[0]), first, 0)
    offset = len(first) + len(second)
    location = refused_out_of_order(repo, location, first, third, offset, "PUT", digest)
    location = patch(repo, location, second, len(first))
    return put(repo, location, third, digest, {"Content-Range": f"{offset}-{len(data) - 1}"})


def source_of(repo, data, digest):
    source = type(repo)(repo.client, repo.name + "/source")
    source.push_blob(data, digest.split(":")[0])
    return source


def mount(repo, data, digest):
    source = source_of(repo, data, digest)
    answer = repo.start_upload(("mount", digest), ("from", source.name))
    assert answer.status == 201, answer
    return answer


def mount_anonymous(repo, data, digest):
    """Without `from` a registry may mount from anywhere, or open a session."""
    source_of(repo, data, digest)
    answer = repo.start_upload(("mount", digest))
    return put(repo, location_of(answer), data, digest) if answer.status == 202 else answer


def mount_missing(repo, data, digest):
    """The source repository exists but lacks the blob, which is in a third one."""
    source_of(repo, data, digest)
    lacking = type(repo)(repo.client, repo.name + "/lacking")
    lacking.push_blob(b"something else")
    answer = repo.start_upload(("mount", digest), ("from", lacking.name))
    assert answer.status == 202, answer
    return put(repo, location_of(answer), data, digest)


PUSH = {
    function.__name__.replace("_and_", " and ").replace("out_of_order", "out-of-order").replace("_", " "): function
    for function in (post_only, chunked_single, stream, mount, mount_anonymous, mount_missing, chunked_multi,
                     chunked_multi_and_put_chunk, chunked_out_of_order, chunked_out_of_order_and_put_chunk)
}
PUSH["post+put"] = post_put
OUT_OF_ORDER_GAP = gap("takes chunks out of order")
SHA512_GAP = gap("names every blob by its sha256 digest in the end")


def check_absent(repo, digest):
    for method in ("GET", "HEAD"):
        answer = repo.blob(digest, method)
        assert answer.status == 404, answer
    assert repo.blob(digest).codes() in (["BLOB_UNKNOWN"], ["NAME_UNKNOWN"])


def check_present(repo, data, digest):
    head = repo.blob(digest, "HEAD")
    assert head.status == 200, head
    assert head.header("Content-Length") == str(len(data))
    assert head.header("Docker-Content-Digest") == digest
    answer = repo.blob(digest)
    assert answer.status == 200 and answer.body == data
    assert answer.header("Content-Length") == str(len(data))
    assert answer.header("Docker-Content-Digest") == digest


def check_pushed(repo, data, digest, pushed):
    """What the suite does after every push: HEAD, GET, GET of the Location, DELETE, and gone."""
    assert pushed.status == 201, pushed
    check_present(repo, data, digest)
    at_location = repo.at(location_of(pushed), "GET")
    assert at_location.status == 200 and at_location.body == data
    assert repo.blob(digest, "DELETE").status == 202
    check_absent(repo, digest)
    assert repo.blob(digest, "DELETE").status == 404


def pushes():
    for algorithm in ALGORITHMS:
        for name in sorted(PUSH):
            marks = [SHA512_GAP] if algorithm == "sha512" else [OUT_OF_ORDER_GAP] if "out-of-order" in name else []
            yield pytest.param(algorithm, name, id=f"{algorithm} blobs/{name}", marks=marks)


DIGESTS = ["sha256", pytest.param("sha512", marks=SHA512_GAP)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_blob_get_missing(repo, algorithm):
    check_absent(repo, digest_of(ABSENT, algorithm))


@pytest.mark.parametrize("algorithm,name", pushes())
def test_blob_push(repo, algorithm, name):
    data = randomness(repo.name).randbytes(3 * CHUNK_BYTES + 517)
    digest = digest_of(data, algorithm)
    check_pushed(repo, data, digest, PUSH[name](repo, data, digest))


@gap("does not know anonymous mounts")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_mount_anonymous_needs_no_upload(repo, algorithm):
    data = randomness(repo.name).randbytes(2000)
    digest = digest_of(data, algorithm)
    source_of(repo, data, digest)
    answer = repo.start_upload(("mount", digest))
    check_pushed(repo, data, digest, answer)


@pytest.mark.parametrize("algorithm", DIGESTS)
def test_sha_of_session_without_announced_algorithm(repo, algorithm):
    """`digest-algorithm` is a SHOULD for clients: the digest of the PUT decides."""
    data = randomness(repo.name).randbytes(5000)
    digest = digest_of(data, algorithm)
    location = patch(repo, location_of(repo.start_upload()), data[:3000], 0)
    check_pushed(repo, data, digest, put(repo, location, data[3000:], digest))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_blob_post_cancel(repo, algorithm):
    location = patch(repo, begin(repo, algorithm), b"x" * 2000, 0)
    assert repo.at(location, "DELETE").status == 204
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", b"more")):
        answer = repo.at(location, method, body, OCTETS if body else {})
        assert answer.status == 404, answer
        assert answer.codes() == ["BLOB_UPLOAD_UNKNOWN"]


@pytest.mark.parametrize("algorithm", DIGESTS)
@pytest.mark.parametrize("push", ["post only", "post+put", "stream"])
@pytest.mark.parametrize("data", [b"", b"{}"], ids=["empty", "emptyJSON"])
def test_content(repo, data, push, algorithm):
    digest = digest_of(data, algorithm)
    check_pushed(repo, data, digest, PUSH[push](repo, data, digest))


# --- ranges ------------------------------------------------------------------------------------------------------

RANGE_BYTES = 2048


@pytest.mark.parametrize("wanted,first,last", [
    ("500-1499", 500, 1499), ("500-", 500, 2047), ("-500", 1548, 2047), ("2000-5000", 2000, 2047),
    ("0-0", 0, 0), ("2047-2047", 2047, 2047), ("-1", 2047, 2047), ("0-", 0, 2047), ("-5000", 0, 2047),
    *[pytest.param(wanted, None, None, marks=gap("announces a body with 416 that it does not send"))
      for wanted in ("500-0", "5000-10000", "2048-", "-0")],
])
def test_range_requests(repo, wanted, first, last):
    """`500-0` is an invalid range: upstream wants 416 for it, RFC 9110 (14.2) lets a server ignore it."""
    data = randomness("ranges").randbytes(RANGE_BYTES)
    digest = repo.push_blob(data)
    answer = repo.blob(digest, headers={"Range": f"bytes={wanted}"})
    if first is None:
        assert answer.status == 416, answer
        assert answer.header("Content-Range") == f"bytes */{RANGE_BYTES}"
        return
    assert answer.status == 206, answer
    assert answer.header("Content-Range") == f"bytes {first}-{last}/{RANGE_BYTES}"
    assert answer.body == data[first:last + 1]
    assert answer.header("Docker-Content-Digest") == digest


# --- refused digests ---------------------------------------------------------------------------------------------

BAD_PUSH = {
    f"bad digest {name}": PUSH[push]
    for name, push in (("post only", "post only"), ("post+put", "post+put"), ("chunked", "chunked multi"),
                       ("chunked and put chunk", "chunked multi and put chunk"), ("stream", "stream"))
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", BAD_PUSH)
def test_bad_digest(repo, name, algorithm):
    data = randomness(repo.name).randbytes(3 * CHUNK_BYTES + 99)
    wrong = digest_of(data + b"!", algorithm)
    answer = BAD_PUSH[name](repo, data, wrong)
    assert answer.status == 400, answer
    assert answer.codes() == ["DIGEST_INVALID"]
    check_absent(repo, wrong)
    check_absent(repo, digest_of(data, algorithm))


@pytest.mark.parametrize("digest", [
    "sha256:baddigeststring", "sha256:" + "0" * 63, "sha256:" + "0" * 65, "sha256:" + "A" * 64,
    "sha512:" + "0" * 64, "md5:" + "0" * 32, "sha256", "sha256:", ":", "sha256:" + "0" * 63 + "g",
])
def test_malformed_digest(repo, digest):
    """Refused where a blob is named and where an upload is finished; nothing is stored."""
    for method in ("GET", "HEAD", "DELETE"):
        assert repo.blob(digest, method).status in (400, 404)
    answer = put(repo, begin(repo, "sha256"), b"data", digest)
    assert answer.status == 400, answer
    assert answer.codes() == ["DIGEST_INVALID"]


def test_put_without_digest(repo):
    answer = repo.at(begin(repo, "sha256"), "PUT", b"data", OCTETS)
    assert answer.status == 400 and answer.codes() == ["DIGEST_INVALID"]


@gap("ignores the parameter")
def test_unknown_digest_algorithm(repo):
    answer = repo.start_upload(("digest-algorithm", "md5"))
    assert answer.status == 400, answer


@pytest.mark.parametrize("name", [
    "UPPER", "-a", "a-", "a..b", "a___b", "a/_b", "a b",
    *[pytest.param(name, marks=gap("redirects")) for name in ("a//b", "a/", "%2e%2e/a")],
    pytest.param("a" * 256, marks=gap("answers 500"), id="too long"),
])
def test_invalid_name(registry, name):
    """No session opens under a name outside the grammar, nor one that no client could use."""
    name = name.replace(" ", "%20")
    answer = registry.client.exchange("POST", f"/v2/{name}/blobs/uploads/")
    assert answer.status in (400, 404), answer
    if answer.status == 400:
        assert answer.codes() == ["NAME_INVALID"]


@pytest.mark.parametrize("name", ["a", "a/b", "a.b", "a_b", "a__b", "a--b", "a---b/c.d/e__f", "0/1", "x" * 200])
def test_valid_name(registry, name):
    registry.repository("valid/" + name).push_blob(b"any")


@pytest.mark.parametrize("target,status", [
    ("/", (200, 404)), ("/v2", (200, 301, 308)), ("/v1/", (404,)), ("/v2/a/blobs/", (404,)),
    ("/v2/a/nothing/x", (404,)), ("/v2/a/manifests/", (404,)), ("/v2/blobs/uploads/", (404, 405)),
])
def test_unknown_path(registry, target, status):
    assert registry.client.exchange("GET", target).status in status


@pytest.mark.parametrize("method,tail", [
    ("POST", "blobs/" + digest_of(ABSENT)), ("PATCH", "manifests/x"), ("PUT", "tags/list"), ("POST", "manifests/x"),
    ("DELETE", "tags/list"), ("PUT", "blobs/" + digest_of(ABSENT)),
])
def test_method_not_allowed(repo, method, tail):
    answer = repo.exchange(method, tail, b"")
    assert answer.status == 405, answer
    assert answer.header("Allow")
    if KIND != "docker-registry":
        assert answer.codes() == ["UNSUPPORTED"]


def test_digest_query_is_unescaped(repo):
    """Clients escape the colon of a digest in the query."""
    data = b"escaped"
    answer = repo.start_upload(("digest", digest_of(data)), body=data)
    location = location_of(answer)
    if answer.status == 202:
        target = http1.target_of(location)
        target += ("&" if "?" in target else "?") + "digest=" + digest_of(data).replace(":", "%3A")
        answer = repo.client.exchange("PUT", target, data, OCTETS)
    assert answer.status == 201
    check_present(repo, data, digest_of(data))
    assert repo.exchange("GET", "blobs/" + digest_of(data).replace(":", "%3A")).body == data


def test_types_of_error_bodies(repo):
    """Each error of the specification that a client can cause easily, with its code."""
    assert repo.manifest("nothing").codes() in (["NAME_UNKNOWN"], ["MANIFEST_UNKNOWN"])
    repo.push_blob(b"now the repository exists")
    assert repo.manifest("nothing").codes() == ["MANIFEST_UNKNOWN"]
    assert repo.blob(digest_of(ABSENT)).codes() == ["BLOB_UNKNOWN"]
    answer = repo.put_manifest("x", b"not json", IMAGE_TYPE)
    assert answer.status == 400 and answer.codes() == ["MANIFEST_INVALID"]
    answer = repo.put_manifest("x", b'{"schemaVersion": 2, "mediaType": "%s"}' % EMPTY_TYPE.encode(), IMAGE_TYPE)
    assert answer.status == 400 and answer.codes() == ["MANIFEST_INVALID"]
