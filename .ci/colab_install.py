"""Installs the package in Colab; the lessons' Colab cell runs this in the fetched repository.

Colab comes with PyTorch and hundreds of other packages. What fits our requirements stays as it is,
so constraints.txt is used only for packages that are missing or do not fit: pip then adds a few
tested versions instead of replacing half of the environment.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'instruments_nbdev'
EXTRA = 'lessons'


def read_requirements(root):
    "Package name -> requirement, for the package and the lessons"
    parser = ConfigParser(delimiters=['='])
    parser.read(root / 'settings.ini', encoding='utf-8')
    settings = parser['DEFAULT']
    words = settings['requirements'].split() + settings[f'{EXTRA}_requirements'].split()
    requirements = [Requirement(word) for word in words]
    return {canonicalize_name(r.name): r for r in requirements}


def installed_versions():
    "Package name -> version; the first of two on sys.path is the one that is imported"
    versions = {}
    for dist in distributions():
        versions.setdefault(canonicalize_name(dist.name), dist.version)
    return versions


def fits(name, requirements, versions):
    "Is a package there, in a version that our requirements allow?"
    if name not in versions:
        return False
    if name not in requirements:
        return True
    return requirements[name].specifier.contains(versions[name], prereleases=True)


def needed_constraints(lines, requirements, versions):
    "The lines of constraints.txt for packages that are missing or do not fit"
    needed = []
    for line in lines:
        if not line.strip() or line.startswith('#'):
            continue
        name = canonicalize_name(Requirement(line).name)
        if not fits(name, requirements, versions):
            needed.append(line)
    return needed


def torch_line(requirements, versions):
    "One line on what happens to Colab's PyTorch"
    version = versions.get('torch')
    if version is None:
        return 'PyTorch is missing and will be installed: this takes some minutes.'
    if fits('torch', requirements, versions):
        return f'PyTorch {version} stays.'
    wanted = f'torch{requirements["torch"].specifier}'
    return f'PyTorch {version} is not {wanted} and will be replaced: this takes some minutes.'


def is_installed(root):
    "Has pip installed the package from this very folder?"
    importlib.invalidate_caches()
    try:
        origin = distribution(PACKAGE).read_text('direct_url.json')
    except PackageNotFoundError:
        return False
    return json.loads(origin or '{}').get('url') == root.as_uri()


def run_pip(*args):
    "Runs pip and prints what it does, except for each package that is there already"
    command = [sys.executable, '-m', 'pip', *args]
    # The output of a child process does not reach the notebook unless it is printed here.
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout:
            if not line.startswith('Requirement already satisfied'):
                print(line, end='', flush=True)
    if process.returncode:
        raise RuntimeError('pip could not install the package; its last lines say why.')


def install(root, constraints):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'constraints.txt'
        file.write_text('\n'.join(constraints), encoding='utf-8')
        # Without build isolation pip uses the setuptools that is there and fetches no other.
        run_pip('install', '--no-build-isolation', '-c', str(file), '-e', f'{root}[{EXTRA}]')


def replaced(before, after):
    "Packages that were there and have another version now"
    return [name for name in before if after.get(name, before[name]) != before[name]]


def main(root=ROOT):
    if is_installed(root):
        print('The package is already installed from', root)
        return
    requirements = read_requirements(root)
    before = installed_versions()
    lines = (root / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    print(torch_line(requirements, before))
    print('Installing the package and what it needs; pip says what it does:', flush=True)
    install(root, needed_constraints(lines, requirements, before))
    importlib.invalidate_caches()
    names = replaced(before, installed_versions())
    if names:
        print('Replaced:', ', '.join(names))
        print('Choose "Runtime > Restart session" and run the notebook again from its top.')
    else:
        print('Ready.')


if __name__ == '__main__':
    main()
