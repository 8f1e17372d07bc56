"""The connection to the MQTT broker and the publishing of events."""
