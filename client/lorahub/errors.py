"""Every error of lorahub, client and server, in one tree. A class is a row of the table in docs/errors.md:
its `code` travels as `X-Error-Code`, `status` is the HTTP answer, `exit_code` the command's exit status.

LorahubError
├── Refusal                  what was asked can't be; the text is the asker's to act on
│   ├── InvalidUsage         the command or its configuration is wrong   InvalidReference · InvalidConfiguration
│   ├── InvalidInput         what was sent can't be understood           InvalidName · InvalidPath · InvalidDigest
│   │   │                                                                InvalidCard · MalformedBody
│   │   │                                                                UnsupportedMediaType · UnknownHost
│   │   │                                                                InvalidBaseModel · NotConvertible
│   │   │                                                                NotMergeable · InvalidRecipe
│   │   │                                                                InvalidTrainingData
│   │   └── InvalidAdapter   the bytes are not a usable adapter          InvalidSafetensors · InvalidGguf
│   │                                                                    InvalidAdapterConfig · UnsafeFile
│   │                                                                    AdapterDoesNotFit
│   ├── IntegrityMismatch    the bytes are not the promised ones         DigestMismatch · SizeMismatch
│   │                                                                    InvalidSignature · InvalidBundle
│   ├── AccessRefused        who you are is unknown or not enough        NotAuthenticated · InvalidToken · NotPermitted
│   │                                                                    GatedRepository · Quarantined
│   │                                                                    ContentBlocked · UnsafeEndpoint
│   ├── NotFound             it isn't there, or not visible to you       RepositoryNotFound · RepositoryMoved
│   │                                                                    RevisionNotFound · EntryNotFound
│   │                                                                    AccountNotFound · BlobNotFound · BaseNotFound
│   │                                                                    RouteNotFound
│   ├── Conflict             it is there already, or has moved           AlreadyExists · ParentMoved · NameRetired
│   │                                                                    ProtectedReference · VersionYanked
│   │                                                                    BlobVanished · IdempotencyKeyReused
│   │                                                                    PreconditionFailed
│   ├── LimitExceeded        more than this server takes                 PayloadTooLarge · HeaderTooLong · QuotaExceeded
│   │                                                                    MergeTooLarge · RangeNotSatisfiable
│   │                                                                    TooManyRequests · TooSlow
│   └── NotSupported         a part of the Hub's protocol that lorahub leaves out
└── Fault                    it couldn't be done now, whatever the answer would have been
    ├── Unavailable          the registry, the network or the disk       RegistryUnreachable · RegistryFailed · DiskFull
    │                                                                    Busy · BeingMade
    ├── BlobDamaged          the stored bytes are lost or changed
    ├── Interrupted          Ctrl-C
    ├── TrainingStopped      a training run ended before its end         TrainingDiverged · TrainingInterrupted
    └── Bug                  of lorahub's own

The two families are never caught together: a fault is no answer, so no code may take it for "it isn't there" and go on.
Whoever goes on without something catches the refusal that says so, by its class. `LorahubError` itself is caught where
everything ends only (tests/project/test_errors.py has the list).
"""

from collections.abc import Iterator
from typing import Any, ClassVar


class LorahubError(Exception):
    """`message` says what was found and why it is refused, `hint` what to do next.

    `facts` are the values behind the message (paths, digests, findings), JSON-ready.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    exit_code: ClassVar[int]
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts: dict[str, Any] = facts
        self.request_id: str | None = None


class Refusal(LorahubError):
    """An answer: what was asked can't be, and asking again changes nothing."""


class Fault(LorahubError):
    """No answer: ours or the world's failure, whatever the answer would have been."""


class InvalidUsage(Refusal):
    """The command line or the configuration is wrong."""

    code, status, exit_code = "Usage", 400, 2


class InvalidReference(InvalidUsage):
    """Not `[scheme:][//host/]namespace/name[@revision]`."""

    code = "InvalidReference"


class InvalidConfiguration(InvalidUsage):
    """A setting, a configuration file or an environment variable can't be used."""

    code = "InvalidConfiguration"


