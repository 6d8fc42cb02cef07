"""What pyproject.toml leaves open, read from settings.ini: nothing about the package is written twice."""

from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
LICENCES = {'apache2': 'Apache-2.0', 'mit': 'MIT', 'bsd3': 'BSD-3-Clause'}
STATUSES = (
    '0 Unknown|1 Planning|2 Pre-Alpha|3 Alpha|4 Beta|5 Production/Stable|6 Mature|7 Inactive'.split(
        '|'
    )
)
number, name = STATUSES[int(cfg['status'])].split()
lib, url = cfg['lib_name'], f'https://github.com/{cfg["user"]}/{cfg["repo"]}'
extras = {
    k.removesuffix('_requirements'): v.split()
    for k, v in cfg.items()
    if k.endswith('_requirements')
}

setup(
    name=lib,
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    author_email=cfg['author_email'],
    license=LICENCES[cfg['license']],
    license_files=['LICENSE'],
    url=url,
    project_urls={
        'Documentation': f'https://{cfg["user"]}.github.io/{cfg["repo"]}/',
        'Source': url,
    },
    long_description=Path('README.md').read_text(encoding='utf-8')
    if Path('README.md').exists()
    else cfg['description'],
    long_description_content_type='text/markdown',
    classifiers=[
        f'Development Status :: {number} - {name}',
        f'Intended Audience :: {cfg["audience"].title()}',
        f'Natural Language :: {cfg["language"].title()}',
        'Programming Language :: Python :: 3',
    ],
    packages=find_packages(include=[lib, f'{lib}.*']),
    package_data={lib: ['**/*.safetensors', '**/*.json', '**/*.md']},
    python_requires=f'>={cfg["min_python"]}',
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'nbdev': [f'{lib}={lib}._modidx:d'],
    },
)
