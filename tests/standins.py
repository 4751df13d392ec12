"""A world without networks: images that show their labels, and a perception whose last bits depend on its batch;
and files of images.
"""
import io

import numpy as np
from PIL import Image

from rlgen.data.labelled import Labelled
from rlgen.envs.grid import World
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept

GRAMMAR = """S -> P Noun I Scene
P -> "a photo of one" | "a photo of many"
Noun -> "dog" | "cat" | "car"
I -> "and no people in" | "and some people in"
Scene -> "farm" | "beach" | "forest" | "street"
"""

def draw(labels) -> Image.Image:
    "An image with a pixel for each label."
    return Image.fromarray(np.repeat(np.array(labels, np.uint8)[None, :, None], 3, 2))

def goal_image(labels=(1, 2, 1, 3)) -> Image.Image:
    return draw(labels)

class Drawing:
    "Generates the image of a prompt of `GRAMMAR` at once."
    settings = {"model": "drawing"}

    def __init__(self):
        self.grammar = Grammar.from_string(GRAMMAR)
        self.labels = {self.grammar.decode(state): state for state in self.grammar}

    def generate(self, prompts, seeds, negative=None):
        return [draw(self.labels[prompt]) for prompt in prompts]

class Seeing:
    "Reads what `draw` drew; embeddings differ in their last bits with the number of images, as those of a network do."
    def perceive(self, images, grammar):
        labels = np.array([np.asarray(image)[0, :, 0] for image in images], np.int64)
        numbers = 1 + labels @ [1, 3, 7, 11][:labels.shape[1]]
        vectors = np.cos(np.arange(1, 9)[None] * numbers[:, None]) + 1e-9 * len(images)
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
        sure = [np.eye(n)[column] for n, column in zip(grammar.nvec, labels.T, strict=True)]
        return Percept(labels, sure, vectors)

def world_of(generator) -> World:
    "A new world, which has perceived nothing yet."
    return World(Grammar.from_string(GRAMMAR), generator, Seeing())

def content(image, format="PNG", **options) -> bytes:
    "What a file of an image holds."
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()

def toy(counts, size=4, seed=0):
    "Pictures that are all different: their number is in the first pixel."
    labels = np.repeat(np.arange(len(counts)), counts)
    pictures = np.random.default_rng(seed).integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8)
    pictures[:, 0, 0] = np.stack([np.arange(len(labels)) // 256, np.arange(len(labels)) % 256, labels], 1)
    return Labelled(pictures, labels, tuple(f"class {k}" for k in range(len(counts))))
