"""Frozen teachers and the rule that picks one for each prompt."""

from diffopd.teacher.card import CARD, Estimate, Recipe, TeacherCard
from diffopd.teacher.teacher_set import TeacherSet

__all__ = ["CARD", "Estimate", "Recipe", "TeacherCard", "TeacherSet"]
