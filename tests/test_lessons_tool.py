"""tools/lessons.py on a small course: numbers, links, solutions, the navigation, and what it refuses."""
import json
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

TOOLS = Path(__file__).resolve().parents[1]/'tools'
tool = runpy.run_path(str(TOOLS/'lessons.py'))
main = tool['main']


def notebook(
    path: Path,        # where to write it
    *markdown: str,    # its Markdown cells
    module: str = '',  # the module that it defines
):
    "Writes a notebook as nbdev-clean leaves it."
    cells = [{'cell_type': 'code', 'execution_count': None, 'id': 'c0', 'metadata': {}, 'outputs': [],
              'source': [f'#| default_exp {module}']}] if module else []
    cells += [{'cell_type': 'markdown', 'id': f'm{i}', 'metadata': {}, 'source': text.splitlines(keepends=True)}
              for i, text in enumerate(markdown)]
    kernel = {'display_name': 'python3', 'language': 'python', 'name': 'python3'}
    content = {'cells': cells, 'metadata': {'kernelspec': kernel}, 'nbformat': 4, 'nbformat_minor': 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def text(path: Path) -> str:
    "The Markdown of a notebook."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown')


def tree(root: Path) -> list[str]:
    "The notebooks of the course."
    return sorted(path.relative_to(root/'nbs').as_posix() for path in (root/'nbs').rglob('*.ipynb'))


def one_line(message: str) -> str:
    "The message, which must be a sentence or two on one line."
    assert message.count('\n') == 1 and message.endswith('.\n'), message
    return message


def contents(root: Path) -> dict[str, bytes]:
    "Every file of the project, outside git's folder."
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob('*')
            if path.is_file() and '.git' not in path.parts}


@pytest.fixture
def course(tmp_path) -> Path:
    "A small project: two lessons and exercises in one track, two in another, three in the library."
    nbs = tmp_path/'nbs'
    notebook(nbs/'index.ipynb', '# Front',
             '- [Grammar](rldf/00_grammar.ipynb)\n- [Grid](rldf/01_grid.ipynb#the-cost)\n')
    notebook(nbs/'rldf'/'00_grammar.ipynb', '# Grammar',
             'On: [the grid](01_grid.ipynb), [store](../library/00_store.ipynb#keys).')
    notebook(nbs/'rldf'/'01_grid.ipynb', '# Grid', '## The cost',
             'Back: [grammar](00_grammar.ipynb "a title"), [here](#the-cost).\n\n![map](images/map.png)\n\n'
             '```\n[no link](00_grammar.ipynb)\n```\n`[none](00_grammar.ipynb)`\n')
    notebook(nbs/'rldf'/'02_exercises.ipynb', '# Exercises', '[Solutions](solutions/02_exercises.ipynb)')
    notebook(nbs/'rldf'/'solutions'/'02_exercises.ipynb', '# Solved',
             'Of [these](../02_exercises.ipynb); see [grid](../01_grid.ipynb#the-cost).')
    notebook(nbs/'support'/'00_labels.ipynb', '# Labels',
             '<a href="../rldf/01_grid.ipynb#the-cost">grid</a>, [r], [^1]\n\n'
             '[r]: ../rldf/00_grammar.ipynb\n[^1]: rldf is a track')
    notebook(nbs/'support'/'01_clones.ipynb', '# Clones')
    notebook(nbs/'library'/'00_store.ipynb', '# Store', module='store')
    notebook(nbs/'library'/'01_harness.ipynb', '# Harness', module='bench.harness')
    notebook(nbs/'library'/'02_speed.ipynb', '# Speed')
    (nbs/'rldf'/'images').mkdir()
    (nbs/'rldf'/'images'/'map.png').write_bytes(b'')
    (tmp_path/'CONTRIBUTING.md').write_text('See [the grid](nbs/rldf/01_grid.ipynb#the-cost).\n')
    (tmp_path/'settings.ini').write_text(
        '[DEFAULT]\nlib_name = rlgen\nversion = 1.2.3\nlicense = Apache-2.0 AND OFL-1.1\n')
    (nbs/'_quarto.yml').write_text(f'website:\n  search: true\n{tool["BEGIN"]}\n{tool["END"]}')
    (tmp_path/'rlgen').mkdir()
    (tmp_path/'rlgen'/'__init__.py').write_text('')
    (tmp_path/'rlgen'/'store.py').write_text('"Images by key."\n__all__ = ["Store"]\n\nclass Store:\n    "A store."\n')
    assert main([], tmp_path) == 0
    return tmp_path


