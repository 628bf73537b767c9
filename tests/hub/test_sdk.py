"""The SDK as one meets it: what can be seen of it, what a type checker says, and that its examples run."""

import doctest
import importlib
import inspect
import json
import os
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lorahub
import numpy as np
import pytest
from builders import safetensors_bytes, write_adapter
from lorahub import Hub
from lorahub.errors import AlreadyExists, EntryNotFound, NotPermitted
from lorahub.hub.bases import hash_folder
from lorahub.hub.progress import NotebookBar, Silence, shown
from registry_process import IN_A_FOLDER, Registry, serve
from sdk_examples import NEED_A_MODEL, NEED_A_REGISTRY

NewUser = Callable[[], tuple[str, str]]


# --- what there is ----------------------------------------------------------------------------------------------------


def python(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_every_name_is_seen_before_it_is_imported_and_importing_lorahub_is_light() -> None:
    program = (
        "import sys, lorahub\n"
        "assert set(lorahub.__all__) <= set(dir(lorahub))\n"
        "heavy = {'torch', 'numpy', 'rich', 'httpx2', 'yaml', 'tomlkit', 'platformdirs', 'asyncio', 'lorahub.hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python(program) == "[]"


def test_without_torch_the_package_can_be_looked_at_and_says_what_is_missing() -> None:
    program = (
        "import sys, lorahub\n"
        "sys.modules['torch'] = None\n"
        "found = {name: getattr(lorahub, name) for name in lorahub.__all__}\n"
        "for use in (found['train'], found['Session']):\n"
        "    try: use('./llama', 'rows.jsonl')\n"
        "    except lorahub.errors.InvalidConfiguration as error: print(error.message, '|', error.hint)\n"
    )
    lines = [
        f"lorahub.{name} needs PyTorch and transformers, and torch is not installed"
        " | pip install 'lorahub-registry[train]'"
        for name in ("train", "Session")
    ]
    assert python(program).splitlines() == lines


def test_a_type_checker_refuses_wrong_names_and_wrong_arguments(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import lorahub\n"
        "def use(hub: lorahub.Hub) -> None:\n"
        "    hub.push('./out', 'acme/sql').version.upper()\n"
        "    hub.set_visibility('acme/sql', 'private')\n"
        "    lorahub.Hubb()\n"
        "    hub.pushh('./out')\n"
        "    hub.push('./out', 'acme/sql', massage='x')\n"
        "    hub.pull('acme/sql').pth\n"
        "    hub.set_visibility('acme/sql', 'secret')\n"
        "    lorahub.check(7)\n"
        "    [one.verdikt for one in lorahub.check('./out')]\n"
    )
    packages = ("lorahub", "lorahub_registry", "program")  # strict, and with what `make types` has read before
    command = [sys.executable, "-m", "mypy", *(word for package in packages for word in ("-p", package))]
    result = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MYPYPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error:" in line]
    assert sorted(set(wrong)) == [5, 6, 7, 8, 9, 10, 11], result.stdout + result.stderr


def public(thing: Any) -> Iterator[tuple[str, Any]]:
    """A class and its methods, as they are called; or a function."""
    yield thing.__name__, thing
    if inspect.isclass(thing):
        for name, part in vars(thing).items():
            function = getattr(part, "__func__", part)
            if inspect.isfunction(function) and not name.startswith("_"):
                yield f"{thing.__name__}.{name}", function


def surface() -> dict[str, Any]:
    things = [getattr(lorahub, name) for name in lorahub.__all__]
    return {name: thing for one in things if callable(one) for name, thing in public(one)}


def takes_anything(hint: Any) -> bool:
    inner = [*typing.get_args(hint)]
    flat = [part for one in inner for part in (one if isinstance(one, list) else [one])]
    return hint is Any or any(map(takes_anything, flat))


@pytest.mark.torch
def test_nothing_public_takes_or_gives_just_anything() -> None:
    from lorahub.merging.recipe import Recipe
    from lorahub.protocol.bundles import Manifest

    later = {"Recipe": Recipe, "Manifest": Manifest}
    loose = [
        f"{name}: {of}"
        for name, thing in surface().items()
        for of, hint in typing.get_type_hints(thing, localns=later).items()
        if takes_anything(hint) and not inspect.isclass(thing)
    ]
    assert loose == []


@pytest.mark.torch
def test_every_public_name_has_an_example() -> None:
    ours = {name: thing for name, thing in surface().items() if not issubclass_of_errors(thing)}
    of_hub = {name: thing for name, thing in ours.items() if "." not in name or name.startswith("Hub.")}
    assert [name for name, thing in of_hub.items() if ">>> " not in (thing.__doc__ or "")] == []


def issubclass_of_errors(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, lorahub.LorahubError)


# --- examples ---------------------------------------------------------------------------------------------------------


def write_llama(folder: Path, *, width: int = 16) -> Path:
    """What the adapter of `builders` fits, where it is 16 wide."""
    folder.mkdir()
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)]
    tensors = {name: np.full((width, width), number, np.float32) for number, name in enumerate(names)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, str, Path]]:
    """A registry with what the examples name: (registry, the token of acme, the folder to run them in)."""
    home = tmp_path_factory.mktemp("acme")
    running = serve(home / "registry", IN_A_FOLDER)
    token = running.add_user("acme")
    for other in ("ada", "bob"):
        running.add_user(other)
    base = write_llama(home / "llama")
    write_llama(home / "narrow", width=8)
    with Hub(running.url, token=token) as hub:
        hub.organisations.create("acme-research")
        hub.bases.add(hash_folder(base, Silence()), "acme/llama")
        for seed in (1, 0):
            write_adapter(home / "out", seed=seed, base="acme/llama")
            for name in ("old", "draft", "wrong", "sql")[:: -1 if seed else 1]:
                hub.push(home / "out", f"acme/{name}", base="acme/llama")
        hub.set_alias("acme/sql@v2", "champion")
        hub.set_alias("acme/sql@v1", "unused")
    yield running, token, home
    running.kill()


