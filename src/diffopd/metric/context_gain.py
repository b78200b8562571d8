"""Is a teacher that is told more nearer to the target than its student, and is its layout in place?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.metric.interval import Interval, bootstrap_interval

AGREES = 0.5
"""Least mean agreement with the target at which a placement means something."""
LEAST_ZOOM, LEAST_SHIFT = 0.03, 0.03
"""Zoom beyond 1, and shift as a share of a side, from which on they are worth a warning."""


@dataclass(frozen=True, kw_only=True)
class ProbedState:
    """What is measured at one state of the students' rollouts, for each picture a mean over its draws.

    Attributes:
        step: Position in the rollout, 0 = pure noise.
        sigma: Noise, a mean over pictures, whose grids may differ by their sizes.
        student: Mean squared difference of the student's predicted clean latent from the target's.
        teacher: The same of the teacher's.
        zoom: Zoom of the teacher's layout against the target's, as
            :func:`~diffopd.metric.placement.placement` finds it; None where latents have too few rows.
        shift: Its shift, down and right.
        agreement: How far the placement is to be trusted.
        perceptual: Distance of the student's and the teacher's decoded prediction from the target, or None.
    """

    step: int
    sigma: float
    student: Float[Tensor, " picture"]
    teacher: Float[Tensor, " picture"]
    zoom: Float[Tensor, " picture"] | None = None
    shift: Float[Tensor, " picture 2"] | None = None
    agreement: Float[Tensor, " picture"] | None = None
    perceptual: tuple[Float[Tensor, " picture"], Float[Tensor, " picture"]] | None = None


@dataclass(frozen=True, kw_only=True)
class ContextGain:
    """How much nearer to the target the context brings the teacher, on the student's own states.

    Attributes:
        states: In the order of the rollout, all of the same pictures.
        num_draws: Rollouts of each picture.
        least_gain: Least share of the student's distance by which the teacher has to be nearer.
    """

    states: Sequence[ProbedState]
    num_draws: int
    least_gain: float

    @property
    def num_pictures(self) -> int:
        """Pictures that were looked at."""
        return len(self.states[0].student)

    @property
    def gain(self) -> Interval:
        """Student's distance minus teacher's, a mean over states, with its 95 % interval over pictures."""
        gains = torch.stack([state.student - state.teacher for state in self.states])
        return bootstrap_interval(gains.mean(0))

    @property
    def share(self) -> float:
        """The same as a share of the student's distance."""
        student = torch.stack([state.student for state in self.states])
        return _share(self.gain.mean, student)

    @property
    def helps(self) -> bool:
        """Whether the teacher is nearer by enough, and that not by chance."""
        low = self.gain.low
        return self.share >= max(self.least_gain, 1e-6) and (low is None or low > 0)

    @property
    def problems(self) -> list[str]:
        """What is wrong with the context, each with its numbers and what to do."""
        return [*self._no_help(), *self._moved()]

    @property
    def summary(self) -> str:
        """The main number in a line."""
        student = torch.stack([state.student for state in self.states]).mean()
        pictures = f"{self.num_pictures} {'picture' if self.num_pictures == 1 else 'pictures'}"
        where = "nearer to the pictures than" if self.share >= 0 else "further from the pictures than"
        return (
            f"the teacher's predicted clean latents are {abs(self.share):.1%} {where} the student's: squared "
            f"distance {student:.3g}, teacher {float(student) - self.gain.mean:.3g}, difference "
            f"{_shown(self.gain)} over {pictures}"
        )

    def lines(self) -> Iterator[str]:
        """Each state in a line."""
        for state in self.states:
            gain = bootstrap_interval(state.student - state.teacher)
            line = (
                f"state {state.step}, sigma {state.sigma:.3f}: student {state.student.mean():.4g}, teacher "
                f"{state.teacher.mean():.4g}, difference {_shown(gain)} "
                f"({_share(gain.mean, state.student):.1%})"
            )
            if state.perceptual is not None:
                own, its = state.perceptual
                difference = _shown(bootstrap_interval(own - its))
                line += f"; perceptual {own.mean():.4g}, {its.mean():.4g}, difference {difference}"
            if state.zoom is not None and state.shift is not None and state.agreement is not None:
                down, right = state.shift.mean(0).tolist()
                line += (
                    f"; teacher's zoom {state.zoom.mean():.3f}, shift {down:+.1%} down {right:+.1%} right, "
                    f"agreement {state.agreement.mean():.2f}"
                )
            yield line

    def to_json(self) -> dict[str, Any]:
        """All numbers, to be kept with a run."""
        return {
            "helps": self.helps,
            "gain": _plain(self.gain),
            "share": self.share,
            "least_gain": self.least_gain,
            "num_pictures": self.num_pictures,
            "num_draws": self.num_draws,
            "problems": self.problems,
            "states": [_state(state) for state in self.states],
        }

    def _no_help(self) -> Iterator[str]:
        if not self.helps:
            wanted = f"; {self.least_gain:.1%} are asked for, clearly above 0" if self.share >= 0 else ""
            yield (
                f"the context does not help: {self.summary}{wanted}. A student learns what its teacher sees, "
                "so little or nothing will be learned. Look at samples/round_000000.png, which has the "
                "teacher's pictures beside the student's; try another sentence (context.template=...), "
                "another context (context=...), captions that fit the pictures, or a model that edits better"
            )

    def _moved(self) -> Iterator[str]:
        """The first state decides the layout, and nothing of the student's is in it."""
        first = self.states[0]
        if first.zoom is None or first.shift is None or first.agreement is None:
            return
        agreement = float(first.agreement.mean())
        if agreement < AGREES:
            return
        zoom = bootstrap_interval(first.zoom.log())
        if abs(zoom.mean) >= math.log1p(LEAST_ZOOM) and _clear(zoom):
            yield (
                f"the teacher's layout is zoomed {'in' if zoom.mean > 0 else 'out'}: what it draws is "
                f"{math.exp(zoom.mean):.3f} times as large as in your pictures "
                f"({_bounds(zoom, math.exp)}agreement {agreement:.2f}), and the student will zoom more with "
                "every update. Try another sentence (context.template=...), pictures of the model's own size "
                "and shape (data.buckets=none), or another model"
            )
        for axis, word in enumerate(("down", "right")):
            shift = bootstrap_interval(first.shift[:, axis])
            if abs(shift.mean) >= LEAST_SHIFT and _clear(shift):
                yield (
                    f"the teacher's layout is shifted: what it draws lies {shift.mean:+.1%} {word} of where "
                    f"your pictures have it ({_bounds(shift)}agreement {agreement:.2f}), and the student "
                    "will shift more with every update. Try another sentence (context.template=...), or "
                    "another model"
                )


