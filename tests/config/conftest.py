"""Fixtures of the tests of `config/`."""

from __future__ import annotations

import pytest

from tests.config.shipped import Certificates, make_certificates
from tests.conftest import find_program


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of one CA, made by the commands of the documentation."""
    find_program("openssl", "openssl")
    return make_certificates(tmp_path_factory.mktemp("certificates"), more=("web-2", "web-team"))
