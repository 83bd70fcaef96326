"""JSON kept as text: every number and member as it was written."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from treering.cli import jsontext
from treering.cli.jsontext import NotJson, Number


@pytest.mark.parametrize(
    ("written", "compact"),
    [
        ('{"a": 1, "b" : [ 1,\t2 ]\r\n}', '{"a":1,"b":[1,2]}'),
        ("1.0", "1.0"),
        ("1.00", "1.00"),
        ("1e5", "1e5"),
        ("-0", "-0"),
        ("-0.0e+00", "-0.0e+00"),
        ("9" * 5000, "9" * 5000),
        ("1e999999", "1e999999"),
        (' {"z":1,"a":2,"z":3} ', '{"z":1,"a":2,"z":3}'),
        (r'"\u00e9\/\u0041"', '"é/A"'),
        (r'"\ud83d\ude00"', '"😀"'),
        (r'"\uD83D alone"', r'"\ud83d alone"'),
        (r'"a\u0009b\u000a\\u0041"', r'"a\tb\n\\u0041"'),
        (r'{"\u0061 b":" \" : , "}', r'{"a b":" \" : , "}'),
        ("null", "null"),
        ('""', '""'),
    ],
)
def test_compact_keeps_numbers_and_members(written: str, compact: str) -> None:
    assert jsontext.compact(written) == compact
    assert jsontext.is_compact(compact)
    assert jsontext.is_compact(written) == (written == compact)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "{", "[1,]", '{"a":1,}', "NaN", "[Infinity]", "-Infinity", "'a'", "{a:1}"),
        *("1 2", '"\n"', '"\\x"', "01", "1.", "+1", "tru", '{"a":1}}'),
        "[" * 100_000 + "]" * 100_000,
    ],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(NotJson):
        jsontext.compact(text)
    assert not jsontext.is_compact(text)
    with pytest.raises(NotJson):
        jsontext.members(f'{{"data":{text}}}')


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),  # half surrogate pairs, too
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def can_be_read(text: str) -> bool:
    """Whether a file can hold the text: half a surrogate pair comes as an escape only."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@given(json_values, st.sampled_from([None, 1, "\t"]), st.booleans(), st.text(" \t\r\n"))
def test_compact_means_the_same_and_is_the_same_for_every_spelling(
    value: Any, indent: int | str | None, ascii_only: bool, space: str
) -> None:
    spelt = space + json.dumps(value, indent=indent, ensure_ascii=ascii_only) + space
    assume(can_be_read(spelt))
    compact = jsontext.compact(spelt)
    compact.encode()
    assert json.loads(compact) == value
    assert jsontext.is_compact(compact)
    assert jsontext.compact(json.dumps(value)) == compact


@given(st.dictionaries(st.sampled_from(["data", "id", "a"]) | st.text(), json_values, max_size=6))
def test_members_are_the_same_by_either_way(members: dict[str, Any]) -> None:
    texts = (jsontext.dumps(members), json.dumps(members), json.dumps(members, indent=1))
    for text in filter(can_be_read, texts):
        found, data = jsontext.members(text)
        assert found.keys() == members.keys()
        exactly, same_data = jsontext._members_exactly(text)
        assert data == same_data
        for name, value in found.items():
            if name != "data":
                assert value == exactly[name] and type(value) is type(exactly[name])
        if "data" in members:
            assert data is not None
            assert data == jsontext.compact(json.dumps(members["data"]))


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"data":1.00}', "1.00"),
        ('{"data":1.0,"id":"a"}', "1.0"),
        ('{"data":10}', "10"),
        ('{"data" :{"data":1}}', '{"data":1}'),
        ('{"data":{"data":{"data":2}}}', '{"data":{"data":2}}'),
        ('{"id":"\\"data\\":5","data":1e5}', "1e5"),
        ('{"\\"data":"5","data":1e5}', "1e5"),
        ('{"x":",\\"data\\":1.0","d\\u0061ta":1.00}', "1.00"),
        ('{"x":{"data":1.0},"data":1.00}', "1.00"),
        ('{"data":{"a":1,"a":2}}', '{"a":1,"a":2}'),
        ('{"data":null}', "null"),
        ('{"id":"x"}', None),
        ("{ }", None),
    ],
)
def test_data_is_what_was_written(text: str, data: str | None) -> None:
    assert jsontext.members(text)[1] == data


def test_numbers_outside_of_data_keep_their_text() -> None:
    found, _ = jsontext.members('{"a":1.50,"b":007e1,"c":1}'.replace("007e1", "7e1"))
    assert found == {"a": "1.50", "b": "7e1", "c": "1"}
    assert all(isinstance(value, Number) for value in found.values())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[1]", "not a JSON object"),
        ('{"a":1,"a":1}', "'a' is there twice"),
        ('{"a":1', "expected a comma or a closing brace at character 7"),
        ('{"a" 1}', "expected a colon at character 6"),
        ("{a:1}", "expected a name in quotes at character 2"),
        ('{"a":truu}', "expecting value at character 6"),
        ('{"a":1} {"a":1}', "more follows at character 9"),
        ('{"data":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a":"\t"}', "invalid control character at character 7"),
        ('{"data":NaN}', "NaN is not JSON"),
    ],
)
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    with pytest.raises(NotJson, match=why.replace(" (", " \\(")):
        jsontext.members(text)
