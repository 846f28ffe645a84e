# SPDX-License-Identifier: Apache-2.0
"""Power cuts. A node works on a file system that journals every write and every fsync; then, for many points of that
journal, the disk is rebuilt as it may look when the power went there (tests/tools/replay.py), a node is started on it,
and it must serve all that was acknowledged before that point, and nothing that is neither old nor new; no file under
blobs/ is anything but whole, and what is used is counted right.

FAIRLEAD_TEST_POWER_STRIDE=1 cuts the short story after each of its records."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

import pytest

import faultfs
import harness
from faultfs import replay
import http1
from harness import CONFIG_TYPE, IMAGE_TYPE, KIND, LAYER_TYPE, Repository, descriptor, digest_of, image_manifest, randomness
from ledger import Ledger, Pusher

pytestmark = faultfs.needed

ROUNDS = 14
CUTS_OF_A_PART = {"ordered": 8, "harsh": 8, "none": 5, "whole": 4}
PARTS = 3
STRIDE = int(os.environ.get("FAIRLEAD_TEST_POWER_STRIDE", 0))
SETTINGS = {"state.snapshot_entries": 64, "gc.grace": "0ms", "gc.interval": "0ms"} if KIND == "fairlead" else {}
IN_PLACE = harness.gap("rewrites the file of a tag in place", strict=False)
NO_FOLDER_SYNC = harness.gap("does not sync folders after a rename")
OP_NAMES = ("create mkdir write truncate fallocate rename unlink rmdir link fsync fsyncdir chmod chown").split()


def work(registry, ledger, number, rounds=ROUNDS):
    """One client: images in several forms, moved tags, mounts, deletes of tags, manifests and blobs."""
    rng = randomness("power", number)
    repo = registry.repository(f"power/{number}")
    pusher = Pusher(repo, ledger)
    previous = None
    for i in range(rounds):
        layers = [rng.randbytes(rng.choice((0, 100, 4096, 70000, 300000))) + bytes([i, number]) for _ in range(2)]
        body = pusher.image("latest", *layers, chunks=rng.choice((0, 1, 3)), i=i)
        pusher.manifest(f"v{i}", body)
        mounted = Pusher(registry.repository(f"power/{number}/mounted"), ledger)
        mounted.mount(layers[0], repo)
        if previous and i % 3 == 0 and KIND != "docker-registry":
            pusher.delete("manifest", f"v{i - 1}")
        if previous and i % 4 == 0:
            old, old_layers = previous
            pusher.delete_manifest_with_tags(old, [f"v{j}" for j in range(i)])
            pusher.delete("blob", digest_of(old_layers[1]))
        previous = body, layers


def cli(registry, *words):
    command = [str(harness.BUILD / "fairlead"), "--socket", str(registry.socket_path), *words]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def make_layout(folder):
    """An image as an OCI layout, durable: (its manifest, its blobs)."""
    rng = randomness("layout")
    blobs = [rng.randbytes(size) for size in (100, 70000, 300000)]
    body = image_manifest(digest_of(blobs[0]), len(blobs[0]), [(digest_of(each), len(each)) for each in blobs[1:]])
    entry = descriptor(IMAGE_TYPE, digest_of(body), len(body), annotations={"org.opencontainers.image.ref.name": "1"})
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
             "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
             **{f"blobs/sha256/{digest_of(each)[7:]}": each for each in (*blobs, body)}}
    (folder / "blobs/sha256").mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sync_all(folder.parent)
    return body, blobs


def run_import(registry, ledger, layout, body, blobs):
    """Blobs are taken where they lie, by a clone, a link or a copy."""
    repo = registry.repository("power/imported")
    things = [("blob", digest_of(each), each) for each in blobs] + [("manifest", digest_of(body), body), ("manifest", "1", body)]
    changes = [ledger.begin(repo, *each) for each in things]
    cli(registry, "import", str(layout), repo.name)
    for change in changes:
        ledger.acknowledge(change)


def run_gc(registry, ledger):
    """What no manifest names goes, at some time of the run."""
    going = ledger.unnamed()
    changes = [ledger.begin(registry.repository(name), kind, digest, None) for name, kind, digest in going]
    absent = lambda: all(registry.repository(name).blob(digest, "HEAD").status == 404 for name, _, digest in going)
    assert http1.wait_until(lambda: cli(registry, "gc") and absent(), 60), registry.report("garbage is left")
    for change in changes:
        ledger.acknowledge(change)
    return len(going)


def run_clients(registry, ledger, numbers):
    errors = []

    def run(number):
        try:
            work(registry, ledger, number)
        except BaseException as error:  # handed on below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture(scope="module")
def story():
    """(records of the journal, ledger) of a node's life: clients, kill -9, clients, SIGTERM."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-power-"))
    try:
        with faultfs.FaultFs(folder / "fs") as fs:
            fs.make_durable_folder("state")
            registry = harness.new_registry(folder=folder / "node", state=fs.path / "state", settings=SETTINGS)
            ledger = Ledger(fs.position)
            try:
                registry.start()
                run_clients(registry, ledger, (0, 1, 2))
                registry.restart("kill")
                run_clients(registry, ledger, (3, 4))
                if KIND == "fairlead":
                    run_import(registry, ledger, fs.path / "layout", *make_layout(fs.path / "layout"))
                    assert run_gc(registry, ledger) > 10
            finally:
                registry.close()
            yield fs.records(), ledger, fs.journal_path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


