"""MkDocs calls this while it builds the site: pages made from ``conf/`` and code, never out of date."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, to the project's own documentation alone: tests build other sites with its settings."""
    if Path(config.docs_dir) != HERE.parent / "docs":
        return files
    sys.path[:0] = [str(HERE), str(HERE.parent / "src")]  # here, as MkDocs takes back what a hook adds above
    import experiments_page
    import metrics_page
    import settings_page

    pages = {"settings": settings_page, "experiments": experiments_page, "metrics": metrics_page}
    for name, module in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=module.page()))
    return files
