#| hide
# In Colab this fetches the repository and installs what is missing; anywhere else it does nothing.
import os
import runpy
import subprocess
import sys

if 'google.colab' in sys.modules:
    if not os.path.exists('../settings.ini'):  # not yet in the repository's folder nbs/
        github = 'https://github.com/instruments-nbdev/instruments_nbdev'
        repo = os.environ.get('INSTRUMENTS_REPO', github)
        if not os.path.exists('instruments_nbdev'):
            print('Fetching', repo)
            subprocess.run(['git', 'clone', '--depth=1', repo, 'instruments_nbdev'], check=True)
        os.chdir('instruments_nbdev/nbs')
    sys.path.insert(0, os.path.abspath('..'))
    runpy.run_path('../.ci/colab_install.py', run_name='__main__')
