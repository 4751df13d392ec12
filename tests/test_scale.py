"Plans and the simulation: the arithmetic, what the audit finds, and the real Ray code with processes that are killed."
import math
import shutil
import sys

import pytest
from refusals import refused

from rlgen.clone.engines import make
from rlgen.clone.forecast import Blank, Forecast, audit, simulate
from rlgen.clone.manifest import Manifest, write_manifest
from rlgen.clone.plan import Plan, class_names
from rlgen.clone.shards import encoded, generate_batches, read_clone

# Plans

def test_hours_and_costs_are_what_the_parts_add_up_to():
    plan = Forecast(7_200_000, speed=10., size=50_000., workers=4, price=2.)
    assert plan.lost == plan.deaths == 0 and plan.hours == 50
    rows = plan.rows()
    assert (
        (rows["hours"], rows["worker-hours"], rows["cost"], rows["images take"], rows["shards"])
        == ("50.0", "200", "400", "360.0 GB", "7,032")
    )

def test_deaths_cost_half_a_shard_and_the_loading():
    plan = Forecast(1_000_000, speed=8., size=1., mtbf=2., loading=60., shard=1024)
    assert plan.lost == pytest.approx((64 + 60) / 7200)
    assert (
        plan.hours == pytest.approx(1_000_000 / 8 / 3600 / (1 - plan.lost))
        and plan.deaths == pytest.approx(plan.hours / 2)
    )
    smaller = Forecast(1_000_000, speed=8., size=1., mtbf=2., loading=60., shard=64)
    assert smaller.lost < plan.lost and smaller.hours < plan.hours

def test_the_forecast_of_losses_is_what_chance_brings():
    """Workers that die by chance, one after another, drawing shard after shard:
    the time they take in all, against the formula.
    """
    import random
    plan, r = Forecast(200_000, speed=10., size=1., mtbf=.5, loading=30., shard=512), random.Random(0)
    seconds = 0.
    for _ in range(20):
        shards = math.ceil(plan.n_images / plan.shard)
        while shards:
            life = r.expovariate(1 / (3600 * plan.mtbf))
            done = min(shards, int(max(0, life - plan.loading) // (plan.shard / plan.speed)))
            seconds += life if done < shards else plan.loading + shards * plan.shard / plan.speed
            shards -= done
    assert seconds / 20 / 3600 == pytest.approx(plan.hours, rel=.05)

@pytest.mark.parametrize(
    "bad, words",
    [
        ({"n_images": 0}, ["n_images is 0"]),
        ({"speed": 0}, ["speed is 0"]),
        ({"size": -1}, ["size is -1"]),
        ({"mtbf": 0}, ["mtbf is 0"]),
        ({"workers": 0}, ["workers"]),
        ({"speed": .01, "mtbf": 1.}, ["smaller shard"]),
    ],
)
def test_a_plan_that_cannot_be_is_refused(bad, words):
    refused(lambda: Forecast(**{"n_images": 10, "speed": 1., "size": 1.} | bad), *words)


# What the audit finds

@pytest.fixture
def folder(tmp_path):
    manifest = write_manifest(
        tmp_path / "manifest.parquet", Plan({"train": 1}, class_names("imagenet")), Blank(), {"name": "blank"}, 64
    )
    make(manifest, tmp_path / "clone", Blank(), shard=256)
    return tmp_path

def faults(folder):
    return {name: n for name, n in audit(folder).items() if n and name not in ("there", "shards", "bytes")}

def test_a_whole_clone_passes(folder):
    found = audit(folder)
    assert faults(folder) == {} and (found["there"], found["shards"]) == (1000, 4) and found["bytes"] > 1000 * 48

def test_each_fault_is_found(folder):
    first, second, *_ = files = sorted((folder / "clone" / "data").glob("*.parquet"))
    kept = first.read_bytes()
    first.unlink()
    assert faults(folder) == {"missing": 256}
    first.write_bytes(kept)
    shutil.copy(second, second.with_name("train-again.parquet"))
    assert faults(folder) == {"twice": 256}
    second.with_name("train-again.parquet").unlink()
    first.write_bytes(kept[:-100])
    assert faults(folder) == {"missing": 256, "damaged shards": 1}
    first.write_bytes(kept)
    assert faults(folder) == {} and len(files) == 4

def test_a_picture_of_another_row_is_found(folder):
    "The shard is intact and its rows are right, but two images have changed places."
    manifest, output = read_clone(folder / "clone")
    name, table = next(manifest.shards(256))
    pictures = [picture for _, part in generate_batches(Blank(), table, 64) for picture in part]
    pictures[3], pictures[200] = pictures[200], pictures[3]
    output.write(name, [encoded(table, pictures, "png")])
    assert faults(folder) == {"wrong images": 2}

def test_blank_pictures_differ_and_repeat():
    a, b, c, d = (p.tobytes() for p in Blank().generate(["x", "x", "y", "x"], [1, 2, 1, 1]))
    assert len({a, b, c}) == 3 and a == d and len(a) == 48

def test_bad_input(tmp_path, monkeypatch):
    refused(lambda: audit(tmp_path), "holds no clone", kind=FileNotFoundError)
    refused(lambda: simulate(tmp_path, 1500), "multiple of 1,000")
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(lambda: simulate(tmp_path / "out", 1000), "rlgen[ray]", kind=ImportError)
    assert not (tmp_path / "out").exists()


# With Ray

def test_a_director_that_stops_by_itself_is_quoted(folder):
    pytest.importorskip("ray")
    refused(
        lambda: simulate(folder, 1000, batch=64, shard=512),
        "exit status 1",
        "ray.log ends with: ValueError",
        "shard (256 there, 512 here)",
        kind=OSError,
    )

def test_nothing_is_lost_though_workers_and_the_director_die(tmp_path):
    pytest.importorskip("ray")
    seen = simulate(tmp_path, 4000, workers=2, mean_time_between_failures=2., director=.3, shard=512, batch=64)
    assert seen["directors killed"] == 1 and seen["rows"] == 4000
    assert (
        faults(tmp_path) == {}
        and audit(tmp_path)["there"] == 4000
        and Manifest(tmp_path / "manifest.parquet").rows == 4000
    )
