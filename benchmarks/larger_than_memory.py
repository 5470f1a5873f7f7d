"""Training on a cohort that is larger than memory, compared with one that fits.

Where this script may create a cgroup (root on Linux), the cgroup limits the memory of a child process, and the
cohort is several times as large as the page cache that remains. Elsewhere the files are dropped from the page cache
before each pass, which is harder: no patch is ever in memory.

Both cohorts are shuffled in the same way: each epoch has its own permutation of all patches. The quality of the
shuffle is how often two patches of a batch are of the same slide, compared with batches drawn at random.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import cohort
import numpy as np
from harness import in_turn, record

STEPS, WARM, BATCH = 80, 8, 32
SPARE = 2**26  # bytes of page cache that the child's memory leaves; the steps read twice as much
TIMES = 16  # the large cohort is at least this many times as large
CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))


def child(folder: Path) -> None:
    """Train for some steps on a store; print seconds, anonymous memory and the quality of the shuffle."""
    from histocae.networks import backend
    from histocae.training.batches import Batches

    backend.start()
    backend.repeatable(1)
    from histocae import CAE
    from histocae.networks import fused
    from histocae.patches.store import PatchStore
    from histocae.training import steps

    store = PatchStore(folder)
    index = store.index()
    patches = store.select(index)
    slides = index["slide_id"].factorize()[0]
    cae = CAE((cohort.PIXELS, cohort.PIXELS, 3), 512, [8, 16, 32])
    model = fused.fused_on_bytes(cae)
    optimizer = steps.optimizer("adamax", {"learning_rate": 0.002})
    optimizer.build(model.trainable_variables)
    engine = steps.make(model, optimizer, "mse")
    batches = Batches(patches, BATCH, 0, 1)
    for i in range(WARM):  # the process is compiled and has its full size before the timing starts
        engine.learn(*batches.stacked(range(i, i + 1)))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    held = int(status.split("VmHWM:")[1].split()[0]) * 1024
    Path(sys.argv[2]).write_text(str(held), encoding="utf-8")
    sys.stdin.readline()  # waits until the memory is limited
    start = time.perf_counter()
    whole = len(patches) // BATCH  # a cohort that fits is read more than once
    order = [(WARM + i) % whole for i in range(STEPS)]
    for given, target in steps.ahead(batches.stacked(range(i, i + 1)) for i in order):
        engine.learn(given, target)
    seconds = time.perf_counter() - start
    order = slides[batches.positions(range(len(index) // BATCH))]
    same = (order[:, :, None] == order[:, None]).sum(axis=(1, 2)) - BATCH
    shares = np.bincount(slides) / len(slides)
    pairs = float(same.mean() / BATCH / (BATCH - 1))
    print(json.dumps({"seconds": seconds, "mixed": pairs / float(np.square(shares).sum())}))


class Memory:
    """The memory of one child process, which can be limited."""

    def __init__(self) -> None:
        """Create a cgroup where this process may."""
        self._group = self._knob = None
        for place, knob in zip(CGROUPS, ("memory.max", "memory.limit_in_bytes"), strict=True):
            if not (place / "cgroup.procs").exists() or not os.access(place, os.W_OK):
                continue
            group = place / f"histocae-{uuid.uuid4().hex[:8]}"
            group.mkdir()
            if (group / knob).exists():
                self._group, self._knob = group, group / knob
                return
            group.rmdir()

    @property
    def limited(self) -> bool:
        """Whether the memory can be limited."""
        return self._group is not None

    def enter(self) -> None:
        """Move this process, a child before its program starts, into the cgroup."""
        if self._group is not None:
            (self._group / "cgroup.procs").write_text("0")

    def shrink(self, most: int) -> None:
        """Limit the memory to its current size plus some bytes."""
        if self._knob is not None:
            self._knob.write_text(str(most))

    def end(self) -> None:
        """Remove the cgroup, whose process has ended."""
        if self._group is not None:
            self._group.rmdir()


def train(folder: Path, small: bool, told: dict) -> float:
    """Train in a child process; return the seconds of its steps."""
    ready, memory = folder / "ready", Memory()
    ready.unlink(missing_ok=True)
    running = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(ready)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=memory.enter,
    )
    while not ready.exists() or not (held := ready.read_text(encoding="utf-8")):
        if running.poll() is not None:
            sys.exit("the child ended before it began")
        time.sleep(0.1)
    for shard in (folder / "shards").iterdir():
        with open(shard, "rb") as handle:
            if small:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                handle.read()
    if small:
        memory.shrink(int(held) + SPARE)
    out, _ = running.communicate("go\n")
    memory.end()
    if running.returncode:
        sys.exit("the child failed")
    told |= json.loads(out) | {"limited": memory.limited}
    return told["seconds"]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        root = Path(folder)
        cut = cohort.draw(root, 4)
        each = sum(one.nbytes for one in cut)
        cohort.store(root / "small", cut)
        cohort.store(root / "large", cut, -(-TIMES * SPARE // each))
        os.sync()
        told: dict[str, dict] = {"fits": {}, "larger": {}}
        took = in_turn(
            {
                "a cohort that fits": lambda: train(root / "small", False, told["fits"]),
                "a cohort larger than memory": lambda: train(root / "large", True, told["larger"]),
            },
            3,
            STEPS * BATCH,
            "patches",
            warm=0,
        )
        larger = told["larger"]
        how = "in a cgroup" if larger["limited"] else "put out of the page cache"
        record(
            "larger_than_memory",
            took["a cohort that fits"] / took["a cohort larger than memory"],
            0.8,
            "higher",
            f"{STEPS} steps at batch {BATCH} on a cohort {TIMES} times as large as the memory left for it ({how}), "
            f"against one that fits; the shuffle puts two patches of one slide into a batch {larger['mixed']:.3f} "
            f"times as often as chance does ({told['fits']['mixed']:.3f} where the cohort fits)",
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(Path(sys.argv[1]))
    else:
        main()
