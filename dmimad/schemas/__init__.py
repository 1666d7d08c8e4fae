"""What dmimad publishes over MQTT, for machines: JSON Schemas of its messages and an AsyncAPI 3 document.

Data alone; ``docs/mqtt.md`` says the same in words, and the tests hold what is published to it.  Nothing
in dmimad reads them.
"""
