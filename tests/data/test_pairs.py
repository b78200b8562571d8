"""Folders of captioned pictures as people keep them."""

import json
import logging
from collections import Counter
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from diffopd.data.pairs import PairData
from diffopd.files.fingerprint import sha256_of
from diffopd.types import Prompts

NAMES = ("a.png", "b.jpg", "c.webp", "d.png")
CAPTIONS = {name: f"a drawing, {name[0]}" for name in NAMES}


def pictures(folder, names=NAMES, size=(8, 8)):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number, 0, 0)).save(folder / name)


def data(folder, **changes):
    settings = {
        "seed": 0,
        "path": str(folder),
        "task": "pictures",
        "captions": "auto",
        "picture_key": "file_name",
        "caption_key": None,
        "image_size": 8,
        "buckets": "none",
        "bucket_step": 8,
        "background": [255, 255, 255],
        "prompts_per_round": 4,
        "group_size": 1,
    }
    return PairData(**settings | changes)


def lines(folder, records, name="metadata.jsonl"):
    (folder / name).write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Four pictures with a text file each."""
    pictures(tmp_path)
    for name, caption in CAPTIONS.items():
        (tmp_path / name).with_suffix(".txt").write_text(caption + "\n")
    return tmp_path


def told(module):
    """Name of each picture -> its captions."""
    return {pair.where: pair.texts for pair in module.tasks["pictures"].entries}


ONE_EACH = {name: (caption,) for name, caption in CAPTIONS.items()}


def test_a_text_file_beside_each_picture(folder):
    (folder / "b.txt").write_text("\ufeff a drawing,\n b \n", encoding="utf-8")  # lines are joined
    pictures(folder, ["sub/e.png", ".thumbnails/f.png"])
    (folder / "sub" / "e.txt").write_text("five")
    (folder / "notes.md").write_text("nothing")
    assert told(data(folder)) == ONE_EACH | {"sub/e.png": ("five",)}


def test_hugging_face_s_metadata(tmp_path):
    pictures(tmp_path)
    pictures(tmp_path, ["left_out.png"])
    records = [{"file_name": name, "text": text, "width": 8} for name, text in CAPTIONS.items()]
    lines(tmp_path, records)
    module = data(tmp_path)
    assert told(module) == ONE_EACH
    first = module.tasks["pictures"].entries[0].metadata
    assert first == {"file_name": "a.png", "captions": {"text": CAPTIONS["a.png"]}, "width": 8}

    (tmp_path / "metadata.jsonl").unlink()
    rows = "".join(f'{name},"{text}"\r\n' for name, text in CAPTIONS.items())
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbffile_name,text\r\n" + rows.encode())
    assert told(data(tmp_path)) == ONE_EACH
    assert told(data(tmp_path, captions="metadata.csv")) == ONE_EACH


def test_captions_under_other_names(tmp_path):
    pictures(tmp_path / "target_images")
    keys = [
        f"{length}_{language}"
        for length in ("short", "medium", "detailed", "user_prompt")
        for language in ("en", "zh")
    ]
    records = [
        {"local_path_list": [f"target_images/{name}"], "h*w": "8*8"} | {key: f"{key} {name}" for key in keys}
        for name in NAMES
    ]
    (tmp_path / "set").mkdir()
    lines(tmp_path / "set", records, "data.jsonl")
    released = {"captions": "set/data.jsonl", "picture_key": "local_path_list"}
    module = data(tmp_path, **released, caption_key="detailed_en")
    assert told(module) == {f"target_images/{name}": (f"detailed_en {name}",) for name in NAMES}
    batch = module.batch(0)
    captions = batch.metadata[0]["captions"]
    assert set(keys) < set(captions)
    assert captions["short_zh"] == f"short_zh {batch.targets[0].path[-5:].lstrip('/')}"

    module = data(tmp_path, **released, caption_key=["short_en", "short_zh"], group_size=2)
    rounds = [module.batch(number) for number in range(16)]
    drawn = Counter(text.split()[0] for batch in rounds for text in batch.texts)
    assert drawn.keys() == {"short_en", "short_zh"}
    assert min(drawn.values()) > 30  # of 128; a fair coin is below that once in 1e9
    for batch in rounds:
        assert all(len({batch.texts[row] for row in (g, g + 1)}) == 1 for g in range(0, 8, 2))
    assert {t for batch in rounds for t in batch.texts} == set(module.texts_of(1))


def test_every_row_has_its_picture(folder):
    batch = data(folder, group_size=2, prompts_per_round=3, image_size=16).batch(1)
    assert batch.indices == tuple(range(6))
    assert batch.groups == (0, 0, 1, 1, 2, 2)
    for text, picture in zip(batch.texts, batch.targets, strict=True):
        name = next(name for name, caption in CAPTIONS.items() if caption == text)
        assert picture.path == str(folder / name)
        assert (picture.digest, picture.height, picture.width) == (sha256_of(folder / name), 16, 16)
    assert batch.references == ((),) * 6


def test_four_pictures_on_four_processes_give_each_a_different_one(folder):
    module = data(folder)
    seen = []
    for number in range(6):
        shares = [module.batch(number, rank, 4) for rank in range(4)]
        assert Prompts.concat(shares) == module.batch(number)
        assert len({share.targets[0].path for share in shares}) == 4
        seen.append(tuple(share.texts[0] for share in shares))
    assert len(set(seen)) > 3  # one order per pass
    assert [data(folder).batch(number).texts for number in range(6)] == seen
    assert [data(folder, seed=1).batch(number).texts for number in range(6)] != seen
    module.trainer = SimpleNamespace(current_epoch=0, global_rank=0, world_size=3)
    with pytest.raises(ValueError, match=r"^data\.prompts_per_round=4 must be a multiple of .*, 3"):
        module.setup("fit")


def test_every_picture_comes_once_before_any_comes_again(folder):
    module = data(folder, prompts_per_round=3)
    drawn = [text for number in range(8) for text in module.batch(number).texts]
    for start in range(0, 24, 4):
        assert sorted(drawn[start : start + 4]) == sorted(CAPTIONS.values())


def test_pictures_without_caption_are_all_named(folder):
    (folder / "b.txt").write_text(" \n")
    (folder / "d.txt").unlink()
    with pytest.raises(
        ValueError, match=r"data\.path=.*: no caption for b\.jpg, d\.png; write it into a \.txt"
    ):
        data(folder)


def test_a_folder_below_that_has_the_captions_is_named(tmp_path):
    pictures(tmp_path / "mine" / "train", names=("a.png",))
    line = json.dumps({"file_name": "a.png", "text": "a drawing"})
    (tmp_path / "mine" / "train" / "metadata.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"data\.path=.*mine has no captions of its own.*mine/train\?"):
        data(tmp_path / "mine")


def test_a_missing_key_is_named_and_never_an_empty_caption(tmp_path):
    pictures(tmp_path)
    records = [{"file_name": name, "caption": "x", "prompt": "y"} for name in NAMES]
    records[1]["prompt"] = "  "
    del records[3]["prompt"]
    lines(tmp_path, records)
    message = (
        r"metadata\.jsonl: no caption 'prompt' in line 2 \(b\.jpg\), line 4 \(d\.png\)\. every "
        r"line has caption; choose with data\.caption_key"
    )
    with pytest.raises(ValueError, match=message):
        data(tmp_path, caption_key=["caption", "prompt"])
    with pytest.raises(ValueError, match=r"no caption 'text' in line 1 \(a\.png\), .*line 4"):
        data(tmp_path)
    assert told(data(tmp_path, caption_key="caption"))["d.png"] == ("x",)


def test_pictures_that_cannot_be_read_are_all_named(folder):
    (folder / "a.png").write_bytes(b"")
    content = (folder / "d.png").read_bytes()
    (folder / "d.png").write_bytes(content[:-28])
    with pytest.raises(
        ValueError, match=r"2 of 4 pictures cannot be used(.|\n)*a\.png is empty\n.*d\.png is trunc"
    ):
        data(folder)
    lines(folder, [{"file_name": "gone.png", "text": "x"}])
    with pytest.raises(ValueError, match=r"a picture cannot be used(.|\n)*gone\.png is not there"):
        data(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{', r"metadata\.jsonl, line 2: not JSON"),
        ("metadata.jsonl", "[1]", "line 1: expected a JSON object, got list"),
        ("metadata.jsonl", '{"image": "a.png"}', r"line 1: 'file_name' must be .* got None; .* \['image'\]"),
        ("metadata.jsonl", "\n", "holds no captions"),
        ("metadata.csv", "file_name,text\na.png,a cat, a dog\n", "line 2: as many values .* double quotes"),
        ("metadata.csv", "file_name,text\na.png\n", "line 2: as many values"),
        ("metadata.csv", 'file_name,text\na.png,"x\n', r"metadata\.csv, line 2: not CSV"),
    ],
)
def test_malformed_captions_are_named(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        data(folder)


def test_what_is_no_folder_of_pictures(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    for changes, message in [
        ({"path": str(empty)}, r"data\.path=.* holds no pictures \(\.png, .*metadata\.jsonl"),
        ({"path": str(empty / "absent")}, r"data\.path=.*absent: there is no such folder"),
        ({"path": str(folder / "a.png")}, r"data\.path=.* is a file, where a folder of pictures is needed"),
        ({"captions": "lines.json"}, r"data\.captions=lines\.json must be auto, text, or a \.jsonl or \.csv"),
        ({"captions": "lines.csv"}, r"data\.captions=lines\.csv: there is no such file"),
        ({"caption_key": "prompt"}, r"data\.caption_key=prompt needs captions with keys"),
        ({"prompts_per_round": 0}, r"data\.prompts_per_round must be a whole number of at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            data(folder, **changes)
    lines(folder, [])
    (folder / "metadata.csv").write_text("")
    with pytest.raises(
        ValueError, match=r"has both metadata\.jsonl and metadata\.csv; choose with data\.captions"
    ):
        data(folder)
    assert told(data(folder, captions="text")) == ONE_EACH


def test_what_is_cut_off_or_enlarged_is_said(folder, caplog):
    Image.new("RGB", (32, 8)).save(folder / "a.png")
    Image.new("RGB", (4, 4)).save(folder / "d.png")
    with caplog.at_level(logging.INFO, logger="diffopd.data.pairs"):
        data(folder)
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 4 pictures are cut to fit, at most 75 % (a.png: 8 x 32 to 8 x 8, height x width)",
        "1 pictures are smaller than they are learned and get enlarged: d.png",
    ]


def test_each_picture_has_the_size_nearest_to_its_shape(folder, caplog):
    for name, size in {
        "a.png": (60, 100),
        "b.jpg": (100, 60),
        "c.webp": (64, 64),
        "d.png": (100, 62),
    }.items():
        Image.new("RGB", size).save(folder / name)
    with caplog.at_level(logging.INFO, logger="diffopd.data.pairs"):
        module = data(folder, image_size=32, buckets="area")
    sizes = {pair.where: pair.picture.size for pair in module.tasks["pictures"].entries}
    assert sizes == {"a.png": (40, 24), "b.jpg": (24, 40), "c.webp": (32, 32), "d.png": (24, 40)}
    assert set(module.sizes) == set(sizes.values())
    assert caplog.records[0].getMessage() == (
        "pictures have 3 sizes, height x width: 24 x 40 (2), 40 x 24 (1), 32 x 32 (1)"
    )
    assert data(folder, image_size=[16, 24]).sizes == ((16, 24),)
    released = {"a.png": (1280, 720), "b.jpg": (720, 1280), "c.webp": (1024, 1024), "d.png": (832, 1248)}
    module = data(folder, image_size=1024, buckets="released")
    assert {pair.where: pair.picture.size for pair in module.tasks["pictures"].entries} == released
    with pytest.raises(ValueError, match=r"data\.buckets=released .* data\.image_size=\[16, 24\]; set model"):
        data(folder, image_size=[16, 24], buckets="released")


def test_the_choice_builds(folder, conf_dir):
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        cfg = compose("train", overrides=["+data=pairs", f"data.path={folder}", "name=x"])
    assert len(instantiate(cfg.data).batch(0)) == 4
    assert instantiate(cfg.data).batch(0).targets[0].height == 32  # the embedded model's


def test_a_rare_word_before_each_caption_or_one_text_for_all(folder, tmp_path):
    """DreamBooth: with one text for all pictures, none needs a caption."""
    assert told(data(folder, template="sks, {caption}"))["a.png"] == ("sks, a drawing, a",)
    assert set(told(data(folder, template="a photo of sks dog")).values()) == {("a photo of sks dog",)}
    (folder / "a.txt").unlink()
    assert told(data(folder, template="a photo of sks dog"))["a.png"] == ("a photo of sks dog",)
    with pytest.raises(ValueError, match=r"no caption for a\.png"):
        data(folder, template="sks, {caption}")


def test_pictures_that_others_are_preferred_to(tmp_path):
    pictures(tmp_path, ("good.png", "bad.png"))
    lines(tmp_path, [{"file_name": "good.png", "worse": "bad.png", "text": "a drawing"}])
    (pair,) = data(tmp_path, rejected_key="worse", prompts_per_round=1).tasks["pictures"].entries
    assert (pair.where, pair.rejected.path, pair.rejected.size) == (
        "good.png",
        str(tmp_path / "bad.png"),
        pair.picture.size,
    )
    assert pair.metadata["captions"] == {"text": "a drawing"}
    rows = data(tmp_path, rejected_key="worse", prompts_per_round=1, group_size=2).batch(0)
    assert rows.rejected == (pair.rejected,) * 2
    assert rows.select([1]).rejected == Prompts.concat([rows.select([1])]).rejected == (pair.rejected,)
    assert data(tmp_path, prompts_per_round=1).batch(0).rejected == (None,)
    (tmp_path / "bad.png").unlink()
    with pytest.raises(ValueError, match=r"bad\.png is not there"):
        data(tmp_path, rejected_key="worse")
