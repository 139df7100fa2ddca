"""What a request shows of who sends it, in each of the ways that clients have. Pure.

    Authorization: Bearer TOKEN            a key or a JSON Web Token
    Authorization: Basic base64(USER:KEY)  the password is the key, whoever the user says to be (tritonclient's BasicAuth plugin)
    x-api-key: KEY

As headers of HTTP or as metadata of gRPC. `Authorization` counts where both are there.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from collections.abc import Mapping

from serving.errors import Unauthenticated

MAX_TOKEN_BYTES = 8192
CHALLENGE = b'WWW-Authenticate: Bearer realm="serving", Basic realm="serving"\r\n'
"""The line that an answer 401 has to carry (RFC 9110 11.6.1)."""


def token_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the key or token that is shown. Header names in lower case. Raises Unauthenticated where none can be read."""
    given = headers.get(b"authorization")
    if given is None:
        key = headers.get(b"x-api-key")
        if key is None:
            raise Unauthenticated("this server asks who you are: send an API key or a token, Authorization: Bearer …, or x-api-key: …")
        return _text(key.strip())
    scheme, _, rest = given.strip().partition(b" ")
    kind = scheme.lower()
    if kind == b"bearer":
        return _text(rest.strip())
    if kind == b"basic":
        try:
            _, colon, password = b64decode(rest.strip(), validate=True).partition(b":")
        except (Error, ValueError):
            raise Unauthenticated("Authorization: Basic is not base64 of USER:KEY") from None
        if not colon:
            raise Unauthenticated("Authorization: Basic is not base64 of USER:KEY")
        return _text(password)
    raise Unauthenticated("Authorization is neither Bearer nor Basic")


def _text(token: bytes) -> str:
    if not token:
        raise Unauthenticated("the key or token is empty")
    if len(token) > MAX_TOKEN_BYTES:
        raise Unauthenticated(f"the key or token is longer than {MAX_TOKEN_BYTES} bytes")
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise Unauthenticated("the key or token is not ASCII text") from None
