import torch

from diffopd.callbacks.policy_copies import Training, copy_policies, put_back


class Weights:
    def __init__(self, start):
        self.held = {"up": torch.nn.Parameter(torch.full((2,), start))}

    def weights(self):
        return self.held


class Phase:
    """Two policies that training changes, and one that it does not."""

    def __init__(self):
        self.policies = {"student": Weights(1.0), "average": Weights(2.0)}
        self.teacher = Weights(3.0)


def test_a_copy_outlives_training_and_is_put_back_in_place():
    phase = Phase()
    assert isinstance(phase, Training)
    kept = copy_policies(phase)
    trained = phase.policies["student"].held["up"]
    with torch.no_grad():
        for policy in (*phase.policies.values(), phase.teacher):
            policy.held["up"].add_(10)
    assert kept["student"]["up"].tolist() == [1.0, 1.0]
    assert not kept["student"]["up"].requires_grad

    put_back(phase, kept)
    assert phase.policies["student"].held["up"] is trained, "the optimizer must go on seeing this parameter"
    assert {name: policy.held["up"].tolist() for name, policy in phase.policies.items()} == {
        "student": [1.0, 1.0],
        "average": [2.0, 2.0],
    }
    assert phase.teacher.held["up"].tolist() == [13.0, 13.0]


def test_a_phase_without_policies_is_none():
    assert not isinstance(torch.nn.Linear(1, 1), Training)
