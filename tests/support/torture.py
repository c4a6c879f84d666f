"""Training runs are killed, started at once, and their checkpoints damaged, with real processes, signals and files.

The runs are on the bundled digits. Tests call these functions with small counts, those marked slow with large ones.
"""

from __future__ import annotations

import glob
import io
import logging
import random
import shlex
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from nursery import Child, Nursery

TIMES = {"train_images_per_s", "test_images_per_s", "seconds"}  # differ between any two runs
QUICK = shlex.split("-dataset digits -T 4 -b 16 -limit-batches 4 -no-figures -j 1 -backend torch")


# ---------------------------------------------------------------------------- what a run left


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves as (step, value), the timings left out, read as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # a purge is no news here
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.rpartition("/")[2] not in TIMES}
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in sorted(tags)}
    return {tag: points for tag, points in found.items() if points}  # not those of which all was dropped


def metrics(folder: Path) -> list[dict[str, float]]:
    from snn_mnist.storage.metrics import read_metrics

    rows = read_metrics(folder / "metrics.csv")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def differences(a: Path, b: Path) -> list[str]:
    """What differs between two runs of the same settings; nothing, if faults did no harm."""
    from snn_mnist.storage import checkpoint

    found = []
    for name in (checkpoint.LATEST, checkpoint.BEST):
        states = [checkpoint.load(folder / name) for folder in (a, b)]
        for key in states[0].keys() | states[1].keys():
            if key != "config" and not same(*(state.get(key) for state in states)):
                found.append(f"{name}: {key}")
    if metrics(a) != metrics(b):
        found.append("metrics.csv")
    if curves(a) != curves(b):
        found.append("TensorBoard's curves")
    return found


def same(a: Any, b: Any) -> bool:
    """Equal bit by bit, through all levels of a checkpoint; the seconds of a half epoch aside."""
    import torch

    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a.keys() - {"seconds"})
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# ---------------------------------------------------------------------------- kill -9


def kills(nursery: Nursery, out: Path, n: int, seed: int = 0, flags: list[str] = QUICK) -> int:
    """Kill a run n times with SIGKILL and resume it each time: it must equal a run nobody killed. Return how many kills
    fell into the writing of a checkpoint.

    One kill in three falls at any moment after the start, the others when training goes on: at once when a temporary
    file appears in the run directory (so within the writing of a checkpoint), or up to 0.2 s later.
    """
    from snn_mnist.storage import checkpoint

    chance, done, within, epochs = random.Random(seed), 0, 0, 10
    arguments = ["train", *flags, "-out-dir", str(out / "killed")]
    folder: Path | None = None
    while done < n:
        command = ["train", "-resume", str(folder), "-j", "1"] if folder else arguments
        child = nursery.start(*command, "-epochs", str(epochs))
        kind = chance.choice(["any moment", "a write", "after a write"])
        if kind == "any moment":
            end = time.monotonic() + chance.uniform(0, 1.5)
            while child.poll() is None and time.monotonic() < end:
                time.sleep(0.001)
        else:
            _stop_at_a_write(child, out / "killed", skip=chance.randrange(12))
            if kind == "after a write":
                child.go_on()
                time.sleep(chance.uniform(0, 0.2))
        if (code := child.poll()) is not None:
            assert code == 0, child.err
            epochs += 10  # it finished before it could be killed
        else:
            child.kill()
            done += 1
        folders = list((out / "killed").glob("*"))
        folder = folder or next((f for f in folders if (f / checkpoint.LATEST).exists()), None)
        if folder is None:
            for unfinished in folders:
                unfinished.rename(out / f"unfinished{time.monotonic_ns()}")
            continue
        within += any(folder.glob(".checkpoint*"))
        checkpoint.load(folder), metrics(folder)
    for command in (["-resume", str(folder), "-j", "1"], [*flags, "-out-dir", str(out / "undisturbed")]):
        last = nursery.run("train", *command, "-epochs", str(epochs), timeout=600)
        assert last.code == 0, last.err
    assert folder
    (whole,) = (out / "undisturbed").iterdir()
    assert differences(whole, folder) == [] and not list(folder.glob(".*"))
    assert [row["epochs"] for row in metrics(folder)] == list(range(1, epochs + 1))
    return within


def _stop_at_a_write(child: Child, parent: Path, skip: int) -> None:
    """Stops the child while it writes a checkpoint, the one after `skip` others; or returns when it has ended."""

    def writes() -> bool:
        return bool(glob.glob(f"{parent}/*/.checkpoint*"))

    seen, looks = False, 0
    while looks % 100 or child.poll() is None:
        now, looks = writes(), looks + 1
        if now and not seen:
            if skip <= 0:
                child.stop()
                if writes() or child.code is not None:
                    return
                child.go_on()
            skip -= 1
        seen = now


# ---------------------------------------------------------------------------- damaged checkpoints


def damage(file: Path, scratch: Path, n: int, seed: int = 0) -> Counter[str]:
    """Cut a checkpoint at n places and more, flip n bits, one at a time, and overwrite blocks: it must be refused, or
    read as it was. Return how often each happened."""
    from snn_mnist.errors import SNNError
    from snn_mnist.storage import checkpoint

    chance, counts = random.Random(seed), Counter[str]()
    whole, state = file.read_bytes(), checkpoint.load(file)

    def attempt(name: str, content: bytes) -> None:
        counts[name] += 1
        scratch.write_bytes(content)
        try:
            assert same(checkpoint.load(scratch), state), f"{name}: read as something else"
        except SNNError as error:
            counts["refused"] += 1
            assert str(scratch) in str(error) and "\n" not in str(error) and len(str(error)) <= 600

    places = {*range(0, min(64, n)), *(len(whole) - 1 - i for i in range(min(200, n)))}
    for place in sorted(places | {chance.randrange(len(whole)) for _ in range(n)}):
        attempt("truncations", whole[:place])
    # half of the flips in what is no tensor: the archive's headers, its directory, the pickle
    structure = _structure(whole)
    for i in range(n):
        place = chance.choice(structure) if i % 2 else chance.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        attempt("flipped bits", bytes(flipped))
    for _ in range(n // 10):
        start, length = chance.randrange(len(whole)), chance.choice([1, 16, 512, 4096])
        noise = chance.choice([bytes(length), chance.randbytes(length)])
        attempt("overwritten blocks", (whole[:start] + noise + whole[start + length :])[: len(whole)])
    return counts


def _structure(whole: bytes) -> list[int]:
    """The places of a zip archive that lie outside its large records."""
    inside: set[int] = set()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        for entry in archive.infolist():
            if entry.file_size > 10_000:
                end = whole.index(entry.filename.encode(), entry.header_offset) + len(entry.filename)
                inside.update(range(end + 64, end + entry.file_size - 64))
    return [place for place in range(len(whole)) if place not in inside]
