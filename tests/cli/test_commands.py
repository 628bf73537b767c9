"""The command line as people and scripts use it, against a real registry."""

import io
import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import pytest
from builders import weights_of_size, write_adapter
from registry_process import LORAHUB, Registry


class Cli:
    """`lorahub` with a home of its own, logged in or not."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self.home = home
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LORAHUB_", "HF_"))},
            "LORAHUB_HOME": str(home),
            "LORAHUB_ENDPOINT": endpoint,
            "HOME": str(home),
        }

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [LORAHUB, *arguments],
            env={**self.environment, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.home,
            timeout=120,
        )
        assert "Traceback" not in result.stderr, result.stderr
        return result

    def json(self, *arguments: str, code: int = 0, **environment: str) -> Any:
        """The one document on standard output, after checking its frame."""
        result = self.run("--json", *arguments, **environment)
        assert result.returncode == code, result.stderr
        document = json.loads(result.stdout)
        assert result.stdout.count("\n") == 1
        assert document["exit_code"] == code
        assert document["ok"] == (code == 0)
        assert document["schema"].startswith("lorahub.")
        assert document["schema"].endswith("/v1")
        return document["result"] if code == 0 else document["error"]


@pytest.fixture
def cli(registry: Registry, user: tuple[str, str], tmp_path: Path) -> Cli:
    """Logged in as a user of this test's own."""
    home = tmp_path / "home"
    home.mkdir()
    made = Cli(home, registry.url)
    result = made.run("login", registry.url, "--token-file", "-", stdin=user[1])
    assert result.returncode == 0, result.stderr
    return made


@pytest.fixture
def repo(user: tuple[str, str]) -> str:
    return f"{user[0]}/adapter"


def cpu_seconds(command: list[str]) -> float:
    """Of the process: whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_help_is_quick_and_imports_no_heavy_library() -> None:
    program = (
        "import sys\n"
        "from lorahub.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'rich', 'httpx2', 'fastapi', 'sqlalchemy', 'yaml', 'tomlkit', 'platformdirs'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    best = min(cpu_seconds([LORAHUB, "--help"]) for _ in range(5))
    assert best < 2 * 0.15, "over twice the budget of processor time"


def test_every_command_has_help_of_its_own() -> None:
    from lorahub.cli.main import COMMANDS, main

    for name in COMMANDS:
        with redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
            main([name, "-h"])
        assert ended.value.code == 0, name
        assert f"lorahub {name}" in said.getvalue()


def every_command() -> dict[str, click.Command]:
    from lorahub.cli.main import COMMANDS, cli, leaves

    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        found.update(leaves(command, name))
    return found


def test_every_command_shows_two_examples_that_it_takes_and_a_page_that_is_there() -> None:
    from lorahub.cli.examples import SHOWN

    commands = every_command()
    assert commands.keys() == SHOWN.keys()
    for path, shown in SHOWN.items():
        assert len(set(shown.examples)) >= 2, path
        assert (Path(__file__).parents[2] / f"docs/{shown.page}.md").is_file(), path
        for example in shown.examples:
            words = shlex.split(example.partition(" < ")[0])
            assert words[: len(path.split())] == path.split()
            takes_files = any(isinstance(one.type, click.Path) and one.type.exists for one in commands[path].params)
            if not takes_files:
                commands[path].make_context(path, words[len(path.split()) :])


SAYS_SOMETHING_ELSE = {
    "serve": "a line when it listens, for what started it",
    "worker": "nothing",
    "admin audit export": "an event a line",
}


def test_every_command_prints_one_json_document_when_it_is_asked() -> None:
    for path, command in every_command().items():
        if path not in SAYS_SOMETHING_ELSE:
            assert "--json" in [word for option in command.params for word in option.opts], path


def test_documents_of_the_client_and_of_an_operator_have_one_shape(
    cli: Cli, folder_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorahub.cli.main import main

    monkeypatch.setenv("LORAHUB_HOME", str(cli.home))

    def said(*words: str) -> dict[str, Any]:
        with redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
            main(words)
        document: dict[str, Any] = json.loads(printed.getvalue())
        assert document["exit_code"] == ended.value.code
        assert document["ok"] == (ended.value.code == 0)
        return document

    home = ("--home", str(folder_registry.home))
    documents = {
        "config.list": said("config", "list", "--json"),
        "admin.user.ls": said("admin", "user", "ls", *home, "--json"),
        "admin.fsck": said("--json", "admin", "fsck", *home),
        "admin.jobs": said("admin", "jobs", *home, "--json"),
        "alias.ls": said("--endpoint", "http://127.0.0.1:9", "alias", "ls", "nothing", "--json"),
        "admin.token": said("admin", "token", "nobody", "--name", "x", *home, "--json"),
    }
    assert {name: document["schema"] for name, document in documents.items()} == {
        name: f"lorahub.{name}/v1" for name in documents
    }
    assert len({tuple(document) for document in documents.values()}) == 1
    failed = {name for name, document in documents.items() if document["error"] is not None}
    assert failed == {"alias.ls", "admin.token"}


def test_no_option_of_a_command_has_the_name_of_a_global_one() -> None:
    """The later of two that share a name would take the other's value."""
    for path, command in every_command().items():
        names = [parameter.name for parameter in command.params]
        assert len(names) == len(set(names)), path


