"""Settings of the client, each with where it came from:

flag › environment › project (lorahub.toml, or pyproject.toml's [tool.lorahub]) › user › /etc/lorahub › built-in

A project file is somebody else's word: it may name an endpoint, never a token.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorahub.errors import InvalidConfiguration
from lorahub.protocol.client_settings import SETTINGS, Setting

SYSTEM_FILE = Path("/etc/lorahub/config.toml")
PROJECT_FILE = "lorahub.toml"
TABLES = ("check", "environments")
"""What a project's file says beside settings; `project_checks` reads it."""
_WORDS = dict.fromkeys(("1", "yes", "on", "true"), "true") | dict.fromkeys(("0", "no", "off", "false"), "false")


@dataclass(frozen=True, slots=True)
class Value:
    setting: Setting
    text: str | None
    origin: str
    """`flag`, a variable, a file, or `built-in`."""
    is_from_project: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    values: Mapping[str, Value]

    def text(self, name: str) -> str:
        return self.values[name].text or ""

    def flag(self, name: str) -> bool:
        return self.text(name) == "true"

    def why_offline(self, *settings: str) -> str | None:
        """What forbids the network, by the first of these settings that does; None where it may be asked."""
        for value in (self.values[name] for name in ("offline", *settings)):
            if value.text == "true":
                return f"--{value.setting.name}" if value.origin == "flag" else value.origin
        return None

    @property
    def timeout(self) -> float:
        """Seconds."""
        try:
            return max(1.0, float(self.text("timeout")))
        except ValueError:
            raise InvalidConfiguration(f"timeout is {self.text('timeout')!r}; expected seconds") from None

    @property
    def cache_folder(self) -> Path:
        chosen = self.values["cache"].text
        return Path(chosen).expanduser() if chosen else _user_folder("cache")


def home() -> Path:
    """Where the client keeps tokens and its configuration: `$LORAHUB_HOME`, else the per-user folder."""
    chosen = os.environ.get("LORAHUB_HOME")
    return Path(chosen).expanduser() if chosen else _user_folder("config")


def _user_folder(kind: str) -> Path:
    if kind == "cache" and (chosen := os.environ.get("LORAHUB_HOME")):
        return Path(chosen).expanduser() / "cache"
    import platformdirs

    find = platformdirs.user_cache_dir if kind == "cache" else platformdirs.user_config_dir
    return Path(find("lorahub"))


def home_of_the_hub() -> Path:
    """Where the Hub's own clients keep tokens and what they fetched."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser()


def user_file() -> Path:
    return home() / "config.toml"


def load(flags: Mapping[str, str | None] | None = None) -> Configuration:
    """Raises `InvalidConfiguration` for a file that isn't TOML, an unknown key or a value that isn't one."""
    layers = list(_layers(flags or {}))
    return Configuration({name: _first(setting, layers) for name, setting in SETTINGS.items()})


@dataclass(frozen=True, slots=True)
class _Layer:
    values: Mapping[str, str]
    origins: Mapping[str, str]
    is_project: bool = False


def _layers(flags: Mapping[str, str | None]) -> Iterator[_Layer]:
    given = {name: text for name, text in flags.items() if text is not None}
    yield _Layer(given, dict.fromkeys(given, "flag"))
    set_here = {name: _variable(setting) for name, setting in SETTINGS.items()}
    origins = {name: variable for name, variable in set_here.items() if variable is not None}
    yield _Layer({name: _plain(name, os.environ[variable]) for name, variable in origins.items()}, origins)
    for path, table, is_project in _files():
        values = _read(path, table)
        yield _Layer(values, dict.fromkeys(values, str(path)), is_project)


def _variable(setting: Setting) -> str | None:
    """The one that is set."""
    return next((variable for variable in setting.variables if os.environ.get(variable)), None)


def _files() -> Iterator[tuple[Path, tuple[str, ...], bool]]:
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / PROJECT_FILE).is_file():
            yield folder / PROJECT_FILE, (), True
            break
        if (folder / "pyproject.toml").is_file() and _has_table(folder / "pyproject.toml"):
            yield folder / "pyproject.toml", ("tool", "lorahub"), True
            break
    for path in (user_file(), SYSTEM_FILE):
        if path.is_file():
            yield path, (), False


def _has_table(path: Path) -> bool:
    try:
        return b"[tool.lorahub" in path.read_bytes()
    except OSError:
        return False


def project() -> tuple[Path, Mapping[str, Any]] | None:
    """The project's file and all that it says to lorahub, tables too. Raises `InvalidConfiguration`."""
    return next(((path, _content(path, table)) for path, table, is_project in _files() if is_project), None)


def _content(path: Path, table: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        content: Any = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidConfiguration(f"can't read {path}: {error}", hint="mend or remove the file") from None
    for number, key in enumerate(table, 1):
        content = content.get(key, {})
        if not isinstance(content, dict):
            raise InvalidConfiguration(f"{path}: {'.'.join(table[:number])} is no table")
    return dict(content)


def _read(path: Path, table: tuple[str, ...]) -> dict[str, str]:
    content = _content(path, table)
    known = {}
    for key, value in content.items():
        if key not in TABLES and not isinstance(value, dict):
            if not isinstance(value, str | int | float):
                raise InvalidConfiguration(f"{path}: {key} is {str(value)[:80]}; expected text or a number")
            known[key] = _plain(key, value)
    if "token" in known:
        raise InvalidConfiguration(
            f"{path} has a token; tokens don't belong into configuration files",
            hint="remove it, revoke the token, and run: lorahub login",
        )
    for key in known:
        require_setting(key, origin=str(path))
    return known


def _plain(name: str, value: Any) -> str:
    text = str(value)
    is_switch = isinstance(value, bool) or (name in SETTINGS and SETTINGS[name].is_switch)
    return _WORDS.get(text.lower(), text) if is_switch else text


def require_setting(name: str, *, origin: str) -> Setting:
    """Raises `InvalidConfiguration` with the nearest names."""
    if name not in SETTINGS:
        import difflib

        near = difflib.get_close_matches(name, SETTINGS, n=3) or sorted(SETTINGS)
        raise InvalidConfiguration(f"{origin}: no setting is called {name!r}", hint=f"there are: {', '.join(near)}")
    return SETTINGS[name]


def _first(setting: Setting, layers: list[_Layer]) -> Value:
    for layer in layers:
        if setting.name in layer.values:
            text, origin = layer.values[setting.name], layer.origins[setting.name]
            check_value(setting, text, origin=origin)
            return Value(setting, text, origin, layer.is_project)
    return Value(setting, setting.built_in, "built-in")


def check_value(setting: Setting, text: str, *, origin: str) -> None:
    """Raises `InvalidConfiguration`."""
    if setting.choices and text not in setting.choices:
        raise InvalidConfiguration(
            f"{origin}: {setting.name} is {text!r}", hint=f"choose one of: {', '.join(setting.choices)}"
        )


def set_value(name: str, text: str) -> Path:
    """Writes one setting into the user's file, keeping its comments. Raises `InvalidConfiguration`."""
    import tomlkit

    check_value(require_setting(name, origin="config"), text, origin="config")
    path = user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    document = tomlkit.parse(path.read_text("utf-8")) if path.is_file() else tomlkit.document()
    document[name] = text
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(tomlkit.dumps(document), "utf-8")
    temporary.replace(path)
    return path
