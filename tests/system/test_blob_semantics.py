# SPDX-License-Identifier: Apache-2.0
"""What the specification leaves open and a registry has to define: concurrency, conditions, resumed uploads, restarts
in the middle, expiry. Every answer is either right or an error; never wrong bytes."""

import hashlib
import threading
import time

import pytest

import http1
from harness import IMAGE_TYPE, KIND, Repository, digest_of, gap, image_manifest, randomness

OCTETS = {"Content-Type": "application/octet-stream"}
MIB = 1 << 20
KILLS = ("stop", "kill")


def begin(repo):
    answer = repo.start_upload()
    assert answer.status == 202, answer
    return answer.header("Location")


def patch(repo, location, data, offset=None):
    headers = dict(OCTETS)
    if offset is not None:
        headers["Content-Range"] = f"{offset}-{offset + len(data) - 1}"
    return repo.at(location, "PATCH", data, headers)


def finish(repo, location, digest, data=b""):
    return repo.at(location, "PUT", data, OCTETS, [("digest", digest)])


def offset_of(answer):
    """How many bytes the registry holds, by the Range header; 0- and a missing header both mean none or one."""
    assert answer.status in (202, 204), answer
    value = answer.header("Range")
    return 0 if value in (None, "0-0", "0--1") else int(value.split("-")[1]) + 1


def run_together(*functions):
    """Runs them in threads; raises the first exception."""
    errors = []

    def run(function):
        try:
            function()
        except BaseException as error:  # handed to the test below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- concurrency ---------------------------------------------------------------------------------------------------


def test_same_blob_pushed_by_many_at_once(repo):
    """All are acknowledged, whoever is first; the blob is there once and right."""
    data = randomness("same").randbytes(3 * MIB)
    digest = digest_of(data)
    barrier = threading.Barrier(8)

    def push():
        location = begin(repo)
        answer = patch(repo, location, data[:MIB])
        assert answer.status == 202, answer
        barrier.wait(20)
        answer = finish(repo, answer.header("Location"), digest, data[MIB:])
        assert answer.status == 201, answer
        assert repo.blob(digest).body == data

    run_together(*[push] * 8)
    assert repo.blob(digest).body == data
    assert repo.blob(digest, "DELETE").status == 202
    assert repo.blob(digest).status == 404


def test_same_blob_pushed_to_many_repositories_at_once(registry, repo):
    """Deleted in one repository, it stays in the others."""
    data = randomness("shared").randbytes(MIB)
    digest = digest_of(data)
    repos = [registry.repository(f"{repo.name}/{i}") for i in range(4)]
    run_together(*[lambda each=each: each.push_blob(data) for each in repos])
    assert repos[0].blob(digest, "DELETE").status == 202
    assert repos[0].blob(digest).status == 404
    assert all(each.blob(digest).body == data for each in repos[1:])


def test_delete_during_a_slow_pull(repo):
    """The pull that has begun is finished with the right bytes; a new one finds nothing."""
    data = randomness("slow").randbytes(16 * MIB)
    digest = repo.push_blob(data)
    with repo.client.connect(receive_buffer_bytes=65536) as connection:
        connection.request("GET", repo.target(f"blobs/{digest}"))
        connection.sock.recv(1, 2)  # MSG_PEEK: the answer has begun
        assert repo.blob(digest, "DELETE").status == 202
        assert repo.blob(digest).status == 404
        hasher = hashlib.sha256()

        def slowly(piece):
            hasher.update(piece)
            if connection.received < MIB:
                time.sleep(0.01)

        answer = connection.response(sink=slowly)
    assert answer.status == 200
    assert f"sha256:{hasher.hexdigest()}" == digest


@gap("answers 500 when a tag is read while it is written", strict=False)
def test_tag_moved_while_it_is_read(repo):
    """Each read is one of the two versions: bytes, length, type and digest belong together."""
    versions = {}
    for i in range(2):
        digest, body = repo.push_image("moving", b"layer %d" % i, b"x" * (i * 900))
        versions[digest] = body
    done = threading.Event()

    def move():
        for i in range(60):
            body = list(versions.values())[i % 2]
            assert repo.put_manifest("moving", body, IMAGE_TYPE).status == 201
        done.set()

    def read():
        with repo.client.connect() as connection:
            while not done.is_set():
                answer = connection.exchange("GET", repo.target("manifests/moving"), headers={"Accept": IMAGE_TYPE})
                assert answer.status == 200, answer
                assert versions[answer.header("Docker-Content-Digest")] == answer.body
                head = connection.exchange("HEAD", repo.target("manifests/moving"), headers={"Accept": IMAGE_TYPE})
                body = versions[head.header("Docker-Content-Digest")]
                assert head.header("Content-Length") == str(len(body))

    run_together(move, read, read)


