"""Two gloo processes gather what one process has."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from diffopd.metric.frechet import FrechetDistance
from diffopd.metric.reward_mean import RewardMean
from diffopd.types import Prompts, Scores


def brightness(images, prompts):
    return Scores(images.mean((1, 2, 3)), {}, "luminance")


def make():
    generator = torch.Generator().manual_seed(1)
    reference = torch.rand(40, 3, 32, 32, generator=generator)
    frechet = FrechetDistance(reference=lambda: reference, num_features=4, seed=0)
    return RewardMean(reward=brightness, parts=(), tags=("a", "b")), frechet


def feed(metrics, rows):
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))[rows]
    tags = tuple({"tag": "ab"[row % 2]} for row in rows)
    prompts = Prompts(("p",) * len(rows), ("t",) * len(rows), tags, tuple(rows), tuple(rows))
    for metric in metrics:
        metric.update(images, prompts)


def report(metrics):
    mean, frechet = metrics
    return {
        **{k: v.item() for k, v in mean.compute().items()},
        **{f"frechet/{k}": v.item() for k, v in frechet.compute().items()},
        "samples": mean.samples().tolist(),
    }


def worker(rank, store, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    metrics = make()
    feed(metrics, [0, 2] if rank == 0 else [1, 3, 4])
    results[rank] = report(metrics)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_report_what_one_does(tmp_path):
    metrics = make()
    feed(metrics, [0, 1, 2, 3, 4])
    expected = report(metrics)
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, args=(tmp_path / "store", results), nprocs=2)
        for rank in (0, 1):
            assert results[rank]["samples"] == expected["samples"]
            for name in expected.keys() - {"samples"}:
                assert results[rank][name] == pytest.approx(expected[name], rel=1e-12)
