"""What holds for a whole project is not for a credential that is limited to some entities."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from core.errors import PermissionDeniedError
from core.principal import Principal
from memories.adding import service as adding
from memories.browse import saved_views
from memories.browse.selection import Selection
from memories.demo import service as demo
from memories.providers import service as providers

DOORS: dict[str, Callable[[Principal], Any]] = {
    "instructions": lambda who: providers.configure(who, {"custom_instructions": "brief"}),
    "nothing at all": lambda who: providers.configure(who, {}),
    "providers": lambda who: providers.configure(who, {"llm": None}),
    "sample data": demo.fill_project,
    "sample data removed": demo.remove_demo,
    "failed adds": adding.failed_adds,
    "a failed add again": lambda who: adding.retry_add(who, uuid4()),
    "a shared view": lambda who: saved_views.save(who, "all", Selection(), shared=True),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_limited_credential_is_refused_whatever_its_scopes(
    engine: Any, owner: Principal, door: str
) -> None:
    limited = replace(owner, entity_limit={"user_id": frozenset({"alice"})})
    with pytest.raises(PermissionDeniedError, match="limited to some entities"):
        DOORS[door](limited)
