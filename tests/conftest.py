"""Settings that every test shares; they are made before anything imports torch.

pytest runs in two processes (pyproject.toml), so one thread each keeps two cores busy, and one thread also keeps
results the same however many processes there are. Being offline is what the package promises, so tests hold it to that.
"""
import os
import sys

for name, value in {
    'OMP_NUM_THREADS': '1',
    'MKL_NUM_THREADS': '1',
    'VECLIB_MAXIMUM_THREADS': '1',
    'TOKENIZERS_PARALLELISM': 'false',
    'HF_HUB_OFFLINE': '1',
    'TRANSFORMERS_OFFLINE': '1',
    'MPLBACKEND': 'agg',
    'RAY_USAGE_STATS_ENABLED': '0',
    'RAY_raylet_start_wait_time_s': '900',  # on a busy machine
    'RAY_worker_niceness': '0',  # not 15, with which its workers starve beside the other process of pytest
}.items():
    os.environ[name] = value

# The tests start a hundred processes, which import what Python keeps compiled; some images set that it keeps nothing.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
sys.dont_write_bytecode = False

pytest_plugins = 'lab'  # JupyterLab in a browser; nothing of it starts before a test asks for it

KINDS = {  # files of tests by what takes their time; all others are fast
    'notebooks': 'explorer lite lab lab_prompts layout notebooks site',  # the site and the explorer need a browser
    'models': 'adapters applications bench captioner cifar classifier cli clone_quality compression consoles damage '
              'environments feedback feedback_experiment generator gpu grid guides insight interfaces labelled latent '
              'odd_values panels perception picture_metrics pipelines preference preference_budget preference_panel '
              'preference_tables prompt_widgets refused_images reproducibility resume rldf sample_efficiency schedule '
              'finetune finetune_panel image_rewards support support_set support_widgets tiny training_statistics '
              'turbo walkthroughs',
    'processes': 'clone env_processes grading interrupts scale',  # many of them, some of which are killed
}
KIND = {f'test_{name}': kind for kind, names in KINDS.items() for name in names.split()}


def pytest_collection_modifyitems(items: list):
    """Marks each test by its kind, so that `pytest -m fast` runs what a contributor wants while working.

    Orders them, too: of two processes the first begins with the first half of the list, the second with the other, and
    each ends with fast tests, so that none waits for a long one when they share what is left.
    """
    kinds: dict[str, list] = {kind: [] for kind in ('notebooks', 'processes', 'models', 'fast')}
    for item in items:
        kind = KIND.get(item.path.stem, 'fast')
        item.add_marker(kind)
        kinds[kind].append(item)
    first, fast = kinds['notebooks'] + kinds['processes'], kinds['fast']
    room = max(0, len(items) // 2 - len(first))
    items[:] = [*first, *fast[:room], *kinds['models'], *fast[room:]]
