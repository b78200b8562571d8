import torch

from diffopd.callbacks.adapter_copies import Adapted, copy_adapters, put_back


class Phase:
    """Two adapters that training changes, and one that it does not."""

    saved_adapters = ("student", "average")

    def __init__(self):
        self.adapters = {
            name: {"up": torch.nn.Parameter(torch.full((2,), start))}
            for name, start in {"student": 1.0, "average": 2.0, "teacher": 3.0}.items()
        }

    def parameters_of(self, name):
        return self.adapters[name]


def test_a_copy_outlives_training_and_is_put_back_in_place():
    phase = Phase()
    assert isinstance(phase, Adapted)
    kept = copy_adapters(phase)
    trained = phase.adapters["student"]["up"]
    with torch.no_grad():
        for adapter in phase.adapters.values():
            adapter["up"].add_(10)
    assert kept["student"]["up"].tolist() == [1.0, 1.0]
    assert not kept["student"]["up"].requires_grad

    put_back(phase, kept)
    assert phase.adapters["student"]["up"] is trained, "the optimiser must go on seeing this parameter"
    assert {name: adapter["up"].tolist() for name, adapter in phase.adapters.items()} == {
        "student": [1.0, 1.0],
        "average": [2.0, 2.0],
        "teacher": [13.0, 13.0],
    }


def test_a_phase_without_adapters_is_none():
    assert not isinstance(torch.nn.Linear(1, 1), Adapted)
