"""A model serving engine on Ray Serve. Start with the README, then `serving/README.md`."""

VERSION = "0.1.0"
