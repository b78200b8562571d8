"""What tests of several folders share: tiny models, experiments on them, recorders, servers, programs."""

from support import tower_beartype as tower_beartype  # `--jaxtyping-packages` imports the package alone
