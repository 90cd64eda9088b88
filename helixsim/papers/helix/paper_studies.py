"""Figures beside the comparison of methods: load curves, flow against simulation, searches over time, and nodes.

Each function takes rows of plain values, the same that are written as CSV beside the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from helixsim.papers.helix.paper_figures import COLUMN_STYLES, Rows
from helixsim.report.style import GREY, LINE_STYLES, NODE_TYPE_COLORS, SYSTEM_COLORS, colors_of, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PUBLISHED_SEARCHES: tuple[dict[str, Any], ...] = (
    {"color": "#000000", "linestyle": "--"}, {"color": "#777777", "linestyle": "-."},
    {"color": "#777777", "linestyle": (0, (1, 1))},
)  # fmt: skip
_NEAR = 0.06
"""Points are close if they differ by less than this share of the largest value in both directions."""
_LABEL_OF_A_THIRD = 36
"""Letters of a label that fit into a third of the width of a figure."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def load_curves(rows: Rows, labels: Mapping[str, str]) -> Figure:
    """Draw output tokens/s and requests/s within the SLO against the offered rate, a row per cluster.

    Bands are 95 % intervals of output tokens/s, and what the seeds range over of requests/s within the SLO.
    """
    clusters = _distinct(rows, "cluster")
    figure = new_figure(2.5 * len(clusters) + 0.4)
    axes = figure.subplots(len(clusters), 2, squeeze=False)
    colors = colors_of(labels, SYSTEM_COLORS)
    for line, cluster in zip(axes, clusters, strict=True):
        largest = max((row["offered_rps"] for row in rows if row["cluster"] == cluster), default=1.0)
        line[1].plot(
            [0, largest], [0, largest], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), label="all that is offered"
        )
        for number, (method, label) in enumerate(labels.items()):
            own = [row for row in rows if (row["cluster"], row["method"]) == (cluster, method)]
            if not own:
                continue
            x = [row["offered_rps"] for row in own]
            look = {"color": colors[method], "linestyle": LINE_STYLES[number % len(LINE_STYLES)], "label": label,
                    "marker": _MARKERS[number % len(_MARKERS)], "markersize": 4, "linewidth": 1.4}  # fmt: skip
            for axis, value, low, high in (
                (line[0], "output_tokens_per_s", "low", "high"),
                (line[1], "goodput_rps", "goodput_least", "goodput_most"),
            ):
                axis.plot(x, [row[value] for row in own], **look)
                limits = [(row[low], row[high]) for row in own]
                if None not in {limit for pair in limits for limit in pair}:
                    bottom, top = zip(*limits, strict=True)
                    axis.fill_between(
                        x, [max(0.0, b) for b in bottom], top, color=colors[method], alpha=0.13, linewidth=0
                    )
        for axis, label in zip(line, ("output tokens/s", "requests/s within the SLO"), strict=True):
            axis.set_title(cluster)
            axis.set_xlabel("offered requests/s")
            axis.set_ylabel(label)
            axis.set_xlim(left=0)
            axis.set_ylim(bottom=0)
    _legend_of(figure, axes[:, 1].tolist(), 7)
    return figure


def proxy_cloud(rows: Rows) -> Figure:
    """Draw the tokens/s that placements serve against their max-flow, one axis per cluster, hops beside each point."""
    clusters = _distinct(rows, "cluster")
    figure = new_figure(3.1)
    axes = figure.subplots(1, len(clusters), squeeze=False)[0]
    families = {"paper's": "#E69F00", "helixsim's": "#0072B2", "heuristics": "#009E73"}
    for axis, cluster in zip(axes, clusters, strict=True):
        for number, (family, color) in enumerate(families.items()):
            own = [row for row in rows if row["cluster"] == cluster and _family(row["system"]) == family]
            if not own:
                continue
            x = [row["max_flow_tokens_per_s"] for row in own]
            y = [row["tokens_per_s"] for row in own]
            if all(row["low"] is not None for row in own):
                error = [[v - row["low"] for v, row in zip(y, own, strict=True)],
                         [row["high"] - v for v, row in zip(y, own, strict=True)]]  # fmt: skip
                axis.errorbar(x, y, yerr=error, fmt="none", ecolor=color, capsize=2, linewidth=0.8, alpha=0.7)
            axis.plot(x, y, _MARKERS[number], color=color, markersize=5.5, label=family, markeredgecolor="black",
                      markeredgewidth=0.4)  # fmt: skip
        _label_hops(axis, [row for row in rows if row["cluster"] == cluster])
        largest = max(row["max_flow_tokens_per_s"] for row in rows if row["cluster"] == cluster)
        axis.plot(
            [0, largest], [0, largest], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), label="served = max-flow"
        )
        axis.set_title(cluster)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("served prompt + output tokens/s")
    # One label for all: three of them do not fit beside each other.
    figure.supxlabel("max-flow, tokens/s (beside a point: its mean hops)", fontsize=axes[0].xaxis.label.get_size())
    _legend_of(figure, axes.tolist(), 4)
    return figure


