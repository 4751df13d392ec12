"""What goes wrong around an exercise: a cell that Python cannot read, an error, a loop without an end."""
import linecache

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from rlgen.exercises import checks
from rlgen.exercises.checks import Verdict, for_notebook, report_check, unread_names
from rlgen.exercises.grading import _kind_of

def own(code):
    "The names that code of a notebook defines."
    name = f'<cell {hash(code)}>'
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    found = {'__name__': '__main__', 'np': np}
    exec(compile(code, name, 'exec'), found)
    return found


def judged(function, *inputs):
    "A check that calls the reader's function."
    return report_check((str(function(*given)) for given in inputs), 'it is.')


OLD, BROKEN = 'def my_return(rewards):\n    return 1', 'def my_return(rewards)\n    return sum(rewards)'


@pytest.mark.parametrize('cells, wanted', [
    ([OLD, BROKEN, 'check_return(my_return)'], ['my_return']),
    ([OLD, BROKEN, 'my_return([1])', 'start.check_return(my_return)'], ['my_return']),
    ([OLD, BROKEN, 'x = 1\nassert check_return(my_return)'], ['my_return']),
    ([BROKEN, OLD, 'check_return(my_return)'], []),
    ([OLD, BROKEN, 'my_return = lambda rewards: 2', 'check_return(my_return)'], []),
    ([OLD, BROKEN, 'print(my_return)'], []),
    ([OLD, BROKEN, 'check_sweep(my_sweep)'], []),
    (['q = 1', 'q = (1', 'check_q_by_hand(q, 2)'], ['q']),
    ([OLD, 'my_return == 3 +', 'check_return(my_return)'], []),
    ([OLD, BROKEN, 'check_return('], []),
])
def test_answers_from_cells_that_were_not_run_are_found(cells, wanted):
    assert unread_names(['', *cells]) == wanted


def test_an_old_function_is_not_judged(capsys):
    shell = InteractiveShell.instance()
    try:
        shell.run_cell('from rlgen.exercises.start import check_return', store_history=True)
        shell.run_cell('def my_return(rewards, discount):\n    return sum(rewards)', store_history=True)
        shell.run_cell('def my_return(rewards, discount)\n    return 1', store_history=True)
        capsys.readouterr()
        shell.run_cell('check_return(my_return)', store_history=True)
        said = ' '.join(capsys.readouterr().out.split())
        assert 'Not yet: the cell that defines my_return has a syntax error' in said and 'False' not in said
        shell.run_cell('def my_return(rewards, discount):\n    return 1', store_history=True)
        shell.run_cell('check_return(my_return)', store_history=True)
        assert 'it should be' in ' '.join(capsys.readouterr().out.split())
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.parametrize('body, said', [
    ('return values[len(values) + step]', 'IndexError: list index out of range, in the line '
     '`return values[len(values) + step]`, for values=[1.5, 2.0], step=3.'),
    ('return np.ones(3)[[5]]', 'in the line `return np.ones(3)[[5]]`, for values=[1.5, 2.0], step=3.'),
    ('return {}[(lambda place: place[9])(values)]', 'in the line'),
])
def test_an_error_comes_with_its_input(body, said, capsys):
    function = own(f'def mine(values, step):\n    {body}')['mine']
    assert not judged(function, ([1.5, 2.], 3))
    heard = capsys.readouterr().out
    assert heard.startswith('Not yet: it stopped with ') and said in heard


def test_large_inputs_are_said_in_few_words(capsys):
    function = own('def mine(table, seed, rng):\n    return table[seed]')['mine']
    assert not judged(function, (np.zeros((50, 8)), np.int64(99), np.random.default_rng(0)))
    heard = capsys.readouterr().out
    assert 'for table=an array of shape [50, 8], seed=99, rng=a Generator.' in heard and len(heard) < 300


@pytest.mark.parametrize('loop', ['while True:\n        x += 1', 'while True:\n        try:\n            x += 1\n'
                                  '        except Exception:\n            pass'])
def test_a_loop_without_an_end_is_stopped(loop, capsys, monkeypatch):
    monkeypatch.setattr(checks, 'SECONDS', .2)
    assert not judged(own(f'def mine(x):\n    {loop}')['mine'], (1,))
    said = capsys.readouterr().out.removeprefix('Not yet: ')
    assert said.startswith('it was stopped after 0.2 s') and _kind_of(said) == 'timed out'
    assert judged(own('def mine(x):\n    return x')['mine'])


def test_a_notebook_shows_no_stray_false():
    shown = InteractiveShell().display_formatter.format(Verdict(False))
    assert shown == ({}, {}) and repr(Verdict(False)) == 'False' and Verdict(True) == True  # noqa: E712


def test_lines_break_between_words_and_successes_are_counted():
    said = for_notebook('Not yet: ' + 'a-long-word, ' * 20, [True, False])
    assert max(map(len, said.splitlines())) <= 88 and 'Solved' not in said
    assert set(said.replace('Not yet: ', '').split()) == {'a-long-word,'}
    assert for_notebook('Right: yes.', [True, False, True]) == (
        'Right: yes. (Solved so far: 2 of 3 that you have tried.)')
    assert for_notebook('Right: yes.', [True]) == 'Right: yes.'
