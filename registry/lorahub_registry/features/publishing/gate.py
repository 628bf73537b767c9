"""What may be published: each new file against the rules of docs/format.md.

Every fault is found before any is reported.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from lorahub.adapters.adapter_config import parse_adapter_config
from lorahub.adapters.content import Content
from lorahub.adapters.file_kinds import Taken, check_file, fault_of_name
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.model_card import validate_card
from lorahub.errors import InvalidAdapter, InvalidAdapterConfig, InvalidCard, InvalidSafetensors, LorahubError

from lorahub_registry.core.blobs.service import Blob

Read = Callable[[Blob, int, int], bytes]
"""The bytes [start, stop) of a blob."""


def check_names(paths: Iterable[str]) -> None:
    """What names tell, before anybody sends bytes. Raises as `check_new_files`."""
    _refuse([(path, fault) for path in paths if (fault := fault_of_name(path)) is not None])


def check_new_files(files: Mapping[str, Blob], *, is_adapter: bool, read: Read, taken: Taken) -> None:
    """Raises the one fault there is, or `InvalidAdapter` with all of them in `facts["findings"]`.

    `is_adapter`: the revision has an adapter_config.json, so its weights must be finite.
    """
    _refuse(
        [
            (path, fault)
            for path, blob in sorted(files.items())
            for fault in _faults(path, blob, is_adapter=is_adapter, read=read, taken=taken)
        ]
    )


def _refuse(faults: Sequence[tuple[str, LorahubError]]) -> None:
    """Raises them all as one, if there are any."""
    if not faults:
        return
    findings = [
        {"path": path, "code": fault.code, "message": fault.message, "hint": fault.hint, **_rule(fault)}
        for path, fault in faults
    ]
    first = faults[0][1]
    if len(faults) > 1:
        raise InvalidAdapter(
            f"{len(faults)} files can't be published; the first: {first.message}",
            hint=first.hint,
            findings=findings,
        )
    first.facts["findings"] = findings
    raise first


def _faults(path: str, blob: Blob, *, is_adapter: bool, read: Read, taken: Taken) -> Iterator[LorahubError]:
    """At most one: the next would be a consequence of the first."""
    try:
        check_file(path, Content(lambda start, stop: read(blob, start, stop), blob.size), taken=taken)
        _check_safetensors(path, blob, is_adapter=is_adapter)
        _check_by_name(path, blob, read)
    except (InvalidAdapter, InvalidCard) as fault:
        yield fault


def _check_safetensors(path: str, blob: Blob, *, is_adapter: bool) -> None:
    if not path.lower().endswith(".safetensors"):
        return
    found = blob.inspection
    if "fault" in found:
        raise InvalidSafetensors(f"{path}: {found['fault']['message']}", rule=found["fault"]["rule"])
    if "safetensors" not in found:
        raise InvalidSafetensors(
            f"{path} is not a safetensors file: it doesn't begin with a header length and a `{{`",
            hint="write it with safetensors.torch.save_file",
            rule="header-not-json-object",
        )
    if is_adapter and found.get("nonfinite"):
        names = ", ".join(found["nonfinite"])
        raise InvalidAdapter(
            f"{path} holds NaN or infinite values in: {names[:500]}",
            hint="the training diverged; publish an earlier checkpoint",
            tensors=found["nonfinite"],
        )


def _check_by_name(path: str, blob: Blob, read: Read) -> None:
    name = path.rpartition("/")[2]
    if name == "adapter_config.json":
        if blob.size > LIMITS.config_bytes:
            raise InvalidAdapterConfig(f"{path} has {blob.size} bytes; at most {LIMITS.config_bytes}")
        parse_adapter_config(read(blob, 0, blob.size))
    elif path == "README.md":
        report = validate_card(read(blob, 0, min(blob.size, LIMITS.card_bytes)).decode("utf-8", "replace"))
        if report.errors:
            raise InvalidCard("Invalid metadata in README.md: " + "; ".join(report.errors), errors=list(report.errors))


def _rule(fault: LorahubError) -> dict[str, str]:
    return {"rule": fault.facts["rule"]} if "rule" in fault.facts else {}
