"""Text for the terminal: the comparison of systems, and placements."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import NodeProfile
from helixsim.escape import printable, printable_tree
from helixsim.report.rows import LEGEND, Row, Section, comparison_sections, notes, window_sentence
from helixsim.report.selection import HEAD, race_rows, selection_notes
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, number, percent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDTH = 100
"""Default width [columns]."""

MOST_NODE_ROWS = 100
"""Most nodes of a placement that have a line each."""

_LABEL_WIDTH = 31
_CELL_WIDTH = 14


def comparison_text(runs: RunSet, *, width: int = WIDTH, color: bool = False) -> str:
    """Return all figures of all systems, their bottlenecks, and the measurement window.

    Systems are columns; if they do not fit into ``width`` columns, each section has them as rows.
    """
    from rich.text import Text

    names = [printable(name, one_line=True) for name in runs]
    sections = comparison_sections(runs)
    parts: list[RenderableType] = []
    if _LABEL_WIDTH + len(names) * (_CELL_WIDTH + 2) <= width:
        parts += [_by_columns(names, sections), ""]
    else:
        for section in sections:
            parts.append(Text(section.title, style="bold"))
            parts += [part for table in _by_rows(names, section, width) for part in (table, "")]
    parts += [_labelled(f"{name}: ", sentence) for name, sentence in [*notes(runs), *selection_notes(runs)]]
    parts += ["", Text(printable(f"{window_sentence(runs)} {LEGEND}", one_line=True), style="dim")]
    return rendered(parts, width, color)


def _by_columns(names: Sequence[str], sections: Sequence[Section]) -> Table:
    """Return a table with a row per figure."""
    from rich.text import Text

    table = _ruled()
    table.add_column("", no_wrap=True, min_width=_LABEL_WIDTH)
    for name in names:
        table.add_column(Text(name), justify="right", min_width=_CELL_WIDTH - 2, overflow="fold")
    for section in sections:
        table.add_row(Text(section.title, style="bold"))
        for row in section.rows:
            table.add_row(Text(f"  {printable(row.label, one_line=True)}"), *map(_emphasised, row.cells))
    return table


def _by_rows(names: Sequence[str], section: Section, width: int) -> list[Table]:
    """Return tables with a row per system, with as many figures as fit beside each other."""
    from rich.text import Text

    label = max(map(len, names))
    chosen: list[list[tuple[Row, int]]] = []
    left = 0
    for row in section.rows:
        widest = max(len(word) for word in [*row.label.split(), *row.cells])
        if left < widest + 3:
            chosen.append([])
            left = width - label
        chosen[-1].append((row, widest))
        left -= widest + 3
    tables = []
    for rows in chosen:
        table = _ruled()
        table.add_column("", no_wrap=True, min_width=label)
        for row, widest in rows:
            table.add_column(Text(printable(row.label.strip(), one_line=True)), justify="right", width=widest)
        for place, name in enumerate(names):
            table.add_row(Text(name), *(_emphasised(row.cells[place]) for row, _ in rows))
        tables.append(table)
    return tables


def _ruled() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))


def kv_text(name: str, placement: Mapping[str, Any]) -> str:
    """Return a line on the KV tokens of each node type and number of layers in a placement."""
    rooms: dict[tuple[str, int], list[int]] = {}
    for node in sorted_by_layers(placement):
        held = placement["layers"][node["node"]]
        if held is not None:
            rooms.setdefault((node["node_type"], held[1] - held[0]), []).append(node["kv_tokens"])
    parts = []
    for (kind, layers), tokens in sorted(rooms.items(), key=lambda entry: entry[1]):
        least, most = min(tokens), max(tokens)
        parts.append(f"{kind} with {layers} layers {least}" + (f" to {most}" if most > least else ""))
    return f"{name}: KV tokens: {', '.join(parts)}"


def engine_text(engine: EngineSpec, profiles: Iterable[NodeProfile]) -> str:
    """Return the engine, the release whose defaults it has, and the limits of its steps by kind of node."""
    kinds: dict[str, list[str]] = {}
    for kind, limits in {profile.kind: profile.limits[-1] for profile in profiles}.items():
        text = f"{limits.max_prefill_tokens} tokens and {limits.max_decode_seqs} sequences"
        kinds.setdefault(text, []).append(kind)
    limits_text = "; ".join(f"{text} ({', '.join(names)})" for text, names in kinds.items())
    version = f", defaults of {engine.version}" if engine.version else ""
    return f"{engine.name}{version}; up to {limits_text} a step"


def placement_text(name: str, placement: Mapping[str, Any], *, width: int = WIDTH, color: bool = False) -> str:
    """Return one system's placement (``results.placement_json``), a line per node by first layer.

    Of many nodes, those with the same figures share a line.
    """
    from rich.text import Text

    name, placement = printable_tree(name), printable_tree(placement)
    table = _ruled()
    for column in ("node", "GPU", *(["role"] if "roles" in placement else [])):
        table.add_column(column, overflow="fold")
    for column in ("layers", "KV tokens", "flow, tokens/s", "capacity, tokens/s", "used, %"):
        table.add_column(column, justify="right", no_wrap=True)
    for nodes, cells in _node_rows(placement):
        table.add_row(nodes, *cells)
    bound, gap = placement["upper_bound_tokens_per_s"], placement["gap"]
    limit = f", bound of any placement {number(bound)} (gap {percent(gap)} %)" if bound is not None else ""
    title = (
        f"{name}: {placement['strategy']} placement ({placement['status']}), max-flow estimate "
        f"{number(placement['max_flow_tokens_per_s'])} prompt + output tokens/s{limit}; "
        f"{number(placement['mean_hops'])} nodes per request on average, max {placement['max_hops']}"
    )
    replicas = placement.get("replicas", [])
    if len(replicas) > 1:
        sizes = ", ".join(str(len(nodes)) for nodes in replicas)
        title += f"; {len(replicas)} replicas of the model, on {sizes} nodes"
    if left_out := placement["notes"].get("kinds_left_out"):
        title += f"; not used, too small for the model: {', '.join(left_out)}"
    parts: list[RenderableType] = [Text(title, style="bold"), table]
    frontier = placement["notes"].get("frontier", [])
    if len(frontier) > 1:
        points = _ruled()
        points.add_column("max nodes per request", justify="right")
        points.add_column("max-flow estimate, tokens/s", justify="right")
        for point in frontier:
            points.add_row(str(point["hops"]), number(point["max_flow_tokens_per_s"]))
        parts += ["", Text("Frontier: max-flow estimate over nodes per request"), points]
    simulated = [entry for entry in placement["notes"].get("candidates", []) if entry["score"] is not None]
    if simulated:
        scores = _ruled()
        for column in ("candidate", "max nodes per request", "max-flow estimate, tokens/s", "score"):
            scores.add_column(column, justify="left" if column == "candidate" else "right", overflow="fold")
        for entry in sorted(simulated, key=lambda entry: -entry["score"]):
            flow = number(entry["max_flow_tokens_per_s"])
            scores.add_row(entry["name"], str(entry["hops"]), flow, number(entry["score"]))
        parts += ["", Text("Candidates by score in short simulations"), scores]
    if rows := race_rows(placement["notes"]):
        race = _fitted(HEAD, rows, width, texts=1)
        parts += ["", Text("Race of placements and routings; the last round has the requests of the report"), race]
    return rendered(parts, width, color)


def _node_rows(placement: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the name of each node, and its figures; of many nodes, one row for all with the same figures."""
    rows: dict[object, tuple[list[str], tuple[str, ...]]] = {}
    is_long = len(placement["nodes"]) > MOST_NODE_ROWS
    for node in sorted_by_layers(placement):
        held = placement["layers"][node["node"]]
        flow, capacity = node["flow_tokens_per_s"], node["capacity_tokens_per_s"]
        cells = (
            node["node_type"],
            *([placement["roles"].get(node["node"], MISSING)] if "roles" in placement else []),
            MISSING if held is None else f"{held[0]}–{held[1] - 1}",
            number(node["kv_tokens"]),
            number(flow) if held else MISSING,
            number(capacity),
            percent(flow / capacity if capacity else None),
        )
        rows.setdefault(cells if is_long else node["node"], ([], cells))[0].append(node["node"])
    return [
        (nodes[0] + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""), cells) for nodes, cells in rows.values()
    ]


