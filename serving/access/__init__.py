"""Access: who may do what. Values and checks that the gateways and the controller share; times are passed in.

identity.py    Role, Grant, Identity: who somebody is, and for which models
credential.py  what a request carries: a bearer token, an API key, a password
key.py         API keys: made once, kept as hashes
settings.py    what the YAML says; AccessRules: what a gateway is told
token.py       JSON Web Tokens, checked against a key set in a file
door.py        Door: from a request's headers to an Identity
"""
