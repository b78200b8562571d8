"""What looks like a flag and is none of Hydra's is answered with the setting that was probably meant."""

from __future__ import annotations

import pytest

from diffopd.config.flags import check_flags


@pytest.mark.parametrize(
    "typed", [["--experiment", "mopd_ode"], ["--experiment=mopd_ode"], ["-experiment=mopd_ode"]]
)
def test_settings_have_no_dashes(typed):
    with pytest.raises(ValueError, match=r"written without dashes: \+experiment=mopd_ode "):
        check_flags(typed)


def test_one_dash_is_as_wrong_as_two():
    with pytest.raises(ValueError, match=r"^-lr is not a flag; .*: lr=1e-3 "):
        check_flags(["-m", "-lr", "1e-3"])


@pytest.mark.parametrize(
    "typed",
    [
        ["-m"],
        ["-h"],
        ["--help"],
        ["-c", "job"],
        ["--cfg=job"],
        ["-cd", "my_conf"],
        ["~report"],
        ["+a=-1"],
        ["a=--b"],
    ],
)
def test_flags_and_settings_pass(typed):
    check_flags(typed)