def test_help_fits_a_terminal_of_80_columns() -> None:
    for path, command in every_command().items():
        context = click.Context(command, info_name=f"lorahub {path}", max_content_width=80, terminal_width=80)
        long = [line for line in command.get_help(context).splitlines() if len(line) > 80]
        assert not long, f"{path}: {long}"


def test_a_group_alone_shows_its_help_and_is_no_error() -> None:
    from lorahub.cli.main import main

    for words, said in (([], "Publish and fetch:"), (["base"], "lorahub base [OPTIONS] COMMAND")):
        with redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert said in printed.getvalue()


def test_push_and_pull_keep_every_byte(cli: Cli, repo: str, adapter: Path, tmp_path: Path) -> None:
    pushed = cli.json("push", str(adapter), repo, "--alias", "champion", "-m", "first")
    assert (pushed["version"], pushed["created"]) == ("v1", True)
    assert set(pushed["aliases"]) == {"latest", "champion"}
    again = cli.json("push", str(adapter), repo)
    assert (again["version"], again["created"], again["commit"]) == ("v1", False, pushed["commit"])
    expected = {path.name: path.read_bytes() for path in adapter.iterdir()}
    assert "lorahub.json" not in expected, "what is composed for a push stays out of the folder"
    for number, revision in enumerate(["", "@v1", "@champion", f"@{pushed['digest']}", f"@{pushed['commit'][:10]}"]):
        target = tmp_path / f"pulled{number}"
        pulled = cli.json("pull", f"{repo}{revision}", str(target))
        assert pulled["digest"] == pushed["digest"]
        got = {path.name: path.read_bytes() for path in target.iterdir()}
        assert json.loads(got.pop("lorahub.json"))["adapter"]["rank"] == 4
        assert got == expected
    cached = cli.run("-q", "pull", repo).stdout.strip()
    assert (Path(cached) / "README.md").read_bytes() == expected["README.md"]


def test_a_second_version_moves_latest_and_a_yank_moves_it_back(cli: Cli, repo: str, adapter: Path) -> None:
    cli.json("push", str(adapter), repo)
    write_adapter(adapter, seed=1)
    cli.json("push", str(adapter), repo)
    assert cli.json("info", repo)["version"] == "v2"
    assert [row["name"] for row in cli.json("ls", repo)] == ["v2", "v1"]
    asked = cli.run("yank", f"{repo}@v2", "--reason", "overfit")
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    cli.json("yank", f"{repo}@v2", "--reason", "overfit", "--yes")
    assert cli.json("info", repo)["version"] == "v1"
    exact = cli.run("pull", f"{repo}@v2")
    assert exact.returncode == 0
    assert "was yanked" in exact.stderr
    cli.json("yank", f"{repo}@v2", "--undo")
    assert "was yanked" not in cli.run("pull", f"{repo}@v2").stderr


