"""What a content key depends on: everything that decides a result, and nothing that only presents it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from helixsim.runtime import identity
from helixsim.runtime.identity import code_digest, content_key, plugin_digest

PACKAGE = Path(identity.__file__).parents[1]


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Thing:
    name: str
    size: float
    hint: int = field(default=0, compare=False)


DIFFERENT = [
    None, True, 1, 1.0, "1", b"1", (), (1,), ((1,),), (1, 2), (2, 1), {}, {"a": 1}, {"a": 2}, {"b": 1}, {1}, {1, 2},
    Colour.RED, Path("a"), "a", Thing("a", 1.0), Thing("a", 2.0), Thing("b", 1.0), ("a", "b"), ("ab",), 0.1 + 0.2, 0.3,
    ("x" * 100,), ("x" * 101,),
]  # fmt: skip


def test_different_inputs_have_different_keys():
    keys = [content_key(value) for value in DIFFERENT]
    assert len(set(keys)) == len(keys)
    assert content_key("a", "b") != content_key("ab")
    assert content_key("a", ("b",)) != content_key(("a",), "b")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1, 2], (1, 2)),
        (np.float64(0.1), 0.1),
        ({"x", "yy", "zzz"}, {"zzz", "x", "yy"}),
        (Thing("a", 1.0, hint=1), Thing("a", 1.0, hint=2)),
    ],
)
def test_equal_inputs_have_equal_keys(one, other):
    assert content_key(one) == content_key(other)


def test_what_has_no_canonical_form_is_refused():
    with pytest.raises(TypeError, match="object has no canonical form"):
        content_key((object(),))


@pytest.mark.parametrize("library", identity.LIBRARIES)
def test_versions_of_libraries_enter(monkeypatch, library):
    before = content_key("x")
    monkeypatch.setattr(identity, "library_versions", lambda: {**dict.fromkeys(identity.LIBRARIES, "1"), library: "99"})
    assert content_key("x") != before


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Copy the package, as an installation of its own."""
    root = tmp_path_factory.mktemp("installation")
    shutil.copytree(PACKAGE, root / "helixsim", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "traces" / "lengths", root / "traces" / "lengths")
    return root


def digest_of(root):
    script = "from helixsim.runtime.identity import code_digest; print(code_digest())"
    answer = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    return answer.stdout


DECIDING = (
    "engine/worker.py", "metrics/latency.py", "routing/walk.py", "batching/policies.py", "flow/maxflow.py",
    "placement/helix.py", "hardware/roofline.py", "workload/arrivals.py", "domain/cluster.py", "config/resolve.py",
    "study/evaluator.py", "solver.py", "rng.py", "units.py",
)  # fmt: skip
PRESENTING = ("report/html.py", "report/rows.py", "cli/run.py", "papers/helix/report_text.py", "runtime/store.py")


def test_code_that_decides_enters_and_code_that_presents_does_not(copy):
    before = digest_of(copy)
    assert before == code_digest() + "\n"
    for name in PRESENTING:
        with (copy / "helixsim" / name).open("a") as file:
            file.write("# another text\n")
    assert digest_of(copy) == before
    seen = {before}
    for name in DECIDING:
        path = copy / "helixsim" / name
        text = path.read_text()
        path.write_text(f"{text}#\n")
        seen.add(digest_of(copy))
        path.write_text(text)
    assert len(seen) == len(DECIDING) + 1
    assert digest_of(copy) == before
    histogram = copy / "traces" / "lengths" / "azure-code.json"
    histogram.write_text(histogram.read_text() + " ")
    assert digest_of(copy) != before


def test_every_part_left_out_exists():
    assert [part for part in identity.PRESENTING if not (PACKAGE / part).exists()] == []


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes the user's modules and forgets those that were loaded."""
    monkeypatch.syspath_prepend(tmp_path)
    names = ("own_policy", "own_helper", "own_parts", "own_parts.inner")

    def write(**files):
        for name in names:
            sys.modules.pop(name, None)
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_a_plugin_enters_with_all_of_the_users_own_that_it_imports(module):
    module(
        own_policy="import own_helper\nclass P: ...\n",
        own_helper="from own_parts import inner\n",
        own_parts__inner="A = 1\n",
    )
    before = plugin_digest("own_policy:P")
    assert plugin_digest("own_policy:Q") == before  # the module counts, not the class
    module()
    assert plugin_digest("own_policy:P") == before
    for name, text in (
        ("own_policy", "import own_helper\nclass P: x = 1\n"),
        ("own_helper", "from own_parts import inner as i\n"),
        ("own_parts__inner", "A = 2\n"),
    ):
        module(**{name: text})
        assert plugin_digest("own_policy:P") != before
        before = plugin_digest("own_policy:P")


def test_a_module_that_is_imported_later_enters_too(module):
    text = "class P:\n    def route(self):\n        import own_helper\n"
    module(own_policy=text, own_helper="A = 1\n")
    before = plugin_digest("own_policy:P")
    module(own_helper="A = 2\n")
    assert plugin_digest("own_policy:P") != before


def test_the_key_is_that_of_the_code_that_is_loaded(module):
    module(own_policy="class P: ...\n")
    before = plugin_digest("own_policy:P")
    Path(sys.modules["own_policy"].__file__).write_text("class P: x = 1\n")
    assert plugin_digest("own_policy:P") == before


def test_code_without_a_file_has_a_key_of_its_own_in_every_process():
    script = """
import sys, types
from helixsim.runtime.identity import plugin_digest
sys.modules["ghost"] = types.ModuleType("ghost")
assert plugin_digest("ghost:P") == plugin_digest("ghost:P")
print(plugin_digest("ghost:P"))
"""
    command = [sys.executable, "-c", script]
    answers = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(answers) == 2
