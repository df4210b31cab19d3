"""Tokens, for who administrates them. None is made here: that takes the machine."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Security

from workers.web.api.access import BEARER, ApiService, needing, service_of
from workers.web.api.models import Token
from workers.web.auth import tokens
from workers.web.auth.tokens import Scope

admins = APIRouter(
    route_class=needing(Scope.ADMIN), dependencies=[Security(BEARER)], tags=["tokens"]
)
Shared = Annotated[ApiService, Depends(service_of)]


@admins.get("/tokens")
def list_tokens(service: Shared) -> list[Token]:
    """All that there ever were, without their secrets."""
    return [Token.of(row) for row in tokens.listed(service.database)]


@admins.delete("/tokens/{token_id}")
def revoke_token(
    service: Shared, token_id: Annotated[str, Path(pattern=r"^[0-9a-f]{12}$")]
) -> Token:
    """Take one back, at once and for good."""
    return Token.of(tokens.revoke(service.database, token_id))
