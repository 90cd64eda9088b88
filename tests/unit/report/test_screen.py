"""The screen of a run: verdict, main figures and strips, at any width and with any number of systems."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.domain.figures import ClassFigures, ObjectiveFigures
from helixsim.report.classes import class_rows
from helixsim.report.html import Charts, render_html
from helixsim.report.screen import placements_text, screen_text
from helixsim.report.strip import letters_of, strips
from helixsim.report.verdict_rows import SYMBOLS
from helixsim.results.runset import RunSet


@pytest.mark.parametrize("width", [70, 80, 100, 120, 160])
@pytest.mark.parametrize("verbose", [False, True])
def test_every_line_fits_and_every_system_is_there(fake_runs, width, verbose) -> None:
    text = screen_text(fake_runs, width=width, verbose=verbose)
    assert max(map(len, text.splitlines())) <= width
    for name in fake_runs:
        assert name in text
    assert "\x1b" not in text


def test_four_systems_take_about_twenty_lines(fake_runs) -> None:
    one = fake_runs["helix"]
    runs = {name: replace(one, name=name) for name in ("helix", "swarm", "petals", "separate")}
    four = RunSet("four", "helix", fake_runs.slo, runs, dict.fromkeys(runs, fake_runs.comparisons["helix"]))
    lines = screen_text(four, width=80).splitlines()
    assert len(lines) <= 24
    assert lines[0].startswith("Verdict ")
    assert any(line.startswith("Next ") for line in lines)
    assert len([line for line in lines if re.match("(helix|swarm|petals|separate) ", line)]) == 8  # figures and strips


def test_wider_screens_have_the_same_rows_and_more_columns(fake_runs) -> None:
    def head(width):
        lines = screen_text(fake_runs, width=width).splitlines()
        place = next(number for number, line in enumerate(lines) if line.startswith("system "))
        return set(f"{lines[place - 1]} {lines[place]}".split())

    assert head(80) < head(120) <= head(200)


def test_classes_have_a_row_each_with_the_systems_side_by_side(fake_runs) -> None:
    own = {"chat": (1.25, 0.5, False), "batch": (12.5, 1.0, True)}
    one = fake_runs["helix"]
    summary = one.summary

    def figures(goodput, share):
        return ClassFigures(3, 0, 2.0, goodput, share, summary.ttft, summary.tpot, summary.e2el)

    with_classes = replace(
        summary, setting=None,
        classes={name: figures(goodput, share) for name, (goodput, share, _) in own.items()},
        objectives={f"{name} TTFT": ObjectiveFigures(1.0, 99.0, 0.5 if is_met else 3.0, share)
                    for name, (_, share, is_met) in own.items()},
    )  # fmt: skip
    runs = {name: replace(one, name=name, summary=with_classes) for name in ("a", "b", "c", "d", "e", "f")}
    classed = RunSet("x", "a", fake_runs.slo, runs, dict.fromkeys(runs, fake_runs.comparisons["helix"]))
    text = screen_text(classed, width=80)
    assert max(map(len, text.splitlines())) <= 80
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith(tuple(own))}
    for name, (goodput, share, is_met) in own.items():
        cell = f"{goodput:.3g} ({share:.0%}) {SYMBOLS['met' if is_met else 'missed']}".replace("%", " %")
        assert 1 < rows[name].count(cell) < len(runs)
    assert f"{len(runs) - rows['chat'].count('1.25')} more systems with -v" in text
    page = render_html(classed, Charts((), (), ()), {}, "")
    assert page.count('class="bad">1.25 (50 %) ✗</td>') == page.count('class="good">12.5 (100 %) ✓</td>') == len(runs)
    assert "class" not in screen_text(fake_runs, width=80)


@pytest.mark.parametrize("others", [(), ("third",)])
def test_a_class_has_the_mark_of_the_general_objectives_if_it_alone_has_them(fake_runs, others) -> None:
    one = fake_runs["helix"]
    summary = one.summary
    figures = ClassFigures(3, 0, 2.0, 1.0, 0.5, summary.ttft, summary.tpot, summary.e2el)
    objectives = {"TTFT": ObjectiveFigures(1.0, 99.0, 3.0, 0.5), "batch TTFT": ObjectiveFigures(9.0, 99.0, 3.0, 1.0)}
    found = replace(summary, setting=None, classes=dict.fromkeys(("batch", "chat", *others), figures),
                    objectives=objectives)  # fmt: skip
    runs = RunSet("x", "a", fake_runs.slo, {"a": replace(one, name="a", summary=found)},
                  {"a": fake_runs.comparisons["helix"]})  # fmt: skip
    rows = {row.name: row.cells[0][0][-1] for row in class_rows(runs)}
    assert (rows["batch"], rows["chat"]) == ("✓", ")" if others else "✗")


def test_sentences_are_those_of_the_summary(fake_runs) -> None:
    text = " ".join(screen_text(fake_runs, width=100, verbose=True).split())
    for one in fake_runs.document()["verdict"]["answer"]:
        assert f"{one['title']} {one['text']}" in text


def test_one_doubt_is_shown_and_the_others_are_counted(fake_runs) -> None:
    text = screen_text(fake_runs, width=120)
    doubts = [one for one in fake_runs.document()["verdict"]["answer"] if one["title"] == "Doubt"]
    assert len(re.findall("^Doubt ", text, re.MULTILINE)) == 1
    assert f"{len(doubts) - 1} more with -v." in text
    assert len(re.findall("^Doubt ", screen_text(fake_runs, width=120, verbose=True), re.MULTILINE)) == len(doubts) > 2


def test_doubts_about_other_systems_are_counted_where_the_best_has_none(fake_runs) -> None:
    from helixsim.report.screen import verdict_lines
    from helixsim.report.tables import rendered

    verdict = fake_runs.verdict
    best = replace(verdict.systems[verdict.best], doubts=())
    lines = verdict_lines(replace(verdict, systems={**verdict.systems, verdict.best: best}))
    said = re.findall("^Doubt +(.*)$", rendered(lines, 120, color=False), re.MULTILINE)
    assert [re.sub("[0-9]+", "N", text) for text in said] == ["N about other systems, with -v."]


def test_marks_are_those_of_the_verdict(fake_runs) -> None:
    text = screen_text(fake_runs, width=120)
    for name, system in fake_runs.verdict.systems.items():
        row = re.search(f"^{name} .*$", text, re.MULTILINE)[0]
        met = [system.is_met, *(one.figures.is_met for one in system.objectives)]
        assert [mark == SYMBOLS["met"] for mark in re.findall("[✓✗]", row)] == met


def test_colours_have_meanings(fake_runs) -> None:
    text = screen_text(fake_runs, color=True)
    missed = [line for line in text.splitlines() if "✗" in line]
    assert missed
    assert all("\x1b[1;31m" in line or "\x1b[33m" in line for line in missed)
    plain = re.sub("\x1b\\[[0-9;]*m", "", text)
    assert [line.rstrip() for line in plain.splitlines()] == screen_text(fake_runs).splitlines()


def test_long_names_are_not_cut_in_the_table(fake_runs) -> None:
    one = fake_runs["helix"]
    names = [f"{'a-long-name-of-a-system-' * 3}{number}" for number in range(3)]
    runs = {name: replace(one, name=name) for name in names}
    many = RunSet("many", names[0], fake_runs.slo, runs, dict.fromkeys(runs, fake_runs.comparisons["helix"]))
    text = screen_text(many, width=80)
    assert max(map(len, text.splitlines())) <= 80
    table = re.sub(r"[^a-z0-9-]", "", text[text.index("system") :])
    for name in names:
        assert name[-12:] in table
    assert f"None: {names[1]} is equal." in " ".join(screen_text(many, width=160).split())


def test_many_systems_are_rows_of_one_table(fake_runs) -> None:
    one = fake_runs["helix"]
    runs = {f"system-{number:02}": replace(one, name=f"system-{number:02}") for number in range(12)}
    many = RunSet("many", "system-00", fake_runs.slo, runs, dict.fromkeys(runs, fake_runs.comparisons["helix"]))
    text = screen_text(many, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for name in runs:
        assert len(re.findall(rf"^{name} +[✓✗–]", text, re.MULTILINE)) == 1


PLACEMENTS = st.lists(
    st.tuples(st.sampled_from(["a100-40g", "a100-80g", "l4", "h100x8"]), st.integers(0, 15), st.integers(1, 16)),
    min_size=1,
    max_size=14,
)


@given(PLACEMENTS, st.integers(30, 120))
def test_strips_show_every_node_with_layers_once(drawn, width) -> None:
    nodes = [{"node": f"n{place}", "node_type": kind, "flow_tokens_per_s": 1.0 + place}
             for place, (kind, _, _) in enumerate(drawn)]  # fmt: skip
    layers = {f"n{place}": [start, min(16, start + held)] if held < 16 else None
              for place, (_, start, held) in enumerate(drawn)}  # fmt: skip
    one = {"num_layers": 16, "nodes": nodes, "layers": layers, "replicas": []}
    lines = strips({"x": one}, width, most_lanes=None)
    letters = letters_of(node["node_type"] for node in nodes)
    assert len(set(letters.values())) == len(letters)
    seen: Counter[str] = Counter()
    for _, text in lines[1:]:
        times = re.match(r" *(\d+)× ", text)
        lane = text[times.end() :] if times else text
        lane = lane.partition("without layers")[0]
        for letter in letters.values():
            seen[letter] += lane.count(letter) * (int(times[1]) if times else 1)
    held = Counter(letters[node["node_type"]] for node in nodes if layers[node["node"]] is not None)
    assert +seen == +held
    if len(held) and sum(held.values()) < len(nodes):
        assert any("without layers" in text for _, text in lines)


def test_placements_have_a_row_and_a_strip_each(fake_runs) -> None:
    documents = {name: run.placement_document for name, run in fake_runs.items()}
    text = placements_text(documents, width=80)
    for name in documents:
        assert len(re.findall(rf"^{re.escape(name)} ", text, re.MULTILINE)) == 2
    assert "5 of 6" in text
    assert "without layers: 1 t4" in text
