# SPDX-License-Identifier: Apache-2.0
"""Power cuts. A node works on a file system that journals every write and every fsync; then, for many points of that
journal, the disk is rebuilt as it may look when the power went there (tests/tools/replay.py), a node is started on it,
and it must serve all that was acknowledged before that point, and nothing that is neither old nor new."""

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


def check_cut(story, cut, model, seed, folder):
    """Starts a node on what a cut leaves; everything acknowledged is there, and new pushes work."""
    records, ledger = story
    rng = randomness("replay", model, seed)
    position = records[cut - 1].end
    folder.mkdir()
    if model == "whole":
        machine = replay.Machine("harsh").run(records[:cut])
        for change in machine.changes:
            change.apply("left")
        for node in machine.inodes.values():
            if isinstance(node, replay.File):
                node.sync()
        machine.write_out(machine.root, folder / "disk", rng)
    else:
        replay.replay(records, cut, model, rng, folder / "disk")
    registry = harness.new_registry(folder=folder / "node", state=folder / "disk" / "state", settings=SETTINGS)
    try:
        registry.start()
        found = ledger.check(registry.client, Repository, position)
        repo = registry.repository("after/cut")
        digest, body = repo.push_image("new", randomness(cut).randbytes(100000))
        assert repo.manifest(digest).body == body
        return found
    except BaseException as error:
        raise AssertionError(f"power cut after record {cut} of {len(records)} (journal byte {position}), model {model}, "
                             f"the last records:\n{describe(records, cut)}\n{error}\n{registry.report('log')}") from error
    finally:
        registry.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("model", ["ordered", pytest.param("harsh", marks=NO_FOLDER_SYNC)])
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
    for number, cut in enumerate(cut_points(records, randomness("whole"), 4)):
        check_cut(story, cut, "whole", number, tmp_path / str(number))


@pytest.mark.parametrize("model", ["ordered", pytest.param("harsh", marks=NO_FOLDER_SYNC)])
def test_the_end_is_durable(story, tmp_path, model):
    """After the last acknowledgement and a clean stop, nothing at all may be lost."""
    check_cut(story, len(story[0]), model, "end", tmp_path / model)
