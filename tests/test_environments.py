"The pages of the environments are what the environments say of themselves."
import re
import runpy

import gymnasium as gym
import pytest
from test_notebooks import NBS, ROOT

import rlgen.envs  # noqa: F401  (registers the environments)

SECTIONS = ['Description', 'Action space', 'Observation space', 'Rewards', 'Starting state', 'End of an episode',
            'Arguments', 'Information', 'Version history']


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT/'tools'/'environments.py'))


def without_strip(text: str) -> str:
    "A page without its figure's text, whose rewards are rounded differently on other machines."
    return re.sub(r'^!\[.*', '![]', text, flags=re.MULTILINE)


def test_pages_are_in_step_with_the_environments(tool):
    made = {name: without_strip(text) for name, (text, _) in tool['pages']().items()}
    stored = {path.stem: without_strip(path.read_text(encoding='utf-8'))
              for path in (NBS/'reference').glob('env-*.md')}
    assert stored == made, 'run tools/environments.py'


def test_each_environment_has_a_page_in_one_form(tool):
    names = [spec.name for spec in gym.registry.values() if spec.namespace == 'rlgen']
    assert len(names) == 6 and set(names) == set(tool['TEXTS'])
    for name in names:
        text = (NBS/'reference'/f'{tool["file_name"](name)}.md').read_text(encoding='utf-8')
        assert re.findall(r'^## (.*)$', text, re.MULTILINE) == SECTIONS
        assert (NBS/'site'/f'{tool["file_name"](name)}.png').stat().st_size < 200_000
        rows = text.split('## Arguments')[1].split('## Information')[0].strip().splitlines()[2:]
        assert rows and all(row.strip('| ').split(' | ')[-1] for row in rows)
        assert all(len(row.split(' | ')) == 3 for row in rows)


def test_arguments_of_a_child_include_those_of_its_parent(tool):
    class Parent:
        def __init__(self, a: int = 1,  # the parent's
                     b: int = 2):       # too
            pass

    class Child(Parent):
        def __init__(self, a: int = 3,  # its own
                     **settings):
            pass
    rows = tool['arguments'](Child)
    assert rows[2:4] == ['| `a` | `3` | its own |', '| `b` | `2` | too |']
