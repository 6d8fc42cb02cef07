"""The metadata that pyproject.toml declares dynamic, read from settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

LICENCES = {'apache2': 'Apache-2.0', 'mit': 'MIT', 'bsd3': 'BSD-3-Clause'}
STATUSES = {
    '1': '1 - Planning',
    '2': '2 - Pre-Alpha',
    '3': '3 - Alpha',
    '4': '4 - Beta',
    '5': '5 - Production/Stable',
    '6': '6 - Mature',
    '7': '7 - Inactive',
}
SUFFIX = '_requirements'


def read_settings():
    parser = ConfigParser(delimiters=['='])
    parser.read('settings.ini', encoding='utf-8')
    return parser['DEFAULT']


def read_extras(settings):
    "Extra -> requirements, from the lines NAME_requirements; `dev` takes in all others but `races`"
    extras = {}
    for key, value in settings.items():
        if key.endswith(SUFFIX):
            extras[key.removesuffix(SUFFIX)] = value.split()
    races = extras.pop('races')
    extras['dev'] = sum(extras.values(), start=[])
    return extras | dict(races=races)


settings = read_settings()
lib = settings['lib_name']
user = settings['user']
repo = settings['repo']
url = f'https://github.com/{user}/{repo}'

setup(
    name=lib,
    version=settings['version'],
    description=settings['description'],
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=settings['keywords'].split(),
    author=settings['author'],
    author_email=settings['author_email'],
    license=LICENCES[settings['license']],
    license_files=['LICENSE'],
    url=url,
    project_urls={'Documentation': f'https://{user}.github.io/{repo}/', 'Source': url},
    classifiers=[
        f'Development Status :: {STATUSES[settings["status"]]}',
        f'Intended Audience :: {settings["audience"].title()}',
        f'Natural Language :: {settings["language"].title()}',
        'Programming Language :: Python :: 3',
    ],
    python_requires=f'>={settings["min_python"]}',
    install_requires=settings['requirements'].split(),
    extras_require=read_extras(settings),
    packages=[lib, f'{lib}.models'],  # models/ holds files only, no modules
    package_data={lib: ['**/*.safetensors', '**/*.json', '**/*.md']},
    entry_points={
        'console_scripts': settings['console_scripts'].split(),
        'nbdev': [f'{lib}={lib}._modidx:d'],
    },
)
