"""What a search finds, in which order, on which pages: both databases against a plain reading of the rules."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from lorahub.protocol.names import RepositoryName
from lorahub_registry.core.accounts import queries as accounts
from lorahub_registry.core.repositories import queries as repositories
from lorahub_registry.features.catalog import queries
from lorahub_registry.features.catalog.queries import Entry
from lorahub_registry.features.catalog.search import Search, Sort
from lorahub_registry.infrastructure.database import Database, Session, now
from lorahub_registry.infrastructure.database.migrate import upgrade
from services import production

SORTS: dict[Sort, str] = {
    "lastModified": "updated_at",
    "createdAt": "created_at",
    "downloads": "downloads",
    "likes": "likes",
    "trendingScore": "trending",
}
WORDS = ("sql", "text_to", "50%", "chat", "a*b", "x[y]", "Zürich", "q?", "back\\slash", "日本語のモデル")
TAGS = ("peft", "lora", "license:mit", "tag with spaces", "Ünïcode", 'quo"te', "base_model:acme/tiny", "a", "🦙")
LABELS = ("target:q_proj", "target:v_proj", "fits:vllm", "method:lora", "verdict:fits")
BASES = ("acme/Tiny", "acme/large", "o'neil/one")


@dataclass
class Model:
    """One repository as the reference knows it."""

    id: int
    name: str
    namespace_id: int
    is_private: bool
    gated: str | None
    entry: Entry
    sorted_by: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "sqlite":
        found = Database.in_folder(tmp_path_factory.mktemp("search"))
    else:
        found = Database(production.postgres().new_database())
    upgrade(found)
    yield found
    found.close()


def corpus(database: Database, dice: random.Random, size: int = 400) -> list[Model]:
    with database.write() as session:
        owners = [
            accounts.insert_account(session, name=name, key=name, kind="user", fullname="", is_admin=False)
            for name in ("ann", "bob", "cleo")
        ]
        return [_model(session, dice, dice.choice(owners), number) for number in range(size)]


def _model(session: Session, dice: random.Random, owner: accounts.Account, number: int) -> Model:
    """Many equal values, so that pages end between equals."""
    name = f"{dice.choice(WORDS)}-{dice.choice(WORDS).upper()}-{number}"
    is_private, gated = dice.random() < 0.2, dice.choice([None, None, None, "auto", "manual"])
    made = repositories.insert_repository(
        session, RepositoryName(owner.name, name), key=name, namespace_id=owner.id, is_private=is_private
    )
    ranks = sorted(dice.choices((4, 8, 16, 64), k=2)) if dice.random() < 0.8 else [None, None]
    terms = [f"tag:{tag}" for tag in dice.sample(TAGS, dice.randrange(5))]
    terms += dice.sample(LABELS, dice.randrange(4))
    terms += [f"base:{dice.choice(BASES).lower()}"] if ranks[0] else []
    entry = Entry(terms, ranks[0], ranks[1], dice.choice([None, 1, 10**6, 10**12]))
    queries.replace_entry(session, made.id, entry)
    hours = timedelta(hours=dice.randrange(6))
    values = {
        "created_at": now().replace(microsecond=0) - hours,
        "updated_at": made.updated_at.replace(microsecond=dice.choice([0, 1, 500_000])) - hours,
        "downloads": dice.choice([0, 0, 0, 1, 7]),
        "likes": dice.choice([0, 0, 3]),
        "trending": dice.choice([0.0, 0.1, 0.30000000000000004, 1e80]),
    }
    repositories.change_repository(session, made.id, gated=gated, **values)
    return Model(made.id, f"{owner.name}/{name}", owner.id, is_private, gated, entry, values)


def a_search(dice: random.Random) -> Search:
    def sometimes(value: Any, otherwise: Any = None) -> Any:
        return value if dice.random() < 0.25 else otherwise

    texts = [dice.choice([*WORDS, "-", "q", "/", "ann/", "%", "_", "*", "nowhere", "l-s"]).lower()]
    return Search(
        texts=tuple(sometimes(texts, ())),
        author=sometimes(dice.choice(["ann", "BOB", "nobody"])),
        tags=tuple(sometimes(dice.sample([*TAGS, "unknown"], dice.randrange(1, 3)), ())),
        is_gated=sometimes(dice.choice([True, False])),
        least_parameters=sometimes(dice.choice([0, 2, 10**12])),
        most_parameters=sometimes(dice.choice([1, 10**7])),
        base=sometimes(dice.choice(BASES)),
        labels=tuple(sometimes(dice.sample(LABELS, dice.randrange(1, 3)), ())),
        least_rank=sometimes(dice.choice([1, 8, 64])),
        most_rank=sometimes(dice.choice([4, 16, 999])),
        sort=dice.choice(list(SORTS)),
    )


def expected(models: list[Model], search: Search, visible: list[int] | None) -> list[int]:
    found = [model for model in models if _is_visible(model, visible) and _matches(model, search)]
    key = SORTS[search.sort]
    return [model.id for model in sorted(found, key=lambda model: (model.sorted_by[key], model.id), reverse=True)]


def _is_visible(model: Model, visible: list[int] | None) -> bool:
    return visible is None or not model.is_private or model.namespace_id in visible


def _matches(model: Model, search: Search) -> bool:
    entry, name = model.entry, model.name.lower()
    least, most, parameters = entry.least_rank, entry.most_rank, entry.parameters
    return all(
        (
            all(text in name for text in search.texts),
            search.author is None or model.name.startswith(f"{search.author.lower()}/"),
            all(f"tag:{tag}" in entry.terms for tag in search.tags),
            search.is_gated is None or search.is_gated == (model.gated is not None),
            search.least_parameters is None or (parameters is not None and parameters >= search.least_parameters),
            search.most_parameters is None or (parameters is not None and parameters <= search.most_parameters),
            search.base is None or f"base:{search.base.lower()}" in entry.terms,
            all(label in entry.terms for label in search.labels),
            search.least_rank is None or (most is not None and most >= search.least_rank),
            search.most_rank is None or (least is not None and least <= search.most_rank),
        )
    )


def paged(database: Database, search: Search, visible: list[int] | None, limit: int) -> list[int]:
    """All pages of it, one after the other."""
    found: list[int] = []
    after = None
    while True:
        with database.read() as session:
            page = queries.repositories_page(session, search, visible_namespaces=visible, after=after, limit=limit)
        if not page:
            return found
        found += [place.repository_id for place in page]
        after = page[-1]


def test_random_searches_find_what_the_rules_say(database: Database) -> None:
    dice = random.Random(5)
    models = corpus(database, dice)
    owners = sorted({model.namespace_id for model in models})
    found_any = 0
    for _ in range(300):
        search, visible = a_search(dice), dice.choice([None, [], owners[:1], owners])
        wanted = expected(models, search, visible)
        assert paged(database, search, visible, limit=dice.choice([7, 100])) == wanted, search
        found_any += bool(wanted)
    assert found_any > 100, "hardly a search found anything"


def test_an_entry_follows_its_repository(database: Database) -> None:
    """Renamed, rewritten and deleted: the full-text indexes forget what was, also where it goes by a cascade."""

    def found(**asked: Any) -> list[int]:
        return paged(database, Search(**asked), None, limit=10)

    dice = random.Random(7)
    [model] = corpus(database, dice, size=1)
    with database.write() as session:
        queries.replace_entry(session, model.id, Entry(["tag:before"], None, None, None))
    with database.write() as session:
        name = RepositoryName("ann", "renamed")
        repositories.rename_repository(session, model.id, name, key="renamed", namespace_id=model.namespace_id)
        queries.replace_entry(session, model.id, Entry(["tag:after"], None, None, None))
    assert (found(texts=("renamed",)), found(texts=(model.name.lower(),))) == ([model.id], [])
    assert (found(tags=("after",)), found(tags=("before",))) == ([model.id], [])
    with database.write() as session:
        repositories.delete_repository(session, model.id)
    assert (found(texts=("renamed",)), found(tags=("after",))) == ([], [])
