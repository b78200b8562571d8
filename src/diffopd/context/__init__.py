"""What a teacher is told about a prompt beyond what its student is told."""

from diffopd.context.base import Context, told_by
from diffopd.context.edit import Edit
from diffopd.context.reference import Reference
from diffopd.context.text import Text
from diffopd.context.vlm import Vlm

__all__ = ["Context", "Edit", "Reference", "Text", "Vlm", "told_by"]
