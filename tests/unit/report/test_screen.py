"""The screen of a run: verdict, main figures and strips, at any width and with any number of systems."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_four_systems_take_about_a_screen(fake_runs) -> None:
    assert len(screen_text(fake_runs, width=80).splitlines()) <= 36
    assert re.search("^TTFT p99, s ≤ 1( +[0-9.∞]+ [✓✗]){4}$", screen_text(fake_runs, width=80), re.MULTILINE)
    head = screen_text(fake_runs, width=80).splitlines()[:4]
    assert head[0].startswith("Verdict ")


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
    rows = {row[:9]: row for row in text.splitlines()}
    for name in ("TTFT", "TPOT"):
        met = [one.figures.is_met for system in fake_runs.verdict.systems.values() for one in system.objectives
               if one.name == name]  # fmt: skip
        row = next(row for start, row in rows.items() if start == f"{name} p99,"[:9])
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
    table = re.sub(r"[^a-z0-9-]", "", text[text.index("\nsystem") :])
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
