"""Door: from what a request shows to an Identity. One for each set of rules; remembers whom it has let in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256

from serving.access.credential import token_of
from serving.access.identity import Identity
from serving.access.key import PREFIX, parts_of
from serving.access.settings import AccessRules
from serving.access.token import TokenVerifier
from serving.errors import Unauthenticated

MAX_KNOWN = 4096


class Door:
    """Checks keys and tokens. To verify a signature costs 40 to 100 µs, so good tokens are known by their hash until they expire."""

    def __init__(self, rules: AccessRules) -> None:
        self._keys = {key.id: key for key in rules.keys}
        self._quota = rules.quota
        self._identities = {key.id: self._limited(key.identity) for key in rules.keys}
        self._tokens = TokenVerifier(rules.jwt, rules.jwks) if rules.jwt is not None and rules.jwks else None
        self._known: dict[bytes, Identity] = {}

    def identify(self, headers: Mapping[bytes, bytes], now: float) -> Identity:
        """Return who sends this. Names of headers in lower case; now in seconds since 1970. Raises Unauthenticated."""
        token = token_of(headers)
        return self._by_key(token, now) if token.startswith(PREFIX) else self._by_token(token, now)

    def _by_key(self, token: str, now: float) -> Identity:
        parts = parts_of(token)
        if parts is None:
            raise Unauthenticated("this is not an API key of this server")
        number, secret = parts
        key = self._keys.get(number)
        # the same words for both, so that nobody learns which keys there are
        if key is None or not key.opens(secret):
            raise Unauthenticated("this API key is not known here; it may have been revoked, or have expired")
        if 0.0 < key.until <= now:
            raise Unauthenticated(f"the API key '{key.name}' has expired")
        return self._identities[number]

    def _by_token(self, token: str, now: float) -> Identity:
        if self._tokens is None:
            raise Unauthenticated("this is not an API key of this server, and it takes no tokens")
        digest = sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and now < known.until:
            return known
        identity = self._limited(self._tokens.identify(token, now))
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[digest] = identity
        return identity

    def _limited(self, identity: Identity) -> Identity:
        """Return somebody with the quota of all, who has none of their own."""
        return identity if identity.quota or not self._quota else replace(identity, quota=self._quota)

    def __repr__(self) -> str:
        return f"Door({len(self._keys)} keys{'' if self._tokens is None else ', tokens'})"
