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
