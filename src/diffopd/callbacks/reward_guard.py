"""A guard against reward hacking, which warns, stops, or puts earlier adapters back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from diffopd.callbacks.hacking_rule import Evaluation, HackingRule
from diffopd.callbacks.policy_copies import Copies, Training, copy_policies, put_back

log = logging.getLogger(__name__)

Action = Literal["warn", "stop", "roll_back"]


class RewardGuard(Callback):
    """Acts when a trained metric rises while a watched one falls, several evaluations in a row.

    An evaluation is the mean over a window of rounds. The guard compares each with the one before, and acts
    when one watched metric fell in each of ``patience`` comparisons in a row, a trained one having risen in
    each. It warns again at every further such comparison. It stops between two rounds, which is no
    interruption: the checkpoint is saved, the adapter exported, the report written.

    To roll back is to give all adapters the values they had before the first of those comparisons, to forget
    the optimizer's running means, which belong to other values, and to stop. That happens before the round's
    checkpoint is saved, so checkpoint, export and report agree. For it the guard keeps copies of the adapters
    in the CPU's memory and in checkpoints: of the latest evaluation, and of each at which a fall under way
    began, ``patience`` at most. Beside these it keeps the metrics of ``patience + 1`` evaluations.

    A run that it stopped stays stopped when resumed. With other settings the guard counts from 0 again, and
    such a run continues.
    """

    def __init__(
        self,
        *,
        action: Action,
        trained: Sequence[str],
        watched: Sequence[str],
        rounds_per_evaluation: int,
        min_rise: float,
        min_fall: float,
        patience: int,
    ) -> None:
        """Configure what is compared, and what follows.

        Args:
            action: ``warn``, ``stop``, or ``roll_back``, which stops, too.
            trained: Patterns such as ``train/reward/*`` of the metrics that are trained on.
            watched: Patterns of the metrics that must not fall meanwhile.
            rounds_per_evaluation: Rounds in a window, at least 1.
            min_rise: Least rise of a trained metric from one evaluation to the next, at least 0; 0 for any.
            min_fall: Least fall of a watched metric, in the same way.
            patience: Comparisons in a row, at least 1.

        Raises:
            ValueError: If a setting is out of its range, or a list of patterns empty.
        """
        if action not in get_args(Action):
            raise ValueError(
                f"callbacks.reward_guard.action must be one of {', '.join(get_args(Action))}, got {action}"
            )
        for name, value in (("rounds_per_evaluation", rounds_per_evaluation), ("patience", patience)):
            if value < 1:
                raise ValueError(f"callbacks.reward_guard.{name} must be at least 1, got {value}")
        self.action: Action = action
        self.rule = HackingRule(tuple(trained), tuple(watched), min_rise, min_fall)
        self.rounds_per_evaluation = rounds_per_evaluation
        self.patience = patience
        self._settings = asdict(self.rule) | {
            "action": action,
            "rounds_per_evaluation": rounds_per_evaluation,
            "patience": patience,
        }
        self._earlier: dict[str, Tensor] = {}
        self._window: list[dict[str, float]] = []
        self._evaluations: list[Evaluation] = []
        self._copies: dict[int, Copies] = {}  # by the last round of the evaluation they were made after
        self._stopped_after: int | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the phase has what a roll-back puts back.

        Raises:
            ValueError: If it trains no adapter.
        """
        if self.action == "roll_back" and not isinstance(pl_module, Training):
            raise ValueError(
                "callbacks.reward_guard.action=roll_back restores adapters, but "
                f"{type(pl_module).__name__} trains none; choose warn or stop"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not train a run further that the guard has stopped."""
        if self._stopped_after is None:
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            log.warning(
                "callbacks.reward_guard stopped this run after round %d; nothing is trained. %s",
                self._stopped_after,
                GOING_ON,
            )

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metrics of earlier rounds, which Lightning shows again where a round logs none."""
        self._earlier = dict(trainer.callback_metrics)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the round in that was just done; evaluate if it is the last of its window."""
        metrics = trainer.callback_metrics  # reading them averages over processes, so all have to
        new = {name: value for name, value in metrics.items() if value is not self._earlier.get(name)}
        values = {name: float(value) for name, value in new.items()}
        # A metric logged without sync_dist differs between processes; what they do next must not.
        values = trainer.strategy.broadcast(values)
        if not self._window and not self._evaluations:
            self.rule.check_matches(values)
        self._window.append(self.rule.chosen(values))
        if len(self._window) == self.rounds_per_evaluation:
            evaluation = Evaluation.of(self._window, last_round=trainer.current_epoch + 1)
            self._evaluations = [*self._evaluations[-self.patience :], evaluation]
            self._window = []
            self._judge(trainer, pl_module)

    def _judge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act if the latest evaluations call for it."""
        evaluations = self._evaluations
        if len(evaluations) <= self.patience or not self.rule.fallen(evaluations):
            if self.action == "roll_back":
                self._keep_copies(pl_module)
            return
        if trainer.is_global_zero:
            outcome = {
                "warn": "The run continues.",
                "stop": f"The run stops. {GOING_ON}",
                "roll_back": "The run stops, and its adapters are restored to those of round "
                f"{evaluations[0].last_round}. {GOING_ON}",
            }
            log.warning(
                "reward hacking? %s\n%s\n%s", self.rule.report(evaluations), outcome[self.action], ADVICE
            )
        if self.action == "roll_back":
            assert isinstance(pl_module, Training)
            put_back(pl_module, self._copies[evaluations[0].last_round])
            for optimizer in trainer.optimizers:
                optimizer.state.clear()
        if self.action != "warn":
            self._stopped_after = evaluations[-1].last_round
            self._evaluations, self._copies = [], {}
            trainer.should_stop = True

    def _keep_copies(self, pl_module: LightningModule) -> None:
        """Copy the adapters as they are; keep earlier copies only from where a fall under way began."""
        assert isinstance(pl_module, Training)
        starts, falling_before = [], []
        for place, evaluation in enumerate(self._evaluations[:-1]):
            falling = self.rule.fallen(self._evaluations[place:])
            if falling != falling_before:
                starts.append(evaluation.last_round)
            falling_before = falling
        self._copies = {last_round: self._copies[last_round] for last_round in starts}
        self._copies[self._evaluations[-1].last_round] = copy_policies(pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        """What it keeps, and the settings it was kept with; tensors are not copied again."""
        return {
            "settings": self._settings,
            "window": self._window,
            "evaluations": [asdict(evaluation) for evaluation in self._evaluations],
            "copies": self._copies,
            "stopped_after": self._stopped_after,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what another guard with the same settings kept."""
        if state_dict["settings"] != self._settings:
            log.info("callbacks.reward_guard: its settings have changed, so it counts from 0 again")
            return
        self._window = state_dict["window"]
        self._evaluations = [Evaluation(**evaluation) for evaluation in state_dict["evaluations"]]
        self._copies = state_dict["copies"]
        self._stopped_after = state_dict["stopped_after"]


GOING_ON = "To continue anyway, repeat the command with callbacks.reward_guard.action=warn."
ADVICE = (
    "Look at samples from before and after. If the fall is real, start over with a stronger regularization "
    "towards the base model (loss.kl_weight), a lower optimizer.lr, or a reward that measures what fell."
)