class InvalidInput(Refusal):
    """The request can't be understood."""

    code, status, exit_code = "InvalidInput", 400, 2


class InvalidName(InvalidInput):
    """Not a usable name for an account, a repository, a branch, a version or an alias."""

    code = "InvalidName"


class InvalidPath(InvalidInput):
    """Not a usable path of a file inside a revision."""

    code, status = "InvalidPath", 422


class InvalidDigest(InvalidInput):
    """Not 64 lower-case hex digits."""

    code = "InvalidDigest"


class InvalidCard(InvalidInput):
    """The metadata block of README.md can't be used; `facts["errors"]` lists every fault."""

    code = "InvalidCard"


class MalformedBody(InvalidInput):
    """The request body is not the JSON, NDJSON, form, xorb or shard it should be."""

    code = "MalformedBody"


class UnsupportedMediaType(InvalidInput):
    """The request body is compressed or of another type than this route takes."""

    code, status = "UnsupportedMediaType", 415


class UnknownHost(InvalidInput):
    """The request is for a host whose name isn't the registry's."""

    code, status = "UnknownHost", 421


class InvalidAdapter(InvalidInput):
    """A file that can't be published."""

    code, status, exit_code = "InvalidAdapter", 422, 7


class InvalidSafetensors(InvalidAdapter):
    """The header breaks a rule of docs/format.md; `facts["rule"]` names it."""

    code = "InvalidSafetensors"


class InvalidGguf(InvalidAdapter):
    """The header of a GGUF file breaks a rule; `facts["rule"]` names it."""

    code = "InvalidGguf"


class InvalidAdapterConfig(InvalidAdapter):
    """adapter_config.json is not a JSON object that can be stored and served."""

    code = "InvalidAdapterConfig"


class UnsafeFile(InvalidAdapter):
    """A format that runs code when it is loaded, or one disguised as another."""

    code = "UnsafeFile"


class AdapterDoesNotFit(InvalidAdapter):
    """The adapter doesn't fit the base it names; `facts["findings"]` says why."""

    code = "AdapterDoesNotFit"


class InvalidBaseModel(InvalidInput):
    """Files or a layout that are no base model."""

    code, status, exit_code = "InvalidBaseModel", 422, 7


class InvalidTrainingData(InvalidInput):
    """Lines of a training file that can't be used; `facts["problems"]` has each with its line."""

    code, status, exit_code = "InvalidTrainingData", 422, 7


class NotConvertible(InvalidInput):
    """The adapter can't be written in the other format without a loss, or is more than pairs of factors that can be
    swapped.
    """

    code, status, exit_code = "NotConvertible", 422, 7


class NotMergeable(InvalidInput):
    """No arithmetic on this base's weights stands for the adapter, or the result's dtype can't hold a number of it."""

    code, status, exit_code = "NotMergeable", 422, 7


class InvalidRecipe(InvalidInput):
    """The recipe of a merge can't be read, or asks for what doesn't exist."""

    code, status, exit_code = "InvalidRecipe", 422, 2


class IntegrityMismatch(Refusal):
    """The bytes are not the promised ones."""

    code, status, exit_code = "IntegrityMismatch", 422, 7


class DigestMismatch(IntegrityMismatch):
    """The sha256 of the bytes differs from the declared one."""

    code = "DigestMismatch"


class SizeMismatch(IntegrityMismatch):
    """The number of bytes differs from the declared one."""

    code = "SizeMismatch"


class InvalidBundle(IntegrityMismatch):
    """A bundle that is damaged, was changed, or is not signed by whom it should be."""

    code = "InvalidBundle"


class InvalidSignature(IntegrityMismatch):
    """The key has not signed exactly these files; `facts["paths"]` are those that differ."""

    code = "InvalidSignature"


class AccessRefused(Refusal):
    """Not allowed."""

    code, status, exit_code = "AccessRefused", 403, 4


class NotAuthenticated(AccessRefused):
    """A token is needed and none was sent."""

    code, status = "NotAuthenticated", 401


