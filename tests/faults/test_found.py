"""What the histories found: each of these failed before."""

import pytest

from calls import append, append_to, make_event
from faulty import lose_the_answer, lose_the_commit, make_faulty
from servers import InProcessServer
from traffic import connect, stub


@pytest.mark.parametrize("fault", [lose_the_answer, lose_the_commit])
async def test_a_repeat_is_called_one_also_if_a_commit_of_its_own_had_no_known_end(
    monkeypatch, database_url, fault
):
    """The server settles its second attempt; but its first attempt wrote nothing: the caller's
    first append did."""
    storages = make_faulty(monkeypatch)
    async with InProcessServer(database_url) as server, connect(server.address) as channel:
        request = append_to("a", make_event())
        first = await append(stub(channel), request)
        storages[0].commits.append(fault)
        again = await append(stub(channel), request)
        assert again.first_position == first.first_position
        assert again.duplicate
