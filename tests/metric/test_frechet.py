import pytest
import torch

from diffopd.metric.clean_drawings import clean_drawings
from diffopd.metric.frechet import FrechetDistance, frechet_distance, picture_features
from diffopd.types import Prompts, Scores
from diffopd.world.request import FORMS

F64 = torch.float64


def drawings(number, seed):
    return clean_drawings(forms=FORMS, number=number, seed=seed, held_out=True)


def metric(number=400):
    return FrechetDistance(reference=lambda: drawings(number, 1), num_features=16, seed=0)


def test_distance_by_hand_on_diagonal_gaussians():
    a, b = torch.tensor([1.0, 4.0], dtype=F64), torch.tensor([9.0, 16.0], dtype=F64)
    distance = frechet_distance(
        torch.zeros(2, dtype=F64), a.diag(), torch.tensor([3.0, 0.0], dtype=F64), b.diag()
    )
    assert distance.item() == pytest.approx(9 + (3 - 1) ** 2 + (4 - 2) ** 2, abs=1e-10)


def test_distance_equals_the_product_form_and_is_symmetric():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, 4, generator=generator, dtype=F64) for _ in range(2))
    a, b, mean = x.T.cov(), (2 * y).T.cov(), torch.zeros(4, dtype=F64)
    root_trace = torch.linalg.eigvals(a @ b).real.sqrt().sum()
    expected = a.trace() + b.trace() - 2 * root_trace
    assert frechet_distance(mean, a, mean, b).item() == pytest.approx(expected.item(), rel=1e-10)
    assert frechet_distance(mean, b, mean, a).item() == pytest.approx(expected.item(), rel=1e-10)


def test_same_images_have_distance_zero_however_they_are_batched():
    images = drawings(400, 1)
    m = metric()
    for start in (0, 150):
        m.update(images[start : 150 if start == 0 else None])
    result = m.compute()
    assert result["frechet_distance"].item() == pytest.approx(0, abs=1e-8)
    assert result["num_images"] == 400


def test_order_is_clean_then_blurred_then_noise():
    fresh = drawings(400, 2)
    blurred = torch.nn.functional.avg_pool2d(fresh, 5, stride=1, padding=2)
    noise = torch.rand(fresh.shape, generator=torch.Generator().manual_seed(0))
    distances = []
    for images in (fresh, blurred, noise):
        m = metric()
        m.update(images)
        distances.append(m.compute()["frechet_distance"].item())
    assert distances[0] < distances[1] / 2 < distances[2] / 4


def numbered(*indices):
    n = len(indices)
    return Prompts(("p",) * n, ("t",) * n, ({},) * n, indices, indices)


def test_neither_order_nor_copies_change_a_bit():
    images = drawings(20, 3)
    whole, pieces = metric(100), metric(100)
    kept = whole.keep(images)
    whole.update(kept)
    for rows in ([3, 17], [19, 18], [17, 3, *range(3), *range(4, 18)]):
        pieces.update(kept.select(rows), numbered(*rows))
    assert pieces.compute() == whole.compute()


def test_what_is_kept_counts_as_the_images_do():
    images = drawings(20, 3)
    whole, halves = metric(100), metric(100)
    whole.update(images)
    for rows in (range(8, 20), range(8)):
        halves.update(halves.keep(images[list(rows)]), numbered(*rows))
    expected = whole.compute()["frechet_distance"].item()  # features of other batches are rounded otherwise
    assert halves.compute()["frechet_distance"].item() == pytest.approx(expected, rel=1e-9)


def test_features_are_fixed_and_double():
    images = drawings(3, 4)
    features = picture_features(images, num_features=8, seed=5)
    assert features.dtype == F64
    assert torch.equal(features, picture_features(images, num_features=8, seed=5))
    assert not torch.equal(features, picture_features(images, num_features=8, seed=6))


def test_refusals():
    m = metric()
    m.update(drawings(1, 5))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        m.compute()
    with pytest.raises(ValueError, match="needs images, got scores"):
        m.update(Scores(torch.zeros(1), {}, "any"))
