"""Codecs without I/O and the link sessions (serial, MQTT) that carry them."""
