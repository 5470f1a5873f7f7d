"""Training on a cohort that is larger than memory, compared with one that fits.

Where this script may create a cgroup (root on Linux), the cgroup limits the memory of a child process, and the
cohort is several times as large as the page cache that remains. Elsewhere the files are dropped from the page cache
before each pass. That is harder: at the start of a pass no patch is in memory.

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
SPARE = 2**26  # bytes of page cache within the limit of the child's memory; the steps read twice as much
TIMES = 16  # the large cohort has at least this many times the bytes of that page cache
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
    peak_bytes = int(status.split("VmHWM:")[1].split()[0]) * 1024
    Path(sys.argv[2]).write_text(str(peak_bytes), encoding="utf-8")
    sys.stdin.readline()  # waits until the memory is limited
    start = time.perf_counter()
    batch_count = len(patches) // BATCH  # a cohort that fits is read more than once
    order = [(WARM + i) % batch_count for i in range(STEPS)]
    for inputs, targets in steps.ahead(batches.stacked(range(i, i + 1)) for i in order):
        engine.learn(inputs, targets)
    seconds = time.perf_counter() - start
    slides_of_batches = slides[batches.positions(range(len(index) // BATCH))]
    same_slide = (slides_of_batches[:, :, None] == slides_of_batches[:, None]).sum(axis=(1, 2)) - BATCH
    shares = np.bincount(slides) / len(slides)
    share_of_pairs = float(same_slide.mean() / BATCH / (BATCH - 1))
    print(json.dumps({"seconds": seconds, "same_slide_ratio": share_of_pairs / float(np.square(shares).sum())}))


class Memory:
    """The memory of one child process, which can be limited."""

    def __init__(self) -> None:
        """Create a cgroup where this process may."""
        self._group = self._limit_file = None
        for parent, name in zip(CGROUPS, ("memory.max", "memory.limit_in_bytes"), strict=True):
            if not (parent / "cgroup.procs").exists() or not os.access(parent, os.W_OK):
                continue
            group = parent / f"histocae-{uuid.uuid4().hex[:8]}"
            group.mkdir()
            if (group / name).exists():
                self._group, self._limit_file = group, group / name
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

    def limit(self, size: int) -> None:
        """Limit the memory to some bytes."""
        if self._limit_file is not None:
            self._limit_file.write_text(str(size))

    def end(self) -> None:
        """Remove the cgroup, whose process has ended."""
        if self._group is not None:
            self._group.rmdir()


def train(folder: Path, larger: bool, results: dict) -> float:
    """Train in a child process, on a cohort larger than memory or not; return the seconds of its steps."""
    ready, memory = folder / "ready", Memory()
    ready.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(ready)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=memory.enter,
    )
    while not ready.exists() or not (peak_bytes := ready.read_text(encoding="utf-8")):
        if process.poll() is not None:
            sys.exit("the child process ended before its steps began")
        time.sleep(0.1)
    for shard in (folder / "shards").iterdir():
        with open(shard, "rb") as handle:
            if larger:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                handle.read()
    if larger:
        memory.limit(int(peak_bytes) + SPARE)
    out, _ = process.communicate("go\n")
    memory.end()
    if process.returncode:
        sys.exit("the child process failed")
    results |= json.loads(out) | {"limited": memory.limited}
    return results["seconds"]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        root = Path(folder)
        patches_by_slide = cohort.draw(root, 4)
        size = sum(patches.nbytes for patches in patches_by_slide)
        cohort.store(root / "small", patches_by_slide)
        cohort.store(root / "large", patches_by_slide, -(-TIMES * SPARE // size))
        os.sync()
        results: dict[str, dict] = {"fits": {}, "larger": {}}
        medians = in_turn(
            {
                "a cohort that fits": lambda: train(root / "small", False, results["fits"]),
                "a cohort larger than memory": lambda: train(root / "large", True, results["larger"]),
            },
            3,
            STEPS * BATCH,
            "patches",
            warm=0,
        )
        on_larger = results["larger"]
        method = "in a cgroup" if on_larger["limited"] else "dropped from the page cache"
        record(
            "larger_than_memory",
            medians["a cohort that fits"] / medians["a cohort larger than memory"],
            0.8,
            "higher",
            f"{STEPS} steps at batch {BATCH} on a cohort {TIMES} times as large as the memory left for it "
            f"({method}), against one that fits; the shuffle puts two patches of one slide into a batch "
            f"{on_larger['same_slide_ratio']:.3f} times as often as chance does "
            f"({results['fits']['same_slide_ratio']:.3f} where the cohort fits)",
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(Path(sys.argv[1]))
    else:
        main()
