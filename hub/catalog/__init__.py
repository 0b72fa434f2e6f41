"""What exists: workshops, their kits, the edges that read them, and accounts of equipment that speaks MQTT itself."""