def _clear(interval: Interval) -> bool:
    """Whether 0 is outside; unknown bounds say nothing against it."""
    if interval.low is None or interval.high is None:
        return True
    return interval.low > 0 or interval.high < 0


def _share(gain: float, student: Tensor) -> float:
    return gain / max(float(student.mean()), 1e-12)


def _shown(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4g}"
    return f"{interval.mean:.4g} (95 % CI {interval.low:.4g} to {interval.high:.4g})"


def _bounds(interval: Interval, shown: Any = float) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"95 % CI {shown(interval.low):.3f} to {shown(interval.high):.3f}, "


def _plain(interval: Interval) -> dict[str, float | None]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _state(state: ProbedState) -> Mapping[str, Any]:
    found: dict[str, Any] = {
        "step": state.step,
        "sigma": state.sigma,
        "student": state.student.tolist(),
        "teacher": state.teacher.tolist(),
        "gain": _plain(bootstrap_interval(state.student - state.teacher)),
    }
    for name in ("zoom", "shift", "agreement"):
        if (value := getattr(state, name)) is not None:
            found[name] = value.tolist()
    if state.perceptual is not None:
        found["perceptual"] = {
            who: value.tolist() for who, value in zip(("student", "teacher"), state.perceptual, strict=True)
        }
    return found
