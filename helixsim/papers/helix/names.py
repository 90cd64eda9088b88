"""Names and titles of the figures, from plain text: the command line needs them without loading YAML."""

from __future__ import annotations

from pathlib import Path

from helixsim.datafiles import data_path


def figures_folder() -> Path:
    """Return the folder of the entries that ship with helixsim."""
    return data_path("experiments", "paper", "figures")


def figure_names() -> tuple[str, ...]:
    """Return the names of all figures: those of the paper by number, then what goes beyond it."""

    def position(name: str) -> tuple[int, int, str]:
        kind = next((place for place, prefix in enumerate(("fig", "table")) if name.startswith(prefix)), 2)
        digits = "".join(filter(str.isdigit, name))
        return kind, int(digits or 0), name

    return tuple(sorted((path.stem for path in figures_folder().glob("*.yaml")), key=position))


def figure_titles() -> dict[str, str]:
    """Return name -> title of all figures, in the order of ``figure_names``."""
    titles = {}
    for name in figure_names():
        with (figures_folder() / f"{name}.yaml").open(encoding="utf-8") as file:
            titles[name] = next(line.removeprefix("title:").strip() for line in file if line.startswith("title:"))
    return titles
