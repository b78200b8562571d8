"""Records in memory and on disk say the same, and results are made of them alone."""

import threading
from dataclasses import dataclass, field

import pytest
import torch
from torchmetrics import Metric

from diffopd.evaluation import FolderRecords, MemoryRecords, Processes, measure, result_of
from diffopd.metric.frechet import FrechetDistance
from diffopd.metric.kept import Kept


@pytest.fixture(params=["memory", "folder"])
def records(request, tmp_path):
    return MemoryRecords() if request.param == "memory" else FolderRecords(tmp_path / "records")


def batch(*values):
    return {"metric": Kept({"value": torch.tensor(values).double()})}


def test_what_is_recorded_is_read_back_by_index(records):
    assert records.done("t") == set()
    assert records.read("t") == ((), {})
    records.add("t", (4, 5), batch(0.5, 0.75))
    records.add("other", (0,), batch(9.0))
    records.add("t", (0, 1), batch(0.0, 0.25))
    assert records.done("t") == {0, 1, 4, 5}
    indices, kept = records.read("t")
    assert indices == (0, 1, 4, 5)
    assert kept["metric"].rows["value"].tolist() == [0.0, 0.25, 0.5, 0.75]


def test_an_index_recorded_twice_counts_once(records):
    records.add("t", (0, 1), batch(0.0, 0.25))
    records.add("t", (1, 2), batch(0.25, 0.5))
    indices, kept = records.read("t")
    assert indices == (0, 1, 2)
    assert kept["metric"].rows["value"].tolist() == [0.0, 0.25, 0.5]


def test_a_folder_counts_images_and_passes_over_what_is_being_written(tmp_path):
    records = FolderRecords(tmp_path)
    records.add("t", (0, 1), batch(0.0, 0.25))
    records.add("u", (7,), batch(0.7))
    (tmp_path / "t" / ".000002_2.safetensors.abc.writing").write_bytes(b"half")
    assert records.count() == 3
    assert FolderRecords(tmp_path).done("t") == {0, 1}


class Sharpest(Metric):
    """A user's metric that keeps nothing by image: the images themselves are recorded."""

    def __init__(self):
        super().__init__()
        self.add_state("best", torch.zeros(()), dist_reduce_fx="max")

    def update(self, images, prompts):
        self.best = torch.maximum(self.best, images.std((1, 2, 3)).max())

    def compute(self):
        return {"value": self.best, "num_images": torch.tensor(0.0)}


@pytest.fixture
def stateful(benchmark):
    """The benchmark with a Fréchet distance and a metric that knows nothing of records."""
    reference = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    frechet = FrechetDistance(reference=lambda: reference, num_features=3, seed=0)
    benchmark.held_out.update(frechet=frechet, sharpest=Sharpest())
    return benchmark


@dataclass(frozen=True)
class Thread(Processes):
    """A thread that takes the place of a process."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def wait(self):
        self.barrier.wait(timeout=60)


def made_by(count, model, benchmark, records, batch_size):
    """Make all images by ``count`` threads; the number each made, and the result."""
    barrier, shares, failures = threading.Barrier(count), [0] * count, []

    def work(rank):
        settings = {"batch_size": batch_size, "adapter": "bright", "guidance_scale": 1.0}
        try:
            for number in measure(
                model, benchmark, records, **settings, processes=Thread(rank, rank, count, count, barrier)
            ):
                shares[rank] += number
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return shares, result_of(benchmark, records, adapter="bright", guidance_scale=1.0, conditions={})


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_any_number_of_processes_gives_the_same_to_the_bit(model, stateful, tmp_path, batch_size):
    expected = made_by(1, model, stateful, MemoryRecords(), batch_size)[1]
    assert expected.held_out["frechet"]["num_images"] == 10
    for count in (1, 2, 3):
        shares, result = made_by(count, model, stateful, FolderRecords(tmp_path / f"{count}"), batch_size)
        assert sum(shares) == 10  # six images of one task, four of the other
        assert result == expected
        units = {1: 10, 4: 3, 100: 2}[batch_size]
        assert sum(share > 0 for share in shares) == min(count, units)


def test_an_interrupted_evaluation_goes_on_where_it_was(model, stateful, tmp_path):
    uninterrupted = made_by(1, model, stateful, MemoryRecords(), 4)[1]
    records, settings = FolderRecords(tmp_path), {"batch_size": 4, "adapter": "bright", "guidance_scale": 1.0}
    first = measure(model, stateful, records, **settings)
    assert [next(first), next(first)] == [4, 2]
    first.close()  # as if it were killed here
    with pytest.raises(ValueError, match=r"4 of 4 images of tags are not recorded \(number 0 is the first\)"):
        result_of(stateful, records, adapter="bright", guidance_scale=1.0, conditions={})
    model.calls.clear()
    shares, result = made_by(2, model, stateful, FolderRecords(tmp_path), 4)
    assert sum(shares) == 4
    assert {len(latent) for latent, _, _ in model.calls} == {4}
    assert result == uninterrupted


def test_only_what_is_missing_of_a_batch_is_made(model, stateful, tmp_path):
    records, settings = FolderRecords(tmp_path), {"adapter": "bright", "guidance_scale": 1.0}
    next(measure(model, stateful, records, batch_size=1, **settings))
    numbers = list(measure(model, stateful, records, batch_size=4, **settings))  # a smaller GPU, or a larger
    assert numbers == [3, 2, 4]
    assert records.done("words") == set(range(6))
