"""Values and entries to bytes and back; typed by the reader's annotation, never by the payload."""