def test_own_writes_are_read(repo):
    """After the 201 every connection sees the new version, after the 202 of a delete none sees it."""
    bodies = [repo.push_image("x", b"%d" % i)[1] for i in range(2)]
    with repo.client.connect() as connection:
        for i in range(40):
            assert repo.put_manifest("tag", bodies[i % 2], IMAGE_TYPE).status == 201
            answer = connection.exchange("GET", repo.target("manifests/tag"), headers={"Accept": IMAGE_TYPE})
            assert answer.body == bodies[i % 2]
        digest = digest_of(bodies[1])
        assert repo.manifest(digest, "DELETE").status == 202
        answer = connection.exchange("GET", repo.target("manifests/tag"), headers={"Accept": IMAGE_TYPE})
        assert answer.status == 404


# --- conditions, HEAD, edges ---------------------------------------------------------------------------------------


def targets(repo):
    digest, _ = repo.push_image("tag", b"conditional")
    return [repo.target(f"blobs/{digest_of(b'conditional')}"), repo.target("manifests/tag"),
            repo.target(f"manifests/{digest}")]


def get(repo, target, headers=(), method="GET"):
    return repo.client.exchange(method, target, headers={"Accept": IMAGE_TYPE, **dict(headers)})


@gap("gives a digest without quotes, not always")
def test_if_none_match(repo):
    for target in targets(repo):
        etag = get(repo, target).header("ETag")
        assert etag and etag.startswith('"'), "immutable content needs a strong ETag"
        for method in ("GET", "HEAD"):
            for value in (etag, f'"other", {etag}', f"W/{etag}", "*"):
                answer = get(repo, target, {"If-None-Match": value}, method)
                assert answer.status == 304, (target, value, answer)
                assert answer.header("ETag") == etag
            assert get(repo, target, {"If-None-Match": '"other"'}, method).status == 200


@gap("does not compare If-Range or If-Match")
def test_if_range_and_if_match(repo):
    target = targets(repo)[0]
    etag = get(repo, target).header("ETag")
    assert get(repo, target, {"Range": "bytes=0-0", "If-Range": etag}).status == 206
    assert get(repo, target, {"Range": "bytes=0-0", "If-Range": '"other"'}).status == 200
    assert get(repo, target, {"Range": "bytes=0-0", "If-Range": f"W/{etag}"}).status == 200
    assert get(repo, target, {"If-Match": etag}).status == 200
    assert get(repo, target, {"If-Match": '"other"'}).status == 412


def test_head_is_get_without_body(repo):
    fields = ("Content-Length", "Content-Type", "Docker-Content-Digest", "ETag", "Accept-Ranges")
    for target in targets(repo):
        head, full = get(repo, target, method="HEAD"), get(repo, target)
        assert head.status == full.status == 200
        for field in fields:
            assert head.header(field) == full.header(field), field
    for target in (repo.target("manifests/none"), repo.target(f"blobs/{digest_of(b'none')}")):
        assert get(repo, target, method="HEAD").status == 404