@pytest.mark.parametrize("module", NEED_A_REGISTRY)
def test_examples_of_the_sdk_run(
    module: str, acme: tuple[Registry, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, token, folder = acme
    for name, value in {"ENDPOINT": registry.url, "TOKEN": token, "HOME": str(folder / "home")}.items():
        monkeypatch.setenv(f"LORAHUB_{name}", value)
    monkeypatch.chdir(folder)
    with Hub() as hub:
        said = doctest.testmod(importlib.import_module(module), extraglobs={"hub": hub})
    assert said.attempted > 0
    assert said.failed == 0


@pytest.mark.torch
def test_examples_of_training_and_serving_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.text_model import save_text_model

    save_text_model(tmp_path / "llama")
    rows = [{"prompt": f"{number} + 1 =", "completion": str(number + 1)} for number in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for module in NEED_A_MODEL:
        assert doctest.testmod(importlib.import_module(module)).failed == 0


# --- what is new in it ------------------------------------------------------------------------------------------------


def test_a_repository_is_renamed_hidden_and_asked_for(
    registry: Registry, new_user: NewUser, adapter: Path, tmp_path: Path
) -> None:
    (name, token), (_, others) = new_user(), new_user()
    before, after = f"{name}/before", f"{name}/after"
    with Hub(registry.url, token=token) as hub, Hub(registry.url, token=others) as theirs:
        hub.push(adapter, before)
        with pytest.raises(NotPermitted):
            theirs.rename(before, after)
        hub.push(write_adapter(tmp_path / "other", seed=5), f"{name}/taken")
        with pytest.raises(AlreadyExists):
            hub.rename(before, f"{name}/taken")
        hub.rename(before, after)
        assert (hub.exists(after), hub.exists(f"{after}@v1"), hub.exists(f"{after}@v2")) == (True, True, False)
        assert hub.revision(before).commit == hub.revision(after).commit
        assert theirs.exists(after)
        hub.set_visibility(after, "private")
        assert (hub.exists(after), theirs.exists(after)) == (True, False)
        assert {one.id: one.visibility for one in hub.repositories()} == {
            after: "private",
            f"{name}/taken": "public",
        }
        assert [one.id for one in theirs.repositories(name)] == [f"{name}/taken"]


def test_one_file_is_brought_and_no_other(registry: Registry, user: tuple[str, str], adapter: Path) -> None:
    with Hub(registry.url, token=user[1]) as hub:
        hub.push(adapter, f"{user[0]}/sql")
        place = hub.file(f"{user[0]}/sql", "README.md")
        assert place.read_bytes() == (adapter / "README.md").read_bytes()
        assert [path.name for path in place.parent.iterdir()] == ["README.md"]
        with pytest.raises(EntryNotFound):
            hub.file(f"{user[0]}/sql", "nothing.txt")


def test_a_notebook_shows_tables_and_whatever_is_written_in_them_as_text(
    registry: Registry, user: tuple[str, str], adapter: Path, tmp_path: Path
) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    (adapter / f"{hostile[:4]}.txt").write_text("x")
    with Hub(registry.url, token=user[1]) as hub:
        hub.push(adapter, f"{user[0]}/sql", message=hostile)
        hub.yank(f"{user[0]}/sql@v1", hostile)
        hub.push(write_adapter(adapter, seed=2), f"{user[0]}/sql", message=hostile)
        versions, revision = hub.versions(f"{user[0]}/sql"), hub.revision(f"{user[0]}/sql@v1")
    narrow = write_llama(tmp_path / hostile.replace(" ", "").replace("/", ""), width=8)
    checks = lorahub.check(adapter, narrow)
    for one in (versions, revision, checks, checks[0]):
        page = one._repr_html_()
        assert "<table>" in page
        assert "<img" not in page
        assert "&lt;img" in page
    assert "<td>v2</td>" in versions._repr_html_()
    assert "<td>LH202</td>" in checks[0]._repr_html_()
    assert "adapter_model.safetensors</td>" in revision._repr_html_()


def test_progress_is_shown_in_a_notebook_and_nowhere_unasked(
    registry: Registry, user: tuple[str, str], adapter: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    with Hub(registry.url, token=user[1]) as hub:
        hub.push(adapter, f"{user[0]}/sql")
    assert capfd.readouterr() == ("", "")
    shows: list[str] = []

    class Handle:
        def update(self, shown: NotebookBar) -> None:
            shows.append(shown._repr_html_())

    class Shell:
        config: typing.ClassVar = {"IPKernelApp": {}}

    class Notebook:  # as IPython's package, where the kernel of a notebook runs
        get_ipython = staticmethod(Shell)

        @staticmethod
        def display(shown: NotebookBar, *, display_id: bool) -> Handle:
            assert display_id
            shows.append(shown._repr_html_())
            return Handle()

    monkeypatch.setitem(sys.modules, "IPython", Notebook)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", Notebook)  # type: ignore[arg-type]
    assert isinstance(shown("auto"), NotebookBar)
    with Hub(registry.url, token=user[1]) as hub:
        hub.push(write_adapter(adapter, seed=8_120_311), f"{user[0]}/sql")  # bytes that no other test has sent
    assert '<progress value="0" max="' in shows[0]
    total = shows[-1].partition('max="')[2].partition('"')[0]
    assert f'<progress value="{total}" max="{total}"></progress> Pushing {user[0]}/sql: ' in shows[-1]
