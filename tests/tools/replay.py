# SPDX-License-Identifier: Apache-2.0
"""What a power cut leaves: builds from the journal of faultfs a tree as it could look when the power went.

The cut comes after a number of records of the journal. All that was made durable before is there; of the rest a
seeded random choice is. Two models:

  ordered  like ext4 with data=ordered. Names and sizes change in the order of the calls, any fsync makes all earlier
           changes of names durable. Of the writes since a file's last fsync an initial part is there, the last one
           torn at a sector; sectors of durable parts that were overwritten are old or new, each for itself.
  none     nothing at all of what was not made durable, by the rules of harsh.
  harsh    no more than POSIX promises. fsync of a file makes its bytes durable and no name; a name is durable after
           fsync of its folder. Whatever was not made durable may be there or not, each thing for itself: each change
           of a name (a rename is one change), each sector of a write; a file may have a size whose bytes are zeros.

A rename replaces the old name atomically in both. Permissions and owners are always the newest.

  replay.py JOURNAL FOLDER [--cut RECORDS] [--model ordered|harsh|none] [--seed N]
"""

import argparse
import os
import pathlib
import random
import struct

HEADER = struct.Struct("<IIQQQIIIIII")
MAGIC = 0x314A4C46
SECTOR_BYTES = 512
(CREATE, MKDIR, WRITE, TRUNCATE, FALLOCATE, RENAME, UNLINK, RMDIR, LINK, FSYNC, FSYNCDIR, CHMOD, CHOWN) = range(13)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
MODELS = ("ordered", "harsh")
EXTREMES = ("none",)


class Record:
    __slots__ = ("op", "inode", "offset", "size", "mode", "uid", "gid", "path", "path2", "data", "end")


def read_journal(path):
    """All whole records; `end` is the length of the journal up to and with the record."""
    data = pathlib.Path(path).read_bytes()
    records, at = [], 0
    while at + HEADER.size <= len(data):
        record = Record()
        (magic, record.op, record.inode, record.offset, record.size, record.mode, record.uid, record.gid,
         path_bytes, path2_bytes, data_bytes) = HEADER.unpack_from(data, at)
        assert magic == MAGIC, f"no record at {at}"
        start = at + HEADER.size
        at = start + path_bytes + path2_bytes + data_bytes
        if at > len(data):
            break
        record.path = data[start:start + path_bytes].decode()
        record.path2 = data[start + path_bytes:start + path_bytes + path2_bytes].decode()
        record.data = data[at - data_bytes:at]
        record.end = at
        records.append(record)
    return records


def records_before(records, journal_bytes):
    """How many records lie within the first bytes of the journal."""
    low, high = 0, len(records)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if records[middle].end <= journal_bytes else (low, middle)
    return low


class File:
    def __init__(self, record):
        self.mode, self.uid, self.gid = record.mode, record.uid, record.gid
        self.durable = bytearray()
        self.pending = []

    def sync(self):
        for change in self.pending:
            apply_change(self.durable, change)
        self.pending.clear()


class Folder:
    def __init__(self, record=None):
        self.mode, self.uid, self.gid = (record.mode, record.uid, record.gid) if record else (0o755, 0, 0)
        self.names = {}
        self.left = {}


class NameChange:
    """One change of names: `gone` and `come` are (folder, name) or None; both at once is a rename."""

    def __init__(self, node, come=None, gone=None):
        self.node, self.come, self.gone = node, come, gone
        self.durable = False

    def folder(self):
        return (self.come or self.gone)[0]

    def apply(self, attribute):
        if self.gone:
            folder, name = self.gone
            names = getattr(folder, attribute)
            if names.get(name) is self.node:
                del names[name]
        if self.come:
            folder, name = self.come
            getattr(folder, attribute)[name] = self.node


