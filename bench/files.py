"""Sealing and opening batches: octets per second, and what they shrink to."""

import os
import random
import tempfile
import time
from hashlib import sha256

from batchmail.core.entry import Entry
from batchmail.core.envelope import Client
from batchmail.core.manifest import Head, Item
from batchmail.core.names import make_id, make_stream
from batchmail.store import batchfile
from batchmail.store.durable import Draft
from bench.tables import show

WORDS = "the mail of a ship that calls when it can and of a school behind a hill with one line for all of it"


def transactions(count: int) -> list[tuple[Item, bytes]]:
    """Messages of words, five to twenty KiB each."""
    chance = random.Random(1)
    found = []
    offset = len(batchfile.preface("mx.example.test"))
    for n in range(count):
        lines = (" ".join(chance.choices(WORDS.split(), k=12)) for _ in range(chance.randrange(80, 320)))
        content = ("Subject: bench\r\n\r\n" + "\r\n".join(lines) + "\r\n").encode()
        text = b"MAIL FROM:<s@x.test>\r\nRCPT TO:<u%d@y.test>\r\nDATA\r\n%b.\r\n" % (n, content)
        digest = sha256(text).hexdigest()
        entry = Entry(make_id(n, bytes(10)), 0, 0, len(content), len(text), digest, 7, 1, "", Client())
        found.append((Item(entry, offset, 1), text))
        offset += len(text)
    return found


def run() -> None:
    members = transactions(1000)
    items = [item for item, _ in members]
    length = items[-1].offset + items[-1].entry.text_octets + len(batchfile.CLOSING)
    head = Head(make_stream(bytes(10)), 1, "mx.example.test", "home.example.test", (1,), 0, len(items), length)
    rows = []
    with tempfile.TemporaryDirectory() as path:
        for level in (1, 3, 9, 19):
            began = time.monotonic()
            with Draft(path) as draft:
                batchfile.write_batch(draft, head, items, ((text,) for _, text in members), level)
                draft.publish(f"{path}/{level}")
            sealed = time.monotonic()
            batchfile.check_batch(f"{path}/{level}")
            opened = time.monotonic()
            size = os.path.getsize(f"{path}/{level}")
            rows.append(
                (
                    f"level {level}",
                    f"{length / (sealed - began) / 1e6:.0f}",
                    f"{length / (opened - sealed) / 1e6:.0f}",
                    f"{size / length:.3f}",
                )
            )
    show(
        f"Batches of {length / 1e6:.1f} MB in {len(items)} transactions",
        ("", "sealed MB/s", "opened MB/s", "size"),
        rows,
    )
