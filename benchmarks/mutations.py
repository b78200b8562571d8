"""Do the default tests notice a wrong formula? Change one thing, run the tests concerned, put it back.

Each mutation is an exact piece of source text and what takes its place: a sign, a weight, an index. It is
made in a temporary copy of the working tree, where the default tests of the folders concerned run until one
fails. A mutation that no test notices survives, and a test is missing. Where the text is no longer there, or
is there more than once, nothing is run and the mutation is named: the list has to follow the code.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffopd.files.atomic import atomic_write_text
from diffopd.files.sealed import read_sealed_json, write_sealed_json

ROOT = Path(__file__).parents[1]
MINUTES = 20
"""A mutation that makes the tests wait for ever is noticed after so long."""
MATHEMATICS = ("tests/flow", "tests/sampler", "tests/loss", "tests/estimator")
DISTILL = ("tests/phase/test_distill.py", "tests/phase/test_scoring.py", "tests/phase/test_balance.py")
ANCHOR = ("tests/phase/test_regulariser.py", *DISTILL)


@dataclass(frozen=True)
class Mutation:
    """One change.

    Attributes:
        name: What is wrong then.
        file: Below ``src/diffopd``.
        before: Text that is in the file once.
        after: What takes its place.
        tests: Folders or files of tests, those that should notice first.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...] = MATHEMATICS


