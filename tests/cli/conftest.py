"""What several commands are tried on."""

from collections.abc import Iterator

import pytest

from genprm.prms.load import BUILT_IN_PATH
from tests.engines.conftest import need_vllm
from tests.prms.servers import vllm_server


@pytest.fixture(scope="package")
def nano_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`vllm serve` with the built-in judge; its base URL."""
    need_vllm()
    with vllm_server(BUILT_IN_PATH, tmp_path_factory.mktemp("server") / "log.txt") as url:
        yield url
