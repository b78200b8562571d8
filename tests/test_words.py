"""What users read is in plain present-day English and the field's terms: words to avoid, and what to write.

A list of words, not a style guide. To add one, write its pattern and the words to use instead. Code spans,
code blocks and identifiers are not checked.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CONFIGS = sorted((ROOT / "conf").rglob("*.yaml"))
SOURCES = sorted((ROOT / "src" / "diffopd").rglob("*.py"))

WORDS = {
    r"reckon\w*": "estimate, compute",
    r"(?:is|are|was|be) gone on with": "is resumed",
    r"go(?:es|ing)? on (?:with|from|where|to train)": "resume, continue",
    r"(?:training|run|command) goes on": "resumes, continues",
    r"anew": "again, from scratch, start over",
    r"nought": "0, nothing",
    r"of yours|of one's own|rows of ours": "your, your own",
    r"tells? of": "report, say",
    r"(?:nothing|anything|something) to object to": "no problem found",
    r"beforehand": "before",
    r"(?:between|over|all) (?:\w+ )?sittings": "when resuming, before a resume",
    r"trainings": "runs",
    r"beyond doubt": "clearly",
    r"surroundings": "an outside cause",
    r"kept aside|keeping the old": "moved to previous_<n>, archived",
    r"by name of|refused by name": "an error that names it",
    r"refusals?": "error",
    r"gets? refused|is then refused": "ends with an error",
    r"(?:its|the|their) guidance in (?:its|the|their) weights": "guidance-distilled",
    r"strength of guidance": "guidance scale",
    r"what lives for a moment": "temporary buffers",
    r"the short of it": "in short",
    r"has (?:strength|a strength)|(?:their|its|the|adapter's) strength \(": "scale (alpha / rank)",
    r"half the 95 % interval": "95 % CI",
    r"what (?:a|the|each) (?:task|step)[\w' ]* counts": "weight of",
    r"pull (?:to|towards) (?:a|one|the|another)": "regularization towards",
    r"(?:prompt|object|line|task|round|row) a (?:line|round|task|prompt)": "per line, per round",
    r"\d a (?:round|task|prompt|line)": "per round, per task",
    r"as ever": "as usual",
    r"known pair": "a good and a bad image",
    r"(?:thereof|whereof|hereby|hitherto|lest)": "plain words",
    r"check sum": "checksum",
    r"(?:optim|normal|initial|quant|recogn|standard|maxim|minim|summar)is(?:e|er|ers|ed|es|ing|ations?)": (
        "American spelling, as torch and Hydra: optimizer, normalize"
    ),
    r"(?:mis)?spelt|learnt": "American spelling: spelled, learned",
    r"(?:neighbour|behaviour|favour|labelled)\w*": "American spelling: neighbor, behavior, label",
}
"""Pattern of whole words, in any case -> what to write."""
UNPLAIN = re.compile(
    r"(?<![\w./`=-])(?:" + "|".join(f"(?P<w{n}>{word})" for n, word in enumerate(WORDS)) + r")(?![\w/`=(:])",
    re.IGNORECASE,
)
PLAIN = list(WORDS.values())
CODE = re.compile(r"``.+?``|`[^`\n]+`|\]\([^)\s]*\)|https?://\S+")


def unplain(text: str) -> Iterator[tuple[str, str]]:
    """Each listed word in a text, with what to write."""
    spaced = re.sub(r"\s+", " ", CODE.sub("`", text))
    for match in UNPLAIN.finditer(spaced):
        number = next(int(name[1:]) for name, found in match.groupdict().items() if found is not None)
        yield match[0], PLAIN[number]


def of_page(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each paragraph outside of code blocks."""
    prose = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S)
    start = 1
    for part in prose.split("\n\n"):
        yield start, "\n".join(line for line in part.splitlines() if not line.startswith("    "))
        start += part.count("\n") + 2


def of_config(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each comment and help text."""
    for number, line in enumerate(text.splitlines(), 1):
        comment = re.search(r"(?:^|\s)# .*", line)
        if comment is not None:
            yield number, comment[0]
        elif re.match(r"(header|footer): |  \w[^:]*$", line) and not line.startswith("  python "):
            yield number, line


def of_source(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each string with a space in it; what an f-string fills in is left out."""
    tree = ast.parse(text)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            written = (part.value for part in node.values if isinstance(part, ast.Constant))
            yield node.lineno, "{}".join(str(part) for part in written)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value if " " in node.value else ""


@pytest.mark.parametrize(
    ("files", "texts"),
    [(PAGES, of_page), (CONFIGS, of_config), (SOURCES, of_source)],
    ids=["pages", "configs", "sources"],
)
def test_what_users_read_is_plain_english(files, texts):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word!r}; write: {plain}"
        for path in files
        for line, text in texts(path.read_text(encoding="utf-8"))
        for word, plain in unplain(text)
    ]
    assert not found, "\n" + "\n".join(found)