def test_everything_is_written(course, capsys):
    settings = yaml.safe_load((course/'nbs'/'_quarto.yml').read_text(encoding="utf-8"))['website']
    assert settings['search'] is True
    assert settings['page-footer'] == {'left': 'rlgen 1.2.3', 'right': 'Licence: Apache-2.0 and OFL-1.1'}
    solutions = {'section': 'Solutions', 'contents': ['rldf/solutions/02_exercises.ipynb']}
    assert settings['sidebar']['contents'] == [
        'index.ipynb',
        {'section': 'The prompt behind an image (RLDF)', 'contents': [
            'rldf/00_grammar.ipynb', 'rldf/01_grid.ipynb', 'rldf/02_exercises.ipynb', solutions]},
        {'section': 'Support sets', 'contents': ['support/00_labels.ipynb', 'support/01_clones.ipynb']},
        {'section': 'Library', 'contents': [
            {'section': 'Files and store', 'contents': ['library/00_store.ipynb']},
            {'section': 'Speed', 'contents': ['library/01_harness.ipynb', 'library/02_speed.ipynb']}]},
        {'section': 'Reference', 'contents': ['reference/index.md', 'reference/rlgen.md']}]
    assert '[Grid](nbs/rldf/01_grid.ipynb#the-cost)' in (course/'README.md').read_text(encoding="utf-8")
    assert (
        '[`Store`](../library/00_store.ipynb#store) | A store.'
        in (course / 'nbs' / 'reference' / 'rlgen.md').read_text(encoding="utf-8")
    )


def test_a_second_time_changes_nothing(course, capsys):
    before = contents(course)
    capsys.readouterr()
    assert main([], course) == 0
    assert contents(course) == before and capsys.readouterr().out == ''


def test_gaps_are_closed_and_links_follow(course, capsys):
    (course/'nbs'/'rldf'/'00_grammar.ipynb').rename(course/'nbs'/'rldf'/'03_grammar.ipynb')
    capsys.readouterr()
    assert main([], course) == 0
    assert tree(course)[4:8] == ['rldf/00_grid.ipynb', 'rldf/01_exercises.ipynb', 'rldf/02_grammar.ipynb',
                                 'rldf/solutions/01_exercises.ipynb']
    assert text(course/'nbs'/'rldf'/'01_exercises.ipynb').endswith('[Solutions](solutions/01_exercises.ipynb)')
    out = capsys.readouterr().out
    assert 'nbs/rldf/01_grid.ipynb -> nbs/rldf/00_grid.ipynb\n' in out and 'Run nbdev-export' in out


def test_a_lesson_moves_within_its_track(course, capsys):
    assert main(['move', 'rldf/01_grid', 'rldf/00'], course) == 0
    nbs = course/'nbs'
    assert tree(course)[4:8] == ['rldf/00_grid.ipynb', 'rldf/01_grammar.ipynb', 'rldf/02_exercises.ipynb',
                                 'rldf/solutions/02_exercises.ipynb']
    assert text(nbs/'index.ipynb') == (
        '# Front\n- [Grammar](rldf/01_grammar.ipynb)\n- [Grid](rldf/00_grid.ipynb#the-cost)\n')
    assert '[the grid](00_grid.ipynb), [store](../library/00_store.ipynb#keys)' in text(nbs/'rldf'/'01_grammar.ipynb')
    assert text(nbs/'rldf'/'00_grid.ipynb').endswith(
        'Back: [grammar](01_grammar.ipynb "a title"), [here](#the-cost).\n\n![map](images/map.png)\n\n'
        '```\n[no link](01_grammar.ipynb)\n```\n`[none](01_grammar.ipynb)`\n')
    assert '[grid](../00_grid.ipynb#the-cost)' in text(nbs/'rldf'/'solutions'/'02_exercises.ipynb')
    assert text(nbs/'support'/'00_labels.ipynb').endswith(
        '<a href="../rldf/00_grid.ipynb#the-cost">grid</a>, [r], [^1]\n\n'
        '[r]: ../rldf/01_grammar.ipynb\n[^1]: rldf is a track')
    assert (course / 'CONTRIBUTING.md').read_text(
        encoding="utf-8"
    ) == 'See [the grid](nbs/rldf/00_grid.ipynb#the-cost).\n'
    assert '[Grid](nbs/rldf/00_grid.ipynb#the-cost)' in (course/'README.md').read_text(encoding="utf-8")
    before = contents(course)
    assert main([], course) == 0 and contents(course) == before


