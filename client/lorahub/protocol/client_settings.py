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
    of_the_hub: str | None = None
    """The variable by which the Hub's own clients know it; ours goes first."""

    @property
    def variables(self) -> tuple[str, ...]:
        own = f"LORAHUB_{self.name.upper()}"
        return (own,) if self.of_the_hub is None else (own, self.of_the_hub)

    @property
    def is_switch(self) -> bool:
        return self.choices == SWITCH


SWITCH = ("true", "false")

SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("endpoint", "http://127.0.0.1:8017", "address of the registry"),
        Setting("hf_endpoint", "https://huggingface.co", "address of the Hub that hf: means", of_the_hub="HF_ENDPOINT"),
        Setting("hf_offline", "false", "ask that Hub nothing", SWITCH, of_the_hub="HF_HUB_OFFLINE"),
        Setting("cache", None, "folder of pulled files (default: per user)"),
        Setting("offline", "false", "ask no network; use what was read before", SWITCH),
        Setting("format", "human", "what commands print", ("human", "json", "quiet", "agent")),
        Setting("progress", "auto", "how progress is shown", ("auto", "bar", "plain", "json", "none")),
        Setting("color", "auto", "colour", ("auto", "always", "never")),
        Setting("timeout", "60", "seconds without an answer before giving up"),
        Setting("insecure", "false", "send tokens over http:// to other machines", SWITCH),
        Setting("debug", "false", "show tracebacks", SWITCH),
    )
}

VARIABLES = frozenset(
    {f"LORAHUB_{name.upper()}" for name in SETTINGS}
    | {"LORAHUB_HOME", "LORAHUB_TOKEN", "LORAHUB_ID_TOKEN"}  # what no file may say
)
