"""The embedded broker between the edges and ingest; it carries messages and keeps nothing that counts."""
