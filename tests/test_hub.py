"""A connection to the hub that fails is told as the problem of the setting that needed it."""

import httpx2
import pytest

from diffopd.adapter import place
from diffopd.model import loading
from diffopd.reward.learned import weights

CUT = [
    httpx2.ReadError("reset"),
    httpx2.RemoteProtocolError("cut short"),
    httpx2.ProxyError("refused"),
    OSError("x"),
]


@pytest.mark.parametrize("error", CUT, ids=lambda error: type(error).__name__)
def test_a_connection_that_is_cut_names_the_setting(error, monkeypatch):
    def cut(*_, **__):
        raise error

    monkeypatch.setattr(weights, "snapshot_download", cut)
    monkeypatch.setattr(loading, "hf_hub_download", cut)
    monkeypatch.setattr(place.huggingface_hub, "hf_hub_download", cut)
    with pytest.raises(ValueError, match=rf"^reward\.path=a/b is neither a folder here nor .*: {error}"):
        weights.weights_folder("a/b", None, reward=None, setting="reward.path")
    with pytest.raises(ValueError, match=rf"^model\.path=a/b: there is no such folder .*: {error}"):
        loading.resolved_commit("a/b", None)
    with pytest.raises(ValueError, match=rf"neither a folder or file here nor an adapter .*: {error}"):
        place.find_place("a/b", setting="teacher.path")
