"""What an object store's refusal means, and what to do about it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from obstore.exceptions import NotSupportedError

from isae.errors import StoreError


@dataclass(frozen=True)
class Settings:
    """The environment variables of one kind of bucket."""

    prefix: str
    credentials: str
    endpoints: tuple[str, ...] = ()


SETTINGS = {
    "s3": Settings(
        "AWS_",
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN for temporary ones)",
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    ),
    "gs": Settings("GOOGLE_", "GOOGLE_APPLICATION_CREDENTIALS (a key file)"),
    "az": Settings(
        "AZURE_",
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    ),
    "memory": Settings("", "nothing"),
}
_ABSENT_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
# Without credentials the library asks the machine it runs on (cloud machines have a role).
_NO_CREDENTIALS = (
    "/latest/api/token",
    "/latest/meta-data",
    "computeMetadata",
    "/metadata/identity",
    "Missing AccessKeyId",
    "Missing SecretAccessKey",
    "Account must be specified",
)
_WRONG_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidClientTokenId",
    "AuthFailure",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "TokenRefreshRequired",
    "401",
}
_UNREACHABLE = (
    "error sending request",
    "timed out",
    "connection",
    "Connection",
    "error decoding response body",
)
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IncorrectEndpoint", "301"}
_NOT_SUPPORTED = {"NotImplemented", "501"}
_ANSWERS = (  # the last one: what S3 says of one object of several to delete
    r"status code: (\d{3})\b",
    r"<Code>\s*(\w{1,60})\s*</Code>",
    r"\(code: (\w{1,60})\)",
)
_PAST_THE_END = re.compile(r"InvalidRange|status code: 416|Wanted range starting at")


def is_past_the_end(error: Exception) -> bool:
    """Whether a range was refused because it starts at or beyond the end of the object."""
    return _PAST_THE_END.search(_said(error)) is not None


def bucket_is_absent(error: Exception) -> bool:
    """Whether the answer names the bucket as what is not there."""
    return any(sign in _said(error) for sign in _ABSENT_BUCKET)


def explained(scheme: str, url: str, name: str, error: Exception) -> StoreError:
    """The error for a request about `name` in the place `url`; shows no credentials."""
    settings = SETTINGS[scheme]
    found, remedy = _of_rights(settings, url, error) or _of_server(settings, error)
    return StoreError(f"expected access to {name}, found {found}; {remedy}")


def _of_rights(settings: Settings, url: str, error: Exception) -> tuple[str, str] | None:
    """What was found and what to do, where credentials, rights or the bucket's name are wrong."""
    text, answer = _said(error), _answer(error)
    if any(sign in text for sign in _NO_CREDENTIALS):
        return "no credentials", f"set {settings.credentials} in the environment"
    if bucket_is_absent(error) or isinstance(error, FileNotFoundError):
        bucket = "/".join(url.split("/")[:3])
        return (
            f"no bucket {bucket} at {_server(settings)}",
            "make it, or mend its name or the endpoint",
        )
    if answer & _WRONG_CREDENTIALS:
        return f"credentials refused ({_shown(error)})", f"mend {settings.credentials}"
    if answer & {"403", "AccessDenied"}:
        return (
            f"access denied ({_shown(error)})",
            f"check the credentials ({settings.credentials}) and their rights: to list the bucket "
            "and to read its objects, for a build also to put and delete them",
        )
    return None


def _of_server(settings: Settings, error: Exception) -> tuple[str, str]:
    """What was found and what to do, where the server or the way to it is not as expected."""
    text, answer, shown = _said(error), _answer(error), _shown(error)
    if answer & _WRONG_REGION or "Received redirect" in text:
        return f"a bucket of another region ({shown})", "set AWS_REGION to the bucket's"
    if "builder error" in text:
        return (
            f"an endpoint that cannot be used ({_server(settings)})",
            "give it as https://..., or, where it is plain http://, set "
            f"{settings.prefix}ALLOW_HTTP=true",
        )
    if answer & _NOT_SUPPORTED or isinstance(error, NotImplementedError | NotSupportedError):
        return (
            f"a server that cannot do what was asked ({shown})",
            "use one with conditional puts (If-None-Match), or build on a local disk and copy",
        )
    if not answer and any(sign in text for sign in _UNREACHABLE):
        return (
            f"no answer from {_server(settings)}",
            "check the endpoint and the network, then run again",
        )
    if isinstance(error, ValueError):
        return "an address that cannot be used", "check the bucket's name and the endpoint"
    return f"a failure of the server ({shown})", "run again later"


def _said(error: Exception) -> str:
    """What obstore says, without the dump of its own structures."""
    return str(error).partition("\n\nDebug source:")[0]


def _answer(error: Exception) -> set[str]:
    """The HTTP status and the error code in a server's answer."""
    found = (re.search(pattern, _said(error)) for pattern in _ANSWERS)
    return {match[1] for match in found if match}


def _shown(error: Exception) -> str:
    return " ".join(sorted(_answer(error))) or type(error).__name__


def _server(settings: Settings) -> str:
    """Host and port of the endpoint; never the user that somebody wrote into it."""
    given = next((os.environ[name] for name in settings.endpoints if os.environ.get(name)), None)
    if given is None:
        return "the cloud's own servers"
    try:
        parts = urlsplit(given if "://" in given else f"//{given}")
        host, port = parts.hostname or "?", parts.port
    except ValueError:
        return "an endpoint that is no address"
    return f"{host}:{port}" if port else host