def test_aliases_are_made_protected_listed_and_removed(cli: Cli, repo: str, adapter: Path) -> None:
    cli.json("push", str(adapter), repo, "--no-latest")
    assert cli.json("alias", "set", f"{repo}@v1", "prod", "--protect")["protected"] is True
    assert [row["name"] for row in cli.json("alias", "ls", repo)] == ["prod"]
    cli.json("alias", "rm", repo, "prod")
    assert cli.json("alias", "ls", repo) == []
    missing = cli.json("pull", repo, code=5)
    assert missing["code"] == "RevisionNotFound"
    assert "v1" in missing["hint"], "the error does not say what there is"


def test_a_pushed_folder_leaves_its_secrets_at_home(cli: Cli, repo: str, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("secret")
    (adapter / "link.json").symlink_to(tmp_path / "id_rsa")
    for name in (".env", ".netrc", "server.key", "id_rsa", "training_args.bin", "optimizer.pt", "core.dump"):
        (adapter / name).write_text("secret")
    (adapter / ".git").mkdir()
    (adapter / ".git" / "config").write_text("secret")
    expected = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    listed = cli.json("push", str(adapter), repo, "--dry-run")
    assert {file["path"] for file in listed["files"]} == expected
    assert cli.json("search", "--author", repo.split("/", maxsplit=1)[0]) == [], "a dry run made a repository"
    pushed = cli.json("push", str(adapter), repo)
    assert {file["path"] for file in cli.json("info", repo)["files"]} == expected | {"lorahub.json"}
    left = {one["path"]: one["why"] for one in pushed["left"]}
    assert left.keys() >= {"link.json", ".env", "server.key"}
    by_product = "a by-product of training; nothing that loads an adapter reads it"
    assert (left["optimizer.pt"], left["training_args.bin"]) == (by_product, by_product)


def test_search_finds_by_name_base_and_tag(cli: Cli, repo: str, adapter: Path) -> None:
    write_adapter(adapter, base="acme/base-of-search")
    cli.json("push", str(adapter), repo)
    author = ("--author", repo.split("/", maxsplit=1)[0])
    assert [row["id"] for row in cli.json("search", "adapt", *author)] == [repo]
    assert [row["id"] for row in cli.json("search", "--base", "acme/base-of-search")] == [repo]
    assert [row["id"] for row in cli.json("search", "--tag", "lora", *author)] == [repo]
    assert cli.json("search", "no-such-thing-at-all", *author) == []
    assert cli.run("search", "no-such-thing-at-all", *author).stdout == "nothing matches\n"


def test_search_shows_what_was_measured(cli: Cli, repo: str, adapter: Path, tmp_path: Path) -> None:
    write_adapter(adapter, base="acme/base-of-columns", rank=8)
    cli.json("push", str(adapter), repo)
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "notes.txt").write_text("no adapter")
    cli.json("push", str(plain), f"{repo}-notes")
    author = ("--author", repo.split("/", maxsplit=1)[0])
    found = {row["id"]: row["adapter"] for row in cli.json("search", *author)}
    measured = {"base": "acme/base-of-columns", "method": "lora", "ranks": [8], "verdict": "undecided"}
    assert found == {repo: measured, f"{repo}-notes": None}
    header, *rows = cli.run("search", *author).stdout.splitlines()
    assert header.split() == ["repository", "base", "rank", "verdict", "downloads", "updated"]
    assert [repo, "acme/base-of-columns", "8", "undecided"] in [row.split()[:4] for row in rows]


