"""Where the time of a round goes: calls of a phase's parts, timed from outside."""

from __future__ import annotations

import functools
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from diffopd.teacher.teacher_set import TEACHER

Clock = Callable[[], float]

TEACHERS = "teachers"
WITH_GRADIENT = "backbone with gradient"
WITHOUT_GRADIENT = "backbone without gradient"
PARTS = {"encode": "text encoding", "decode": "decoding"}
OF_PHASE = {"manual_backward": "backward", "update": "update"}
REWARDS = "rewards"


class Stopwatch:
    """Adds up the seconds of the calls it watches, each without the watched calls inside it.

    Calls in other threads are left out: what is scored in the background takes no time of the round.

    Attributes:
        seconds: Name of a part -> seconds since this was last emptied.
    """

    def __init__(self, clock: Clock) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock = clock
        self._within: list[float] = []
        self._teaching = False
        self._thread = threading.current_thread()

    def timed(self, call: Callable[..., Any], name: str | Callable[..., str]) -> Callable[..., Any]:
        """``call``, timed under a name, or under the name that its arguments get."""

        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not self._thread:
                return call(*args, **kwargs)
            part = name if isinstance(name, str) else name(*args, **kwargs)
            self._within.append(0.0)
            start = self._clock()
            try:
                return call(*args, **kwargs)
            finally:
                took = self._clock() - start
                self.seconds[part] += took - self._within.pop()
                if self._within:
                    self._within[-1] += took

        return watched

    def watch(self, phase: Any) -> None:
        """Time what a phase calls, as far as it has it: a model, rewards, backward passes, updates."""
        model = getattr(phase, "model", None)
        if model is not None:
            model.velocity = self.timed(model.velocity, self._forward)
            for method, part in PARTS.items():
                setattr(model, method, self.timed(getattr(model, method), part))
        if getattr(phase, "target", None) is not None:
            object.__setattr__(phase.target, "given", self._asked(phase.target.given))
        for method, part in OF_PHASE.items():
            if hasattr(phase, method):
                setattr(phase, method, self.timed(getattr(phase, method), part))
        if getattr(phase, "reward", None) is not None:
            phase.reward = self._timed_reward(phase.reward)
        if getattr(phase, "held_out", None):
            phase.held_out = {name: self._timed_reward(each) for name, each in phase.held_out.items()}

    def _asked(self, given: Callable[..., Any]) -> Callable[..., Any]:
        """What gives a teacher's velocity, so that its forwards are known by their caller.

        A model that teaches itself answers under the name of the student, its average or the base model.
        """

        @functools.wraps(given)
        def watched(*args: Any, **kwargs: Any) -> Callable[..., Any]:
            velocity = given(*args, **kwargs)

            def answered(*states: Any) -> Any:
                self._teaching = True
                try:
                    return velocity(*states)
                finally:
                    self._teaching = False

            return answered

        return watched

    def _timed_reward(self, reward: Any) -> Any:
        """A reward of the same class and name, timed; calls look up ``__call__`` in the class."""
        kind = type(reward)
        if inspect.isroutine(reward) or isinstance(reward, functools.partial):
            return self.timed(reward, REWARDS)
        call = self.timed(kind.__call__, REWARDS)
        watched = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
        object.__setattr__(reward, "__class__", watched)
        return reward

    def _forward(self, *args: Any, **kwargs: Any) -> str:
        """Which part a call ``velocity(latent, sigma, conditioning, adapters)`` belongs to."""
        adapters = kwargs.get("adapters", args[3] if len(args) > 3 else None)
        names = [adapters] if isinstance(adapters, str) else adapters or ()
        if self._teaching or any(name.startswith(TEACHER) for name in names):
            return TEACHERS
        return WITH_GRADIENT if torch.is_grad_enabled() else WITHOUT_GRADIENT
