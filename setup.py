"Sets what pyproject.toml declares dynamic, from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
config = ConfigParser(interpolation=None)
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
name = cfg['lib_name']


def lines(key: str) -> list[str]:
    "The lines of a setting that holds one item a line."
    return [line.strip() for line in cfg[key].splitlines() if line.strip()]


setup(
    name=name,
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/cfg['readme']).read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    license_expression=cfg['license'],
    classifiers=lines('classifiers'),
    python_requires='>=' + cfg['min_python'],
    install_requires=lines('requirements'),
    extras_require={extra: lines(f'{extra}_requirements') for extra in ('dev', 'heic', 'ray', 'remote', 'tensorboard')},
    entry_points={
        'console_scripts': lines('console_scripts'),
        'nbdev': [f'{name} = {name}._modidx:d'],  # the documentation links names in inline code through it
    },
    packages=find_packages(include=[name, f'{name}.*']),
    package_data={name: ['py.typed', '**/*.pyi', 'weights/**/*', 'assets/**/*']},
    include_package_data=False,
    zip_safe=False,
)