def test_manifest_without_accept(repo):
    """The stored bytes under the stored type, whatever the client says it accepts."""
    digest, body = repo.push_image("tag", b"layer")
    for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/*"}):
        answer = repo.manifest("tag", headers=accept)
        if KIND == "docker-registry":
            continue  # hides OCI types from clients that do not name them
        assert answer.status == 200 and answer.body == body
        assert answer.header("Content-Type") == IMAGE_TYPE
    assert repo.manifest(digest).body == body


@pytest.mark.parametrize("wanted", ["bytes=0-99,200-299", "bytes=", *[
    pytest.param(value, marks=gap("announces a body with 416 that it does not send")) for value in (
        "bytes=a-b", "items=0-1", "bytes=-", "bytes 0-1", "bytes=99999999999999999999-",
        "bytes=0-18446744073709551616")]])
def test_odd_ranges(repo, wanted):
    """Several ranges or an unknown form: all of it (RFC 9110 14.2), one right part, or 416; never other bytes."""
    data = randomness("odd").randbytes(1000)
    answer = repo.blob(repo.push_blob(data), headers={"Range": wanted})
    if answer.status == 206 and answer.header("Content-Type", "").startswith("multipart/byteranges"):
        return
    assert answer.status in (200, 206, 416), answer
    if answer.status == 200:
        assert answer.body == data
    elif answer.status == 206:
        first, last = answer.header("Content-Range").split(" ")[1].split("/")[0].split("-")
        assert answer.body == data[int(first):int(last) + 1]


def test_range_of_an_empty_blob(repo):
    answer = repo.blob(repo.push_blob(b""), headers={"Range": "bytes=0-"})
    assert answer.status in (200, 416) and (answer.status == 416 or answer.body == b"")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65535, 65536, 262143, 262144, 262145, 5 * MIB + 1])
def test_sizes(repo, size):
    """Around the sizes of pages and buffers; whole, and the last byte alone."""
    data = randomness("size", size).randbytes(size)
    digest = repo.push_blob(data)
    assert repo.blob(digest).body == data
    if size:
        assert repo.blob(digest, headers={"Range": f"bytes={size - 1}-"}).body == data[-1:]


# --- resumed uploads -----------------------------------------------------------------------------------------------


def cut_patch(repo, location, data, sent):
    """A PATCH whose connection is reset after part of the body; gives what the registry says it holds then."""
    connection = repo.client.connect()
    target = http1.target_of(location)
    connection.send(connection.head("PATCH", target, {**OCTETS, "Content-Length": str(len(data))}) + data[:sent])
    time.sleep(0.2)
    connection.close()


def status_of(repo, location, expected=None):
    """GET of a session; waits a little for the aborted request to be noticed."""
    answers = []

    def settled():
        answers.append(repo.at(location, "GET"))
        return answers[-1].status == 204 and (expected is None or offset_of(answers[-1]) == expected)

    http1.wait_until(settled, 5)
    assert answers[-1].status == 204, answers[-1]
    return answers[-1]


@gap("keeps no offset outside of its Location")
@pytest.mark.parametrize("form", ["content-length", "chunked"])
def test_resume_after_an_aborted_patch(repo, form):
    """What was received before the cut is kept, at least up to a buffer; the upload goes on from there."""
    data = randomness("resume", form).randbytes(4 * MIB)
    location = begin(repo)
    if form == "content-length":
        cut_patch(repo, location, data, 3 * MIB)
    else:
        connection = repo.client.connect()
        head = connection.head("PATCH", http1.target_of(location), {**OCTETS, "Transfer-Encoding": "chunked"})
        connection.send(head + b"%x\r\n" % len(data) + data[:3 * MIB])
        time.sleep(0.2)
        connection.reset()
    answer = status_of(repo, location)
    held = offset_of(answer)
    assert 0 < held <= 3 * MIB
    answer = patch(repo, answer.header("Location"), data[held:], held)
    assert answer.status == 202 and offset_of(answer) == len(data)
    assert finish(repo, answer.header("Location"), digest_of(data)).status == 201
    assert repo.blob(digest_of(data)).body == data


@pytest.mark.parametrize("how", KILLS)
def test_session_survives_a_restart(make_registry, how):
    registry = make_registry()
    repo = registry.repository("restart/upload")
    data = randomness("restart", how).randbytes(2 * MIB + 12345)
    answer = patch(repo, begin(repo), data[:MIB], 0)
    assert offset_of(answer) == MIB
    registry.restart(how)
    status = repo.at(answer.header("Location"), "GET")
    assert offset_of(status) == MIB, "acknowledged bytes were lost"
    answer = patch(repo, status.header("Location"), data[MIB:2 * MIB], MIB)
    assert offset_of(answer) == 2 * MIB
    registry.restart(how)
    status = repo.at(answer.header("Location"), "GET")
    assert offset_of(status) == 2 * MIB
    assert finish(repo, status.header("Location"), digest_of(data), data[2 * MIB:]).status == 201
    registry.restart(how)
    assert repo.blob(digest_of(data)).body == data


@gap("keeps no offset outside of its Location")
@pytest.mark.parametrize("how", KILLS)
def test_restart_in_the_middle_of_a_patch(make_registry, how):
    """The session is there after the restart, with a true part of the bytes."""
    registry = make_registry(settings={"http.drain_timeout": 500} if KIND == "fairlead" else {})
    repo = registry.repository("restart/patch")
    data = randomness("middle", how).randbytes(8 * MIB)
    location = begin(repo)
    with repo.client.connect() as connection:
        target = http1.target_of(location)
        connection.send(connection.head("PATCH", target, {**OCTETS, "Content-Length": str(len(data))}))
        connection.send(data[:5 * MIB])
        time.sleep(0.1)
        registry.restart(how)
    answer = repo.at(location, "GET")
    held = offset_of(answer)
    assert 0 <= held <= 5 * MIB
    answer = patch(repo, answer.header("Location"), data[held:], held)
    assert answer.status == 202, answer
    assert finish(repo, answer.header("Location"), digest_of(data)).status == 201
    assert repo.blob(digest_of(data)).body == data


@gap("checks the offset only against its Location")
def test_bad_offsets(repo):
    """416 leaves the session as it was."""
    data = randomness("offsets").randbytes(3000)
    answer = patch(repo, begin(repo), data[:1000], 0)
    location = answer.header("Location")
    for offset in (0, 999, 1001, 5000, 1 << 62):
        refused = patch(repo, location, data[1000:2000], offset)
        assert refused.status == 416, (offset, refused)
        assert refused.codes()
        assert offset_of(status_of(repo, location)) == 1000
    answer = patch(repo, location, data[1000:], 1000)
    assert finish(repo, answer.header("Location"), digest_of(data)).status == 201


@pytest.mark.parametrize("value", ["x", "5-1", "0-", "-5", "0-999/2000", "bytes 0-999", "0-5",
                                   "0-18446744073709551615"])
@gap("parses it leniently")
def test_malformed_content_range(repo, value):
    """Not the specification's form, or not as long as the body: refused, and nothing is added."""
    location = begin(repo)
    answer = repo.at(location, "PATCH", b"x" * 1000, {**OCTETS, "Content-Range": value})
    assert answer.status in (400, 416), answer
    assert offset_of(status_of(repo, location)) == 0


@gap("takes any id under its signature")
def test_session_of_another_repository(registry, repo):
    """An upload id is good in its repository only."""
    other = registry.repository(repo.name + "/other")
    other.push_blob(b"exists")
    location = begin(repo)
    foreign = location.replace(f"/v2/{repo.name}/", f"/v2/{other.name}/")
    assert foreign != location
    for method, body in (("GET", None), ("PATCH", b"data"), ("DELETE", None)):
        answer = repo.at(foreign, method, body, OCTETS if body else ())
        assert answer.status == 404 and answer.codes() == ["BLOB_UPLOAD_UNKNOWN"], answer
    assert finish(other, foreign, digest_of(b"data"), b"data").status == 404
    assert finish(repo, location, digest_of(b"data"), b"data").status == 201


@pytest.mark.parametrize("name", ["0" * 32, "nothing", "%00", "a" * 500, "-", "00000000-0000-0000",
                                  pytest.param("..%2f..%2fx", marks=gap("redirects"))])
def test_invented_session(repo, name):
    repo.push_blob(b"the repository exists")
    for method, body in (("GET", None), ("PATCH", b"data"), ("DELETE", None), ("PUT", b"")):
        answer = repo.exchange(method, f"blobs/uploads/{name}?digest={digest_of(b'')}", body)
        assert answer.status in (400, 404), answer


def test_finished_session_is_gone(repo):
    location = begin(repo)
    assert finish(repo, location, digest_of(b"data"), b"data").status == 201
    for method, body in (("GET", None), ("PATCH", b"more"), ("DELETE", None)):
        assert repo.at(location, method, body, OCTETS if body else ()).status == 404


def test_two_patches_at_once(repo):
    """Of two writers to one session one may be refused; the bytes acknowledged are of one of them, unmixed."""
    parts = [bytes([65 + i]) * (2 * MIB) for i in range(2)]
    location = begin(repo)
    answers = {}
    run_together(*[lambda i=i: answers.__setitem__(i, patch(repo, location, parts[i], 0)) for i in range(2)])
    taken = [i for i in answers if answers[i].status == 202]
    assert taken, answers
    if KIND == "docker-registry":
        return
    assert len(taken) == 1, answers
    data = parts[taken[0]]
    assert finish(repo, answers[taken[0]].header("Location"), digest_of(data)).status == 201
    assert repo.blob(digest_of(data)).body == data


def blob_files(registry):
    """Bytes of all files below the state folder, without those of names and logs."""
    return sum(path.stat().st_size for path in registry.state.rglob("*")
               if path.is_file() and path.suffix not in (".mdb", ".lock", ".log"))


@gap("leaves the upload's file")
def test_wrong_digest_leaves_nothing(make_registry):
    registry = make_registry()
    repo = registry.repository("wrong/digest")
    before = blob_files(registry)
    data = randomness("wrong").randbytes(8 * MIB)
    answer = finish(repo, begin(repo), digest_of(b"other"), data)
    assert answer.status == 400 and answer.codes() == ["DIGEST_INVALID"]
    for digest in (digest_of(b"other"), digest_of(data)):
        assert repo.blob(digest).status == 404
    grown = lambda: blob_files(registry) - before
    assert http1.wait_until(lambda: grown() < 2 * MIB, 5), f"{grown()} bytes are left"


@pytest.mark.skipif(KIND != "fairlead", reason="the peer has no expiry to set")
def test_abandoned_sessions_expire(make_registry):
    """And only they: one that is used stays."""
    registry = make_registry(settings={"registry.upload_expiry": 1000})
    repo = registry.repository("expiry/x")
    before = blob_files(registry)
    abandoned = patch(repo, begin(repo), b"x" * (4 * MIB), 0).header("Location")
    used = begin(repo)
    sent = 0
    for _ in range(8):
        answer = patch(repo, used, b"y", sent)
        assert answer.status == 202, answer
        used, sent = answer.header("Location"), sent + 1
        time.sleep(0.4)
    assert repo.at(abandoned, "GET").status == 404
    assert http1.wait_until(lambda: blob_files(registry) - before < MIB, 10), "its bytes are still on disk"
    assert finish(repo, used, digest_of(b"y" * sent)).status == 201


@pytest.mark.skipif(KIND != "fairlead", reason="the peer has no expiry to set")
def test_expiry_counts_over_a_restart(make_registry):
    registry = make_registry(settings={"registry.upload_expiry": 1000})
    repo = registry.repository("expiry/restart")
    location = patch(repo, begin(repo), b"x" * MIB, 0).header("Location")
    registry.restart("kill")
    time.sleep(2)  # asking would be a use
    assert http1.wait_until(lambda: repo.at(location, "GET").status == 404, 15, step_s=3)


def test_restart_keeps_everything(make_registry):
    """SIGTERM, then kill -9: names, types, referrers, deletions."""
    registry = make_registry()
    repo = registry.repository("keep/all")
    kept, body = repo.push_image("kept", b"layer")
    gone, _ = repo.push_image("gone", b"other layer")
    assert repo.manifest(gone, "DELETE").status == 202
    about = {"mediaType": IMAGE_TYPE, "digest": kept, "size": len(body)}
    config = digest_of(b"{}")
    referrer = image_manifest(config, 2, [(config, 2)], subject=about, artifactType="application/x-test")
    assert repo.put_manifest(digest_of(referrer), referrer, IMAGE_TYPE).status == 201
    for how in ("stop", "kill", "kill"):
        registry.restart(how)
        answer = repo.manifest("kept")
        assert answer.body == body and answer.header("Content-Type") == IMAGE_TYPE
        assert repo.manifest("gone").status == 404 and repo.manifest(gone).status == 404
        assert repo.tags().json()["tags"] == ["kept"]
        assert repo.blob(digest_of(b"layer")).body == b"layer"
        if KIND != "docker-registry":
            found = repo.referrers(kept).json()["manifests"]
            assert [each["digest"] for each in found] == [digest_of(referrer)]
        assert registry.client.exchange("GET", "/v2/_catalog").json()["repositories"] == ["keep/all"]


# --- sizes beyond 32 bits ------------------------------------------------------------------------------------------

HUGE_BYTES = 5 << 30
PIECE = bytes(4 * MIB)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", ["content-length", "chunked"])
def test_five_gibibytes(make_registry, form):
    """All zeros, streamed; offsets beyond 2 and 4 GiB; a range near the end and the whole by its hash."""
    registry = make_registry()
    repo = Repository(http1.Client(registry.address, timeout_s=300), "huge/blob")
    hasher = hashlib.sha256()
    for _ in range(HUGE_BYTES // len(PIECE)):
        hasher.update(PIECE)
    hasher.update(b"end")
    digest, size = f"sha256:{hasher.hexdigest()}", HUGE_BYTES + 3

    def pieces():
        for _ in range(HUGE_BYTES // len(PIECE)):
            yield PIECE
        yield b"end"

    headers = {**OCTETS, "Content-Length": str(size)} if form == "content-length" else OCTETS
    answer = repo.at(begin(repo), "PATCH", pieces(), headers)
    assert answer.status == 202 and answer.header("Range") == f"0-{size - 1}"
    assert finish(repo, answer.header("Location"), digest).status == 201
    assert repo.blob(digest, "HEAD").header("Content-Length") == str(size)
    for first in (HUGE_BYTES - 10, (1 << 31) - 5, (1 << 32) - 5):
        part = repo.blob(digest, headers={"Range": f"bytes={first}-{first + 12}"})
        assert part.status == 206 and part.header("Content-Range") == f"bytes {first}-{first + 12}/{size}"
        expected = (bytes(10) + b"end") if first == HUGE_BYTES - 10 else bytes(13)
        assert part.body == expected
    pulled = hashlib.sha256()
    assert repo.blob(digest, sink=pulled.update).status == 200
    assert f"sha256:{pulled.hexdigest()}" == digest