MUTATIONS = (
    Mutation(
        "guidance from the wrong side",
        "flow/guidance.py",
        "extra * (conditional - unconditional)",
        "extra * (unconditional - conditional)",
    ),
    Mutation(
        "the shift's denominator",
        "flow/sigmas.py",
        "return shift * sigma / (1 + (shift - 1) * sigma)",
        "return shift * sigma / (1 + shift * sigma)",
    ),
    Mutation(
        "Euler steps upwards", "flow/step.py", "torch.ones_like(s), t - s)", "torch.ones_like(s), s - t)"
    ),
    Mutation(
        "the SDE's drift lacks its half",
        "flow/step.py",
        "1 + diffusion_squared * dt / (2 * s)",
        "1 + diffusion_squared * dt / s",
    ),
    Mutation(
        "the SDE's noise is dt, not its root",
        "flow/step.py",
        "diffusion_squared.sqrt() * (-dt).sqrt()",
        "diffusion_squared.sqrt() * (-dt)",
    ),
    Mutation(
        "renoising keeps all noise",
        "flow/step.py",
        "(t.square() - std.square()).clamp_min(0).sqrt()",
        "t.square().sqrt()",
    ),
    Mutation("the multistep solver forgets its half", "flow/multistep.py", "gain / (2 * (", "gain / (1 * ("),
    Mutation("the density's normalisation", "flow/density.py", "- deviation.log() -", "+ deviation.log() -"),
    Mutation(
        "a rollout's levels, one early",
        "sampler/base.py",
        "sigma_next=self.sigma_at(step + 1, latent)",
        "sigma_next=self.sigma_at(step, latent)",
    ),
    Mutation(
        "fresh noise without its deviation",
        "sampler/base.py",
        "next_latent + per_row(solved.std, latent) * noise",
        "next_latent + noise",
    ),
    Mutation(
        "a last step that draws noise",
        "sampler/base.py",
        "step == self.num_steps - 1)",
        "step == self.num_steps)",
    ),
    Mutation(
        "the KL without its half",
        "loss/reverse_kl.py",
        "(coefficient / std).square() / 2",
        "(coefficient / std).square()",
    ),
    Mutation(
        "Eq. 12 where Eq. 11 belongs", "loss/opd.py", "if student.stochastic:", "if not student.stochastic:"
    ),
    Mutation(
        "a sum that is a mean",
        "loss/velocity_matching.py",
        'gap * size if reduction == "sum" else gap',
        "gap",
    ),
    Mutation(
        "the gradient reaches the teacher",
        "loss/velocity_matching.py",
        "teacher_velocity.detach().float()",
        "teacher_velocity.float()",
    ),
    Mutation(
        "the optimistic clip", "loss/policy_gradient.py", "return torch.maximum(", "return torch.minimum("
    ),
    Mutation(
        "the ratio's quadratic term",
        "loss/flow_grpo.py",
        "* step.drift - step.drift.square()",
        "* step.drift + step.drift.square()",
    ),
    Mutation(
        "bad samples attract",
        "loss/diffusion_nft.py",
        "repulsion = (1 - reward_weight) *",
        "repulsion = reward_weight *",
    ),
    Mutation(
        "RAM moves away from good samples",
        "loss/ram.py",
        "reference + row_weight(reward, target)",
        "reference - row_weight(reward, target)",
    ),
    Mutation(
        "RVM's tangent",
        "loss/rvm.py",
        "2 * (current - old) * (old - target)",
        "(current - old) * (old - target)",
    ),
    Mutation(
        "the gate lets bad branches in the best direction repel",
        "loss/self_opd.py",
        "(1 - cosine) / 2",
        "(1 + cosine) / 2",
    ),
    Mutation(
        "rejected pictures attract",
        "loss/dpo.py",
        "return preferred_gain - push * rejected_gain",
        "return preferred_gain + push * rejected_gain",
    ),
    Mutation("real and fake change places", "loss/dmd.py", "(real - fake) / scale", "(fake - real) / scale"),
    Mutation("TDM's target", "loss/tdm.py", "start.detach() + real - fake", "start.detach() + real + fake"),
    Mutation(
        "the average moves by what it keeps",
        "adapter/ema.py",
        "(1 - decay) * (value - current[key])",
        "decay * (value - current[key])",
        ("tests/adapter", *DISTILL),
    ),
    Mutation(
        "the average's warm-up",
        "adapter/ema.py",
        "return min((1 + step) / (10 + step), cap)",
        "return min((1 + step) / (100 + step), cap)",
        ("tests/adapter", *DISTILL),
    ),
    Mutation(
        "alpha over rank, squared",
        "adapter/lora.py",
        "return self.alpha / self.rank",
        "return self.alpha / self.rank**2",
        ("tests/adapter",),
    ),
    Mutation(
        "a merge forgets the strengths",
        "adapter/merge.py",
        "part.share * part.strength / strength for",
        "part.share for",
        ("tests/adapter",),
    ),
    Mutation(
        "a merge forgets the shares",
        "adapter/merge.py",
        "return part.share * (part.strength",
        "return 1.0 * (part.strength",
        ("tests/adapter",),
    ),
    Mutation(
        "all adapters are trained",
        "adapter/lora.py",
        "parameter.requires_grad_(name in names)",
        "parameter.requires_grad_(True)",
        ("tests/adapter", "tests/model/test_adapter_rows.py"),
    ),
    Mutation(
        "tasks of many rows count more",
        "phase/by_task.py",
        "1 / (len(counts) * counts[task])",
        "1 / (len(counts) * len(tasks))",
        ("tests/phase",),
    ),
    Mutation(
        "NFT's old policy overwrites the student",
        "phase/nft.py",
        "blend(self.old.weights(), self.student.weights(), decay)",
        "blend(self.student.weights(), self.old.weights(), decay)",
        ("tests/phase/test_nft.py",),
    ),
    Mutation(
        "NFT's levels are another row's",
        "phase/nft.py",
        'torch_generator(self.seed, "nft/steps", self.round, index)',
        'torch_generator(self.seed, "nft/steps", self.round, 0)',
        ("tests/phase/test_nft.py",),
    ),
    Mutation(
        "the noise window begins late",
        "phase/grpo.py",
        "range(start, start + size)",
        "range(start + 1, start + size)",
        ("tests/phase/test_grpo.py",),
    ),
    Mutation(
        "the loss forgets the steps' weight",
        "phase/distill.py",
        "rows.weights * losses * self.step_weight",
        "rows.weights * losses",
        DISTILL,
    ),
    Mutation(
        "the regulariser's weight",
        "phase/distill.py",
        "return regulariser.weight * anchor",
        "return anchor",
        ANCHOR,
    ),
    Mutation(
        "the balance forgets the past",
        "phase/balance.py",
        "self.decay * before + (1 - self.decay) * gap",
        "(1 - self.decay) * before + self.decay * gap",
        ("tests/phase/test_balance.py",),
    ),
)


@dataclass(frozen=True)
class Found:
    """What became of a mutation.

    Attributes:
        mutation: Its name.
        outcome: ``killed``, ``survived`` or ``not there``.
        by: The test that noticed, if one did.
        seconds: Time of the tests.
    """

    mutation: str
    outcome: str
    by: str
    seconds: float


