"""The checks of the preference track's lessons: typical mistakes get the hint that fits them, right answers pass."""
import re

import numpy as np
import pytest
from refusals import not_yet

from rlgen.exercises.prompts import (
    check_answer_likelihood,
    check_effective_tokens,
    check_find_probability,
    check_kl_estimate,
    check_masked_softmax,
    check_mean_cosine,
    check_text_states,
    check_way_share,
    check_whole_phrase,
)

def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def stable(logits):
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


def sigma(x):
    return 1 / (1 + np.exp(-x))


def likelihood(a, b, v):
    return float((v * np.log(sigma(a - b)) + (1 - v) * np.log(sigma(b - a))).sum())


def entropy(p, log=np.log):
    return float(-(p[p > 0] * log(p[p > 0])).sum())


def k3(d):
    return np.exp(d) - d - 1


MISTAKES = [
    (check_whole_phrase, lambda text, phrase: phrase in text.lower(), '4k is not in 24k'),
    (check_whole_phrase, lambda text, phrase: phrase in text, 'Case does not matter, and'),
    (check_whole_phrase, lambda text, phrase: bool(re.search(rf'(?<![\w-]){phrase}(?![\w-])', text)), 'small letters'),
    (check_whole_phrase, lambda text, phrase: f' {phrase} ' in f' {text.lower()} ', 'Look at commas'),
    (check_whole_phrase, lambda text, phrase: bool(re.search(rf'\b{phrase}\b', text.lower())), 'Look at hyphens'),
    (check_mean_cosine, lambda image, targets: float((targets @ image).mean()), 'inner product'),
    (check_mean_cosine, lambda image, targets: float((targets @ unit(image)).mean()), 'lengths of the targets'),
    (check_mean_cosine, lambda image, targets: float(unit(image) @ unit(targets.mean(0))), 'mean of the targets'),
    (check_mean_cosine, lambda image, targets: float((unit(targets) @ unit(image)).max()), 'best of them'),
    (check_mean_cosine, lambda image, targets: unit(targets) @ unit(image), 'a number'),
    (check_text_states, lambda tokens, length: tokens ** length, 'half written'),
    (check_text_states, lambda tokens, length: sum(tokens ** t for t in range(1, length + 1)), 'empty text'),
    (check_text_states, lambda tokens, length: sum(tokens ** t for t in range(length)), 'terminal states'),
    (check_text_states, lambda tokens, length: 1 + tokens * length, 'do not add'),
    (check_masked_softmax, lambda logits, allowed: stable(logits) * allowed, 'add up to 1'),
    (check_masked_softmax, lambda logits, allowed: np.exp(logits) / np.exp(logits).sum() * allowed, 'add up to 1'),
    (check_masked_softmax, lambda logits, allowed: stable(np.where(allowed, logits, 0.)), 'not 0'),
    (check_masked_softmax, lambda logits, allowed: stable(logits), 'has the probability 0'),
    (check_masked_softmax, lambda logits, allowed: np.exp(logits) * allowed / (np.exp(logits) * allowed).sum(),
     'large logits'),
    (check_find_probability, lambda good, texts, tries: tries * good / texts, 'do not add up'),
    (check_find_probability, lambda good, texts, tries: min(1., tries * good / texts), 'not even capped'),
    (check_find_probability, lambda good, texts, tries: (1 - good / texts) ** tries, 'missing every time'),
    (check_find_probability, lambda good, texts, tries: (good / texts) ** tries, 'every try is good'),
    (check_way_share, lambda learned, seed, truth: learned.mean() / truth.mean(), 'begins at the seed prompt'),
    (check_way_share, lambda learned, seed, truth: ((learned - seed) / (truth - seed)).mean(), 'single pairs'),
    (check_way_share, lambda learned, seed, truth: learned.mean() - seed.mean(), 'This is the gain'),
    (check_answer_likelihood, lambda a, b, v: -likelihood(a, b, v), 'This is the loss'),
    (check_answer_likelihood, lambda a, b, v: likelihood(b, a, v), 'Look at the order'),
    (check_answer_likelihood, lambda a, b, v: float((v * np.log(sigma(a - b))).sum()), 'answers 0:'),
    (check_answer_likelihood, lambda a, b, v: likelihood(a, b, v) / len(v), 'their mean'),
    (check_answer_likelihood, lambda a, b, v: likelihood(a, b, (v >= .5) * 1.), 'answers 0.5'),
    (check_effective_tokens, entropy, 'Take its exponential'),
    (check_effective_tokens, lambda p: np.exp(entropy(p, np.log2)), 'bits'),
    (check_effective_tokens, lambda p: np.exp(-entropy(p)), 'Look at the sign'),
    (check_effective_tokens, lambda p: int((p > 0).sum()), 'counts by its probability'),
    (check_effective_tokens, lambda p: 1 / (p ** 2).sum(), 'sum of squares'),
    (check_kl_estimate, lambda logp, reference: logp - reference, 'This is k1, the log-ratio'),
    (check_kl_estimate, lambda logp, reference: reference - logp, 'wrong sign'),
    (check_kl_estimate, lambda logp, reference: (logp - reference) ** 2 / 2, 'This is k2'),
    (check_kl_estimate, lambda logp, reference: k3(logp - reference), 'Look at the direction'),
    (check_kl_estimate, lambda logp, reference: k3(reference - logp) + 1, 'The -1 is missing'),
    (check_kl_estimate, lambda logp, reference: np.exp(reference - logp) - 1, 'the ratio minus 1'),
    (check_kl_estimate, lambda logp, reference: np.exp(logp) * k3(reference - logp), 'sampled from the policy'),
    (check_kl_estimate, lambda logp, reference: k3(reference - logp).mean(), 'an estimate for each token'),
]


@pytest.mark.parametrize('check, answer, hint', MISTAKES)
def test_the_mistake_is_named(check, answer, hint, capsys):
    with np.errstate(all='ignore'):
        not_yet(check, answer, hint, capsys)


@pytest.mark.parametrize('check, answer', [
    (check_mean_cosine, lambda image, targets: float((unit(targets) @ unit(image)).mean())),
    (check_answer_likelihood, likelihood),
    (check_effective_tokens, lambda p: np.exp(entropy(p))),
    (check_kl_estimate, lambda logp, reference: k3(reference - logp)),
    (check_text_states, lambda tokens, length: (tokens ** (length + 1) - 1) // (tokens - 1)),
])
def test_another_form_of_the_right_answer_passes(check, answer, capsys):
    assert check(answer)
    assert capsys.readouterr().out.startswith('Right: ')
