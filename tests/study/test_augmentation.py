import pytest
import torch

from proxylib.study.runs.augmentation import Augmentation, random_affine, random_crop


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=24):
    return torch.randint(256, (n, 1, 16, 16), generator=generator(), dtype=torch.uint8)


def test_random_affine_is_the_identity_at_strength_zero():
    images = pictures()
    same = random_affine(images, generator(), degrees=0, shear=0, scale=0, shift=0)
    torch.testing.assert_close(same, images.float(), atol=1e-3, rtol=0)


def test_random_affine_treats_each_image_by_itself_and_continues_the_border():
    images = torch.full((8, 1, 16, 16), 255, dtype=torch.uint8)
    assert random_affine(images, generator()).min() > 254.9  # no black corners
    images[:, :, 6:9, 4:12] = 0
    changed = random_affine(images, generator())
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 8
    assert torch.equal(changed, random_affine(images, generator()))


def test_random_affine_shift_moves_by_the_stated_share():
    images = torch.zeros(400, 1, 33, 33)
    images[:, :, 16, 16] = 1000.0
    moved = random_affine(images, generator(), degrees=0, shear=0, scale=0, shift=0.1)
    weight = moved / moved.sum((2, 3), keepdim=True)
    x = (weight.sum(2).squeeze(1) * torch.arange(33)).sum(1)
    assert 0.08 < (x - 16).std() / 33 < 0.1  # 0.1, less what the cut at 2σ takes


def test_random_crop_cuts_from_everywhere_and_stays_inside():
    places = torch.arange(36).view(1, 1, 6, 6).expand(500, -1, -1, -1)
    cut = random_crop(places, 4, generator(), total=500)
    assert set(cut[:, 0, 0, 0].tolist()) == {0, 1, 2, 6, 7, 8, 12, 13, 14}
    assert torch.equal(cut[:, 0, 3, 3] - cut[:, 0, 0, 0], torch.full((500,), 21))
    with pytest.raises(ValueError, match="crop=7: the images are only 6×6 pixels"):
        random_crop(places, 7, generator(), total=500)


def test_parts_of_a_batch_are_changed_as_the_whole():
    images, change = pictures(), Augmentation(affine=True, crop=12, flip=True)
    whole = change(images, generator(), len(images))
    assert whole.shape == (24, 1, 12, 12)
    parts = [
        change(images[part], generator(), len(images), part) for part in (slice(0, 9), slice(9, 24))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert Augmentation()(images, generator(), len(images)) is images


def test_about_half_are_mirrored():
    images = torch.arange(4.0).view(1, 1, 1, 4).expand(1000, -1, -1, -1)
    changed = Augmentation(flip=True)(images, generator(), 1000)
    first = changed[:, 0, 0, 0]
    assert set(first.tolist()) == {0.0, 3.0} and 0.45 < (first == 3).double().mean() < 0.55
