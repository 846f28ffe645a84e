# SPDX-License-Identifier: Apache-2.0
"""Who is a node, by its certificate: one that was removed is shut out."""

import contextlib
import re
import socket
import ssl

import pytest

import http1
import netlab
from cluster_lab import PORT, Cluster

pytestmark = netlab.needed
PEERS = PORT + 1  # where replicas ask each other
WAIT_S = 90


@pytest.fixture(scope="module")
def three():
    with Cluster("a", "b", "c") as cluster:
        yield cluster.form()


def pki(node, name):
    return (node.folder / "state/pki" / name).read_text()


class Identity:
    """Certificate and key of a node as they are now, for who comes by later with them."""

    def __init__(self, node, folder):
        folder.mkdir()
        self.files = [folder / "cert", folder / "key"]
        for path, name in zip(self.files, ("node.pem", "node.key")):
            path.write_text(pki(node, name))

    def connect(self, node, port=PEERS):
        """From the node's own host; the other side's certificate does not matter here."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(*self.files)
        plain = netlab.in_namespace(node.host.netns, lambda: socket.create_connection((node.host.v4, port), timeout=60))
        return context.wrap_socket(plain)


def ask(connection):
    """The status of an answer about a blob that is nowhere, on a connection that stays."""
    connection.sendall(b"GET /blobs/sha256/" + b"0" * 64 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(65536)
        if not piece:
            return None
        answer += piece
    length = int(re.search(rb"(?i)content-length: *(\d+)", answer)[1])
    while len(answer.partition(b"\r\n\r\n")[2]) < length:
        answer += connection.recv(65536)
    return int(answer.split()[1])


def test_a_removed_node_is_shut_out(three, tmp_path):
    """Its certificate is as good as before: what counts is who is a node."""
    a, c = three["a"], three["c"]
    left = Identity(c, tmp_path / "c")
    with left.connect(a) as open_before:
        assert ask(open_before) == 404
        c.cli("node", "demote", "c")
        assert http1.wait_until(lambda: a.nodes()["c"]["role"] == "worker" and a.nodes()["c"]["state"] == "ready", WAIT_S)
        assert ask(open_before) == 404
        a.cli("node", "rm", "c", "--yes")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert open_before.recv(1) == b""
    for node in (a, three["b"]):
        def says(node=node):
            with left.connect(node) as connection:
                return ask(connection)
        assert http1.wait_until(lambda says=says: says() == 403, WAIT_S)
