"""What a command does from beginning to end: prepare, train or tune, finish, evaluate."""
