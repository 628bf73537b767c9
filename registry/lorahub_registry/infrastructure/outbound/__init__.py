"""Calls of the registry to other hosts: off unless an operator names them, and nowhere else even then."""

from lorahub_registry.infrastructure.outbound.opener import Outbound, OutboundAnswer

__all__ = ["Outbound", "OutboundAnswer"]
