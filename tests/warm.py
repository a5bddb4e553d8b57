"""Imported once by the server of forked runs, which then have the pages read and merged, as tests in process do."""

import pytest

from tests.pages import compose_once, composed

compose_once(pytest.MonkeyPatch())
composed()