class InvalidToken(AccessRefused):
    """The token is unknown, expired or revoked.

    The Hub's clients recognise this case by its text and by the absence of `X-Error-Code`.
    """

    code, status = "InvalidToken", 401


class NotPermitted(AccessRefused):
    """The token is good, but doesn't allow this."""

    code = "NotPermitted"


class GatedRepository(AccessRefused):
    """The repository is visible, but its files are for an authorized list."""

    code = "GatedRepo"


class Quarantined(AccessRefused):
    """An administrator took the repository out of circulation; `facts["reason"]`, for its members."""

    code = "Quarantined"


class ContentBlocked(AccessRefused):
    """An administrator blocked these bytes by their sha256, wherever they are."""

    code = "ContentBlocked"


class UnsafeEndpoint(AccessRefused):
    """Sending the token there could hand it to somebody else; nothing was sent."""

    code = "UnsafeEndpoint"


class NotFound(Refusal):
    """It isn't there, or not visible to the caller: the two look the same."""

    code, status, exit_code = "NotFound", 404, 5


class RepositoryNotFound(NotFound):
    """No such repository, or a private one of somebody else."""

    code = "RepoNotFound"


class RevisionNotFound(NotFound):
    """The repository has no such branch, version, alias or commit."""

    code = "RevisionNotFound"


class RepositoryMoved(NotFound):
    """The repository has another name now; the answer leads there."""

    code, status = "RepoMoved", 307


class EntryNotFound(NotFound):
    """The revision has no such file; `facts["commit"]` is the revision's commit."""

    code = "EntryNotFound"


class AccountNotFound(NotFound):
    """No such user or organisation."""

    code = "AccountNotFound"


class BlobNotFound(NotFound):
    """The caller has not uploaded these bytes, and can't read them anywhere."""

    code, status = "BlobNotFound", 400


class BaseNotFound(NotFound):
    """No base model is known by this name or digest."""

    code = "BaseNotFound"


class EventsForgotten(NotFound):
    """Events after the number that was asked for are no longer kept; `facts["oldest"]` is where the rest begins."""

    code, status = "EventsForgotten", 410


class RouteNotFound(NotFound):
    """No such route on this registry."""

    code = "RouteNotFound"


class Conflict(Refusal):
    """It is there already, or somebody else was first."""

    code, status, exit_code = "Conflict", 409, 6


class AlreadyExists(Conflict):
    """The name is in use."""

    code = "AlreadyExists"


class ParentMoved(Conflict):
    """The branch is no longer at the commit that the change was made for."""

    code, status = "ParentMoved", 412


class PreconditionFailed(Conflict):
    """What is read is not the content that `If-Match` names; `facts["etag"]` is the tag of what is there."""

    code, status = "PreconditionFailed", 412


class NameRetired(Conflict):
    """The name belonged to something that was deleted or renamed; names are never given out again."""

    code, status = "NameRetired", 410


class ProtectedReference(Conflict):
    """A version, which never moves, or an alias that its owners protected."""

    code = "ProtectedReference"


class VersionYanked(Conflict):
    """The version was withdrawn; it is served when named exactly, never through an alias."""

    code = "VersionYanked"


class IdempotencyKeyReused(Conflict):
    """The key of a repeated request came with another request; nothing of it was kept."""

    code, status = "IdempotencyKeyReused", 422


class BlobVanished(Conflict):
    """Uploaded bytes were collected before the commit named them; send them again."""

    code, retryable = "BlobVanished", True


class LimitExceeded(Refusal):
    """More than this server takes."""

    code, status, exit_code = "LimitExceeded", 422, 2


class PayloadTooLarge(LimitExceeded):
    """A body, a line, a file or a list is over its bound."""

    code, status = "PayloadTooLarge", 413


class HeaderTooLong(LimitExceeded):
    """The lines before the body of a request are over their bound."""

    code, status = "HeaderTooLong", 431


class QuotaExceeded(LimitExceeded):
    """A namespace's or an account's quota is used up; the message has the numbers."""

    code, status = "QuotaExceeded", 413


