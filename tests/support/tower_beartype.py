"""The run-time type checker of the tests: beartype, taking an int for a float as Python does."""

from beartype import BeartypeConf
from beartype import beartype as _beartype

beartype = _beartype(conf=BeartypeConf(is_pep484_tower=True))
