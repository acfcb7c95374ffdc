"""The steps of each command: prepare, train or tune, finish, evaluate; or submission to another cluster."""
