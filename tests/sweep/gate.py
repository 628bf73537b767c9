"""The gate of a registry in this process: what it says to an adapter that is pushed must be what the check says.

It has the headers of the base alone. It is asked what publishing would say, every step but the recording, so that a
trial leaves nothing behind.
"""

import atexit
import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import wire
from in_process import OWNER, App, running
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.check import Report, check
from lorahub.adapters.files import BytesFiles
from lorahub.adapters.findings import Verdict
from lorahub.adapters.manifest import MANIFEST, SCHEMA
from lorahub.adapters.reader import read_adapter
from lorahub.protocol.names import RepositoryName
from lorahub_registry.core.accounts import service as accounts
from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.features.bases import service as bases
from lorahub_registry.features.publishing import service as publishing

_REPOSITORY = RepositoryName.parse(f"{OWNER}/tried")
_LINE_BYTES = 1 << 30  # adapters of image models have their true widths


@dataclass(frozen=True, slots=True)
class _Registry:
    app: App
    owner: Principal


@cache
def _registry() -> _Registry:
    """One for all trials of the process."""
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    home = Path(until_exit.enter_context(tempfile.TemporaryDirectory()))
    app = until_exit.enter_context(running(home, commit_line_bytes=_LINE_BYTES))
    wire.create_repo(app.client, str(_REPOSITORY))
    account = accounts.find_account(app.backend, OWNER)
    with app.backend.database.read() as session:
        return _Registry(app, accounts.acting_for(session, account.id))


def registered(base: BaseLayout) -> BaseLayout:
    """The base, by the name that the registry knows it by."""
    registry, layout, config = _registry(), base.layout_text(), json.dumps(base.config, sort_keys=True)
    digest = hashlib.sha256(f"{layout}{config}".encode()).hexdigest()  # layouts alone may be those of two classes
    new = bases.NewBase(f"{OWNER}/{digest[:32]}", "", layout, json.loads(config), {"model.safetensors": digest})
    bases.register(registry.app.backend, registry.owner, new)
    return base.named(new.name)


def judge(contents: Mapping[str, bytes], base: BaseLayout) -> tuple[Report, str]:
    """What the check says of an adapter's files, and in which words the gate disagrees; empty where it doesn't."""
    manifest = {"schema": SCHEMA, "base": {"name": base.name}}
    files = {**contents, MANIFEST: json.dumps(manifest).encode()}
    report = check(read_adapter(BytesFiles(files)), base)
    said = _examined(files)
    if said.judged is not None:
        theirs = said.judged.report
        ours = (report.verdict.value, report.matched, report.of)
        if (found := (said.judged.verdict, theirs["matched"], theirs["of"])) != ours:
            return report, f"the check says {ours}, the gate {found}"
    is_taken = said.judged is not None and said.refusal is None
    if is_taken == (report.verdict is Verdict.INCOMPATIBLE):
        return report, f"the check says {report.verdict.value}, the gate {'takes' if is_taken else 'refuses'} it"
    return report, ""


def _examined(files: Mapping[str, bytes]) -> publishing.Examined:
    lines = [{"key": "header", "value": {"summary": "a trial"}}, *(wire.inline(*file) for file in files.items())]
    body = io.BytesIO("".join(f"{json.dumps(line)}\n" for line in lines).encode())
    registry = _registry()
    return publishing.examine(registry.app.backend, registry.owner, _REPOSITORY, "main", body)