def test_repositories_are_made_listed_renamed_hidden_and_deleted(cli: Cli, repo: str, adapter: Path) -> None:
    assert cli.json("repo", "ls") == []
    assert cli.json("repo", "create", repo, "--private")["visibility"] == "private"
    assert cli.json("repo", "create", repo, code=6)["code"] == "AlreadyExists"
    cli.json("push", str(adapter), repo)
    cli.json("repo", "visibility", repo, "public")
    assert cli.json("repo", "rename", repo, f"{repo}-2") == {"repository": f"{repo}-2", "before": repo}
    assert [(row["id"], row["visibility"]) for row in cli.json("repo", "ls")] == [(f"{repo}-2", "public")]
    assert cli.json("info", repo)["version"] == "v1", "the old name leads nowhere"
    assert cli.run("repo", "delete", f"{repo}-2").returncode == 2
    cli.json("repo", "delete", f"{repo}-2", "--yes")
    assert cli.json("repo", "ls") == []


def test_an_organisation_has_members(cli: Cli, user: tuple[str, str], new_user: Callable[[], tuple[str, str]]) -> None:
    name, other = f"{user[0]}-lab", new_user()[0]
    assert cli.json("org", "ls") == []
    cli.json("org", "create", name, "--fullname", "A lab")
    assert cli.json("org", "ls") == [{"name": name, "role": "admin"}]
    assert cli.json("org", "add", name, other, "--role", "read")["role"] == "read"
    cli.json("org", "add", name, other)
    assert {row["user"]: row["role"] for row in cli.json("org", "members", name)} == {user[0]: "admin", other: "write"}
    cli.json("org", "remove", name, other)
    assert cli.json("org", "remove", name, user[0], code=6)["message"]
    assert [row["user"] for row in cli.json("org", "members", name)] == [user[0]]


def test_what_was_meant_as_a_path_is_told_so(cli: Cli) -> None:
    """`out` alone can only be a path; `some/where` may be one."""
    for command in (("merge", "out", "./a", "-o", "x"), ("convert", "out", "x", "--to", "gguf")):
        said = cli.json(*command, code=2)
        assert said["message"] == "there is no file or folder out here, and it is no reference either"

    def hint_of(reference: str) -> str:
        [row] = json.loads(cli.run("--json", "check", reference).stdout)["result"]["checks"]
        return str(row["findings"][0]["hint"])

    assert hint_of("some/where").endswith("no folder is called some/where here either")
    assert "folder" not in hint_of("lorahub:some/where")


def test_https_on_a_plain_port_is_told_so(cli: Cli, registry: Registry) -> None:
    said = cli.json("--endpoint", registry.url.replace("http", "https"), "search", code=8)
    assert said["message"] == f"{registry.url.replace('http', 'https')} speaks no TLS"
    assert registry.url in said["hint"]


def test_the_cache_is_listed_and_cleared(cli: Cli, repo: str, adapter: Path) -> None:
    assert cli.json("cache", "ls") == []
    cli.json("push", str(adapter), repo)
    path = Path(cli.json("pull", repo)["path"])
    assert [row["repository"] for row in cli.json("cache", "ls")] == [repo]
    assert cli.json("cache", "prune")["files"] == 0
    assert cli.run("cache", "rm", repo).returncode == 2
    assert cli.json("cache", "rm", repo, "--yes")["bytes"] > 0
    assert not path.exists()


def test_rm_deletes_for_ever_and_asks_first(cli: Cli, repo: str, adapter: Path) -> None:
    cli.json("push", str(adapter), repo)
    assert cli.run("rm", repo).returncode == 2
    assert cli.run("rm", f"{repo}@v1", "--yes").returncode == 2
    cli.json("rm", repo, "--yes")
    assert cli.json("info", repo, code=5)["code"] == "RepoNotFound"
    assert cli.json("push", str(adapter), repo, code=6)["code"] == "NameRetired"


