"""Serve a reward over HTTP: ``python -m diffopd.reward_server reward=ocr``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.start import begin

    begin()

import os
import signal

from omegaconf import DictConfig

from diffopd.check import ConfigError, config_errors
from diffopd.command import command


@command("reward_server")
def main(cfg: DictConfig) -> None:
    """Build the reward and serve it until SIGTERM or Ctrl-C."""
    if cfg.get("reward") is None:
        raise ConfigError("reward is required; give the one to serve, as in reward=ocr (--help lists them)")
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Serve as ``cfg`` asks."""
    from hydra.utils import instantiate

    from diffopd.evaluation import check_scorer
    from diffopd.reward.batching import Batcher
    from diffopd.reward.serving import RewardServer
    from diffopd.reward.wire import Limits

    with config_errors():
        reward = instantiate(cfg.reward)
        if cfg.check_scorers:  # before the port is open: whoever gets an answer may trust it
            for line in check_scorer(reward, "reward"):
                print(f"scorer {line}", flush=True)
        batcher = Batcher(
            reward, max_images=cfg.batch_images, max_wait=cfg.batch_wait, max_waiting=cfg.max_waiting
        )
        limits = Limits(body=cfg.max_body_mb * 10**6, images=cfg.max_images, side=cfg.max_side)
        token = os.environ.get(cfg.token_variable)
        server = RewardServer(
            cfg.host, cfg.port, batcher=batcher, limits=limits, token=token, timeout=cfg.timeout
        )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    guarded = "with a token" if token else "without a token"
    print(f"serving {cfg.reward._target_} at {server.address}, {guarded}", flush=True)
    with server:
        server.serve_forever()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
