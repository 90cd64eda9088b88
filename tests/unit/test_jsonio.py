from __future__ import annotations

import pytest

from helixsim import jsonio
from helixsim.errors import DataError


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"{", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b'{"a": 1}\n{"a": 2}', "2 JSON documents"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "key 'b' occurs twice"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b"\xff\xfe{\x00", "not UTF-8"),
        (None, "no such file"),
    ],
)
def test_what_is_not_one_sound_document_is_a_short_data_error(tmp_path, content, said) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        jsonio.load(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < len(str(path)) + 250


def test_a_byte_order_mark_is_no_part_of_the_document(tmp_path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, {"b": null}]}\n')
    assert jsonio.load(path) == {"a": [1, {"b": None}]}


def test_documents_that_follow_each_other_are_told_apart() -> None:
    assert jsonio.documents('{"a": 1}\n{"a": 2}\n\n[3]\n', "x") == [{"a": 1}, {"a": 2}, [3]]
