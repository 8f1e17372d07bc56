"""What talks to TAPIR Core: signed events over MQTT, signed histograms over HTTPS, and their certificates."""
