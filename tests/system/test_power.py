# SPDX-License-Identifier: Apache-2.0
"""Power cuts. A node works on a file system that journals every write and every fsync; then, for many points of that
journal, the disk is rebuilt as it may look when the power went there (tests/tools/replay.py), a node is started on it,
and it must serve all that was acknowledged before that point, and nothing that is neither old nor new."""

import os
import pathlib
import shutil
import tempfile
import threading

import pytest

import faultfs
import harness
from faultfs import replay
from harness import KIND, Repository, digest_of, randomness
from ledger import Ledger, Pusher

pytestmark = faultfs.needed

ROUNDS = 14
CUTS_OF_A_PART = 9
PARTS = 3
SETTINGS = {"state.snapshot_entries": 64} if KIND == "fairlead" else {}
IN_PLACE = harness.gap("rewrites the file of a tag in place", strict=False)
NO_FOLDER_SYNC = harness.gap("does not sync folders after a rename")
OP_NAMES = ("create mkdir write truncate fallocate rename unlink rmdir link fsync fsyncdir chmod chown").split()


def work(registry, ledger, number):
    """One client: images in several forms, moved tags, mounts, deletes of tags, manifests and blobs."""
    rng = randomness("power", number)
    repo = registry.repository(f"power/{number}")
    pusher = Pusher(repo, ledger)
    previous = None
    for i in range(ROUNDS):
        layers = [rng.randbytes(rng.choice((0, 100, 4096, 70000, 300000))) + bytes([i, number]) for _ in range(2)]
        body = pusher.image("latest", *layers, chunks=rng.choice((1, 3)), i=i)
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
            finally:
                registry.close()
            yield fs.records(), ledger
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cut_points(records, rng, count):
    """Some anywhere, most beside the calls that order things: syncs, renames, creations."""
    ordering = [i for i, record in enumerate(records) if record.op not in (replay.WRITE, replay.TRUNCATE)]
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


def check_state(state, ledger, position, folder):
    """Starts a node on the state; what was acknowledged by the position is there, and new pushes work."""
    registry = harness.new_registry(folder=folder, state=state, settings=SETTINGS)
    try:
        registry.start()
        found = ledger.check(registry.client, Repository, position)
        repo = registry.repository("after/cut")
        digest, body = repo.push_image("new", randomness(position).randbytes(100000))
        assert repo.manifest(digest).body == body
        return found
    except BaseException as error:
        raise AssertionError(f"{error}\n{registry.report('log')}") from error
    finally:
        registry.kill()


def check_cut(story, cut, model, seed, folder):
    records, ledger = story
    position = records[cut - 1].end
    folder.mkdir()
    build_disk(records, cut, model, randomness("replay", model, seed), folder / "disk")
    try:
        return check_state(folder / "disk" / "state", ledger, position, folder / "node")
    except AssertionError as error:
        raise AssertionError(
            f"power cut after record {cut} of {len(records)} (journal byte {position}), model {model}, the last "
            f"records:\n{describe(records, cut)}\n{error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
@pytest.mark.parametrize("model", [pytest.param("ordered", marks=IN_PLACE), pytest.param("harsh", marks=IN_PLACE)])
def test_power_cut(story, tmp_path, model, part):
    points = cut_points(story[0], randomness("cuts", model, part), CUTS_OF_A_PART)
    for number, cut in enumerate(points):
        check_cut(story, cut, model, (part, number), tmp_path / str(number))


def test_crash_without_loss(story, tmp_path):
    """The machine stops and the disk has everything: also checks the checks."""
    records, ledger = story
    assert ledger.acknowledged_count() > 400
    found = check_cut(story, len(records), "whole", 0, tmp_path / "end")
    assert found > 300


@IN_PLACE
@pytest.mark.slow
def test_crash_at_any_point(story, tmp_path):
    """The same in the middle of what was going on."""
    records, _ = story
    for number, cut in enumerate(cut_points(records, randomness("whole"), 4)):
        check_cut(story, cut, "whole", number, tmp_path / str(number))


@pytest.mark.parametrize("model", ["ordered", pytest.param("harsh", marks=NO_FOLDER_SYNC)])
def test_the_end_is_durable(story, tmp_path, model):
    """After the last acknowledgement and a clean stop, nothing at all may be lost."""
    check_cut(story, len(story[0]), model, "end", tmp_path / model)


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
    for path in [target, *target.rglob("*")]:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


@pytest.mark.parametrize("model", [pytest.param("ordered", marks=IN_PLACE), pytest.param("harsh", marks=IN_PLACE)])
@pytest.mark.slow
def test_power_cut_during_recovery(story, tmp_path, model):
    """The power goes again while, or soon after, the node starts on what the first cut left."""
    records, ledger = story
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