def tried(mutation: Mutation, copy: Path) -> Found:
    """Make the change in ``copy``, run its tests, put it back."""
    file = copy / "src" / "diffopd" / mutation.file
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if text.count(mutation.before) != 1:
        times = text.count(mutation.before)
        reason = f"{mutation.file} has this text {times} times, not once: {mutation.before}"
        return Found(mutation.name, "not there", reason, 0.0)
    file.write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")
    try:
        code, printed, seconds = run_tests(mutation.tests, copy)
    finally:
        file.write_text(text, encoding="utf-8")
    if code is not None and code not in (0, 1, 2):  # 2: the tests cannot even be collected
        raise RuntimeError(f"pytest ended with {code} for {mutation.name}:\n{printed[-2000:]}")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", printed, re.MULTILINE)
    by = failed[0] if failed else f"no end in {MINUTES} minutes"
    return Found(mutation.name, "survived" if code == 0 else "killed", "" if code == 0 else by, seconds)


def run_tests(tests: Sequence[str], copy: Path) -> tuple[int | None, str, float]:
    """Exit code (None: it did not end), output and seconds of the default tests."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    settings = {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env=os.environ | settings,  # byte code of a moment ago could pass for that of the change
            capture_output=True,
            text=True,
            timeout=60 * MINUTES,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, "", time.perf_counter() - start
    return done.returncode, done.stdout, time.perf_counter() - start


def copied(folder: Path) -> Path:
    """The working tree without what git ignores."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def commit() -> str:
    """The commit, and whether code or tests are others."""
    short = ["git", "rev-parse", "--short=7", "HEAD"]
    changed = ["git", "status", "--porcelain", "--", "src", "tests", "conf", "benchmarks"]
    name, more = (
        subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for asked in (short, changed)
    )
    return f"{name} with changes" if more else name


def table(found: Sequence[Found]) -> str:
    """A line for each mutation, as Markdown."""
    by_name = {mutation.name: mutation for mutation in MUTATIONS}
    lines = ["| What is wrong | where | outcome | noticed by | s |", "|---|---|---|---|---:|"]
    for entry in found:
        place, test = by_name[entry.mutation].file, f"`{entry.by}`" if entry.by else ""
        lines.append(f"| {entry.mutation} | `{place}` | {entry.outcome} | {test} | {entry.seconds:.0f} |")
    killed = sum(entry.outcome == "killed" for entry in found)
    return "\n".join([*lines, "", f"{killed} of {len(found)} mutations were noticed."])


def earlier(output: Path, about: str) -> list[Found]:
    """What is written there already, of the same commit."""
    file = output / "mutations.json"
    if not file.exists():
        return []
    written = read_sealed_json(file, {"commit", "found"})
    return [Found(**entry) for entry in written["found"]] if written["commit"] == about else []


def write(output: Path, about: str, found: Sequence[Found]) -> None:
    """The table and, sealed, what it is made of."""
    output.mkdir(parents=True, exist_ok=True)
    entries = [dataclasses.asdict(entry) for entry in found]
    write_sealed_json(output / "mutations.json", {"commit": about, "found": entries})
    heading = f"`python benchmarks/mutations.py` at commit {about}. What it asks: [README](README.md).\n\n"
    atomic_write_text(output / "mutations.md", f"{heading}{table(found)}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutations, those of the same commit that are written already left out.

    Returns:
        1 if one survived or is not there, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "experiments" / "mutations")
    parser.add_argument("--only", default="", help="a part of the file's name, e.g. loss/")
    chosen = parser.parse_args(arguments)
    about = commit()
    found = earlier(chosen.output, about)
    done = {entry.mutation for entry in found}
    with tempfile.TemporaryDirectory() as name:
        copy = copied(Path(name))
        for mutation in MUTATIONS:
            if mutation.name in done or chosen.only not in mutation.file:
                continue
            found.append(tried(mutation, copy))
            write(chosen.output, about, found)
            print(f"{found[-1].outcome}: {mutation.name} {found[-1].by}", flush=True)
    print(table(found))
    return int(any(entry.outcome != "killed" for entry in found))


if __name__ == "__main__":
    sys.exit(main())
