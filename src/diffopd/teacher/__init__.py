"""Frozen teachers, the rules that give each prompt its own, and the anchor beside them."""

from diffopd.teacher.anchor import Anchor
from diffopd.teacher.card import CARD, MOST_SINGLE, Estimate, Recipe, Score, TeacherCard
from diffopd.teacher.distribution import Distribution
from diffopd.teacher.frozen import AdaptedModel, check_frozen, load_frozen
from diffopd.teacher.held_out import HIGHER, LOWER, NEITHER, HeldOut
from diffopd.teacher.regulariser import NoAnchor, Regulariser, StateRegulariser
from diffopd.teacher.routing import Automatic, ByTask, Mixture, Routing
from diffopd.teacher.self_teacher import SelfTeacher
from diffopd.teacher.target import Learner, Target
from diffopd.teacher.teacher_set import RoutedTeachers, TeacherSet

__all__ = [
    "CARD",
    "HIGHER",
    "LOWER",
    "MOST_SINGLE",
    "NEITHER",
    "AdaptedModel",
    "Anchor",
    "Automatic",
    "ByTask",
    "Distribution",
    "Estimate",
    "HeldOut",
    "Learner",
    "Mixture",
    "NoAnchor",
    "Recipe",
    "Regulariser",
    "RoutedTeachers",
    "Routing",
    "Score",
    "SelfTeacher",
    "StateRegulariser",
    "Target",
    "TeacherCard",
    "TeacherSet",
    "check_frozen",
    "load_frozen",
]
