"""Writes a page for each environment, nbs/reference/env-*.md, and its strip of images, nbs/site/env-*.png.

    python tools/environments.py    makes each environment with the shipped models; half a minute

The pages have Gymnasium's form. Spaces, arguments, versions, what `info` holds and what `reset` and `step` say are
taken from the environments themselves; only the sentences in `TEXTS` are written here. tests/test_environments.py makes
the pages again and compares.
"""
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from fastcore.docments import docments
from PIL import Image

import rlgen.envs  # noqa: F401  (registers the environments)

ROOT = Path(__file__).resolve().parents[1]

TEXTS = {  # by class: description, rewards, end of an episode
    'SemanticGrid': (
        'The agent has one image, the goal, and looks for a prompt that generates images like it. A grammar makes a '
        'grid of prompts; an action changes one label. The image of a prompt is generated when the agent first comes '
        'to it, and the agent sees the encoding of its prompt and a number. How many different images were asked for, '
        '`unique_generator_calls`, is the cost of the search.',
        'By default the shaped multi-semantic reward. The value $v$ of an image: 1 for each label other than the scene '
        'that perception reads alike in the image and in the goal; 1 for the same scene, -1 for another. With $v^*$, '
        'the value of the goal image, a step gives $0.9\\,(v_t - v^*) - (v_{t-1} - v^*) - 0.3$, and the step to the '
        'goal $-(v_{t-1} - v^*) - 0.3 + 1$. `reward` takes any other. No reward uses the distance to the goal.',
        'Terminated when the encoding is what perception reads in the goal image, unless `stop_at_goal` is false. '
        'Truncated after `max_steps`.'),
    'SemanticChoice': (
        'The same images as in [SemanticGrid](env-semantic-grid.md), and no steps between neighbours: an action names '
        'all labels at once. That is a bandit with one arm for each prompt, for agents that take no steps.',
        'The value of the new image: by default the multi-semantic reward, 1 for each label other than the scene that '
        'perception reads alike in the image and in the goal; 1 for the same scene, -1 for another. A shaped reward is '
        'refused, because it is for steps between neighbours.',
        'Terminated when the encoding is what perception reads in the goal image, unless `stop_at_goal` is false. '
        'Truncated after `max_steps`.'),
    'PromptTokens': (
        'A user has a seed prompt and images that they like. An action writes one more word behind the prompt; which '
        'words bring the generator closer to those images?',
        '0 at every step but the last. There it is the reward of the whole text: by default the mean cosine between '
        'the embedding of its image and those of the target images, -1 to 1.',
        'Terminated after `length` words. Never truncated.'),
    'Latent': (
        'Prompt and generator stay as they are; what moves is the noise that one image begins with, or its finished '
        'latents. An action is a mixture of a few fixed directions; the step follows a great circle, so that noise '
        'stays as long as noise is. The image is generated anew after each step.',
        'What the image has gained by any reward of an image and its prompt: the value of the new image minus that of '
        'the one before. Over an episode they add up to what the last image has gained over the first. The default '
        "task has CLIP's probability of what the prompt says.",
        'Terminated after `max_steps`. Never truncated.'),
    'Schedule': (
        'A diffusion model makes one image, and the agent chooses how: each step names the next noise level, and '
        'whether it is guided. The step is DDIM without noise, which goes from any level to any lower one. A step '
        'without guidance takes one pass of the denoiser, a guided one two.',
        '$-$`cost` for each pass of the denoiser. The last step adds the quality of the image: by default the mean '
        'probability that perception gives to what the prompt says, 0 to 1; minus that of evenly spaced steps from the '
        'same noise if `relative` is true. `info` then holds the quality as `quality`.',
        'Terminated when no noise is left: when a step goes below the last candidate, or takes the last pass of the '
        'budget. Never truncated.'),
    'SupportSet': (
        'A classifier has few labelled images of each class. An action is a prompt, one domain and three classes; its '
        'images join the support set under the label of the first class, and the classifier is trained anew.',
        'The gain in accuracy on the validation set minus the change of the mean entropy of the answers, in nats, '
        'times `entropy`. Its sum over an episode is what the whole set has gained.',
        'Terminated when the set holds `n_images` images; the last step generates only what still fits. Never '
        'truncated.')}

MODES = {'render_mode': 'None, or one of the render modes'}  # what the source leaves unsaid


def file_name(name: str) -> str:
    "The name of an environment's files: env-semantic-grid."
    return 'env' + ''.join(f'-{letter.lower()}' if letter.isupper() else letter for letter in name)


def text(value: Any) -> str:
    "A text in one line, without what would end a cell of a table."
    return ' '.join(str(value).split()).replace('|', '\\|').replace('<', '\\<')


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    "A table of Markdown."
    return [f'| {" | ".join(row)} |' for row in [head, ['---'] * len(head), *rows]] + ['']


