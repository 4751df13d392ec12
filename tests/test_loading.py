"While a model is loaded, somebody who is there to read it sees which one; pipes and programs see nothing."
import io
import shutil
from contextlib import redirect_stderr, suppress
from importlib.resources import files

from rlgen.models import loading
from rlgen.models.loading import ModelSettings, load_perception, show_loading

LINE = 'Loading the generator tiny ...'


class Terminal(io.StringIO):
    "What is written to a terminal."
    def isatty(self):
        return True


def test_a_terminal_shows_the_line_until_the_model_is_there(capsys):
    for error in (None, ValueError):
        with redirect_stderr(Terminal()) as terminal, suppress(ValueError), show_loading('generator tiny'):
            assert terminal.getvalue() == LINE
            if error:
                raise error
        assert terminal.getvalue() == f'{LINE}\r{" " * len(LINE)}\r'
    assert capsys.readouterr().out == ''


def test_pipes_and_processes_of_a_pool_get_no_line(capsys, monkeypatch):
    with show_loading('generator tiny'):
        assert capsys.readouterr() == ('', '')
    monkeypatch.setattr(loading, 'parent_process', lambda: 'another process')
    with redirect_stderr(Terminal()) as terminal, show_loading('generator tiny'):
        assert terminal.getvalue() == ''


def test_a_model_in_memory_is_not_loaded(tmp_path):
    folder = shutil.copytree(files('rlgen')/'weights'/'clip', tmp_path/'clip')
    settings = ModelSettings(perception=str(folder), device='cpu')
    with redirect_stderr(Terminal()) as terminal:
        model = load_perception(settings)
        said = terminal.getvalue()
        assert said.startswith(f'Loading the perception model {folder} ...') and said.count('Loading') == 1
        assert load_perception(settings) is model and terminal.getvalue() == said
