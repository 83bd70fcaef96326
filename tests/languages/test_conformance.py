"""What any language has written, every language reads as it was meant."""

import pytest

from languages import LANGUAGES, Language
from servers import ServerProcess

pytestmark = pytest.mark.timeout(1800)  # The first builds fetch and compile all of gRPC.


@pytest.mark.parametrize("writer", LANGUAGES, ids=lambda language: language.name)
def test_all_read_what_one_wrote(
    writer: Language, database_url: str, subtests: pytest.Subtests
) -> None:
    writer.prepare()
    with ServerProcess(database_url) as server:
        variables = {"TREERING_SERVER": server.address}
        writer.run("conformance", "write", variables=variables)
        for reader in LANGUAGES:
            with subtests.test(reader=reader.name):
                reader.prepare()
                reader.run("conformance", "check", variables=variables)
                reader.run("conformance", "repeat", variables=variables)
