"""Where journals, leases and inboxes live. A store never looks into a payload or an entry."""
