"""The full-size benchmark on a tiny model: what it runs, what it makes of what was measured."""

from __future__ import annotations

import shutil

import full_size
import pytest
import torch
from diffusers import SD3Transformer2DModel


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """The tiny world's pipeline and random teachers of the benchmark's own."""
    folder = tmp_path_factory.mktemp("full_size")
    shutil.copytree(world.pipeline, folder / "pipeline")
    arguments = full_size.parse(["--model", "mini_sd3"])
    full_size.save_teachers(folder, full_size.model_overrides(folder, arguments), arguments.guidance)
    return folder


@pytest.mark.parametrize(
    ("method", "way"),
    [
        ("mopd", "fused"),
        pytest.param("mopd", "released", marks=pytest.mark.exhaustive),
        pytest.param("nft", "eager", marks=pytest.mark.exhaustive),
    ],
)
def test_a_case_is_measured(folder, method, way):
    arguments = full_size.parse(["--model", "mini_sd3", "--rounds", "1"])
    found = full_size.measure(full_size.Case(method, way, 6), folder, arguments)
    assert len(found["seconds"]) == 1
    assert min(found["seconds"]) > 0
    assert found["flops"] > 1e6
    assert found["matmul_flops_per_second"] > 1e6
    assert (found["peak_gib"] is None) != torch.cuda.is_available()


@pytest.mark.slow
def test_a_two_pass_round_computes_more_than_a_fused_one(folder):
    arguments = full_size.parse(["--model", "mini_sd3", "--rounds", "1"])
    cases = [full_size.Case("mopd", way, 3) for way in ("fused", "two_pass")]
    fused, twice = (full_size.measure(case, folder, arguments)["flops"] for case in cases)
    assert 1.1 * fused < twice < 1.6 * fused


def test_every_method_and_way_has_a_case_and_the_batch_is_swept():
    cases = full_size.cases([12, 24, 48])
    assert [case.images for case in cases if (case.method, case.way) == ("mopd", "fused")] == [12, 24, 48]
    assert {(case.method, case.way) for case in cases} == {
        ("mopd", "fused"), ("mopd", "fused, compiled"), ("mopd", "two_pass"), ("mopd", "released"),
        ("guard", "eager"), ("guard", "eager, compiled"), ("nft", "eager"), ("nft", "eager, compiled"),
    }  # fmt: skip


def test_the_summary_is_of_medians():
    found = {"seconds": [2.0, 100.0, 1.0], "peak_gib": 3.0, "matmul_flops_per_second": 8e12}
    row = full_size.summary(full_size.Case("mopd", "fused", 12), found, int(4e12))
    assert row == {
        "case": "mopd, fused, 12 images", "seconds_per_round": 2.0, "images_per_second": 6.0,
        "tflops_per_second": 2.0, "share_of_matmul_rate": 0.25, "peak_gib": 3.0,
    }  # fmt: skip
    short = full_size.summary(full_size.Case("nft", "eager", 48), {"error": "out of memory"}, None)
    table = full_size.markdown([row, short]).splitlines()
    assert table[2] == "| mopd, fused, 12 images | 6.00 | 2.00 | 2.0 | 25% | 3.0 |"
    assert table[3].startswith("| nft, eager, 48 images | out of memory |")


def test_without_a_gpu_nothing_is_made_up(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    output = tmp_path / "out.json"
    assert full_size.main(["--output", str(output)]) == []
    assert "not measured" in capsys.readouterr().out
    assert not output.exists()


def test_the_full_size_architecture_is_the_published_one():
    with torch.device("meta"):
        cfg = full_size.composed("pipeline/sd3_5_medium_untrained", ["+seed=0"]).pipeline
        transformer = SD3Transformer2DModel(**cfg.transformer)
    # The released file holds the position table too, a buffer in diffusers: 5.11 GB in bf16 with 84 M of VAE.
    held = [*transformer.parameters(), *transformer.buffers()]
    assert sum(tensor.numel() for tensor in held) == pytest.approx(2.47e9, rel=0.01)
