"""Which settings the client has. Their variables begin as the registry's do: it has to know them to tell a typo from
what is meant for the client.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """A name is a key of the files, `LORAHUB_<NAME>` in the environment and a flag where the command line has one."""

    name: str
    built_in: str | None
    help: str
    choices: tuple[str, ...] = ()


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("endpoint", "http://127.0.0.1:8017", "address of the registry"),
        Setting("hf_endpoint", "https://huggingface.co", "address of the Hub that hf: means"),
        Setting("cache", None, "folder of pulled files (default: per user)"),
        Setting("offline", "false", "never ask the network", ("true", "false")),
        Setting("format", "human", "what commands print", ("human", "json", "quiet", "agent")),
        Setting("progress", "auto", "how progress is shown", ("auto", "bar", "plain", "json", "none")),
        Setting("color", "auto", "colour", ("auto", "always", "never")),
        Setting("timeout", "60", "seconds without an answer before giving up"),
        Setting("insecure", "false", "send tokens over http:// to other machines", ("true", "false")),
        Setting("debug", "false", "show tracebacks", ("true", "false")),
    )
}

VARIABLES = frozenset(
    {f"LORAHUB_{name.upper()}" for name in SETTINGS}
    | {"LORAHUB_HOME", "LORAHUB_TOKEN", "LORAHUB_ID_TOKEN"}  # what no file may say
)
