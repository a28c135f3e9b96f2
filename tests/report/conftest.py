import pytest
from report_folders import build


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Output folders to report on; tests that change them copy them first."""
    return build(tmp_path_factory.mktemp("world"))
