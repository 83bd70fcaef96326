import json

import pytest

from treering import Appended, Checkpoint
from treering.v1 import event_store_service_pb2 as pb

LOG, EVENT = "0193b1c8-0000-7000-8000-000000000001", "0193b1c8-0000-7000-8000-000000000002"


@pytest.mark.parametrize(
    "checkpoint",
    [Checkpoint(LOG, 7, EVENT), Checkpoint(LOG, 0), Checkpoint("", 2**63 - 1)],
)
def test_a_checkpoint_is_kept_as_one_line_of_text(checkpoint):
    text = checkpoint.to_str()
    assert "\n" not in text
    assert json.dumps(text) == f'"{text}"'
    assert Checkpoint.from_str(text) == checkpoint
    assert Checkpoint.from_str(f" {text}\n") == checkpoint
    assert str(checkpoint) == text


@pytest.mark.parametrize("text", ["", "7", "a/b/c", "a/-1/", "a/1", "a/1/b/c", "a b/1/"])
def test_other_text_is_no_checkpoint(text):
    with pytest.raises(ValueError, match="no checkpoint"):
        Checkpoint.from_str(text)


@pytest.mark.parametrize(
    ("appends", "events"),
    [
        ([["a", EVENT]], []),
        ([["a", EVENT], []], []),
        ([["a"], ["b"]], ["c", EVENT]),
        ([], [EVENT]),
    ],
)
def test_an_append_ends_at_a_whole_checkpoint(appends, events):
    answer = pb.AppendResponse(first_position=1, last_position=2, log_id=LOG)
    request = pb.AppendRequest(
        appends=[{"events": [{"id": each} for each in ids]} for ids in appends],
        events=[{"id": each} for each in events],
    )
    assert Appended.from_proto(answer, request).checkpoint == Checkpoint(LOG, 2, EVENT)