def few(words: list[str]) -> str:
    "The first labels of an axis, and how many there are."
    shown = ', '.join(words[:4])
    return text(shown if len(words) <= 4 else f'{shown}, ... ({len(words)})')


def actions(env: gym.Env) -> list[str]:
    "The table of actions."
    name = type(env).__name__
    if name == 'SemanticGrid':
        rows = [[str(2 * i + down), f'one label {("up", "down")[down]} on the axis {text(axis.name)}']
                for i, axis in enumerate(env.grammar.axes) for down in (0, 1)]
        return table(['action', 'effect'], rows) + ['At the ends of an axis a step leads nowhere.', '']
    if name == 'SemanticChoice':
        return labels(env)
    if name == 'PromptTokens':
        return table(['action', 'word'], [[str(i), text(word)] for i, word in enumerate(env.vocabulary)])
    if name == 'Schedule':
        levels, guidances = (', '.join(f'{x:g}' for x in row) for row in (env.task.levels[1:], env.task.guidances))
        return table(['element', 'range', 'meaning'], [
            ['0', f'0 to {env.action_space.nvec[0] - 1}',
             f'how many candidates further down, 0: the next one; {levels}; below the last one no noise is left'],
            ['1', f'0 to {env.action_space.nvec[1] - 1}', f'guidance: {guidances}; 1 where one pass is left']])
    if name == 'Latent':
        last = env.action_space.shape[0] - 1
        return table(['element', 'range', 'meaning'],
                     [[f'0 to {last}', '-1 to 1', 'coefficient of each direction; all at 1: the longest step']])
    sizes = env.action_space.nvec
    rows = [[str(i), f'0 to {size - 1}', meaning] for i, (size, meaning) in enumerate(zip(sizes, [
        f'domain: {few(list(env.task.domains))}', f'first class, the label: {few(list(env.task.classes))}',
        'second class', 'third class'], strict=True))]
    return table(['element', 'range', 'meaning'], rows)


def labels(env: gym.Env) -> list[str]:
    "The table of a grammar's axes."
    rows = [[str(i), text(axis.name), few(list(axis.labels))] for i, axis in enumerate(env.grammar.axes)]
    return table(['element', 'axis', 'labels'], rows)


def observations(env: gym.Env) -> list[str]:
    "The table of what is observed."
    name = type(env).__name__
    if name.startswith('Semantic'):
        return ['The encoding of the prompt: a label index for each axis.', '', *labels(env)]
    if name == 'PromptTokens':
        rows = [['0', f'0 to {len(env.task.pairs) - 1}', 'the pair of seed prompt and target images'],
                [f'1 to {env.length}', f'0 to {len(env.vocabulary)}',
                 'what stands in each place: 1 + action; 0: nothing yet']]
    elif name == 'Schedule':
        rows = [['0', '0 to 1', 'noise level, as a share of the highest one'],
                ['1', '0 to 1', 'passes left, as a share of the budget'],
                ['2', '0 to 4', 'standard deviation of the last estimate of the clean latents'],
                ['3', '0 to 4', 'how much the last pass changed this estimate, root of the mean square']]
    elif name == 'Latent':
        k, n = env.action_space.shape[0], len(env.task.prompts)
        rows = [[f'0 to {k - 1}', 'any', 'the noise, or the latents, along each direction'],
                [str(k), 'any', 'what the image has gained since the start'],
                [str(k + 1), '0 to 1', 'share of the steps that are left'],
                [f'{k + 2} to {k + 1 + n}', '0 or 1', 'which prompt it is']]
    else:
        last = env.observation_space.shape[0] - 1
        rows = [['0', '0 to 1', 'accuracy on the validation set'],
                ['1', '0 to 1', 'mean entropy of the answers, as a share of its maximum'],
                ['2', '0 to 1', 'how full the set is'], [f'3 to {last}', '0 to 1', 'accuracy of each class']]
    return table(['element', 'range', 'meaning'], rows)


def arguments(kind: type) -> list[str]:
    "The table of arguments, with the comments of the source; those that go to the parent class are its own."
    rows = {}
    for parent in kind.__mro__:
        found = docments(parent.__init__, full=True, returns=False)
        for name, entry in found.items():
            if name not in ('self', 'settings', 'kwargs'):
                rows.setdefault(name, [f'`{name}`', f'`{entry.default!r}`', text(entry.docment or MODES.get(name, ''))])
        if 'settings' not in found:
            break
    return table(['argument', 'default', 'meaning'], list(rows.values()))