def test_a_lesson_moves_to_another_track_with_its_solution(course):
    assert main(['move', 'nbs/rldf/02_exercises.ipynb', 'support/01'], course) == 0
    nbs = course/'nbs'
    assert [name for name in tree(course) if not name.startswith('library')] == [
        'index.ipynb', 'rldf/00_grammar.ipynb', 'rldf/01_grid.ipynb', 'support/00_labels.ipynb',
        'support/01_exercises.ipynb', 'support/02_clones.ipynb', 'support/solutions/01_exercises.ipynb']
    assert text(nbs/'support'/'01_exercises.ipynb').endswith('[Solutions](solutions/01_exercises.ipynb)')
    assert text(nbs/'support'/'solutions'/'01_exercises.ipynb').endswith(
        'Of [these](../01_exercises.ipynb); see [grid](../../rldf/01_grid.ipynb#the-cost).')


def test_what_a_lesson_links_to_is_found_from_another_track(course):
    assert main(['move', 'rldf/01_grid', 'support/02'], course) == 0
    moved = text(course/'nbs'/'support'/'02_grid.ipynb')
    assert '![map](../rldf/images/map.png)' in moved
    assert '[grammar](../rldf/00_grammar.ipynb "a title"), [here](#the-cost)' in moved


def test_a_footnote_is_no_link(course):
    assert main(['move', 'support/00_labels', 'rldf/00'], course) == 0
    moved = text(course/'nbs'/'rldf'/'00_labels.ipynb')
    assert moved.endswith('<a href="02_grid.ipynb#the-cost">grid</a>, [r], [^1]\n\n'
                          '[r]: 01_grammar.ipynb\n[^1]: rldf is a track')


def test_a_new_lesson_takes_its_place(course, capsys):
    notebook(course/'nbs'/'rldf'/'scenes.ipynb', '# Scenes', '[grid](01_grid.ipynb)')
    assert main([], course) == 1
    assert 'move rldf/scenes rldf/NN' in one_line(capsys.readouterr().err)
    assert main(['move', 'rldf/scenes', 'rldf/01'], course) == 0
    assert tree(course)[4:9] == ['rldf/00_grammar.ipynb', 'rldf/01_scenes.ipynb', 'rldf/02_grid.ipynb',
                                 'rldf/03_exercises.ipynb', 'rldf/solutions/03_exercises.ipynb']
    assert text(course/'nbs'/'rldf'/'01_scenes.ipynb').endswith('[grid](02_grid.ipynb)')


def test_equal_numbers_are_put_in_order(course):
    "As after a merge of two branches that both added a lesson."
    notebook(course/'nbs'/'rldf'/'01_a_walk.ipynb', '# A walk')
    assert main([], course) == 0
    assert tree(course)[4:8] == ['rldf/00_grammar.ipynb', 'rldf/01_a_walk.ipynb', 'rldf/02_grid.ipynb',
                                 'rldf/03_exercises.ipynb']


NAMES = "PAGES = 'rldf/01_grid.ipynb', ROOT/'nbs'/'rldf'/'00_grammar.ipynb', 'nbs/library/01_harness', '101_grid'\n"
MENDED = "PAGES = 'rldf/00_grid.ipynb', ROOT/'nbs'/'rldf'/'01_grammar.ipynb', 'nbs/library/01_harness', '101_grid'\n"


