"""The cheapest question that proves a database."""

from sqlalchemy import text

from lorahub_registry.infrastructure.database import Session


def answers(session: Session) -> None:
    session.execute(text("SELECT 1"))
