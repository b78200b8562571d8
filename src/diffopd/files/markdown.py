"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Collection[int] = (0,)
) -> str:
    """A table without a line break at its end.

    Args:
        header: Names of the columns.
        rows: Cells.
        texts: Columns of words, which stand to the left; the others are numbers.

    Examples:
        >>> print(markdown_table(["", "score"], [["base", "0.5"]]))
        |  | score |
        | --- | ---: |
        | base | 0.5 |
    """
    marks = ["---" if place in texts else "---:" for place in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, marks, *rows))