def apply_change(content, change):
    """A write (offset, bytes) or a new size (None, size)."""
    offset, what = change
    if offset is None:
        if what < len(content):
            del content[what:]
        else:
            content.extend(bytes(what - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset:offset + len(what)] = what


class Machine:
    """The tree as the programs saw it, and what of it is durable."""

    def __init__(self, model):
        assert model in MODELS + EXTREMES
        self.model = model
        self.root = Folder()
        self.inodes = {}
        self.changes = []

    def run(self, records):
        for record in records:
            self.step(record)
        return self

    def find(self, path):
        """(folder, name) of a path, as the programs see it."""
        *folders, name = path.strip("/").split("/")
        folder = self.root
        for each in folders:
            folder = folder.names[each]
        return folder, name

    def change(self, node, come=None, gone=None):
        change = NameChange(node, come, gone)
        change.apply("names")
        self.changes.append(change)

    def step(self, record):
        if record.op == MKDIR and record.path == "/":
            self.inodes[record.inode] = self.root
        elif record.op in (CREATE, MKDIR):
            node = File(record) if record.op == CREATE else Folder(record)
            self.inodes[record.inode] = node
            self.change(node, come=self.find(record.path))
        elif record.op in (UNLINK, RMDIR):
            folder, name = self.find(record.path)
            if name in folder.names:
                self.change(folder.names[name], gone=(folder, name))
        elif record.op in (RENAME, LINK):
            folder, name = self.find(record.path)
            if name in folder.names:
                gone = (folder, name) if record.op == RENAME else None
                self.change(folder.names[name], come=self.find(record.path2), gone=gone)
        elif record.op in (CHMOD, CHOWN):
            self.step_attributes(record)
        elif record.inode in self.inodes:
            self.step_content(record, self.inodes[record.inode])

    def step_attributes(self, record):
        node = self.inodes.get(record.inode)
        if record.path and not node:
            folder, name = self.find(record.path)
            node = folder.names.get(name) if name else self.root
        if node is None:
            return
        if record.op == CHMOD:
            node.mode = record.mode & 0o7777
        else:
            node.uid = node.uid if record.uid == 0xFFFFFFFF else record.uid
            node.gid = node.gid if record.gid == 0xFFFFFFFF else record.gid

    def step_content(self, record, node):
        if record.op == FSYNCDIR or record.op == FSYNC:
            if record.op == FSYNC and isinstance(node, File):
                node.sync()
            self.sync_names(node if record.op == FSYNCDIR else None)
        elif record.op == WRITE:
            node.pending.append((record.offset, record.data))
        elif record.op == TRUNCATE:
            node.pending.append((None, record.size))
        elif record.op == FALLOCATE:
            self.step_fallocate(record, node)

    @staticmethod
    def step_fallocate(record, node):
        if record.mode & (PUNCH_HOLE | ZERO_RANGE):
            node.pending.append((record.offset, bytes(record.size)))
        elif not record.mode & KEEP_SIZE:
            size = bytearray(node.durable)
            for change in node.pending:
                apply_change(size, change)
            if record.offset + record.size > len(size):
                node.pending.append((None, record.offset + record.size))

    def sync_names(self, folder):
        for change in self.changes:
            if self.model == "ordered" or change.folder() is folder:
                change.durable = True

    def cut(self, rng):
        """Decides what of the names is left; contents are decided as files are written out."""
        if self.model == "ordered":
            durable = sum(change.durable for change in self.changes)
            survivors = self.changes[:rng.randint(durable, len(self.changes))]
        elif self.model == "none":
            survivors = [change for change in self.changes if change.durable]
        else:
            bias = rng.choice((0.0, 0.2, 0.5, 0.8, 1.0))
            survivors = [change for change in self.changes if change.durable or rng.random() < bias]
        for change in survivors:
            change.apply("left")

    def content(self, node, rng):
        content = bytearray(node.durable)
        if self.model != "none":
            cut_content = cut_ordered if self.model == "ordered" else cut_harsh
            cut_content(content, node.pending, rng)
        return content

    def write_out(self, folder, target, rng):
        target.mkdir(exist_ok=True)
        for name, node in sorted(folder.left.items()):
            path = target / name
            if isinstance(node, Folder):
                self.write_out(node, path, rng)
            else:
                path.write_bytes(self.content(node, rng))
            os.chmod(path, node.mode & 0o7777)
            if os.geteuid() == 0:
                os.chown(path, node.uid, node.gid)


def sectors(change):
    """A write in pieces that reach the disk whole."""
    offset, data = change
    at = 0
    while at < len(data):
        step = SECTOR_BYTES - (offset + at) % SECTOR_BYTES
        yield offset + at, data[at:at + step]
        at += step


def cut_ordered(content, pending, rng):
    """An initial part of the writes, the last torn; of the others what lies in the durable part may be there."""
    durable_bytes = len(content)
    whole = rng.randint(0, len(pending))
    for change in pending[:whole]:
        apply_change(content, change)
    for i, change in enumerate(pending[whole:]):
        if change[0] is None:
            break
        pieces = list(sectors(change))
        if i == 0:
            for piece in pieces[:rng.choice((0, rng.randint(0, len(pieces))))]:
                apply_change(content, piece)
        for offset, data in pieces:
            if offset + len(data) <= min(durable_bytes, len(content)) and rng.random() < 0.3:
                apply_change(content, (offset, data))


def cut_harsh(content, pending, rng):
    """Each sector of each write for itself; then, maybe, the full size, with zeros where nothing came."""
    full = len(content)
    bias = rng.choice((0.0, 0.5, 0.9, 1.0))
    for change in pending:
        if change[0] is None:
            full = change[1]
            if rng.random() < bias:
                apply_change(content, change)
            continue
        full = max(full, change[0] + len(change[1]))
        if bias == 1.0:
            apply_change(content, change)
        elif bias > 0.0:
            for piece in sectors(change):
                if rng.random() < bias:
                    apply_change(content, piece)
    if full > len(content) and rng.random() < 0.5:
        apply_change(content, (None, full))


def replay(records, cut, model, rng, target):
    """Writes to the (new) folder target a tree that a power cut after `cut` records may leave."""
    machine = Machine(model).run(records[:cut])
    machine.cut(rng)
    target = pathlib.Path(target)
    machine.write_out(machine.root, target, rng)
    os.chmod(target, machine.root.mode & 0o7777)
    if os.geteuid() == 0:
        os.chown(target, machine.root.uid, machine.root.gid)


def main():
    parser = argparse.ArgumentParser(description="builds the tree that a power cut may leave")
    parser.add_argument("journal")
    parser.add_argument("folder")
    parser.add_argument("--cut", type=int, help="power goes after so many records; default all")
    parser.add_argument("--model", choices=MODELS + EXTREMES, default="ordered")
    parser.add_argument("--seed", default="0", help="as random.Random takes it")
    options = parser.parse_args()
    records = read_journal(options.journal)
    cut = len(records) if options.cut is None else options.cut
    replay(records, cut, options.model, random.Random(options.seed), options.folder)
    print(f"{options.folder}: cut after {cut} of {len(records)} records")


if __name__ == "__main__":
    main()
