"""What checks the generated files can fail, and says why."""

import pytest

import api_reference
import protos

WANTED = {"event_pb2.py": b"1", "event_pb2.pyi": b"2"}


def test_stubs_as_they_would_be_made_pass():
    assert protos.check(WANTED, dict(WANTED)) == []


@pytest.mark.parametrize(
    ("found", "problems"),
    [
        (WANTED | {"event_pb2.py": b"other"}, ["out of date: event_pb2.py"]),
        (WANTED | {"event_pb2.pyi": b""}, ["out of date: event_pb2.pyi"]),
        ({"event_pb2.py": b"1"}, ["missing: event_pb2.pyi"]),
        (WANTED | {"query_pb2_grpc.py": b"3"}, ["of no proto: query_pb2_grpc.py"]),
        ({}, ["missing: event_pb2.py", "missing: event_pb2.pyi"]),
    ],
    ids=["changed", "cut-off", "missing", "stale", "none"],
)
def test_stubs_that_differ_are_named(found, problems):
    assert protos.check(WANTED, found) == problems


@pytest.mark.parametrize("text", ["", "# The API\n", None], ids=["empty", "cut-off", "missing"])
def test_a_reference_that_differs_is_named(text, tmp_path, monkeypatch, capsys):
    page = tmp_path / "api.md"
    if text is not None:
        page.write_text(text)
    monkeypatch.setattr(api_reference, "ROOT", tmp_path)
    monkeypatch.setattr(api_reference, "PAGE", page)

    assert api_reference.main(["--check"]) == 1
    assert "api.md is out of date" in capsys.readouterr().out

    assert api_reference.main([]) == 0
    assert api_reference.main(["--check"]) == 0


def test_the_reference_has_every_method_and_type_of_the_api():
    page = api_reference.page()

    for file in protos.descriptors().file:
        if file.package == "treering.v1":
            for service in file.service:
                for method in service.method:
                    assert f"### {service.name}.{method.name}\n" in page
            for message in file.message_type:
                assert f"### {message.name}\n" in page
                for field in message.field:
                    assert f"`{field.name}`" in page
            for enum in file.enum_type:
                assert f"### {enum.name}\n" in page
