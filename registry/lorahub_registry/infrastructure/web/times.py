"""Times as messages have them, for what is no message."""

from lorahub.protocol.messages.message import wire_time

__all__ = ["wire_time"]
