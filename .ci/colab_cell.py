#| hide
# In Colab this fetches the repository and installs what is missing; anywhere else it does nothing.
import os
import runpy
import subprocess
import sys

if 'google.colab' in sys.modules:
    here = os.path.abspath('instruments_nbdev')
    home = os.environ.setdefault('INSTRUMENTS_HOME', here)  # the same if the cell is run again
    if not os.path.exists(home):
        github = 'https://github.com/instruments-nbdev/instruments_nbdev'
        repo = os.environ.get('INSTRUMENTS_REPO', github)
        print('Fetching', repo)
        subprocess.run(['git', 'clone', '--depth=1', repo, home], check=True)
    sys.path.insert(0, home)
    os.chdir(f'{home}/nbs')
    runpy.run_path(f'{home}/.ci/colab_install.py', run_name='__main__')