@pytest.mark.parametrize('name', [
    'tests/test_grid.py', 'tools/measure.py', '.github/workflows/site.yml', 'rlgen/weights/sd/README.md',
    'CHANGELOG.md'])
def test_names_follow_in_what_is_no_link(course, capsys, name):
    (course/name).parent.mkdir(parents=True, exist_ok=True)
    (course/name).write_text(NAMES)
    assert main(['move', 'rldf/01_grid', 'rldf/00'], course) == 0
    out = capsys.readouterr().out
    assert (course/name).read_text() == MENDED and f'{name}: links and names' in out and 'still says' not in out


def test_names_follow_in_code_cells_and_in_code_of_markdown(course):
    path = course/'nbs'/'support'/'01_clones.ipynb'
    fence = f'```python\n{NAMES}```\nand `rldf/solutions/02_exercises`, [01_grid](../rldf/01_grid.ipynb)\n'
    notebook(path, '# Clones', fence, module='clones')
    contents = json.loads(path.read_text())
    contents['cells'][0]['source'] = [NAMES]
    path.write_text(json.dumps(contents))
    assert main(['move', 'rldf/01_grid', 'rldf/00'], course) == 0
    mended = fence.replace(NAMES, MENDED).replace('01_grid]', '00_grid]').replace('01_grid.', '00_grid.')
    assert text(path).endswith(mended)
    assert ''.join(json.loads(path.read_text())['cells'][0]['source']) == MENDED


def test_lessons_that_change_places_are_not_mixed_up(course):
    for name in ('rldf/03_first', 'rldf/04_second'):
        notebook(course/'nbs'/f'{name}.ipynb', '# Page')
    (course/'tests').mkdir()
    (course/'tests'/'test_pages.py').write_text("'03_first', '04_second', 'rldf/03_first', 'rldf/04_second'\n")
    assert main(['move', 'rldf/04_second', 'rldf/03'], course) == 0
    assert (course/'tests'/'test_pages.py').read_text() == (
        "'04_first', '03_second', 'rldf/04_first', 'rldf/03_second'\n")


def test_a_new_page_that_is_called_as_its_module_leaves_the_module_alone(course, capsys):
    path = course/'nbs'/'rldf'/'limits.ipynb'
    notebook(path, '# Limits', module='limits')
    contents = json.loads(path.read_text())
    contents['cells'].append({'cell_type': 'code', 'id': 'c', 'metadata': {}, 'outputs': [], 'execution_count': None,
                              'source': ['from rlgen.limits import limit  # nbs/rldf/limits.ipynb']})
    path.write_text(json.dumps(contents))
    assert main(['move', 'rldf/limits', 'rldf/00'], course) == 0
    cells = [''.join(cell['source']) for cell in json.loads((course/'nbs/rldf/00_limits.ipynb').read_text())['cells']]
    assert '#| default_exp limits' in cells
    assert cells[-1] == 'from rlgen.limits import limit  # nbs/rldf/00_limits.ipynb'
    assert 'still says' not in capsys.readouterr().out


def test_names_that_may_mean_two_lessons_are_reported(course, capsys):
    notebook(course/'nbs'/'support'/'02_exercises.ipynb', '# Page')
    (course/'tests').mkdir()
    (course/'tests'/'test_grid.py').write_text("NBS/'rldf'/'01_grid.ipynb', 'rldf/01_grid', 'rldf/02_exercises'\n")
    assert main(['move', 'rldf/01_grid', 'support/00'], course) == 0
    assert (course/'tests'/'test_grid.py').read_text() == (
        "NBS/'rldf'/'01_grid.ipynb', 'support/00_grid', 'rldf/01_exercises'\n")
    assert 'tests/test_grid.py still says 01_grid' in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which('git'), reason='git is not installed')
