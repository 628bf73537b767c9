"""What each command's help shows at its end: the page that tells more, and how people call it."""

from collections.abc import Mapping
from dataclasses import dataclass

import click


@dataclass(frozen=True, slots=True)
class HelpEnding:
    page: str
    examples: tuple[str, ...]
    """Whole command lines, without the word lorahub."""


def _of(page: str, *examples: str) -> HelpEnding:
    return HelpEnding(page, examples)


_DIGEST = "9f2c81d4…"

SHOWN: Mapping[str, HelpEnding] = {
    "push": _of(
        "cli", "push ./out acme/sql --base hf:acme/llama-7b", 'push ./out acme/sql -m "more rows" --alias champion'
    ),
    "pull": _of("cli", "pull acme/sql@champion", "pull acme/sql@v3 ./sql --for llama.cpp"),
    "check": _of("ci", "check ./out --base hf:acme/llama-7b", "check acme/sql acme/chat --for vllm --fail-on warning"),
    "explain": _of("rules/README", "explain LH202", "explain"),
    "base add": _of("format", "base add hf:acme/llama-7b", "base add ./llama acme/llama-7b --headers-only"),
    "base info": _of("format", "base info acme/llama-7b", "base info ./llama"),
    "ci comment": _of("ci", "ci comment check.md", "ci comment check.md --name gate"),
    "base watch": _of("ci", "base watch hf:acme/llama-7b", "base watch acme/llama-7b --once"),
    "base ls": _of("format", "base ls", "base ls llama"),
    "info": _of("cli", "info acme/sql@v3", "info acme/sql --json"),
    "ls": _of("cli", "ls acme/sql", "ls acme/sql@v3"),
    "search": _of("catalog", "search sql --base acme/llama-7b", "search --rank 8..64 --fits vllm --sort downloads"),
    "alias ls": _of("cli", "alias ls acme/sql", "alias ls acme/sql --json"),
    "alias rm": _of("cli", "alias rm acme/sql old", "alias rm acme/sql canary"),
    "alias set": _of("cli", "alias set acme/sql@v3 champion", "alias set acme/sql@v4 champion --protect"),
    "yank": _of("cli", 'yank acme/sql@v2 --reason "wrong rows"', "yank acme/sql@v2 --undo"),
    "rm": _of("cli", "rm acme/scratch", "rm acme/scratch --yes"),
    "policy": _of("cli", "policy acme/sql refuse", "policy acme/sql warn"),
    "retention set": _of("operating", "retention set acme/sql --keep 10", "retention set acme/sql --all"),
    "repo create": _of("cli", "repo create acme/sql", "repo create acme/sql --private"),
    "repo ls": _of("cli", "repo ls", "repo ls acme --json"),
    "repo rename": _of("cli", "repo rename acme/sql acme/text-to-sql", "repo rename ada/sql acme/sql"),
    "repo visibility": _of("cli", "repo visibility acme/sql private", "repo visibility acme/sql public"),
    "repo delete": _of("cli", "repo delete acme/draft", "repo delete acme/draft --yes"),
    "org create": _of("cli", "org create acme", 'org create acme --fullname "Acme Research"'),
    "org ls": _of("cli", "org ls", "org ls --json"),
    "org members": _of("cli", "org members acme", "org members acme --json"),
    "org add": _of("cli", "org add acme ada", "org add acme ada --role admin"),
    "org remove": _of("cli", "org remove acme ada", "org remove acme bob"),
    "retention show": _of("operating", "retention show acme/sql", "retention show acme/sql --json"),
    "lock": _of("ci", "lock acme/sql@champion acme/chat@v2", "lock acme/sql --base acme/llama-7b"),
    "verify": _of("ci", "verify", "verify ./sql --key acme.pub"),
    "identify": _of("cli", "identify adapter_model.safetensors", "identify --json *.safetensors"),
    "merge": _of(
        "merging",
        "merge acme/llama-7b acme/sql@v3 -o ./merged",
        "merge acme/llama-7b acme/sql=0.7 acme/chat=0.3 --server acme/both",
    ),
    "merge-job": _of("merging", "merge-job 17 --wait", "merge-job 17 --cancel"),
    "combine": _of("merging", "combine acme/sql=0.7 acme/chat=0.3 -o ./both", "combine ./a ./b -o ./both --rank 16"),
    "extract": _of(
        "merging",
        "extract hf:acme/llama-7b ./tuned -o ./lora --rank 16",
        "extract ./llama ./tuned -o ./lora --rank 8 --name acme/llama-7b",
    ),
    "estimate": _of(
        "estimating", "estimate hf:acme/llama-7b --method lora --rank 8", "estimate gpt3-175b --targets q_proj,v_proj"
    ),
    "train": _of(
        "training",
        "train hf:acme/llama-7b rows.jsonl -o ./out",
        "train ./llama rows.jsonl -o ./out --rank 16 --push acme/sql",
    ),
    "eval": _of("evaluating", "eval acme/sql --data held-out.jsonl", "eval ./out --data held-out.jsonl --no-merged"),
    "chat": _of("serving", "chat acme/llama-7b --adapter sql=acme/sql", "chat ./llama --adapter a=./a --adapter b=./b"),
    "convert": _of(
        "cli", "convert acme/sql ./gguf --to gguf", "convert ./dora ./lora --to lora --rank 16 --base hf:acme/llama-7b"
    ),
    "import": _of(
        "trust", "import hf:someone/sql acme/sql --private", "import ./adapter_model.bin ./safe --unsafe-pickle"
    ),
    "trust add": _of(
        "trust",
        "trust add acme/sql --github acme/training --workflow publish.yml",
        "trust add acme/sql --gitlab acme/training --ref refs/heads/main",
    ),
    "trust ls": _of("trust", "trust ls acme/sql", "trust ls acme/sql --json"),
    "trust rm": _of("trust", "trust rm acme/sql 3", "trust rm acme/sql 4"),
    "watch": _of("events", "watch", "watch acme/sql --kind alias.moved --json"),
    "webhook add": _of(
        "events",
        "webhook add https://ci.acme.example/hook acme",
        "webhook add https://ci.acme.example/ base:acme/llama --kind base.*",
    ),
    "webhook log": _of("events", "webhook log 5a45891811c7a18b6233e274", "webhook log 5a45891811c7a18b6233e274 --json"),
    "webhook ls": _of("events", "webhook ls", "webhook ls --json"),
    "webhook pause": _of("events", "webhook pause 5a45891811c7a18b6233e274", "webhook pause 9c1de8a2b5c7d8e9f0a1b2c3"),
    "webhook replay": _of(
        "events", "webhook replay 5a45891811c7a18b6233e274 17", "webhook replay 5a45891811c7a18b6233e274 18"
    ),
    "webhook resume": _of(
        "events", "webhook resume 5a45891811c7a18b6233e274", "webhook resume 9c1de8a2b5c7d8e9f0a1b2c3"
    ),
    "webhook rm": _of("events", "webhook rm 5a45891811c7a18b6233e274", "webhook rm 9c1de8a2b5c7d8e9f0a1b2c3"),
    "webhook secret": _of(
        "events", "webhook secret 5a45891811c7a18b6233e274", "webhook secret 9c1de8a2b5c7d8e9f0a1b2c3"
    ),
    "webhook show": _of(
        "events", "webhook show 5a45891811c7a18b6233e274", "webhook show 5a45891811c7a18b6233e274 --json"
    ),
    "webhook test": _of("events", "webhook test 5a45891811c7a18b6233e274", "webhook test 9c1de8a2b5c7d8e9f0a1b2c3"),
    "mirror add": _of(
        "jobs",
        "mirror add acme hf:someone/sql",
        "mirror add acme a/sql@main=theirs --from https://hub.example",
    ),
    "mirror ls": _of("jobs", "mirror ls", "mirror ls --json"),
    "mirror pause": _of("jobs", "mirror pause 3", "mirror pause 4"),
    "mirror resume": _of("jobs", "mirror resume 3", "mirror resume 4"),
    "mirror rm": _of("jobs", "mirror rm 3", "mirror rm 4"),
    "mirror run": _of("jobs", "mirror run 3", "mirror run 4"),
    "mirror show": _of("jobs", "mirror show 3", "mirror show 3 --json"),
    "mirror token": _of("jobs", "mirror token 3 --hub-token-file token.txt", "mirror token 3 --hub-token-file -"),
    "export": _of(
        "bundles",
        "export acme/sql -o sql.lorahub",
        "export acme/sql acme/chat -o both.lorahub --sign key.pem",
    ),
    "import-bundle": _of("bundles", "import-bundle sql.lorahub --key acme.pub", "import-bundle sql.lorahub --unsigned"),
    "login": _of("cli", "login http://localhost:8000", "login --oidc acme/sql"),
    "logout": _of("cli", "logout", "logout http://localhost:8000"),
    "whoami": _of("cli", "whoami", "whoami --json"),
    "cache ls": _of("cli", "cache ls", "cache ls --json"),
    "cache prune": _of("cli", "cache prune", "cache prune --timeout 60"),
    "cache rm": _of("cli", "cache rm acme/sql", "cache rm --all --yes"),
    "schema": _of("settings-client", "schema lorahub.toml -o lorahub.schema.json", "schema lorahub-merge.yaml"),
    "config get": _of("settings-client", "config get endpoint", "config get timeout"),
    "config list": _of("settings-client", "config list", "config list --show-origin"),
    "config set": _of("settings-client", "config set endpoint http://localhost:8000", "config set progress plain"),
    "doctor": _of("cli", "doctor", "doctor --json"),
    "completion": _of("cli", "completion zsh", "completion --install"),
    "serve": _of("operating", "serve", "serve --home ./registry --port 9000"),
    "worker": _of("jobs", "worker", "worker --home ./registry --name two"),
    "admin audit export": _of("trust", "admin audit export", "admin audit export --since 2026-11-01"),
    "admin audit forget": _of(
        "trust", "admin audit forget --before 2026-01-01", "admin audit forget --before 2026-01-01 --json"
    ),
    "admin audit verify": _of("trust", "admin audit verify", f"admin audit verify --seal {_DIGEST}"),
    "admin backup": _of("backup", "admin backup /backups", "admin backup /mnt/copies"),
    "admin backups": _of("backup", "admin backups /backups", "admin backups /mnt/copies"),
    "admin block-hash": _of(
        "operating",
        f"admin block-hash {_DIGEST} --reason malware",
        f"admin block-hash {_DIGEST} --reason malware --json",
    ),
    "admin blocked": _of("operating", "admin blocked", "admin blocked --json"),
    "admin doctor": _of("operating", "admin doctor", "admin doctor --home ./registry"),
    "admin fsck": _of("operating", "admin fsck", "admin fsck --deep"),
    "admin gc": _of("operating", "admin gc --dry-run", "admin gc --grace-hours 48"),
    "admin jobs requeue": _of("jobs", "admin jobs requeue 17", "admin jobs requeue 18"),
    "admin migrate": _of("database", "admin migrate --check", "admin migrate --create-bucket"),
    "admin quarantine": _of(
        "operating", "admin quarantine acme/sql --reason review", "admin quarantine acme/sql --reason review --json"
    ),
    "admin quarantined": _of("operating", "admin quarantined", "admin quarantined --json"),
    "admin quota": _of("operating", "admin quota acme --bytes 50GB", "admin quota acme --repositories 100"),
    "admin recount-quotas": _of("operating", "admin recount-quotas", "admin recount-quotas --json"),
    "admin reindex": _of("database", "admin reindex", "admin reindex --home ./registry"),
    "admin restore": _of("backup", "admin restore /backups", "admin restore /backups --id 20261129T020000Z"),
    "admin scrub": _of("operating", "admin scrub", "admin scrub --bytes 10000000000"),
    "admin token": _of(
        "operating", "admin token ada --name laptop", "admin token ci --scope write --namespace acme --days 30"
    ),
    "admin unblock-hash": _of("operating", f"admin unblock-hash {_DIGEST}", f"admin unblock-hash {_DIGEST} --json"),
    "admin unquarantine": _of("operating", "admin unquarantine acme/sql", "admin unquarantine acme/sql --json"),
    "admin upstream add": _of(
        "how-to/upstreams",
        "admin upstream add hub https://huggingface.co --allow 'Qwen/*'",
        "admin upstream add lab https://hub.lab.example --allow '*' --private",
    ),
    "admin upstream check": _of(
        "how-to/upstreams",
        "admin upstream check hub Qwen/Qwen3-0.6B",
        "admin upstream check hub Qwen/Qwen3-0.6B --json",
    ),
    "admin upstream keep": _of(
        "how-to/upstreams", "admin upstream keep Qwen/Qwen3-0.6B", "admin upstream keep Qwen/Qwen3-0.6B --let-go"
    ),
    "admin upstream ls": _of("how-to/upstreams", "admin upstream ls", "admin upstream ls --json"),
    "admin upstream rm": _of("how-to/upstreams", "admin upstream rm hub", "admin upstream rm hub --json"),
    "admin upstream token": _of(
        "how-to/upstreams", "admin upstream token hub < token.txt", "admin upstream token hub --none"
    ),
    "admin user add": _of("operating", "admin user add ada", 'admin user add ada --fullname "Ada" --admin'),
    "admin user disable": _of("operating", "admin user disable ada", "admin user disable ada --undo"),
    "admin user ls": _of("operating", "admin user ls", "admin user ls --json"),
}


def show_examples(command: click.Command, path: str) -> click.Command:
    """The same command, with its examples at the end of its help; a group's commands too."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            show_examples(inner, f"{path} {name}")
    elif (shown := SHOWN.get(path)) is not None:
        lines = "\n".join(f"  lorahub {example}" for example in shown.examples)
        command.epilog = f"\b\nExamples:\n{lines}\n\nRead on: docs/{shown.page}.md"
    return command
