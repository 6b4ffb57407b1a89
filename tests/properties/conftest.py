"""Asserts in the parts of the state machine say what they compared."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "machine", "model", "model_owners", "rules_of_children", "rules_of_clients", "rules_of_deaths"
)
