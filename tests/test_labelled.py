"Labelled images: scenes, stratified parts, long tails."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from standins import toy

from rlgen.data.labelled import (
    Labelled,
    degrade,
    labelled_scenes,
    long_tail,
    small,
    stratified,
)
from rlgen.scenes import NOUNS, render_array

def numbers(data):
    return [int(p[0, 0, 0]) * 256 + int(p[0, 0, 1]) for p in data.images]


# One form for all

def test_labelled():
    data = toy([3, 0, 2])
    assert len(data) == 5 and data.counts.tolist() == [3, 0, 2] and "5 images of 4 x 4, 3 classes" in repr(data)
    assert numbers(data[[4, 0]]) == [4, 0] and data[data.labels == 2].counts.tolist() == [0, 0, 2]
    assert numbers(data[:2] + data[4:]) == [0, 1, 4]
    with pytest.raises(ValueError, match="do not go together"):
        data + toy([1, 1])
    with pytest.raises(ValueError, match="do not go together"):
        data + toy([3, 0, 2], size=5)
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\], not float64"):
        Labelled(np.zeros((1, 4, 4, 3)), [0], ("a",))
    with pytest.raises(ValueError, match="one label for each"):
        Labelled(np.zeros((2, 4, 4, 3), np.uint8), [0], ("a",))
    with pytest.raises(ValueError, match="run from 1 to 1, but there are 1"):
        Labelled(np.zeros((1, 4, 4, 3), np.uint8), [1], ("a",))


# Scenes

def test_scenes_show_their_class():
    from rlgen.models.evaluators import load_evaluator, seen
    data = labelled_scenes(4, seed=3, strength=0)
    assert data.counts.tolist() == [4] * 20 and data.classes == tuple(NOUNS) and data.images.shape == (80, 64, 64, 3)
    assert (
        np.mean([
            NOUNS[k] in facts
            for k, facts in zip(data.labels, seen(map(Image.fromarray, data.images), load_evaluator()), strict=True)
        ])
        > .95
    )


def test_scenes_come_from_their_seed():
    assert (labelled_scenes(2, seed=5).images == labelled_scenes(2, seed=5).images).all()
    assert (labelled_scenes(2, seed=5).images != labelled_scenes(2, seed=6).images).any((1, 2, 3)).all()
    few = labelled_scenes(1, classes=("dog", "cat"))
    assert few.classes == ("dog", "cat") and few.labels.tolist() == [0, 1]


def test_snapshots_get_worse():
    drawing = render_array("a photo of one dog and no people in farm", 0)
    same = [degrade(drawing, np.random.default_rng(i), 0) for i in range(6)]
    assert all((p == drawing).all() or (p == drawing[:, ::-1]).all() for p in same)
    def far(strength):
        return np.mean([
            np.abs(degrade(drawing, np.random.default_rng(i), strength).astype(float) - drawing).mean()
            for i in range(60)
        ])
    assert far(0) < far(.3) < far(.6) < far(1)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: labelled_scenes(0), ("per_class is 0", "1 image or more")),
        (lambda: labelled_scenes(1, strength=1.5), ("1.5", "0 to 1")),
        (lambda: labelled_scenes(1, classes=("dog", "unicorn")), ("no scenes of 'unicorn'", "dog")),
        (lambda: long_tail(1, 10, 2), ("2 classes or more",)),
        (lambda: long_tail(5, 10, 11), ("ratio",)),
        (lambda: small(toy([3, 3]), 4), ("4 images of 'class 0'", "there are 3")),
        (lambda: small(toy([3, 3]), -1), ("0 to 3",)),
        (lambda: stratified(toy([9, 2])), ("'class 1' has 2 images", "one of 3 parts would be empty")),
        (lambda: stratified(toy([9, 9]), (.9, 0)), ("above 0",)),
        (lambda: stratified(toy([9, 0])), ("'class 1' has 0",)),
    ],
)
def test_bad_numbers(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


# Parts

@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(3, 40), min_size=2, max_size=5),
    st.lists(st.floats(.05, 5), min_size=1, max_size=3),
    st.integers(0, 9),
)
def test_parts_are_disjoint_whole_and_stratified(counts, shares, seed):
    data = toy(counts)
    parts = stratified(data, shares, seed)
    assert sorted(sum(map(numbers, parts), [])) == list(range(len(data)))
    shares = np.array(shares) / sum(shares)
    for part, share in zip(parts, shares, strict=True):
        assert (part.images[:, 0, 0, 2] == part.labels).all() and (part.counts >= 1).all()
        assert all(abs(n - share * total) < 3 for n, total in zip(part.counts, counts, strict=True))
    again = stratified(data, shares * 7, seed)
    assert [numbers(p) for p in parts] == [numbers(p) for p in again]


def test_usual_parts():
    data = toy([100, 50])
    assert [p.counts.tolist() for p in stratified(data)] == [[80, 40], [10, 5], [10, 5]]
    assert numbers(stratified(data, seed=1)[2]) != numbers(stratified(data, seed=2)[2])


def test_small_and_long_tail():
    data = toy([30] * 5)
    assert (
        small(data, 4).counts.tolist() == [4] * 5
        and numbers(small(data, 4, seed=1)) == numbers(small(data, 4, seed=1)) != numbers(small(data, 4, seed=2))
    )
    sizes = long_tail(5, 30, 10, seed=3)
    assert sorted(sizes)[::-1] == [30, 17, 9, 5, 3] and long_tail(5, 30, 1).tolist() == [30] * 5  # 30 x 10^(-k/4)
    assert (small(data, sizes).counts == sizes).all()
    assert {tuple(long_tail(5, 30, 10, seed=s)) for s in range(20)} > {tuple(sizes)}