UNORDERED = (replay.WRITE, replay.TRUNCATE, replay.MKDIR, replay.CHMOD, replay.CHOWN)  # the folders of a new store are many


def cut_points(records, rng, count):
    """Some anywhere, most beside the calls that order things: syncs, renames, creations."""
    ordering = [i for i, record in enumerate(records) if record.op not in UNORDERED]
    points = [rng.randrange(1, len(records)) for _ in range(count // 3)]
    points += [rng.choice(ordering) + rng.choice((0, 1)) for _ in range(count - len(points))]
    return points


def describe(records, cut):
    lines = []
    for record in records[max(0, cut - 12):cut]:
        lines.append(f"  {OP_NAMES[record.op]} inode {record.inode} {record.path} {record.path2} "
                     f"{record.offset}+{len(record.data)}")
    return "\n".join(lines)


def build_disk(records, cut, model, rng, target):
    """What the power cut leaves; the model `whole` leaves everything, as when only the programs end."""
    if model != "whole":
        replay.replay(records, cut, model, rng, target)
        return
    machine = replay.Machine("harsh").run(records[:cut])
    for change in machine.changes:
        change.apply("left")
    for node in machine.inodes.values():
        if isinstance(node, replay.File):
            node.sync()
    machine.write_out(machine.root, target, rng)


def check_files(state):
    """What is under blobs/ is whole, before anybody has looked at it."""
    for path in (state / "store/blobs").glob("*/*/*"):
        assert digest_of(path.read_bytes(), path.parts[-3])[len(path.parts[-3]) + 1:] == path.name, f"half a blob: {path}"


def check_sums(registry, ledger):
    """What is used is counted right, of each repository and in all."""
    rows = [json.loads(line) for line in cli(registry, "repo", "ls", "--json", "--limit", "1000").splitlines()]
    counted = {row["name"]: (row["tags"], row["manifests"], row["blobs"], row["bytes"]) for row in rows if "name" in row}
    totals = next((row["totals"] for row in rows if "totals" in row), None)
    seen, sizes = ledger.sums()
    beside = counted.pop("after/cut", None)  # of a check before this one
    assert {name: row for name, row in counted.items() if any(row)} == seen
    if (totals or seen) and not beside:
        linked = totals["blobs"] - totals["unlinked_blobs"], totals["bytes"] - totals["unlinked_bytes"]
        assert linked == (len(sizes), sum(sizes.values())), totals


def check_state(state, ledger, position, folder):
    """Starts a node on the state; what was acknowledged by the position is there, and new pushes work."""
    registry = harness.new_registry(folder=folder, state=state, settings=SETTINGS)
    try:
        check_files(state)
        registry.start()
        found = ledger.check(registry.client, Repository, position)
        if KIND == "fairlead":
            check_sums(registry, ledger)
        repo = registry.repository("after/cut")
        digest, body = repo.push_image("new", randomness(position).randbytes(100000))
        assert repo.manifest(digest).body == body
        return found
    except BaseException as error:
        raise AssertionError(f"{error}\n{registry.report('log')}") from error
    finally:
        registry.kill()


def keep_journal(journal, cut, model, seed):
    """What failed can be looked at later: how to build that disk again."""
    kept = harness.BUILD / "power" / f"{harness.SEED}.journal"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(journal, kept)
    return f"tests/tools/replay.py {kept} FOLDER --cut {cut} --model {model} --seed \"{harness.SEED} {('replay', model, seed)}\""


def check_cut(story, cut, model, seed, folder):
    records, ledger, journal = story
    position = records[cut - 1].end
    folder.mkdir()
    build_disk(records, cut, model, randomness("replay", model, seed), folder / "disk")
    try:
        return check_state(folder / "disk" / "state", ledger, position, folder / "node")
    except AssertionError as error:
        raise AssertionError(
            f"power cut after record {cut} of {len(records)} (journal byte {position}), model {model}, kept: "
            f"{keep_journal(journal, cut, model, seed)}; the last records:\n{describe(records, cut)}\n{error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
@pytest.mark.parametrize("model", [pytest.param(model, marks=IN_PLACE) for model in CUTS_OF_A_PART])
def test_power_cut(story, tmp_path, model, part):
    points = cut_points(story[0], randomness("cuts", model, part), CUTS_OF_A_PART[model])
    for number, cut in enumerate(points):
        check_cut(story, cut, model, (part, number), tmp_path / str(number))


def test_crash_without_loss(story, tmp_path):
    """The machine stops and the disk has everything: also checks the checks."""
    records, ledger, _ = story
    assert ledger.acknowledged_count() > 400
    found = check_cut(story, len(records), "whole", 0, tmp_path / "end")
    assert found > (200 if KIND == "fairlead" else 300)


@pytest.fixture(scope="module")
def short_story():
    """As the other one, of one client: an upload in pieces, one in one request, a mount, a tag that moves, deletions, an import, a
    garbage collection."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-power-"))
    try:
        with faultfs.FaultFs(folder / "fs") as fs:
            fs.make_durable_folder("state")
            layout = make_layout(fs.path / "layout")
            registry = harness.new_registry(folder=folder / "node", state=fs.path / "state", settings=SETTINGS)
            ledger = Ledger(fs.position)
            try:
                registry.start()
                begun = len(fs.records())
                work(registry, ledger, 9, rounds=2)
                if KIND == "fairlead":
                    run_import(registry, ledger, fs.path / "layout", *layout)
                    run_gc(registry, ledger)
            finally:
                registry.close()
            yield (fs.records(), ledger, fs.journal_path), begun
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@IN_PLACE
@pytest.mark.slow
def test_each_point(short_story, tmp_path):
    """Everywhere in a story that has everything once, each model in turn: after each record, if so many are asked for."""
    story, begun = short_story
    points = range(begun, len(story[0]) + 1)
    stride = STRIDE or max(1, len(points) // 24)
    for number, cut in enumerate(points[::stride]):
        for model in CUTS_OF_A_PART if STRIDE else [sorted(CUTS_OF_A_PART)[number % 4]]:
            check_cut(story, cut, model, number, tmp_path / f"{number}-{model}")


@pytest.mark.parametrize("model", ["ordered", pytest.param("harsh", marks=NO_FOLDER_SYNC)])
def test_the_end_is_durable(story, tmp_path, model):
    """After the last acknowledgement and a clean stop, nothing at all may be lost."""
    check_cut(story, len(story[0]), model, "end", tmp_path / model)


def sync_all(folder):
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() or path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def copy_durably(source, target):
    """A tree with owners and permissions, everything synced."""
    for path in [source, *sorted(source.rglob("*"))]:
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        else:
            copy.write_bytes(path.read_bytes())
        os.chown(copy, path.stat().st_uid, path.stat().st_gid)
        os.chmod(copy, path.stat().st_mode & 0o7777)
    sync_all(target)


@pytest.mark.parametrize("model", [pytest.param("ordered", marks=IN_PLACE), pytest.param("harsh", marks=IN_PLACE)])
@pytest.mark.slow
def test_power_cut_during_recovery(story, tmp_path, model):
    """The power goes again while, or soon after, the node starts on what the first cut left."""
    records, ledger, _ = story
    for number, cut in enumerate(cut_points(records, randomness("first cut", model), 4)):
        position = records[cut - 1].end
        folder = tmp_path / str(number)
        folder.mkdir()
        build_disk(records, cut, model, randomness("first", model, number), folder / "disk")
        with faultfs.FaultFs(folder / "fs") as fs:
            copy_durably(folder / "disk", fs.path)
            copied = len(fs.records())
            check_state(fs.path / "state", ledger, position, folder / "node")
            second = fs.records()
        for again, later in enumerate(cut_points(second[copied:], randomness("second", model, number), 3)):
            where = folder / f"again-{again}"
            build_disk(second, copied + later, model, randomness("again", model, number, again), where)
            try:
                check_state(where / "state", ledger, position, folder / f"node-{again}")
            except AssertionError as error:
                raise AssertionError(
                    f"first cut after record {cut} of {len(records)}, second after record {later} of the recovery, "
                    f"model {model}:\n{describe(second, copied + later)}\n{error}") from error
