"""The example of every language, against a real server on both databases."""

import pytest

from languages import EXAMPLES, Language, RestartableServer

pytestmark = pytest.mark.timeout(1800)  # The first builds fetch and compile all of gRPC.


@pytest.mark.parametrize("language", EXAMPLES, ids=lambda language: language.name)
def test_example(language: Language, database_url: str) -> None:
    language.prepare()
    with RestartableServer(database_url) as server:
        language.run("test", variables=server.variables)
        assert server.restarts > 0
