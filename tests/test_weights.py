"""The real pretrained weights, where $INSTRUMENTS_WEIGHTS names them.

Every name finds its place, and the answers are the authors'.
"""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch

from instruments_nbdev.model import Classifier, load_model, save_model
from instruments_nbdev.recipes import Part, Recipe
from instruments_nbdev.storage import sound_store
from instruments_nbdev.transfer import MN, MN_FRONT_END, ImageNet

HERE = Path(os.environ.get('INSTRUMENTS_WEIGHTS') or 'nowhere')


def needs(name):
    "Skips a test, and says so, where a file of weights is not at hand"
    if not (HERE / name).is_file():
        warnings.warn(f'{name} is not in INSTRUMENTS_WEIGHTS: no strict check', stacklevel=2)
        pytest.skip(f'{name} is not here')


def sounds():
    "The tone, the chirp and the clicks on which the authors' own code was run"
    t = torch.arange(320000) / 32000
    pi = torch.pi  # in float32, whose rounding is part of these sounds
    tone = 0.3 * torch.sin(2 * pi * 440 * t)
    chirp = 0.3 * torch.sin(2 * pi * (200 + 390 * t) * t)
    clicks = torch.where(t % 0.5 < 0.02, 0.5 * torch.sin(2 * pi * 1500 * t), 0.0)
    return torch.stack([tone, chirp, clicks])


def test_mn04_says_what_its_authors_code_says(tmp_path):
    needs('mn04_reference.json')
    reference = json.loads((HERE / 'mn04_reference.json').read_text())
    recipe = Recipe('mn04').replace(
        store=Part(sound_store, sr=32000),
        window=320000,
        front_end=MN_FRONT_END,
        backbone=Part(MN),
    )
    clf = Classifier(recipe, [f'class {i}' for i in range(527)]).eval()
    clf.backbone.load_weights('audioset')
    again = load_model(save_model(clf, tmp_path / 'mn04.safetensors'))
    with torch.inference_mode():
        for model in (clf, again):
            apart = model(sounds()) - torch.tensor(reference['logits'])
            assert apart.abs().max() < 1e-3


@pytest.mark.parametrize(
    'arch', ['tf_efficientnet_lite0.in1k', 'resnet50.tv_in1k', 'resnet18.tv_in1k']
)
def test_image_weights_find_their_places(arch, capsys):
    files = sorted(path.name for path in HERE.glob(f'{arch.split(".")[0]}*'))
    needs(files[0] if files else arch)
    first = 'conv1.weight' if 'resnet' in arch else 'conv_stem.weight'
    for n_in in (1, 3):
        model = ImageNet(arch, n_in=n_in, n_out=3)
        fresh = model.net.get_parameter(first).clone()
        model.load_weights('imagenet')
        assert not torch.equal(model.net.get_parameter(first), fresh)
    # of the ResNet-18 at hand the last stage is missing, which is said
    lacks = 'layer4.1.conv2.weight' in capsys.readouterr().out
    assert lacks == (arch == 'resnet18.tv_in1k')
