"""Frozen teachers, the rules that give each prompt its own, and the anchor beside them."""

from diffopd.teacher.anchor import Anchor, NoAnchor, Regulariser
from diffopd.teacher.card import CARD, MOST_SINGLE, Estimate, Recipe, Score, TeacherCard
from diffopd.teacher.frozen import AdaptedModel, check_frozen, load_frozen
from diffopd.teacher.routing import Automatic, ByTask, Mixture, Routing
from diffopd.teacher.self_teacher import SelfTeacher
from diffopd.teacher.target import Learner, Target
from diffopd.teacher.teacher_set import RoutedTeachers, TeacherSet

__all__ = [
    "CARD",
    "MOST_SINGLE",
    "AdaptedModel",
    "Anchor",
    "Automatic",
    "ByTask",
    "Estimate",
    "Learner",
    "Mixture",
    "NoAnchor",
    "Recipe",
    "Regulariser",
    "RoutedTeachers",
    "Routing",
    "Score",
    "SelfTeacher",
    "Target",
    "TeacherCard",
    "TeacherSet",
    "check_frozen",
    "load_frozen",
]