def test_formats_say_the_same_in_their_ways(cli: Cli, repo: str, adapter: Path) -> None:
    cli.json("push", str(adapter), repo)
    assert cli.run("ls", repo, "-q").stdout == "v1\n"
    assert cli.run("--format", "agent", "ls", repo).stdout.split("\t")[0] == "v1"
    assert "version" in cli.run("ls", repo).stdout
    assert json.loads(cli.run("ls", repo, LORAHUB_FORMAT="json").stdout)["result"][0]["name"] == "v1"
    alias = ("alias", "set", f"{repo}@v1", "x")
    assert "\033[" not in cli.run(*alias).stdout
    assert "\033[" in cli.run(*alias, "--color", "always").stdout


def test_login_checks_the_token_and_keeps_it_for_its_host_only(registry: Registry, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    cli = Cli(home, registry.url)
    assert cli.json("whoami", code=4)["code"] == "NotAuthenticated"
    typo = cli.run("login", registry.url, "--token-file", "-", stdin=registry.token[:-1] + "!")
    assert typo.returncode == 4
    assert "checksum" in typo.stderr
    assert not (home / "tokens.toml").exists()
    assert cli.run("login", registry.url, "--token-file", "-", stdin=registry.token).returncode == 0
    assert oct((home / "tokens.toml").stat().st_mode & 0o777) == "0o600"
    assert cli.json("whoami")["user"] == registry.admin
    assert cli.run("--token", registry.token, "whoami").returncode == 2, "tokens on command lines end in histories"
    doctor = cli.run("doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert registry.token not in doctor.stdout + doctor.stderr
    cli.json("logout")
    assert cli.json("whoami", code=4)["code"] == "NotAuthenticated"


def test_settings_come_from_the_nearest_place_that_has_them(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "lorahub.toml").write_text('endpoint = "http://127.0.0.1:1"\nprogress = "none"\n')
    environment = {name: value for name, value in cli.environment.items() if name != "LORAHUB_ENDPOINT"}

    def in_project(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LORAHUB, *arguments],
            env={**environment, **variables},
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
        )

    def origin(name: str, *flags: str, **variables: str) -> tuple[str, str]:
        value = json.loads(in_project("--json", *flags, "config", "list", **variables).stdout)["result"][name]
        return value["value"], value["origin"]

    assert origin("endpoint") == ("http://127.0.0.1:1", str(project / "lorahub.toml"))
    assert origin("endpoint", LORAHUB_ENDPOINT="http://a") == ("http://a", "LORAHUB_ENDPOINT")
    assert origin("endpoint", "--endpoint", "http://b", LORAHUB_ENDPOINT="http://a") == ("http://b", "flag")
    cli.json("config", "set", "timeout", "7")
    assert origin("timeout") == ("7", str(cli.home / "config.toml"))
    assert origin("color") == ("auto", "built-in")
    refused = in_project("whoami", LORAHUB_TOKEN=registry.token)
    assert refused.returncode == 4
    assert "is not sent to an address that a file chose" in refused.stderr
    (project / "lorahub.toml").write_text(f'token = "{registry.token}"\n')
    secret = in_project("whoami")
    assert secret.returncode == 2
    assert registry.token not in secret.stderr


def test_completion_is_printed_and_installed_once(cli: Cli) -> None:
    assert "_LORAHUB_COMPLETE" in cli.run("completion", "bash").stdout
    for _ in range(2):
        assert cli.run("completion", "zsh", "--install").returncode == 0
    assert (cli.home / ".zshrc").read_text().count("lorahub completion zsh") == 1
    words = cli.run(_LORAHUB_COMPLETE="bash_complete", COMP_WORDS="lorahub pu", COMP_CWORD="1").stdout
    assert {line.split(",")[1] for line in words.splitlines()} == {"push", "pull"}


def test_what_was_read_before_is_completed_and_the_network_is_not_asked(cli: Cli, repo: str, adapter: Path) -> None:
    cli.json("push", str(adapter), repo, "--alias", "champion")
    for revision in ("v1", "champion"):
        cli.json("pull", f"{repo}@{revision}")
    environment = {**cli.environment, "LORAHUB_CACHE": str(cli.home / "cache")}

    def completed(*words: str) -> set[str]:
        """As the shell's function asks: each line is a kind and a value."""
        asked = {"_LORAHUB_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run([LORAHUB], env={**environment, **asked}, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return {line.partition(",")[2] for line in done.stdout.splitlines() if line.startswith("plain")}

    cli.environment["LORAHUB_OFFLINE"] = "true"
    namespace = repo.partition("/")[0]
    assert completed("lorahub", "pull", namespace) == {repo}
    assert completed("lorahub", "check", "./out", f"{repo}@") == {f"{repo}@v1", f"{repo}@champion"}
    assert completed("lorahub", "info", f"{repo}@c") == {f"{repo}@champion"}
    assert completed("lorahub", "pull", "hf:") == set()
    assert completed("lorahub", "explain", "lh20") >= {"LH202", "LH203"}
    assert completed("lorahub", "config", "set", "pro") == {"progress"}
    assert completed("lorahub", "config", "set", "progress", "") == {"auto", "bar", "plain", "json", "none"}
    assert "COMP_WORDBREAKS" in cli.run("completion", "bash").stdout


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("push", "{adapter}", "a/b"),
    ("push", "{adapter}", "a/b", "--dry-run"),
    ("pull", "a/b"),
    ("info", "a/b"),
    ("ls", "a/b"),
    ("ls", "a/b@v1"),
    ("search", "x"),
    ("alias", "set", "a/b@v1", "x"),
    ("alias", "rm", "a/b", "x"),
    ("alias", "ls", "a/b"),
    ("yank", "a/b@v1", "--reason", "x", "--yes"),
    ("rm", "a/b", "--yes"),
    ("whoami",),
    ("doctor",),
)


def test_a_registry_that_is_down_is_said_in_a_sentence(tmp_path: Path, adapter: Path) -> None:
    cli = Cli(tmp_path, "http://127.0.0.1:9")
    filled = [[argument.format(adapter=adapter) for argument in arguments] for arguments in COMMANDS]
    with ThreadPoolExecutor(len(filled)) as pool:  # each waits between its tries
        results = pool.map(lambda arguments: cli.run("--json", *arguments), filled)
    for arguments, result in zip(COMMANDS, results, strict=True):
        assert result.returncode == 8, f"{arguments}: {result.stderr}"
        document = json.loads(result.stdout)
        if arguments == ("doctor",):
            assert [check["name"] for check in document["result"]["checks"] if not check["ok"]] == ["registry"]
        else:
            assert document["error"]["code"] == "RegistryUnreachable", arguments
            assert document["error"]["retryable"] is True, arguments


@pytest.mark.parametrize("arguments", [c for c in COMMANDS if c[0] != "doctor"], ids=" ".join)
def test_a_wrong_token_is_said_in_a_sentence(
    registry: Registry, tmp_path: Path, adapter: Path, arguments: tuple[str, ...]
) -> None:
    cli = Cli(tmp_path, registry.url)
    filled = [argument.format(adapter=adapter) for argument in arguments]
    error = cli.json(*filled, code=4, LORAHUB_TOKEN="lh_" + "x" * 46)
    assert error["code"] == "InvalidToken"
    assert error["hint"]
    assert error["request_id"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("pull",), 2),
        (("pull", "not a reference"), 2),
        (("pull", "./folder"), 2),
        (("push", "/no/such/folder", "a/b"), 2),
        (("nonsense",), 2),
        (("pull", "a/b", "--nonsense"), 2),
        (("config", "get", "nonsense"), 2),
        (("config", "set", "format", "nonsense"), 2),
        (("cache", "rm"), 2),
        (("yank", "a/b@v1"), 2),
        (("pull", "nobody/nothing"), 5),
    ],
    ids=str,
)
def test_a_wrong_command_is_said_in_a_sentence(cli: Cli, arguments: tuple[str, ...], code: int) -> None:
    error = cli.json(*arguments, code=code)
    assert error["message"]
    assert error["hint"]