def plain_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = WIDTH, color: bool = False, texts: int = 0
) -> str:
    """Return a table as text; the first ``texts`` columns are aligned to the left, the others to the right."""
    return rendered([_fitted(head, rows, width, texts=texts)], width, color)


def _fitted(head: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, texts: int) -> Table:
    """Return a table whose columns are folded between words where it would be too wide."""
    from rich.text import Text

    head, rows = printable_tree(tuple(head)), [printable_tree(tuple(row)) for row in rows]
    table = _ruled()
    widths = _widths(head, rows, texts, width)
    for column, title in enumerate(head):
        table.add_column(
            Text(title), justify="left" if column < texts else "right", width=widths[column], overflow="fold"
        )
    for row in rows:
        table.add_row(*map(_emphasised, row))
    return table


def _widths(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int, width: int) -> Sequence[int | None]:
    """Return column widths that break no number, and titles and texts only between words; Nones if that is too wide."""
    columns = [(title, [row[column] for row in rows]) for column, title in enumerate(head)]
    widths = [
        max(map(len, [*title.split(), *(cells if column >= texts else " ".join(cells).split())]), default=1)
        for column, (title, cells) in enumerate(columns)
    ]
    wanted = [max(map(len, [title, *cells])) for title, cells in columns]
    spare = width - sum(widths) - 3 * (len(head) - 1)
    if spare < 0:
        return [None] * len(head)
    while spare and widths != wanted:
        for column in range(len(widths)):
            if spare and widths[column] < wanted[column]:
                widths[column] += 1
                spare -= 1
    return widths


def sorted_by_layers(placement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the ``nodes`` of a placement document sorted by first and last layer, unused ones last."""
    layers = placement["layers"]
    return sorted(
        placement["nodes"], key=lambda node: (layers[node["node"]] is None, layers[node["node"]] or [], node["node"])
    )


def _emphasised(cell: str) -> RenderableType:
    from rich.text import Text

    return Text(cell, style="bold red") if cell in {"OVERLOADED", "NO"} else Text(printable(cell, one_line=True))


def _labelled(label: str, text: str) -> RenderableType:
    from rich.text import Text

    return Text.assemble((printable(label, one_line=True), "bold"), printable(text, one_line=True))


def rendered(parts: Sequence[RenderableType], width: int, color: bool) -> str:
    """Return parts as text of this width."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=color, no_color=not color, color_system="standard" if color else None,
        highlight=False, emoji=False, markup=False, legacy_windows=False,
    )  # fmt: skip
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"
