"""Settings that every test shares; they are made before anything imports torch.

pytest runs in two processes (pyproject.toml), so one thread each keeps two cores busy, and one thread also keeps
results the same however many processes there are. Being offline is what the package promises, so tests hold it to that.
"""
import os

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

KINDS = {  # files of tests by what takes their time; all others are fast
    'notebooks': 'notebooks site',
    'models': 'applications bench captioner cifar classifier cli clone_quality compression damage feedback '
              'feedback_experiment generator gpu grid guides insight interfaces labelled odd_values panels perception '
              'pipelines '
              'picture_metrics preference preference_budget preference_panel preference_tables prompt_widgets '
              'reproducibility resume rldf sample_efficiency support '
              'support_set support_widgets tiny training_statistics '
              'walkthroughs',
    'processes': 'clone env_processes grading interrupts scale',  # many of them, some of which are killed
}
KIND = {f'test_{name}': kind for kind, names in KINDS.items() for name in names.split()}


def pytest_collection_modifyitems(items: list):
    "Marks each test by its kind, so that `pytest -m fast` runs what a contributor wants while working."
    for item in items:
        item.add_marker(KIND.get(item.path.stem, 'fast'))