def test_a_full_disk_keeps_what_was_there(cli: Cli, repo: str, adapter: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the same refusal by the system, without filling one."""
    (adapter / "big.safetensors").write_bytes(weights_of_size(3_000_000))
    cli.json("push", str(adapter), repo)
    target = tmp_path / "target"
    command = f"ulimit -f 1000; exec {LORAHUB} --json pull {repo} {target}"
    full = subprocess.run(["bash", "-c", command], env=cli.environment, capture_output=True, text=True, check=False)
    assert full.returncode == 8, full.stderr
    assert json.loads(full.stdout)["error"]["code"] == "DiskFull"
    assert "Traceback" not in full.stderr
    assert not target.exists(), "a file got its name although the pull failed"
    cli.json("pull", repo, str(target))
    assert (target / "big.safetensors").stat().st_size == 3_000_000


@pytest.mark.parametrize(
    "arguments",
    [
        ("login", "{url}", "--token-file", "{token}"),
        ("config", "set", "timeout", "7"),
        ("completion", "zsh", "--install"),
    ],
    ids=" ".join,
)
def test_a_full_disk_is_said_in_a_sentence(registry: Registry, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "token").write_text(registry.token)
    cli = Cli(tmp_path, registry.url)
    filled = [argument.format(url=registry.url, token=tmp_path / "token") for argument in arguments]
    command = ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", LORAHUB, "--json", *filled]
    read, write = os.pipe()  # standard output is no file, so the limit leaves it alone
    process = subprocess.Popen(command, env=cli.environment, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    _, stderr = process.communicate(timeout=30)
    with os.fdopen(read) as stdout:
        document = json.loads(stdout.read())
    assert process.returncode == 8, stderr
    assert document["error"]["code"] == "DiskFull"
    assert "Traceback" not in stderr
    assert not (tmp_path / "tokens.toml").exists()


def test_a_full_disk_of_the_registry_is_said_and_survived(
    folder_registry: Registry, adapter: Path, tmp_path: Path
) -> None:
    """Of a folder: how full a bucket is, only its server knows."""
    folder_registry.stop()
    folder_registry.start(largest_file_kb=6000)
    cli = Cli(tmp_path, folder_registry.url)
    (adapter / "big.safetensors").write_bytes(weights_of_size(20_000_000))
    error = cli.json("push", str(adapter), "owner/full", code=8, LORAHUB_TOKEN=folder_registry.token)
    assert error["code"] == "DiskFull"
    (adapter / "big.safetensors").unlink()
    assert cli.json("push", str(adapter), "owner/full", LORAHUB_TOKEN=folder_registry.token)["version"] == "v1"
    folder_registry.assert_sound()


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_ctrl_c_is_an_exit_status_and_a_sentence(cli: Cli, adapter: Path, arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [LORAHUB, "--json", *[argument.format(adapter=adapter) for argument in arguments]],
            env={**cli.environment, "LORAHUB_ENDPOINT": address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
        connection.close()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert json.loads(stdout)["error"]["code"] == "Interrupted"


def test_the_python_sdk_does_what_the_command_line_does(
    registry: Registry,
    new_user: Callable[[], tuple[str, str]],
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lorahub import Hub

    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    name, token = new_user()
    with Hub(registry.url, token=token) as hub:
        pushed = hub.push(adapter, f"{name}/sdk", aliases=["champion"])
        assert (pushed.version, pushed.created) == ("v1", True)
        pulled = hub.pull(f"{name}/sdk@champion", tmp_path / "pulled", include=["*.json"])
        assert sorted(path.name for path in pulled.path.iterdir()) == ["adapter_config.json", "lorahub.json"]
        assert [model.id for model in hub.search(author=name)] == [f"{name}/sdk"]
        assert hub.yank(f"{name}/sdk@v1", "a test").yanked is not None
