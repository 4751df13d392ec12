"""Ctrl-C at any instant: a timer interrupts over and over; the process lives on, as a notebook's kernel does."""
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from standins import GRAMMAR, Drawing, draw, goal_image, world_of
from test_clone import Fake, rows_of

from rlgen.clone.engines import make
from rlgen.clone.manifest import write_manifest
from rlgen.clone.plan import Plan
from rlgen.experiments.rldf import RLDFSettings, open_run, search_steps
from rlgen.files import claim
from rlgen.models.generator import Cached
from rlgen.store import Store

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer here"),
    # an interrupt at any instant also falls between `open` and its `with`, or into a finalizer, and Python reports that
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]

class Timer:
    """Calls something and interrupts it at random within `longest` seconds; keeps the tracebacks, as IPython does.

    `longest` follows the machine: it grows after an interrupt and shrinks after a call that ended, so that about two
    calls in three are interrupted, however the load changes."""
    def __init__(self, longest: float, seed: int = 0):
        self.longest, self.rng, self.kept = longest, np.random.default_rng(seed), []

    def __call__(self, call) -> bool:  # whether it ended
        try:
            signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(1e-6, self.longest))
            call()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt as error:
            self.kept.append(error)
            self.longest *= 1.1
            return False
        self.longest *= 0.8
        return True

@pytest.fixture(autouse=True)
def alarm():
    def stop(*_):
        raise KeyboardInterrupt
    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)

def duration(call) -> float:
    "How long a call takes here and now."
    start = time.perf_counter()
    call()
    return time.perf_counter() - start

def writable(path: Path) -> bool:
    "Whether another connection may write at once."
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        other.close()
    return True

def test_a_store_is_usable_after_any_interrupt(tmp_path):
    path, images = tmp_path / "store.sqlite", [draw([i % 2, i % 3, 0, 0]) for i in range(20)]
    store, put = Store(path), set()

    def work(name):
        keys = [f"{name}-{i}" for i in range(20)]
        store.put_many(keys, images, [{"seed": i} for i in range(20)])
        put.add(name)
        assert store.get_many(keys) == images and store.meta(keys[3]) == {"seed": 3}
        store.discard(keys[0])
        assert len(list(store)) == len(store)
        store.put(keys[0], images[0])

    timer = Timer(1.2 * max(duration(lambda: work(f"first {i}")) for i in range(3)))
    for name in range(300):
        timer(lambda name=name: work(name))
        assert writable(path), f"locked after {len(timer.kept)} interrupts"
    assert len(timer.kept) > 100
    store.put("after", images[0])
    with Store(path) as other:
        other.put("other", images[1])
        assert store.get("other") == images[1] and other.get("after") == images[0]
        assert all(other.get(f"{name}-1") == images[1] for name in put)
        for name in range(300):  # all of a batch or none; the first may have been discarded
            assert len({f"{name}-{i}" in other for i in range(1, 20)}) == 1

def test_a_new_store_is_usable_after_any_interrupt(tmp_path):
    def work(path):
        with Store(path) as store:
            store.put("key", draw([0, 0, 0, 0]))
    timer = Timer(1.2 * duration(lambda: work(tmp_path / "first.sqlite")))
    for i in range(60):
        timer(lambda i=i: work(tmp_path / f"{i}.sqlite"))
        assert writable(tmp_path / f"{i}.sqlite")
        work(tmp_path / f"{i}.sqlite")
    assert len(timer.kept) > 20

def test_a_clone_is_made_whatever_interrupts_it(tmp_path):
    plan = Plan({"train": 5, "val": 2}, tuple("abcd"))
    manifest = write_manifest(tmp_path / "manifest.parquet", plan, Fake(), batch=4)
    def work(folder, format):
        return make(manifest, tmp_path / folder / format, Fake(), format, shard=8)
    for format in ("parquet", "folder", "webdataset"):
        timer = Timer(duration(lambda format=format: work("whole", format)))
        for _ in range(25):
            timer(lambda format=format: work("out", format))
        assert timer.kept and work("out", format).complete
        out, whole = (rows_of(tmp_path / name / format, manifest, format) for name in ("out", "whole"))
        assert out == whole
        assert not list((tmp_path / "out").rglob("*.tmp"))
        claim(tmp_path / "out" / format).release()

def test_a_search_ends_alike_whatever_interrupts_it(tmp_path):
    settings, goal = RLDFSettings(GRAMMAR, "random", max_steps=40, episode=7, seed=1), goal_image((1, 2, 1, 3))
    def work(folder, store):
        with open_run(tmp_path / folder, goal, settings) as run:
            for trace in search_steps(world_of(Cached(Drawing(), store)), goal, settings, run=run):
                pass
            run.finish({"prompt": trace.prompt, "states": trace.states})
    store = Store(tmp_path / "whole.sqlite")
    timer = Timer(duration(lambda: work("whole", store)))
    store = Store(tmp_path / "pictures.sqlite")
    for _ in range(200):
        ended = timer(lambda: work("out", store))
        assert writable(tmp_path / "pictures.sqlite")
        if ended and timer.kept: break
        if ended:  # a first run loads modules, so it says little of how long the next one takes
            timer.longest /= 2
            shutil.rmtree(tmp_path / "out")
    work("out", store)
    assert timer.kept
    for name in ("log.jsonl", "result.json", "checkpoints/walk.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").rglob("*.tmp")) and isinstance(goal, Image.Image)
