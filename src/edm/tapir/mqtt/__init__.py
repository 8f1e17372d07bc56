"""MQTT: publishes the events of the backlog over one connection to the broker.

Chunks of events come in, signed PUBLISH packets go out, and acknowledgements come back. Change the protocol
in :mod:`~edm.tapir.mqtt.mqtt` and :mod:`~edm.tapir.mqtt.packets`, pace and order in
:mod:`~edm.tapir.mqtt.session`, reconnecting in :mod:`~edm.tapir.mqtt.publisher`.
"""