class MergeTooLarge(LimitExceeded):
    """A merge costs more than is allowed; told from headers, before anything is allocated."""

    code, status = "MergeTooLarge", 422


class RangeNotSatisfiable(LimitExceeded):
    """The requested bytes lie behind the end of the file; `facts["size"]` is its size."""

    code, status = "RangeNotSatisfiable", 416


class TooManyRequests(LimitExceeded):
    """Wait and try again; `facts["retry_after"]` seconds."""

    code, status, exit_code, retryable = "TooManyRequests", 429, 8, True


class TooSlow(LimitExceeded):
    """A request whose bytes come too slowly; send it again."""

    code, status, exit_code, retryable = "TooSlow", 408, 8, True


class BlobDamaged(Fault):
    """The stored bytes are lost, or no longer the ones that were published; they are not served. Push the file again
    to heal it.
    """

    code, status, exit_code = "BlobDamaged", 410, 7


class Interrupted(Fault):
    """Ctrl-C; what has arrived is kept."""

    code, status, exit_code, retryable = "Interrupted", 500, 130, True


class TrainingStopped(Fault):
    """A training run ended before its end; what it had is kept in its folder."""

    code, status, exit_code = "TrainingStopped", 500, 1


class TrainingDiverged(TrainingStopped):
    """A loss or a gradient that is not a finite number; `facts` name the step, the batch and its lines."""

    code, exit_code = "TrainingDiverged", 7


class TrainingInterrupted(TrainingStopped):
    """A signal came; the run goes on with --resume."""

    code, exit_code, retryable = "TrainingInterrupted", 130, True


class NotSupported(Refusal):
    """The Hub has this, lorahub doesn't."""

    code, status, exit_code = "NotSupported", 501, 2


class Unavailable(Fault):
    """The registry, the network or the disk."""

    code, status, exit_code, retryable = "Unavailable", 503, 8, True


class RegistryUnreachable(Unavailable):
    """No answer after the retries."""

    code = "RegistryUnreachable"


class RegistryFailed(Unavailable):
    """An answer that is no answer: 5xx, or not the protocol."""

    code, status = "RegistryFailed", 502


class DiskFull(Unavailable):
    """No space left; nothing half-written is visible."""

    code, status = "DiskFull", 507


class Busy(Unavailable):
    """Everything that does this kind of work has had its hands full for too long; `facts["retry_after"]` seconds."""

    code = "Busy"


class BeingMade(Unavailable):
    """A file of a merged revision that a worker makes, once, for all who want it; ask again in
    `facts["retry_after"]` seconds.
    """

    code = "BeingMade"


class Bug(Fault):
    """A bug in lorahub; the message has the request id to report."""

    code, status, exit_code = "Bug", 500, 70


_OF_THIS_MACHINE = (Bug, Interrupted, TrainingStopped)


def all_errors(root: type[LorahubError] = LorahubError) -> Iterator[type[LorahubError]]:
    """`root`, unless it is one of the three that only have others below them, and everything below it, depth first."""
    if root not in (LorahubError, Refusal, Fault):
        yield root
    for child in root.__subclasses__():
        yield from all_errors(child)


def error_class(code: str | None, status: int) -> type[LorahubError]:
    """The class that an answer with this `X-Error-Code` and HTTP status stands for.

    A bug, an interruption or a training's end at the other side is none here: it is a registry that failed.
    """
    for candidate in all_errors():
        if code is not None and candidate.code == code and not issubclass(candidate, _OF_THIS_MACHINE):
            return candidate
    by_status: dict[int, type[LorahubError]] = {
        401: InvalidToken,
        403: NotPermitted,
        404: NotFound,
        408: Unavailable,
        409: Conflict,
        410: NameRetired,
        412: ParentMoved,
        413: PayloadTooLarge,
        416: RangeNotSatisfiable,
        422: InvalidInput,
        429: TooManyRequests,
        501: NotSupported,
        507: DiskFull,
    }
    if status >= 500:
        return by_status.get(status, RegistryFailed)
    return by_status.get(status, InvalidInput)
