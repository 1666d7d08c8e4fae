"""The MQTT adapter: `Publisher` drains the outbox and keeps the retained states."""

from dmimad.adapters.mqtt.link import BrokerSettings
from dmimad.adapters.mqtt.publisher import OutboxPort, Publisher, Timing

__all__ = ["BrokerSettings", "OutboxPort", "Publisher", "Timing"]
