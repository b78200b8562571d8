"""A training looked at before hours are spent: its plan, what is wrong with it, what it will take."""

from diffopd.doctor.checks import cheap_findings
from diffopd.doctor.cost import Cost, run_cost
from diffopd.doctor.finding import Finding, Level, exit_code
from diffopd.doctor.plan import Plan

__all__ = ["Cost", "Finding", "Level", "Plan", "cheap_findings", "exit_code", "run_cost"]
