"""What all tables share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Double, Integer, MetaData, schema
from sqlalchemy.orm import DeclarativeBase

Key = BigInteger().with_variant(Integer, "sqlite")


class Table(DeclarativeBase):
    """What every table has: constraints named the same way on every database."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        dict[str, Any]: JSON,
        float: Double,
    }

    @classmethod
    def plain(cls) -> schema.Table:
        """The table itself, for statements that map no objects."""
        table = cls.__table__
        assert isinstance(table, schema.Table)  # noqa: S101  nothing here is mapped to a query
        return table
