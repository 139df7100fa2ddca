"""The replica: a process that holds loaded versions and answers frames."""