def proxy_pairs(rows: Rows, pairs: Mapping[str, tuple[str, str]]) -> Figure:
    """Draw max-flow and served tokens/s of two placements about as deep, cluster by cluster."""
    from matplotlib.patches import Patch

    figure = new_figure(2.6)
    axes = figure.subplots(1, 2)
    looks = (COLUMN_STYLES["as published"], COLUMN_STYLES["fair"])
    for axis, key, label in (
        (axes[0], "max_flow_tokens_per_s", "max-flow, tokens/s"),
        (axes[1], "tokens_per_s", "served prompt + output tokens/s"),
    ):
        for place, (cluster, systems) in enumerate(pairs.items()):
            for number, (system, look) in enumerate(zip(systems, looks, strict=True)):
                found = [row for row in rows if (row["cluster"], row["system"]) == (cluster, system)]
                for row in found:
                    _pair_bar(axis, place + (number - 0.5) * 0.36, row, key, look)
        axis.set_xticks(range(len(pairs)), list(pairs))
        axis.set_ylabel(label)
        axis.grid(visible=False, axis="x")
        axis.margins(y=0.22)
    handles = [
        Patch(label=name, **look) for name, look in zip(("the paper's", "helixsim's, as deep"), looks, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def draw_searches(rows: Rows) -> Figure:
    """Draw the best max-flow over time, ours in colour and published ones in grey, with the proven bounds of ours."""
    figure = new_figure(3.6)
    axis = figure.subplots()
    ours = _distinct([row for row in rows if row["source"] != "published"], "search")
    theirs = _distinct([row for row in rows if row["source"] == "published"], "search")
    looks: dict[str, dict[str, Any]] = {title: {"color": color} for title, color in colors_of(ours).items()}
    looks |= dict(zip(theirs, cycle(_PUBLISHED_SEARCHES), strict=False))
    for title, look in looks.items():
        own = [row for row in rows if row["search"] == title]
        points = [(max(row["seconds"], 0.1), row["objective_tokens_per_s"]) for row in own]
        label = title if points[-1][1] else f"{title} (finds none)"
        axis.step(*zip(*points, strict=True), where="post", linewidth=1.6, label=label, **look)
        axis.plot(*points[-1], "o", color=look["color"], markersize=4, clip_on=False)
        bounds = [(max(row["seconds"], 0.1), row["bound_tokens_per_s"]) for row in own if row["bound_tokens_per_s"]]
        if title in ours and bounds:
            axis.step(*zip(*bounds, strict=True), where="post", color=look["color"], linewidth=0.9, linestyle=":")
    axis.set_xscale("log")
    axis.set_xlabel("seconds (their solver: 20 threads; ours: one)")
    axis.set_ylabel("max-flow, tokens/s (dotted: bound)")
    axis.set_ylim(bottom=0)
    longest = max(len(label) for label in axis.get_legend_handles_labels()[1])
    figure.legend(loc="outside upper center", ncols=3 if longest <= _LABEL_OF_A_THIRD else 2)
    return figure


def layers_of_nodes(rows: Rows) -> Figure:
    """Draw the layers of each node as a bar, one panel per placement, shaded by the share of time it computes."""
    from matplotlib.patches import Patch

    placements = _distinct(rows, "placement")
    most = max(sum(row["placement"] == name for row in rows) for name in placements)
    lines = -(-len(placements) // 2)
    figure = new_figure((0.13 * most + 0.75) * lines + 0.4)
    axes = figure.subplots(lines, 2, squeeze=False).ravel().tolist()
    for spare in axes[len(placements) :]:
        spare.remove()
    colors = colors_of(sorted(_distinct(rows, "kind")), NODE_TYPE_COLORS)
    for axis, name in zip(axes, placements, strict=False):
        own = sorted(
            (row for row in rows if row["placement"] == name), key=lambda r: (r["first_layer"], r["end_layer"])
        )
        for y, row in enumerate(own):
            width = row["end_layer"] - row["first_layer"]
            axis.barh(y, width, left=row["first_layer"], height=0.82, color=colors[row["kind"]],
                      alpha=0.2 + 0.8 * min(1.0, row["busy"]), edgecolor="black", linewidth=0.3)  # fmt: skip
            axis.text(row["end_layer"] + 0.5, y, f"{row['busy']:.0%}", va="center", fontsize=5.5, color=GREY)
        axis.set_yticks(range(len(own)), [row["node"] for row in own], fontsize=5.5)
        axis.set_xlim(0, 1.09 * max(row["end_layer"] for row in own))  # room for the share beside the last
        axis.set_ylim(len(own) - 0.4, -0.6)
        axis.set_xlabel("layer")
        axis.set_title(name)
        axis.grid(visible=False, axis="y")
    handles = [Patch(color=color, label=kind) for kind, color in colors.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def stays_at_nodes(rows: Rows) -> Figure:
    """Draw the mean time of a visit at each node, one panel per system, with published values of single nodes.

    Published values stand in the first panel.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = _distinct(rows, "placement")
    figure = new_figure(1.75 * len(names) + 0.8)
    axes = figure.subplots(len(names), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    colors = colors_of(sorted(_distinct(rows, "kind")), NODE_TYPE_COLORS)
    for axis, name in zip(axes, names, strict=True):
        own = [row for row in rows if row["placement"] == name]
        shades = [colors[row["kind"]] for row in own]
        axis.bar(range(len(own)), [row["stay_s"] for row in own], color=shades, edgecolor="black", linewidth=0.4)
        said = [(x, row["published_stay_s"]) for x, row in enumerate(own) if row["published_stay_s"] is not None]
        if said and name == names[0]:
            axis.plot(*zip(*said, strict=True), "D", color="black", markersize=4.5)
        axis.set_xticks(range(len(own)), [row["node"] for row in own], rotation=90, fontsize=7)
        axis.tick_params(labelbottom=True)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        axis.set_ylabel("mean stay, s")
        axis.set_title(name)
        axis.grid(visible=False, axis="x")
    handles: list[Any] = [Patch(color=color, label=kind) for kind, color in colors.items()]
    handles.append(
        Line2D([], [], marker="D", color="black", markersize=4.5, linestyle="none", label="published, prompts")
    )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _pair_bar(axis: Axes, x: float, row: Mapping[str, Any], key: str, look: Mapping[str, Any]) -> None:
    value = row[key]
    axis.bar(x, value, width=0.33, linewidth=0.7, **look)
    top = value
    if key == "tokens_per_s" and row["low"] is not None:
        top = max(value, row["high"])
        axis.errorbar(x, value, yerr=[[value - row["low"]], [row["high"] - value]], fmt="none", ecolor="#D55E00",
                      capsize=2.5, linewidth=1.1)  # fmt: skip
    axis.annotate(
        f"{value:.0f}\n{row['mean_hops']:.0f} hops", (x, top), xytext=(0, 2), textcoords="offset points", ha="center",
        va="bottom", fontsize=6.5,
    )  # fmt: skip


def _label_hops(axis: Axes, rows: Rows) -> None:
    """Put the mean hops beside each point; a point that lies close to labelled ones has its number further down."""
    width, height = (max(row[key] for row in rows) or 1.0 for key in ("max_flow_tokens_per_s", "tokens_per_s"))
    placed: list[tuple[float, float, str]] = []
    for row in rows:
        x, y, text = row["max_flow_tokens_per_s"] / width, row["tokens_per_s"] / height, f"{row['mean_hops']:.0f}"
        near = [known for at_x, at_y, known in placed if abs(at_x - x) < _NEAR and abs(at_y - y) < _NEAR]
        if text not in near:
            axis.annotate(
                text, (row["max_flow_tokens_per_s"], row["tokens_per_s"]), xytext=(4, 3 - 8 * len(near)),
                textcoords="offset points", fontsize=6.5, color=GREY,
            )  # fmt: skip
        placed.append((x, y, text))


def _family(system: str) -> str:
    if system == "published" or system.startswith("paper-"):
        return "paper's"
    return "helixsim's" if system == "helix" or system.startswith("flow-") else "heuristics"


def _legend_of(figure: Figure, axes: Sequence[Axes], most_columns: int) -> None:
    """Put one legend above the figure for all that any of the axes shows."""
    shown: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            shown.setdefault(name, handle)
    figure.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=min(len(shown), most_columns))


def _distinct(rows: Rows, key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))