def test_git_follows(course):
    def git(*arguments):
        return subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=a@example.org', *arguments], cwd=course,
                              capture_output=True, text=True, check=True).stdout
    git('init', '-q')
    git('add', '.')
    git('commit', '-q', '-m', 'Start')
    notebook(course/'nbs'/'rldf'/'scenes.ipynb', '# Scenes')  # not tracked
    assert main(['move', 'rldf/scenes', 'rldf/01'], course) == 0
    status = git('status', '--short', '--untracked-files=all').splitlines()
    renamed = [line.split(maxsplit=1)[1] for line in status if line[0] == 'R']
    assert 'nbs/rldf/02_exercises.ipynb -> nbs/rldf/03_exercises.ipynb' in renamed
    assert '?? nbs/rldf/01_scenes.ipynb' in status


@pytest.mark.parametrize('arguments, said', [
    (['frobnicate'], 'move LESSON PLACE'),
    (['move', 'rldf/07_nothing', 'rldf/00'], 'no lesson nbs/rldf/07_nothing.ipynb'),
    (['move', 'rldf/solutions/02_exercises', 'rldf/00'], 'no lesson'),
    (['move', 'rldf/01_grid', 'rldf/03'], 'The last place in rldf is rldf/02'),
    (['move', 'rldf/01_grid', 'nowhere/00'], 'no place for a lesson'),
    (['move', 'rldf/01_grid', '../outside/00'], 'no place for a lesson'),
    (['move', 'rldf/01_grid', 'rldf/first'], 'no place for a lesson')])
def test_bad_commands_change_nothing(course, capsys, arguments, said):
    before = contents(course)
    capsys.readouterr()
    assert main(arguments, course) == 1
    assert said in one_line(capsys.readouterr().err) and contents(course) == before


@pytest.mark.parametrize('name, said', [
    ('envs/00_grid', 'is in no track'),
    ('rldf/more/00_grid', 'is in no track'),
    ('loose', 'is in no track'),
    ('rldf/03_two-words', 'letters, digits and underscores'),
    ('rldf/solutions/05_lost', 'is the solution of no page'),
    ('rldf/05_Grid', 'would be the same page'),
    ('library/03_odd', 'is in no group')])
def test_what_does_not_fit_is_refused(course, capsys, name, said):
    notebook(course/'nbs'/f'{name}.ipynb', '# Page', module='odd' if name == 'library/03_odd' else '')
    before = contents(course)
    capsys.readouterr()
    assert main([], course) == 1
    assert said in one_line(capsys.readouterr().err) and contents(course) == before


def test_lost_markers_are_refused(course, capsys):
    (course/'nbs'/'_quarto.yml').write_text('website:\n')
    assert main([], course) == 1
    assert 'has lost one of the two lines' in one_line(capsys.readouterr().err)


def test_pages_of_a_group_stand_side_by_side(course, capsys):
    for name, module in (('03_images', 'images'), ('03_more', ''), ('04_learners', 'bench.learners')):
        notebook(course/'nbs'/'library'/f'{name}.ipynb', f'# {name}', module=module)
    assert main([], course) == 0
    library = [name for name in tree(course) if name.startswith('library/')]
    assert library == ['library/00_store.ipynb', 'library/01_images.ipynb', 'library/02_more.ipynb',
                       'library/03_harness.ipynb', 'library/04_speed.ipynb', 'library/05_learners.ipynb']
    # A page that is moved away from its group comes back to it.
    assert main(['move', 'library/01_images', 'library/05'], course) == 0
    assert 'library/02_images.ipynb' in tree(course) and 'library/01_more.ipynb' in tree(course)


def test_several_new_lessons_are_moved_one_after_the_other(course, capsys):
    for name in ('first', 'second'):
        notebook(course/'nbs'/'rldf'/f'{name}.ipynb', f'# {name}', '[grid](01_grid.ipynb)')
    assert main(['move', 'rldf/first', 'rldf/01'], course) == 0
    assert main(['move', 'rldf/04_second', 'rldf/02'], course) == 0
    assert [name for name in tree(course) if name.startswith('rldf/0')] == [
        'rldf/00_grammar.ipynb', 'rldf/01_first.ipynb', 'rldf/02_second.ipynb', 'rldf/03_grid.ipynb',
        'rldf/04_exercises.ipynb']
    assert '[grid](03_grid.ipynb)' in text(course/'nbs'/'rldf'/'02_second.ipynb')
