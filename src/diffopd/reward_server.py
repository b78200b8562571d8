"""Serve a reward over HTTP: ``python -m diffopd.reward_server reward=ocr``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

import logging
import os
import signal
import sys

from omegaconf import DictConfig

from diffopd.check import ConfigError, config_errors
from diffopd.command.program import STOPPED, command
from diffopd.host.signals import Ended


@command("reward_server")
def main(cfg: DictConfig) -> None:
    """Build the reward and serve it until SIGTERM or Ctrl-C."""
    if cfg.get("reward") is None:
        raise ConfigError("reward is required; give the one to serve, as in reward=ocr (--help lists them)")
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Serve as ``cfg`` asks; ends the program with code 1 if the reward dies or hangs."""
    from hydra.utils import instantiate

    from diffopd.evaluation import check_scorer
    from diffopd.reward.server.access_token import read_token
    from diffopd.reward.server.batching import Batcher
    from diffopd.reward.server.serving import Patience, RewardServer
    from diffopd.reward.server.wire import Limits

    with config_errors():
        token = read_token(cfg.token_variable)
        reward = instantiate(cfg.reward)
        if cfg.check_scorers:  # before the port is open: whoever gets an answer may trust it
            for line in check_scorer(reward, "reward"):
                print(f"scorer {line}", flush=True)
        batcher = Batcher(
            reward,
            max_images=cfg.batch_images,
            max_wait=cfg.batch_wait,
            max_waiting=cfg.max_waiting,
            max_waiting_pixels=cfg.max_waiting_megapixels * 10**6,
        )
        limits = Limits(
            body=cfg.max_body_mb * 10**6,
            images=cfg.max_images,
            side=cfg.max_side,
            pixels=cfg.max_megapixels * 10**6,
        )
        patience = Patience(
            request=cfg.timeout,
            idle=cfg.idle_timeout,
            shutdown=cfg.shutdown_timeout,
            connections=cfg.max_connections,
        )
        server = RewardServer(
            cfg.host, cfg.port, batcher=batcher, limits=limits, token=token, patience=patience
        )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    guarded = "with a token" if token else "without a token"
    print(f"serving {cfg.reward._target_} at {server.address}, {guarded}", flush=True)
    with server:
        server.serve()
    if server.scorer_hangs:
        print("stopped: the scorer has not answered within the shutdown timeout", file=sys.stderr)
        _end_at_once()
    if batcher.failure is not None:
        print(f"stopped: {batcher.failure}", file=sys.stderr)
        raise Ended(STOPPED)
    print("stopped", flush=True)


def _end_at_once() -> None:
    """End the program although threads of a scorer may never return; a plain exit would wait for them."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STOPPED)


if __name__ == "__main__":
    main()
