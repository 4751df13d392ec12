"""Processes that start at once: forks of one that has imported the large libraries, and nothing of this process.

Where forks are not safe, as on macOS, they are fresh processes.
"""
import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

# What most lessons import, also late: a grammar imports nltk, and a model that is loaded most pipelines of diffusers.
LIBRARIES = [
    'nbdev.test', 'pandas', 'scipy.optimize', 'scipy.stats', 'matplotlib.pyplot', 'gymnasium', 'torch', 'torchvision',
    'open_clip', 'nltk.grammar', 'diffusers.pipelines.auto_pipeline', 'diffusers.models.unets.unet_2d_condition',
    'diffusers.models.autoencoders.autoencoder_kl', 'diffusers.schedulers.scheduling_dpmsolver_multistep',
    'transformers.models.clip.modeling_clip', 'transformers.models.gpt2.modeling_gpt2', 'ipywidgets', 'pytest', 'yaml',
]


@cache
def fork_server() -> multiprocessing.context.BaseContext:
    "What starts them: one for all tests of a process of pytest."
    context = multiprocessing.get_context('forkserver' if sys.platform == 'linux' else 'spawn')
    context.set_forkserver_preload(LIBRARIES)
    return context


def _run(call, arguments, folder, streams):
    "Call something in this process, with a folder to work in, and files for what it says."
    for number, path in streams.items():
        with path.open('w') as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    sys.exit(call(*arguments))


class Process:
    "A call in a process of its own; it begins at once."
    def __init__(
        self,
        call: Callable,  # gives the exit status, or None for 0
        *arguments,
        folder: Path,    # to work in
    ):
        self.place = TemporaryDirectory()
        self.streams = {number: Path(self.place.name)/str(number) for number in (1, 2)}
        self.process = fork_server().Process(target=_run, args=(call, arguments, folder, self.streams))
        self.process.start()

    def wait(self) -> tuple[int, str, str]:  # exit status, output, error stream
        self.process.join()
        return self.process.exitcode, *(path.read_text(encoding='utf-8') for path in self.streams.values())


def rlgen(
    *arguments,    # of the command, each made a text
    folder: Path,  # to work in
) -> Process:
    "The command `rlgen`, begun in a process of its own."
    from rlgen.cli import main
    return Process(main, [str(argument) for argument in arguments], folder=folder)
