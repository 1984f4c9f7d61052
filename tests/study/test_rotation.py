from dataclasses import replace

import pandas as pd
import torch

from proxylib.datasets import Dataset
from proxylib.distances import rescale
from proxylib.study import rotation as module
from proxylib.study.rotation import Turned, rotation, turn
from proxylib.study.runs import RunConfig, cache, run


def test_turn_is_anticlockwise_and_exact_at_right_angles():
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[0, 0, 0, 5] = 200  # top edge, right of the centre
    for angle, place in ((90, [2, 0]), (180, [7, 2]), (0, [0, 5]), (360, [0, 5])):
        assert turn(images, angle)[0, 0].round().nonzero().tolist() == [place], angle


def test_turned_images_are_told_from_others_by_their_angle():
    images = (torch.arange(320) % 251).to(torch.uint8).view(5, 1, 8, 8)
    data = Dataset("made", images, torch.arange(5), tuple("abcde"))
    turned = Turned(data, 15.0)
    expected = turn(images, 15.0)
    assert len(turned) == 5 and turned.shape == images.shape
    torch.testing.assert_close(torch.cat([*turned.split(2)]), expected)
    sets = [data, replace(data, images=turned), replace(data, images=Turned(data, 30.0))]
    sets.append(replace(data, images=Turned(replace(data, images=255 - images), 15.0)))
    assert len({part.fingerprint() for part in sets}) == 4


def test_a_frozen_trunk_sees_turned_images_once_for_all_runs(home, monkeypatch):
    options = {"n_classes": 8, "n_images": 4, "size": 32}
    frozen = {"backbone": "test_efficientnet", "frozen": "blocks.2", "freeze_batch_norm": True}
    settings = {"data_options": options, "augment": False, "dim": 8, "batch_size": 8, **frozen}
    # Both start from one random network: this one has no weights to load, the seed draws them.
    first, second = (RunConfig(**settings, steps=steps, lr=1e-2) for steps in (0, 2))
    read = []
    monkeypatch.setattr(module, "turn", lambda *a: read.append(1) or turn(*a))
    monkeypatch.setattr(module, "code_of", lambda *definitions: "code")
    table = rotation([first, second], [0, 90], jobs=1, progress=False)
    assert len(read) == 1 and len(table) == 4
    _, test = second.data()
    with torch.no_grad():
        points = [run(second).model()(turn(test.images, angle)) for angle in (0.0, 90.0)]
    distances = torch.cdist(*[rescale(e, 1.0) for e in points[::-1]]).fill_diagonal_(torch.inf)
    by_hand = (test.labels[distances.argmin(1)] == test.labels).double().mean().item()
    assert abs(table["recall_at_1"].iloc[-1] - by_hand) <= 1 / 16  # half precision behind it


def test_rotation_of_an_untrained_network(home, monkeypatch):
    config = RunConfig(data_options={"n_classes": 8, "n_images": 4}, steps=0)
    table = rotation([config], [0, 180], jobs=1, progress=False)
    assert table["angle"].tolist() == [0.0, 180.0]
    assert (table["method"] == "proxy_nca").all() and (table["seed"] == 0).all()
    # Unturned queries retrieve as ever: their own image is left out.
    assert table["recall_at_1"][0] == run(config).metrics["recall_at_1"]
    nearly = rotation([config], [1e-6], jobs=1, progress=False)
    assert nearly["recall_at_1"][0] == table["recall_at_1"][0]
    turned = []
    monkeypatch.setattr(module, "turn", lambda *args: turned.append(1) or turn(*args))
    again = rotation([config], [0, 180], jobs=1, progress=False)
    pd.testing.assert_frame_equal(table, again)
    assert not turned  # read from the cache
    rotation([config], [0, 90, 180], jobs=1, progress=False)
    assert len(turned) == 1
    monkeypatch.setattr(cache, "fingerprint", lambda config, work=None: "other code")
    rotation([config], [0, 180], jobs=1, progress=False)
    assert len(turned) == 2  # that of 180 degrees again
