"""The load tester: sends requests to any server of the V2 protocol, measures, reports and compares."""
