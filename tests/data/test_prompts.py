from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.data.prompts import PromptData
from diffopd.types import Prompts

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def files(tmp_path):
    for task, number in (("ocr", 5), ("style", 8)):
        (tmp_path / f"{task}.txt").write_text("".join(f"{task} {i}\n" for i in range(number)))
    return tmp_path


def data(files, seed=0, ocr=(4, 2), style=(2, 3), schedule="accumulate"):
    counts = {"ocr": ocr, "style": style}
    return PromptData(
        seed=seed,
        schedule=schedule,
        tasks={
            task: {"path": str(files / f"{task}.txt"), "prompts_per_round": prompts, "group_size": size}
            for task, (prompts, size) in counts.items()
        },
    )


def test_a_round_holds_whole_groups_with_unique_numbers(files):
    batch = data(files).batch(0)
    assert batch.indices == tuple(range(4 * 2 + 2 * 3))
    assert batch.groups == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5)
    assert batch.tasks == ("ocr",) * 8 + ("style",) * 6
    for group in range(6):
        assert len({t for t, g in zip(batch.texts, batch.groups, strict=True) if g == group}) == 1
    assert len(set(batch.texts)) == 6


def test_every_prompt_is_used_once_before_any_repeats(files):
    rounds = [data(files).batch(r) for r in range(10)]
    drawn = [t for b in rounds for t in b.texts[0:8:2]]  # four a round from a file of five
    passes = [drawn[5 * i : 5 * i + 5] for i in range(8)]
    assert all(Counter(one) == Counter(f"ocr {i}" for i in range(5)) for one in passes)
    assert len({tuple(one) for one in passes}) > 4  # orders differ from pass to pass


def test_a_round_depends_on_seed_and_number_alone(files):
    one, other = data(files), data(files)
    for r in (7, 0, 3):
        other.batch(r + 1)
        assert one.batch(r) == other.batch(r)
    assert any(one.batch(r) != data(files, seed=1).batch(r) for r in range(3))


def test_another_task_changes_nothing_for_this_one(files):
    alone = PromptData(
        seed=0,
        schedule="accumulate",
        tasks={"style": {"path": str(files / "style.txt"), "prompts_per_round": 2, "group_size": 3}},
    )
    assert alone.batch(5).texts == data(files).batch(5).texts[8:]


def test_alternating_rounds_have_one_task_each_and_the_prompts_of_its_own_count(files):
    together, apart = data(files), data(files, schedule="alternate")
    for r in range(6):
        whole, rows = together.batch(r // 2), slice(8, 14) if r % 2 else slice(0, 8)
        assert apart.batch(r).texts == whole.texts[rows]
        assert apart.batch(r).indices == whole.indices[rows]
        assert apart.batch(r, 1, 2).indices == tuple(
            i for i in together.batch(r // 2, 1, 2).indices if i in range(14)[rows]
        )
    with pytest.raises(ValueError, match=r"data.schedule must be one of accumulate, alternate, got 'mix'"):
        data(files, schedule="mix")


def test_processes_share_whole_groups_of_the_same_global_batch(files):
    module = data(files)
    whole, parts = module.batch(3), [module.batch(3, rank, 2) for rank in range(2)]
    assert [len(part) for part in parts] == [7, 7]
    joined = Prompts.concat(parts)
    assert joined.select(sorted(range(14), key=joined.indices.__getitem__)) == whole
    assert not set(parts[0].groups) & set(parts[1].groups)
    assert parts[1].indices == (4, 5, 6, 7, 11, 12, 13)


def test_the_loader_gives_the_trainer_s_round_and_share(files):
    module = data(files)
    module.trainer = SimpleNamespace(current_epoch=4, global_rank=1, world_size=2)
    module.setup("fit")
    assert list(module.train_dataloader()) == [module.batch(4, 1, 2)]
    module.trainer = None
    assert list(module.train_dataloader()) == [module.batch(0)]


def test_groups_that_do_not_divide_among_processes_are_refused(files):
    module = data(files)
    module.trainer = SimpleNamespace(current_epoch=0, global_rank=0, world_size=4)
    with pytest.raises(
        ValueError,
        match=r"data\.tasks\.style\.prompts_per_round=2 must be a multiple .* 4 \(trainer\.devices",
    ):
        module.setup("fit")


def test_incomplete_or_impossible_settings_are_refused(files):
    good = {"path": str(files / "ocr.txt"), "prompts_per_round": 1, "group_size": 1}
    with pytest.raises(ValueError, match=r"data\.tasks\.ocr\.group_size must be a whole number .* got 0"):
        PromptData(seed=0, schedule="accumulate", tasks={"ocr": {**good, "group_size": 0}})
    with pytest.raises(ValueError, match=r"data\.tasks\.ocr has keys \['path'\], it needs"):
        PromptData(seed=0, schedule="accumulate", tasks={"ocr": {"path": "x.txt"}})
    with pytest.raises(ValueError, match=r"data\.tasks is empty"):
        PromptData(seed=0, schedule="accumulate", tasks={})


@pytest.mark.parametrize(
    ("name", "rows"), [("prompts", 12), ("composition", 144), ("ocr", 144), ("aesthetic", 144)]
)
def test_every_choice_builds(name, rows):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+data={name}", "+seed=0"]).data
    batch = instantiate(config).batch(0)
    assert len(batch) == rows
    assert all(m["include"] for t, m in zip(batch.tasks, batch.metadata, strict=True) if t == "composition")


@pytest.mark.parametrize("schedule", ["accumulate", "alternate"])
def test_the_prompts_of_the_first_rounds_are_those_that_they_draw(files, schedule):
    module = data(files, schedule=schedule)
    for rounds in (0, 1, 2, 3, 5, 8, 40):
        drawn = {text for number in range(rounds) for text in module.batch(number).texts}
        assert set(module.texts_of(rounds)) == drawn
        assert len(module.texts_of(rounds)) == len(drawn)
