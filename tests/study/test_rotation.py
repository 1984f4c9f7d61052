import pandas as pd
import torch

from proxylib.study import rotation as module
from proxylib.study.rotation import rotation, turn
from proxylib.study.runs import RunConfig, run


def test_turn_is_anticlockwise_and_exact_at_right_angles():
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[0, 0, 0, 5] = 200  # top edge, right of the centre
    for angle, place in ((90, [2, 0]), (180, [7, 2]), (0, [0, 5]), (360, [0, 5])):
        assert turn(images, angle)[0, 0].round().nonzero().tolist() == [place], angle


def test_rotation_of_an_untrained_network(home, monkeypatch):
    config = RunConfig(data_options={"n_classes": 8, "n_images": 4}, steps=0)
    table = rotation([config], [0, 180], jobs=1, progress=False)
    assert table["angle"].tolist() == [0.0, 180.0]
    assert (table["method"] == "proxy_nca").all() and (table["seed"] == 0).all()
    # Unturned queries retrieve as ever: their own image is left out.
    assert abs(table["recall_at_1"][0] - run(config).metrics["recall_at_1"]) < 1e-12
    turned = []
    monkeypatch.setattr(module, "turn", lambda *args: turned.append(1) or turn(*args))
    again = rotation([config], [0, 180], jobs=1, progress=False)
    pd.testing.assert_frame_equal(table, again)
    assert not turned  # read from the cache
    rotation([config], [0, 90, 180], jobs=1, progress=False)
    assert len(turned) == 1
    monkeypatch.setattr(module, "code_of", lambda *definitions: "other code")
    rotation([config], [0, 180], jobs=1, progress=False)
    assert len(turned) == 3
