"""Who may enter: people, passwords, sessions, and what each role may call."""
