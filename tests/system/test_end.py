# SPDX-License-Identifier: Apache-2.0
"""A store that does not answer does not keep a node from ending: what waits for it is named and left behind, the state is closed."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

import pytest

import faultfs
import harness
import http1

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="Fairlead's own two processes")
GIVEN_UP = "the end does not wait any longer"


def runs(pid):
    """Whether a thread of it is left, though the process may count as ended."""
    try:
        return any(stat.read_text().rpartition(")")[2].split()[0] not in "ZX" for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"))
    except OSError:
        return False


def test_a_look_at_the_disk_that_does_not_come_back():
    """To open this for writing waits for a reader, as a disk that is gone does: for ever."""
    node = harness.new_registry()
    try:
        node.start()
        digest, body = node.repository("end/one").push_image("tag", b"a layer")
        node.stop()
        probe = node.state / "store" / ".probe"
        os.mkfifo(probe)
        node.start()  # the first look at the disk comes with it
        node.stop()
        log = node.log()
        assert GIVEN_UP in log and "a look at the store's disk" in log and "was not closed" not in log, node.report("ended otherwise")
        assert log.count('"message":"stopped"') == 2, node.report("not said")
        probe.unlink()
        node.start()
        assert node.repository("end/one").manifest("tag").body == body and digest
        assert node.log().count(GIVEN_UP) == 1
    finally:
        node.close()


@pytest.mark.slow
@faultfs.needed
def test_a_data_plane_that_cannot_be_killed():
    """A write that the file system was told of and does not end keeps even SIGKILL waiting."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-end-"))
    node = None
    try:
        with faultfs.FaultFs(folder / "fs", journal=False) as fs:
            fs.make_durable_folder("store")
            store = folder / "state" / "store"
            store.mkdir(parents=True)
            subprocess.run(["mount", "--bind", str(fs.path / "store"), str(store)], check=True)
            try:
                node = harness.new_registry(folder=folder / "node", state=folder / "state", settings={"http.drain_timeout": 100})
                node.start()
                plane, = node.dataplane_pids()
                fs.fault("write", "delay:60000", "store/uploads/*", count=0)

                def push():
                    try:
                        node.repository("end/two").push_blob(os.urandom(300_000))
                    except (OSError, AssertionError, http1.ConnectionEnded):
                        pass
                pusher = threading.Thread(target=push)
                pusher.start()
                assert http1.wait_until(lambda: fs.fired() > 0, 30)
                node.process.terminate()
                assert node.process.wait(60) == 0, node.report("no clean end")
                assert "is left behind" in node.log(), node.report("the data plane was waited for")
                assert '"message":"stopped"' in node.log()
                assert runs(plane)
                pusher.join()
            finally:
                subprocess.run(["umount", "-l", str(store)], check=False)
                fs.process.kill()
        assert http1.wait_until(lambda: not runs(plane), 30)
    finally:
        if node:
            node.process = None
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)