def episode(env: gym.Env) -> Iterator[tuple[Image.Image, str]]:
    "Images of an episode with captions: towards the goal where there is one, else at random."
    name, options = type(env).__name__, None
    if name == 'SemanticGrid':  # five steps from the goal
        goal, nvec = env.state_values.encoding, env.observation_space.nvec
        ahead = np.where(nvec == nvec.max(), 2, 1)
        options = {'state': np.where(goal < ahead, goal + ahead, goal - ahead)}
    observation, info = env.reset(seed=3, options=options)
    env.action_space.seed(3)
    if name in ('SemanticGrid', 'PromptTokens', 'Schedule', 'Latent'):
        yield Image.fromarray(env.render()), f'start: {info["prompt"]}'
    for step in range(10):
        action = env.action_space.sample()
        if name == 'SemanticGrid':
            ahead = env.state_values.encoding - observation
            axis = int(np.flatnonzero(ahead)[-1])
            action = 2 * axis + int(ahead[axis] < 0)
        observation, reward, terminated, truncated, info = env.step(action)
        if name == 'SupportSet':
            for image in env.additions[-1].images[:5]:
                yield Image.fromarray(image), info['prompt']
            return
        yield Image.fromarray(env.render()), f'reward {reward:.2f}: {info["prompt"].removeprefix("a photo of ")}'
        if terminated or truncated or step == 4:
            return


def figure(env: gym.Env) -> tuple[Any, tuple[str, str]]:
    "The strip of images of an episode, its caption, and what it shows, in words."
    from rlgen.plots import strip
    images, captions = zip(*episode(env), strict=True)
    if type(env).__name__ == 'SupportSet':
        return strip(list(images), [f'image {i + 1}' for i in range(len(images))], columns=3), \
            ('The first images of one step.', f'Images by the prompt: {captions[0]}.')
    return strip(list(images), list(captions), columns=3), \
        ('The images of one episode.', f'Images with captions: {"; ".join(captions)}.')


def page(
    spec: Any,                # Gymnasium's entry
    env: gym.Env,             # made from it, unwrapped
    lesson: tuple[str, str],  # address and title of the lesson that defines it
    strip: tuple[str, str],   # its caption, and what it shows
) -> str:
    "The page of an environment."
    kind, (about, rewards, end) = type(env), TEXTS[type(env).__name__]
    name, modes = kind.__name__, ', '.join(f'`{mode}`' for mode in env.metadata['render_modes'])
    _, info = env.reset(seed=0)
    info |= env.step(env.action_space.sample())[4]
    paragraphs = {method: text((getattr(kind, method).__doc__ or '').split('\n\n')[0].split(' ValueError')[0])
                  for method in ('reset', 'step')}
    lines = ['---', f'title: {json.dumps(name + " (environment)")}',
             f'description: {json.dumps(text((kind.__doc__ or "").split(chr(10) * 2)[0]))}', '---', '',
             f'![{strip[0]}](../site/{file_name(name)}.png){{fig-alt={json.dumps(text(strip[1]))}}}', '']
    lines += table(['', ''], [
        ['id', f'`{spec.id}`'],
        ['make', f'`gymnasium.make("rlgen.envs:{spec.id}")`'],
        ['action space', f'`{text(env.action_space)}`'], ['observation space', f'`{text(env.observation_space)}`'],
        ['vectorized', f'`{spec.vector_entry_point}`' if spec.vector_entry_point else 'by Gymnasium, one by one'],
        ['render modes', f'{modes}, {env.metadata["render_fps"]} a second'],
        ['defined in', f'[{lesson[1]}](../{lesson[0]}#{name.lower()}), `{spec.entry_point}`']])
    lines += ['The spaces are those of the default, with the shipped models.', '']
    seen, acts = text(env.observation_space), text(env.action_space)
    lines += ['## Description', '', about, '', '## Action space', '', f'`{acts}`. {paragraphs["step"]}', '',
              *actions(env), '## Observation space', '', f'`{seen}`.', '', *observations(env),
              '## Rewards', '', rewards, '', '## Starting state', '', paragraphs['reset'], '',
              '## End of an episode', '', end, '', '## Arguments', '', *arguments(kind)]
    lines += ['## Information', '', '`info` holds ' + ', '.join(f'`{key}`' for key in info) + '.', '',
              '## Version history', '', f'- v{spec.version}: the first version.']
    return '\n'.join(lines) + '\n'


def pages() -> dict[str, tuple[str, Any]]:  # text and figure, by the name of the file without its ending
    "All pages."
    tool, found = runpy.run_path(str(ROOT/'tools'/'reference.py')), {}
    lessons = tool['lessons'](ROOT/'nbs')
    for spec in sorted((spec for spec in gym.registry.values() if spec.namespace == 'rlgen'), key=lambda spec: spec.id):
        env = gym.make(spec.id, render_mode='rgb_array').unwrapped
        shown, words = figure(env)
        module = spec.entry_point.split(':')[0].removeprefix('rlgen.')
        found[file_name(spec.name)] = page(spec, env, lessons[module], words), shown
    return found


def main():
    "Writes pages and figures."
    for name, (words, shown) in pages().items():
        (ROOT/'nbs'/'reference'/f'{name}.md').write_text(words, encoding='utf-8', newline='\n')
        shown.savefig(ROOT/'nbs'/'site'/f'{name}.png', dpi=110, bbox_inches='tight', metadata={'Software': None})


if __name__ == '__main__':
    main()
